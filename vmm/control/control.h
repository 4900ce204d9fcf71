/*
 * The control socket of a running machine: `wisp ls`, pause, snapshot and the
 * REST API come in here.
 *
 * A SOCK_SEQPACKET UNIX socket in the run directory (vmm/run_dir.h), served on the
 * machine's loop. One request is one message, a JSON object {"do":"VERB", ...},
 * with descriptors beside it; its one reply is {"ok":true, ...} or
 * {"error":"text","errno":N}, with "usage":true where what was asked for is at fault,
 * after any number of {"progress":...}. The client opens every file itself, with the
 * rights of its user, and passes descriptors: the monitor opens nothing that it is told
 * the name of.
 *
 * Clients are not trusted with the monitor's life: other users are turned away, messages and
 * connections are bounded, and one that does not read its reply only harms itself.
 *
 * All functions are for the loop's thread.
 */
#ifndef WISP_VMM_CONTROL_H
#define WISP_VMM_CONTROL_H

#include <jansson.h>

#include "vmm/machine/machine.h"

/* Bounds of the protocol, for both ends. */
#define CONTROL_MAX_MESSAGE (128 * KiB)
#define CONTROL_MAX_FDS	    64
/* More than anything can do in a second. */
#define CONTROL_MAX_RATE (1ull << 40)

struct control;
struct control_call;

/* Serve @listen_fd, which becomes the control's. Costs next to nothing until someone connects. */
int control_create(struct control **ret_control, struct machine *m, int listen_fd,
		   struct error *err);

/*
 * The machine ended as @end says: answers what waited for that (control_reply_at_end()),
 * fails all other requests, and waits for those that have to be cancelled (control_on_end()).
 * Outside of loop_run(). Accepts NULL.
 */
void control_free(struct control *control, const struct machine_end *end);

/*
 * Before JSON is looked at, so that jansson looks for no random numbers of its own, in files that a
 * sandbox forbids. Any thread.
 */
void control_seed_hash_tables(void);

/* ---- for those who carry out verbs ---- */

/*
 * A row of the table in control_verbs.c. The handler answers each call exactly once, with any
 * of control_reply*() or control_fail(), at once or later from the loop; then the call is gone.
 */
struct control_verb {
	const char *name;
	void (*handle)(struct control_call *call);
	/*
	 * Changes what the machine is doing (pause, snapshot): refused with EBUSY
	 * while another such request is not yet answered.
	 */
	bool alone;
	/* Also where there is no guest: it is still to come, or was handed over. */
	bool without_guest;
};

extern const struct control_verb control_verbs[]; /* ends without a name */

/* Rows of that table, answered as struct control_verb's handle() has it. On the loop. */
void control_change(struct control_call *call); /* control_change.c */
void control_verb_plug(struct control_call *call); /* control_plug.c */
void control_verb_unplug(struct control_call *call);

/* Whose control socket it is; borrowed. */
struct machine *control_machine(struct control_call *call);

/* The request, borrowed while the call lasts. */
const json_t *control_args(const struct control_call *call);

/*
 * The argument @name. Of another type than asked for, or out of range, it counts as missing and
 * -EINVAL comes back with the call already failed: just return then. Missing: @fallback, and 0.
 */
int control_arg_string(struct control_call *call, const char *name, const char *fallback,
		       const char **ret);
int control_arg_number(struct control_call *call, const char *name, uint64_t fallback, uint64_t max,
		       uint64_t *ret);
int control_arg_bool(struct control_call *call, const char *name, bool fallback, bool *ret);

/* The @i-th descriptor that came along becomes the caller's; -EBADF when it is not there. */
int control_take_fd(struct control_call *call, unsigned i);
unsigned control_num_fds(const struct control_call *call);

/* @result, an object or NULL, is taken over; "ok" is added. */
void control_reply(struct control_call *call, json_t *result);
/* With copies of @fds, which stay the caller's. */
void control_reply_fds(struct control_call *call, json_t *result, const int *fds, unsigned num);
void control_fail(struct control_call *call, int error, const char *fmt, ...) __printf(3, 4);
/* What @err says; a negative code in it becomes errno, and its client has a usage error too. */
void control_fail_error(struct control_call *call, const struct error *err);
/*
 * For a call that an operation or a timer of the loop comes back to: should the machine end first,
 * @cancel is called in place of an answer. It has the call answered, at once or soon from the loop,
 * by control_fail_ended() if nothing better is known; from then on nothing refers to it.
 */
void control_on_end(struct control_call *call, void (*cancel)(void *arg), void *arg);
/* The machine ended before this was done, and how: for @cancel and what it brings about. */
void control_fail_ended(struct control_call *call);
/* The machine is about to end, which will be the answer: {"ok":true,"end":"poweroff","status":0}.
 */
void control_reply_at_end(struct control_call *call);

/*
 * As control_reply_at_end(), and until then {"progress":{"event":"running"}}, or "paused": what it
 * is now, and whenever that changes.
 */
void control_reply_events(struct control_call *call);

/*
 * The machine, which is paused, stands still for this call's client alone: should that leave before
 * anybody has said what becomes of it ("resume", "pause", or the end), it goes on by itself, once
 * no verb that is @alone is at work on it. Lasts beyond the answer.
 */
void control_keep_paused(struct control_call *call);
/* Somebody says so: whether it stands still is no more that client's affair. */
void control_keep_for_all(struct control_call *call);

/* @progress is taken over. False: dropped, for want of memory or as the client does not keep up. */
bool control_progress(struct control_call *call, json_t *progress);

/* The connection it came by, open until it is answered: is its client still there? */
int control_client(const struct control_call *call);

/* The monitor's process and who made it: its main thread may not ask. */
pid_t control_pid(const struct control_call *call);
pid_t control_parent(const struct control_call *call);

/* Nanoseconds since control_create(), on the host's monotonic clock. */
uint64_t control_uptime_ns(const struct control_call *call);

#endif
