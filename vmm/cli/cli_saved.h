/*
 * A machine that was saved or is being received, on this host: what `wisp restore` and
 * `wisp receive` let a user say differently. In the verb's process.
 */
#ifndef WISP_VMM_CLI_SAVED_H
#define WISP_VMM_CLI_SAVED_H

#include "vmm/config/config_parse.h"

struct saved_replacement {
	char *id, *path;
};

enum saved_prefetch { SAVED_PREFETCH_ON, SAVED_PREFETCH_OFF, SAVED_PREFETCH_RECORD };

/*
 * How RAM gets what the snapshot's files have: as their mapping, or page by page when touched; by
 * itself as they are, compressed or not.
 */
enum saved_memory { SAVED_MEMORY_AUTO, SAVED_MEMORY_MAP, SAVED_MEMORY_UFFD };

/* What RAM is here of a guest that moves: as it was where it comes from, or private, or shared. */
enum saved_backing { SAVED_BACKING_SAME, SAVED_BACKING_ANON, SAVED_BACKING_SHARED };

struct saved_options {
	/* Of this run, not of the machine: taken over into the configuration. */
	char *name, *run_dir, *metrics, *log_file, *console, *serial, *vsock;
	unsigned log_level, loop, sandbox, timeout_seconds;
	bool detach, json, core_sched;

	unsigned clock;	    /* enum machine_clock; restore's */
	bool changed_disks; /* restore's */
	bool changed_tsc;   /* restore's */
	unsigned clones;    /* restore's; 0: the machine itself */
	unsigned prefetch;  /* restore's: enum saved_prefetch */
	unsigned memory;    /* restore's: enum saved_memory */
	unsigned backing;   /* receive's: enum saved_backing */
	bool trust_source;  /* receive's */
	char *tls, *resume; /* receive's */
	struct saved_replacement disk[CONFIG_MAX_DISKS];
	unsigned num_disks;
	struct saved_replacement net[CONFIG_MAX_NETS]; /* restore's */
	unsigned num_nets;

	/* restore's, for who starts it from another program (wisp api) */
	char *memory_file, *memory_handler;
	bool hugepages;
	unsigned ready_fd;
	bool paused;
};

extern const struct config_item restore_options[];
extern const struct config_item receive_options[];

/* Take them over into the configuration that was saved; a bit in @given for each disk named. */
int saved_options_apply(struct machine_config *c, struct saved_options *o, uint32_t *given,
			struct error *err);
void saved_options_done(struct saved_options *o);

#endif
