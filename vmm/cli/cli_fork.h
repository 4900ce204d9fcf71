/*
 * A fork of a running microVM that can become microVMs of their own: what `wisp clone` makes and
 * uses at once, and `wisp rewind` keeps for later. In the verb's process, which waits for the
 * monitor meanwhile.
 *
 * The fork itself is a nursery (vmm/saved/clone.h): it lives until cli_fork_close(), and in all
 * processes that have its end of the socket.
 */
#ifndef WISP_VMM_CLI_FORK_H
#define WISP_VMM_CLI_FORK_H

#include "vmm/cli/cli_disks.h"

struct cli_fork {
	const char *run_dir; /* borrowed; NULL: the default */
	bool only;	     /* one microVM is made of it, and no more */
	bool paused;	     /* those that are made stand still at first */
	/* In the background process of one that was started: let go of what the verb has open. */
	void (*leave)(void *arg);
	void *leave_arg;
	/* Before the original stands still: is @config one that the verb can do with? NULL: any is.
	 */
	int (*check)(void *arg, const struct machine_config *config, struct error *err);
	void *check_arg;
	struct machine_config config; /* the original's */
	struct cli_disks disks;
	int base_fd[CONFIG_MAX_DISKS]; /* of each disk, as it was when the guest stood still */
	int go[2], nursery[2];
	struct error err; /* of a failure; without a code: it has been told already */
};

/* With no descriptor open and nothing allocated yet; cli_fork_done() at the end in any case. */
void cli_fork_init(struct cli_fork *c, const char *run_dir);

/*
 * Fork the microVM whose control socket is @sock. @ret_reply, the caller's: its pause. -errno with
 * @c->err; what cannot be cloned is refused before the guest stands still.
 */
int cli_fork_take(struct cli_fork *c, int sock, json_t **ret_reply);

/*
 * A microVM called @name goes on from there, in the background. -errno; a name that none can have
 * is refused (kind USAGE).
 */
int cli_fork_start(struct cli_fork *c, const char *name);

/* The descriptors alone; or all of it. */
void cli_fork_close(struct cli_fork *c);
void cli_fork_done(struct cli_fork *c);

#endif
