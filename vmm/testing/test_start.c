/*
 * Starting a job's guest: once, from its kernel; or with --warm from a snapshot, after a first
 * guest that was made for that where there was none.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/core/clock.h"
#include "vmm/testing/test_internal.h"

/* Of the log of a boot, what is kept for those who start from there. */
#define MAX_BOOT_LOG MiB

/* For the last that its saver has to do when a guest was saved and has ended. */
#define SAVER_MS 10000

/* Of a host that runs no guests; docs/test.md. */
#define STATUS_REFUSED 126

/* The ends of a guest's pipes that are its own. */
struct ends {
	int initrd, log, status, plan;
};

/* ---- in the job's own process: the parent of a microVM ---- */

static int open_null(int flags)
{
	return open("/dev/null", flags | O_CLOEXEC);
}

static void add_port(struct launch_ends *ends, const char *name, int in, int out)
{
	ends->port[ends->num_ports++] = (struct machine_port){ name, in, out };
}

/* The status is the last one: once init knows it to be open, the others are. */
static void add_ports(const struct test_job *j, const struct ends *e, struct launch_ends *ends)
{
	int in = STDIN_FILENO, out = STDOUT_FILENO, err = STDERR_FILENO;

	if (!j->alone) {
		in = open_null(O_RDONLY);
		out = err = j->out_fd;
	}
	if (j->phase == TEST_PHASE_MAKE) {
		/* Nobody's: and neither read nor at an end, for whoever goes on from here. */
		in = fcntl(e->plan, F_DUPFD_CLOEXEC, 3);
		out = err = open_null(O_WRONLY);
	}
	/* On a terminal the console has these. */
	if (!j->tty) {
		add_port(ends, "wisp.stdin", in, -1);
		add_port(ends, "wisp.stdout", -1, out);
		add_port(ends, "wisp.stderr", -1, err);
	}
	if (j->phase != TEST_PHASE_COLD)
		add_port(ends, "wisp.plan", e->plan, -1);
	add_port(ends, "wisp.status", -1, e->status);
}

static __attribute__((noreturn)) void launch(struct test_job *j, const struct ends *e)
{
	struct launch_ends ends = { .initrd = e->initrd, .serial_out = e->log };
	struct test_warm_start warm;
	struct error err = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	/* We end it by these, also where a shell without job control has us ignore Ctrl-\. */
	signal(SIGQUIT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	test_unblock_signals();
	add_ports(j, e, &ends);
	if (j->phase == TEST_PHASE_MAKE) {
		j->machine.idle_ports = true;
		/* What is typed by now is for the command. */
		j->machine.console.kind = CHARDEV_NULL;
	} else if (j->phase == TEST_PHASE_WARM) {
		if (test_warm_open(j, &warm, &err) < 0) {
			j->end->reason = MACHINE_END_START_FAILED;
			exit(machine_end_say(j->end, &err));
		}
		ends.image = &warm.image;
	}
	exit(launch_machine(&j->machine, &ends, j->end));
}

/* ---- a phase ---- */

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

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A pipe, of which the job keeps one end and the guest gets the other. */
static int make_pipe(int *ret_read, int *ret_write)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	*ret_read = fds[0];
	*ret_write = fds[1];
	return 0;
}

static int open_pipes(struct test_job *j, struct ends *e)
{
	int r = make_pipe(&j->log_fd, &e->log);

	if (!r)
		r = make_pipe(&j->status_fd, &e->status);
	if (!r && j->phase != TEST_PHASE_COLD)
		r = make_pipe(&e->plan, &j->plan_fd);
	/* We have others to attend to while the guest reads. */
	if (!r && j->plan_fd >= 0 && fcntl(j->plan_fd, F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	return r;
}

/* What it starts from: an archive that is made now, or the snapshot. */
static int prepare(struct test_job *j, struct ends *e, struct error *err)
{
	int r = 0;

	if (j->phase == TEST_PHASE_WARM) {
		r = test_plan_rest(j->config, &j->machine, &j->plan, &j->plan_len);
		return r < 0 ? error_set(err, r, "test: what the guest is to do: %m") : 0;
	}
	e->initrd = test_guest_initrd(j->config, &j->machine, j->tty, j->phase == TEST_PHASE_MAKE,
				      j->release, sizeof(j->release), err);
	return MIN(e->initrd, 0);
}

static int begin(struct test_job *j, enum test_phase phase, struct error *err)
{
	struct ends e = { -1, -1, -1, -1 };
	int r;

	j->phase = phase;
	r = prepare(j, &e, err);
	if (!r && open_pipes(j, &e) < 0)
		r = error_kind_set(err, ERROR_START, -errno, "test: %m");
	if (!r) {
		fflush(NULL);
		j->phase_ns = j->beat_ns = clock_monotonic_ns(NULL);
		j->pid = fork();
		if (j->pid == 0)
			launch(j, &e);
		r = j->pid < 0 ? error_kind_set(err, ERROR_START, -errno, "test: fork: %m")
			       : watch(j, err);
	}
	close_end(&e.initrd);
	close_end(&e.log);
	close_end(&e.status);
	close_end(&e.plan);
	if (!r && phase == TEST_PHASE_WARM)
		test_send_plan(j);
	return r;
}

/* ---- the first one ---- */

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

static void say_cold(const struct error *why)
{
	fprintf(stderr, "wisp: test: a cold start: %s\n", why->msg);
}

/* A warm start is a help: where there can be none the test runs all the same. */
static enum test_phase first_phase(struct test_job *j)
{
	struct error err = { 0 };

	if (!j->config->warm)
		return TEST_PHASE_COLD;
	if (test_warm_find(j, &err) < 0) {
		say_cold(&err);
		return TEST_PHASE_COLD;
	}
	if (test_warm_is_there(j)) {
		test_warm_read_log(j);
		return TEST_PHASE_WARM;
	}
	j->made = true;
	return TEST_PHASE_MAKE;
}

int test_start(struct test_job *j, bool alone, struct error *err)
{
	int r;

	j->started_ns = clock_monotonic_ns(NULL);
	j->alone = alone;
	j->tty = alone && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	r = test_guest_config(j->config, j->kernel, j->index, j->tty, &j->machine, err);
	if (!r)
		r = open_dmesg(j, err);
	if (r < 0)
		return r;
	j->end = launch_share_end(err);
	if (!j->end)
		return -ENOMEM;
	if (!alone && (j->out_fd = memfd_create("output", MFD_CLOEXEC)) < 0)
		return error_kind_set(err, ERROR_START, -errno, "test: %m");
	return begin(j, first_phase(j), err);
}

/* ---- what follows on it ---- */

/* As it was before the guest that has ended. */
static void forget_guest(struct test_job *j)
{
	memset(j->end, 0, sizeof(*j->end));
	j->doomed_ns = 0;
	j->cause = NULL;
	j->status_len = 0;
	j->ready = j->reported = j->saved = j->unsavable = false;
	close_end(&j->plan_fd);
	free(j->plan);
	j->plan = NULL;
	j->plan_len = j->plan_done = 0;
}

static void forget_boot(struct test_job *j)
{
	memset(&j->log, 0, sizeof(j->log));
	if (j->boot.out)
		fclose(j->boot.out);
	free(j->boot.text);
	memset(&j->boot, 0, sizeof(j->boot));
}

/*
 * A guest that never got to the command, and not because somebody wanted it to end or this host
 * would have none: is its snapshot to blame?
 */
static bool is_stale(const struct test_job *j, int launcher_status)
{
	enum machine_end_reason reason = j->end->reason;

	if (j->phase != TEST_PHASE_WARM || j->ready || j->reported)
		return false;
	if (WIFEXITED(launcher_status) && WEXITSTATUS(launcher_status) == STATUS_REFUSED)
		return false;
	return reason != MACHINE_END_SIGNAL && reason != MACHINE_END_ASKED &&
	       reason != MACHINE_END_TIMEOUT;
}

static int phase_after_make(struct test_job *j)
{
	test_warm_reap(j, SAVER_MS);
	if (j->saver) {
		test_warm_give_up(j);
		j->unsavable = true;
	}
	if (j->saved && j->end->reason == MACHINE_END_ASKED)
		return test_warm_is_there(j) ? TEST_PHASE_WARM : TEST_PHASE_COLD;
	return j->unsavable ? TEST_PHASE_COLD : -1;
}

/* Which phase comes now; -1: none, it has ended. */
static int next_phase(struct test_job *j, int launcher_status)
{
	if (j->told)
		return -1;
	if (j->phase == TEST_PHASE_MAKE)
		return phase_after_make(j);
	if (!is_stale(j, launcher_status))
		return -1;
	fprintf(stderr, "wisp: test: the guest that was saved did not come to the command: %s\n",
		j->made ? "a cold start" : "another one is made");
	/* Until that is saved, and takes its place, it stays: it may not be to blame. */
	if (!j->made)
		return TEST_PHASE_MAKE;
	/* Now the same host has just made it, and it ran: it is. */
	if (j->end->reason != MACHINE_END_START_FAILED)
		test_warm_remove(j);
	return TEST_PHASE_COLD;
}

bool test_go_on(struct test_job *j, int *launcher_status)
{
	int phase = next_phase(j, *launcher_status);
	struct error err = { 0 };

	if (phase < 0)
		return false;
	forget_guest(j);
	if (phase != TEST_PHASE_WARM)
		forget_boot(j);
	j->made = true;
	if (begin(j, phase, &err) == 0)
		return true;
	j->end->reason = MACHINE_END_START_FAILED;
	*launcher_status = W_EXITCODE(machine_end_say(j->end, &err), 0);
	return false;
}

/* ---- what is said meanwhile ---- */

void test_take_log(struct test_job *j, const char *p, size_t len)
{
	test_log_feed(&j->log, p, len);
	if (j->dmesg)
		fwrite(p, 1, len, j->dmesg);
	if (j->phase != TEST_PHASE_MAKE)
		return;
	if (!j->boot.out)
		j->boot.out = open_memstream(&j->boot.text, &j->boot.len);
	if (j->boot.out && ftell(j->boot.out) < (long)MAX_BOOT_LOG)
		fwrite(p, 1, len, j->boot.out);
}

void test_send_plan(struct test_job *j)
{
	while (j->plan_done < j->plan_len) {
		ssize_t n = write(j->plan_fd, j->plan + j->plan_done, j->plan_len - j->plan_done);

		if (n < 0 && errno == EINTR)
			continue;
		/* When its reader is gone there is nobody to tell, and its end will show. */
		if (n < 0 && errno != EAGAIN)
			j->plan_done = j->plan_len;
		if (n < 0)
			return;
		j->plan_done += n;
	}
}

void test_send_time(const struct test_job *j)
{
	uint64_t now = htole64(clock_realtime_ns(NULL));

	/* The pipe is empty, unless the guest asks without end. */
	if (j->plan_fd >= 0 && j->plan_done == j->plan_len)
		(void)!write(j->plan_fd, &now, sizeof(now));
}
