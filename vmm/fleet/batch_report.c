/* What a queue shows while it works, and what it says at its end. */
#include "vmm/fleet/batch.h"

#include <inttypes.h>
#include <jansson.h>

#include "vmm/cli/usage.h"

static const char *const policy_names[] = { "fcfs", "sjf", "priority" };

static double seconds(uint64_t ms)
{
	return (double)ms / 1000;
}

static uint64_t makespan_ms(const struct batch_facts *f)
{
	return f->now_ms > f->begun_ms ? f->now_ms - f->begun_ms : 0;
}

/* The part of the budget's processors that jobs had, from 0 to 1. */
static double use_of_budget(const struct batch_sums *s, const struct batch_facts *f)
{
	double whole = (double)makespan_ms(f) * f->budget.cpus;

	return whole > 0 ? (double)s->cpu_ms / whole : 0;
}

unsigned batch_print_table(FILE *out, const struct batch_list *list, const struct batch_facts *f)
{
	char used[USAGE_SIZE_TEXT], budget[USAGE_SIZE_TEXT];
	struct batch_room now = batch_used(list);
	struct batch_sums s;
	unsigned lines = 2;

	batch_sum(list, &s);
	fprintf(out,
		"%s: %u waiting, %u running, %u done, %u failed   CPUs %u/%u, memory %s/%s, "
		"%.0f s\n",
		policy_names[f->policy], s.waiting, s.running, s.succeeded, s.failed, now.cpus,
		f->budget.cpus, usage_size_text(used, now.memory_bytes),
		usage_size_text(budget, f->budget.memory_bytes), seconds(makespan_ms(f)));
	fprintf(out, "%-20s %4s %8s %8s %8s %s\n", "RUNNING", "CPUS", "MEMORY", "SECONDS",
		"EXPECTED", "TRY");
	for (unsigned i = 0; i < list->num; i++) {
		const struct batch_job *j = &list->job[i];

		if (j->state != BATCH_RUNNING)
			continue;
		fprintf(out, "%-20s %4u %8s %8.0f %8.0f %u\n", j->name, j->cpus,
			usage_size_text(used, j->memory_bytes),
			seconds(f->now_ms - MIN(f->now_ms, j->started_ms)), seconds(j->expected_ms),
			j->attempts);
		lines++;
	}
	return lines;
}

static void print_jobs(FILE *out, const struct batch_list *list)
{
	fprintf(out, "%-20s %6s %5s %9s %9s %10s\n", "JOB", "STATUS", "TRIES", "WAITED", "RAN",
		"TURNAROUND");
	for (unsigned i = 0; i < list->num; i++) {
		const struct batch_job *j = &list->job[i];

		if (j->state != BATCH_FINISHED)
			fprintf(out, "%-20s %6s\n", j->name, "-");
		else
			fprintf(out, "%-20s %6d %5u %8.2fs %8.2fs %9.2fs%s\n", j->name, j->status,
				j->attempts, seconds(j->waited_ms), seconds(j->ran_ms),
				seconds(j->waited_ms + j->ran_ms), j->earlier ? "  before" : "");
	}
}

void batch_print_report(FILE *out, const struct batch_list *list, const struct batch_facts *f)
{
	char peak[USAGE_SIZE_TEXT], budget[USAGE_SIZE_TEXT];
	struct batch_sums s;

	batch_sum(list, &s);
	print_jobs(out, list);
	fprintf(out,
		"%u done, %u failed, %u not run%s; by %s in %.2f s\n"
		"waiting time: mean %.2f s, most %.2f s; turnaround: mean %.2f s, most %.2f s\n"
		"at once at most: %u of %u jobs, %u of %u CPUs, %s of %s\n"
		"use: %.0f%% of the budget's CPUs were given to jobs; processor time %.2f s\n",
		s.succeeded, s.failed, s.waiting + s.running,
		s.earlier ? " (some before this queue was started)" : "", policy_names[f->policy],
		seconds(makespan_ms(f)), seconds(s.mean_wait_ms), seconds(s.max_wait_ms),
		seconds(s.mean_turnaround_ms), seconds(s.max_turnaround_ms), f->peak.jobs,
		f->budget.jobs, f->peak.cpus, f->budget.cpus,
		usage_size_text(peak, f->peak.memory_bytes),
		usage_size_text(budget, f->budget.memory_bytes), use_of_budget(&s, f) * 100,
		seconds(f->host_cpu_ms));
}

static json_t *job_object(const struct batch_job *j)
{
	if (j->state != BATCH_FINISHED)
		return json_pack("{s:s, s:b}", "job", j->name, "finished", 0);
	return json_pack("{s:s, s:b, s:i, s:i, s:I, s:I, s:I, s:I, s:i, s:I, s:b}", "job", j->name,
			 "finished", 1, "status", j->status, "attempts", j->attempts, "started_ms",
			 (json_int_t)j->started_ms, "ended_ms", (json_int_t)j->ended_ms,
			 "waited_ms", (json_int_t)j->waited_ms, "ran_ms", (json_int_t)j->ran_ms,
			 "cpus", j->cpus, "memory", (json_int_t)j->memory_bytes, "earlier",
			 j->earlier);
}

void batch_print_json(FILE *out, const struct batch_list *list, const struct batch_facts *f)
{
	json_t *jobs = json_array(), *all;
	struct batch_sums s;

	batch_sum(list, &s);
	for (unsigned i = 0; i < list->num; i++)
		json_array_append_new(jobs, job_object(&list->job[i]));
	all = json_pack("{s:s, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:f, s:I,"
			" s:{s:i, s:i, s:I}, s:o}",
			"policy", policy_names[f->policy], "done", s.succeeded, "failed", s.failed,
			"not_run", s.waiting + s.running, "earlier", s.earlier, "makespan_ms",
			(json_int_t)makespan_ms(f), "mean_wait_ms", (json_int_t)s.mean_wait_ms,
			"max_wait_ms", (json_int_t)s.max_wait_ms, "mean_turnaround_ms",
			(json_int_t)s.mean_turnaround_ms, "max_turnaround_ms",
			(json_int_t)s.max_turnaround_ms, "use", use_of_budget(&s, f), "cpu_ms",
			(json_int_t)f->host_cpu_ms, "peak", "jobs", f->peak.jobs, "cpus",
			f->peak.cpus, "memory", (json_int_t)f->peak.memory_bytes, "jobs", jobs);
	json_dumpf(all, out, JSON_COMPACT);
	fputc('\n', out);
	json_decref(all);
}
