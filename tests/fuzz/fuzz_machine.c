/*
 * Fuzz target (libFuzzer): a whole machine as a hostile guest sees it, without processors. The
 * input is what they would do: accesses to ports (serial, clock, power, PCI), to PCI's
 * configuration space, to the registers of virtio devices over either transport, and stores to
 * memory, where the rings and requests of all devices are. What must hold: nothing that a sanitizer
 * looks for, no abort, no access that never ends, and the machine can still be paused and freed.
 *
 * Input: one byte of machine, then steps of 8 bytes (struct step); tests/fuzz/seeds_machine.c
 * writes some that drive devices as they want to be driven.
 */
#include "tests/fuzz/fuzz_machine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/core/log.h"
#include "vmm/hypervisor/hv_null.h"
#include "vmm/machine/machine_internal.h"

#define MEMORY (16 * MiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct machine_config config;
	struct machine_files files;
	struct machine *m;
	int peer; /* the network's other end */
};

/* Where something answers, or ought not to. */
static const uint16_t ports[] = {
	0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x70,  0x71, 0x60,
	0x61,  0x64,  0x92,  0xcf8, 0xcf9, 0xcfc, 0xcfd, 0xcfe, 0xcff, 0x80, 0x4d0,
	0x501, 0x505, 0x600, 0x602, 0x604, 0x606, 0x610, 0x614, 0x618, 0xf4,
};

/* Network, console and random numbers; disks have a target of their own. */
static void make_machine(struct run *r, uint8_t kind)
{
	struct machine_params params = {
		.config = &r->config,
		.files = &r->files,
		.layout_only = true,
	};
	static char net[] = "user", *argv[] = { (char *)"--net", net };
	int pair[2];

	config_init(&r->config);
	machine_files_init(&r->files);
	if (config_parse_run(&r->config, ARRAY_SIZE(argv), argv, NULL) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	r->config.memory_bytes = MEMORY;
	r->config.transport = kind & FUZZ_MMIO ? CONFIG_MMIO : CONFIG_PCI;
	r->config.virtio_packed = kind & FUZZ_PACKED;
	r->config.serial_present = true;
	r->config.serial.kind = CHARDEV_NULL;
	r->config.rtc = true;
	r->config.test_device = true;
	r->config.loop = LOOP_EPOLL;
	r->peer = pair[1];
	r->files.net[0].socket = pair[0];
	if (hv_null_create(&params.hv) < 0 || machine_create(&r->m, &params, NULL) < 0)
		abort();
}

static uint64_t virtio_register(const struct run *r, unsigned device, unsigned offset)
{
	const struct machine_virtio *v = &r->m->virtio[device % r->m->num_virtio];

	if (!v->pci)
		return v->base + offset % PAGE_SIZE;
	return pci_bar_addr(virtio_pci_function(v->pci), 0) + offset % PAGE_SIZE;
}

static void paused(void *arg)
{
	*(bool *)arg = true;
}

/* As machine_pause() does, without processors that would have to leave the guest first. */
static void drain_devices(struct run *r)
{
	unsigned left = 2000;
	bool done = false;

	machine_pause(r->m, paused, &done);
	while (!done && --left)
		loop_run_once(r->m->loop, NSEC_PER_MSEC);
	if (!done)
		abort(); /* a device never stops */
}

static void step(struct run *r, const struct fuzz_step *s)
{
	unsigned size = 1u << (s->size & 3);
	uint8_t data[8] = { 0 };
	uint64_t addr;

	put_le32(data, s->value);
	switch (s->kind % FUZZ_NUM_KINDS) {
	case FUZZ_PORT_WRITE:
		bus_write(r->m->pio, ports[s->where % ARRAY_SIZE(ports)], data, MIN(size, 4u));
		break;
	case FUZZ_PORT_READ:
		bus_read(r->m->pio, ports[s->where % ARRAY_SIZE(ports)], data, MIN(size, 4u));
		break;
	case FUZZ_ECAM_WRITE:
		/* A slot's configuration space is 32 KiB: 8 functions of a page. */
		bus_write(r->m->mmio,
			  FW_ECAM_ADDR + ((uint64_t)(s->size >> 2 & 7) << 15) + s->where, data,
			  MIN(size, 4u));
		break;
	case FUZZ_ECAM_READ:
		bus_read(r->m->mmio, FW_ECAM_ADDR + ((uint64_t)(s->size >> 2 & 7) << 15) + s->where,
			 data, MIN(size, 4u));
		break;
	case FUZZ_VIRTIO_WRITE:
		bus_write(r->m->mmio, virtio_register(r, s->size >> 2, s->where), data, size);
		break;
	case FUZZ_VIRTIO_READ:
		bus_read(r->m->mmio, virtio_register(r, s->size >> 2, s->where), data, size);
		break;
	case FUZZ_STORE:
		addr = s->where * 4ull;
		guest_mem_write(r->m->mem, addr, data, 4);
		break;
	case FUZZ_RUN_LOOP:
		loop_run_once(r->m->loop, 0);
		break;
	case FUZZ_FRAME:
		/* From the network: a header, and a frame out of guest memory, for its size. */
		addr = s->where;
		(void)!write(r->peer, r->m->mem->map + (addr & 0xffff), s->value % 2048);
		loop_run_once(r->m->loop, 0);
		break;
	case FUZZ_PAUSE:
		drain_devices(r);
		machine_resume(r->m);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { 0 };
	struct fuzz_step s;

	if (size < 1 + sizeof(s) || size > 1 + 4096 * sizeof(s))
		return 0;
	log_setup(STDERR_FILENO, LOG_ERROR);
	make_machine(&r, data[0]);
	for (size_t at = 1; at + sizeof(s) <= size; at += sizeof(s)) {
		memcpy(&s, data + at, sizeof(s));
		step(&r, &s);
	}
	drain_devices(&r);
	machine_free(r.m);
	machine_files_close(&r.files);
	close(r.peer);
	config_done(&r.config);
	return 0;
}
