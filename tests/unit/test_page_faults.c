#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/fault_ram.h"

static int wanted(void *ctx, struct page_faults *f, uint64_t offset)
{
	struct fault_ram *x = ctx;

	pthread_mutex_lock(&x->lock);
	x->num_wanted++;
	x->wanted[offset / PAGE_SIZE]++;
	x->last_wanted = offset;
	pthread_cond_broadcast(&x->changed);
	pthread_mutex_unlock(&x->lock);
	if (x->fails)
		return x->fails;
	return x->later ? 0 : page_faults_place(f, offset, x->pages + offset, PAGE_SIZE);
}

/* 64 pages at a time, as a file would be read. */
static int bring_more(void *ctx, struct page_faults *f)
{
	struct fault_ram *x = ctx;
	uint64_t offset = x->idle_at * PAGE_SIZE;
	int r = page_faults_place(f, offset, x->pages + offset, 64 * PAGE_SIZE);

	x->idle_at += 64;
	return r < 0 ? r : x->idle_at < FAULT_RAM_PAGES;
}

static void ended(void *ctx, int r)
{
	struct fault_ram *x = ctx;

	pthread_mutex_lock(&x->lock);
	x->ended = true;
	x->result = r;
	pthread_cond_broadcast(&x->changed);
	pthread_mutex_unlock(&x->lock);
}

static const struct page_source on_demand = { .wanted = wanted, .ended = ended };
static const struct page_source with_background = {
	.wanted = wanted,
	.idle = bring_more,
	.ended = ended,
};

/* What a filter of system calls would be loaded in. */
static int begins(void *arg)
{
	return *(int *)arg;
}

static void start(struct fault_ram *x, const struct page_source *source, const uint64_t *there)
{
	static int fine;
	struct page_faults_params params = {
		.mem = x->mem,
		.fd = x->fd,
		.there = there,
		.source = source,
		.ctx = x,
		.begins = begins,
		.begins_arg = &fine,
	};
	struct error err = { 0 };

	if (page_faults_start(&x->faults, &params, &err) < 0)
		fail_msg("%s", err.msg);
}

static void wait_until_wanted(struct fault_ram *x, unsigned num)
{
	pthread_mutex_lock(&x->lock);
	while (x->num_wanted < num)
		pthread_cond_wait(&x->changed, &x->lock);
	pthread_mutex_unlock(&x->lock);
}

static int wait_until_ended(struct fault_ram *x)
{
	pthread_mutex_lock(&x->lock);
	while (!x->ended)
		pthread_cond_wait(&x->changed, &x->lock);
	pthread_mutex_unlock(&x->lock);
	return x->result;
}

/* A source that leaves the placing to the test, and a thread that waits for @page. */
static void create_with_sleeper(struct fault_ram *x, struct toucher *t, uint64_t page)
{
	fault_ram_create(x);
	x->later = true;
	start(x, &on_demand, NULL);
	fault_ram_touch(t, x, page);
	wait_until_wanted(x, 1);
}

/* ---- promises ---- */

static void pages_come_when_they_are_touched(void **state)
{
	struct page_faults_counts counts;
	struct fault_ram x;

	fault_ram_create(&x);
	start(&x, &on_demand, NULL);
	assert_false(guest_mem_is_whole(x.mem));
	assert_int_equal(fault_ram_read(&x, 7), fault_ram_mark(7));
	assert_int_equal(fault_ram_read(&x, FAULT_RAM_PAGES - 1),
			 fault_ram_mark(FAULT_RAM_PAGES - 1));
	assert_int_equal(fault_ram_read(&x, 7), fault_ram_mark(7));
	page_faults_count(x.faults, &counts);
	assert_int_equal(counts.wanted, 2);
	assert_int_equal(counts.placed, 2);
	assert_int_equal(counts.missing, FAULT_RAM_PAGES - 2);
	assert_true(page_faults_has(x.faults, 7 * PAGE_SIZE));
	assert_false(page_faults_has(x.faults, 8 * PAGE_SIZE));
	assert_false(page_faults_has(x.faults, FAULT_RAM_BYTES));
	fault_ram_destroy(&x);
}

static void the_kernel_gets_its_pages_too(void **state)
{
	struct fault_ram x;
	uint64_t mark;
	int fds[2];

	fault_ram_create(&x);
	start(&x, &on_demand, NULL);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], x.mem->map + 9 * PAGE_SIZE, sizeof(mark)), sizeof(mark));
	assert_int_equal(read(fds[0], &mark, sizeof(mark)), sizeof(mark));
	assert_int_equal(mark, fault_ram_mark(9));
	close(fds[0]);
	close(fds[1]);
	fault_ram_destroy(&x);
}

static void another_thread_may_bring_them_later(void **state)
{
	struct toucher t[3];
	struct fault_ram x;

	fault_ram_create(&x);
	x.later = true;
	start(&x, &on_demand, NULL);
	fault_ram_touch(&t[0], &x, 40);
	fault_ram_touch(&t[1], &x, 41);
	wait_until_wanted(&x, 2);
	/* One who comes later is not asked for again. */
	fault_ram_touch(&t[2], &x, 40);
	assert_false(t[0].done);
	assert_false(t[1].done);
	assert_int_equal(page_faults_place(x.faults, 40 * PAGE_SIZE, x.pages + 40 * PAGE_SIZE,
					   2 * PAGE_SIZE),
			 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(t[i].found, fault_ram_mark(t[i].page));
	}
	assert_int_equal(x.wanted[40], 1);
	fault_ram_destroy(&x);
}

static void the_background_brings_all_of_ram(void **state)
{
	struct page_faults_counts counts;
	struct fault_ram x;

	fault_ram_create(&x);
	start(&x, &with_background, NULL);
	assert_int_equal(fault_ram_read(&x, FAULT_RAM_PAGES - 1),
			 fault_ram_mark(FAULT_RAM_PAGES - 1));
	assert_int_equal(wait_until_ended(&x), 0);
	page_faults_count(x.faults, &counts);
	assert_int_equal(counts.missing, 0);
	assert_int_equal(counts.placed, FAULT_RAM_PAGES);
	page_faults_free(x.faults);
	x.faults = NULL;
	assert_true(guest_mem_is_whole(x.mem));
	for (uint64_t page = 0; page < FAULT_RAM_PAGES; page++)
		assert_int_equal(fault_ram_read(&x, page), fault_ram_mark(page));
	fault_ram_destroy(&x);
}

static void what_is_there_already_stays(void **state)
{
	uint64_t there[FAULT_RAM_PAGES / 64] = { [0] = 0xff };
	struct fault_ram x;

	fault_ram_create(&x);
	/* Pages 0 to 7 have come; 1 to 7 are zero. */
	*(uint64_t *)x.mem->map = 77;
	start(&x, &on_demand, there);
	assert_int_equal(page_faults_place(x.faults, 0, x.pages, 16 * PAGE_SIZE), 0);
	assert_int_equal(fault_ram_read(&x, 0), 77);
	assert_int_equal(fault_ram_read(&x, 5), 0);
	assert_int_equal(fault_ram_read(&x, 8), fault_ram_mark(8));
	assert_int_equal(x.num_wanted, 0);
	fault_ram_destroy(&x);
}

static void a_page_of_zeroes_wakes_who_sleeps_for_it(void **state)
{
	struct toucher t;
	struct fault_ram x;

	create_with_sleeper(&x, &t, 300);
	assert_int_equal(page_faults_zero(x.faults, 0, FAULT_RAM_BYTES), 0);
	pthread_join(t.thread, NULL);
	assert_int_equal(t.found, 0);
	assert_int_equal(wait_until_ended(&x), 0);
	assert_int_equal(fault_ram_read(&x, 301), 0);
	fault_ram_destroy(&x);
}

static void what_the_guest_gave_back_reads_as_zero(void **state)
{
	struct fault_ram x;

	fault_ram_create(&x);
	start(&x, &on_demand, NULL);
	assert_int_equal(fault_ram_read(&x, 20), fault_ram_mark(20));
	/* One that came and one that did not. */
	assert_int_equal(guest_mem_discard(x.mem, 20 * PAGE_SIZE, 2 * PAGE_SIZE), 0);
	assert_int_equal(fault_ram_read(&x, 20), 0);
	assert_int_equal(fault_ram_read(&x, 21), 0);
	assert_int_equal(fault_ram_read(&x, 22), fault_ram_mark(22));
	/* The source, which knows nothing of it, brings it all the same. */
	assert_int_equal(page_faults_place(x.faults, 20 * PAGE_SIZE, x.pages + 20 * PAGE_SIZE,
					   2 * PAGE_SIZE),
			 0);
	assert_int_equal(fault_ram_read(&x, 20), 0);
	assert_int_equal(fault_ram_read(&x, 21), 0);
	fault_ram_destroy(&x);
}

/* Gives every other page back while all are being brought. */
static void *give_back(void *arg)
{
	struct fault_ram *x = arg;

	for (uint64_t page = 1; page < FAULT_RAM_PAGES; page += 2)
		if (guest_mem_discard_host(x->mem, x->mem->map + page * PAGE_SIZE, PAGE_SIZE) < 0)
			return x;
	return NULL;
}

static void giving_back_and_bringing_may_meet(void **state)
{
	struct toucher t[8];
	struct fault_ram x;
	pthread_t thread;
	void *failed;

	fault_ram_create(&x);
	start(&x, &with_background, NULL);
	assert_int_equal(pthread_create(&thread, NULL, give_back, &x), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		fault_ram_touch(&t[i], &x, FAULT_RAM_PAGES - 1 - 2 * i);
	/* From here as well as from the background. */
	for (uint64_t at = FAULT_RAM_PAGES; at; at -= 32)
		assert_int_equal(page_faults_place(x.faults, (at - 32) * PAGE_SIZE,
						   x.pages + (at - 32) * PAGE_SIZE, 32 * PAGE_SIZE),
				 0);
	pthread_join(thread, &failed);
	assert_null(failed);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i].thread, NULL);
	assert_int_equal(wait_until_ended(&x), 0);
	for (uint64_t page = 0; page < FAULT_RAM_PAGES; page++)
		assert_int_equal(fault_ram_read(&x, page), page % 2 ? 0 : fault_ram_mark(page));
	fault_ram_destroy(&x);
}

static void a_source_that_fails_is_told_of_and_nobody_reads_zeroes_meanwhile(void **state)
{
	struct toucher t;
	struct fault_ram x;

	fault_ram_create(&x);
	x.fails = -EIO;
	start(&x, &on_demand, NULL);
	fault_ram_touch(&t, &x, 3);
	assert_int_equal(wait_until_ended(&x), -EIO);
	assert_false(t.done);
	page_faults_free(x.faults);
	x.faults = NULL;
	pthread_join(t.thread, NULL);
	fault_ram_destroy(&x);
}

static void who_still_sleeps_goes_on_at_the_end(void **state)
{
	struct toucher t;
	struct fault_ram x;

	create_with_sleeper(&x, &t, 3);
	page_faults_free(x.faults);
	x.faults = NULL;
	pthread_join(t.thread, NULL);
	assert_true(guest_mem_is_whole(x.mem));
	fault_ram_destroy(&x);
}

static void who_still_sleeps_goes_on_when_it_is_given_up(void **state)
{
	struct toucher t;
	struct fault_ram x;

	create_with_sleeper(&x, &t, 3);
	page_faults_release(x.faults);
	pthread_join(t.thread, NULL);
	assert_int_equal(t.found, 0);
	/* And whoever comes later does not even begin to wait. */
	assert_int_equal(fault_ram_read(&x, 4), 0);
	assert_false(x.ended);
	page_faults_free(x.faults);
	x.faults = NULL;
	fault_ram_destroy(&x);
}

static void saved_memory_has_pages_that_were_still_to_come(void **state)
{
	struct guest_mem_saved saved;
	struct fault_ram x;
	uint64_t mark;
	int fd;

	fault_ram_create(&x);
	start(&x, &on_demand, NULL);
	fd = memfd_create("saved", MFD_CLOEXEC);
	assert_int_equal(guest_mem_save(x.mem, fd, &saved), 0);
	assert_int_equal(saved.pages, FAULT_RAM_PAGES);
	assert_int_equal(pread(fd, &mark, sizeof(mark), 500 * PAGE_SIZE), sizeof(mark));
	assert_int_equal(mark, fault_ram_mark(500));
	close(fd);
	fault_ram_destroy(&x);
}

static void only_whole_pages_of_ram_are_taken(void **state)
{
	struct fault_ram x;

	fault_ram_create(&x);
	start(&x, &on_demand, NULL);
	assert_int_equal(page_faults_place(x.faults, 1, x.pages, PAGE_SIZE), -EINVAL);
	assert_int_equal(page_faults_place(x.faults, 0, x.pages, 100), -EINVAL);
	assert_int_equal(page_faults_place(x.faults, FAULT_RAM_BYTES - PAGE_SIZE, x.pages,
					   2 * PAGE_SIZE),
			 -EINVAL);
	assert_int_equal(page_faults_zero(x.faults, UINT64_MAX - PAGE_SIZE + 1, PAGE_SIZE),
			 -EINVAL);
	fault_ram_destroy(&x);
}

static void a_start_that_fails_leaves_ram_as_it_was(void **state)
{
	struct error err = { 0 };
	int refuses = -EPERM;
	struct fault_ram x;
	struct page_faults_params params;

	fault_ram_create(&x);
	params = (struct page_faults_params){
		.mem = x.mem,
		.fd = x.fd,
		.source = &on_demand,
		.ctx = &x,
		.begins = begins,
		.begins_arg = &refuses,
	};
	assert_int_equal(page_faults_start(&x.faults, &params, &err), -EPERM);
	assert_true(guest_mem_is_whole(x.mem));
	assert_int_equal(fault_ram_read(&x, 0), 0);
	/* The descriptor is ours, and good for another try. */
	start(&x, &on_demand, NULL);
	assert_int_equal(fault_ram_read(&x, 1), fault_ram_mark(1));
	fault_ram_destroy(&x);
}

static void other_memory_is_refused(void **state)
{
	struct page_faults_params params = { 0 };
	struct error err = { 0 };
	struct guest_mem *shared;
	struct fault_ram x;
	int file;

	fault_ram_create(&x);
	params.fd = x.fd;
	assert_int_equal(guest_mem_create(&shared, GUEST_MEM_SHARED, fault_ram_layout,
					  ARRAY_SIZE(fault_ram_layout), &err),
			 0);
	params.mem = shared;
	assert_int_equal(page_faults_start(&x.faults, &params, &err), -ENOTSUP);
	assert_string_equal(err.msg,
			    "pages on demand: not with --hugepages or memory that is shared");
	file = memfd_create("kernel", MFD_CLOEXEC);
	assert_int_equal(ftruncate(file, PAGE_SIZE), 0);
	assert_int_equal(guest_mem_map_file(x.mem, 0, PAGE_SIZE, file, 0), 0);
	params.mem = x.mem;
	assert_int_equal(page_faults_start(&x.faults, &params, &err), -ENOTSUP);
	close(file);
	close(x.fd);
	guest_mem_free(shared);
	fault_ram_destroy(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_come_when_they_are_touched),
		cmocka_unit_test(the_kernel_gets_its_pages_too),
		cmocka_unit_test(another_thread_may_bring_them_later),
		cmocka_unit_test(the_background_brings_all_of_ram),
		cmocka_unit_test(what_is_there_already_stays),
		cmocka_unit_test(a_page_of_zeroes_wakes_who_sleeps_for_it),
		cmocka_unit_test(what_the_guest_gave_back_reads_as_zero),
		cmocka_unit_test(giving_back_and_bringing_may_meet),
		cmocka_unit_test(a_source_that_fails_is_told_of_and_nobody_reads_zeroes_meanwhile),
		cmocka_unit_test(who_still_sleeps_goes_on_at_the_end),
		cmocka_unit_test(who_still_sleeps_goes_on_when_it_is_given_up),
		cmocka_unit_test(saved_memory_has_pages_that_were_still_to_come),
		cmocka_unit_test(only_whole_pages_of_ram_are_taken),
		cmocka_unit_test(a_start_that_fails_leaves_ram_as_it_was),
		cmocka_unit_test(other_memory_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
