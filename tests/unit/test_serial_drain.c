/* Output of a guest that writes faster than anybody can: the port over a chardev of the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "devices/chardev.h"

static size_t swallow(struct chardev *c, const void *p, size_t len);

#define chardev_write swallow
#include "devices/serial.c"
#undef chardev_write

#include "tests/unit/fake_hv.h"

struct fixture {
	struct hv *hv;
	struct irq_table *irqs;
	struct bus *pio;
	struct loop *loop;
	struct chardev *chardev;
	struct serial *serial;
	struct loop_task other;
	size_t taken;
	unsigned turns; /* of the other work */
	bool endless;
};

/* The chardev's user has no room for an argument of the test's. */
static struct fixture f;

/* Takes all, and the guest writes as much again before anybody looks. */
static size_t swallow(struct chardev *c, const void *p, size_t len)
{
	f.taken += len;
	if (f.taken > 64 * TX_BYTES)
		fail_msg("the loop carries output without end");
	for (size_t i = 0; f.endless && i < len; i++)
		bus_write(f.pio, SERIAL_COM1_PORT, "x", 1);
	return len;
}

static void other_work(struct loop_task *task)
{
	f.turns++;
}

static int setup(void **state)
{
	struct loop_params params = { .backend = LOOP_EPOLL, .name = "test" };
	struct chardev_config config = { .kind = CHARDEV_NULL };

	f = (struct fixture){ .hv = fake_hv_create(NULL), .other.run = other_work };
	assert_int_equal(irq_table_create(&f.irqs, f.hv), 0);
	assert_int_equal(bus_create(&f.pio, "pio"), 0);
	assert_int_equal(loop_create(&f.loop, &params, NULL), 0);
	assert_int_equal(chardev_create(&f.chardev, &config, f.loop, NULL), 0);
	assert_int_equal(serial_create(&f.serial, f.pio, SERIAL_COM1_PORT, f.irqs, SERIAL_COM1_IRQ,
				       f.chardev, f.loop, NULL),
			 0);
	return 0;
}

static int teardown(void **state)
{
	f.endless = false;
	serial_free(f.serial);
	chardev_free(f.chardev);
	loop_free(f.loop);
	bus_free(f.pio);
	irq_table_free(f.irqs);
	f.hv->ops->free(f.hv);
	return 0;
}

static void a_guest_that_writes_without_end_leaves_the_loop_to_others(void **state)
{
	f.endless = true;
	bus_write(f.pio, SERIAL_COM1_PORT, "x", 1);
	for (unsigned i = 1; i <= 4; i++) {
		size_t before = f.taken;

		loop_post(f.loop, &f.other);
		loop_run_once(f.loop, 0);
		assert_int_equal(f.turns, i);
		assert_int_equal(f.taken - before, TX_BYTES);
	}
}

/* As at the end of a machine, when the loop has one turn for it. */
static void all_that_is_there_goes_in_one_turn(void **state)
{
	for (unsigned start = 0; start < 3; start++) {
		for (unsigned i = 0; i < TX_BYTES; i++)
			bus_write(f.pio, SERIAL_COM1_PORT, "x", 1);
		/* More is lost, as on a real port. */
		bus_write(f.pio, SERIAL_COM1_PORT, "x", 1);
		f.taken = 0;
		loop_run_once(f.loop, 0);
		assert_int_equal(f.taken, TX_BYTES);
		assert_false(f.serial->drain.queued);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_guest_that_writes_without_end_leaves_the_loop_to_others, setup, teardown),
		cmocka_unit_test_setup_teardown(all_that_is_there_goes_in_one_turn, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
