/*
 * Signals that others send us, as Firecracker takes them. They are blocked and read from a
 * descriptor: one that a fault of our own raises is the kernel's to end us by, whatever we block.
 */
#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "helpers/api.h"

/* Those that have a line in the log; with the exit status and the name in the metrics. */
static const struct {
	int number, status;
	const char *metric;
} known[] = {
	{ SIGSYS, 148, NULL },	    { SIGBUS, 149, "sigbus" },	 { SIGSEGV, 150, "sigsegv" },
	{ SIGXFSZ, 151, "sigxfsz" }, { SIGXCPU, 154, "sigxcpu" }, { SIGPIPE, 0, "sigpipe" },
	{ SIGHUP, 156, "sighup" },   { SIGILL, 157, "sigill" },
};

int api_signals_open(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		sigaddset(&set, known[i].number);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* One that is ignored would never be pending. */
	signal(SIGPIPE, SIG_DFL);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int api_signal(struct api *api, int fd)
{
	struct signalfd_siginfo info;

	if (read(fd, &info, sizeof(info)) != sizeof(info))
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		if (known[i].number != (int)info.ssi_signo)
			continue;
		if (known[i].metric)
			api_count(api, "signals", known[i].metric, 1);
		/* A log without a reader raised it: to log that would raise the next. */
		if (info.ssi_signo == SIGPIPE && info.ssi_pid == (uint32_t)getpid())
			return 0;
		api_log(api, "Error",
			known[i].status ? "Shutting down VM after intercepting signal %u, code %d" :
					  "Received signal %u, code %d",
			info.ssi_signo, info.ssi_code);
		if (known[i].status)
			api_flush_metrics(api);
		return known[i].status;
	}
	return 128 + (int)info.ssi_signo;
}
