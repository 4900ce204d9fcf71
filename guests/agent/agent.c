/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wisp-agent: runs commands and copies files in the guest, for `wisp exec` and
 * `wisp cp` (vmm/control/agent_wire.h). It listens on a port of its vsock device, which
 * only the host can reach, and forks for each connection: what one session does
 * wrong is nothing to the next.
 *
 * And it knows who its guest is (identity.c): /run/wisp/identity says so to those who read it, and
 * when the guest has become another one, since it was restored, cloned or reset, its kernel gets
 * new random numbers, which one without a driver for VM generation IDs would not, and
 * /etc/wisp/identity is run, if there is such a program.
 *
 * Static, and small: it is in every default guest.
 */
#include "guests/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/control/agent_tree.h"

#define ANY_CID 0xffffffffu

/* How often to ask a host that does not answer, a second apart: who was just reset may be early. */
#define MAX_ASKED 5

static void report(int sock, int r, const struct agent_tree_error *err)
{
	if (r < 0 && err->what)
		agent_send_failure(sock, AGENT_FAILED, -r, err->what, err->path);
	else if (r < 0)
		agent_send_failure(sock, AGENT_FAILED, -r, "copy", "connection");
	else
		agent_send(sock, AGENT_DONE, NULL, 0);
}

static void session(int sock)
{
	static struct agent_frame f;
	struct agent_tree_error err = { 0 };
	char path[PATH_MAX];

	if (agent_receive(sock, &f) <= 0)
		return;
	if (f.type != AGENT_PUT && f.type != AGENT_GET) {
		run_command(sock, &f);
		return;
	}
	if (f.len >= sizeof(path)) {
		agent_send_failure(sock, AGENT_FAILED, ENAMETOOLONG, "copy", "path");
		return;
	}
	memcpy(path, f.data, f.len + 1);
	if (f.type == AGENT_GET) {
		report(sock, agent_tree_send(sock, path, &err), &err);
	} else {
		int r = agent_tree_receive(sock, path, NULL, 07777, &f, &err);

		report(sock, r, &err);
		/* The sender may be in the middle of it: closing with bytes unread would lose our
		 * word. */
		shutdown(sock, SHUT_WR);
		while (r < 0 && read(sock, f.data, sizeof(f.data)) > 0)
			;
	}
}

static int listen_for_host(void)
{
	struct vm_address addr = { .family = FAMILY_VSOCK, .port = AGENT_PORT, .cid = ANY_CID };
	int fd = socket(FAMILY_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 16) < 0)
		return -1;
	return fd;
}

static void serve(int listener)
{
	int sock = accept(listener, NULL, NULL);

	if (sock < 0) {
		/* After the host was exchanged under us, or memory is short. */
		usleep(10000);
		return;
	}
	if (fork() == 0) {
		close(listener);
		fcntl(sock, F_SETFD, FD_CLOEXEC);
		signal(SIGCHLD, SIG_DFL);
		session(sock);
		_exit(0);
	}
	close(sock);
}

int main(void)
{
	int null = open("/dev/null", O_RDWR), listener = listen_for_host();
	struct pollfd p[2] = { { .fd = listener, .events = POLLIN }, { .events = POLLIN } };
	int asked = MAX_ASKED;

	if (listener < 0)
		return 1;
	setsid();
	for (int i = 0; i < 3 && null >= 0; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
	setenv("HOME", "/root", 0);
	(void)!chdir("/");
	signal(SIGCHLD, SIG_IGN); /* sessions are not waited for */
	p[1].fd = ask_identity();
	for (;;) {
		if (poll(p, 2, p[1].fd < 0 && asked < MAX_ASKED ? 1000 : -1) < 0)
			continue;
		if (p[0].revents)
			serve(listener);
		if (p[1].fd >= 0 && p[1].revents) {
			close(p[1].fd);
			p[1].fd = ask_identity();
			asked = 1;
		} else if (p[1].fd < 0 && asked < MAX_ASKED) {
			p[1].fd = ask_identity();
			asked++;
		}
	}
}
