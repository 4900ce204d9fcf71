/*
 * Two machines and one guest, which runs on one of them and moves to the other now and then; what
 * happens next is drawn from a seed. The guest has a driver for a disk (which may have queues with
 * loops of their own) and one for an echo device that holds requests back as it likes.
 *
 * The guest keeps the rules, so it may rely on these:
 *   - a request comes back once, with what it asked for, unless the device was reset before;
 *   - the interrupt that says so comes without the driver looking for it;
 *   - memory is not touched after a reset was acknowledged, while the machine is paused, and on a
 *     machine that it has left;
 *   - a device that was loaded saves what it was loaded from, and so does one that was saved twice.
 */
#ifndef WISP_TESTS_SIM_WORLD_H
#define WISP_TESTS_SIM_WORLD_H

#include "tests/sim/disk_model.h"
#include "tests/sim/loop_sim.h"
#include "tests/unit/fake_echo.h"

#define WORLD_QUEUES   2u
#define WORLD_REQUESTS 12u
#define WORLD_RINGS    256u
#define WORLD_DATA     (4u * DISK_SECTOR)

enum request_kind { REQUEST_READ, REQUEST_WRITE, REQUEST_FLUSH, REQUEST_ECHO };

struct request {
	bool busy;
	bool poisoned; /* given up by a reset, and not used since */
	enum request_kind kind;
	unsigned queue, id;
	unsigned first, num; /* sectors */
	uint64_t value;
	uint64_t header, data, status; /* guest addresses, kept for the driver's life */
};

/* A driver and what it remembers: in the guest's memory, so to say. */
struct guest_driver {
	struct fake_driver d;
	bool present, is_disk;
	bool resetting; /* status 0 was written, and not yet read */
	bool broken;	/* the device is to find a mistake of ours; only a reset helps */
	bool owes_kick[WORLD_QUEUES];
	bool interrupted[WORLD_QUEUES]; /* the handler has not run yet */
	bool hint_off[WORLD_QUEUES];	/* no interrupts, please */
	bool masked[WORLD_QUEUES];	/* the vector, in the MSI-X table */
	struct request request[WORLD_REQUESTS];
};

struct host {
	struct fake_vm vm;
	struct loop *queue_loop; /* of the disk's second queue, or NULL */
	struct virtio_device *disk;
	struct echo *echo;
};

struct area {
	uint64_t gpa, len;
};

struct world {
	struct chance chance;
	struct loop_sim sim;
	struct fake_driver_config config;
	bool queue_loops;
	int disk_fd;
	struct disk_model model;
	uint64_t next_value;

	struct host host[2];
	unsigned here; /* where the guest is */
	struct guest_driver disk, echo;
	unsigned undrained; /* of a pause */
	bool left_behind;   /* the other host has a machine that the guest has left */
	struct fake_driver left_disk, left_echo;
	uint8_t *left_memory; /* as it was then */
	uint64_t left_bytes;

	struct area old_ring[WORLD_RINGS]; /* of before a reset: nobody's any more */
	unsigned num_old;
	uint64_t requests, resets, pauses, moves;
	void (*trace)(const char *fmt, ...) __printf(1, 2);
	void (*wrong)(const char *fmt, ...) __printf(1, 2) __attribute__((noreturn));
};

/* Build it, let @steps things happen, come to rest, and take it down. */
void world_run(struct world *w, uint64_t seed, unsigned steps);

/* world_guest.c: what the guest does. */
void guest_setup(struct world *w, struct guest_driver *g);
void guest_probe(struct world *w, struct guest_driver *g);
void guest_add(struct world *w, struct guest_driver *g);
void guest_kick(struct world *w, struct guest_driver *g, unsigned queue);
void guest_look(struct world *w, struct guest_driver *g);
void guest_interrupts(struct world *w, struct guest_driver *g);
void guest_hint(struct world *w, struct guest_driver *g, unsigned queue, bool on);
void guest_mask(struct world *w, struct guest_driver *g, unsigned queue, bool mask);
void guest_break(struct world *w, struct guest_driver *g);
void guest_reset(struct world *w, struct guest_driver *g);
bool guest_poll_reset(struct world *w, struct guest_driver *g);
unsigned guest_in_flight(const struct guest_driver *g);

/* Nobody has written to what devices must not touch any more. */
void world_check_poison(struct world *w);

#endif
