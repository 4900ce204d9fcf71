/*
 * What the configuration names, opened by the parent (vmm/launch.h), for the monitor opens nothing.
 *
 * Descriptors go into the machine's files, whose owner closes them, also those that were opened
 * before another one failed. Errors say which option and which file. The main thread, before
 * the fork.
 */
#ifndef WISP_VMM_LAUNCH_FILES_H
#define WISP_VMM_LAUNCH_FILES_H

struct error;
struct machine_config;
struct machine_files;

/* What the machine boots with: kernel, initial RAM disk, CPU template. 0 or -errno. */
int launch_open_kernel(const struct machine_config *c, struct machine_files *files,
		       struct error *err);

/*
 * Disks, unless they are open already, with the images beneath them, and files that are
 * persistent memory. The server of an NBD disk is connected to. 0 or -errno.
 */
int launch_open_files(const struct machine_config *c, struct machine_files *files,
		      struct error *err);

#endif
