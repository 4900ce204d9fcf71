/*
 * What targets of virtio devices share: a driver that does what the specification asks for up to
 * DRIVER_OK, with the rings of its queues at fixed places of guest memory, one area after the
 * other from address 0 on; and a host that pauses, and brings back what it has saved. No transport
 * is between them and the device.
 *
 * An input is a byte, of which bits 0 to 2 say what the rings are; operations of two bytes until a
 * zero; and guest memory.
 */
#ifndef WISP_TESTS_FUZZ_DEVICE_H
#define WISP_TESTS_FUZZ_DEVICE_H

#include <stdlib.h>
#include <unistd.h>

#include "virtio/virtio.h"
#include "vmm/core/state.h"

#define FUZZ_AREA	0x800ull /* of a queue: its descriptors, and from here on */
#define FUZZ_DRIVER	0x400ull
#define FUZZ_DEVICE	0x600ull
#define FUZZ_QUEUE_SIZE 16u

/* The memory and the device are the target's to make. */
struct fuzz_device {
	struct guest_mem *mem;
	struct loop *loop;
	struct virtio_device *dev;
	unsigned num_queues;
	uint64_t features;
};

/* One for all runs: to make one costs more than a run. */
static inline struct loop *fuzz_loop(void)
{
	const struct loop_params params = { .name = "fuzz" };
	static struct loop *loop;

	if (!loop && loop_create(&loop, &params, NULL) < 0)
		abort();
	return loop;
}

/* Memory for one run, filled later. */
static inline void fuzz_device_memory(struct fuzz_device *f, bool shared,
				      const struct guest_mem_range *ranges, unsigned num)
{
	log_setup(STDERR_FILENO, LOG_ERROR);
	f->loop = fuzz_loop();
	if (guest_mem_create(&f->mem, shared ? GUEST_MEM_SHARED : GUEST_MEM_ANON, ranges, num,
			     NULL) < 0)
		abort();
}

/* VERSION_1, and what an input's first byte says of the rings. */
static inline uint64_t fuzz_ring_features(uint8_t bits)
{
	return 1ull << VIRTIO_F_VERSION_1 | (uint64_t)(bits & 1) << VIRTIO_F_RING_PACKED |
	       (uint64_t)(bits >> 1 & 1) << VIRTIO_RING_F_EVENT_IDX |
	       (uint64_t)(bits >> 2 & 1) << VIRTIO_RING_F_INDIRECT_DESC;
}

/* What the input has for the first @ram bytes of @mem, and zeroes behind it. */
static inline void fuzz_fill_memory(struct guest_mem *mem, size_t ram, const uint8_t *data,
				    size_t size)
{
	size_t i = 1;

	while (i < size && data[i])
		i += 2;
	memset(mem->map, 0, ram);
	if (i + 1 < size)
		memcpy(mem->map, data + i + 1, MIN(size - i - 1, ram));
}

/* Of a device that was reset, or is new. */
static inline void fuzz_device_start(struct fuzz_device *f)
{
	const uint8_t begun = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	const uint8_t ready = begun | VIRTIO_CONFIG_S_FEATURES_OK;

	virtio_set_status(f->dev, begun, false);
	virtio_set_features(f->dev, 0, f->features);
	virtio_set_features(f->dev, 1, f->features >> 32);
	virtio_set_status(f->dev, ready, false);
	for (unsigned i = 0; i < f->num_queues; i++) {
		struct virtq *q = virtio_queue(f->dev, i);

		q->size = MIN((unsigned)q->max_size, FUZZ_QUEUE_SIZE);
		q->desc_gpa = i * FUZZ_AREA;
		q->driver_gpa = i * FUZZ_AREA + FUZZ_DRIVER;
		q->device_gpa = i * FUZZ_AREA + FUZZ_DEVICE;
		q->ready = true;
	}
	virtio_set_status(f->dev, ready | VIRTIO_CONFIG_S_DRIVER_OK, false);
}

static inline void fuzz_device_is_drained(struct virtio_device *dev, void *arg)
{
	*(bool *)arg = true;
}

/* It has to end, whatever the driver has done, and with nothing in flight. */
static inline void fuzz_device_pause(struct fuzz_device *f)
{
	bool done = false;

	virtio_pause(f->dev, fuzz_device_is_drained, &done);
	while (!done)
		loop_run_once(f->loop, UINT64_MAX);
	for (unsigned i = 0; i < f->num_queues; i++)
		if (!f->dev->needs_reset && f->dev->queue[i].inflight)
			abort();
}

static inline void fuzz_device_save(struct fuzz_device *f, struct state_writer *w)
{
	virtio_settle(f->dev);
	state_writer_init(w);
	state_begin(w, "device", 0, 1);
	virtio_save(f->dev, w);
	state_end(w);
	if (w->failed)
		abort();
}

/* What is saved of a paused device loads into it as it was made, and is then what it was. */
static inline void fuzz_device_reload(struct fuzz_device *f)
{
	struct state_writer before, after;
	struct state_reader in;
	size_t pos = 0;

	fuzz_device_save(f, &before);
	virtio_rewind(f->dev);
	if (state_next(before.buf, before.len, &pos, &in, NULL) != 1 ||
	    virtio_load(f->dev, &in) < 0 || state_reader_end(&in, NULL) < 0)
		abort();
	fuzz_device_save(f, &after);
	if (before.len != after.len || memcmp(before.buf, after.buf, before.len) != 0)
		abort();
	state_writer_done(&before);
	state_writer_done(&after);
}

/* Operations that any device knows. Those of a target's own are 0 and what comes behind them. */
enum fuzz_operation {
	FUZZ_KICK = 1,
	FUZZ_TURN,  /* of the loop */
	FUZZ_OFFER, /* more of what is in a ring is the device's */
	FUZZ_PAUSE,
	FUZZ_RESET,
	FUZZ_RELOAD,
	FUZZ_OWN,
};

/* @arg: which queue, and in its upper half how much. */
static inline void fuzz_device_step(struct fuzz_device *f, enum fuzz_operation op, uint8_t arg)
{
	unsigned queue = arg % f->num_queues;
	uint8_t *index = f->mem->map + queue * FUZZ_AREA + FUZZ_DRIVER + 2;

	switch (op) {
	case FUZZ_OFFER:
		put_le16(index, get_le16(index) + (arg >> 4));
		virtio_kick(f->dev, queue);
		break;
	case FUZZ_TURN:
		loop_run_once(f->loop, 0);
		break;
	case FUZZ_PAUSE:
		fuzz_device_pause(f);
		virtio_resume(f->dev);
		break;
	case FUZZ_RESET:
		virtio_set_status(f->dev, 0, false);
		fuzz_device_start(f);
		break;
	case FUZZ_RELOAD:
		fuzz_device_pause(f);
		fuzz_device_reload(f);
		virtio_resume(f->dev);
		break;
	default:
		virtio_kick(f->dev, queue);
	}
}

#endif
