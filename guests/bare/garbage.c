/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver gone mad: garbage to every virtio device, in registers, rings and requests. What the
 * devices make of it is their affair (a broken one may ask for a reset); they must come out
 * of a reset each time, the machine must go on, and a sane driver must be served
 * afterwards. seed=N varies it, rounds=N (40) lengthens it, strict=1 wants
 * DEVICE_NEEDS_RESET where a ring is plainly malformed.
 */
#include "virtio.h"

static struct vdev devs[MAX_VDEVS];
static struct vq queues[3];
static u8 page[8192] __attribute__((aligned(4096)));

/* Numbers that find mistakes: at the edges, and anywhere. */
static u64 odd_number(void)
{
	static const u64 edges[] = {
		0, 1, 2, 0xfff, 0x1000, 0xffff, 0x10000, 0x9fc00, 0xa0000, 0xe0000,
		0x7fffffff, 0x80000000, 0xbfffffff, 0xc0000000, 0xd0000000, 0xfec00000,
		0xfee00000, 0xffffffff, 0x100000000, 0xffffffffff, 0x7fffffffffffffff,
		0x8000000000000000, 0xfffffffffffff000, ~0ul,
	};
	u64 r = random_next();

	switch (r & 3) {
	case 0:
		return edges[(r >> 8) % ARRAY_SIZE(edges)];
	case 1:
		return (u64)page + (r >> 8) % sizeof(page);
	default:
		return random_next() >> (r >> 8) % 64;
	}
}

/*
 * An odd address for the device to read and write: this program and its tables, below, must
 * survive what is written there, which is the program's fault and not the device's.
 */
#define OURS_END (64ul << 20)

static u64 odd_address(void)
{
	u64 addr = odd_number();

	if (addr - (u64)page < sizeof(page))
		return addr;
	return addr < OURS_END ? addr + OURS_END : addr;
}

static void garbage_registers(struct vdev *d)
{
	for (u32 i = 0; i < 40; i++) {
		/* Status comes by itself below: here it would only switch the rest off. */
		u32 at = random_next() % (d->pci ? 0x40 : 0x180);

		if (at == (d->pci ? 0x14 : 0x70))
			continue;
		switch (random_next() & 3) {
		case 0:
			write8(d->base + at, odd_number());
			break;
		case 1:
			write16(d->base + (at & ~1), odd_number());
			break;
		case 2:
			write32(d->base + (at & ~3), odd_number());
			break;
		case 3:
			/* Neither aligned nor of a size that a register has. */
			write64(d->base + at, odd_number());
			(void)read64(d->base + at);
			break;
		}
	}
	for (u32 i = 0; i < 8; i++)
		virtio_set_status(d, odd_number() | 1);
	if (d->config)
		for (u32 i = 0; i < 16; i++) {
			write32(d->config + (random_next() & 0xfc), odd_number());
			(void)read16(d->config + (random_next() & 0xff));
		}
	if (d->pci && d->msix) {
		for (u32 i = 0; i < 8; i++)
			write32(d->msix + (random_next() & 0x7c), odd_number());
		/* Whatever they said, nothing of it may arrive. */
		for (u32 i = 0; i < d->num_vectors; i++)
			write32(d->msix + 16 * i + 12, 1);
	}
}

/* Rings at places where there is none, of sizes that are none. */
static void garbage_queues(struct vdev *d)
{
	virtio_begin(d, random_next() & 1 ? F_PACKED | F_EVENT_IDX : F_INDIRECT);
	for (u32 i = 0; i < 4; i++)
		virtio_queue_set(d, i, odd_number(), odd_address(), odd_address(), odd_address(),
				 odd_number() & 1);
	virtio_ready(d);
	for (u32 i = 0; i < 4; i++)
		virtio_kick(d, i);
	virtio_kick(d, odd_number());
}

static void fill_descriptor(struct desc *d, u32 size, bool packed)
{
	d->addr = odd_address();
	d->len = odd_number();
	if (d->addr < OURS_END)
		d->len %= (u64)page + sizeof(page) - d->addr;
	if (packed) {
		d->flags = random_next();
		d->next = (random_next() & 7) | (random_next() & 1 ? DESC_AVAIL : 0) |
			  (random_next() & 1 ? DESC_USED : 0);
	} else {
		d->flags = random_next() & 7;
		d->next = random_next() & 1 ? random_next() % size : random_next();
	}
}

/* A good ring, filled with nonsense. */
static void garbage_ring(struct vdev *d, bool packed, u64 features)
{
	u32 count = virtio_queue_max(d, 1) ? 2 : 1;

	if (!virtio_begin(d, features | (packed ? F_PACKED : 0)))
		return;
	for (u32 i = 0; i < count; i++)
		virtio_queue(d, &queues[i], i, 8);
	virtio_ready(d);
	for (u32 i = 0; i < count; i++) {
		struct vq *q = &queues[i];

		for (u32 j = 0; j < q->size; j++) {
			fill_descriptor(&q->desc[j], q->size, q->packed);
			fill_descriptor(&q->table[j], q->size, q->packed);
			if (random_next() & 1) {
				q->desc[j].addr = (u64)q->table;
				q->desc[j].len %= 8 * sizeof(struct desc) + 1;
			}
		}
		for (u32 j = 0; j < q->size + 3 && !q->packed; j++)
			q->avail[j] = j == 1 ? 1 + random_next() % 8
					     : random_next() % (random_next() & 1 ? 8 : 65536);
		if (random_next() % 4 == 0)
			q->avail[1] = odd_number();
		virtio_kick(d, i);
		/* And while the device looks at it, something else is there. */
		for (u32 j = 0; j < 8; j++)
			fill_descriptor(&q->desc[random_next() % q->size], q->size, q->packed);
		virtio_kick(d, i);
	}
	if (random_next() & 1)
		(void)virtio_status(d);
}

/* A request whose form is right and whose content is not. */
static void garbage_request(struct vdev *d)
{
	u32 index = d->id == VIRTIO_NET || d->id == VIRTIO_CONSOLE;
	struct buffer b[5];

	if (!virtio_begin(d, random_next() & (F_INDIRECT | F_PACKED | F_EVENT_IDX)))
		return;
	for (u32 i = 0; i <= index; i++)
		if (!virtio_queue(d, &queues[i], i, 8))
			return;
	virtio_ready(d);
	for (u32 i = 0; i < 4; i++) {
		u32 n = 1 + random_next() % 5;

		/*
		 * Types that a disk has, more often than not: but not writes of what
		 * others read back.
		 */
		for (u32 j = 0; j < 64; j++)
			page[j] = random_next();
		page[0] = random_next() % 16;
		page[0] += page[0] == 1;
		for (u32 j = 0; j < n; j++)
			b[j] = (struct buffer){ page + random_next() % 64, random_next() % 600,
						random_next() & 1 };
		vq_send(&queues[index], b, n);
	}
}

struct malformed {
	const char *name;
	struct desc desc[3];
	u16 avail; /* head index */
};

/* What 2.7 forbids, one thing at a time. */
static void test_malformed(struct vdev *d)
{
	const u64 good = (u64)page;
	const struct malformed cases[] = {
		{ "a chain that loops",
		  { { good, 16, DESC_NEXT, 1 }, { good, 16, DESC_NEXT, 0 } },
		  0 },
		{ "a next beyond the ring", { { good, 16, DESC_NEXT, 999 } }, 0 },
		{ "a head beyond the ring", { { good, 16, 0, 0 } }, 999 },
		{ "an address beyond memory", { { 0x700000000000, 16, DESC_WRITE, 0 } }, 0 },
		{ "a buffer over the end of addresses",
		  { { 0xfffffffffffffff0, 64, DESC_WRITE, 0 } },
		  0 },
		{ "a length of 4 GiB", { { good, 0xffffffff, DESC_WRITE, 0 } }, 0 },
		{ "an indirect table of 17 bytes", { { good, 17, DESC_INDIRECT, 0 } }, 0 },
		{ "an indirect table that goes on",
		  { { good, 32, DESC_INDIRECT | DESC_NEXT, 1 } },
		  0 },
	};
	u32 asked = 0;

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vq *q = &queues[0];

		if (!virtio_begin(d, F_INDIRECT) || !virtio_queue(d, q, 0, 8))
			return;
		/* On the queue that takes buffers without asking what is in them. */
		memcpy(q->desc, cases[i].desc, sizeof(cases[i].desc));
		virtio_ready(d);
		q->avail[2] = cases[i].avail;
		barrier();
		q->avail[1] = 1;
		virtio_kick(d, 0);
		if (argument_number("strict", 0) && d->id == VIRTIO_RNG)
			check(wait_for(virtio_status(d) & STATUS_NEEDS_RESET),
			      "%s: %s: asks for a reset", d->name, cases[i].name);
		asked += !!(virtio_status(d) & STATUS_NEEDS_RESET);
		if (!virtio_reset(d)) {
			check(false, "%s: %s: comes out of a reset", d->name, cases[i].name);
			return;
		}
	}
	check(true, "%s: malformed chains are survived (%u of %u seen)", d->name, asked,
	      (u32)ARRAY_SIZE(cases));
}

static void still_works(struct vdev *d)
{
	struct vq *q = &queues[0];
	struct buffer b[3];
	u8 *status = page + 4096;
	u32 len;

	if (d->id != VIRTIO_RNG && d->id != VIRTIO_BLK) {
		check(virtio_begin(d, 0), "%s: takes a sane driver again", d->name);
		return;
	}
	if (!check(virtio_begin(d, 0) && virtio_queue(d, q, 0, 8), "%s: takes a sane driver again",
		   d->name))
		return;
	virtio_ready(d);
	memset(page, 0, sizeof(page));
	if (d->id == VIRTIO_RNG) {
		b[0] = (struct buffer){ page, 64, true };
		vq_send(q, b, 1);
		check(vq_wait(q, &len) && len, "%s: still gives random bytes", d->name);
	} else {
		*status = 255;
		b[0] = (struct buffer){ page, 16, false };
		b[1] = (struct buffer){ page + 512, 512, true };
		b[2] = (struct buffer){ status, 1, true };
		vq_send(q, b, 3);
		check(vq_wait(q, NULL) && *(volatile u8 *)status == 0, "%s: still reads (%u)",
		      d->name, *status);
	}
	virtio_reset(d);
}

static void test_device(struct vdev *d)
{
	u32 rounds = argument_number("rounds", 40), i;
	u16 command = d->pci ? pci_read16(d->bdf, 4) : 0;
	bool good = true;

	for (i = 0; i < rounds && good; i++) {
		switch (random_next() % 4) {
		case 0:
			garbage_registers(d);
			break;
		case 1:
			garbage_queues(d);
			break;
		case 2:
			garbage_ring(d, random_next() & 1,
				     random_next() & (F_INDIRECT | F_EVENT_IDX));
			break;
		case 3:
			garbage_request(d);
			break;
		}
		good = virtio_reset(d);
	}
	check(good, "%s: comes out of a reset after garbage, %u times", d->name, i);
	if (d->pci && !check(pci_read16(d->bdf, 4) == command, "%s: is where it was", d->name))
		pci_write16(d->bdf, 4, command);
	if (good) {
		test_malformed(d);
		still_works(d);
	}
}

void payload(void)
{
	u32 n = virtio_find(devs, MAX_VDEVS);

	if (!n)
		skip("virtio", "there are no devices");
	for (u32 i = 0; i < n; i++)
		test_device(&devs[i]);
}
