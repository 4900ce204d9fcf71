/* Which job is next: no clock, no files, no processes. */
#include "vmm/fleet/batch.h"

struct batch_room batch_used(const struct batch_list *list)
{
	struct batch_room used = { 0 };

	for (unsigned i = 0; i < list->num; i++) {
		const struct batch_job *j = &list->job[i];

		if (j->state != BATCH_RUNNING)
			continue;
		used.cpus += j->cpus;
		used.memory_bytes += j->memory_bytes;
		used.jobs++;
	}
	return used;
}

static int64_t waited(const struct batch_job *j, uint64_t now_ms)
{
	/* The clock of the day may be set back. */
	return now_ms > j->submitted_ms ? (int64_t)(now_ms - j->submitted_ms) : 0;
}

/* The smallest is next. */
static int64_t rank(const struct batch_job *j, enum batch_policy policy, uint64_t now_ms)
{
	switch (policy) {
	case BATCH_SJF:
		return (int64_t)(j->expected_ms ? j->expected_ms : BATCH_EXPECTED_MS) -
		       waited(j, now_ms);
	case BATCH_PRIORITY:
		return -((int64_t)j->priority * BATCH_AGEING_MS + waited(j, now_ms));
	default:
		return 0;
	}
}

static bool has_room(const struct batch_job *j, const struct batch_room *used,
		     const struct batch_room *budget)
{
	return used->jobs < budget->jobs && used->cpus + j->cpus <= budget->cpus &&
	       used->memory_bytes + j->memory_bytes <= budget->memory_bytes;
}

struct batch_job *batch_next(const struct batch_list *list, enum batch_policy policy,
			     const struct batch_room *budget, uint64_t now_ms)
{
	struct batch_room used = batch_used(list);
	struct batch_job *next = NULL;
	int64_t best = 0;

	for (unsigned i = 0; i < list->num; i++) {
		struct batch_job *j = &list->job[i];
		int64_t r = rank(j, policy, now_ms);

		if (j->state == BATCH_WAITING && (!next || r < best)) {
			next = j;
			best = r;
		}
	}
	return next && has_room(next, &used, budget) ? next : NULL;
}

void batch_start(struct batch_job *job, pid_t pid, uint64_t now_ms)
{
	uint64_t since = job->attempts ? job->ended_ms : job->submitted_ms;

	job->state = BATCH_RUNNING;
	job->pid = pid;
	job->attempts++;
	job->started_ms = now_ms;
	job->waited_ms += now_ms > since ? now_ms - since : 0;
}

void batch_end(struct batch_job *job, int status, uint64_t now_ms)
{
	job->pid = 0;
	job->status = status;
	job->ended_ms = now_ms;
	job->ran_ms += now_ms > job->started_ms ? now_ms - job->started_ms : 0;
	job->state = status && job->attempts <= job->retries ? BATCH_WAITING : BATCH_FINISHED;
}

static void add_finished(struct batch_sums *s, const struct batch_job *j)
{
	uint64_t turnaround = j->waited_ms + j->ran_ms;

	if (j->status)
		s->failed++;
	else
		s->succeeded++;
	s->mean_wait_ms += j->waited_ms;
	s->max_wait_ms = MAX(s->max_wait_ms, j->waited_ms);
	s->mean_turnaround_ms += turnaround;
	s->max_turnaround_ms = MAX(s->max_turnaround_ms, turnaround);
	if (j->earlier)
		s->earlier++;
	else
		s->cpu_ms += j->ran_ms * j->cpus;
}

void batch_sum(const struct batch_list *list, struct batch_sums *ret)
{
	struct batch_sums s = { 0 };
	unsigned finished;

	for (unsigned i = 0; i < list->num; i++) {
		const struct batch_job *j = &list->job[i];

		if (j->state == BATCH_FINISHED)
			add_finished(&s, j);
		else if (j->state == BATCH_RUNNING)
			s.running++;
		else
			s.waiting++;
	}
	finished = s.succeeded + s.failed;
	if (finished) {
		s.mean_wait_ms /= finished;
		s.mean_turnaround_ms /= finished;
	}
	*ret = s;
}
