/*
 * Rings, core and transports under load and on several threads, over both back
 * ends of the loop: what is lost only sometimes is lost here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/pci_regs.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <pthread.h>
#include <sched.h>

#include "tests/unit/fake_echo.h"
#include "tests/unit/patience.h"

static unsigned random_below(unsigned *seed, unsigned n)
{
	*seed = *seed * 1103515245 + 12345;
	return (*seed >> 16) % n;
}

/*
 * A driver that looks at the ring only after an interrupt, and a device that
 * looks only after a kick: one of either lost and the requests stop.
 */
static void run_randomly(enum loop_backend backend, const struct fake_driver_config *config,
			 unsigned seed)
{
	unsigned sent = 0, back = 0, target = 600;
	uint64_t bytes[ECHO_RING_SIZE] = { 0 };
	struct fake_used used;
	struct echo_machine f;
	uint64_t pool;

	echo_begin(&f, backend, config);
	pool = fake_alloc(&f.vm, 4096, 16);
	while (back < target) {
		unsigned n = random_below(&seed, 6), before = back;

		f.e->hold = random_below(&seed, 2);
		while (n-- && sent < target) {
			struct fake_buf bufs[6];
			unsigned i, out = 1 + random_below(&seed, 3),
				 in = 1 + random_below(&seed, 3);
			uint64_t room = 0, data = 0;
			int id;

			for (i = 0; i < out + in; i++) {
				bufs[i].gpa = pool + random_below(&seed, 2048);
				bufs[i].len = 1 + random_below(&seed, 300);
				bufs[i].writable = i >= out;
				*(i < out ? &data : &room) += bufs[i].len;
			}
			id = fake_add(&f.d, 0, bufs, out + in);
			if (id < 0)
				break;
			bytes[id] = MIN(room, data);
			sent++;
			if (random_below(&seed, 3) == 0)
				fake_kick(&f.d, 0);
		}
		fake_kick(&f.d, 0);
		fake_run(&f.vm);
		echo_release(f.e);
		if (fake_interrupts(&f.d, 0)) {
			while (fake_take_used(&f.d, 0, &used)) {
				assert_int_equal(used.len, bytes[used.id]);
				back++;
			}
		}
		if (back == before && !f.e->num_held && sent == target)
			break;
	}
	assert_int_equal(back, target);
	assert_int_equal(f.e->dev.stats.failures, 0);
	echo_end(&f);
}

static void random_requests_all_come_back(void **state)
{
	unsigned i;

	for (i = 0; i < 32; i++) {
		struct fake_driver_config config = {
			.transport = i & 1 ? FAKE_PCI : FAKE_MMIO,
			.packed = i & 2,
			.event_idx = i & 4,
			.indirect = i & 8,
			.intx = i & 16,
		};

		run_randomly(*(enum loop_backend *)*state, &config, i + 1);
	}
}

static bool wait_used(struct fake_driver *d, struct fake_used *used)
{
	uint64_t end = patience();

	while (!fake_take_used(d, 0, used)) {
		if (patience_ends(end))
			return false;
		sched_yield();
	}
	return true;
}

/* A driver on a thread of its own: requests, and resets with some still on their way. */
static void *vcpu(void *arg)
{
	struct echo_machine *f = arg;
	struct fake_used used;
	uintptr_t lost = 0;
	unsigned i;

	fake_driver_probe(&f->d);
	for (i = 0; i < 50; i++) {
		echo_request(f, "thread");
		fake_kick(&f->d, 0);
		if (i % 5 == 0 && !wait_used(&f->d, &used))
			lost++;
		fake_driver_probe(&f->d);
	}
	fake_reset(&f->d);
	loop_stop(f->vm.loop);
	return (void *)lost;
}

static void vcpu_and_loop_on_two_threads(void **state)
{
	for (int pci = 0; pci < 2; pci++) {
		pthread_t thread;
		struct echo_machine f;
		void *lost;

		echo_begin(&f, *(enum loop_backend *)*state,
			   &(struct fake_driver_config){
				   .transport = pci ? FAKE_PCI : FAKE_MMIO,
				   .event_idx = true,
			   });
		/* From now on the loop is this thread's: the other must never think it is. */
		fake_run(&f.vm);
		assert_int_equal(pthread_create(&thread, NULL, vcpu, &f), 0);
		loop_run(f.vm.loop);
		pthread_join(thread, &lost);
		assert_null(lost);
		assert_int_equal(f.e->resets, 52);
		echo_end(&f);
	}
}

/* ---- vCPUs that write whatever comes to their mind ---- */

#define VANDALS 3u
#define WRITES	4000u

struct vandal {
	struct echo_machine *m;
	unsigned seed;
	_Atomic unsigned *running;
	pthread_t thread;
};

struct mischief {
	uint64_t addr;
	unsigned len;
	uint64_t value[6];
};

/* Nearly right, so that devices get as far as running before the next surprise. */
static const struct mischief on_mmio[] = {
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_STATUS, 4, { 0, 1, 3, 0xb, 0xf, 0x8f } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_STATUS, 4, { 0xb, 0xf, 0xf, 0xf, 0xf, 0xff } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_DRIVER_FEATURES_SEL, 4, { 0, 1, 1, 1, 1, 2 } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_DRIVER_FEATURES, 4, { 1, 1, 1, 5, 0, 0x20 } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_SEL, 4, { 0, 1, 0, 1, 2, 0xffff } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_NUM, 4, { 16, 16, 16, 8, 0, 0xffffffff } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_DESC_LOW, 4, { 0x1000, 0x2000, 0x3000 } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_AVAIL_LOW, 4, { 0x4000, 0x5000, 0x6000 } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_USED_LOW, 4, { 0x7000, 0x8000, 0xfffffff0 } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_READY, 4, { 1, 1, 1, 1, 0, 2 } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_NOTIFY, 4, { 0, 1, 2, 0, 1, 0xffffffff } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_INTERRUPT_ACK, 4, { 1, 2, 3, 0xffffffff } },
	{ FAKE_MMIO_BASE + VIRTIO_MMIO_CONFIG, 4, { 1, 2, 3 } },
};

/* The first function's BAR, where plugging puts it, and its configuration space. */
#define BAR    FAKE_MMIO64
#define CONFIG (FAKE_ECAM_BASE + (1 << 15))

static const struct mischief on_pci[] = {
	{ BAR + VIRTIO_PCI_COMMON_STATUS, 1, { 0, 1, 3, 0xb, 0xf, 0x8f } },
	{ BAR + VIRTIO_PCI_COMMON_STATUS, 1, { 0xb, 0xf, 0xf, 0xf, 0xf, 0xff } },
	{ BAR + VIRTIO_PCI_COMMON_GFSELECT, 4, { 0, 1, 1, 1, 1, 2 } },
	{ BAR + VIRTIO_PCI_COMMON_GF, 4, { 1, 1, 1, 5, 0, 0x20 } },
	{ BAR + VIRTIO_PCI_COMMON_MSIX, 2, { 0, 1, 2, 3, 0xffff } },
	{ BAR + VIRTIO_PCI_COMMON_Q_SELECT, 2, { 0, 1, 0, 1, 2, 0xffff } },
	{ BAR + VIRTIO_PCI_COMMON_Q_SIZE, 2, { 16, 16, 16, 8, 0, 0xffff } },
	{ BAR + VIRTIO_PCI_COMMON_Q_MSIX, 2, { 0, 1, 2, 3, 0xffff } },
	{ BAR + VIRTIO_PCI_COMMON_Q_DESCLO, 8, { 0x1000, 0x2000, 0x3000 } },
	{ BAR + VIRTIO_PCI_COMMON_Q_AVAILLO, 8, { 0x4000, 0x5000, 0x6000 } },
	{ BAR + VIRTIO_PCI_COMMON_Q_USEDLO, 8, { 0x7000, 0x8000, UINT64_MAX - 15 } },
	{ BAR + VIRTIO_PCI_COMMON_Q_ENABLE, 2, { 1, 1, 1, 1, 0, 2 } },
	{ BAR + 0x200, 2, { 0, 1 } }, /* doorbells */
	{ BAR + 0x204, 4, { 0, 1 } },
	{ CONFIG + PCI_COMMAND, 2, { 6, 6, 6, 6, 0x406, 4 } },
	{ CONFIG + PCI_BASE_ADDRESS_0, 4, { 0, 0, 0, 0x100000, 0xffffffff, 0 } },
	{ CONFIG + PCI_BASE_ADDRESS_1, 4, { 1, 1, 1, 1, 0xffffffff, 0 } },
	/* The MSI-X table, which plugging puts behind the first BAR. */
	{ BAR + 0x1000 + 12, 4, { 0, 1 } },
	{ BAR + 0x1000 + 16, 4, { 0xfee00000, 0, 0xfee01000 } },
	{ BAR + 0x1000 + 28, 4, { 0, 1 } },
};

static void *vandal(void *arg)
{
	struct vandal *v = arg;
	bool pci = v->m->d.pci;
	unsigned i;

	for (i = 0; i < WRITES; i++) {
		unsigned n = random_below(&v->seed, pci ? ARRAY_SIZE(on_pci) : ARRAY_SIZE(on_mmio));
		const struct mischief *what = pci ? &on_pci[n] : &on_mmio[n];
		uint64_t value = what->value[random_below(&v->seed, ARRAY_SIZE(what->value))];
		uint8_t data[8];

		put_le64(data, value);
		bus_write(v->m->vm.mmio, what->addr, data, what->len);
		bus_read(v->m->vm.mmio, what->addr, data, what->len);
	}
	if (atomic_fetch_sub(v->running, 1) == 1)
		loop_stop(v->m->vm.loop);
	return NULL;
}

static void vandals_do_no_harm_that_a_reset_does_not_mend(void **state)
{
	for (int pci = 0; pci < 2; pci++) {
		_Atomic unsigned running = VANDALS;
		struct vandal vandals[VANDALS];
		struct fake_used used;
		struct echo_machine f;
		unsigned i;

		echo_begin(&f, *(enum loop_backend *)*state,
			   &(struct fake_driver_config){ .transport = pci ? FAKE_PCI : FAKE_MMIO });
		fake_run(&f.vm);
		for (i = 0; i < VANDALS; i++) {
			vandals[i] = (struct vandal){ &f, i + 1, &running, 0 };
			assert_int_equal(pthread_create(&vandals[i].thread, NULL, vandal,
							&vandals[i]), 0);
		}
		loop_run(f.vm.loop);
		for (i = 0; i < VANDALS; i++)
			pthread_join(vandals[i].thread, NULL);

		if (pci) {
			fake_write(&f.vm, CONFIG + PCI_BASE_ADDRESS_0, (uint32_t)BAR, 4);
			fake_write(&f.vm, CONFIG + PCI_BASE_ADDRESS_1, BAR >> 32, 4);
			fake_write(&f.vm, CONFIG + PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
		}
		assert_true(f.e->starts > 1);
		fake_driver_probe(&f.d);
		echo_request(&f, "still here");
		fake_kick(&f.d, 0);
		assert_true(fake_wait_used(&f.d, 0, &used));
		echo_end(&f);
	}
}

int main(void)
{
	enum loop_backend backends[] = { LOOP_AUTO, LOOP_EPOLL };
	int failed = 0;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(backends); i++) {
		const struct CMUnitTest tests[] = {
			cmocka_unit_test_prestate(random_requests_all_come_back, &backends[i]),
			cmocka_unit_test_prestate(vcpu_and_loop_on_two_threads, &backends[i]),
			cmocka_unit_test_prestate(vandals_do_no_harm_that_a_reset_does_not_mend,
						  &backends[i]),
		};

		failed += cmocka_run_group_tests(tests, NULL, NULL);
	}
	return failed;
}
