/*
 * What unit tests ask of a virtio device beside its queues: to pause, what it has counted, what
 * it saves and whether it loads that.
 *
 * All of it asserts (cmocka) that each step succeeds, but for what is said to be returned.
 */
#ifndef WISP_TESTS_FAKE_DEVICE_H
#define WISP_TESTS_FAKE_DEVICE_H

#include "tests/unit/fake_driver.h"
#include "vmm/core/state.h"

/* For virtio_pause(): sets the bool at @arg. */
void fake_drained(struct virtio_device *dev, void *arg);

/* Pause @d's device and turn the loop until nothing is in flight. */
void fake_pause(struct fake_driver *d);

/* The device's counter called @name, which there is. */
uint64_t fake_counter(struct virtio_device *dev, const char *name);

/*
 * A section of state for @dev to load: the test puts into @w what it wants there, by dev's own
 * save() or by hand.
 */
void fake_section_begin(struct state_writer *w);

/* End the section in @w, load it into @dev and free it: 0 when all of it was taken, or an error. */
int fake_section_load(struct virtio_device *dev, struct state_writer *w);

#endif
