#include "vmm/launch_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/nbd.h"
#include "devices/vsock_broker.h"
#include "vmm/hypervisor/x86_template.h"
#include "vmm/launch.h"
#include "vmm/machine/machine.h"
#include "vmm/nbd_dial.h"

static int open_named(const char *option, const char *path, int flags, struct error *err)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return error_usage(err, -errno, "%s '%s': cannot open: %m", option, path);
	return fd;
}

int launch_open_beneath(const struct config_disk *d, int fd, struct block_chain *ret_chain,
			struct error *err)
{
	const struct block_chain_params chain = {
		.path = d->path,
		.fd = fd,
		.format = d->format,
		.named = (const char *const *)d->backing,
		.num_named = d->num_backing,
		.follow = d->follow_backing,
	};

	return block_chain_open(ret_chain, &chain, err);
}

/* A disk that is open already stays so. */
static int open_disk(const struct config_disk *d, int *fd, struct block_chain *beneath,
		     struct error *err)
{
	int flags = (d->read_only ? O_RDONLY : O_RDWR) | (d->direct ? O_DIRECT : 0);

	if (*fd < 0 && nbd_is_uri(d->path)) {
		*fd = nbd_dial(d->path, err);
		return MIN(*fd, 0);
	}
	if (*fd < 0)
		*fd = open_named("--disk", d->path, flags, err);
	return *fd < 0 ? *fd : launch_open_beneath(d, *fd, beneath, err);
}

static int open_pmem(const struct config_pmem *p, int *fd, struct error *err)
{
	*fd = open_named("--pmem", p->path, p->read_only ? O_RDONLY : O_RDWR, err);
	return MIN(*fd, 0);
}

int launch_open_kernel(const struct machine_config *c, struct machine_files *files,
		       struct error *err)
{
	int fd, r;

	fd = open_named("--kernel", c->kernel, O_RDONLY, err);
	if (fd < 0)
		return fd;
	r = fw_kernel_open(&files->kernel, c->kernel, fd, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	if (c->initrd) {
		files->initrd = open_named("--initrd", c->initrd, O_RDONLY, err);
		if (files->initrd < 0)
			return files->initrd;
	}
	return c->cpu_template ? x86_template_read(&files->cpu_template, c->cpu_template, err) : 0;
}

int launch_open_files(const struct machine_config *c, struct machine_files *files,
		      struct error *err)
{
	for (unsigned i = 0; i < c->num_disks; i++) {
		int r = open_disk(&c->disk[i], &files->disk[i], &files->beneath[i], err);

		if (r < 0)
			return r;
	}
	for (unsigned i = 0; i < c->num_pmems; i++) {
		int r = open_pmem(&c->pmem[i], &files->pmem[i], err);

		if (r < 0)
			return r;
	}
	return 0;
}

int launch_open_vsock(const struct machine_config *c, const char *suffix,
		      struct machine_files *files, struct stat *ret_socket, int *ret_broker,
		      struct error *err)
{
	char name[PATH_MAX];
	int pair[2];

	*ret_socket = (struct stat){ 0 };
	if (!c->vsock.path)
		return 0;
	files->vsock_listen = vsock_listen(c->vsock.path, suffix, err);
	if (files->vsock_listen < 0)
		return files->vsock_listen;
	snprintf(name, sizeof(name), "%s%s", c->vsock.path, suffix);
	if (lstat(name, ret_socket) < 0)
		return error_set(err, -errno, "--vsock: %s: %m", name);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "--vsock: socket pair: %m");
	files->vsock_broker = pair[1];
	*ret_broker = pair[0];
	if (fcntl(pair[0], F_SETOWN, getpid()) < 0 || fcntl(pair[0], F_SETFL, O_ASYNC) < 0)
		return error_set(err, -errno, "--vsock: socket pair: %m");
	return 0;
}

static void unlink_same(const char *path, const struct stat *file)
{
	struct stat now;

	if (lstat(path, &now) == 0 && now.st_dev == file->st_dev && now.st_ino == file->st_ino)
		unlink(path);
}

void launch_close_vsock(const struct machine_config *c, const struct stat *socket)
{
	char later[PATH_MAX];

	if (!socket->st_ino)
		return;
	snprintf(later, sizeof(later), "%s" LAUNCH_LATER_SUFFIX, c->vsock.path);
	unlink_same(later, socket);
	unlink_same(c->vsock.path, socket);
}
