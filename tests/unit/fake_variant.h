/*
 * The ways a driver and a device can be put together, for promises that hold in each of them: a
 * test takes its variant from *state.
 *
 *	static void reads_land_in_guest_memory(void **state)
 *	{
 *		struct fake_blk *f = fake_blk_begin(*state);
 *		...
 *	struct CMUnitTest matrix[] = { fake_variant_test(reads_land_in_guest_memory) };
 *
 *	failed = fake_variants_run(matrix, ARRAY_SIZE(matrix));
 */
#ifndef WISP_TESTS_FAKE_VARIANT_H
#define WISP_TESTS_FAKE_VARIANT_H

#include "tests/unit/fake_driver.h"

struct fake_variant {
	const char *name;
	struct fake_driver_config driver;
	enum loop_backend backend;
};

/* For what needs one variant only. */
extern const struct fake_variant fake_plain;

#define fake_variant_test(t) { #t, t, NULL, NULL, NULL }

struct CMUnitTest;

/*
 * Run the @num tests of @matrix once for each variant: both rings, both transports, both back ends
 * of the loop. Returns how many failed.
 */
int fake_variants_run(struct CMUnitTest *matrix, size_t num);

#endif
