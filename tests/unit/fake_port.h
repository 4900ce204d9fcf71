/*
 * What stands above a character device, a serial port's or a console's place, and keeps what it has
 * seen, for unit tests. It runs on the back end of the loop that is being tested (loop_fixture.h).
 *
 *	fake_port_init(&p, &(struct chardev_config){ .kind = CHARDEV_STDIO });
 *	fake_port_await(&p, p.closed == 1);
 *	assert_int_equal(p.num_got, 4);
 *	fake_port_done(&p);
 */
#ifndef WISP_TESTS_FAKE_PORT_H
#define WISP_TESTS_FAKE_PORT_H

#include "devices/chardev.h"
#include "tests/unit/patience.h"

struct fake_port {
	struct loop *loop;
	struct chardev *c;
	size_t room; /* left; SIZE_MAX: without end */
	uint8_t got[1 << 16];
	size_t num_got;
	unsigned writable, opened, closed, resized, breaks;
	uint16_t columns, rows;
	char key;
	/* Output that is yet to be written, whenever there is room for it. */
	const uint8_t *out;
	size_t out_left;
};

void fake_port_init(struct fake_port *p, const struct chardev_config *config);
void fake_port_done(struct fake_port *p);

/* Write of p->out what there is room for now. */
void fake_port_pump(struct fake_port *p);

/* Its struct chardev_user's input(), for a test that attaches it again. */
void fake_port_input(void *arg, const uint8_t *bytes, size_t len);

/* Turn the loop until nothing happens. */
void fake_port_settle(struct fake_port *p);

/* Turn the loop until @cond; a failure when patience() is over. */
#define fake_port_await(p, cond)								\
	do {											\
		for (uint64_t _end = patience(); !(cond) && !patience_ends(_end);)		\
			loop_run_once((p)->loop, 10 * NSEC_PER_MSEC);				\
		assert_true(cond);								\
	} while (0)

#endif
