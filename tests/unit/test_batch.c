/* The queue of `wisp batch`: lists, who is next, and what a journal remembers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/fleet/batch.h"

static const struct batch_room plenty = { .cpus = 8, .jobs = 100, .memory_bytes = 4 * GiB };

static int parse(struct batch_list *list, const char *text, struct error *err)
{
	FILE *in = fmemopen((void *)text, strlen(text), "r");
	int r;

	assert_non_null(in);
	r = batch_parse(list, in, "list", &plenty, err);
	fclose(in);
	return r;
}

/* ---- lists ---- */

static void list_has_a_job_a_line(void **state)
{
	struct batch_list list = { 0 };
	struct error err = { 0 };

	assert_int_equal(parse(&list,
			       "# comment\n\n"
			       "name=a priority=7 expect=90 retries=2 run --kernel k --cpus 3\n"
			       "run --kernel k --memory=64M # the rest\n"
			       "test --cpus 2 -- sh -c 'echo \"a b\"' x\\ y \"\"\n",
			       &err),
			 0);
	assert_int_equal(list.num, 3);
	assert_string_equal(list.job[0].name, "a");
	assert_int_equal(list.job[0].priority, 7);
	assert_int_equal(list.job[0].expected_ms, 90000);
	assert_int_equal(list.job[0].retries, 2);
	assert_int_equal(list.job[0].cpus, 3);
	assert_int_equal(list.job[0].memory_bytes, 256 * MiB);
	assert_string_equal(list.job[1].name, "job4");
	assert_int_equal(list.job[1].num_words, 4);
	assert_int_equal(list.job[1].memory_bytes, 64 * MiB);
	assert_int_equal(list.job[2].cpus, 2);
	assert_int_equal(list.job[2].memory_bytes, BATCH_TEST_MEMORY);
	assert_int_equal(list.job[2].num_words, 9);
	assert_string_equal(list.job[2].word[6], "echo \"a b\"");
	assert_string_equal(list.job[2].word[7], "x y");
	assert_string_equal(list.job[2].word[8], "");
	assert_null(list.job[2].word[9]);
	batch_free(&list);
}

static void list_with_a_mistake_names_its_line(void **state)
{
	static const struct {
		const char *text, *why;
	} bad[] = {
		{ "\nstart --kernel k\n", "list:2: 'start' is neither run nor test" },
		{ "name=a\n", "list:1: there is no run or test" },
		{ "name=../x run --kernel k\n", "list:1: name" },
		{ "name= run --kernel k\n", "list:1: name" },
		{ "priority=-1 run --kernel k\n", "list:1: priority: '-1'" },
		{ "expect=9999999999999999999999 run --kernel k\n", "list:1: expect" },
		{ "run --kernel 'k\n", "list:1: a quote is not closed" },
		{ "run --kernel k --bogus\n", "list:1: unknown option '--bogus'" },
		{ "run --kernel k --detach\n", "list:1: --detach" },
		{ "run --kernel k --cpus 9\n", "list:1: 9 CPUs are more than the budget's 8" },
		{ "run --kernel k --memory 5G\n", "list:1: 5G of memory is more than" },
		{ "test --cpus no -- x\n", "list:1: --cpus: 'no'" },
		{ "name=a run --kernel k\nname=a run --kernel k\n",
		  "list:2: the name 'a' is that of line 1" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct batch_list list = { 0 };
		struct error err = { 0 };

		assert_true(parse(&list, bad[i].text, &err) < 0);
		if (!strstr(err.msg, bad[i].why))
			fail_msg("'%s' is not '%s'", err.msg, bad[i].why);
		assert_int_equal(error_status(&err), 2);
		assert_null(list.job);
	}
}

/* Any bytes at all are a list or an error. */
static void noise_is_refused_without_harm(void **state)
{
	static const char letters[] = "run test='\"\\ #\n\tname=--cpus 1";
	char text[200];

	srand(7);
	for (unsigned round = 0; round < 2000; round++) {
		struct batch_list list = { 0 };
		struct error err = { 0 };
		unsigned len = 1 + rand() % (sizeof(text) - 1);

		for (unsigned i = 0; i < len; i++)
			text[i] = letters[rand() % (sizeof(letters) - 1)];
		text[len - 1] = '\0';
		if (*text && parse(&list, text, &err) == 0)
			batch_free(&list);
	}
}

/* ---- who is next ---- */

/* Run all jobs on a clock of our own: each takes as long as it was expected to. */
struct simulation {
	struct batch_list list;
	struct batch_job job[60];
	struct batch_room budget, peak;
	unsigned order[60], started;
};

static void create(struct simulation *s)
{
	memset(s, 0, sizeof(*s));
	s->list = (struct batch_list){ s->job, ARRAY_SIZE(s->job) };
	s->budget = (struct batch_room){ .cpus = 4, .jobs = 3, .memory_bytes = 1 * GiB };
	for (unsigned i = 0; i < s->list.num; i++) {
		s->job[i].cpus = 1 + i % 4;
		s->job[i].memory_bytes = (64 << i % 5) * MiB;
		s->job[i].expected_ms = 1000 * (1 + i * 37 % 60);
		s->job[i].priority = i * 23 % 60;
	}
}

static void simulate(struct simulation *s, enum batch_policy policy)
{
	uint64_t now = 0;

	for (;;) {
		struct batch_job *j;
		struct batch_room used;
		uint64_t next = UINT64_MAX;

		while ((j = batch_next(&s->list, policy, &s->budget, now))) {
			batch_start(j, 1, now);
			s->order[s->started++] = j - s->job;
		}
		used = batch_used(&s->list);
		assert_true(used.cpus <= s->budget.cpus && used.jobs <= s->budget.jobs &&
			    used.memory_bytes <= s->budget.memory_bytes);
		s->peak.cpus = MAX(s->peak.cpus, used.cpus);
		if (!used.jobs)
			break;
		for (unsigned i = 0; i < s->list.num; i++)
			if (s->job[i].state == BATCH_RUNNING)
				next = MIN(next, s->job[i].started_ms + s->job[i].expected_ms);
		now = next;
		for (unsigned i = 0; i < s->list.num; i++)
			if (s->job[i].state == BATCH_RUNNING &&
			    s->job[i].started_ms + s->job[i].expected_ms == now)
				batch_end(&s->job[i], 0, now);
	}
	assert_int_equal(s->started, s->list.num);
}

static void fcfs_starts_in_the_order_of_the_list(void **state)
{
	struct simulation s;

	create(&s);
	simulate(&s, BATCH_FCFS);
	for (unsigned i = 0; i < s.started; i++)
		assert_int_equal(s.order[i], i);
	assert_int_equal(s.peak.cpus, s.budget.cpus);
}

static void sjf_starts_the_shortest_and_waits_less(void **state)
{
	struct batch_sums fcfs, sjf;
	struct simulation s;

	create(&s);
	simulate(&s, BATCH_FCFS);
	batch_sum(&s.list, &fcfs);
	create(&s);
	simulate(&s, BATCH_SJF);
	batch_sum(&s.list, &sjf);
	for (unsigned i = 1; i < s.started; i++)
		assert_true(s.job[s.order[i - 1]].expected_ms <= s.job[s.order[i]].expected_ms);
	assert_int_equal(sjf.succeeded, 60);
	assert_true(sjf.mean_wait_ms < fcfs.mean_wait_ms * 8 / 10);
	assert_true(sjf.mean_turnaround_ms > sjf.mean_wait_ms);
}

static void priority_starts_the_highest(void **state)
{
	struct simulation s;

	create(&s);
	simulate(&s, BATCH_PRIORITY);
	for (unsigned i = 1; i < s.started; i++)
		assert_true(s.job[s.order[i - 1]].priority >= s.job[s.order[i]].priority);
}

/* Two jobs for one place: @old has waited since 0, @late came just now. */
static const struct batch_job *choose(struct batch_job *old, struct batch_job *late, uint64_t now,
				      enum batch_policy policy)
{
	static struct batch_job job[2];
	struct batch_list list = { job, 2 };

	job[0] = *late;
	job[1] = *old;
	job[0].submitted_ms = now;
	return batch_next(&list, policy, &plenty, now) == &job[1] ? old : late;
}

static void waiting_counts_so_that_none_starves(void **state)
{
	struct batch_job low = { .priority = 1 }, high = { .priority = 6 };
	struct batch_job slow = { .expected_ms = 50000 }, quick = { .expected_ms = 1000 };

	assert_ptr_equal(choose(&low, &high, 4 * BATCH_AGEING_MS, BATCH_PRIORITY), &high);
	assert_ptr_equal(choose(&low, &high, 6 * BATCH_AGEING_MS, BATCH_PRIORITY), &low);
	assert_ptr_equal(choose(&slow, &quick, 48000, BATCH_SJF), &quick);
	assert_ptr_equal(choose(&slow, &quick, 50000, BATCH_SJF), &slow);
}

static void large_job_is_not_passed_by_small_ones(void **state)
{
	struct batch_job job[3] = { { .cpus = 2 }, { .cpus = 4 }, { .cpus = 1 } };
	struct batch_list list = { job, 3 };
	struct batch_room budget = { .cpus = 4, .jobs = 10 };

	assert_ptr_equal(batch_next(&list, BATCH_FCFS, &budget, 0), &job[0]);
	batch_start(&job[0], 1, 0);
	assert_null(batch_next(&list, BATCH_FCFS, &budget, 0));
	batch_end(&job[0], 0, 5);
	assert_ptr_equal(batch_next(&list, BATCH_FCFS, &budget, 5), &job[1]);
}

static void failed_job_is_tried_as_often_as_it_may_be(void **state)
{
	struct batch_job j = { .retries = 2, .submitted_ms = 100 };

	batch_start(&j, 1, 110);
	batch_end(&j, 3, 130);
	assert_int_equal(j.state, BATCH_WAITING);
	batch_start(&j, 1, 135);
	batch_end(&j, 3, 140);
	batch_start(&j, 1, 140);
	batch_end(&j, 3, 141);
	assert_int_equal(j.state, BATCH_FINISHED);
	assert_int_equal(j.attempts, 3);
	assert_int_equal(j.waited_ms, 15);
	assert_int_equal(j.ran_ms, 26);
	/* A success is not tried again. */
	j = (struct batch_job){ .retries = 2 };
	batch_start(&j, 1, 0);
	batch_end(&j, 0, 1);
	assert_int_equal(j.state, BATCH_FINISHED);
}

/* ---- journals ---- */

static const char two_jobs[] = "name=a run --kernel k\nname=b run --kernel k\n";

static int open_journal(const char *path, struct batch_list *list, const char *text)
{
	struct error err = { 0 };
	int fd;

	assert_int_equal(parse(list, text, &err), 0);
	fd = batch_journal_open(path, list, &err);
	assert_true(fd >= 0);
	return fd;
}

static void journal_remembers_what_finished(void **state)
{
	char path[] = "/tmp/wisp-batch-XXXXXX";
	struct batch_list list = { 0 }, again = { 0 };
	struct error err = { 0 };
	int fd;

	close(mkstemp(path));
	fd = open_journal(path, &list, two_jobs);
	batch_start(&list.job[1], 1, 10);
	batch_end(&list.job[1], 9, 30);
	assert_int_equal(batch_journal_add(fd, &list.job[1]), 0);
	/* One queue at a time. */
	assert_int_equal(batch_journal_open(path, &list, &err), -EBUSY);
	/* And a crash in the middle of the next line. */
	assert_int_equal(write(fd, "{\"job\":\"a\",\"wor", 15), 15);
	close(fd);

	fd = open_journal(path, &again, two_jobs);
	assert_int_equal(again.job[0].state, BATCH_WAITING);
	assert_int_equal(again.job[1].state, BATCH_FINISHED);
	assert_int_equal(again.job[1].status, 9);
	assert_int_equal(again.job[1].ran_ms, 20);
	assert_true(again.job[1].earlier);
	/* The torn line is no part of what is written next. */
	batch_start(&again.job[0], 1, 40);
	batch_end(&again.job[0], 0, 50);
	assert_int_equal(batch_journal_add(fd, &again.job[0]), 0);
	close(fd);
	batch_free(&again);
	fd = open_journal(path, &again, two_jobs);
	assert_int_equal(again.job[0].state, BATCH_FINISHED);
	close(fd);
	batch_free(&again);
	batch_free(&list);
	unlink(path);
}

static void job_that_has_changed_is_run_again(void **state)
{
	char path[] = "/tmp/wisp-batch-XXXXXX";
	struct batch_list list = { 0 }, changed = { 0 };
	int fd;

	close(mkstemp(path));
	fd = open_journal(path, &list, two_jobs);
	batch_end(&list.job[0], 0, 1);
	assert_int_equal(batch_journal_add(fd, &list.job[0]), 0);
	close(fd);
	fd = open_journal(path, &changed, "name=a run --kernel other\nname=c run --kernel k\n");
	assert_int_equal(changed.job[0].state, BATCH_WAITING);
	assert_int_equal(changed.job[1].state, BATCH_WAITING);
	close(fd);
	batch_free(&changed);
	batch_free(&list);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(list_has_a_job_a_line),
		cmocka_unit_test(list_with_a_mistake_names_its_line),
		cmocka_unit_test(noise_is_refused_without_harm),
		cmocka_unit_test(fcfs_starts_in_the_order_of_the_list),
		cmocka_unit_test(sjf_starts_the_shortest_and_waits_less),
		cmocka_unit_test(priority_starts_the_highest),
		cmocka_unit_test(waiting_counts_so_that_none_starves),
		cmocka_unit_test(large_job_is_not_passed_by_small_ones),
		cmocka_unit_test(failed_job_is_tried_as_often_as_it_may_be),
		cmocka_unit_test(journal_remembers_what_finished),
		cmocka_unit_test(job_that_has_changed_is_run_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
