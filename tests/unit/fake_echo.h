/*
 * A virtio device for tests of the core, the rings and the transports: what is
 * readable in a chain comes back in its writable part. It can hold chains, as a
 * disk does until it has the data, and return them in another order.
 */
#ifndef WISP_TESTS_FAKE_ECHO_H
#define WISP_TESTS_FAKE_ECHO_H

#include "tests/unit/fake_driver.h"

#define ECHO_RING_SIZE	 16
#define ECHO_QUEUES	 2
#define ECHO_MAX_HELD	 64
#define ECHO_MAX_SEGS	 16
#define ECHO_CONFIG_SIZE 12

struct echo {
	struct virtio_device dev;
	uint8_t config[ECHO_CONFIG_SIZE];
	unsigned starts, stops, resets, kicks;
	int start_result;

	bool hold; /* chains that are popped from now on */
	struct {
		struct virtq_chain c;
		struct iovec iov[ECHO_MAX_SEGS];
		unsigned queue;
	} held[ECHO_MAX_HELD];
	unsigned num_held;
	bool stop_waits; /* for what is held */
	struct loop_timer timer; /* returns it */
};

/* A machine, an echo in it and its driver. */
struct echo_machine {
	struct fake_vm vm;
	struct fake_driver d;
	struct echo *e;
};

/* The device alone, offering feature bit 5 beside the rings'. */
struct echo *echo_create(struct fake_vm *vm);

/* Return what is held, the last one first; ends a stop that waited for it. */
void echo_release(struct echo *e);

/* All of it, probed as @config says; echo_end() frees it. */
void echo_begin(struct echo_machine *m, enum loop_backend backend,
		const struct fake_driver_config *config);
void echo_end(struct echo_machine *m);

/* One request on queue 0, not kicked: a readable and a writable buffer of 64 bytes. */
int echo_request(struct echo_machine *m, const char *text);

#endif
