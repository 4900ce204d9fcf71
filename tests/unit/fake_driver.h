/*
 * The driver of one virtio device in a machine without processors (fake_vm.h), for unit tests of
 * devices: it does what Linux's does, through the transport's registers.
 *
 *	fake_vm_init(&vm, LOOP_AUTO);
 *	params = fake_vm_params(&vm, "rng0");
 *	virtio_rng_create(&dev, &params, NULL);
 *	fake_driver_init(&d, &vm, dev, &(struct fake_driver_config){ .packed = true });
 *
 *	buf = (struct fake_buf){ fake_alloc(&vm, 64, 1), 64, true };
 *	id = fake_add(&d, 0, &buf, 1);
 *	fake_kick(&d, 0);
 *	assert_true(fake_wait_used(&d, 0, &used));
 *	assert_int_equal(fake_interrupts(&d, 0), 1);
 *
 *	fake_driver_done(&d);
 *	fake_vm_done(&vm);
 *
 * Setting up asserts (cmocka) that each step succeeds. One thread; or the
 * driver on another than the loop's, but for what turns the loop: fake_run(),
 * fake_wait_used() and the functions that count interrupts.
 */
#ifndef WISP_TESTS_FAKE_DRIVER_H
#define WISP_TESTS_FAKE_DRIVER_H

#include "tests/unit/fake_vm.h"
#include "virtio/virtio.h"
#include "virtio/virtio_mmio.h"
#include "virtio/virtio_pci.h"

enum fake_transport { FAKE_MMIO, FAKE_PCI };

struct fake_driver_config {
	enum fake_transport transport;
	uint64_t features;  /* accepted of those offered, beside VERSION_1 and the rings' */
	bool packed;
	bool event_idx;
	bool indirect;	    /* fake_add() of more than one buffer uses a table */
	bool intx;	    /* PCI: leave MSI-X off */
	uint16_t ring_size; /* 0: the device's maximum */
	bool no_driver_ok;  /* stop before DRIVER_OK; fake_driver_ok() goes on */
};

struct fake_queue {
	uint16_t size;
	uint64_t desc, driver, device; /* guest addresses */
	uint64_t doorbell;
	uint16_t next;	   /* split: available index; packed: position */
	uint16_t last_used;
	uint16_t kicked;   /* split: available index at the last kick decision */
	bool wrap, used_wrap;
	uint16_t pending;  /* packed: slots added since the last kick */
	bool interrupts_on;
	unsigned num_free; /* slots */
	uint16_t slots[VIRTQ_MAX_SIZE]; /* that a chain in flight took, by id; else 0 */
};

struct fake_driver {
	struct fake_vm *vm;
	struct virtio_device *dev; /* freed by fake_driver_done() */
	struct fake_driver_config config;
	struct virtio_mmio *mmio;
	struct virtio_pci *pci;
	uint64_t common, notify, isr, device_config; /* PCI: guest addresses of the areas */
	uint64_t msix_table;
	unsigned slot;
	uint64_t features; /* negotiated */
	struct fake_queue queue[VIRTIO_MAX_QUEUES];
	unsigned num_queues;
	uint64_t seen[VIRTIO_MAX_QUEUES + 1]; /* interrupts of each vector so far; mmio: [0] */
};

/* Put @dev behind a transport, probe it, set all queues up and say DRIVER_OK. */
void fake_driver_init(struct fake_driver *d, struct fake_vm *vm, struct virtio_device *dev,
		      const struct fake_driver_config *config);
void fake_driver_ok(struct fake_driver *d);

/*
 * The driver @from goes on with @dev in @vm, which will have its device's state and memory: @dev
 * is put behind a transport of the same kind in the same place, and not touched. @from keeps its
 * own device.
 */
void fake_driver_move(struct fake_driver *d, const struct fake_driver *from, struct fake_vm *vm,
		      struct virtio_device *dev);

/* Free transport and device. */
void fake_driver_done(struct fake_driver *d);

/* Write status 0 and wait until it reads so, turning the loop if it is this thread's. */
void fake_reset(struct fake_driver *d);

/* Reset, negotiate and set up again, as fake_driver_init() did. */
void fake_driver_probe(struct fake_driver *d);

uint8_t fake_status(struct fake_driver *d);
void fake_set_status(struct fake_driver *d, uint8_t status);
void fake_config_read(struct fake_driver *d, unsigned offset, void *data, unsigned len);
void fake_config_write(struct fake_driver *d, unsigned offset, const void *data, unsigned len);

struct fake_buf {
	uint64_t gpa;
	uint32_t len;
	bool writable;
};

/*
 * Make a chain available, readable buffers first; no kick. Returns the id that
 * comes back in fake_used, or -1 when the ring is full.
 */
int fake_add(struct fake_driver *d, unsigned queue, const struct fake_buf *bufs, unsigned num);

/* As above, but the chain is one indirect table that the test made. */
int fake_add_table(struct fake_driver *d, unsigned queue, uint64_t table, uint32_t len);

/* Ring the doorbell if the device wants that. True when it was rung. */
bool fake_kick(struct fake_driver *d, unsigned queue);

struct fake_used {
	unsigned id;
	uint32_t len;
};

/* Take the next used chain, if there is one now. */
bool fake_take_used(struct fake_driver *d, unsigned queue, struct fake_used *used);

/* Deliver what is there and take all used chains. Returns how many. */
unsigned fake_take_all(struct fake_driver *d, unsigned queue);

/* How many come while the machine's clock goes on by so much. */
unsigned fake_take_for(struct fake_driver *d, unsigned queue, unsigned milliseconds);

/* Turn the loop until there is one; false when patience() is over. */
bool fake_wait_used(struct fake_driver *d, unsigned queue, struct fake_used *used);

/*
 * Interrupts for @queue since the last call (MSI-X: of its vector; mmio and
 * INTx: of the device, acknowledged). fake_config_interrupts(): for the
 * configuration; with mmio and INTx it reads the status, so ask it first.
 */
unsigned fake_interrupts(struct fake_driver *d, unsigned queue);
unsigned fake_config_interrupts(struct fake_driver *d);

/*
 * Has @queue's interrupt come, as its handler would find and acknowledge it? Does not turn the
 * loop. With mmio and INTx it is the interrupt of all queues.
 */
bool fake_take_interrupt(struct fake_driver *d, unsigned queue);

/* Do not interrupt for used buffers (a hint), or do again. With event_idx: at the next one. */
void fake_interrupts_off(struct fake_driver *d, unsigned queue);
void fake_interrupts_on(struct fake_driver *d, unsigned queue);

#endif
