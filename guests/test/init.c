/* SPDX-License-Identifier: Apache-2.0 */
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MODULE_INIT_COMPRESSED_FILE 4
#define PORT_TRIES		    500 /* of 10 ms */

void die(const char *fmt, ...)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	char text[400];
	va_list ap;
	int n;

	n = snprintf(text, sizeof(text), "<2>wisp-init: ");
	va_start(ap, fmt);
	vsnprintf(text + n, sizeof(text) - n, fmt, ap);
	va_end(ap);
	/* At once: stdio would seek first, which that device does not have. */
	(void)!write(fd >= 0 ? fd : STDERR_FILENO, text, strlen(text));
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void make_path(char *path)
{
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		mkdir(path, 0755);
		*p = '/';
	}
	mkdir(path, 0755);
}

static void mount_one(const char *what, const char *where, const char *type, unsigned long flags,
		      const char *data)
{
	mkdir(where, 0755);
	if (mount(what, where, type, flags, data) < 0)
		die("cannot mount %s ('%s') on %s: %s", type, what, where, strerror(errno));
}

/* ---- the plan ---- */

static char *read_plan(int fd, size_t *ret_len)
{
	struct stat st;
	char *text;

	if (fd < 0 || fstat(fd, &st) < 0)
		die("the plan: %s", strerror(errno));
	text = malloc(st.st_size + 1);
	if (!text || pread(fd, text, st.st_size, 0) != st.st_size)
		die("the plan: cannot read");
	text[st.st_size] = '\0';
	*ret_len = st.st_size;
	return text;
}

static void parse_line(struct plan *p, char *line)
{
	char *value = strchr(line, '=');

	if (!value)
		return;
	*value++ = '\0';
	if (!strcmp(line, "arg") && p->num_args < MAX_STRINGS - 1)
		p->arg[p->num_args++] = value;
	else if (!strcmp(line, "env") && p->num_env < MAX_STRINGS - 1)
		p->env[p->num_env++] = value;
	else if (!strcmp(line, "module") && p->num_modules < 64)
		p->module[p->num_modules++] = value;
	else if (!strcmp(line, "share") && p->num_shares < MAX_SHARES)
		p->share[p->num_shares++] = value;
	else if (!strcmp(line, "net") && p->num_nets < MAX_NETS)
		p->net[p->num_nets++] = value;
	else if (!strcmp(line, "root"))
		p->root = value;
	else if (!strcmp(line, "cwd"))
		p->cwd = value;
	else if (!strcmp(line, "cwd-is-asked-for"))
		p->cwd_is_asked_for = *value == '1';
	else if (!strcmp(line, "systemd"))
		p->systemd = *value == '1';
	else if (!strcmp(line, "uid"))
		p->uid = strtoul(value, NULL, 10);
	else if (!strcmp(line, "gid"))
		p->gid = strtoul(value, NULL, 10);
	else if (!strcmp(line, "loglevel"))
		p->loglevel = (int)strtol(value, NULL, 10);
	else if (!strcmp(line, "tty"))
		p->tty = *value == '1';
	else if (!strcmp(line, "warm"))
		p->warm = *value == '1';
	else if (!strcmp(line, "seed"))
		p->seed = value;
}

void parse_plan(struct plan *p, char *text, size_t len)
{
	char *at = text;

	while (at < text + len) {
		char *next = at + strlen(at) + 1;

		parse_line(p, at);
		at = next;
	}
}

/* ---- drivers ---- */

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const char *end = path + strlen(path);
	int flags = end - path > 3 && strcmp(end - 3, ".ko") ? MODULE_INIT_COMPRESSED_FILE : 0;

	if (fd < 0)
		die("module %s: %s", path, strerror(errno));
	/* One that this kernel has built in already is no loss; what is missing shows later. */
	if (syscall(SYS_finit_module, fd, "", flags) < 0 && errno != EEXIST)
		dprintf(STDERR_FILENO, "wisp-init: module %s: %s\n", path, strerror(errno));
	close(fd);
}

int open_port(const char *name, int flags)
{
	char path[PATH_MAX], have[64];
	DIR *dir = opendir("/sys/class/virtio-ports");
	struct dirent *d;
	int found = -1;

	while (found < 0 && dir && (d = readdir(dir))) {
		ssize_t n;
		int fd;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", d->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		n = read(fd, have, sizeof(have) - 1);
		close(fd);
		have[n > 0 ? n : 0] = '\0';
		have[strcspn(have, "\n")] = '\0';
		if (strcmp(have, name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", d->d_name);
		found = open(path, flags | O_CLOEXEC);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void open_ports(const struct plan *p, int *port)
{
	static const char *const names[NUM_PORTS] = { "wisp.stdin", "wisp.stdout", "wisp.stderr",
						      "wisp.plan", "wisp.status" };
	/* A write must not keep us from telling that we live. */
	static const int flags[NUM_PORTS] = { O_RDONLY, O_WRONLY | O_NONBLOCK,
					      O_WRONLY | O_NONBLOCK, O_RDONLY,
					      O_WRONLY };
	int tries = 0;

	for (int i = NUM_PORTS - 1; i >= 0; i--) {
		port[i] = -1;
		if ((p->tty && i < PORT_PLAN) || (!p->warm && i == PORT_PLAN))
			continue;
		/* The driver learns of ports a little after it was loaded. */
		for (; tries < PORT_TRIES; tries++) {
			port[i] = open_port(names[i], flags[i]);
			if (port[i] >= 0)
				break;
			usleep(10000);
		}
		if (port[i] < 0)
			die("no virtio console port '%s': does this kernel have the driver?",
			    names[i]);
	}
	/*
	 * A port reads as ended until the host has said that it is open. It says so of one port
	 * after the other, and of this one last.
	 */
	poll(&(struct pollfd){ .fd = port[PORT_STATUS], .events = POLLOUT }, 1, PORT_TRIES * 10);
}

/* ---- the root ---- */

static void make_root(const struct plan *p)
{
	unsigned long ro = strcmp(p->root, "rw") ? MS_RDONLY : 0;

	if (strcmp(p->root, "overlay")) {
		mount_one("rootfs", "/new", "virtiofs", ro, NULL);
		return;
	}
	mount_one("rootfs", "/lower", "virtiofs", MS_RDONLY, NULL);
	mount_one("tmpfs", "/upper", "tmpfs", 0, "mode=755");
	mkdir("/upper/data", 0755);
	mkdir("/upper/work", 0755);
	mount_one("overlay", "/new", "overlay", 0,
		  "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work");
}

/*
 * Where the rest is mounted. An overlay gets what the tree does not have; in a tree that is shared
 * as it is nothing is made, for it would stay.
 */
static void make_mount_points(const struct plan *p)
{
	static const char *const path[] = { "/new/proc", "/new/sys", "/new/dev", "/new/run" };

	if (strcmp(p->root, "overlay"))
		return;
	for (unsigned i = 0; i < sizeof(path) / sizeof(*path); i++)
		mkdir(path[i], 0755);
}

static void mount_in_root(void)
{
	if (mount("/proc", "/new/proc", NULL, MS_MOVE, NULL) < 0 ||
	    mount("/sys", "/new/sys", NULL, MS_MOVE, NULL) < 0 ||
	    mount("/dev", "/new/dev", NULL, MS_MOVE, NULL) < 0)
		die("the tree lacks a directory proc, sys or dev: %s", strerror(errno));
	mkdir("/new/dev/pts", 0755);
	mkdir("/new/dev/shm", 01777);
	mount("devpts", "/new/dev/pts", "devpts", 0, "gid=5,mode=620,ptmxmode=666");
	mount("tmpfs", "/new/dev/shm", "tmpfs", 0, "mode=1777");
	mount("tmpfs", "/new/run", "tmpfs", 0, "mode=755");
	symlink("/proc/self/fd", "/new/dev/fd");
	symlink("/proc/self/fd/0", "/new/dev/stdin");
	symlink("/proc/self/fd/1", "/new/dev/stdout");
	symlink("/proc/self/fd/2", "/new/dev/stderr");
	if (chdir("/new") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		die("cannot make the tree the root: %s", strerror(errno));
}

/* Each at the place that it has on the host. */
static void mount_shares(const struct plan *p)
{
	for (unsigned i = 0; i < p->num_shares; i++) {
		char *tag = p->share[i], *mode = strchr(tag, ':');
		char *path = mode ? strchr(mode + 1, ':') : NULL;

		if (!path)
			continue;
		*mode++ = '\0';
		*path++ = '\0';
		make_path(path);
		if (mount(tag, path, "virtiofs", !strcmp(mode, "rw") ? 0 : MS_RDONLY, NULL) < 0)
			die("cannot mount the share '%s' on %s: %s", tag, path, strerror(errno));
	}
}

static void run_to_the_end(const struct plan *p, int *port)
{
	run(p, port);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	static struct plan plan = { .root = "overlay", .cwd = "/" };
	bool is_service = argc > 1 && !strcmp(argv[1], SERVICE_ARGUMENT);
	int port[NUM_PORTS], plan_fd;
	size_t len;
	char *text;

	umask(is_service ? 022 : 0);
	plan_fd = open(is_service ? SERVICE_DIR "/plan" : "/wisp.conf", O_RDONLY | O_CLOEXEC);
	text = read_plan(plan_fd, &len);
	parse_plan(&plan, text, len);
	if (is_service) {
		open_ports(&plan, port);
		run_to_the_end(&plan, port);
	}
	mount_one("devtmpfs", "/dev", "devtmpfs", 0, "mode=755");
	mount_one("proc", "/proc", "proc", 0, NULL);
	mount_one("sysfs", "/sys", "sysfs", 0, NULL);
	for (unsigned i = 0; i < plan.num_modules; i++)
		load(plan.module[i]);
	if (!plan.systemd)
		open_ports(&plan, port);
	make_root(&plan);
	make_mount_points(&plan);
	mount_in_root();
	if (plan.warm)
		wake_up(&plan, port);
	mount_shares(&plan);
	networks_up(&plan);
	umask(022);
	if (plan.systemd)
		become_systemd(plan_fd);
	sethostname("wisp", 4);
	run_to_the_end(&plan, port);
	return 0;
}
