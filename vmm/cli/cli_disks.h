/*
 * The disks of a running microVM, as its monitor hands them out: what the verbs that copy a
 * machine (snapshot, clone) have in common. In the verb's process.
 */
#ifndef WISP_VMM_CLI_DISKS_H
#define WISP_VMM_CLI_DISKS_H

#include <jansson.h>

#include "vmm/config/config.h"

struct cli_disk {
	const char *id, *path; /* borrowed from the reply */
	bool read_only, direct;
	bool nameless; /* a private copy: no path leads to what it holds */
	bool qcow2;
	bool is_block; /* a block device */
	bool is_file;  /* or a block device; not what a server on the network has */
	int fd;
};

/* What is made of the machine, and so of its disks. */
enum cli_disks_use {
	CLI_DISKS_SNAPSHOT,	/* the guest goes on: those that it writes are copied */
	CLI_DISKS_LAST_SNAPSHOT, /* it does not: all but nameless ones are only named */
	CLI_DISKS_CLONE,	/* those that it writes are copied, the others shared */
};

struct cli_disks {
	json_t *reply; /* {"do":"disks"}'s */
	struct cli_disk disk[CONFIG_MAX_DISKS];
	unsigned num;
};

/* Ask on @sock. */
int cli_disks_get(struct cli_disks *d, int sock, struct error *err);

/* What a request that goes by these disks says as its "generation". */
json_int_t cli_disks_generation(const struct cli_disks *d);

/* Is this one copied while the guest stands still? */
bool cli_disk_is_copied(const struct cli_disk *d, enum cli_disks_use use);

/*
 * -ENOTSUP, naming the disk, when one cannot be kept: what is no file here, and a block device that
 * would have to be copied.
 */
int cli_disks_refuse(const struct cli_disks *d, enum cli_disks_use use, struct error *err);
void cli_disks_done(struct cli_disks *d);

#endif
