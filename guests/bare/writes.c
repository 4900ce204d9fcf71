/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to a disk until somebody pulls the plug, and afterwards the check of what was promised.
 *
 * Each write has a number: its round (round=N, 1 and on) above, a count below. The number says
 * which 4 KiB it goes to, and stands in each of their sectors; every eleventh writes zeroes.
 * Batches of 16 follow each other, and with each goes a flush of what came before. When that is
 * done, "flushed N" says that writes up to count N are on the disk for good.
 *
 * With promised=N,N,... (for each round what it said last) the disk is read: every sector
 * has the last write that was promised there, or a later one that was not. count=N ends a
 * round in good order after that many writes.
 */
#include "virtio.h"

#define BATCH	   16
#define UNIT	   4096
#define SECTOR	   512
#define UNITS	   16384u /* 64 MiB */
#define QUEUE_SIZE 64
#define MAX_ROUNDS 128
#define AHEAD	   256 /* no more writes than these can have been begun and not promised */

#define F_FLUSH	       (1ul << 9)
#define F_WRITE_ZEROES (1ul << 14)

enum { READ, WRITE, FLUSH = 4, WRITE_ZEROES = 13 };

struct header {
	u32 type, reserved;
	u64 sector;
};

struct range {
	u64 sector;
	u32 sectors, flags;
};

static struct vdev devs[MAX_VDEVS];
static struct vq queue;
static struct header headers[BATCH + 1];
static struct range ranges[BATCH + 1];
static u8 statuses[BATCH + 1];
static u8 data[BATCH][UNIT] __attribute__((aligned(4096)));

static u64 last[UNITS];	    /* the last write that was promised, */
static u64 expected[UNITS]; /* what it left there, */
static bool may_be_zeroed[UNITS]; /* and whether a later one, which was not, may have zeroed it */
static u64 promised[MAX_ROUNDS];

static u64 number_of(u64 round, u64 count) { return round << 32 | count; }
static bool is_zeroing(u64 number) { return (u32)number % 11 == 5; }

/* Distinct within a batch: the order among writes that are under way together is anybody's. */
static u32 unit_of(u64 number)
{
	u64 base = (number / BATCH + 1) * 0x9e3779b97f4a7c15;

	base ^= base >> 29;
	base *= 0xbf58476d1ce4e5b9;
	/* One batch in three rewrites what others wrote, in few clusters. */
	if (base >> 62 == 0)
		return (base >> 32) % 64 + number % BATCH * 64;
	return ((base >> 32) + number % BATCH * 509) % UNITS;
}

/* ---- writing ---- */

static void put_chain(u32 i, const void *body, u32 len)
{
	volatile u16 *avail = queue.avail;
	u32 head = 3 * i;

	statuses[i] = 255;
	queue.desc[head] = (struct desc){ (u64)&headers[i], 16, DESC_NEXT, head + (body ? 1 : 2) };
	queue.desc[head + 1] = (struct desc){ (u64)body, len, DESC_NEXT, head + 2 };
	queue.desc[head + 2] = (struct desc){ (u64)&statuses[i], 1, DESC_WRITE, 0 };
	avail[2 + queue.next % queue.size] = head;
	queue.next++;
}

static void put_write(u32 i, u64 number)
{
	u64 sector = (u64)unit_of(number) * (UNIT / SECTOR);

	if (is_zeroing(number)) {
		headers[i] = (struct header){ WRITE_ZEROES, 0, 0 };
		ranges[i] = (struct range){ sector, UNIT / SECTOR, 1 };
		put_chain(i, &ranges[i], sizeof(ranges[i]));
		return;
	}
	headers[i] = (struct header){ WRITE, 0, sector };
	for (u32 at = 0; at < UNIT; at += SECTOR)
		*(u64 *)(data[i] + at) = number;
	put_chain(i, data[i], UNIT);
}

/* Writes from @number on, and beside them a flush of all before; false when one failed. */
static bool write_batch(u64 number)
{
	volatile u16 *avail = queue.avail, *used = queue.used;

	headers[BATCH] = (struct header){ FLUSH, 0, 0 };
	put_chain(BATCH, NULL, 0);
	for (u32 i = 0; i < BATCH; i++)
		put_write(i, number + i);
	barrier();
	avail[1] = queue.next;
	virtio_kick(queue.dev, 0);
	if (!wait_for(used[1] == queue.next))
		return false;
	for (u32 i = 0; i <= BATCH; i++)
		if (((volatile u8 *)statuses)[i])
			return false;
	return true;
}

static bool begin(struct vdev *d)
{
	if (!virtio_begin(d, F_FLUSH | F_WRITE_ZEROES) || !virtio_queue(d, &queue, 0, QUEUE_SIZE))
		return false;
	virtio_ready(d);
	return true;
}

static void write_on(struct vdev *d, u64 round)
{
	u64 most = argument_number("count", ~0u - BATCH), done = 0;
	bool good = begin(d) && d->features & F_FLUSH && d->features & F_WRITE_ZEROES;

	for (; done < most && good; done += BATCH) {
		good = write_batch(number_of(round, done));
		if (good && done)
			note("flushed %lu", done - 1);
	}
	check(good, "%s: %lu writes", d->name, done);
	virtio_reset(d);
}

/* ---- checking ---- */

static u32 read_promises(const char *text)
{
	u32 rounds = 0;

	while (rounds + 1 < MAX_ROUNDS) {
		promised[++rounds] = parse_number(text, &text);
		if (*text++ != ',')
			break;
	}
	return rounds;
}

static void replay(u64 round)
{
	u64 count = 0;

	for (; count <= promised[round]; count++) {
		u64 number = number_of(round, count);

		last[unit_of(number)] = number;
		expected[unit_of(number)] = is_zeroing(number) ? 0 : number;
		may_be_zeroed[unit_of(number)] = false;
	}
	for (u64 end = count + AHEAD; count < end; count++)
		if (is_zeroing(number_of(round, count)))
			may_be_zeroed[unit_of(number_of(round, count))] = true;
}

/* May @seen, which is not what was expected, stand in @unit? */
static bool may_be_there(u32 unit, u64 seen, u32 rounds)
{
	u64 round = seen >> 32, count = (u32)seen;

	if (!seen)
		return may_be_zeroed[unit];
	return round && round <= rounds && seen > last[unit] && count > promised[round] &&
	       count <= promised[round] + AHEAD && unit_of(seen) == unit && !is_zeroing(seen);
}

static bool read_units(u32 unit)
{
	headers[0] = (struct header){ READ, 0, (u64)unit * (UNIT / SECTOR) };
	put_chain(0, data, sizeof(data));
	queue.desc[1].flags |= DESC_WRITE;
	barrier();
	((volatile u16 *)queue.avail)[1] = queue.next;
	virtio_kick(queue.dev, 0);
	return wait_for(((volatile u16 *)queue.used)[1] == queue.next) &&
	       !((volatile u8 *)statuses)[0];
}

/* How many of a unit's sectors hold what they must not; @tell of the first. */
static u32 wrong_sectors(u32 unit, const u8 *bytes, u32 rounds, bool tell)
{
	u32 wrong = 0;

	for (u32 at = 0; at < UNIT; at += SECTOR) {
		u64 seen = *(const volatile u64 *)(bytes + at);

		if (seen == expected[unit] || may_be_there(unit, seen, rounds))
			continue;
		if (!wrong++ && tell)
			note("unit %u has %lx, promised was %lx", unit, seen, last[unit]);
	}
	return wrong;
}

static void check_promises(struct vdev *d, const char *text)
{
	u32 rounds = read_promises(text), wrong = 0;
	bool good = begin(d);

	for (u32 round = 1; round <= rounds; round++)
		replay(round);
	for (u32 unit = 0; unit < UNITS && good; unit += BATCH) {
		good = read_units(unit);
		for (u32 i = 0; i < BATCH && good; i++)
			wrong += wrong_sectors(unit + i, data[i], rounds, !wrong);
	}
	check(good, "%s: can be read", d->name);
	check(!wrong, "%s: has all that was promised in %u rounds (%u sectors have not)", d->name,
	      rounds, wrong);
	virtio_reset(d);
}

void payload(void)
{
	u32 n = virtio_find(devs, MAX_VDEVS);
	const char *text = argument("promised");

	for (u32 i = 0; i < n; i++) {
		if (devs[i].id != VIRTIO_BLK || virtio_config64(&devs[i], 0) < UNITS * 8)
			continue;
		if (text)
			check_promises(&devs[i], text);
		else
			write_on(&devs[i], argument_number("round", 1));
		return;
	}
	skip("writes", "there is no disk of 64 MiB");
}
