#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>

#include "vmm/core/bus.h"

struct device {
	struct bus *bus;
	uint64_t offset;
	unsigned len;
	uint64_t value;
	unsigned calls;
	bool moves; /* move itself to 0x5000 on a write, as a BAR does */
};

static void device_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct device *d = opaque;

	d->offset = offset;
	d->len = len;
	d->calls++;
	memcpy(data, &d->value, len);
}

static void device_write(void *opaque, uint64_t offset, const void *data, unsigned len);

static const struct bus_ops device_ops = { .read = device_read, .write = device_write };

static struct bus_region region_of(struct device *d, uint64_t base, uint64_t size)
{
	return (struct bus_region){
		.base = base, .size = size, .ops = &device_ops, .opaque = d, .name = "test",
	};
}

static void device_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct device *d = opaque;

	d->offset = offset;
	d->len = len;
	d->calls++;
	memcpy(&d->value, data, len);
	if (d->moves) {
		struct bus_region r = region_of(d, 0x5000, 0x100);

		assert_int_equal(bus_remove(d->bus, 0x1000, d), 0);
		assert_int_equal(bus_add(d->bus, &r, NULL), 0);
	}
}

static int setup(void **state)
{
	return bus_create((struct bus **)state, "test");
}

static int teardown(void **state)
{
	bus_free(*state);
	return 0;
}

static void add(struct bus *bus, struct device *d, uint64_t base, uint64_t size)
{
	struct bus_region r = region_of(d, base, size);

	assert_int_equal(bus_add(bus, &r, NULL), 0);
}

static void bus_delivers_to_the_region_that_holds_the_access(void **state)
{
	struct bus *bus = *state;
	struct device d[3] = { 0 };
	uint32_t v;

	add(bus, &d[2], 0x3000, 0x1000);
	add(bus, &d[0], 0x1000, 0x10);
	add(bus, &d[1], 0x1010, 0x10);
	d[1].value = 0x12345678;
	assert_true(bus_read(bus, 0x1014, &v, 4));
	assert_int_equal(v, 0x12345678);
	assert_int_equal(d[1].offset, 4);
	assert_true(bus_write(bus, 0x3fff, "z", 1));
	assert_int_equal(d[2].offset, 0xfff);
	assert_int_equal(d[2].value, 'z');
	assert_int_equal(d[0].calls, 0);
}

static void bus_answers_ones_where_nobody_lives(void **state)
{
	struct bus *bus = *state;
	struct device d = { 0 };
	uint64_t v = 0;

	assert_false(bus_read(bus, 0, &v, 2));
	assert_int_equal(v, 0xffff);
	add(bus, &d, 0x1000, 0x10);
	assert_false(bus_read(bus, 0x0fff, &v, 2));
	assert_false(bus_read(bus, 0x100e, &v, 4));
	assert_false(bus_write(bus, 0x1010, &v, 1));
	assert_false(bus_read(bus, 0x1000, &v, 3));
	assert_int_equal(d.calls, 0);
	assert_int_equal(bus_unknown(bus), 5);
}

static void bus_refuses_overlap_wrap_and_nothing(void **state)
{
	struct bus *bus = *state;
	struct device d = { 0 };
	struct error err = { 0 };
	struct bus_region r;

	add(bus, &d, 0x1000, 0x100);
	r = region_of(&d, 0x10ff, 0x100);
	assert_int_equal(bus_add(bus, &r, &err), -EEXIST);
	assert_string_equal(err.msg, "test: 'test' at 0x10ff overlaps 'test' at 0x1000");
	r = region_of(&d, 0xfff, 2);
	assert_int_equal(bus_add(bus, &r, NULL), -EEXIST);
	r = region_of(&d, 0x800, 0x10000);
	assert_int_equal(bus_add(bus, &r, NULL), -EEXIST);
	r = region_of(&d, 0x2000, 0);
	assert_int_equal(bus_add(bus, &r, NULL), -EINVAL);
	r = region_of(&d, UINT64_MAX, 2);
	assert_int_equal(bus_add(bus, &r, NULL), -EINVAL);
	r = region_of(&d, UINT64_MAX, 1);
	assert_int_equal(bus_add(bus, &r, NULL), 0);
}

static void bus_lets_a_handler_move_its_own_region(void **state)
{
	struct bus *bus = *state;
	struct device d = { .bus = bus, .moves = true };
	uint8_t v = 1;

	add(bus, &d, 0x1000, 0x100);
	assert_true(bus_write(bus, 0x1000, &v, 1));
	d.moves = false;
	assert_false(bus_write(bus, 0x1000, &v, 1));
	assert_true(bus_write(bus, 0x5001, &v, 1));
	assert_int_equal(d.offset, 1);
	assert_int_equal(bus_remove(bus, 0x5000, bus), -ENOENT);
}

static void collect(const struct bus_region *r, void *arg)
{
	uint64_t *sum = arg;

	sum[0] = sum[0] * 16 + r->base;
	sum[1] += r->reads;
	sum[2] += r->writes;
}

static void bus_walks_in_order_with_counters(void **state)
{
	struct bus *bus = *state;
	struct device d = { 0 };
	uint64_t sum[3] = { 0 };
	uint8_t v;

	for (unsigned i = 0; i < 8; i++)
		add(bus, &d, 1 + (i * 5) % 8, 1);
	bus_read(bus, 3, &v, 1);
	bus_read(bus, 4, &v, 1);
	bus_write(bus, 4, &v, 1);
	bus_for_each(bus, collect, sum);
	assert_int_equal(sum[0], 0x12345678);
	assert_int_equal(sum[1], 2);
	assert_int_equal(sum[2], 1);
}

static void *read_often(void *arg)
{
	uint32_t v;

	for (int i = 0; i < 20000; i++)
		bus_read(arg, 0x2000, &v, 4);
	return NULL;
}

static void silent_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
}

static void bus_may_change_while_vcpus_look_up(void **state)
{
	static const struct bus_ops silent = { .read = silent_read };
	struct bus *bus = *state;
	struct bus_region fixed = { .base = 0x2000, .size = 4, .ops = &silent, .name = "fixed" };
	struct device d = { 0 };
	uint64_t sum[3] = { 0 };
	pthread_t thread[2];

	assert_int_equal(bus_add(bus, &fixed, NULL), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, read_often, bus), 0);
	for (int i = 0; i < 2000; i++) {
		add(bus, &d, 0x1000 + (i % 64) * 16, 16);
		assert_int_equal(bus_remove(bus, 0x1000 + (i % 64) * 16, &d), 0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	bus_for_each(bus, collect, sum);
	assert_int_equal(sum[1], 40000);
	assert_int_equal(bus_unknown(bus), 0);
}

#define bus_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		bus_test(bus_delivers_to_the_region_that_holds_the_access),
		bus_test(bus_answers_ones_where_nobody_lives),
		bus_test(bus_refuses_overlap_wrap_and_nothing),
		bus_test(bus_lets_a_handler_move_its_own_region),
		bus_test(bus_walks_in_order_with_counters),
		bus_test(bus_may_change_while_vcpus_look_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
