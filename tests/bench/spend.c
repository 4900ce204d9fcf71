/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spend [-t SECONDS] -- COMMAND [ARG...]: what a command costs until its last process has ended.
 *
 * Prints one line on descriptor 3: processor time of all its processes and time passed, both in
 * nanoseconds, and the exit status. On a host that counts instructions
 * (scripts/nested -i) one nanosecond of processor time is one instruction.
 *
 * Processes that outlive their parents count too: this program adopts them.
 */
#include <errno.h>
#include <signal.h>
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

int main(int argc, char **argv)
{
	struct sigaction alarm_action = { .sa_handler = on_alarm }; /* interrupts wait4() */
	unsigned limit = 0;
	int status = 0, opt, exit_status = -1;
	struct rusage usage;
	int64_t start;
	pid_t child, pid;

	while ((opt = getopt(argc, argv, "+t:")) != -1) {
		if (opt != 't')
			return 2;
		limit = strtoul(optarg, NULL, 10);
	}
	if (optind >= argc) {
		fprintf(stderr, "usage: spend [-t SECONDS] -- COMMAND [ARG...]\n");
		return 2;
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
		execvp(argv[optind], argv + optind);
		perror(argv[optind]);
		_exit(127);
	}
	alarm(limit);
	for (;;) {
		pid = wait(&status);
		if (pid < 0 && errno == EINTR) {
			if (out_of_time)
				kill(-child, SIGKILL);
			continue;
		}
		if (pid < 0)
			break;
		if (pid == child)
			exit_status = WIFEXITED(status) ? WEXITSTATUS(status)
							: 128 + WTERMSIG(status);
	}
	getrusage(RUSAGE_CHILDREN, &usage);
	dprintf(3, "%lld %lld %d\n",
		(long long)(timeval_ns(usage.ru_utime) + timeval_ns(usage.ru_stime)),
		(long long)(now_ns() - start), out_of_time ? 124 : exit_status);
	return 0;
}
