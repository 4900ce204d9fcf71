#include "vmm/fleet/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/usage.h"

#define MEMBER(m) offsetof(struct batch_options, m)

#define MAX_JOBS    1024
#define TABLE_EVERY 1000 /* ms */

struct batch_options {
	char *journal, *output;
	enum batch_policy policy;
	struct batch_room budget;
	bool json;
};

static int parse_memory(struct config_parse *p, const char *value, void *target)
{
	struct batch_options *o = target;

	if (config_parse_size(value, MiB, &o->budget.memory_bytes) < 0)
		return config_fail(p, "'%s' is not a size such as 512M or 2G", value);
	return 0;
}

const struct config_item batch_options[] = {
	{ "--cpus", "N", "Virtual processors that jobs may have at once (the host's)",
	  CONFIG_NUMBER, MEMBER(budget.cpus), 1, 65536 },
	{ "--memory", "SIZE", "Memory that jobs may have at once (what the host has available)",
	  CONFIG_CUSTOM, .parse = parse_memory },
	{ "--jobs", "N", "Jobs at once (as many as there is room for)", CONFIG_NUMBER,
	  MEMBER(budget.jobs), 1, MAX_JOBS },
	{ "--policy", "fcfs|sjf|priority",
	  "Who is next: the first of the list, the shortest expected, or the highest priority. "
	  "Waiting counts, so that none starves (fcfs)",
	  CONFIG_CHOICE, MEMBER(policy) },
	{ "--journal", "PATH", "Where it is kept what has finished (FILE.journal)", CONFIG_STRING,
	  MEMBER(journal) },
	{ "--output", "DIR", "Where each job's output goes, as NAME.log (FILE.out)", CONFIG_STRING,
	  MEMBER(output) },
	{ "--json", NULL, "Print the report as one JSON object, and nothing before it", CONFIG_FLAG,
	  MEMBER(json) },
	{ 0 },
};

struct batch {
	const struct batch_options *options;
	struct batch_list list;
	struct batch_facts facts;
	char self[PATH_MAX];
	int journal_fd, signal_fd, output_fd;
	int signal;	      /* that asked for the end, or 0 */
	bool live;	      /* a table is on the terminal, */
	unsigned table_lines; /* so high */
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / NSEC_PER_MSEC;
}

/* ---- one job ---- */

/* In the child: never returns. */
static void exec_job(const struct batch *b, const struct batch_job *j, pid_t queue)
{
	char **argv = calloc(j->num_words + 2, sizeof(*argv));
	char log[80];
	sigset_t none;
	int in, out;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* A job ends with its queue, however that ends; it is run again by the next one. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != queue || !argv)
		_exit(125);
	/* Terminal signals are the queue's to act on. */
	setpgid(0, 0);
	snprintf(log, sizeof(log), "%s.log", j->name);
	in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	out = openat(b->output_fd, log,
		     O_WRONLY | O_CREAT | O_CLOEXEC | (j->attempts > 1 ? O_APPEND : O_TRUNC), 0644);
	if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(125);
	argv[0] = (char *)b->self;
	memcpy(argv + 1, j->word, j->num_words * sizeof(*argv));
	execv(b->self, argv);
	_exit(125);
}

static int start_job(struct batch *b, struct batch_job *j, struct error *err)
{
	pid_t queue = getpid(), pid;

	fflush(NULL);
	pid = fork();
	/* One that never ran waits as before, or the queue would wait for its end. */
	if (pid < 0)
		return error_set(err, -errno, "job %s: cannot fork: %m", j->name);
	/* In both: the child looks at it too. */
	batch_start(j, pid, now_ms());
	if (pid == 0)
		exec_job(b, j, queue);
	return 0;
}

static void say(struct batch *b, const struct batch_job *j, const char *what)
{
	if (b->live || b->options->json)
		return;
	printf("%8.2f %s %s", (double)(now_ms() - b->facts.begun_ms) / 1000, j->name, what);
	if (j->state != BATCH_RUNNING)
		printf(" with status %d after %.2f s", j->status, (double)j->ran_ms / 1000);
	putchar('\n');
	fflush(stdout);
}

static int job_ended(struct batch *b, struct batch_job *j, int wait_status, struct error *err)
{
	int r = 0;

	batch_end(j,
		  WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status),
		  now_ms());
	/* One that the queue itself ended has not finished: the next queue runs it. */
	if (b->signal) {
		j->state = BATCH_WAITING;
		return 0;
	}
	say(b, j, j->state == BATCH_FINISHED ? "ended" : "is tried again, having ended");
	if (j->state == BATCH_FINISHED)
		r = batch_journal_add(b->journal_fd, j);
	return r < 0 ? error_set(err, r, "journal: cannot write: %s", strerror(-r)) : 0;
}

/* ---- all of them ---- */

static int start_what_fits(struct batch *b, struct error *err)
{
	struct batch_room used;
	struct batch_job *j;

	while (!b->signal &&
	       (j = batch_next(&b->list, b->facts.policy, &b->facts.budget, now_ms()))) {
		int r = start_job(b, j, err);

		if (r < 0)
			return r;
		say(b, j, "starts");
		used = batch_used(&b->list);
		b->facts.peak.jobs = MAX(b->facts.peak.jobs, used.jobs);
		b->facts.peak.cpus = MAX(b->facts.peak.cpus, used.cpus);
		b->facts.peak.memory_bytes = MAX(b->facts.peak.memory_bytes, used.memory_bytes);
	}
	return 0;
}

/* All who have ended, also when one's end cannot be noted: no other signal comes for the rest. */
static int reap(struct batch *b, struct error *err)
{
	struct rusage usage;
	int status, r = 0;
	pid_t pid;

	while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
		b->facts.host_cpu_ms += (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
					(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
		for (unsigned i = 0; i < b->list.num; i++)
			if (b->list.job[i].pid == pid) {
				int ended = job_ended(b, &b->list.job[i], status, err);

				r = r ? r : ended;
				break;
			}
	}
	return r;
}

static void end_jobs(struct batch *b)
{
	for (unsigned i = 0; i < b->list.num; i++)
		if (b->list.job[i].pid > 0)
			kill(b->list.job[i].pid, SIGTERM);
}

static void show_table(struct batch *b)
{
	if (!b->live)
		return;
	b->facts.now_ms = now_ms();
	/* Over the last one. */
	if (b->table_lines)
		printf("\033[%uA\033[J", b->table_lines);
	b->table_lines = batch_print_table(stdout, &b->list, &b->facts);
	fflush(stdout);
}

static void await_signal(struct batch *b)
{
	struct pollfd p = { .fd = b->signal_fd, .events = POLLIN };
	struct signalfd_siginfo info;

	if (poll(&p, 1, b->live ? TABLE_EVERY : -1) <= 0)
		return;
	while (read(b->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			continue;
		b->signal = (int)info.ssi_signo;
		end_jobs(b);
	}
}

/* After the first error nothing starts any more, and what runs is ended. */
static int run_all(struct batch *b, struct error *err)
{
	int r, failed = 0;

	for (;;) {
		r = reap(b, err);
		if (!r)
			r = start_what_fits(b, err);
		if (r < 0 && !failed) {
			failed = r;
			b->signal = SIGTERM;
			end_jobs(b);
		}
		show_table(b);
		if (!batch_used(&b->list).jobs)
			return failed;
		await_signal(b);
	}
}

/* ---- beginning and end ---- */

static int choose_budget(struct batch_options *o, struct error *err)
{
	struct host_room room;
	int r = host_room_read(&room);

	if (r < 0)
		return error_set(err, r, "/proc/meminfo: %s", strerror(-r));
	if (!o->budget.cpus)
		o->budget.cpus = room.cpus;
	if (!o->budget.memory_bytes)
		o->budget.memory_bytes = room.available_bytes;
	if (!o->budget.jobs)
		o->budget.jobs = MAX_JOBS;
	return 0;
}

/* @given, or the list's name with @suffix; for the caller to free. */
static char *beside(const char *given, const char *list, const char *suffix)
{
	char *path;

	if (given)
		return strdup(given);
	return asprintf(&path, "%s%s", list, suffix) < 0 ? NULL : path;
}

static int open_output(const char *path, struct error *err)
{
	int fd;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_usage(err, -errno, "output '%s': cannot make it: %m", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? error_usage(err, -errno, "output '%s': cannot open: %m", path) : fd;
}

static int open_signals(struct error *err)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return fd < 0 ? error_set(err, -errno, "signals: %m") : fd;
}

static int open_all(struct batch *b, const char *file, struct error *err)
{
	const struct batch_options *o = b->options;
	char *journal = beside(o->journal, file, ".journal");
	char *output = beside(o->output, file, ".out");
	ssize_t n = readlink("/proc/self/exe", b->self, sizeof(b->self) - 1);
	int r = 0;

	if (!journal || !output || n < 0)
		r = error_set(err, n < 0 ? -errno : -ENOMEM, "batch: %m");
	if (!r)
		r = batch_read(&b->list, file, &o->budget, err);
	if (!r)
		r = b->output_fd = open_output(output, err);
	if (r >= 0)
		r = b->journal_fd = batch_journal_open(journal, &b->list, err);
	if (r >= 0)
		r = b->signal_fd = open_signals(err);
	free(journal);
	free(output);
	return r < 0 ? r : 0;
}

static void report(struct batch *b)
{
	b->facts.now_ms = now_ms();
	if (b->live && b->table_lines)
		printf("\033[%uA\033[J", b->table_lines);
	if (b->options->json)
		batch_print_json(stdout, &b->list, &b->facts);
	else
		batch_print_report(stdout, &b->list, &b->facts);
	fflush(stdout);
}

static int run(struct batch_options *o, const char *file, struct error *err)
{
	struct batch b = {
		.options = o,
		.facts = { .policy = o->policy },
		.journal_fd = -1,
		.signal_fd = -1,
		.output_fd = -1,
		.live = !o->json && isatty(STDOUT_FILENO),
	};
	struct batch_sums sums;
	int r = choose_budget(o, err);

	b.facts.budget = o->budget;
	if (!r)
		r = open_all(&b, file, err);
	if (!r) {
		b.facts.begun_ms = now_ms();
		for (unsigned i = 0; i < b.list.num; i++)
			b.list.job[i].submitted_ms = b.facts.begun_ms;
		r = run_all(&b, err);
		report(&b);
		batch_sum(&b.list, &sums);
		if (!r)
			r = b.signal ? 128 + b.signal : sums.failed > 0;
	}
	if (b.journal_fd >= 0)
		close(b.journal_fd);
	if (b.output_fd >= 0)
		close(b.output_fd);
	if (b.signal_fd >= 0)
		close(b.signal_fd);
	batch_free(&b.list);
	return r;
}

int batch_main(int argc, char **argv)
{
	struct batch_options o = { 0 };
	struct error err = { 0 };
	const char *file = NULL;
	int r = config_parse_verb("batch", batch_options, &o, argc, argv, &file, 1, &err);

	if (r == 0)
		r = error_usage(&err, -EINVAL, "batch: which list of jobs?");
	if (r > 0)
		r = run(&o, file, &err);
	if (r < 0) {
		error_print(&err);
		r = error_status(&err);
	}
	free(o.journal);
	free(o.output);
	return r;
}
