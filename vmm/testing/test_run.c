/* The supervisor: listens to jobs, ends those that are stuck, and decides. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/core/clock.h"
#include "vmm/testing/test_internal.h"

/* How long a kernel may go on telling what is wrong before we end it. */
#define LAST_WORDS_NS (3 * NSEC_PER_SEC)
/* And how long a monitor that was asked to end. */
#define END_NS	 ((TEST_LAST_WORDS + 20) * NSEC_PER_SEC)
#define ROUND_MS 500

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
	test_take_log(j, buf, n);
}

/* What it said before the line of the status that is being read. */
static void read_log_so_far(struct test_job *j)
{
	struct pollfd p = { .fd = j->log_fd, .events = POLLIN };

	while (j->log_fd >= 0 && poll(&p, 1, 0) > 0)
		read_log(j);
}

/* It would wait for ever: another one does without. */
static void give_up_save(struct test_job *j)
{
	if (j->unsavable)
		return;
	test_warm_give_up(j);
	kill(j->pid, SIGTERM);
	j->doomed_ns = clock_monotonic_ns(NULL) + END_NS;
	j->unsavable = true;
}

/* It is as far as all that come after it are. */
static void save(struct test_job *j)
{
	struct error err = { 0 };

	if (j->phase != TEST_PHASE_MAKE || j->saver || j->saved)
		return;
	read_log_so_far(j);
	/* To be saved takes time as well. */
	j->phase_ns = clock_monotonic_ns(NULL);
	if (test_warm_save(j, &err) < 0) {
		error_print(&err);
		give_up_save(j);
	}
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
	} else if (!strcmp(line, "warm")) {
		save(j);
	} else if (!strcmp(line, "awake")) {
		test_send_time(j);
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

/* One that is being saved ends when that is done, and otherwise is not worth waiting for. */
static void look_at_saver(struct test_job *j, uint64_t now)
{
	if (j->saver) {
		test_warm_reap(j, 0);
		if (!j->saver && j->saved)
			j->doomed_ns = now + END_NS;
		else if (!j->saver || now - j->phase_ns > j->config->boot_timeout * NSEC_PER_SEC)
			give_up_save(j);
	}
	if (!(j->saved || j->unsavable) || now < j->doomed_ns)
		return;
	/* It was asked to end, and does not. */
	j->unsavable = true;
	kill(j->pid, SIGKILL);
}

static void look(struct test_job *j)
{
	const struct test_config *t = j->config;
	uint64_t now = clock_monotonic_ns(NULL);

	if (j->told) {
		if (now > j->told_ns + END_NS)
			kill(j->pid, SIGKILL);
		return;
	}
	look_at_saver(j, now);
	if (j->saver || j->saved || j->unsavable)
		return;
	if (!j->ready && now - j->phase_ns > t->boot_timeout * NSEC_PER_SEC)
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
	if (test_go_on(j, &status))
		return;
	close_end(&j->plan_fd);
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
	struct pollfd p[4 * TEST_MAX_KERNELS];
	unsigned left = 0;

	for (unsigned i = 0; i < num; i++) {
		p[4 * i] = (struct pollfd){ .fd = jobs[i].log_fd, .events = POLLIN };
		p[4 * i + 1] = (struct pollfd){ .fd = jobs[i].status_fd, .events = POLLIN };
		p[4 * i + 2] = (struct pollfd){ .fd = jobs[i].pid_fd, .events = POLLIN };
		p[4 * i + 3] = (struct pollfd){ .fd = jobs[i].plan_fd, .events = POLLOUT };
		if (jobs[i].plan_done == jobs[i].plan_len)
			p[4 * i + 3].fd = -1;
	}
	poll(p, 4 * num, ROUND_MS);
	for (unsigned i = 0; i < num; i++) {
		struct test_job *j = &jobs[i];

		if (j->pid_fd < 0)
			continue;
		if (j->log_fd >= 0 && p[4 * i].revents)
			read_log(j);
		if (j->status_fd >= 0 && p[4 * i + 1].revents)
			read_status(j);
		if (p[4 * i + 3].revents)
			test_send_plan(j);
		if (p[4 * i + 2].revents)
			end(j);
		else
			look(j);
		left += j->pid_fd >= 0;
	}
	return left;
}

/* ---- deciding ---- */

static void set(struct test_job *j, enum test_outcome outcome, int status, const char *cause)
{
	j->outcome = outcome;
	j->status = status;
	if (!j->cause)
		j->cause = cause;
}

/* What we may have ended it for ourselves before, is the cause no longer. */
static void interrupted(struct test_job *j, int launcher_status, const char *cause)
{
	int status = 125;

	j->cause = NULL;
	if (j->told)
		status = 128 + j->told;
	else if (WIFEXITED(launcher_status) && WEXITSTATUS(launcher_status))
		status = WEXITSTATUS(launcher_status);
	set(j, TEST_MONITOR_FAILURE, status, cause);
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

	machine_end_message(j->end, j->message, sizeof(j->message));
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
	} else if (reason == MACHINE_END_SIGNAL || reason == MACHINE_END_ASKED ||
		   ((reason == MACHINE_END_NONE || reason == MACHINE_END_HANG) && j->told)) {
		interrupted(j, launcher_status, "interrupted");
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

/* ---- all of them ---- */

static void ending_signals(sigset_t *set)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction action;

	sigemptyset(set);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		/* Whoever had us ignore it (nohup) knows why; blocked, it would not be ignored. */
		sigaction(numbers[i], NULL, &action);
		if (action.sa_handler != SIG_IGN)
			sigaddset(set, numbers[i]);
	}
}

void test_unblock_signals(void)
{
	sigset_t set;

	ending_signals(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* What is typed is its microVM's as well; others may have come to us alone. A second one kills. */
static void tell_to_end(struct test_job *j, int number)
{
	if (j->saver)
		test_warm_give_up(j);
	if (j->pid_fd >= 0)
		kill(j->pid, j->told ? SIGKILL : SIGTERM);
	if (j->told)
		return;
	j->told = number;
	j->told_ns = clock_monotonic_ns(NULL);
}

/* Reports name it all the same. */
static void leave_out(struct test_job *j)
{
	snprintf(j->release, sizeof(j->release), "%s", j->kernel ?: "");
	interrupted(j, 0, "not started");
}

/* Are we to end? We stay until all have ended, and tell how. */
static bool are_told_to_end(struct test_job *jobs, unsigned num)
{
	static const struct timespec at_once = { 0 };
	sigset_t set;
	int number;

	ending_signals(&set);
	number = sigtimedwait(&set, NULL, &at_once);
	for (unsigned i = 0; number > 0 && i < num; i++)
		tell_to_end(&jobs[i], number);
	return number > 0;
}

int test_run_all(const struct test_config *t, struct test_job *jobs, unsigned num,
		 struct error *err)
{
	unsigned started = 0, running = 0;
	bool told = false;
	sigset_t set;
	int r = 0;

	ending_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	while ((started < num && !told) || running) {
		while (started < num && running < t->jobs && !r && !told) {
			struct test_job *j = &jobs[started];

			r = test_start(j, num == 1, err);
			if (r < 0)
				break;
			started++;
			running++;
		}
		if (r < 0 && !running)
			return r;
		running = attend(jobs, started);
		told |= are_told_to_end(jobs, num);
	}
	for (; started < num; started++)
		leave_out(&jobs[started]);
	return r;
}
