#include "vmm/saved/held_signals.h"

#include <errno.h>
#include <sys/signalfd.h>

#include "vmm/core/util.h"

static const int enders[] = { SIGINT, SIGTERM, SIGHUP };

void held_signals_begin(struct held_signals *h)
{
	sigemptyset(&h->held);
	for (unsigned i = 0; i < ARRAY_SIZE(enders); i++) {
		struct sigaction now;

		/* Held back, one that is ignored would be pending all the same. */
		if (sigaction(enders[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
			sigaddset(&h->held, enders[i]);
	}
	sigprocmask(SIG_BLOCK, &h->held, &h->before);
}

int held_signals_open(const struct held_signals *h)
{
	int fd = signalfd(-1, &h->held, SFD_NONBLOCK | SFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

bool held_signals_came(void)
{
	sigset_t pending;

	if (sigpending(&pending) < 0)
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(enders); i++)
		if (sigismember(&pending, enders[i]))
			return true;
	return false;
}

void held_signals_end(const struct held_signals *h)
{
	sigprocmask(SIG_SETMASK, &h->before, NULL);
}
