/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Persistent memory: the device says where it is, its bytes are the file's, and a flush is
 * answered. The file begins with "wisp" and its last page with "end."; where it may be written
 * "pong" goes behind each. ro=1: writes change nothing. stay=1: then it does nothing
 * more. wait=1: nothing of that, but what is a MiB on is read once the file begins with "go".
 */
#include "virtio.h"

#define PAGE 4096
/* Whoever runs this has a limit of his own. */
#define WAIT_TICKS 2000000000000ul

static struct vdev devs[MAX_VDEVS];
static struct vq queue;

/* One request; the answer, or 77 when none came. */
static u32 request(u32 type)
{
	static u32 what, answer;
	struct buffer b[2] = { { &what, 4, false }, { &answer, 4, true } };
	u32 len = 0;

	what = type;
	answer = 77;
	vq_send(&queue, b, 2);
	return vq_wait(&queue, &len) && len == 4 ? *(volatile u32 *)&answer : 77;
}

static bool is_text(u64 at, const char *text)
{
	for (u32 i = 0; text[i]; i++)
		if (read8(at + i) != (u8)text[i])
			return false;
	return true;
}

static void put_text(u64 at, const char *text)
{
	for (u32 i = 0; text[i]; i++)
		write8(at + i, (u8)text[i]);
}

/* The host shortens the file before it says so: how reading it ends is the host's affair. */
static void read_what_is_gone(u64 start)
{
	note("waiting");
	check(wait_up_to(WAIT_TICKS, is_text(start, "go")), "the file says go");
	note("read %x", read32(start + (1 << 20)));
}

static void test_contents(u64 start, u64 size, bool read_only)
{
	u64 last = start + argument_number("bytes", size) - PAGE;

	check(is_text(start, "wisp"), "the first page is the file's");
	check(is_text(last, "end."), "and so is the last one");
	put_text(start + 4, "pong");
	put_text(last + 4, "pong");
	check(is_text(start + 4, "pong") == !read_only, "what is written there stays: %u",
	      !read_only);
	check(is_text(last + 4, "pong") == !read_only, "and on the last page");
}

void payload(void)
{
	struct vdev *d = virtio_first(devs, virtio_find(devs, MAX_VDEVS), VIRTIO_PMEM);
	u64 start, size;

	if (!check(d != NULL, "there is persistent memory"))
		return;
	if (!check(virtio_begin(d, argument_number("packed", 0) ? F_PACKED : 0), "%s: begins",
		   d->name))
		return;
	start = virtio_config64(d, 0);
	size = virtio_config64(d, 8);
	note("%s: %lx, %lu bytes", d->name, start, size);
	check(start && !(start & 0x1fffff), "begins at a multiple of 2 MiB");
	check(size && !(size & 0x1fffff), "and has as many");
	for (u64 at = start; at < start + size; at += 1ul << 30)
		map_high(at);
	map_high(start + size - 1);
	check(virtio_queue(d, &queue, 0, 8), "has a queue");
	virtio_ready(d);
	if (argument_number("wait", 0)) {
		read_what_is_gone(start);
		return;
	}
	test_contents(start, size, argument_number("ro", 0));
	check(request(0) == 0, "a flush is answered");
	check(request(1) == 0xffffffff, "there is no other request");
	check(request(0) == 0, "and it goes on");
	check(!(virtio_status(d) & STATUS_NEEDS_RESET), "the device is content");
	check(virtio_reset(d), "and resets");
	if (argument_number("stay", 0)) {
		note("is done");
		wait_up_to(WAIT_TICKS, false);
	}
}
