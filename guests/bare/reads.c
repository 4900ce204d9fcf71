/* SPDX-License-Identifier: Apache-2.0 */
/*
 * So many reads of a disk, so many at a time, and nothing else: for counting what one costs.
 * count=N (256), depth=N (1) at most 32, bytes=N (4096). A batch is told by one kick, or with
 * each=1 by one for every read while the device wants them; the next one begins when all of it is
 * back.
 */
#include "virtio.h"

#define MAX_DEPTH  32
#define QUEUE_SIZE 128
#define SECTOR	   512
#define NO_NOTIFY  1

struct header {
	u32 type, reserved;
	u64 sector;
};

static struct vdev devs[MAX_VDEVS];
static struct vq queue;
static struct header headers[MAX_DEPTH];
static u8 statuses[MAX_DEPTH];
static u8 data[MAX_DEPTH][4096] __attribute__((aligned(4096)));

static void tell(void)
{
	/* The queue is selected already: the doorbell is the only exit. */
	if (queue.dev->pci)
		write16(queue.dev->notify, 0);
	else
		write32(queue.dev->base + 0x50, 0);
}

static bool read_batch(u32 depth, u32 bytes, u64 sectors, bool each)
{
	volatile u16 *avail = queue.avail, *used = queue.used;

	for (u32 i = 0; i < depth; i++) {
		u32 head = 3 * i;

		headers[i] = (struct header){ 0, 0, random_next() % (sectors / 8) * 8 };
		statuses[i] = 255;
		queue.desc[head] = (struct desc){ (u64)&headers[i], 16, DESC_NEXT, head + 1 };
		queue.desc[head + 1] = (struct desc){ (u64)data[i], bytes, DESC_NEXT | DESC_WRITE,
						      head + 2 };
		queue.desc[head + 2] = (struct desc){ (u64)&statuses[i], 1, DESC_WRITE, 0 };
		avail[2 + queue.next % queue.size] = head;
		queue.next++;
		if (!each && i < depth - 1)
			continue;
		barrier();
		avail[1] = queue.next;
		/* The device says whether it sleeps, then looks at the index: not in between. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (!(used[0] & NO_NOTIFY))
			tell();
	}
	if (!wait_for(used[1] == queue.next))
		return false;
	for (u32 i = 0; i < depth; i++)
		if (statuses[i])
			return false;
	return true;
}

static void read_disk(struct vdev *d)
{
	u32 depth = argument_number("depth", 1), count = argument_number("count", 256), done;
	u32 bytes = argument_number("bytes", 4096);
	u64 sectors = virtio_config64(d, 0);
	bool each = argument_number("each", 0), good;

	if (!depth || depth > MAX_DEPTH || bytes > sizeof(data[0]) || sectors < 64)
		return;
	good = virtio_begin(d, 0) && virtio_queue(d, &queue, 0, QUEUE_SIZE);
	if (good)
		virtio_ready(d);
	for (done = 0; done < count && good; done += depth)
		good = read_batch(depth, bytes, sectors, each);
	check(good, "%s: %u reads, %u at a time", d->name, done, depth);
	virtio_reset(d);
}

void payload(void)
{
	struct vdev *disk = virtio_first(devs, virtio_find(devs, MAX_VDEVS), VIRTIO_BLK);

	if (disk)
		read_disk(disk);
	else
		skip("reads", "there is no disk");
}
