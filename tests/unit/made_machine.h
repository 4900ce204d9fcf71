/*
 * A whole machine over the fake hypervisor, paused, with a disk, persistent memory and a network;
 * and others made of what it was saved as. Setting up asserts (cmocka) that each step succeeds.
 */
#ifndef WISP_TESTS_MADE_MACHINE_H
#define WISP_TESTS_MADE_MACHINE_H

#include "vmm/core/clock.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"

#define DISK_BYTES (1 * MiB)

/* What a machine is made on, and what its user allows. */
struct made_host {
	const char *disk_id; /* NULL: "root" */
	uint64_t disk_bytes; /* 0: DISK_BYTES */
	uint64_t tsc_khz;    /* 0: nobody says */
	bool tsc_scales, changed_tsc;
};

struct made {
	struct machine *machine; /* NULL: it could not be made */
	struct machine_config config;
	struct clock clock; /* virtual */
	struct hv *hv;
	struct made_host host;
	int net_peer;
};

/* A file in memory of @size zeros. */
int made_file(uint64_t size);

/* A new one, over PCI or MMIO, paused before its first instruction. */
void made_first(struct made *m, const char *transport);
void made_first_on(struct made *m, const char *transport, const struct made_host *host);

void made_pause(struct machine *m);
void made_save(struct machine *m, struct state_writer *w);

/* Make a machine of the @len bytes of @buf; its memory is empty. -errno with @err. */
int made_load(struct made *m, const uint8_t *buf, size_t len, struct error *err);
int made_load_on(struct made *m, const uint8_t *buf, size_t len, const struct made_host *host,
		 struct error *err);

/*
 * A machine made of @w, with @size bytes at @gpa as @first has them: what the rest of its memory
 * holds matters to nobody here.
 */
void made_restore_with(struct made *second, const struct state_writer *w, struct made *first,
		       uint64_t gpa, size_t size);

/* Also what could not be made. */
void made_free(struct made *m);

#endif
