/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every virtio device of the machine, driven through the split and the packed ring, with and
 * without indirect descriptors and event index, its interrupts awaited. expect_virtio=N: so many
 * devices; strict=1: what the specification only recommends is checked too. Writes to disks.
 */
#include "virtio.h"

static const struct {
	const char *name;
	u64 features;
} modes[] = {
	{ "split", 0 },
	{ "split, event index", F_EVENT_IDX },
	{ "split, indirect", F_INDIRECT },
	{ "packed", F_PACKED },
	{ "packed, event index", F_PACKED | F_EVENT_IDX },
	{ "packed, indirect", F_PACKED | F_INDIRECT },
};

static struct vdev devs[MAX_VDEVS];

/* One ring for each queue number, in use by one device at a time. */
static struct vq queues[3];
static u8 buffer[16384] __attribute__((aligned(4096)));

static bool start(struct vdev *d, u64 features, u32 index, const char *mode)
{
	if (!virtio_begin(d, features) || (d->features & features) != features) {
		if ((virtio_offered(d) & features) == features)
			check(false, "%s, %s: takes the features", d->name, mode);
		else
			skip(d->name, "does not offer these features");
		return false;
	}
	/* Queue 0 goes with every device, even where only another is of interest. */
	for (u32 i = 0; i <= index; i++)
		if (!check(virtio_queue(d, &queues[i], i, 8), "%s, %s: has queue %u", d->name, mode,
			   i))
			return false;
	virtio_ready(d);
	return check(virtio_status(d) == (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
					  STATUS_DRIVER_OK),
		     "%s, %s: is ready", d->name, mode);
}

static bool has_interrupt(struct vdev *d)
{
	return !d->pci || d->msix;
}

static void test_rng(struct vdev *d, const char *mode)
{
	struct vq *q = &queues[0];
	struct buffer b[2] = { { buffer, 64, true }, { buffer + 100, 28, true } };
	u32 len = 0, zeros = 0, was = irq_count[q->vector], rounds;
	bool good = true;

	for (rounds = 0; rounds < 40 && good; rounds++) {
		memset(buffer, 0, 128);
		vq_send(q, b, 1 + rounds % 2);
		good = vq_wait(q, &len) && len > 0 && len <= 92;
		for (u32 i = 0; i < 16; i++)
			zeros += !buffer[i];
	}
	check(good, "%s, %s: 40 requests are answered (%u, length %u)", d->name, mode, rounds, len);
	check(zeros < 20, "%s, %s: with random bytes", d->name, mode);
	if (has_interrupt(d))
		check(wait_for(irq_count[q->vector] != was), "%s, %s: and interrupts (%u)", d->name,
		      mode, irq_count[q->vector] - was);
}

struct blk_request {
	u32 type, reserved;
	u64 sector;
};

/* One request; the status byte, or 255 when no answer came. */
static u8 blk(struct vq *q, u32 type, u64 sector, void *data, u32 len, u32 pieces)
{
	static struct blk_request request;
	static u8 status;
	struct buffer b[6] = { { &request, 16, false } };
	u32 n = 1;

	request = (struct blk_request){ type, 0, sector };
	status = 255;
	for (u32 i = 0; len && i < pieces; i++)
		b[n++] =
			(struct buffer){ (u8 *)data + i * (len / pieces), len / pieces, type != 1 };
	b[n++] = (struct buffer){ &status, 1, true };
	vq_send(q, b, n);
	return vq_wait(q, NULL) ? *(volatile u8 *)&status : 255;
}

static void test_blk(struct vdev *d, const char *mode)
{
	struct vq *q = &queues[0];
	u64 offered = virtio_offered(d), capacity = virtio_config64(d, 0), sector;
	u32 was = irq_count[q->vector];
	u64 *words = (u64 *)buffer;
	static const u8 pieces[] = { 1, 2, 4, 4, 2 };
	bool same = true;
	u8 status;

	check(capacity > 64, "%s, %s: has a capacity (%lu sectors)", d->name, mode, capacity);
	if (offered & 1 << 5) {
		skip(d->name, "is read-only");
		return;
	}
	for (u32 round = 0; round < 5; round++) {
		sector = round == 4 ? capacity - 8 : random_next() % (capacity - 8);
		for (u32 i = 0; i < 512; i += 8)
			words[i] = sector << 20 | i | (u64)round << 56;
		status = blk(q, 1, sector, buffer, 4096, pieces[round]);
		if (!check(status == 0, "%s, %s: writes sector %lu (%u)", d->name, mode, sector,
			   status))
			return;
		memset(buffer, 0, 4096);
		status = blk(q, 0, sector, buffer, 4096, pieces[4 - round]);
		for (u32 i = 0; i < 512; i += 8)
			same &= words[i] == (sector << 20 | i | (u64)round << 56);
		check(status == 0 && same, "%s, %s: and reads it (%u)", d->name, mode, status);
	}
	if (offered & 1 << 9) {
		status = blk(q, 4, 0, NULL, 0, 0);
		check(status == 0, "%s, %s: flushes (%u)", d->name, mode, status);
	}
	status = blk(q, 8, 0, buffer, 20, 1);
	check(status == 0, "%s, %s: has an identity (%u)", d->name, mode, status);
	status = blk(q, 0, capacity, buffer, 512, 1);
	check(status == 1, "%s, %s: nothing to read past its end (%u)", d->name, mode, status);
	status = blk(q, 1, capacity - 1, buffer, 1024, 1);
	check(status == 1, "%s, %s: nor to write over it (%u)", d->name, mode, status);
	status = blk(q, 0x7fffffff, 0, buffer, 512, 1);
	check(status == 2, "%s, %s: knows no such request (%u)", d->name, mode, status);
	status = blk(q, 0, 0, buffer, 512, 1);
	check(status == 0, "%s, %s: goes on after it (%u)", d->name, mode, status);
	if (has_interrupt(d))
		check(wait_for(irq_count[q->vector] != was), "%s, %s: interrupts", d->name, mode);
}

static void test_send(struct vdev *d, const char *mode)
{
	static const char text[] = "# through a virtio console\r\n";
	struct vq *q = &queues[1];
	struct buffer b[2] = { { buffer, sizeof(text) - 1, false } };
	u32 n = 1;

	memset(buffer, 0, 256);
	if (d->id == VIRTIO_CONSOLE) {
		memcpy(buffer, text, sizeof(text));
	} else {
		/* A header of 12 bytes, then a frame to everyone of a protocol for experiments. */
		b[0] = (struct buffer){ buffer, 12, false };
		b[1] = (struct buffer){ buffer + 64, 60, false };
		n = 2;
		memset(buffer + 64, 0xff, 6);
		buffer[64 + 6] = 2;
		buffer[64 + 12] = 0x88;
		buffer[64 + 13] = 0xb5;
	}
	for (u32 i = 0; i < 12; i++) {
		vq_send(q, b, n);
		if (!vq_wait(q, NULL)) {
			check(false, "%s, %s: takes what is sent (%u)", d->name, mode, i);
			return;
		}
	}
	check(true, "%s, %s: takes what is sent", d->name, mode);
}

static void test_device(struct vdev *d)
{
	u64 offered;
	u32 max;

	if (!check(virtio_reset(d), "%s: resets", d->name))
		return;
	offered = virtio_offered(d);
	note("%s: offers %lx, %u MSI-X vectors", d->name, offered, d->num_vectors);
	check(offered & F_VERSION_1, "%s: is of version 1", d->name);
	max = virtio_queue_max(d, 0);
	check(max && max <= 32768 && !(max & (max - 1)), "%s: a queue of %u", d->name, max);
	check(virtio_queue_max(d, 1000) == 0, "%s: no queue 1000", d->name);
	if (argument_number("strict", 0)) {
		virtio_set_status(d, STATUS_ACKNOWLEDGE);
		virtio_set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
		virtio_write_features(d, offered | 1ul << 50 | 1ul << 23);
		virtio_set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
		check(!(virtio_status(d) & STATUS_FEATURES_OK),
		      "%s: refuses features it did not offer", d->name);
		virtio_reset(d);
		virtio_set_status(d, STATUS_ACKNOWLEDGE);
		virtio_set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
		virtio_write_features(d, 0);
		virtio_set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
		check(!(virtio_status(d) & STATUS_FEATURES_OK),
		      "%s: refuses a driver of before version 1", d->name);
	}
	for (u32 i = 0; i < ARRAY_SIZE(modes); i++) {
		bool sends = d->id == VIRTIO_CONSOLE || d->id == VIRTIO_NET;

		if (!start(d, modes[i].features, sends, modes[i].name))
			continue;
		if (d->id == VIRTIO_RNG)
			test_rng(d, modes[i].name);
		else if (d->id == VIRTIO_BLK)
			test_blk(d, modes[i].name);
		else if (sends)
			test_send(d, modes[i].name);
		check(!(virtio_status(d) & STATUS_NEEDS_RESET), "%s, %s: is content", d->name,
		      modes[i].name);
		check(virtio_reset(d), "%s, %s: resets", d->name, modes[i].name);
	}
}

void payload(void)
{
	u32 n = virtio_find(devs, MAX_VDEVS);

	note("%u virtio devices", n);
	if (argument("expect_virtio"))
		check(n == argument_number("expect_virtio", 0), "%u virtio devices", n);
	if (!n)
		skip("virtio", "there are no devices");
	for (u32 i = 0; i < n; i++)
		test_device(&devs[i]);
}
