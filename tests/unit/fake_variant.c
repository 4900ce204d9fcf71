#include "tests/unit/fake_variant.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

const struct fake_variant fake_plain = {
	.name = "plain",
	.driver = { .event_idx = true, .indirect = true },
	.backend = LOOP_AUTO,
};

static const struct fake_variant variants[] = {
	{ "split, mmio, epoll", { .transport = FAKE_MMIO }, LOOP_EPOLL },
	{ "split, pci, event index, indirect",
	  { .transport = FAKE_PCI, .event_idx = true, .indirect = true },
	  LOOP_AUTO },
	{ "packed, mmio, event index",
	  { .transport = FAKE_MMIO, .packed = true, .event_idx = true },
	  LOOP_AUTO },
	{ "packed, pci, indirect",
	  { .transport = FAKE_PCI, .packed = true, .indirect = true },
	  LOOP_EPOLL },
};

int fake_variants_run(struct CMUnitTest *matrix, size_t num)
{
	int failed = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
		for (size_t j = 0; j < num; j++)
			matrix[j].initial_state = (void *)&variants[i];
		/* What the macro of this name calls, which wants to see the array. */
		failed += _cmocka_run_group_tests(variants[i].name, matrix, num, NULL, NULL);
	}
	return failed;
}
