/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest to be taken back to an earlier moment: for each byte that comes on the serial port it
 * does a round and says its number. A round finds in pages=N (50) of memory what the one before
 * left there, writes them anew, and has random bytes come through a ring that is never reset; so
 * memory, processor and device have to be of one moment. ring=packed chooses the layout.
 * It halts until a byte is there: whoever counts resets is not to share the host's processors with
 * a guest that polls for them.
 */
#include "virtio.h"

#define COM1	  0x3f8
#define VECTOR	  0x40
#define MAX_PAGES 512

static struct vdev devs[MAX_VDEVS];
static struct vq queue;
static u64 kept[MAX_PAGES][512] __attribute__((aligned(4096)));

static u64 stamp(u64 page, u64 round)
{
	return page * 0x9e3779b97f4a7c15ul ^ round;
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

static void expect_bytes(void)
{
	apic_init();
	ioapic_route(acpi.isa_gsi[4], VECTOR, false, false);
	outb(COM1 + 1, 1);
}

static void await_byte(void)
{
	while (!(inb(COM1 + 5) & 1))
		sti_hlt_cli();
	inb(COM1);
}

void payload(void)
{
	u64 pages = argument_number("pages", 50), round = 0;
	struct vdev *rng = virtio_first(devs, virtio_find(devs, MAX_VDEVS), VIRTIO_RNG);
	bool good = check(pages <= MAX_PAGES && rng && virtio_start(rng, &queue),
			  "an entropy source is ready");

	expect_bytes();
	while (good) {
		good = memory_keeps(pages, round);
		if (!good)
			note("round %lu: memory is of another moment", round);
		else if (!(good = vq_random(&queue)))
			note("round %lu: no random bytes", round);
		note("round %lu", round++);
		await_byte();
	}
	check(good, "%lu rounds", round);
}
