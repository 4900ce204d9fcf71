/*
 * What the configuration names, opened by the parent (vmm/launch.h), for the monitor opens nothing.
 *
 * Descriptors go into the machine's files, whose owner closes them, also those that were opened
 * before another one failed. Errors say which option and which file. The main thread, before
 * the fork.
 */
#ifndef WISP_VMM_LAUNCH_FILES_H
#define WISP_VMM_LAUNCH_FILES_H

#include <sys/stat.h>

struct block_chain;
struct config_disk;
struct error;
struct machine_config;
struct machine_files;

/*
 * Open what is beneath the image @d, which is open as @fd, as far as its options allow. The caller
 * closes the chain. 0 or -errno.
 */
int launch_open_beneath(const struct config_disk *d, int fd, struct block_chain *ret_chain,
			struct error *err);

/* What the machine boots with: kernel, initial RAM disk, CPU template. 0 or -errno. */
int launch_open_kernel(const struct machine_config *c, struct machine_files *files,
		       struct error *err);

/*
 * Disks, unless they are open already, with the images beneath them, and files that are
 * persistent memory. The server of an NBD disk is connected to. 0 or -errno.
 */
int launch_open_files(const struct machine_config *c, struct machine_files *files,
		      struct error *err);

/*
 * The listening socket of --vsock, at its path with @suffix (vmm/launch.h) behind it, and a pair
 * for what the monitor asks to have opened: @ret_broker is our end, which raises SIGIO. @ret_socket
 * is for launch_close_vsock(), also on failure. 0 or -errno.
 */
int launch_open_vsock(const struct machine_config *c, const char *suffix,
		      struct machine_files *files, struct stat *ret_socket, int *ret_broker,
		      struct error *err);

/* Nobody listens there any more: remove it by either name, where it is still the one of ours. */
void launch_close_vsock(const struct machine_config *c, const struct stat *socket);

#endif
