#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "tests/unit/fake_hv.h"
#include "vmm/core/irq.h"

#define MSI_ADDR 0xfee00000ull

struct fixture {
	struct hv *hv;
	struct irq_table *table;
};

static int setup(void **state)
{
	static struct fixture f;

	f.hv = fake_hv_create(NULL);
	*state = &f;
	return irq_table_create(&f.table, f.hv);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	irq_table_free(f->table);
	f->hv->ops->free(f->hv);
	return 0;
}

static void lines_open_at_first_use_and_push_nothing(void **state)
{
	struct fixture *f = *state;
	struct irq_line line, unused;

	irq_line_init(&line, f->table, 5);
	irq_line_init(&unused, f->table, 6);
	assert_int_equal(fake_hv_num_irqfds(f->hv), 0);
	irq_line_raise(&line);
	assert_int_equal(fake_hv_interrupts(f->hv, 5), 1);
	irq_line_raise(&line);
	irq_line_raise(&line);
	assert_int_equal(fake_hv_interrupts(f->hv, 5), 2); /* folded */
	assert_int_equal(fake_hv_num_irqfds(f->hv), 1);
	assert_int_equal(irq_line_open(&line), 0);
	assert_int_equal(fake_hv_num_irqfds(f->hv), 1);
	assert_int_equal(irq_table_pushes(f->table), 0);
	irq_line_done(&line);
	irq_line_done(&unused);
	assert_int_equal(fake_hv_num_irqfds(f->hv), 0);
	assert_int_equal(fake_hv_lost(f->hv), 0);
}

static void a_line_without_irqfd_still_raises(void **state)
{
	struct fixture *f = *state;
	struct irq_line line;

	irq_line_init(&line, f->table, 5);
	fake_hv_fail(f->hv, FAKE_HV_IRQFD, 0, -EMFILE);
	irq_line_raise(&line);
	assert_int_equal(line.fd, -1);
	assert_int_equal(fake_hv_interrupts(f->hv, 5), 1);
	irq_line_done(&line);
}

static void a_shared_pin_stays_up_until_the_last_source_lets_go(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(irq_level_set(f->table, 16, 3, true), 0);
	assert_int_equal(irq_level_set(f->table, 16, 63, true), 0);
	assert_int_equal(irq_level_set(f->table, 16, 3, true), 0);
	assert_int_equal(irq_level_set(f->table, 16, 3, false), 0);
	assert_true(fake_hv_level(f->hv, 16));
	assert_int_equal(irq_level_set(f->table, 16, 63, false), 0);
	assert_false(fake_hv_level(f->hv, 16));
	assert_int_equal(fake_hv_interrupts(f->hv, 16), 1);
	assert_int_equal(irq_level_set(f->table, 24, 0, true), -EINVAL);
	assert_int_equal(irq_level_set(f->table, 16, 64, true), -EINVAL);
}

static void a_message_arrives_by_its_route(void **state)
{
	struct fixture *f = *state;
	struct irq_msi msi;

	irq_msi_init(&msi, f->table);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
	assert_true(msi.gsi >= IRQ_NUM_PINS);
	eventfd_write(msi.fd, 1);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), 1);

	/* Moved to another processor without masking. */
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR | 0x1000, 0x42), 0);
	eventfd_write(msi.fd, 1);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), 1);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR | 0x1000, 0x42), 1);
	assert_int_equal(irq_table_pushes(f->table), 2);
	irq_msi_done(&msi);
	assert_int_equal(fake_hv_num_irqfds(f->hv), 0);
	assert_int_equal(fake_hv_lost(f->hv), 0);
}

static void a_masked_vector_is_pending_and_delivered_when_unmasked(void **state)
{
	struct fixture *f = *state;
	struct irq_msi msi;

	irq_msi_init(&msi, f->table);
	assert_false(irq_msi_pending(&msi));
	assert_int_equal(irq_msi_open(&msi), 0);
	assert_false(irq_msi_pending(&msi));
	eventfd_write(msi.fd, 1);
	assert_true(irq_msi_pending(&msi));
	assert_true(irq_msi_pending(&msi)); /* not consumed */
	assert_int_equal(fake_hv_num_irqfds(f->hv), 0);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), 1);
	assert_int_equal(fake_hv_lost(f->hv), 0);

	irq_msi_mask(&msi);
	irq_msi_mask(&msi);
	assert_false(irq_msi_pending(&msi));
	eventfd_write(msi.fd, 1);
	assert_true(irq_msi_pending(&msi));
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), 1);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), 2);
	irq_msi_done(&msi);
}

static void routes_are_pushed_only_when_they_change(void **state)
{
	struct fixture *f = *state;
	struct irq_msi a, b;
	unsigned num;

	irq_msi_init(&a, f->table);
	irq_msi_init(&b, f->table);
	assert_int_equal(irq_msi_unmask(&a, MSI_ADDR, 0x41), 0);
	assert_int_equal(irq_table_pushes(f->table), 1);
	for (int i = 0; i < 5; i++) {
		irq_msi_mask(&a);
		assert_int_equal(irq_msi_unmask(&a, MSI_ADDR, 0x41), 0);
	}
	assert_int_equal(irq_table_pushes(f->table), 1);

	/* Pushed while masked, it is left out, and so must be pushed again. */
	irq_msi_mask(&a);
	assert_int_equal(irq_msi_unmask(&b, MSI_ADDR, 0x42), 0);
	assert_int_equal(irq_table_pushes(f->table), 2);
	fake_hv_routes(f->hv, &num);
	assert_int_equal(num, IRQ_NUM_PINS + 16 + 1);
	assert_int_equal(irq_msi_unmask(&a, MSI_ADDR, 0x41), 0);
	assert_int_equal(irq_table_pushes(f->table), 3);
	fake_hv_routes(f->hv, &num);
	assert_int_equal(num, IRQ_NUM_PINS + 16 + 2);
	irq_msi_done(&a);
	irq_msi_done(&b);
}

static void pins_keep_their_routes_beside_messages(void **state)
{
	struct fixture *f = *state;
	const struct hv_route *routes;
	unsigned num, ioapic = 0, pic = 0;
	struct irq_line line;
	struct irq_msi msi;

	irq_line_init(&line, f->table, 4);
	irq_line_raise(&line);
	irq_msi_init(&msi, f->table);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
	assert_int_equal(fake_hv_interrupts(f->hv, 4), 1);
	irq_line_raise(&line);
	assert_int_equal(fake_hv_interrupts(f->hv, 4), 2);
	routes = fake_hv_routes(f->hv, &num);
	for (unsigned i = 0; i < num; i++) {
		if (routes[i].kind == HV_ROUTE_MSI)
			continue;
		assert_int_equal(routes[i].gsi, routes[i].pin);
		ioapic += routes[i].kind == HV_ROUTE_IOAPIC;
		pic += routes[i].kind == HV_ROUTE_PIC;
	}
	assert_int_equal(ioapic, 24);
	assert_int_equal(pic, 16);
	irq_line_done(&line);
	irq_msi_done(&msi);
}

static void many_vectors_enabled_at_once_are_pushed_once(void **state)
{
	struct fixture *f = *state;
	struct irq_msi msi[65];

	irq_table_hold(f->table);
	for (int i = 0; i < 65; i++) {
		irq_msi_init(&msi[i], f->table);
		assert_int_equal(irq_msi_open(&msi[i]), 0);
		eventfd_write(msi[i].fd, 1);
		assert_int_equal(irq_msi_unmask(&msi[i], MSI_ADDR, 0x20 + i), 0);
	}
	irq_msi_mask(&msi[7]); /* thought better of */
	assert_int_equal(fake_hv_num_irqfds(f->hv), 0);
	assert_int_equal(irq_table_release(f->table), 0);
	assert_int_equal(irq_table_pushes(f->table), 1);
	assert_int_equal(fake_hv_num_irqfds(f->hv), 64);
	for (int i = 0; i < 65; i++)
		assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x20 + i), i != 7);
	assert_int_equal(fake_hv_lost(f->hv), 0);
	for (int i = 0; i < 65; i++)
		irq_msi_done(&msi[i]);
}

static void numbers_are_used_again(void **state)
{
	struct fixture *f = *state;
	struct irq_msi msi;
	uint32_t first = 0;

	for (int i = 0; i < 5000; i++) {
		irq_msi_init(&msi, f->table);
		assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
		if (!first)
			first = msi.gsi;
		assert_int_equal(msi.gsi, first);
		irq_msi_done(&msi);
	}
}

static void a_vector_that_cannot_be_routed_stays_masked(void **state)
{
	struct fixture *f = *state;
	struct irq_msi msi;

	irq_msi_init(&msi, f->table);
	fake_hv_fail(f->hv, FAKE_HV_ROUTES_SET, 0, -ENOMEM);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), -ENOMEM);
	assert_false(msi.assigned);
	fake_hv_fail(f->hv, FAKE_HV_IRQFD, 0, -EMFILE);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), -EMFILE);
	assert_false(msi.assigned);
	eventfd_write(msi.fd, 1);
	assert_true(irq_msi_pending(&msi));
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), 1);
	irq_msi_done(&msi);
}

struct raiser {
	struct irq_msi *msi;
	struct irq_line *line;
};

static void *raise_often(void *arg)
{
	struct raiser *r = arg;

	for (int i = 0; i < 2000; i++) {
		irq_line_raise(r->line);
		eventfd_write(r->msi->fd, 1);
	}
	return NULL;
}

static void an_interrupt_raised_while_masking_is_never_lost(void **state)
{
	struct fixture *f = *state;
	struct irq_line line;
	struct irq_msi msi;
	struct raiser r = { &msi, &line };
	pthread_t thread[2];
	uint64_t before;

	irq_line_init(&line, f->table, 7);
	irq_msi_init(&msi, f->table);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, raise_often, &r), 0);
	for (int i = 0; i < 500; i++) {
		irq_msi_mask(&msi);
		assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41 + (i & 1)), 0);
	}
	irq_msi_mask(&msi);
	before = fake_hv_messages(f->hv, MSI_ADDR, 0x41);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	eventfd_write(msi.fd, 1);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), before);
	assert_int_equal(irq_msi_unmask(&msi, MSI_ADDR, 0x41), 0);
	assert_int_equal(fake_hv_messages(f->hv, MSI_ADDR, 0x41), before + 1);
	assert_int_equal(fake_hv_lost(f->hv), 0);
	irq_msi_done(&msi);
	irq_line_done(&line);
}

#define irq_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		irq_test(lines_open_at_first_use_and_push_nothing),
		irq_test(a_line_without_irqfd_still_raises),
		irq_test(a_shared_pin_stays_up_until_the_last_source_lets_go),
		irq_test(a_message_arrives_by_its_route),
		irq_test(a_masked_vector_is_pending_and_delivered_when_unmasked),
		irq_test(routes_are_pushed_only_when_they_change),
		irq_test(pins_keep_their_routes_beside_messages),
		irq_test(many_vectors_enabled_at_once_are_pushed_once),
		irq_test(numbers_are_used_again),
		irq_test(a_vector_that_cannot_be_routed_stays_masked),
		irq_test(an_interrupt_raised_while_masking_is_never_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
