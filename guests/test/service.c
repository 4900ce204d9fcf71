/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the tree's own systemd is process 1: this program and its plan go to /run, which systemd
 * leaves as it is, with a unit that starts it there once the system is up.
 */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNITS "/run/systemd/system/"

static const char unit[] = "[Unit]\n"
			   "Description=The command of wisp test\n"
			   "After=network.target\n"
			   "\n"
			   "[Service]\n"
			   "Type=idle\n"
			   "ExecStart=" SERVICE_DIR "/init " SERVICE_ARGUMENT "\n"
			   "KillMode=process\n"
			   "OOMScoreAdjust=-1000\n";

static void copy(int from, const char *to, mode_t mode)
{
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	struct stat st;
	off_t at = 0;

	if (from < 0 || fd < 0 || fstat(from, &st) < 0)
		die("%s: %s", to, strerror(errno));
	while (at < st.st_size)
		if (sendfile(fd, from, &at, st.st_size - at) <= 0)
			die("%s: cannot be written: %s", to, strerror(errno));
	close(fd);
}

static void write_unit(void)
{
	static const char *const consoles[] = { "ttyS0", "hvc0" };
	int fd = open(UNITS "wisp-test.service", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	char name[64];

	if (fd < 0 || write(fd, unit, sizeof(unit) - 1) != (ssize_t)sizeof(unit) - 1)
		die("the unit of the command: %s", strerror(errno));
	close(fd);
	symlink(UNITS "wisp-test.service", UNITS "multi-user.target.wants/wisp-test.service");
	/* One is for the kernel's log, the other the command's: nobody logs in there. */
	for (unsigned i = 0; i < sizeof(consoles) / sizeof(consoles[0]); i++) {
		snprintf(name, sizeof(name), UNITS "serial-getty@%s.service", consoles[i]);
		symlink("/dev/null", name);
	}
}

void become_systemd(int plan_fd)
{
	static const char *const places[] = { "/lib/systemd/systemd", "/usr/lib/systemd/systemd" };
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	mkdir(SERVICE_DIR, 0755);
	copy(self, SERVICE_DIR "/init", 0755);
	copy(plan_fd, SERVICE_DIR "/plan", 0400);
	mkdir("/run/systemd", 0755);
	mkdir("/run/systemd/system", 0755);
	mkdir(UNITS "multi-user.target.wants", 0755);
	write_unit();
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		execl(places[i], places[i], "--unit=multi-user.target", NULL);
	die("there is no systemd in this tree: %s", strerror(errno));
}
