#include "vmm/control/agent_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/control/control_client.h"
#include "vmm/core/clock.h"

#define RETRY_US 100000
/* More than a guest that runs has for its answer, and its monitor to see that none came. */
#define ANSWER_NS (15 * NSEC_PER_SEC)

/* Has the guest accepted? The answer is a line; without one it is the end. */
static int await_answer(int fd, uint64_t deadline_ns)
{
	uint64_t now_ns;
	char c = 0;

	while (c != '\n') {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		now_ns = clock_monotonic_ns(NULL);
		if (now_ns >= deadline_ns)
			return -ETIMEDOUT;
		/* Rounded up, or the last millisecond is spent asking. */
		if (poll(&p, 1, (int)((deadline_ns - now_ns) / NSEC_PER_MSEC) + 1) > 0 &&
		    read(fd, &c, 1) != 1)
			return -ECONNREFUSED;
	}
	return 0;
}

/* -ENOTCONN and -ECONNREFUSED: not yet. */
static int try_connect(const char *run_dir, const char *id, uint64_t deadline_ns,
		       struct error *err)
{
	int control, pair[2], r;

	control = control_connect_awake(run_dir, id, err);
	if (control < 0)
		return control;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		r = error_set(err, -errno, "socket: %m");
		close(control);
		return r;
	}
	r = control_ask(control, json_pack("{s:s, s:i}", "do", "connect", "port", AGENT_PORT),
			&pair[1], 1, NULL, err);
	close(pair[1]);
	close(control);
	if (!r) {
		r = await_answer(pair[0], deadline_ns);
		if (r == -ETIMEDOUT)
			error_set(err, r, "the guest of '%s' is paused, or hangs: no answer", id);
		else if (r < 0)
			error_set(err, r, "no agent answers in the guest of '%s'", id);
	}
	if (r < 0)
		close(pair[0]);
	return r < 0 ? r : pair[0];
}

int agent_connect(const char *run_dir, const char *id, unsigned wait_seconds, struct error *err)
{
	uint64_t deadline = clock_monotonic_ns(NULL) + wait_seconds * NSEC_PER_SEC;
	int r;

	for (;;) {
		*err = (struct error){ 0 };
		r = try_connect(run_dir, id, MAX(deadline, clock_monotonic_ns(NULL) + ANSWER_NS),
				err);
		if ((r != -ENOTCONN && r != -ECONNREFUSED) || clock_monotonic_ns(NULL) >= deadline)
			break;
		usleep(RETRY_US);
	}
	if (r == -ECONNREFUSED)
		error_hint(err, "the default guest has one; others start wisp-agent themselves");
	return r;
}

int agent_failure(const struct agent_frame *f, const char *prefix, struct error *err)
{
	uint32_t number = f->len >= 4 ? get_le32(f->data) : EIO;

	/* A guest says what it likes: an error at any rate, in one line of plain text. */
	if (!number || number > 4095)
		number = EIO;
	error_set(err, -(int)number, "%s: in the guest: %.200s: %m", prefix,
		  f->len >= 4 ? f->data + 4 : "failed");
	for (char *p = err->msg; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return -(int)number;
}
