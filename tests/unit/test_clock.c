#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmm/core/clock.h"

static void virtual_clock_moves_only_when_told(void **state)
{
	struct clock c;

	clock_init_virtual(&c, 100, 5000);
	assert_int_equal(clock_monotonic_ns(&c), 100);
	assert_int_equal(clock_realtime_ns(&c), 5000);
	clock_advance(&c, 7);
	assert_int_equal(clock_monotonic_ns(&c), 107);
	assert_int_equal(clock_realtime_ns(&c), 5007);
}

static void host_clock_is_the_default_and_goes_forward(void **state)
{
	struct clock c = { 0 };
	uint64_t a = clock_monotonic_ns(NULL), b = clock_monotonic_ns(&c);

	assert_true(a > 0 && b >= a);
	assert_true(clock_realtime_ns(NULL) > 1600000000 * NSEC_PER_SEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(virtual_clock_moves_only_when_told),
		cmocka_unit_test(host_clock_is_the_default_and_goes_forward),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
