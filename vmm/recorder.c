#include "vmm/recorder.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

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
