/*
 * The device core and both rings over both transports, with a device that
 * echoes: what is readable in a chain comes back in its writable part.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/fake_driver.h"

#define RING_SIZE   16
#define MAX_HELD    64
#define MAX_SEGS    16
#define CONFIG_SIZE 12

struct echo {
	struct virtio_device dev;
	uint8_t config[CONFIG_SIZE];
	unsigned starts, stops, resets, kicks;
	int start_result;

	/* Hold chains instead of returning them, as a disk does until it has the data. */
	bool hold;
	struct {
		struct virtq_chain c;
		struct iovec iov[MAX_SEGS];
		unsigned queue;
	} held[MAX_HELD];
	unsigned num_held;
	bool stop_waits;
	struct loop_timer timer; /* returns what is held */
};

static void echo_one(struct echo *e, unsigned queue, const struct virtq_chain *c)
{
	uint8_t buf[4096];
	size_t n = virtq_copy_out(c, 0, buf, sizeof(buf));

	virtq_push(&e->dev.queue[queue], c, virtq_copy_in(c, 0, buf, n));
}

static void echo_release(struct echo *e)
{
	/* The last one first: a device may return chains in any order. */
	while (e->num_held) {
		unsigned i = --e->num_held;

		e->held[i].c.iov = e->held[i].iov;
		echo_one(e, e->held[i].queue, &e->held[i].c);
		virtio_notify(&e->dev, e->held[i].queue);
	}
	if (e->stop_waits) {
		e->stop_waits = false;
		virtio_stopped(&e->dev);
	}
}

static void echo_timer(struct loop_timer *t)
{
	echo_release(container_of(t, struct echo, timer));
}

static void echo_kick(struct virtio_device *dev, unsigned queue)
{
	struct echo *e = container_of(dev, struct echo, dev);
	struct virtq *q = &dev->queue[queue];
	struct iovec iov[MAX_SEGS];
	struct virtq_chain c = { .iov = iov, .max_iov = MAX_SEGS };
	int r;

	e->kicks++;
	do {
		virtq_kicks_off(q);
		while ((r = virtq_pop(q, &c)) > 0) {
			if (e->hold) {
				assert_true(e->num_held < MAX_HELD);
				e->held[e->num_held].c = c;
				e->held[e->num_held].queue = queue;
				memcpy(e->held[e->num_held++].iov, iov, sizeof(iov));
			} else {
				echo_one(e, queue, &c);
			}
		}
		if (r < 0) {
			virtio_fail(dev, "queue %u: %s", queue, q->why_broken);
			break;
		}
	} while (virtq_kicks_on(q));
	virtio_notify(dev, queue);
}

static int echo_start(struct virtio_device *dev)
{
	struct echo *e = container_of(dev, struct echo, dev);

	e->starts++;
	return e->start_result;
}

static void echo_stop(struct virtio_device *dev)
{
	struct echo *e = container_of(dev, struct echo, dev);

	e->stops++;
	if (!e->num_held) {
		virtio_stopped(dev);
		return;
	}
	e->stop_waits = true;
	e->timer.expired = echo_timer;
	loop_timer_set(dev->loop, &e->timer, clock_monotonic_ns(loop_clock(dev->loop)));
}

static void echo_reset(struct virtio_device *dev)
{
	struct echo *e = container_of(dev, struct echo, dev);

	assert_int_equal(e->num_held, 0);
	e->resets++;
}

static void echo_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	memcpy(data, container_of(dev, struct echo, dev)->config + offset, len);
}

static void echo_config_write(struct virtio_device *dev, unsigned offset, const void *data,
			      unsigned len)
{
	memcpy(container_of(dev, struct echo, dev)->config + offset, data, len);
}

static void echo_free(struct virtio_device *dev)
{
	virtio_done(dev);
	free(container_of(dev, struct echo, dev));
}

static const struct virtio_ops echo_ops = {
	.name = "echo",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0xff0000,
	.config_size = CONFIG_SIZE,
	.start = echo_start,
	.stop = echo_stop,
	.reset = echo_reset,
	.kick = echo_kick,
	.config_read = echo_config_read,
	.config_write = echo_config_write,
	.free = echo_free,
};

static struct echo *echo_create(struct fake_vm *vm)
{
	static const uint16_t sizes[2] = { RING_SIZE, RING_SIZE };
	struct virtio_params params = fake_vm_params(vm, "echo0");
	struct echo *e = calloc(1, sizeof(*e));

	params.num_queues = 2;
	params.queue_sizes = sizes;
	params.features = 1ull << 5;
	assert_int_equal(virtio_init(&e->dev, &echo_ops, &params, NULL), 0);
	return e;
}

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct echo *e;
};

static void begin(struct fixture *f, const struct fake_driver_config *config)
{
	memset(f, 0, sizeof(*f));
	fake_vm_init(&f->vm, LOOP_AUTO);
	f->e = echo_create(&f->vm);
	fake_driver_init(&f->d, &f->vm, &f->e->dev, config);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
}

/* One request on queue 0: a readable and a writable buffer of 64 bytes. */
static int request(struct fixture *f, const char *text)
{
	struct fake_buf bufs[2] = {
		{ fake_alloc(&f->vm, 64, 1), 64, false },
		{ fake_alloc(&f->vm, 64, 1), 64, true },
	};

	strcpy(fake_ptr(&f->vm, bufs[0].gpa, 64), text);
	return fake_add(&f->d, 0, bufs, 2);
}

/* ---- status and features ---- */

static void features_ok_is_refused_for_what_is_not_offered(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	fake_set_status(&f.d, 0);
	virtio_set_features(&f.e->dev, 0, 1u << 6);
	virtio_set_features(&f.e->dev, 1, 1u << (VIRTIO_F_VERSION_1 - 32));
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_FEATURES_OK, false);
	assert_int_equal(fake_status(&f.d), 0);

	/* And without VERSION_1, since nothing here speaks the older dialect. */
	virtio_set_features(&f.e->dev, 0, 1u << 5);
	virtio_set_features(&f.e->dev, 1, 0);
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_FEATURES_OK, false);
	assert_int_equal(fake_status(&f.d), 0);

	virtio_set_features(&f.e->dev, 1, 1u << (VIRTIO_F_VERSION_1 - 32));
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_FEATURES_OK, false);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_FEATURES_OK);
	/* From now on they are final. */
	virtio_set_features(&f.e->dev, 0, 0);
	assert_true(virtio_has(&f.e->dev, 5));
	assert_int_equal(virtio_get_features(&f.e->dev, 2), 0);
	end(&f);
}

static void driver_ok_needs_features_ok(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	fake_set_status(&f.d, 0);
	fake_set_status(&f.d, VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_DRIVER);
	assert_int_equal(f.e->starts, 0);
	end(&f);
}

static void status_bits_go_by_reset_only(void **state)
{
	struct fixture f;
	uint8_t all;

	begin(&f, &(struct fake_driver_config){ 0 });
	all = fake_status(&f.d);
	fake_set_status(&f.d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(fake_status(&f.d), all);
	fake_set_status(&f.d, 0);
	assert_int_equal(fake_status(&f.d), 0);
	assert_int_equal(f.e->resets, 1);
	end(&f);
}

static void queue_of_a_running_device_cannot_be_changed(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	assert_null(virtio_queue_config(&f.e->dev, 0));
	assert_null(virtio_queue(&f.e->dev, 2));
	fake_set_status(&f.d, 0);
	assert_non_null(virtio_queue_config(&f.e->dev, 0));
	assert_false(virtio_queue(&f.e->dev, 0)->ready);
	end(&f);
}

/* ---- requests ---- */

static void what_is_sent_comes_back(void **state)
{
	struct fake_used used;
	struct fixture f;
	int id;

	begin(&f, &(struct fake_driver_config){ 0 });
	id = request(&f, "hello");
	assert_true(fake_kick(&f.d, 0));
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.id, id);
	assert_int_equal(used.len, 64);
	assert_string_equal(fake_ptr(&f.vm, f.vm.next_alloc - 64, 64), "hello");
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	assert_int_equal(fake_interrupts(&f.d, 1), 0);
	end(&f);
}

static void one_interrupt_for_a_batch(void **state)
{
	struct fake_used used;
	struct fixture f;
	unsigned i;

	begin(&f, &(struct fake_driver_config){ .event_idx = true });
	for (i = 0; i < 5; i++)
		request(&f, "batch");
	fake_kick(&f.d, 0);
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	for (i = 0; i < 5; i++)
		assert_true(fake_take_used(&f.d, 0, &used));
	end(&f);
}

static unsigned random_below(unsigned *seed, unsigned n)
{
	*seed = *seed * 1103515245 + 12345;
	return (*seed >> 16) % n;
}

/*
 * A driver that looks at the ring only after an interrupt, and a device that
 * looks only after a kick: one of either lost and the requests stop.
 */
static void run_randomly(const struct fake_driver_config *config, unsigned seed)
{
	unsigned sent = 0, back = 0, target = 600;
	uint64_t bytes[RING_SIZE * 2] = { 0 };
	struct fake_used used;
	struct fixture f;
	uint64_t pool;

	begin(&f, config);
	pool = fake_alloc(&f.vm, 4096, 16);
	while (back < target) {
		unsigned n = random_below(&seed, 6), before = back;

		f.e->hold = random_below(&seed, 2);
		while (n-- && sent < target) {
			struct fake_buf bufs[6];
			unsigned i, out = 1 + random_below(&seed, 3),
				 in = 1 + random_below(&seed, 3);
			uint64_t room = 0, data = 0;
			int id;

			for (i = 0; i < out + in; i++) {
				bufs[i].gpa = pool + random_below(&seed, 2048);
				bufs[i].len = 1 + random_below(&seed, 300);
				bufs[i].writable = i >= out;
				*(i < out ? &data : &room) += bufs[i].len;
			}
			id = fake_add(&f.d, 0, bufs, out + in);
			if (id < 0)
				break;
			bytes[id] = MIN(room, data);
			sent++;
			if (random_below(&seed, 3) == 0)
				fake_kick(&f.d, 0);
		}
		fake_kick(&f.d, 0);
		fake_run(&f.vm);
		echo_release(f.e);
		/* Tables are not given back: take the memory again when all are done. */
		if (fake_interrupts(&f.d, 0)) {
			while (fake_take_used(&f.d, 0, &used)) {
				assert_int_equal(used.len, bytes[used.id]);
				back++;
			}
		}
		if (back == before && !f.e->num_held && sent == target)
			break;
	}
	assert_int_equal(back, target);
	assert_int_equal(f.e->dev.stats.failures, 0);
	end(&f);
}

static void random_requests_all_come_back(void **state)
{
	unsigned i;

	for (i = 0; i < 32; i++) {
		struct fake_driver_config config = {
			.transport = i & 1 ? FAKE_PCI : FAKE_MMIO,
			.packed = i & 2,
			.event_idx = i & 4,
			.indirect = i & 8,
			.intx = i & 16,
		};

		run_randomly(&config, i + 1);
	}
}

/* ---- mistakes ---- */

static void mistake_needs_a_reset_and_a_reset_mends_it(void **state)
{
	struct fake_buf bad = { FAKE_RAM_END, 64, true };
	struct fake_used used;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	fake_add(&f.d, 0, &bad, 1);
	fake_kick(&f.d, 0);
	assert_int_equal(fake_config_interrupts(&f.d), 1);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(f.e->dev.stats.failures, 1);

	/* Good requests are not served either, on no queue. */
	request(&f, "late");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	assert_false(fake_take_used(&f.d, 0, &used));

	fake_driver_probe(&f.d);
	assert_false(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	request(&f, "again");
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	end(&f);
}

static void ring_outside_ram_needs_a_reset(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	pthread_mutex_lock(&f.e->dev.lock);
	virtio_queue_config(&f.e->dev, 1)->device_gpa = FAKE_RAM_END;
	pthread_mutex_unlock(&f.e->dev.lock);
	fake_driver_ok(&f.d);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(f.e->starts, 0);
	assert_false(f.e->dev.queue[0].started);
	fake_driver_probe(&f.d);
	fake_driver_ok(&f.d);
	assert_int_equal(f.e->starts, 1);
	end(&f);
}

static void device_that_cannot_start_needs_a_reset(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	f.e->start_result = -EIO;
	fake_driver_ok(&f.d);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fake_set_status(&f.d, 0);
	/* What did not start is not stopped. */
	assert_int_equal(f.e->stops, 0);
	end(&f);
}

/* ---- reset ---- */

static void reset_waits_for_what_is_in_flight(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	f.e->hold = true;
	request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	assert_int_equal(f.e->num_held, 1);
	fake_set_status(&f.d, 0);
	assert_int_equal(f.e->num_held, 0);
	assert_int_equal(f.e->resets, 1);
	assert_int_equal(fake_status(&f.d), 0);
	end(&f);
}

static void pci_status_reads_non_zero_until_drained(void **state)
{
	struct fake_used used;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .transport = FAKE_PCI });
	f.e->hold = true;
	request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	fake_set_status(&f.d, 0);
	assert_int_not_equal(fake_status(&f.d), 0);
	/* Writing 0 again does no harm. */
	fake_set_status(&f.d, 0);
	fake_run(&f.vm);
	assert_int_equal(fake_status(&f.d), 0);
	assert_int_equal(f.e->resets, 1);
	f.e->hold = false;
	fake_driver_probe(&f.d);
	request(&f, "again");
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	end(&f);
}

static void pci_driver_that_does_not_wait_is_made_to(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .transport = FAKE_PCI });
	f.e->hold = true;
	request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	fake_set_status(&f.d, 0);
	fake_set_status(&f.d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(f.e->resets, 1);
	end(&f);
}

static unsigned open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void resets_leak_no_descriptor_and_no_doorbell(void **state)
{
	for (int pci = 0; pci < 2; pci++) {
		unsigned i, before;
		struct fixture f;

		begin(&f, &(struct fake_driver_config){ .transport = pci ? FAKE_PCI : FAKE_MMIO });
		assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 2);
		before = open_descriptors();
		for (i = 0; i < 20; i++) {
			fake_set_status(&f.d, 0);
			fake_run(&f.vm);
			assert_int_equal(fake_status(&f.d), 0);
			assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 0);
			fake_driver_probe(&f.d);
			assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 2);
		}
		assert_int_equal(open_descriptors(), before);
		end(&f);
	}
}

static void doorbell_that_exits_kicks_too(void **state)
{
	struct fake_used used;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	fake_hv_fail(f.vm.hv, FAKE_HV_IOEVENTFD, 0, -ENOSPC);
	fake_driver_ok(&f.d);
	assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 1);
	request(&f, "slow way");
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	/* A queue that does not exist is nobody's. */
	virtio_kick(&f.e->dev, 2);
	virtio_kick(&f.e->dev, UINT32_MAX);
	end(&f);
}

/* ---- pause and state ---- */

static void count(struct virtio_device *dev, void *arg)
{
	++*(unsigned *)arg;
}

static void pause_drains_and_resume_loses_nothing(void **state)
{
	struct fake_used used;
	unsigned paused = 0;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .event_idx = true });
	f.e->hold = true;
	request(&f, "first");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	virtio_pause(&f.e->dev, count, &paused);
	assert_int_equal(paused, 0);
	fake_run(&f.vm);
	assert_int_equal(paused, 1);
	assert_false(f.e->dev.queue[0].started);
	assert_true(fake_take_used(&f.d, 0, &used));
	fake_interrupts(&f.d, 0);

	/* A kick while it is paused is not for now, and not forgotten. */
	f.e->hold = false;
	request(&f, "second");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	assert_false(fake_take_used(&f.d, 0, &used));
	virtio_resume(&f.e->dev);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_true(fake_interrupts(&f.d, 0) >= 1);
	end(&f);
}

static void pause_of_a_device_without_driver_is_at_once(void **state)
{
	unsigned paused = 0;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	virtio_pause(&f.e->dev, count, &paused);
	assert_int_equal(paused, 1);
	virtio_resume(&f.e->dev);
	assert_int_equal(f.e->starts, 0);
	end(&f);
}

static void reset_and_pause_wait_for_the_same_drain(void **state)
{
	unsigned paused = 0;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .transport = FAKE_PCI });
	f.e->hold = true;
	request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	fake_set_status(&f.d, 0);
	virtio_pause(&f.e->dev, count, &paused);
	fake_run(&f.vm);
	assert_int_equal(paused, 1);
	assert_int_equal(f.e->stops, 1);
	assert_int_equal(fake_status(&f.d), 0);
	virtio_resume(&f.e->dev);
	assert_int_equal(f.e->starts, 1);
	end(&f);
}

/* The one section in @w. */
static struct state_reader reader_of(const struct state_writer *w)
{
	struct state_reader r;
	size_t pos = 0;

	assert_int_equal(w->failed, 0);
	assert_int_equal(state_next(w->buf, w->len, &pos, &r, NULL), 1);
	assert_int_equal(pos, w->len);
	assert_string_equal(r.name, "echo0");
	return r;
}

static void loaded_device_goes_on_with_the_same_rings(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct fake_driver_config config = {
			.transport = i & 1 ? FAKE_PCI : FAKE_MMIO,
			.packed = i & 2,
			.event_idx = true,
		};
		struct fake_used used;
		struct state_writer w;
		struct state_reader r;
		unsigned paused = 0;
		struct fixture f;

		begin(&f, &config);
		request(&f, "before");
		fake_kick(&f.d, 0);
		assert_true(fake_wait_used(&f.d, 0, &used));
		virtio_pause(&f.e->dev, count, &paused);
		request(&f, "waiting, its kick lost with the other machine");
		state_writer_init(&w);
		if (f.d.pci)
			virtio_pci_save(f.d.pci, &w);
		else
			virtio_mmio_save(f.d.mmio, &w);
		r = reader_of(&w);

		/* A second device in the place of the first, over the same memory. */
		if (f.d.pci)
			virtio_pci_free(f.d.pci);
		virtio_mmio_free(f.d.mmio);
		virtio_free(&f.e->dev);
		f.e = echo_create(&f.vm);
		f.d.dev = &f.e->dev;
		if (f.d.pci) {
			assert_int_equal(virtio_pci_create(&f.d.pci, f.d.dev, f.vm.pci, f.d.slot,
							   NULL), 0);
			assert_int_equal(pci_bus_plug(virtio_pci_function(f.d.pci), NULL), 0);
			assert_int_equal(virtio_pci_load(f.d.pci, &r), 0);
		} else {
			assert_int_equal(virtio_mmio_create(&f.d.mmio, f.d.dev, f.vm.mmio,
							    FAKE_MMIO_BASE, f.vm.irqs,
							    FAKE_MMIO_GSI, NULL), 0);
			assert_int_equal(virtio_mmio_load(f.d.mmio, &r), 0);
		}
		assert_int_equal(state_reader_end(&r, NULL), 0);
		virtio_resume(&f.e->dev);
		assert_true(fake_wait_used(&f.d, 0, &used));
		assert_true(fake_interrupts(&f.d, 0) >= 1);
		request(&f, "after");
		assert_true(fake_kick(&f.d, 0));
		assert_true(fake_wait_used(&f.d, 0, &used));
		state_writer_done(&w);
		end(&f);
	}
}

static void load_refuses_every_truncation(void **state)
{
	struct state_writer w;
	struct state_reader r;
	unsigned paused = 0;
	struct fixture f;
	size_t len;

	begin(&f, &(struct fake_driver_config){ 0 });
	virtio_pause(&f.e->dev, count, &paused);
	state_writer_init(&w);
	virtio_mmio_save(f.d.mmio, &w);
	r = reader_of(&w);
	for (len = 0; len < r.len; len++) {
		struct state_reader cut = r;

		cut.len = len;
		assert_true(virtio_mmio_load(f.d.mmio, &cut) < 0);
	}
	assert_int_equal(virtio_mmio_load(f.d.mmio, &r), 0);
	state_writer_done(&w);
	end(&f);
}

/* ---- threads ---- */

static bool wait_used(struct fake_driver *d, struct fake_used *used)
{
	unsigned turn;

	for (turn = 0; turn < 200000; turn++) {
		if (fake_take_used(d, 0, used))
			return true;
		sched_yield();
	}
	return false;
}

/* A driver on a thread of its own: requests, and resets with some still on their way. */
static void *vcpu(void *arg)
{
	struct fixture *f = arg;
	struct fake_used used;
	uintptr_t lost = 0;
	unsigned i;

	fake_driver_probe(&f->d);
	for (i = 0; i < 50; i++) {
		request(f, "thread");
		fake_kick(&f->d, 0);
		if (i % 5 == 0 && !wait_used(&f->d, &used))
			lost++;
		fake_driver_probe(&f->d);
	}
	fake_reset(&f->d);
	loop_stop(f->vm.loop);
	return (void *)lost;
}

static void vcpu_and_loop_on_two_threads(void **state)
{
	for (int pci = 0; pci < 2; pci++) {
		pthread_t thread;
		struct fixture f;
		void *lost;

		begin(&f, &(struct fake_driver_config){
				  .transport = pci ? FAKE_PCI : FAKE_MMIO,
				  .event_idx = true,
			  });
		/*
		 * This thread owns the loop from now on: the other one must never think it
		 * does.
		 */
		fake_run(&f.vm);
		assert_int_equal(pthread_create(&thread, NULL, vcpu, &f), 0);
		loop_run(f.vm.loop);
		pthread_join(thread, &lost);
		assert_null(lost);
		assert_int_equal(f.e->resets, 52);
		end(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(features_ok_is_refused_for_what_is_not_offered),
		cmocka_unit_test(driver_ok_needs_features_ok),
		cmocka_unit_test(status_bits_go_by_reset_only),
		cmocka_unit_test(queue_of_a_running_device_cannot_be_changed),
		cmocka_unit_test(what_is_sent_comes_back),
		cmocka_unit_test(one_interrupt_for_a_batch),
		cmocka_unit_test(random_requests_all_come_back),
		cmocka_unit_test(mistake_needs_a_reset_and_a_reset_mends_it),
		cmocka_unit_test(ring_outside_ram_needs_a_reset),
		cmocka_unit_test(device_that_cannot_start_needs_a_reset),
		cmocka_unit_test(reset_waits_for_what_is_in_flight),
		cmocka_unit_test(pci_status_reads_non_zero_until_drained),
		cmocka_unit_test(pci_driver_that_does_not_wait_is_made_to),
		cmocka_unit_test(resets_leak_no_descriptor_and_no_doorbell),
		cmocka_unit_test(doorbell_that_exits_kicks_too),
		cmocka_unit_test(pause_drains_and_resume_loses_nothing),
		cmocka_unit_test(pause_of_a_device_without_driver_is_at_once),
		cmocka_unit_test(reset_and_pause_wait_for_the_same_drain),
		cmocka_unit_test(loaded_device_goes_on_with_the_same_rings),
		cmocka_unit_test(load_refuses_every_truncation),
		cmocka_unit_test(vcpu_and_loop_on_two_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
