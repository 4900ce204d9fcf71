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
	bool is_file; /* or a block device; not what a server on the network has */
	int fd;
};

struct cli_disks {
	json_t *reply; /* {"do":"disks"}'s */
	struct cli_disk disk[CONFIG_MAX_DISKS];
	unsigned num;
};

/* Ask on @sock. */
int cli_disks_get(struct cli_disks *d, int sock, struct error *err);

/*
 * -ENOTSUP, naming the disk, when one cannot be kept: what is no file here, and a qcow2 image that
 * is written, which has parts of itself in the monitor's memory, as long as nobody writes those out
 * in the pause. With @all read-only ones are refused too: files beneath them are not handed out.
 */
int cli_disks_refuse(const struct cli_disks *d, bool all, struct error *err);
void cli_disks_done(struct cli_disks *d);

#endif
