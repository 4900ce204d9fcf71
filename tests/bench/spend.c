/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spend [-b] [-t SECONDS] -- COMMAND [ARG...]: what a command costs until its last process has
 * ended.
 *
 * Prints one line on descriptor 3: processor time of all its processes and time passed, both in
 * nanoseconds, and the exit status. On a host that counts instructions
 * (scripts/nested -i) one nanosecond of processor time is one instruction. With -b the time is
 * that to the first byte on its standard output, which it passes on.
 *
 * Processes that outlive their parents count too: this program adopts them.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t out_of_time;

static void on_alarm(int sig)
{
	(void)sig;
	out_of_time = 1;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t timeval_ns(struct timeval t)
{
	return t.tv_sec * 1000000000LL + t.tv_usec * 1000LL;
}

/* Returns when the first byte came; 0: none did. */
static int64_t pass_output(int from)
{
	int64_t first = 0;
	char buf[4096];
	ssize_t n;

	while (!out_of_time && (n = read(from, buf, sizeof(buf))) != 0) {
		if (n < 0)
			continue;
		if (!first)
			first = now_ns();
		if (write(STDOUT_FILENO, buf, n) != n)
			break;
	}
	return first;
}

/* Until no process of @child's is left; returns how it ended itself, as a shell says it. */
static int await_all(pid_t child)
{
	int status, exit_status = -1;

	for (;;) {
		pid_t pid = wait(&status);

		if (pid < 0 && errno == EINTR) {
			if (out_of_time)
				kill(-child, SIGKILL);
			continue;
		}
		if (pid < 0)
			return exit_status;
		if (pid == child)
			exit_status = WIFEXITED(status) ? WEXITSTATUS(status)
							: 128 + WTERMSIG(status);
	}
}

int main(int argc, char **argv)
{
	struct sigaction alarm_action = { .sa_handler = on_alarm }; /* interrupts wait4() */
	unsigned limit = 0;
	int opt, exit_status, output[2] = { -1, -1 };
	bool first_byte = false;
	struct rusage usage;
	int64_t start, end = 0;
	pid_t child;

	while ((opt = getopt(argc, argv, "+bt:")) != -1) {
		if (opt == 'b')
			first_byte = true;
		else if (opt == 't')
			limit = strtoul(optarg, NULL, 10);
		else
			return 2;
	}
	if (optind >= argc) {
		fprintf(stderr, "usage: spend [-b] [-t SECONDS] -- COMMAND [ARG...]\n");
		return 2;
	}
	if (first_byte && pipe(output) < 0) {
		perror("spend: pipe");
		return 1;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigaction(SIGALRM, &alarm_action, NULL);
	start = now_ns();
	child = fork();
	if (child < 0) {
		perror("spend: fork");
		return 1;
	}
	if (child == 0) {
		setpgid(0, 0);
		close(3);
		if (first_byte) {
			dup2(output[1], STDOUT_FILENO);
			close(output[0]);
			close(output[1]);
		}
		execvp(argv[optind], argv + optind);
		perror(argv[optind]);
		_exit(127);
	}
	alarm(limit);
	if (first_byte) {
		close(output[1]);
		end = pass_output(output[0]);
		if (out_of_time)
			kill(-child, SIGKILL);
	}
	exit_status = await_all(child);
	getrusage(RUSAGE_CHILDREN, &usage);
	dprintf(3, "%lld %lld %d\n",
		(long long)(timeval_ns(usage.ru_utime) + timeval_ns(usage.ru_stime)),
		(long long)((end ? end : now_ns()) - start), out_of_time ? 124 : exit_status);
	return 0;
}
