#include "tests/unit/fake_echo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

static void echo_one(struct echo *e, unsigned queue, const struct virtq_chain *c)
{
	uint8_t buf[4096];
	size_t n = virtq_copy_out(c, 0, buf, sizeof(buf));

	virtq_push(&e->dev.queue[queue], c, virtq_copy_in(c, 0, buf, n));
}

void echo_release(struct echo *e)
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
	struct iovec iov[ECHO_MAX_SEGS];
	struct virtq_chain c = { .iov = iov, .max_iov = ECHO_MAX_SEGS };
	int r;

	e->kicks++;
	do {
		virtq_kicks_off(q);
		while ((r = virtq_pop(q, &c)) > 0) {
			if (e->hold) {
				assert_true(e->num_held < ECHO_MAX_HELD);
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
	.config_size = ECHO_CONFIG_SIZE,
	.start = echo_start,
	.stop = echo_stop,
	.reset = echo_reset,
	.kick = echo_kick,
	.config_read = echo_config_read,
	.config_write = echo_config_write,
	.free = echo_free,
};

struct echo *echo_create(struct fake_vm *vm)
{
	static const uint16_t sizes[ECHO_QUEUES] = { ECHO_RING_SIZE, ECHO_RING_SIZE };
	struct virtio_params params = fake_vm_params(vm, "echo0");
	struct echo *e = calloc(1, sizeof(*e));

	params.num_queues = ECHO_QUEUES;
	params.queue_sizes = sizes;
	params.features = 1ull << 5;
	assert_int_equal(virtio_init(&e->dev, &echo_ops, &params, NULL), 0);
	return e;
}

void echo_begin(struct echo_machine *m, enum loop_backend backend,
		const struct fake_driver_config *config)
{
	memset(m, 0, sizeof(*m));
	fake_vm_init(&m->vm, backend);
	m->e = echo_create(&m->vm);
	fake_driver_init(&m->d, &m->vm, &m->e->dev, config);
}

void echo_end(struct echo_machine *m)
{
	fake_driver_done(&m->d);
	fake_vm_done(&m->vm);
}

int echo_request(struct echo_machine *m, const char *text)
{
	struct fake_buf bufs[2] = {
		{ fake_alloc(&m->vm, 64, 1), 64, false },
		{ fake_alloc(&m->vm, 64, 1), 64, true },
	};

	strcpy(fake_ptr(&m->vm, bufs[0].gpa, 64), text);
	return fake_add(&m->d, 0, bufs, 2);
}
