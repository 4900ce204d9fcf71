#include "vmm/tls_helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/helper.h"

/* The helper's descriptors, in this order from 3 on. */
#define FIRST_FD 3
#define NUM_FDS	 3

/* In the child. */
static _Noreturn void become_helper(const int *fds, const struct tls_peer *peer)
{
	const char *argv[] = { "wisp-tls", peer->role, peer->host ? peer->host : peer->dir,
			       peer->host ? peer->dir : NULL, NULL };
	struct error err = { 0 };
	int high[NUM_FDS];
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* It lives as long as the connection, and Ctrl-C is for the verb, which ends that. */
	setpgid(0, 0);
	/* Away from where they are to be, so that none overwrites another. */
	for (unsigned i = 0; i < NUM_FDS; i++)
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, FIRST_FD + NUM_FDS);
	for (unsigned i = 0; i < NUM_FDS; i++)
		if (dup2(high[i], FIRST_FD + (int)i) < 0)
			_exit(127);
	close_range(FIRST_FD + NUM_FDS, ~0u, 0);
	helper_exec(argv[0], (char *const *)argv, &err);
	dprintf(FIRST_FD + NUM_FDS - 1, "%s\n", err.msg);
	_exit(127);
}

/* What it says of the other side: "ready", or why not. */
static int await_word(int fd, const char *what, struct error *err)
{
	char text[256];
	size_t len = 0;
	ssize_t n;

	do {
		n = read(fd, text + len, sizeof(text) - 1 - len);
		if (n > 0)
			len += n;
	} while ((n > 0 && len < sizeof(text) - 1) || (n < 0 && errno == EINTR));
	while (len > 0 && text[len - 1] == '\n')
		len--;
	text[len] = '\0';
	if (!strcmp(text, "ready"))
		return 0;
	return error_usage(err, -EPROTO, "%s: %s", what, len ? text : "its helper ended");
}

static int exit_status(pid_t pid)
{
	int ended = 0;

	while (waitpid(pid, &ended, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(ended) ? WEXITSTATUS(ended) : -1;
}

int tls_helper_check(const char *dir, const char *what, struct error *err)
{
	const struct tls_peer nobody = { .role = "check", .dir = dir, .what = what };
	int status[2], r;
	pid_t pid;

	if (pipe2(status, O_CLOEXEC) < 0)
		return error_set(err, -errno, "%s: %m", what);
	pid = fork();
	if (pid == 0)
		become_helper((const int[]){ status[1], status[1], status[1] }, &nobody);
	close(status[1]);
	r = pid < 0 ? error_set(err, -errno, "%s: cannot fork: %m", what)
		    : await_word(status[0], what, err);
	close(status[0]);
	if (pid > 0)
		exit_status(pid);
	return r < 0 ? -EINVAL : 0;
}

int tls_helper_start(int fd, const struct tls_peer *peer, struct error *err)
{
	int pair[2] = { -1, -1 }, status[2] = { -1, -1 }, r = 0;
	pid_t pid = -1;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    pipe2(status, O_CLOEXEC) < 0)
		r = error_set(err, -errno, "%s: %m", peer->what);
	if (!r) {
		pid = fork();
		if (pid == 0)
			become_helper((const int[]){ fd, pair[1], status[1] }, peer);
		if (pid < 0)
			r = error_set(err, -errno, "%s: cannot fork: %m", peer->what);
	}
	close(fd);
	if (pair[1] >= 0)
		close(pair[1]);
	if (status[1] >= 0)
		close(status[1]);
	if (!r)
		r = await_word(status[0], peer->what, err);
	if (status[0] >= 0)
		close(status[0]);
	if (r == 0)
		return pair[0];
	if (pair[0] >= 0)
		close(pair[0]);
	/* With nothing to carry it ends. */
	return pid > 0 && exit_status(pid) == 1 ? r : -EINVAL;
}
