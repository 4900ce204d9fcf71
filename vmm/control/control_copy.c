#include "vmm/control/control_copy.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm/control/control.h"

static void *await_hang_up(void *arg)
{
	/* The end alone, which is always told: requests of its client are for the monitor. */
	struct pollfd client = { .fd = (int)(intptr_t)arg };

	while (poll(&client, 1, -1) < 0 && errno == EINTR)
		;
	_exit(1);
}

void control_copy_begin(const struct control_call *call)
{
	sigset_t all, saved;
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	/* The monitor keeps the connection open until the request is answered. */
	pthread_create(&thread, NULL, await_hang_up, (void *)(intptr_t)control_client(call));
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}
