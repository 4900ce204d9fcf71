/*
 * `wisp batch`: runs a list of jobs, each a `wisp run` or `wisp test`, within a budget of
 * processors and memory.
 *
 * The jobs and which of them is next (batch_queue.c) are plain data and pure code; the list
 * (batch_file.c) and the journal of what has finished (batch_journal.c) are files; batch.c
 * starts processes and waits for them. One thread.
 */
#ifndef WISP_VMM_BATCH_H
#define WISP_VMM_BATCH_H

#include <stdio.h>

#include "vmm/config/config_parse.h"

enum batch_policy { BATCH_FCFS, BATCH_SJF, BATCH_PRIORITY };

enum batch_state { BATCH_WAITING, BATCH_RUNNING, BATCH_FINISHED };

/* Times are milliseconds on the clock of the day: they outlive the queue, in its journal. */
struct batch_job {
	char *name;
	char **word; /* "run" or "test" and its arguments, up to NULL */
	unsigned num_words;
	unsigned line; /* in the list */
	uint64_t hash; /* of the words: the same name with others is another job */

	unsigned cpus;
	uint64_t memory_bytes;
	unsigned priority;    /* larger is sooner */
	uint64_t expected_ms; /* how long it may take; 0: not said */
	unsigned retries;     /* how often it is tried again */

	enum batch_state state;
	unsigned attempts;
	int status; /* of the last attempt, as a shell has it */
	pid_t pid;
	uint64_t submitted_ms, started_ms, ended_ms;
	uint64_t waited_ms; /* before its first start, and between tries */
	uint64_t ran_ms;    /* of all tries */
	bool earlier;	    /* finished before this queue was started */
};

/* What jobs may take at once, and what they do take. */
struct batch_room {
	unsigned cpus, jobs;
	uint64_t memory_bytes;
};

struct batch_list {
	struct batch_job *job;
	unsigned num;
};

/* ---- batch_queue.c ---- */

/* What a job without an expected duration counts for. */
#define BATCH_EXPECTED_MS (60 * 1000)

/* So long a wait is worth one step of priority. */
#define BATCH_AGEING_MS (60 * 1000)

/* What the jobs that run now have together. */
struct batch_room batch_used(const struct batch_list *list);

/*
 * The job to start at @now_ms, or NULL: none waits, or the one whose turn it is has no room yet.
 * No other is started in its place, so a large job is not starved by small ones.
 *
 *   fcfs      in the order of the list
 *   sjf       the shortest expected first. Each second of waiting counts as one less expected, so
 *             one of E seconds is only overtaken by those that came at most E seconds after it
 *   priority  the highest first, with one step more for each minute of waiting
 *
 * Those that are equal go in the order of the list.
 */
struct batch_job *batch_next(const struct batch_list *list, enum batch_policy policy,
			     const struct batch_room *budget, uint64_t now_ms);

/* It runs, as process @pid, since @now_ms: one more attempt, and its waiting until then counted. */
void batch_start(struct batch_job *job, pid_t pid, uint64_t now_ms);

/* It ended with @status: finished, or waiting for another try. */
void batch_end(struct batch_job *job, int status, uint64_t now_ms);

struct batch_sums {
	unsigned succeeded, failed, waiting, running, earlier;
	uint64_t mean_wait_ms, max_wait_ms, mean_turnaround_ms, max_turnaround_ms;
	uint64_t cpu_ms; /* processors that jobs had, times how long, in this queue's time */
};

/* Of finished jobs; turnaround is from the list to the end. */
void batch_sum(const struct batch_list *list, struct batch_sums *ret);

/* ---- batch_file.c ---- */

/* What `wisp test` gives a guest by itself. */
#define BATCH_TEST_MEMORY (1 * GiB)

/*
 * Read the list @path: a job a line, [KEY=VALUE]... run|test ARGUMENT...
 * Kind USAGE errors name the line. A job that is larger than @budget is one.
 */
int batch_read(struct batch_list *list, const char *path, const struct batch_room *budget,
	       struct error *err);
/* The same of a stream. */
int batch_parse(struct batch_list *list, FILE *in, const char *path,
		const struct batch_room *budget, struct error *err);
void batch_free(struct batch_list *list);

/* ---- batch_journal.c ---- */

/*
 * Open the journal @path, made when it is missing, and mark jobs of @list that finished in it. The
 * descriptor is locked: -EBUSY, kind USAGE, when another queue has it.
 */
int batch_journal_open(const char *path, struct batch_list *list, struct error *err);

/* @job has finished; on return that is on the disk. -errno. */
int batch_journal_add(int fd, const struct batch_job *job);

/* ---- batch_report.c ---- */

struct batch_facts {
	enum batch_policy policy;
	struct batch_room budget, peak;
	uint64_t begun_ms, now_ms;
	uint64_t host_cpu_ms; /* processor time of all that has ended */
};

/* The live table; returns how many lines it has. */
unsigned batch_print_table(FILE *out, const struct batch_list *list,
			   const struct batch_facts *facts);
void batch_print_report(FILE *out, const struct batch_list *list, const struct batch_facts *facts);
void batch_print_json(FILE *out, const struct batch_list *list, const struct batch_facts *facts);

/* ---- batch.c ---- */

extern const struct config_item batch_options[];

/* The arguments behind "batch"; its exit status (struct cli_verb). */
int batch_main(int argc, char **argv);

#endif
