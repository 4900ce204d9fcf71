#include "vmm/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/nbd.h"

static const char *why_not(const struct config_disk *d)
{
	struct stat st;

	if (nbd_is_uri(d->path))
		return "is a server's";
	if (d->direct)
		return "has direct I/O";
	if (!d->read_only && stat(d->path, &st) == 0 && S_ISBLK(st.st_mode))
		return "is a block device";
	return NULL;
}

int recorder_check(const struct machine_config *c, struct error *err)
{
	for (unsigned i = 0; c->rewind.every_ms && i < c->num_disks; i++) {
		const char *why = why_not(&c->disk[i]);

		if (why)
			return error_usage(err, -ENOTSUP,
					   "--rewind: disk '%s' %s: of such no moment can be kept",
					   c->disk[i].path, why);
	}
	return 0;
}

int recorder_start(const struct machine_config *c, struct error *err)
{
	char text[96];
	const char *argv[8] = { "wisp", "rewind", "--record", text, c->name };
	pid_t pid;

	if (!c->rewind.every_ms)
		return 0;
	snprintf(text, sizeof(text), "every=%ums,keep=%u,hold=%u", c->rewind.every_ms,
		 c->rewind.keep, c->rewind.hold_seconds);
	if (c->run_dir) {
		argv[5] = "--run-dir";
		argv[6] = c->run_dir;
	}
	pid = fork();
	if (pid < 0)
		return error_kind_set(err, ERROR_START, -errno, "--rewind: cannot fork: %m");
	if (pid > 0)
		return 0;
	/* The terminal's signals are for the guest. */
	setpgid(0, 0);
	execv("/proc/self/exe", (char *const *)argv);
	_exit(127);
}
