/* The supervisor: starts jobs, listens to them, ends those that are stuck, and decides. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/core/clock.h"
#include "vmm/testing/test_internal.h"

/* How long a kernel may go on telling what is wrong before we end it. */
#define LAST_WORDS_NS (3 * NSEC_PER_SEC)
/* And how long a monitor that was asked to end. */
#define END_NS	 ((TEST_LAST_WORDS + 20) * NSEC_PER_SEC)
#define ROUND_MS 500

/* ---- starting ---- */

/* In the job's own process: the parent of a microVM. */
static __attribute__((noreturn)) void launch(struct test_job *j, int initrd, int log, int status,
					     bool tty, bool alone)
{
	struct launch_ends ends = { .initrd = initrd, .serial_out = log };
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct machine_port ports[] = {
		{ "wisp.stdin", alone ? STDIN_FILENO : null, -1 },
		{ "wisp.stdout", -1, alone ? STDOUT_FILENO : j->out_fd },
		{ "wisp.stderr", -1, alone ? STDERR_FILENO : j->out_fd },
		{ "wisp.status", -1, status },
	};

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGINT, SIG_DFL);
	/* The last one is the status in any case; on a terminal the console has the rest. */
	for (unsigned i = tty ? ARRAY_SIZE(ports) - 1 : 0; i < ARRAY_SIZE(ports); i++)
		ends.port[ends.num_ports++] = ports[i];
	exit(launch_machine(&j->machine, &ends, j->end));
}

static int open_dmesg(struct test_job *j, struct error *err)
{
	const struct test_config *t = j->config;

	if (t->dmesg) {
		j->dmesg = fopen(t->dmesg, t->num_kernels > 1 ? "ae" : "we");
		if (!j->dmesg)
			return error_usage(err, -errno, "--dmesg '%s': cannot write: %m", t->dmesg);
		setvbuf(j->dmesg, NULL, _IOLBF, 0);
	} else if (t->verbose) {
		j->dmesg = stderr;
	}
	return 0;
}

/* Have its end in a descriptor. Where there is none it ends now, and not unseen. */
static int watch(struct test_job *j, struct error *err)
{
	int r;

	j->pid_fd = syscall(SYS_pidfd_open, j->pid, 0);
	if (j->pid_fd >= 0)
		return 0;
	r = error_kind_set(err, ERROR_START, -errno, "test: its process cannot be watched: %m");
	kill(j->pid, SIGKILL);
	while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

static int start(struct test_job *j, bool alone, struct error *err)
{
	bool tty = alone && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	int log[2] = { -1, -1 }, status[2] = { -1, -1 }, initrd = -1, r;

	r = test_guest_config(j->config, j->kernel, j->index, tty, &j->machine, err);
	if (r < 0)
		return r;
	initrd =
		test_guest_initrd(j->config, &j->machine, tty, j->release, sizeof(j->release), err);
	if (initrd < 0)
		return initrd;
	r = open_dmesg(j, err);
	if (r < 0)
		goto out;
	r = -ENOMEM;
	j->end = launch_share_end(err);
	if (!j->end)
		goto out;
	if (pipe2(log, O_CLOEXEC) < 0 || pipe2(status, O_CLOEXEC) < 0 ||
	    (!alone && (j->out_fd = memfd_create("output", MFD_CLOEXEC)) < 0)) {
		r = error_kind_set(err, ERROR_START, -errno, "test: %m");
		goto out;
	}
	fflush(NULL);
	j->started_ns = j->beat_ns = clock_monotonic_ns(NULL);
	j->pid = fork();
	if (j->pid == 0)
		launch(j, initrd, log[1], status[1], tty, alone);
	r = j->pid < 0 ? error_kind_set(err, ERROR_START, -errno, "test: fork: %m") : watch(j, err);
	j->log_fd = log[0];
	j->status_fd = status[0];
	log[0] = status[0] = -1;
out:
	for (unsigned i = 0; i < 2; i++) {
		if (log[i] >= 0)
			close(log[i]);
		if (status[i] >= 0)
			close(status[i]);
	}
	close(initrd);
	return r;
}

/* ---- listening ---- */

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void read_log(struct test_job *j)
{
	char buf[4096];
	ssize_t n = read(j->log_fd, buf, sizeof(buf));

	if (n <= 0) {
		if (n == 0 || errno != EINTR)
			close_end(&j->log_fd);
		return;
	}
	test_log_feed(&j->log, buf, n);
	if (j->dmesg)
		fwrite(buf, 1, n, j->dmesg);
}

/* What it said before the line of the status that is being read. */
static void read_log_so_far(struct test_job *j)
{
	struct pollfd p = { .fd = j->log_fd, .events = POLLIN };

	while (j->log_fd >= 0 && poll(&p, 1, 0) > 0)
		read_log(j);
}

static void read_status_line(struct test_job *j)
{
	const char *line = j->status_line;
	int n;

	j->beat_ns = clock_monotonic_ns(NULL);
	if (!strcmp(line, "ready")) {
		read_log_so_far(j);
		test_log_command_starts(&j->log);
		j->ready = true;
	} else if (sscanf(line, "exit %d", &n) == 1) {
		j->reported = true;
		j->command_status = n & 0xff;
	} else if (sscanf(line, "signal %d", &n) == 1) {
		j->reported = j->by_signal = true;
		j->command_status = n & 0x7f;
	}
}

static void read_status(struct test_job *j)
{
	char buf[256];
	ssize_t n = read(j->status_fd, buf, sizeof(buf));

	if (n <= 0) {
		if (n == 0 || errno != EINTR)
			close_end(&j->status_fd);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n') {
			j->status_line[j->status_len] = '\0';
			read_status_line(j);
			j->status_len = 0;
		} else if (j->status_len + 1 < sizeof(j->status_line)) {
			j->status_line[j->status_len++] = buf[i];
		}
	}
}

/* ---- ending what is stuck ---- */

/* Not at once, where the kernel may still be telling. */
static void doom(struct test_job *j, enum test_outcome why, const char *cause, uint64_t at_ns)
{
	if (j->doomed_ns)
		return;
	j->asked = why;
	j->cause = cause;
	j->doomed_ns = at_ns;
}

static const char *oops_cause(const struct test_job *j)
{
	return j->log.seen & j->config->fail_on & TEST_LOG_OOPS ? "oops" : "warning";
}

static void look(struct test_job *j)
{
	const struct test_config *t = j->config;
	uint64_t now = clock_monotonic_ns(NULL);

	if (!j->ready && now - j->started_ns > t->boot_timeout * NSEC_PER_SEC)
		doom(j, TEST_BOOT_FAILURE, "not up in time", now);
	else if (j->ready && !j->reported && now - j->beat_ns > t->hang_seconds * NSEC_PER_SEC)
		doom(j, TEST_HANG, "no sign of life", now);
	else if (j->log.seen & TEST_LOG_LOCKUP && !j->reported)
		doom(j, TEST_LOCKUP, "lockup", now + LAST_WORDS_NS);
	else if (j->ready && j->machine.core_file && j->log.seen & t->fail_on)
		doom(j, TEST_OOPS, oops_cause(j), now + LAST_WORDS_NS); /* the core is to show it */
	if (!j->doomed_ns || now < j->doomed_ns)
		return;
	/* With registers first; then without mercy. */
	kill(j->pid, now > j->doomed_ns + END_NS ? SIGKILL : SIGQUIT);
	if (now <= j->doomed_ns + END_NS)
		j->doomed_ns = now + END_NS;
}

static void end(struct test_job *j)
{
	int status = 0;

	/* What is in the pipes: nobody writes any more. */
	while (j->log_fd >= 0)
		read_log(j);
	while (j->status_fd >= 0)
		read_status(j);
	while (waitpid(j->pid, &status, 0) < 0 && errno == EINTR)
		;
	j->ended_ns = clock_monotonic_ns(NULL);
	close_end(&j->pid_fd);
	if (j->dmesg && j->dmesg != stderr)
		fclose(j->dmesg);
	j->dmesg = NULL;
	test_decide(j, status);
	if (j->outcome != TEST_EXIT)
		j->symbols = test_symbolise(j);
}

/* One round over the jobs that run. Returns how many still do. */
static unsigned attend(struct test_job *jobs, unsigned num)
{
	struct pollfd p[3 * TEST_MAX_KERNELS];
	unsigned left = 0;

	for (unsigned i = 0; i < num; i++) {
		p[3 * i] = (struct pollfd){ .fd = jobs[i].log_fd, .events = POLLIN };
		p[3 * i + 1] = (struct pollfd){ .fd = jobs[i].status_fd, .events = POLLIN };
		p[3 * i + 2] = (struct pollfd){ .fd = jobs[i].pid_fd, .events = POLLIN };
	}
	poll(p, 3 * num, ROUND_MS);
	for (unsigned i = 0; i < num; i++) {
		struct test_job *j = &jobs[i];

		if (j->pid_fd < 0)
			continue;
		if (j->log_fd >= 0 && p[3 * i].revents)
			read_log(j);
		if (j->status_fd >= 0 && p[3 * i + 1].revents)
			read_status(j);
		if (p[3 * i + 2].revents)
			end(j);
		else
			look(j);
		left += j->pid_fd >= 0;
	}
	return left;
}

int test_run_all(const struct test_config *t, struct test_job *jobs, unsigned num,
		 struct error *err)
{
	unsigned started = 0, running = 0;
	int r = 0;

	/* Ctrl-C is the microVMs': they end, and we tell how. */
	signal(SIGINT, SIG_IGN);
	while (started < num || running) {
		while (started < num && running < t->jobs && !r) {
			struct test_job *j = &jobs[started];

			r = start(j, num == 1, err);
			if (r < 0)
				break;
			started++;
			running++;
		}
		if (r < 0 && !running)
			return r;
		running = attend(jobs, started);
	}
	return r;
}

/* ---- deciding ---- */

static void set(struct test_job *j, enum test_outcome outcome, int status, const char *cause)
{
	j->outcome = outcome;
	j->status = status;
	if (!j->cause)
		j->cause = cause;
}

static void decide_exit(struct test_job *j)
{
	if (j->log.seen & j->config->fail_on)
		set(j, TEST_OOPS, 251, oops_cause(j));
	else
		set(j, TEST_EXIT, j->by_signal ? 128 + j->command_status : j->command_status,
		    j->by_signal ? "signal" : NULL);
}

void test_decide(struct test_job *j, int launcher_status)
{
	enum machine_end_reason reason = j->end->reason;
	bool up = j->ready;

	if (reason == MACHINE_END_HANG && j->doomed_ns) {
		static const int status[] = {
			[TEST_OOPS] = 251,
			[TEST_HANG] = 249,
			[TEST_LOCKUP] = 249,
			[TEST_BOOT_FAILURE] = 254,
		};

		set(j, j->asked, status[j->asked], NULL);
	} else if (reason == MACHINE_END_PANIC) {
		set(j, up ? TEST_PANIC : TEST_BOOT_FAILURE, up ? 250 : 254, "panic");
	} else if (reason == MACHINE_END_TRIPLE_FAULT) {
		set(j, up ? TEST_TRIPLE_FAULT : TEST_BOOT_FAILURE, up ? 252 : 254, "triple-fault");
	} else if (reason == MACHINE_END_TIMEOUT) {
		set(j, up ? TEST_TIMEOUT : TEST_BOOT_FAILURE, up ? 253 : 254, "timeout");
	} else if (reason == MACHINE_END_SIGNAL || reason == MACHINE_END_ASKED) {
		set(j, TEST_MONITOR_FAILURE,
		    WIFEXITED(launcher_status) && WEXITSTATUS(launcher_status)
			    ? WEXITSTATUS(launcher_status)
			    : 125,
		    "interrupted");
	} else if (j->reported) {
		decide_exit(j);
	} else if (reason == MACHINE_END_POWEROFF || reason == MACHINE_END_REBOOT) {
		/* The command may have done that; before it ran, init has said why. */
		set(j, up ? TEST_EXIT : TEST_BOOT_FAILURE, up ? 255 : 254,
		    machine_end_name(reason));
	} else {
		set(j, TEST_MONITOR_FAILURE,
		    reason == MACHINE_END_START_FAILED && WIFEXITED(launcher_status)
			    ? WEXITSTATUS(launcher_status)
			    : 125,
		    machine_end_name(reason));
	}
}
