#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/machine/machine_state.h"
#include "vmm/saved/demand.h"
#include "vmm/saved/working_set.h"

#define RAM_BYTES (4 * MiB)
#define NUM_PAGES (RAM_BYTES / PAGE_SIZE)
#define WORDS	  (NUM_PAGES / 64)

static const struct guest_mem_range layout[] = { { .gpa = 0, .size = RAM_BYTES } };

struct fixture {
	struct guest_mem *mem;
	struct loop *loop;
	struct demand demand;
	struct machine_image image;
	struct machine_layer layer[2];
	uint64_t pages[2][WORDS];
	struct packed_memory packed[3]; /* of the first file, then of the layers */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int broken; /* under lock: why, or 0 */
	const char *blamed;
};

static void set_bit(uint64_t *words, uint64_t page)
{
	words[page / 64] |= 1ull << (page % 64);
}

static void broken(void *arg, const char *name, int r)
{
	struct fixture *x = arg;

	pthread_mutex_lock(&x->lock);
	x->broken = r;
	x->blamed = name;
	pthread_cond_broadcast(&x->changed);
	pthread_mutex_unlock(&x->lock);
}

/* As large as RAM, and all hole. */
static int new_file(void)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
	return fd;
}

static void put(int fd, uint64_t page, uint64_t value)
{
	assert_int_equal(pwrite(fd, &value, sizeof(value), page * PAGE_SIZE), sizeof(value));
}

static uint64_t get(struct fixture *x, uint64_t page)
{
	return *(volatile uint64_t *)(x->mem->map + page * PAGE_SIZE);
}

static void create(struct fixture *x)
{
	struct error err = { 0 };

	*x = (struct fixture){ .demand = { .broken = broken, .arg = x } };
	for (unsigned i = 0; i < ARRAY_SIZE(x->packed); i++)
		x->packed[i].fd = -1;
	if (demand_open(&x->demand, &err) < 0) {
		print_message("[          ] %s\n", err.msg);
		skip();
	}
	assert_int_equal(loop_create(&x->loop, &(struct loop_params){ .name = "main" }, &err), 0);
	assert_int_equal(guest_mem_create(&x->mem, GUEST_MEM_ANON, layout, 1, &err), 0);
	pthread_mutex_init(&x->lock, NULL);
	pthread_cond_init(&x->changed, NULL);
	x->image.memory_fd = new_file();
	x->image.memory_name = "first";
	x->image.layer = x->layer;
	for (unsigned i = 0; i < ARRAY_SIZE(x->layer); i++)
		x->layer[i] = (struct machine_layer){
			.name = i ? "newest" : "second",
			.fd = new_file(),
			.pages = x->pages[i],
		};
}

/* From now on @fd's pages are to be had compressed only. */
static const struct packed_memory *pack(struct packed_memory *p, int *fd)
{
	int frames = memfd_create("frames", MFD_CLOEXEC);
	struct state_writer index;
	struct error err = { 0 };

	assert_true(frames >= 0);
	state_writer_init(&index);
	assert_int_equal(packed_memory_write(*fd, RAM_BYTES, frames, &index), 0);
	assert_int_equal(packed_memory_open(p, frames, index.buf, index.len, &err), 0);
	state_writer_done(&index);
	close(*fd);
	*fd = -1;
	return p;
}

static void start(struct fixture *x)
{
	struct error err = { 0 };

	if (demand_start(&x->demand, x->mem, &x->image, x->loop, NULL, &err) < 0)
		fail_msg("%s", err.msg);
}

static void wait_for_all(struct fixture *x)
{
	while (!guest_mem_is_whole(x->mem))
		loop_run_once(x->loop, UINT64_MAX);
}

static void destroy(struct fixture *x)
{
	demand_stop(&x->demand);
	guest_mem_free(x->mem);
	loop_free(x->loop);
	close(x->image.memory_fd);
	for (unsigned i = 0; i < ARRAY_SIZE(x->layer); i++)
		close(x->layer[i].fd);
	for (unsigned i = 0; i < ARRAY_SIZE(x->packed); i++)
		packed_memory_close(&x->packed[i]);
	pthread_cond_destroy(&x->changed);
	pthread_mutex_destroy(&x->lock);
}

/* ---- promises ---- */

/* A bit in @packed for each file that is compressed. */
static void expect_newest(unsigned packed)
{
	struct fixture x;

	create(&x);
	x.image.num_layers = 2;
	for (uint64_t page = 0; page < NUM_PAGES; page += 2)
		put(x.image.memory_fd, page, 1000 + page);
	for (uint64_t page = 100; page < 300; page++) {
		set_bit(x.pages[0], page);
		put(x.layer[0].fd, page, 2000 + page);
	}
	/* One that became zero is a hole there. */
	for (uint64_t page = 200; page < 250; page++)
		set_bit(x.pages[1], page);
	put(x.layer[1].fd, 201, 3201);
	if (packed & 1)
		x.image.packed = pack(&x.packed[0], &x.image.memory_fd);
	for (unsigned i = 0; i < ARRAY_SIZE(x.layer); i++)
		if (packed & 2u << i)
			x.layer[i].packed = pack(&x.packed[1 + i], &x.layer[i].fd);
	start(&x);
	/* While the background is at it. */
	assert_int_equal(get(&x, 150), 2150);
	assert_int_equal(get(&x, 200), 0);
	wait_for_all(&x);
	for (uint64_t page = 0; page < NUM_PAGES; page++) {
		uint64_t want = page % 2 ? 0 : 1000 + page;

		if (page >= 100 && page < 300)
			want = 2000 + page;
		if (page >= 200 && page < 250)
			want = page == 201 ? 3201 : 0;
		assert_int_equal(get(&x, page), want);
	}
	destroy(&x);
}

static void every_page_is_as_the_newest_file_has_it(void **state)
{
	expect_newest(0);
}

static void so_it_is_when_some_are_compressed(void **state)
{
	for (unsigned packed = 1; packed < 8; packed++)
		expect_newest(packed);
}

/* Until it cannot go on, for @why and for the sake of the file called @blamed. */
static void expect_broken(struct fixture *x, int why, const char *blamed)
{
	start(x);
	pthread_mutex_lock(&x->lock);
	while (!x->broken)
		pthread_cond_wait(&x->changed, &x->lock);
	pthread_mutex_unlock(&x->lock);
	assert_int_equal(x->broken, why);
	assert_string_equal(x->blamed, blamed);
	assert_false(guest_mem_is_whole(x->mem));
	destroy(x);
}

static void a_frame_that_is_damaged_is_told_of(void **state)
{
	struct fixture x;

	create(&x);
	put(x.image.memory_fd, 3, 1);
	x.image.packed = pack(&x.packed[0], &x.image.memory_fd);
	assert_int_equal(pwrite(x.packed[0].fd, "wrong", 5, 10), 5);
	expect_broken(&x, -EBADMSG, "first");
}

/* The others are as they should be, also the one that has most of it. */
static void whose_frame_is_damaged_is_told(void **state)
{
	struct fixture x;

	create(&x);
	x.image.num_layers = ARRAY_SIZE(x.layer);
	for (uint64_t page = 0; page < NUM_PAGES; page++)
		put(x.image.memory_fd, page, page + 1);
	for (unsigned i = 0; i < ARRAY_SIZE(x.layer); i++) {
		put(x.layer[i].fd, 40 + 40 * i, 1);
		set_bit(x.pages[i], 40 + 40 * i);
	}
	x.layer[0].packed = pack(&x.packed[1], &x.layer[0].fd);
	x.layer[1].packed = pack(&x.packed[2], &x.layer[1].fd);
	assert_int_equal(pwrite(x.packed[1].fd, "wrong", 5, 10), 5);
	expect_broken(&x, -EBADMSG, "second");
}

static void afterwards_the_files_are_of_no_use(void **state)
{
	struct fixture x;

	create(&x);
	put(x.image.memory_fd, 5, 55);
	put(x.image.memory_fd, NUM_PAGES - 1, 66);
	start(&x);
	wait_for_all(&x);
	assert_int_equal(ftruncate(x.image.memory_fd, 0), 0);
	assert_int_equal(get(&x, 5), 55);
	assert_int_equal(get(&x, NUM_PAGES - 1), 66);
	assert_int_equal(get(&x, 6), 0);
	destroy(&x);
}

static void the_working_set_is_part_of_it(void **state)
{
	uint64_t touched[WORDS] = { 0 };
	struct working_set set = { .touched = touched };
	struct fixture x;

	create(&x);
	x.image.working_set = &set;
	/* Some that the file has, and some that it does not. */
	for (uint64_t page = 500; page < 900; page++)
		set_bit(touched, page);
	for (uint64_t page = 0; page < 700; page++)
		put(x.image.memory_fd, page, page + 1);
	start(&x);
	wait_for_all(&x);
	for (uint64_t page = 0; page < NUM_PAGES; page++)
		assert_int_equal(get(&x, page), page < 700 ? page + 1 : 0);
	destroy(&x);
}

static void empty_memory_is_there_at_once(void **state)
{
	struct fixture x;

	create(&x);
	start(&x);
	wait_for_all(&x);
	assert_int_equal(get(&x, 0), 0);
	destroy(&x);
}

static void a_file_that_cannot_be_read_is_told_of(void **state)
{
	char path[64];
	struct fixture x;
	int fd;

	create(&x);
	put(x.image.memory_fd, 3, 1);
	/* It may be looked at in every way but be read. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", x.image.memory_fd);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	close(x.image.memory_fd);
	x.image.memory_fd = fd;
	expect_broken(&x, -EBADF, "first");
}

static void files_of_another_size_are_refused(void **state)
{
	struct error err = { 0 };
	struct fixture x;

	create(&x);
	x.image.num_layers = 2;
	assert_int_equal(ftruncate(x.layer[1].fd, RAM_BYTES - 1), 0);
	assert_int_equal(demand_start(&x.demand, x.mem, &x.image, x.loop, NULL, &err), -EBADMSG);
	assert_string_equal(err.msg,
			    "snapshot 'newest': saved memory: a file of 4194303 bytes for "
			    "RAM of 4194304 bytes");
	assert_true(guest_mem_is_whole(x.mem));
	destroy(&x);
}

static void it_may_end_before_all_is_there(void **state)
{
	struct fixture x;

	create(&x);
	for (uint64_t page = 0; page < NUM_PAGES; page++)
		put(x.image.memory_fd, page, page + 1);
	start(&x);
	assert_int_equal(get(&x, 77), 78);
	destroy(&x);
}

/* Without files, and until the end of the machine, which it sees. */
static void a_handler_has_the_pages(void **state)
{
	int socks[2];
	struct fixture x;
	char text[4096];

	create(&x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	x.demand.handed_over = true;
	x.demand.handler_fd = socks[0];
	start(&x);
	assert_false(guest_mem_is_whole(x.mem));
	assert_true(read(socks[1], text, sizeof(text)) > 2);
	assert_int_equal(text[0], '[');
	demand_stop(&x.demand);
	assert_int_equal(read(socks[1], text, sizeof(text)), 0);
	close(socks[1]);
	destroy(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_page_is_as_the_newest_file_has_it),
		cmocka_unit_test(so_it_is_when_some_are_compressed),
		cmocka_unit_test(a_frame_that_is_damaged_is_told_of),
		cmocka_unit_test(whose_frame_is_damaged_is_told),
		cmocka_unit_test(afterwards_the_files_are_of_no_use),
		cmocka_unit_test(the_working_set_is_part_of_it),
		cmocka_unit_test(empty_memory_is_there_at_once),
		cmocka_unit_test(a_file_that_cannot_be_read_is_told_of),
		cmocka_unit_test(files_of_another_size_are_refused),
		cmocka_unit_test(it_may_end_before_all_is_there),
		cmocka_unit_test(a_handler_has_the_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
