#include "vmm/sandbox/orphan.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define ORPHAN_SIGNAL SIGUSR2

/* By a timer, which reaches this process alone: kill() is in no filter. */
static void send_after(int signal, struct timespec delay)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal };
	struct itimerspec when = { .it_value = delay };
	timer_t timer;

	if (timer_create(CLOCK_MONOTONIC, &event, &timer) == 0)
		timer_settime(timer, 0, &when, NULL);
}

static void orphaned(int sig)
{
	int saved_errno = errno;

	send_after(SIGKILL, (struct timespec){ .tv_sec = ORPHAN_GRACE_S });
	send_after(SIGTERM, (struct timespec){ .tv_nsec = 1 });
	errno = saved_errno;
}

static void orphan_mask(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, ORPHAN_SIGNAL);
	pthread_sigmask(how, &set, NULL);
}

void orphan_begin(void)
{
	struct sigaction action = { .sa_handler = orphaned, .sa_flags = SA_RESTART };

	sigaction(ORPHAN_SIGNAL, &action, NULL);
	orphan_again();
}

void orphan_again(void)
{
	prctl(PR_SET_PDEATHSIG, ORPHAN_SIGNAL);
}

void orphan_leave(void)
{
	orphan_mask(SIG_BLOCK);
}

void orphan_watch(pid_t parent)
{
	/* Each thread has one of its own, and it goes to whichever does not block it. */
	orphan_again();
	orphan_mask(SIG_UNBLOCK);
	/* A death before that is told to nobody, nor one while a change of user had undone it. */
	if (getppid() != parent)
		orphaned(ORPHAN_SIGNAL);
}
