/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest to be taken back to an earlier moment: for each byte that comes on the serial port it
 * does a round and says its number. A round finds in pages=N (50) of memory what the one before
 * left there, writes them anew, and has random bytes come through a ring that is never reset; so
 * memory, processor and device have to be of one moment. ring=packed chooses the layout.
 */
#include "virtio.h"

#define COM1	  0x3f8
#define MAX_PAGES 512

static struct vdev devs[MAX_VDEVS];
static struct vq queue;
static u64 kept[MAX_PAGES][512] __attribute__((aligned(4096)));

static u64 stamp(u64 page, u64 round)
{
	return page * 0x9e3779b97f4a7c15ul ^ round;
}

static struct vdev *find_rng(void)
{
	u32 n = virtio_find(devs, MAX_VDEVS);

	for (u32 i = 0; i < n; i++)
		if (devs[i].id == VIRTIO_RNG)
			return &devs[i];
	return NULL;
}

static bool start(struct vdev *rng)
{
	const char *ring = argument("ring");
	u64 features = ring && starts_with(ring, "packed") ? F_PACKED | F_EVENT_IDX : F_EVENT_IDX;

	if (!rng || !virtio_begin(rng, features) || !virtio_queue(rng, &queue, 0, 8))
		return false;
	virtio_ready(rng);
	return true;
}

static bool random_bytes(void)
{
	static u64 bytes[4];
	struct buffer b = { bytes, sizeof(bytes), true };
	u32 len = 0;

	bytes[0] = 0;
	vq_send(&queue, &b, 1);
	return vq_wait(&queue, &len) && len && *(volatile u64 *)bytes;
}

static bool memory_keeps(u64 pages, u64 round)
{
	for (u64 i = 0; i < pages; i++) {
		if (round && kept[i][i] != stamp(i, round - 1))
			return false;
		kept[i][i] = stamp(i, round);
	}
	return true;
}

static void await_byte(void)
{
	while (!(inb(COM1 + 5) & 1))
		pause();
	inb(COM1);
}

void payload(void)
{
	u64 pages = argument_number("pages", 50), round = 0;
	bool good = check(pages <= MAX_PAGES && start(find_rng()), "an entropy source is ready");

	while (good) {
		good = memory_keeps(pages, round);
		if (!good)
			note("round %lu: memory is of another moment", round);
		else if (!(good = random_bytes()))
			note("round %lu: no random bytes", round);
		note("round %lu", round++);
		await_byte();
	}
	check(good, "%lu rounds", round);
}
