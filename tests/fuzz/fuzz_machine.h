/*
 * What the input of fuzz_machine is made of; seeds_machine.c writes the same.
 */
#ifndef WISP_TESTS_FUZZ_MACHINE_H
#define WISP_TESTS_FUZZ_MACHINE_H

#include "vmm/core/util.h"

/* The first byte. */
#define FUZZ_MMIO   1
#define FUZZ_PACKED 2

enum fuzz_kind {
	FUZZ_PORT_WRITE,
	FUZZ_PORT_READ,
	FUZZ_ECAM_WRITE,
	FUZZ_ECAM_READ,
	FUZZ_VIRTIO_WRITE,
	FUZZ_VIRTIO_READ,
	FUZZ_STORE,
	FUZZ_RUN_LOOP,
	FUZZ_FRAME,
	FUZZ_PAUSE,
	FUZZ_NUM_KINDS
};

struct fuzz_step {
	uint8_t kind;	/* enum fuzz_kind */
	uint8_t size;	/* bits 0 and 1: its logarithm; from bit 2: which device or slot */
	uint16_t where; /* index of a port, offset of a register, a fourth of an address */
	uint32_t value;
};

#endif
