#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/core/page_faults.h"

#define RAM_BYTES (6 * MiB)
#define NUM_PAGES (RAM_BYTES / PAGE_SIZE)

/* RAM is parted at 1 MiB inside the first range, and between the two. */
static const struct guest_mem_range layout[] = {
	{ .gpa = 0, .size = 4 * MiB },
	{ .gpa = 4 * GiB, .size = 2 * MiB },
};

struct fixture {
	struct guest_mem *mem;
	struct page_faults *faults;
	uint8_t *pages; /* what the source has: page n begins with n + 1 */
	int fd;
	bool later;	  /* wanted() leaves the placing to the test */
	int fails;	  /* wanted() returns it */
	uint64_t idle_at; /* next page of the background */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under lock. */
	unsigned num_wanted, wanted[NUM_PAGES]; /* how often each */
	uint64_t last_wanted;
	bool ended;
	int result;
};

static uint64_t mark_of(uint64_t page)
{
	return page + 1;
}

static int wanted(void *ctx, struct page_faults *f, uint64_t offset)
{
	struct fixture *x = ctx;

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
	struct fixture *x = ctx;
	uint64_t offset = x->idle_at * PAGE_SIZE;
	int r = page_faults_place(f, offset, x->pages + offset, 64 * PAGE_SIZE);

	x->idle_at += 64;
	return r < 0 ? r : x->idle_at < NUM_PAGES;
}

static void ended(void *ctx, int r)
{
	struct fixture *x = ctx;

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

static void create(struct fixture *x)
{
	struct error err = { 0 };

	*x = (struct fixture){ .fd = page_faults_open(&err) };
	if (x->fd < 0) {
		print_message("[          ] %s\n", err.msg);
		skip();
	}
	if (guest_mem_create(&x->mem, GUEST_MEM_ANON, layout, ARRAY_SIZE(layout), &err) < 0)
		fail_msg("%s", err.msg);
	x->pages = calloc(NUM_PAGES, PAGE_SIZE);
	assert_non_null(x->pages);
	for (uint64_t page = 0; page < NUM_PAGES; page++)
		*(uint64_t *)(x->pages + page * PAGE_SIZE) = mark_of(page);
	pthread_mutex_init(&x->lock, NULL);
	pthread_cond_init(&x->changed, NULL);
}

static void start(struct fixture *x, const struct page_source *source, const uint64_t *there)
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

static void destroy(struct fixture *x)
{
	page_faults_free(x->faults);
	guest_mem_free(x->mem);
	free(x->pages);
	pthread_cond_destroy(&x->changed);
	pthread_mutex_destroy(&x->lock);
}

static uint64_t mark_in_ram(struct fixture *x, uint64_t page)
{
	return *(volatile uint64_t *)(x->mem->map + page * PAGE_SIZE);
}

/* Somebody who sleeps for a page. */
struct toucher {
	struct fixture *x;
	pthread_t thread;
	uint64_t page, found;
	atomic_bool done;
};

static void *touch(void *arg)
{
	struct toucher *t = arg;

	t->found = mark_in_ram(t->x, t->page);
	t->done = true;
	return NULL;
}

static void begin_touch(struct toucher *t, struct fixture *x, uint64_t page)
{
	*t = (struct toucher){ .x = x, .page = page };
	assert_int_equal(pthread_create(&t->thread, NULL, touch, t), 0);
}

static void wait_until_wanted(struct fixture *x, unsigned num)
{
	pthread_mutex_lock(&x->lock);
	while (x->num_wanted < num)
		pthread_cond_wait(&x->changed, &x->lock);
	pthread_mutex_unlock(&x->lock);
}

static int wait_until_ended(struct fixture *x)
{
	pthread_mutex_lock(&x->lock);
	while (!x->ended)
		pthread_cond_wait(&x->changed, &x->lock);
	pthread_mutex_unlock(&x->lock);
	return x->result;
}

/* A source that leaves the placing to the test, and a thread that waits for @page. */
static void create_with_sleeper(struct fixture *x, struct toucher *t, uint64_t page)
{
	create(x);
	x->later = true;
	start(x, &on_demand, NULL);
	begin_touch(t, x, page);
	wait_until_wanted(x, 1);
}

/* ---- promises ---- */

static void pages_come_when_they_are_touched(void **state)
{
	struct page_faults_counts counts;
	struct fixture x;

	create(&x);
	start(&x, &on_demand, NULL);
	assert_false(guest_mem_is_whole(x.mem));
	assert_int_equal(mark_in_ram(&x, 7), mark_of(7));
	assert_int_equal(mark_in_ram(&x, NUM_PAGES - 1), mark_of(NUM_PAGES - 1));
	assert_int_equal(mark_in_ram(&x, 7), mark_of(7));
	page_faults_count(x.faults, &counts);
	assert_int_equal(counts.wanted, 2);
	assert_int_equal(counts.placed, 2);
	assert_int_equal(counts.missing, NUM_PAGES - 2);
	assert_true(page_faults_has(x.faults, 7 * PAGE_SIZE));
	assert_false(page_faults_has(x.faults, 8 * PAGE_SIZE));
	assert_false(page_faults_has(x.faults, RAM_BYTES));
	destroy(&x);
}

static void the_kernel_gets_its_pages_too(void **state)
{
	struct fixture x;
	uint64_t mark;
	int fds[2];

	create(&x);
	start(&x, &on_demand, NULL);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], x.mem->map + 9 * PAGE_SIZE, sizeof(mark)), sizeof(mark));
	assert_int_equal(read(fds[0], &mark, sizeof(mark)), sizeof(mark));
	assert_int_equal(mark, mark_of(9));
	close(fds[0]);
	close(fds[1]);
	destroy(&x);
}

static void another_thread_may_bring_them_later(void **state)
{
	struct toucher t[3];
	struct fixture x;

	create(&x);
	x.later = true;
	start(&x, &on_demand, NULL);
	begin_touch(&t[0], &x, 40);
	begin_touch(&t[1], &x, 41);
	wait_until_wanted(&x, 2);
	/* One who comes later is not asked for again. */
	begin_touch(&t[2], &x, 40);
	assert_false(t[0].done);
	assert_false(t[1].done);
	assert_int_equal(page_faults_place(x.faults, 40 * PAGE_SIZE, x.pages + 40 * PAGE_SIZE,
					   2 * PAGE_SIZE),
			 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(t[i].found, mark_of(t[i].page));
	}
	assert_int_equal(x.wanted[40], 1);
	destroy(&x);
}

static void the_background_brings_all_of_ram(void **state)
{
	struct page_faults_counts counts;
	struct fixture x;

	create(&x);
	start(&x, &with_background, NULL);
	assert_int_equal(mark_in_ram(&x, NUM_PAGES - 1), mark_of(NUM_PAGES - 1));
	assert_int_equal(wait_until_ended(&x), 0);
	page_faults_count(x.faults, &counts);
	assert_int_equal(counts.missing, 0);
	assert_int_equal(counts.placed, NUM_PAGES);
	page_faults_free(x.faults);
	x.faults = NULL;
	assert_true(guest_mem_is_whole(x.mem));
	for (uint64_t page = 0; page < NUM_PAGES; page++)
		assert_int_equal(mark_in_ram(&x, page), mark_of(page));
	destroy(&x);
}

static void what_is_there_already_stays(void **state)
{
	uint64_t there[NUM_PAGES / 64] = { [0] = 0xff };
	struct fixture x;

	create(&x);
	/* Pages 0 to 7 have come; 1 to 7 are zero. */
	*(uint64_t *)x.mem->map = 77;
	start(&x, &on_demand, there);
	assert_int_equal(page_faults_place(x.faults, 0, x.pages, 16 * PAGE_SIZE), 0);
	assert_int_equal(mark_in_ram(&x, 0), 77);
	assert_int_equal(mark_in_ram(&x, 5), 0);
	assert_int_equal(mark_in_ram(&x, 8), mark_of(8));
	assert_int_equal(x.num_wanted, 0);
	destroy(&x);
}

static void a_page_of_zeroes_wakes_who_sleeps_for_it(void **state)
{
	struct toucher t;
	struct fixture x;

	create_with_sleeper(&x, &t, 300);
	assert_int_equal(page_faults_zero(x.faults, 0, RAM_BYTES), 0);
	pthread_join(t.thread, NULL);
	assert_int_equal(t.found, 0);
	assert_int_equal(wait_until_ended(&x), 0);
	assert_int_equal(mark_in_ram(&x, 301), 0);
	destroy(&x);
}

static void what_the_guest_gave_back_reads_as_zero(void **state)
{
	struct fixture x;

	create(&x);
	start(&x, &on_demand, NULL);
	assert_int_equal(mark_in_ram(&x, 20), mark_of(20));
	/* One that came and one that did not. */
	assert_int_equal(guest_mem_discard(x.mem, 20 * PAGE_SIZE, 2 * PAGE_SIZE), 0);
	assert_int_equal(mark_in_ram(&x, 20), 0);
	assert_int_equal(mark_in_ram(&x, 21), 0);
	assert_int_equal(mark_in_ram(&x, 22), mark_of(22));
	/* The source, which knows nothing of it, brings it all the same. */
	assert_int_equal(page_faults_place(x.faults, 20 * PAGE_SIZE, x.pages + 20 * PAGE_SIZE,
					   2 * PAGE_SIZE),
			 0);
	assert_int_equal(mark_in_ram(&x, 20), 0);
	assert_int_equal(mark_in_ram(&x, 21), 0);
	destroy(&x);
}

/* Gives every other page back while all are being brought. */
static void *give_back(void *arg)
{
	struct fixture *x = arg;

	for (uint64_t page = 1; page < NUM_PAGES; page += 2)
		if (guest_mem_discard_host(x->mem, x->mem->map + page * PAGE_SIZE, PAGE_SIZE) < 0)
			return x;
	return NULL;
}

static void giving_back_and_bringing_may_meet(void **state)
{
	struct toucher t[8];
	struct fixture x;
	pthread_t thread;
	void *failed;

	create(&x);
	start(&x, &with_background, NULL);
	assert_int_equal(pthread_create(&thread, NULL, give_back, &x), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		begin_touch(&t[i], &x, NUM_PAGES - 1 - 2 * i);
	/* From here as well as from the background. */
	for (uint64_t at = NUM_PAGES; at; at -= 32)
		assert_int_equal(page_faults_place(x.faults, (at - 32) * PAGE_SIZE,
						   x.pages + (at - 32) * PAGE_SIZE,
						   32 * PAGE_SIZE),
				 0);
	pthread_join(thread, &failed);
	assert_null(failed);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i].thread, NULL);
	assert_int_equal(wait_until_ended(&x), 0);
	for (uint64_t page = 0; page < NUM_PAGES; page++)
		assert_int_equal(mark_in_ram(&x, page), page % 2 ? 0 : mark_of(page));
	destroy(&x);
}

static void a_source_that_fails_is_told_of_and_nobody_reads_zeroes_meanwhile(void **state)
{
	struct toucher t;
	struct fixture x;

	create(&x);
	x.fails = -EIO;
	start(&x, &on_demand, NULL);
	begin_touch(&t, &x, 3);
	assert_int_equal(wait_until_ended(&x), -EIO);
	assert_false(t.done);
	page_faults_free(x.faults);
	x.faults = NULL;
	pthread_join(t.thread, NULL);
	destroy(&x);
}

static void who_still_sleeps_goes_on_at_the_end(void **state)
{
	struct toucher t;
	struct fixture x;

	create_with_sleeper(&x, &t, 3);
	page_faults_free(x.faults);
	x.faults = NULL;
	pthread_join(t.thread, NULL);
	assert_true(guest_mem_is_whole(x.mem));
	destroy(&x);
}

static void who_still_sleeps_goes_on_when_it_is_given_up(void **state)
{
	struct toucher t;
	struct fixture x;

	create_with_sleeper(&x, &t, 3);
	page_faults_release(x.faults);
	pthread_join(t.thread, NULL);
	assert_int_equal(t.found, 0);
	/* And whoever comes later does not even begin to wait. */
	assert_int_equal(mark_in_ram(&x, 4), 0);
	assert_false(x.ended);
	page_faults_free(x.faults);
	x.faults = NULL;
	destroy(&x);
}

static void saved_memory_has_pages_that_were_still_to_come(void **state)
{
	struct guest_mem_saved saved;
	struct fixture x;
	uint64_t mark;
	int fd;

	create(&x);
	start(&x, &on_demand, NULL);
	fd = memfd_create("saved", MFD_CLOEXEC);
	assert_int_equal(guest_mem_save(x.mem, fd, &saved), 0);
	assert_int_equal(saved.pages, NUM_PAGES);
	assert_int_equal(pread(fd, &mark, sizeof(mark), 500 * PAGE_SIZE), sizeof(mark));
	assert_int_equal(mark, mark_of(500));
	close(fd);
	destroy(&x);
}

static void only_whole_pages_of_ram_are_taken(void **state)
{
	struct fixture x;

	create(&x);
	start(&x, &on_demand, NULL);
	assert_int_equal(page_faults_place(x.faults, 1, x.pages, PAGE_SIZE), -EINVAL);
	assert_int_equal(page_faults_place(x.faults, 0, x.pages, 100), -EINVAL);
	assert_int_equal(page_faults_place(x.faults, RAM_BYTES - PAGE_SIZE, x.pages,
					   2 * PAGE_SIZE),
			 -EINVAL);
	assert_int_equal(page_faults_zero(x.faults, UINT64_MAX - PAGE_SIZE + 1, PAGE_SIZE),
			 -EINVAL);
	destroy(&x);
}

static void a_start_that_fails_leaves_ram_as_it_was(void **state)
{
	struct error err = { 0 };
	int refuses = -EPERM;
	struct fixture x;
	struct page_faults_params params;

	create(&x);
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
	assert_int_equal(mark_in_ram(&x, 0), 0);
	/* The descriptor is ours, and good for another try. */
	start(&x, &on_demand, NULL);
	assert_int_equal(mark_in_ram(&x, 1), mark_of(1));
	destroy(&x);
}

static void other_memory_is_refused(void **state)
{
	struct page_faults_params params = { 0 };
	struct error err = { 0 };
	struct guest_mem *shared;
	struct fixture x;
	int file;

	create(&x);
	params.fd = x.fd;
	assert_int_equal(guest_mem_create(&shared, GUEST_MEM_SHARED, layout, ARRAY_SIZE(layout),
					  &err),
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
	destroy(&x);
}

static int take_handed_over(int sock, json_t **ret_regions)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	char text[4096];
	struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n = recvmsg(sock, &msg, 0);
	int fd;

	assert_true(n > 0);
	assert_non_null(CMSG_FIRSTHDR(&msg));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	*ret_regions = json_loadb(text, n, 0, NULL);
	assert_non_null(*ret_regions);
	return fd;
}

static uint64_t number_in(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	assert_true(json_is_integer(value));
	return json_integer_value(value);
}

/* Its other end plays a handler of Firecracker's, which has the descriptor and the JSON alone. */
static void another_process_can_be_the_source(void **state)
{
	struct error err = { 0 };
	struct uffd_msg fault;
	struct toucher t;
	json_t *regions;
	struct fixture x;
	int socks[2], fd;

	create(&x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	if (page_faults_hand_over(&x.faults, x.mem, x.fd, socks[0], &err) < 0)
		fail_msg("%s", err.msg);
	assert_false(guest_mem_is_whole(x.mem));
	fd = take_handed_over(socks[1], &regions);
	assert_int_equal(json_array_size(regions), 2);
	assert_int_equal(number_in(json_array_get(regions, 0), "base_host_virt_addr"),
			 (uintptr_t)x.mem->map);
	assert_int_equal(number_in(json_array_get(regions, 1), "offset"), 4 * MiB);
	assert_int_equal(number_in(json_array_get(regions, 1), "size"), 2 * MiB);
	assert_int_equal(number_in(json_array_get(regions, 1), "page_size"), PAGE_SIZE);

	/* A page of the second range. */
	begin_touch(&t, &x, 4 * MiB / PAGE_SIZE + 2);
	poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, -1);
	assert_int_equal(read(fd, &fault, sizeof(fault)), sizeof(fault));
	assert_int_equal(fault.event, UFFD_EVENT_PAGEFAULT);
	assert_int_equal(fault.arg.pagefault.address - number_in(json_array_get(regions, 1),
								  "base_host_virt_addr"),
			 2 * PAGE_SIZE);
	assert_int_equal(ioctl(fd, UFFDIO_COPY,
			       &(struct uffdio_copy){
				       .dst = fault.arg.pagefault.address,
				       .src = (uintptr_t)x.pages + t.page * PAGE_SIZE,
				       .len = PAGE_SIZE }),
			 0);
	pthread_join(t.thread, NULL);
	assert_int_equal(t.found, mark_of(t.page));
	json_decref(regions);
	close(fd);
	close(socks[0]);
	close(socks[1]);
	destroy(&x);
}

/* What it brings: all pages, until it is told to stop. */
static void *bring_what_is_asked_for(void *arg)
{
	struct fixture *x = arg;
	struct uffd_msg fault;

	while (poll(&(struct pollfd){ .fd = x->fd, .events = POLLIN }, 1, -1) > 0 &&
	       read(x->fd, &fault, sizeof(fault)) == sizeof(fault)) {
		uint64_t at = fault.arg.pagefault.address - (uintptr_t)x->mem->map;

		ioctl(x->fd, UFFDIO_COPY,
		      &(struct uffdio_copy){ .dst = fault.arg.pagefault.address & ~(PAGE_SIZE - 1),
					     .src = (uintptr_t)x->pages +
						    (at & ~(PAGE_SIZE - 1)),
					     .len = PAGE_SIZE });
		if (at >> PAGE_SHIFT == NUM_PAGES - 1)
			break;
	}
	return NULL;
}

/* Of all pages, or with @pages of those. */
static void take_back(const uint64_t *pages)
{
	struct error err = { 0 };
	pthread_t handler;
	json_t *regions;
	struct fixture x;
	int socks[2];

	create(&x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	if (page_faults_hand_over(&x.faults, x.mem, x.fd, socks[0], &err) < 0)
		fail_msg("%s", err.msg);
	x.fd = take_handed_over(socks[1], &regions);
	assert_int_equal(pthread_create(&handler, NULL, bring_what_is_asked_for, &x), 0);
	assert_int_equal(page_faults_take_back(x.faults, pages), 0);
	x.faults = NULL;
	pthread_join(handler, NULL);
	assert_true(guest_mem_is_whole(x.mem));
	for (uint64_t page = 0; page < NUM_PAGES; page++)
		assert_int_equal(*(uint64_t *)(x.mem->map + page * PAGE_SIZE),
				 !pages || pages[page / 64] >> page % 64 & 1 ? mark_of(page) : 0);
	/* And the other process has no part in what happens from here on. */
	assert_int_equal(guest_mem_discard(x.mem, 0, PAGE_SIZE), 0);
	assert_int_equal(*(uint64_t *)x.mem->map, 0);
	json_decref(regions);
	close(x.fd);
	close(socks[0]);
	close(socks[1]);
	destroy(&x);
}

static void what_was_handed_over_can_be_taken_back(void **state)
{
	take_back(NULL);
}

/* Nobody is asked for what the guest does not have. */
static void what_is_not_plugged_is_not_asked_for(void **state)
{
	uint64_t pages[NUM_PAGES / 64 + 1] = { 5 };

	pages[(NUM_PAGES - 1) / 64] |= 1ull << (NUM_PAGES - 1) % 64;
	take_back(pages);
}

static void another_process_hears_of_huge_pages(void **state)
{
	struct error err = { 0 };
	struct guest_mem *huge;
	json_t *regions;
	struct fixture x;
	int socks[2], fd;

	if (guest_mem_create(&huge, GUEST_MEM_HUGETLB, layout, ARRAY_SIZE(layout), &err) < 0) {
		print_message("[          ] %s\n", err.msg);
		skip();
	}
	create(&x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	if (page_faults_hand_over(&x.faults, huge, x.fd, socks[0], &err) < 0)
		fail_msg("%s", err.msg);
	fd = take_handed_over(socks[1], &regions);
	assert_int_equal(number_in(json_array_get(regions, 0), "page_size"), 2 * MiB);
	page_faults_free(x.faults);
	x.faults = NULL;
	json_decref(regions);
	close(fd);
	close(socks[0]);
	close(socks[1]);
	guest_mem_free(huge);
	destroy(&x);
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
		cmocka_unit_test(another_process_can_be_the_source),
		cmocka_unit_test(what_was_handed_over_can_be_taken_back),
		cmocka_unit_test(what_is_not_plugged_is_not_asked_for),
		cmocka_unit_test(another_process_hears_of_huge_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
