/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's driver gone mad, at full speed: all queues full of requests, good ones, wrong ones
 * and ones that change while the device looks at them, and a reset in the middle of it. After a
 * reset not one more byte may arrive in memory; a disk keeps what nobody may have written to; and
 * a sane driver is served. seed=N varies it, rounds=N (20) lengthens it.
 */
#include "virtio.h"

#define MAX_QUEUES 4
#define QUEUE_SIZE 64
#define MAX_CHAINS 20 /* of three descriptors each */
#define KEPT	   64 /* sectors at the start of the disk that nobody writes to in a storm */
#define SECTOR	   512
#define F_ALL	   (1ul << 9 | 1ul << 13 | 1ul << 14) /* flush, discard, write zeroes */

enum { READ, WRITE, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };

struct header {
	u32 type, reserved;
	u64 sector;
};

struct range {
	u64 sector;
	u32 sectors, flags;
};

static struct vdev devs[MAX_VDEVS];
static struct vq queues[MAX_QUEUES];
static struct header headers[MAX_QUEUES][MAX_CHAINS];
static struct range ranges[MAX_QUEUES][MAX_CHAINS];
static u8 statuses[MAX_QUEUES][MAX_CHAINS];
static u8 data[64 * 1024] __attribute__((aligned(4096)));
static u64 capacity;

static u64 pick(u64 n) { return (random_next() >> 16) % n; }

/* A sector that may be written to; seldom one that is not there. */
static u64 odd_sector(void)
{
	switch (pick(16)) {
	case 0:
		return capacity - pick(4);
	case 1:
		return random_next() | 1ul << 40;
	default:
		return KEPT + pick(capacity - KEPT);
	}
}

static void send_one(struct vq *q, u32 number, u32 chain)
{
	static const u32 types[] = { READ, READ, READ, WRITE, WRITE, FLUSH, GET_ID,
				     DISCARD, WRITE_ZEROES, 7, 0xffffffff };
	struct header *h = &headers[number][chain];
	struct range *r = &ranges[number][chain];
	u32 len = SECTOR * (1 + pick(32)) + (pick(16) ? 0 : pick(SECTOR));
	struct buffer b[3];

	h->type = types[pick(ARRAY_SIZE(types))];
	h->sector = odd_sector();
	b[0] = (struct buffer){ h, sizeof(*h), false };
	b[1] = (struct buffer){ data + pick(sizeof(data) - len), len, h->type != WRITE };
	b[2] = (struct buffer){ &statuses[number][chain], 1, true };
	if (h->type == DISCARD || h->type == WRITE_ZEROES) {
		*r = (struct range){ odd_sector(), pick(64), pick(4) };
		b[1] = (struct buffer){ r, sizeof(*r), false };
	}
	/* Too short a header; its rest must not be found in what follows, which is anything. */
	if (!pick(32)) {
		b[0].len = 1 + pick(sizeof(*h) - 1);
		b[1].in = true;
	}
	vq_send(q, b, pick(32) ? 3 : 1 + pick(2));
}

/* Whatever was said, but for headers, which say where on the disk: some of that is to be kept. */
static void change_minds(struct vq *q)
{
	for (u32 i = 0; i < 8; i++) {
		struct desc *d = &q->desc[pick(q->size / 3) * 3 + 1 + pick(2)];

		if (pick(2))
			d->len = pick(2 * SECTOR);
		else
			d->flags = pick(8) & (DESC_NEXT | DESC_WRITE);
	}
}

static bool storm(struct vdev *d, u32 num_queues)
{
	if (!virtio_begin(d, (random_next() & (F_INDIRECT | F_EVENT_IDX)) | F_ALL))
		return false;
	for (u32 i = 0; i < num_queues; i++)
		if (!virtio_queue(d, &queues[i], i, QUEUE_SIZE))
			return false;
	virtio_ready(d);
	for (u32 chain = 0; chain < 1 + pick(MAX_CHAINS - 1); chain++)
		for (u32 i = 0; i < num_queues; i++)
			send_one(&queues[i], i, chain);
	if (!pick(4))
		change_minds(&queues[pick(num_queues)]);
	return virtio_reset(d);
}

static bool untouched(void)
{
	for (u32 i = 0; i < sizeof(data) / 8; i++)
		if (((volatile u64 *)data)[i] != 0x5a5a5a5a5a5a5a5a)
			return false;
	return true;
}

/* One request of a sane driver. */
static u8 ask(struct vdev *d, u32 type, u64 sector, u32 len)
{
	struct vq *q = &queues[0];
	struct buffer b[3] = { { &headers[0][0], sizeof(headers[0][0]), false },
			       { data, len, type == READ },
			       { &statuses[0][0], 1, true } };

	headers[0][0] = (struct header){ type, 0, sector };
	statuses[0][0] = 255;
	if (!virtio_begin(d, 0) || !virtio_queue(d, q, 0, QUEUE_SIZE))
		return 254;
	virtio_ready(d);
	vq_send(q, b, 3);
	vq_wait(q, NULL);
	return ((volatile u8 *)statuses[0])[0];
}

static bool kept_is_whole(void)
{
	for (u32 i = 0; i < KEPT * SECTOR / 8; i++)
		if (((u64 *)data)[i] != i * 0x9e3779b97f4a7c15)
			return false;
	return true;
}

static void test_disk(struct vdev *d)
{
	u32 rounds = argument_number("rounds", 20), num_queues, i;
	bool good = true, quiet = true;

	capacity = virtio_config64(d, 0);
	if (capacity < 2 * KEPT)
		return;
	for (num_queues = 0; num_queues < MAX_QUEUES; num_queues++)
		if (!virtio_queue_max(d, num_queues))
			break;
	for (i = 0; i < KEPT * SECTOR / 8; i++)
		((u64 *)data)[i] = i * 0x9e3779b97f4a7c15;
	if (!check(ask(d, WRITE, 0, KEPT * SECTOR) == 0, "%s: takes what it is to keep", d->name))
		return;
	for (i = 0; i < rounds && good && quiet; i++) {
		good = storm(d, num_queues);
		if (good && i % 8 == 0) {
			memset(data, 0x5a, sizeof(data));
			/* Time for what is late. */
			for (u32 n = 0; n < 200; n++)
				(void)virtio_status(d);
			quiet = untouched();
		}
	}
	check(good, "%s: comes out of a reset in mid-flight, %u times, %u queues", d->name, i,
	      num_queues);
	check(quiet, "%s: nothing arrives in memory after a reset", d->name);
	memset(data, 0, sizeof(data));
	check(ask(d, READ, 0, KEPT * SECTOR) == 0, "%s: still reads", d->name);
	check(kept_is_whole(), "%s: keeps what nobody wrote to", d->name);
}

void payload(void)
{
	u32 n = virtio_find(devs, MAX_VDEVS), disks = 0;

	for (u32 i = 0; i < n; i++) {
		if (devs[i].id != VIRTIO_BLK)
			continue;
		test_disk(&devs[i]);
		disks++;
	}
	if (!disks)
		skip("storm", "there are no disks");
}
