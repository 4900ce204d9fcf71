/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest to be saved in the middle of it: rounds=N (100) of random numbers and disk writes that
 * are read back, through rings that are never reset, with interrupts; time that may not run
 * backwards; memory and registers that must keep what they were given; and VMClock, by which it
 * counts how often it became another guest. Says each round.
 * places=N (8) is how many sectors take the writes in turn, apart=N (1) sectors from one to the
 * next; where N was given, at the end each must hold what was written there last.
 * lease=1: before each round a sector must hold the number of that round, and is given the next:
 * whoever runs twice finds it taken.
 * ring=packed chooses the layout, ticks=N how much of the TSC lies between two rounds. rounds=0 is
 * as many as there is time for until somebody writes to the sector behind those of the rounds; by
 * an 'r' there it is told to reboot. pages=N (64, at most 512) is how much memory each round
 * changes.
 */
#include "virtio.h"

#define CONTROL_SECTOR 8
#define LEASE_SECTOR 9
#define PAGES	512

static struct vdev devs[MAX_VDEVS];
static struct vq rng_queue, blk_queue;
static u64 kept[PAGES][512] __attribute__((aligned(4096)));
static u8 sector[512];
static u64 places, apart;

static u64 stamp(u64 page, u64 round)
{
	return page * 0x9e3779b97f4a7c15ul ^ round;
}

static bool disk(u32 type, u64 at)
{
	static struct {
		u32 type, reserved;
		u64 sector;
	} request;
	static u8 status;
	struct buffer b[3] = { { &request, 16, false }, { sector, 512, type == 0 },
			       { &status, 1, true } };

	request.type = type;
	request.sector = at;
	status = 255;
	vq_send(&blk_queue, b, 3);
	return vq_wait(&blk_queue, NULL) && *(volatile u8 *)&status == 0;
}

static u64 place_of(u64 round)
{
	return round % places * apart;
}

/* What @round wrote is there. */
static bool disk_has(u64 round)
{
	memset(sector, 0, sizeof(sector));
	return disk(0, place_of(round)) && *(u64 *)sector == round && sector[511] == (u8)round;
}

static bool disk_keeps(u64 round)
{
	memset(sector, (u8)round, sizeof(sector));
	*(u64 *)sector = round;
	return disk(1, place_of(round)) && (!round || disk_has(round - 1));
}

/* After @rounds, the last that was written to each place. */
static bool disk_kept_all(u64 rounds)
{
	for (u64 i = 1; i <= places && i <= rounds; i++) {
		if (!disk_has(rounds - i)) {
			note("the disk lost what round %lu wrote", rounds - i);
			return false;
		}
	}
	return true;
}

/* Nobody else had a round since ours. */
static bool lease_is_ours(u64 round)
{
	memset(sector, 0, sizeof(sector));
	if (round && (!disk(0, LEASE_SECTOR) || *(u64 *)sector != round)) {
		note("round %lu: the lease says %lu", round, *(u64 *)sector);
		return false;
	}
	*(u64 *)sector = round + 1;
	return disk(1, LEASE_SECTOR);
}

static bool was_enough(void)
{
	memset(sector, 0, sizeof(sector));
	if (!disk(0, CONTROL_SECTOR) || sector[0] != 'r')
		return sector[0] != 0;
	/* Only once. */
	memset(sector, 0, sizeof(sector));
	disk(1, CONTROL_SECTOR);
	outb(0x64, 0xfe);
	for (;;)
		pause();
}

static bool memory_keeps(u64 round, u64 pages)
{
	for (u64 i = 0; i < pages; i++) {
		if (round && kept[i][i] != stamp(i, round - 1))
			return false;
		kept[i][i] = stamp(i, round);
	}
	return true;
}

/* The page says when the guest is another one; how many it was, counted from @count on. */
static bool count_generations(u32 *count)
{
	static u64 generation, disruption;
	u64 page = acpi.vmclock, now, jumps;

	if (!page)
		return true;
	now = read64(page + 104);
	jumps = read64(page + 16);
	if (read32(page) != 0x4b4c4356 || read32(page + 12) & 1 || now < generation ||
	    jumps < disruption)
		return false;
	*count += !*count || now != generation;
	generation = now;
	disruption = jumps;
	return true;
}

void payload(void)
{
	u64 rounds = argument_number("rounds", 100), ticks = argument_number("ticks", 20000000);
	u64 pages = argument_number("pages", 64);
	u32 n = virtio_find(devs, MAX_VDEVS), generations = 0;
	struct vdev *rng = virtio_first(devs, n, VIRTIO_RNG);
	struct vdev *blk = virtio_first(devs, n, VIRTIO_BLK);
	u64 before = rdtsc(), round;
	bool good = true, lease = argument_number("lease", 0);

	places = argument_number("places", 8);
	apart = argument_number("apart", 1);
	if (pages > PAGES)
		pages = PAGES;
	if (!check(rng && blk && virtio_start(rng, &rng_queue) && virtio_start(blk, &blk_queue),
		   "an entropy source and a disk are ready"))
		return;
	for (round = 0; good && (rounds ? round < rounds : !was_enough()); round++) {
		u64 now;

		if (lease && !(good = lease_is_ours(round)))
			break;
		good = vq_random(&rng_queue);
		if (!good)
			note("round %lu: no random bytes", round);
		else if (!(good = disk_keeps(round)))
			note("round %lu: the disk lost what was written", round);
		else if (!(good = memory_keeps(round, pages)))
			note("round %lu: memory lost what was written", round);
		else if (!(good = count_generations(&generations)))
			note("round %lu: VMClock makes no sense", round);
		now = rdtsc();
		if (good && now < before) {
			note("round %lu: time ran back from %lu to %lu", round, before, now);
			good = false;
		}
		before = now;
		note("round %lu", round);
		while (rdtsc() - before < ticks)
			pause();
		before = rdtsc();
	}
	/* It may be another one since the last round. */
	good = good && count_generations(&generations) &&
	       (!argument("places") || disk_kept_all(round));
	note("%u generations", generations);
	check(good && (!rounds || round == rounds), "%lu rounds", round);
	/* They are closed but for a moment at each request; one that is pending comes now. */
	check((blk->pci && !blk->msix) || wait_for(irq_count[blk_queue.vector]),
	      "interrupts came (%u)", irq_count[blk_queue.vector]);
}
