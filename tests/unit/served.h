/*
 * A machine over the fake hypervisor that runs, its directory and its control socket, for unit
 * tests; and what a client of that sends and is answered. All on one thread: whoever awaits an
 * answer turns the machine's loop meanwhile. Setting up and expecting asserts (cmocka).
 */
#ifndef WISP_TESTS_SERVED_H
#define WISP_TESTS_SERVED_H

#include "vmm/control/control.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/run_dir.h"

struct served {
	struct machine_config config;
	struct machine *machine;
	struct control *control;
	struct run_dir dir;
	char root[64]; /* the directory that @dir is in */
};

/* A machine "box" with 64 MiB and no devices, that runs. */
void served_create(struct served *s);

/* It ends as one that was asked to, and with it its requests. */
void served_destroy(struct served *s);

/* What is left of one that has ended, and whose control was freed. */
void served_free(struct served *s);

/* A connection to its control socket, which is the caller's. */
int served_client(struct served *s);

/* The next message for the client @sock, the caller's to free; NULL: it was hung up on. */
json_t *served_answer(struct served *s, int sock);

/* Send the @len bytes of @p, or a string, from @sock, and await the answer. */
json_t *served_ask_bytes(struct served *s, int sock, const void *p, size_t len);
json_t *served_ask(struct served *s, int sock, const char *text);

/* What an answer says; each frees it. */
void expect_ok(json_t *reply);
void expect_error(json_t *reply, int code);
void expect_state(json_t *reply, const char *state);

/* The next message for @sock says that @event came. */
void expect_event(struct served *s, int sock, const char *event);

#endif
