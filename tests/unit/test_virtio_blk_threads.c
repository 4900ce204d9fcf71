/*
 * A disk whose queues have loops and threads of their own: starts, stops and resets cross over to
 * each of them, and nothing is lost or touched by two. Best run under ThreadSanitizer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_driver.h"
#include "tests/unit/patience.h"
#include "virtio/virtio_devices.h"

#define QUEUES	     4
#define SECTORS	     1024u
#define SIZE	     (SECTORS * 512ull)
#define ALL_FEATURES ((1ull << 28) - 1)
#define DEPTH	     16

struct side {
	struct loop *loop;
	pthread_t thread;
};

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
	struct side side[QUEUES];
	char path[64];
};

static void *run_loop(void *arg)
{
	struct side *s = arg;

	loop_run(s->loop);
	return NULL;
}

static void make_image(struct fixture *f)
{
	uint8_t sector[512];
	int fd;

	snprintf(f->path, sizeof(f->path), "/var/tmp/wisp-test-blk-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < SECTORS; i++) {
		memset(sector, (int)i % 251, sizeof(sector));
		assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
	}
	close(fd);
}

static struct fixture *begin(enum loop_backend backend, bool packed)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fake_driver_config driver = {
		.transport = FAKE_PCI,
		.features = ALL_FEATURES,
		.packed = packed,
		.event_idx = true,
	};
	struct block_config config = { .path = f->path, .fd = -1 };
	struct loop *loops[QUEUES];
	struct virtio_params params;
	struct block *b;

	make_image(f);
	fake_vm_init(&f->vm, backend);
	for (unsigned i = 0; i < QUEUES; i++) {
		struct loop_params loop = { .backend = backend, .name = "queue", .may_wait = true };

		assert_int_equal(loop_create(&f->side[i].loop, &loop, NULL), 0);
		loops[i] = f->side[i].loop;
		assert_int_equal(
			pthread_create(&f->side[i].thread, NULL, run_loop, &f->side[i]), 0);
	}
	params = fake_vm_params(&f->vm, "disk0");
	params.num_queues = QUEUES;
	params.queue_loops = loops;
	assert_int_equal(block_open(&b, &config, NULL), 0);
	block_attach(b, loops[0]);
	assert_int_equal(virtio_blk_create(&f->dev, &params, b, NULL, NULL), 0);
	fake_driver_init(&f->d, &f->vm, f->dev, &driver);
	return f;
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	for (unsigned i = 0; i < QUEUES; i++) {
		loop_stop(f->side[i].loop);
		pthread_join(f->side[i].thread, NULL);
		loop_free(f->side[i].loop);
	}
	fake_vm_done(&f->vm);
	unlink(f->path);
	free(f);
}

struct request {
	uint64_t header, data, status;
	unsigned sector;
};

static struct request make_request(struct fixture *f, unsigned sector)
{
	struct virtio_blk_outhdr h = { .type = htole32(VIRTIO_BLK_T_IN),
				       .sector = htole64(sector) };
	struct request r = {
		.header = fake_alloc(&f->vm, sizeof(h), 16),
		.data = fake_alloc(&f->vm, 512, 512),
		.status = fake_alloc(&f->vm, 1, 1),
		.sector = sector,
	};

	memcpy(fake_ptr(&f->vm, r.header, sizeof(h)), &h, sizeof(h));
	return r;
}

static int add(struct fixture *f, unsigned queue, const struct request *r)
{
	struct fake_buf bufs[] = { { r->header, 16, false },
				   { r->data, 512, true },
				   { r->status, 1, true } };

	*(uint8_t *)fake_ptr(&f->vm, r->status, 1) = 0x7f;
	return fake_add(&f->d, queue, bufs, 3);
}

static bool is_right(struct fixture *f, const struct request *r)
{
	const uint8_t *data = fake_ptr(&f->vm, r->data, 512);

	return *(uint8_t *)fake_ptr(&f->vm, r->status, 1) == VIRTIO_BLK_S_OK &&
	       data[0] == r->sector % 251 && data[511] == r->sector % 251;
}

/* The queue's thread brings it; our loop has nothing to do with it. */
static bool await_used(struct fixture *f, unsigned queue)
{
	uint64_t end = patience();
	struct fake_used used;

	while (!fake_take_used(&f->d, queue, &used)) {
		if (patience_ends(end))
			return false;
		sched_yield();
	}
	return true;
}

/* Requests @from to @to of every queue, each queue's announced at once. */
static void add_all(struct fixture *f, struct request r[QUEUES][DEPTH], unsigned from, unsigned to)
{
	for (unsigned q = 0; q < QUEUES; q++) {
		for (unsigned i = from; i < to; i++)
			assert_true(add(f, q, &r[q][i]) >= 0);
		fake_kick(&f->d, q);
	}
}

/* All DEPTH of every queue come back, with what they asked for. */
static void await_all(struct fixture *f, struct request r[QUEUES][DEPTH])
{
	for (unsigned q = 0; q < QUEUES; q++) {
		for (unsigned i = 0; i < DEPTH; i++)
			assert_true(await_used(f, q));
		for (unsigned i = 0; i < DEPTH; i++)
			assert_true(is_right(f, &r[q][i]));
	}
}

static void run_requests(struct fixture *f, struct request r[QUEUES][DEPTH], unsigned rounds)
{
	while (rounds--) {
		add_all(f, r, 0, DEPTH);
		await_all(f, r);
	}
}

static void make_requests(struct fixture *f, struct request r[QUEUES][DEPTH])
{
	for (unsigned q = 0; q < QUEUES; q++)
		for (unsigned i = 0; i < DEPTH; i++)
			r[q][i] = make_request(f, q * DEPTH + i);
}

static void queues_work_at_the_same_time(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fixture *f = begin(*(enum loop_backend *)*state, packed);
		struct request r[QUEUES][DEPTH];

		make_requests(f, r);
		run_requests(f, r, 20);
		for (unsigned q = 0; q < QUEUES; q++)
			assert_true(fake_interrupts(&f->d, q) > 0);
		assert_int_equal(f->dev->stats.failures, 0);
		end(f);
	}
}

/*
 * Enough doorbells for a queue to find that it should wait, to stop so, and in mid-flight to be
 * stopped and started: with each request told by itself there is one that is missed if any is.
 */
static void requests_told_one_by_one_are_all_found(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fixture *f = begin(*(enum loop_backend *)*state, packed);
		struct request r[QUEUES][DEPTH];

		make_requests(f, r);
		for (unsigned round = 0; round < 120; round++) {
			for (unsigned i = 0; i < DEPTH; i++) {
				for (unsigned q = 0; q < QUEUES; q++) {
					assert_true(add(f, q, &r[q][i]) >= 0);
					fake_kick(&f->d, q);
				}
			}
			await_all(f, r);
			if (round % 40 == 39)
				fake_driver_probe(&f->d);
		}
		end(f);
	}
}

static void a_pause_drains_every_queue_and_a_resume_finds_what_waits(void **state)
{
	struct fixture *f = begin(*(enum loop_backend *)*state, false);
	struct request r[QUEUES][DEPTH];

	make_requests(f, r);
	for (unsigned round = 0; round < 20; round++) {
		add_all(f, r, 0, DEPTH / 2);
		fake_pause(&f->d);
		for (unsigned q = 0; q < QUEUES; q++)
			assert_int_equal(f->dev->queue[q].inflight, 0);
		/* These come while nobody listens. */
		add_all(f, r, DEPTH / 2, DEPTH);
		virtio_resume(f->dev);
		await_all(f, r);
	}
	end(f);
}

static void resets_in_mid_flight_lose_nothing_of_the_host(void **state)
{
	struct fixture *f = begin(*(enum loop_backend *)*state, false);
	struct request r[QUEUES][DEPTH];

	make_requests(f, r);
	for (unsigned round = 0; round < 20; round++) {
		add_all(f, r, 0, DEPTH);
		fake_driver_probe(&f->d);
		run_requests(f, r, 1);
	}
	end(f);
}

/* One queue's driver breaks a rule: all stop, whatever they are doing, and a reset mends it. */
static void a_failure_of_one_queue_is_the_devices(void **state)
{
	struct fixture *f = begin(*(enum loop_backend *)*state, false);
	struct request r[QUEUES][DEPTH];
	struct fake_buf bad;

	make_requests(f, r);
	for (unsigned round = 0; round < 10; round++) {
		bad = (struct fake_buf){ r[0][0].header, 16, false };
		add_all(f, r, 0, DEPTH);
		fake_add(&f->d, round % QUEUES, &bad, 1);
		fake_kick(&f->d, round % QUEUES);
		for (uint64_t end = patience();
		     !(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET) && !patience_ends(end);)
			sched_yield();
		assert_true(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		fake_driver_probe(&f->d);
		run_requests(f, r, 1);
	}
	assert_int_equal(f->dev->stats.failures, 10);
	end(f);
}

/* The limit is one for all queues, and sizes change under their hands. */
static void limits_and_sizes_change_under_load(void **state)
{
	struct fixture *f = begin(*(enum loop_backend *)*state, false);
	struct request r[QUEUES][DEPTH];

	make_requests(f, r);
	for (unsigned round = 0; round < 10; round++) {
		struct rate_limits limits = { .ops = { .per_second = 20000 + round } };

		virtio_blk_limit(f->dev, &limits);
		run_requests(f, r, 1);
		virtio_blk_limit(f->dev, &(struct rate_limits){ 0 });
		run_requests(f, r, 1);
	}
	end(f);
}

int main(void)
{
	static enum loop_backend backends[] = { LOOP_EPOLL, LOOP_AUTO };
	static const char *const names[] = { "virtio_blk threads, epoll", "virtio_blk threads" };
	int failed = 0;

	log_setup(STDERR_FILENO, LOG_ERROR);
	for (unsigned i = 0; i < ARRAY_SIZE(backends); i++) {
		void *on = &backends[i];
		const struct CMUnitTest tests[] = {
			cmocka_unit_test_prestate(queues_work_at_the_same_time, on),
			cmocka_unit_test_prestate(requests_told_one_by_one_are_all_found, on),
			cmocka_unit_test_prestate(
				a_pause_drains_every_queue_and_a_resume_finds_what_waits, on),
			cmocka_unit_test_prestate(resets_in_mid_flight_lose_nothing_of_the_host,
						  on),
			cmocka_unit_test_prestate(a_failure_of_one_queue_is_the_devices, on),
			cmocka_unit_test_prestate(limits_and_sizes_change_under_load, on),
		};

		failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
	}
	return failed;
}
