/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that comes and goes: plugs and unplugs what the host asks for, a block at a time from the
 * region's beginning, says "has N MiB" when it is there, and sees to it that what it has written
 * to each page of what it has stays there. Ends when it was asked for, and has, end=N MiB.
 * greedy=1: writes where it has plugged nothing, before it begins and to each block that it has
 * just unplugged; nothing of that stays there, where a block is out of its reach then.
 */
#include "virtio.h"

#define VIRTIO_MEM 24

#define PLUG	   0
#define UNPLUG	   1
#define UNPLUG_ALL 2
#define STATE	   3

#define ACK   0
#define NACK  1
#define ERROR 3

static struct vdev devs[MAX_VDEVS];
static struct vdev *dev;
static struct vq queue;
static u64 start, size, block;
static bool greedy;

static struct vdev *find(void)
{
	u32 n = virtio_find(devs, MAX_VDEVS);

	for (u32 i = 0; i < n; i++)
		if (devs[i].id == VIRTIO_MEM)
			return &devs[i];
	return NULL;
}

static u64 requested(void)
{
	return virtio_config64(dev, 48) / block;
}

/* The answer, with the state of the blocks behind it; 77 when none came. */
static u32 request(u16 type, u64 index, u16 num)
{
	static struct {
		u16 type, padding[3];
		u64 addr;
		u16 num, more[3];
	} ask;
	static u16 answer[5];
	struct buffer b[2] = { { &ask, sizeof(ask), false }, { answer, sizeof(answer), true } };
	u32 len = 0;

	ask.type = type;
	ask.addr = start + index * block;
	ask.num = num;
	answer[0] = 77;
	vq_send(&queue, b, 2);
	if (!vq_wait(&queue, &len) || len != sizeof(answer))
		return 77;
	return *(volatile u16 *)answer | (u32)*(volatile u16 *)(answer + 4) << 16;
}

static u64 stamp(u64 at)
{
	return at * 0x9e3779b97f4a7c15ul;
}

static void fill(u64 index)
{
	u64 from = start + index * block;

	for (u64 at = from; at < from + block; at += 4096)
		write64(at, stamp(at));
}

static bool is_whole(u64 index)
{
	u64 from = start + index * block;

	for (u64 at = from; at < from + block; at += 4096)
		if (read64(at) != stamp(at))
			return false;
	return true;
}

static bool is_empty(u64 index)
{
	u64 from = start + index * block;

	for (u64 at = from; at < from + block; at += 4096)
		if (read64(at))
			return false;
	return true;
}

/* As empty, or not there at all: nobody answers, and all ones are read. */
static bool is_gone(u64 index)
{
	u64 from = start + index * block;

	for (u64 at = from; at < from + block; at += 4096)
		if (read64(at) && read64(at) != ~0ul)
			return false;
	return true;
}

static void take(u64 index)
{
	u32 answer = request(PLUG, index, 1);

	if (answer != ACK)
		check(false, "block %lu is plugged: %x", index, answer);
	if (!is_empty(index))
		check(false, "block %lu was empty", index);
	fill(index);
}

static void give(u64 index)
{
	u32 answer;

	if (!is_whole(index))
		check(false, "block %lu is as it was", index);
	answer = request(UNPLUG, index, 1);
	if (answer != ACK)
		check(false, "block %lu is unplugged: %x", index, answer);
	if (greedy)
		fill(index);
	if (!is_gone(index))
		check(false, "nothing is in block %lu then", index);
}

static void follow(u64 end)
{
	u64 has = 0, said = ~0ul, round = 0;

	for (;;) {
		u64 want = requested();

		while (has < want)
			take(has++);
		while (has > want)
			give(--has);
		if (has && !is_whole(round++ % has))
			check(false, "block %lu is as it was, of %lu", (round - 1) % has, has);
		if (has == said)
			continue;
		said = has;
		check(virtio_config64(dev, 40) == has * block, "%lu blocks are plugged", has);
		note("has %lu MiB", has * block >> 20);
		if (has * block >> 20 == end)
			return;
	}
}

static void test_rules(void)
{
	u64 num = size / block;

	check(request(UNPLUG, 0, 1) == ERROR, "what is not plugged cannot be unplugged");
	check(request(PLUG, num, 1) == ERROR, "nothing is behind the region");
	check(request(PLUG, num - 1, 2) == ERROR, "nor half behind it");
	check(request(PLUG, 0, 0) == ERROR, "nothing is no block");
	check(request(9, 0, 1) == ERROR, "there is no such request");
	check(request(STATE, 0, num) == (ACK | 1u << 16), "all is unplugged");
	check(request(PLUG, 0, num) == NACK, "not all was asked for");
	check(request(UNPLUG_ALL, 0, 0) == ACK, "all may be unplugged");
}

void payload(void)
{
	dev = find();
	if (!check(dev != NULL, "there is memory to be plugged"))
		return;
	if (!check(virtio_begin(dev, 2 | (argument_number("packed", 0) ? F_PACKED : 0)),
		   "%s: begins", dev->name))
		return;
	block = virtio_config64(dev, 0);
	start = virtio_config64(dev, 16);
	size = virtio_config64(dev, 24);
	note("%s: %lu MiB from %lx on, by %lu", dev->name, size >> 20, start, block >> 20);
	check(start && !(start & 0x7fffffff), "begins at a multiple of 2 GiB");
	check(virtio_config64(dev, 40) == 0, "nothing is plugged");
	for (u64 at = start; at < start + size; at += 1ul << 30)
		map_high(at);
	check(virtio_queue(dev, &queue, 0, 8), "has a queue");
	virtio_ready(dev);
	test_rules();
	greedy = argument_number("greedy", 0);
	for (u64 i = 0; greedy && i < size / block; i++) {
		fill(i);
		if (read64(start + i * block) != ~0ul)
			check(false, "nobody is at block %lu", i);
	}
	follow(argument_number("end", size >> 20));
	check(!(virtio_status(dev) & STATUS_NEEDS_RESET), "the device is content");
}
