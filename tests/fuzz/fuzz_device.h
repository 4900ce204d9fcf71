/*
 * What targets of virtio devices share: a driver that does what the specification asks for up to
 * DRIVER_OK, with the rings of its queues at fixed places of guest memory, one area after the
 * other from address 0 on; and a host that pauses. No transport is between them and the device.
 */
#ifndef WISP_TESTS_FUZZ_DEVICE_H
#define WISP_TESTS_FUZZ_DEVICE_H

#include "virtio/virtio.h"

#define FUZZ_AREA	0x800ull /* of a queue: its descriptors, and from here on */
#define FUZZ_DRIVER	0x400ull
#define FUZZ_DEVICE	0x600ull
#define FUZZ_QUEUE_SIZE 16u

/* VERSION_1, and what bits 0 to 2 of an input's first byte say of the rings. */
static inline uint64_t fuzz_ring_features(uint8_t bits)
{
	return 1ull << VIRTIO_F_VERSION_1 | (uint64_t)(bits & 1) << VIRTIO_F_RING_PACKED |
	       (uint64_t)(bits >> 1 & 1) << VIRTIO_RING_F_EVENT_IDX |
	       (uint64_t)(bits >> 2 & 1) << VIRTIO_RING_F_INDIRECT_DESC;
}

/* An input is a byte, operations of two bytes until a zero, and what is in @mem, of @ram bytes. */
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
static inline void fuzz_device_start(struct virtio_device *dev, unsigned num_queues,
				     uint64_t features)
{
	const uint8_t begun = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	const uint8_t ready = begun | VIRTIO_CONFIG_S_FEATURES_OK;

	virtio_set_status(dev, begun, false);
	virtio_set_features(dev, 0, features);
	virtio_set_features(dev, 1, features >> 32);
	virtio_set_status(dev, ready, false);
	for (unsigned i = 0; i < num_queues; i++) {
		struct virtq *q = virtio_queue(dev, i);

		q->size = MIN((unsigned)q->max_size, FUZZ_QUEUE_SIZE);
		q->desc_gpa = i * FUZZ_AREA;
		q->driver_gpa = i * FUZZ_AREA + FUZZ_DRIVER;
		q->device_gpa = i * FUZZ_AREA + FUZZ_DEVICE;
		q->ready = true;
	}
	virtio_set_status(dev, ready | VIRTIO_CONFIG_S_DRIVER_OK, false);
}

/* @n more of what is in the ring of @queue are the device's. */
static inline void fuzz_device_offer(struct virtio_device *dev, struct guest_mem *mem,
				     unsigned queue, unsigned n)
{
	uint8_t *index = mem->map + queue * FUZZ_AREA + FUZZ_DRIVER + 2;

	put_le16(index, get_le16(index) + n);
	virtio_kick(dev, queue);
}

static inline void fuzz_device_is_drained(struct virtio_device *dev, void *arg)
{
	*(bool *)arg = true;
}

/* It has to end, whatever the driver has done. */
static inline void fuzz_device_pause(struct virtio_device *dev, struct loop *loop)
{
	bool done = false;

	virtio_pause(dev, fuzz_device_is_drained, &done);
	while (!done)
		loop_run_once(loop, UINT64_MAX);
}

#endif
