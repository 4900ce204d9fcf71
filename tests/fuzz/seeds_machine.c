/*
 * Writes the seeds of fuzz_machine into the directory given: for each transport and ring layout
 * a driver that finds each device, starts its queues and offers buffers; and one that speaks to the
 * ports of old.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>

#include "tests/fuzz/fuzz_machine.h"

#define NUM_DEVICES 3
#define NUM_QUEUES  4
#define QUEUE_SIZE  4

/* Where the queue @q of device @d has its rings; a buffer is behind them. */
#define RINGS(d, q)  (0x1000u + (d)*0x4000u + (q)*0x1000u)
#define DRIVER(d, q) (RINGS(d, q) + 0x400u)
#define DEVICE(d, q) (RINGS(d, q) + 0x600u)
#define BUFFER(d, q) (RINGS(d, q) + 0x800u)

/* One register of each transport (virtio 1.2, 4.1.4.3 and 4.2.2). */
struct reg {
	uint16_t pci;
	uint8_t pci_size; /* logarithm */
	uint16_t mmio;
};

static const struct reg feature_select = { 8, 2, 0x24 }, features = { 12, 2, 0x20 },
			status = { 20, 0, 0x70 }, queue_select = { 22, 1, 0x30 },
			queue_size = { 24, 1, 0x38 }, queue_enable = { 28, 1, 0x44 },
			queue_desc = { 32, 2, 0x80 }, queue_driver = { 40, 2, 0x90 },
			queue_device = { 48, 2, 0xa0 };

static void put(FILE *out, enum fuzz_kind kind, unsigned size, unsigned which, uint16_t where,
		uint32_t value)
{
	const struct fuzz_step s = { kind, (uint8_t)(size | which << 2), where, value };

	fwrite(&s, sizeof(s), 1, out);
}

static void put_reg(FILE *out, unsigned machine, unsigned device, const struct reg *reg,
		    uint32_t value)
{
	bool mmio = machine & FUZZ_MMIO;

	put(out, FUZZ_VIRTIO_WRITE, mmio ? 2 : reg->pci_size, device, mmio ? reg->mmio : reg->pci,
	    value);
}

static void store(FILE *out, uint32_t gpa, uint32_t value)
{
	put(out, FUZZ_STORE, 2, 0, gpa / 4, value);
}

/* One buffer for the device to write (even queues, which receive) or to read. */
static void put_buffer(FILE *out, unsigned machine, unsigned d, unsigned q)
{
	bool writable = !(q & 1);

	store(out, RINGS(d, q), BUFFER(d, q));
	store(out, RINGS(d, q) + 4, 0);
	store(out, RINGS(d, q) + 8, 0x400);
	if (machine & FUZZ_PACKED) {
		store(out, RINGS(d, q) + 12,
		      (1u << VRING_PACKED_DESC_F_AVAIL | (writable ? VRING_DESC_F_WRITE : 0))
			      << 16);
		return;
	}
	store(out, RINGS(d, q) + 12, writable ? VRING_DESC_F_WRITE : 0);
	store(out, DRIVER(d, q), 1u << 16);
	store(out, DRIVER(d, q) + 4, 0);
}

static void put_device(FILE *out, unsigned machine, unsigned d)
{
	uint32_t high = 1u << (VIRTIO_F_VERSION_1 - 32);

	if (machine & FUZZ_PACKED)
		high |= 1u << (VIRTIO_F_RING_PACKED - 32);
	put_reg(out, machine, d, &status, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	put_reg(out, machine, d, &feature_select, 0);
	put_reg(out, machine, d, &features, d == 1 ? 2 : 0); /* the console's multiport */
	put_reg(out, machine, d, &feature_select, 1);
	put_reg(out, machine, d, &features, high);
	put_reg(out, machine, d, &status, 0xb);
	for (unsigned q = 0; q < NUM_QUEUES; q++) {
		put_buffer(out, machine, d, q);
		put_reg(out, machine, d, &queue_select, q);
		put_reg(out, machine, d, &queue_size, QUEUE_SIZE);
		put_reg(out, machine, d, &queue_desc, RINGS(d, q));
		put_reg(out, machine, d, &queue_driver, DRIVER(d, q));
		put_reg(out, machine, d, &queue_device, DEVICE(d, q));
		put_reg(out, machine, d, &queue_enable, 1);
	}
	put_reg(out, machine, d, &status, 0xf);
	for (unsigned q = 0; q < NUM_QUEUES; q++) {
		if (machine & FUZZ_MMIO)
			put(out, FUZZ_VIRTIO_WRITE, 2, d, 0x50, q);
		else
			put(out, FUZZ_VIRTIO_WRITE, 1, d, 0x200 + 4 * q, q);
		put(out, FUZZ_RUN_LOOP, 0, 0, 0, 0);
	}
	put(out, FUZZ_FRAME, 0, 0, 0x100, 80);
	put(out, FUZZ_VIRTIO_READ, 2, d, machine & FUZZ_MMIO ? 0x100 : 0x400, 0);
}

static void put_drivers(FILE *out, unsigned machine)
{
	for (unsigned d = 0; d < NUM_DEVICES; d++)
		put_device(out, machine, d);
	put(out, FUZZ_PAUSE, 0, 0, 0, 0);
	put_reg(out, machine, 0, &status, 0);
	put(out, FUZZ_RUN_LOOP, 0, 0, 0, 0);
}

static void put_ports(FILE *out)
{
	for (unsigned slot = 0; slot < 4; slot++) {
		for (unsigned at = 0; at < 0x40; at += 4)
			put(out, FUZZ_ECAM_READ, 2, slot, at, 0);
		put(out, FUZZ_ECAM_WRITE, 2, slot, 0x10, ~0u); /* how big is the BAR */
		put(out, FUZZ_ECAM_WRITE, 2, slot, 0x10, 0xd0100000);
		put(out, FUZZ_ECAM_WRITE, 1, slot, 4, 6); /* decoding, bus master */
	}
	for (unsigned i = 0; i < 32; i++) {
		put(out, FUZZ_PORT_READ, 0, 0, i, 0);
		put(out, FUZZ_PORT_WRITE, 0, 0, i, 0x41);
		put(out, FUZZ_RUN_LOOP, 0, 0, 0, 0);
	}
}

static int save(const char *dir, unsigned machine, bool old_ports)
{
	char path[4096];
	FILE *out;

	snprintf(path, sizeof(path), "%s/%s-%u", dir, old_ports ? "ports" : "drivers", machine);
	out = fopen(path, "we");
	if (!out)
		return -errno;
	fputc(machine, out);
	if (old_ports)
		put_ports(out);
	else
		put_drivers(out, machine);
	return fclose(out) ? -EIO : 0;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: seeds_machine DIRECTORY\n", stderr);
		return 2;
	}
	for (unsigned machine = 0; machine < 4; machine++) {
		int r = save(argv[1], machine, false);

		if (!r)
			r = save(argv[1], machine, true);
		if (r < 0) {
			fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
			return 1;
		}
	}
	return 0;
}
