/*
 * A machine without processors, for unit tests of devices: guest memory, a loop that the test turns
 * by hand, buses, interrupts, a PCI bus. fake_driver.h's driver lives in one.
 *
 * Setting up asserts (cmocka) that each step succeeds. One thread; or the guest on another than the
 * loop's, but for fake_run().
 */
#ifndef WISP_TESTS_FAKE_VM_H
#define WISP_TESTS_FAKE_VM_H

#include "devices/pci.h"
#include "tests/unit/fake_hv.h"
#include "virtio/virtio.h"
#include "vmm/core/bus.h"
#include "vmm/core/irq.h"

/* RAM: two ranges that touch each other, so that a buffer can lie across both. */
#define FAKE_RAM_SPLIT	0x800000ull
#define FAKE_RAM_END	0x1000000ull
#define FAKE_MMIO_BASE	0xd0000000ull
#define FAKE_MMIO_GSI	5u
#define FAKE_ECAM_BASE	0xe8000000ull
#define FAKE_MMIO32	0xc0000000ull
#define FAKE_MMIO64	0x100000000ull

/* How long one turn of the loop waits for something to do. */
#define FAKE_TURN_NS	(20 * NSEC_PER_MSEC)

struct fake_vm {
	struct hv *hv; /* fake_hv_create()'s: ask it for doorbells, lines, what was delivered */
	struct hv_vcpu *vcpu;
	struct { /* what the guest does next, if anything */
		bool due, write;
		uint64_t addr, value;
		unsigned len;
	} access;
	struct guest_mem *mem;
	struct loop *loop;
	struct clock clock; /* virtual: the loop's timers fire after clock_advance() */
	struct bus *mmio, *pio;
	struct irq_table *irqs;
	struct pci_bus *pci;
	uint64_t next_alloc;
};

void fake_vm_init(struct fake_vm *vm, enum loop_backend backend);
void fake_vm_done(struct fake_vm *vm);

struct virtio_params fake_vm_params(struct fake_vm *vm, const char *id);

/* Zeroed guest memory, never given back; @align is a power of two. Returns its address. */
uint64_t fake_alloc(struct fake_vm *vm, uint64_t size, uint64_t align);
void *fake_ptr(struct fake_vm *vm, uint64_t gpa, uint64_t len);

/* Deliver what is there without waiting, until there is nothing more. */
void fake_run(struct fake_vm *vm);

/* A guest's access to device memory: a doorbell is signalled, all else exits and is done. */
void fake_write(struct fake_vm *vm, uint64_t addr, uint64_t value, unsigned len);
uint64_t fake_read(struct fake_vm *vm, uint64_t addr, unsigned len);

#endif
