/*
 * sim [--seeds N] [--from SEED] [--jobs N] [--steps N] : run worlds (world.h), one for each seed.
 * sim --replay SEED [--steps N]                        : one of them, saying what happens.
 *
 * Worlds run in child processes, so that one which crashes or hangs is known by its seed as well:
 * it is replayed with its schedule printed, and sim ends with status 1.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/world.h"

#define DEFAULT_STEPS 400u
#define WORLD_SECONDS 20u /* one takes milliseconds */
#define MAX_JOBS      64u

struct totals {
	uint64_t worlds, requests, resets, pauses, moves, operations, faults;
};

/* What a child tells: shared memory, so it is known after a crash too. */
struct job {
	uint64_t seed;
	struct totals totals;
	pid_t pid;
};

static void say_nothing(const char *fmt, ...)
{
}

static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

static void __attribute__((noreturn)) wrong(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	va_start(ap, fmt);
	fputs("WRONG: ", stderr);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(1);
}

static void run_world(uint64_t seed, unsigned steps, bool tell, struct totals *t)
{
	struct world *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->trace = tell ? say : say_nothing;
	w->wrong = wrong;
	alarm(WORLD_SECONDS);
	world_run(w, seed, steps);
	alarm(0);
	t->worlds++;
	t->requests += w->requests;
	t->resets += w->resets;
	t->pauses += w->pauses;
	t->moves += w->moves;
	t->operations += w->sim.operations;
	t->faults += w->sim.faults;
	free(w);
}

static pid_t start(struct job *j, uint64_t from, uint64_t end, unsigned stride, unsigned steps)
{
	pid_t pid = fork();

	if (pid < 0) {
		perror("sim: fork");
		exit(1);
	}
	if (pid)
		return pid;
	/* What goes wrong is told by the replay. */
	if (!freopen("/dev/null", "w", stderr))
		_exit(1);
	log_setup(-1, LOG_ERROR);
	for (j->seed = from; j->seed < end; j->seed += stride)
		run_world(j->seed, steps, false, &j->totals);
	_exit(0);
}

static int replay(uint64_t seed, unsigned steps)
{
	struct totals t = { 0 };

	log_setup(STDERR_FILENO, LOG_DEBUG);
	run_world(seed, steps, true, &t);
	return 0;
}

static int run_all(uint64_t from, uint64_t seeds, unsigned num_jobs, unsigned steps)
{
	struct job *job = mmap(NULL, sizeof(*job) * MAX_JOBS, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct totals t = { 0 };
	uint64_t first = UINT64_MAX;
	int status, failed = 0;

	if (job == MAP_FAILED) {
		perror("sim: memory");
		return 1;
	}
	fflush(stdout);
	for (unsigned i = 0; i < num_jobs; i++)
		job[i].pid = start(&job[i], from + i, from + seeds, num_jobs, steps);
	for (unsigned i = 0; i < num_jobs; i++) {
		while (waitpid(job[i].pid, &status, 0) < 0 && errno == EINTR)
			;
		if (status) {
			printf("sim: seed %llu fails\n", (unsigned long long)job[i].seed);
			failed++;
			first = MIN(first, job[i].seed);
		}
		t.worlds += job[i].totals.worlds;
		t.requests += job[i].totals.requests;
		t.resets += job[i].totals.resets;
		t.pauses += job[i].totals.pauses;
		t.moves += job[i].totals.moves;
		t.operations += job[i].totals.operations;
		t.faults += job[i].totals.faults;
	}
	printf("sim: %llu worlds: %llu requests, %llu resets, %llu pauses, %llu moves, "
	       "%llu operations, %llu of them failed; %d seeds wrong\n",
	       (unsigned long long)t.worlds, (unsigned long long)t.requests,
	       (unsigned long long)t.resets, (unsigned long long)t.pauses,
	       (unsigned long long)t.moves, (unsigned long long)t.operations,
	       (unsigned long long)t.faults, failed);
	if (!failed)
		return 0;
	printf("sim: --replay %llu --steps %u:\n", (unsigned long long)first, steps);
	replay(first, steps);
	return 1;
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "seeds", required_argument, NULL, 's' }, { "from", required_argument, NULL, 'f' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "steps", required_argument, NULL, 'n' },
		{ "replay", required_argument, NULL, 'r' }, { 0 },
	};
	unsigned long long seeds = 1000, from = 1, jobs = 2, steps = DEFAULT_STEPS, one = 0;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		unsigned long long v = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (c) {
		case 's':
			seeds = v;
			break;
		case 'f':
			from = v;
			break;
		case 'j':
			jobs = v;
			break;
		case 'n':
			steps = v;
			break;
		case 'r':
			one = v;
			break;
		default:
			return 2;
		}
	}
	/* An assertion of the fakes' ends in a stack to look at. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	if (one)
		return replay(one, (unsigned)steps);
	if (!jobs || jobs > MAX_JOBS)
		return 2;
	return run_all(from, seeds, (unsigned)jobs, (unsigned)steps);
}
