/*
 * Instance metadata for guests (Firecracker's MMDS): a web server on the guest's own
 * link, at an address that the monitor diverts here (devices/net_divert.h).
 *
 *   mmds.c         the process: frames from guests, contents from the API
 *   mmds_tcp.c     ARP, IPv4 and as much TCP as a server of small documents needs
 *   mmds_answer.c  requests and their answers, tokens
 *
 * All of it is one process without files, privileges or network, since what comes in is
 * the guest's. One thread.
 */
#ifndef WISP_HELPERS_MMDS_H
#define WISP_HELPERS_MMDS_H

#include <jansson.h>
#include <netinet/in.h>
#include <sys/types.h>

#include "vmm/core/error.h"

/* Counted by the process, read by others that share the page. */
struct mmds_counters {
	_Atomic uint64_t rx_accepted, rx_accepted_err, rx_accepted_unusual, rx_bad_eth;
	_Atomic uint64_t rx_invalid_token, rx_no_token, rx_count;
	_Atomic uint64_t tx_bytes, tx_count, tx_errors, tx_frames;
	_Atomic uint64_t connections_created, connections_destroyed;
};

/* ---- mmds_answer.c ---- */

struct mmds_store {
	json_t *contents; /* NULL: nothing was put yet */
	bool needs_token; /* version 2 */
	bool always_text; /* as EC2 does, whatever a client accepts */
	uint64_t key[4];  /* what tokens are signed with */
	uint64_t (*now_seconds)(void);
	struct mmds_counters *counters;
};

/* With a key of its own; false when there is no randomness. */
bool mmds_store_init(struct mmds_store *s, struct mmds_counters *counters);

/*
 * Answer the first request in the @len bytes at @text. Returns how many of them it takes, or 0
 * when its end is not there yet. @ret_answer, to be freed by the caller, is NULL where there is
 * no memory for one; with *@ret_close the connection should end after it.
 */
size_t mmds_answer(struct mmds_store *s, const char *text, size_t len, char **ret_answer,
		   size_t *ret_answer_len, bool *ret_close);

/* ---- mmds_tcp.c ---- */

struct mmds_tcp;

/* Frames go out, in order, with no more than a header of zeros in front. */
typedef void mmds_send_fn(void *arg, const void *frame, size_t len);

struct mmds_tcp *mmds_tcp_create(struct mmds_store *store, struct in_addr address,
				 mmds_send_fn *send, void *arg);
void mmds_tcp_free(struct mmds_tcp *t);

/* A frame of the guest, from its Ethernet header on. @now_ms: of a clock that only goes forward. */
void mmds_tcp_input(struct mmds_tcp *t, const uint8_t *frame, size_t len, uint64_t now_ms);
/* Send again what was lost, give up who is gone. Returns when to call next, or UINT64_MAX. */
uint64_t mmds_tcp_tick(struct mmds_tcp *t, uint64_t now_ms);

/* ---- mmds.c ---- */

struct mmds {
	pid_t pid;
	int contents_fd;	      /* where new contents go */
	struct mmds_counters *counters; /* shared with the process */
};

/* What it should be like. */
struct mmds_config {
	struct in_addr address;
	bool needs_token, always_text;
	bool no_sandbox;
	unsigned num_links; /* guest networks that it is on, up to MMDS_MAX_LINKS */
};

#define MMDS_MAX_LINKS 32

/* Start the process; @ret_links gets a SEQPACKET socket for each link, the caller's. */
int mmds_start(struct mmds *m, const struct mmds_config *config, int *ret_links,
	       struct error *err);
/* From now on guests read @contents. */
int mmds_put(struct mmds *m, const json_t *contents);
void mmds_stop(struct mmds *m);

#endif
