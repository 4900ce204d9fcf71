#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"

/* A guest that follows a list of steps, one letter each. */
struct script {
	const char *steps;
	uint64_t read_back;
	struct hv *hv;
};

static enum fake_step follow(void *arg, unsigned vcpu, struct hv_exit *exit)
{
	struct script *s = arg;

	switch (*s->steps ? *s->steps++ : 'h') {
	case 'r':
		return fake_mmio_read(exit, 0x1000, 4);
	case 'w':
		return fake_mmio_write(exit, 0x1000, 4, 0x55);
	case 'd':
		return fake_mmio_write(exit, 0x2000, 2, 7); /* the doorbell */
	case 'e':
		return fake_mmio_write(exit, 0x2000, 2, 8); /* not its value */
	case 'p':
		return fake_pio_write(exit, 0x3f8, 1, 'x');
	case 'i': /* wait for an interrupt */
		if (fake_hv_interrupts(s->hv, 5))
			return FAKE_STEP_GO_ON;
		s->steps--;
		return FAKE_STEP_HALT;
	case 'b':
		s->read_back = fake_result(exit, 4);
		return FAKE_STEP_GO_ON;
	default:
		return FAKE_STEP_HALT;
	}
}

struct fixture {
	struct script script;
	struct hv *hv;
	struct hv_vcpu *vcpu;
};

static void start(struct fixture *f, const char *steps, bool never_wait)
{
	struct fake_hv_params params = {
		.guest = follow, .arg = &f->script, .never_wait = never_wait,
	};

	f->hv = fake_hv_create(&params);
	f->script = (struct script){ .steps = steps, .hv = f->hv };
	assert_int_equal(f->hv->ops->vcpu_create(f->hv, 0, &f->vcpu, NULL), 0);
}

static void end(struct fixture *f)
{
	f->hv->ops->vcpu_free(f->vcpu);
	f->hv->ops->free(f->hv);
}

static void results_of_reads_reach_the_guest(void **state)
{
	struct fixture f;
	struct hv_exit exit;
	uint32_t answer = 0xcafe;

	start(&f, "rbw", true);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	assert_int_equal(exit.kind, HV_EXIT_MMIO_READ);
	assert_int_equal(exit.addr, 0x1000);
	memcpy(exit.data, &answer, 4);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	assert_int_equal(f.script.read_back, 0xcafe);
	assert_int_equal(exit.kind, HV_EXIT_MMIO_WRITE);
	assert_int_equal(exit.data[0], 0x55);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	assert_int_equal(exit.kind, HV_EXIT_NONE);
	end(&f);
}

static void a_kick_completes_the_access_and_holds_until_forgotten(void **state)
{
	struct fixture f;
	struct hv_exit exit;
	uint32_t answer = 0xbeef;

	start(&f, "rbp", true);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	memcpy(exit.data, &answer, 4);
	f.hv->ops->vcpu_kick(f.vcpu);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
		assert_int_equal(exit.kind, HV_EXIT_NONE);
	}
	f.hv->ops->vcpu_unkick(f.vcpu);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	assert_int_equal(exit.kind, HV_EXIT_PIO_WRITE);
	assert_int_equal(f.script.read_back, 0xbeef);
	end(&f);
}

static void doorbells_are_signalled_and_do_not_exit(void **state)
{
	struct hv_ioeventfd bell = { .addr = 0x2000, .len = 2, .match = true, .value = 7 };
	struct fixture f;
	struct hv_exit exit;
	eventfd_t count;

	start(&f, "ddep", true);
	bell.fd = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(f.hv->ops->ioeventfd(f.hv, &bell, true), 0);
	assert_int_equal(f.hv->ops->ioeventfd(f.hv, &bell, true), -EEXIST);
	assert_true(fake_hv_has_ioeventfd(f.hv, false, 0x2000, 7));
	assert_false(fake_hv_has_ioeventfd(f.hv, true, 0x2000, 7));
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	assert_int_equal(exit.addr, 0x2000); /* the other value */
	assert_int_equal(eventfd_read(bell.fd, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(f.hv->ops->ioeventfd(f.hv, &bell, false), 0);
	assert_int_equal(f.hv->ops->ioeventfd(f.hv, &bell, false), -ENOENT);
	close(bell.fd);
	end(&f);
}

static void *run_vcpu(void *arg)
{
	struct fixture *f = arg;
	struct hv_exit exit;

	assert_int_equal(f->hv->ops->vcpu_run(f->vcpu, &exit), 0);
	return (void *)(uintptr_t)exit.kind;
}

static void a_halted_vcpu_wakes_for_interrupts_and_kicks(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	struct fixture f;
	pthread_t thread;
	void *kind;

	start(&f, "ip", false);
	assert_int_equal(pthread_create(&thread, NULL, run_vcpu, &f), 0);
	assert_int_equal(f.hv->ops->irqfd(f.hv, fd, 5, true), 0);
	eventfd_write(fd, 1);
	pthread_join(thread, &kind);
	assert_int_equal((uintptr_t)kind, HV_EXIT_PIO_WRITE);

	f.script.steps = ""; /* halts for ever */
	assert_int_equal(pthread_create(&thread, NULL, run_vcpu, &f), 0);
	f.hv->ops->vcpu_kick(f.vcpu);
	pthread_join(thread, &kind);
	assert_int_equal((uintptr_t)kind, HV_EXIT_NONE);
	assert_true(fake_hv_wait_interrupts(f.hv, 5, 1, 0));
	assert_false(fake_hv_wait_interrupts(f.hv, 5, 2, 10));
	close(fd);
	end(&f);
}

static void guest_writes_are_logged_until_cleared(void **state)
{
	uint8_t *host = mmap(NULL, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t bits = 0, clear = 1 << 1;
	struct fixture f;
	char text[4];

	start(&f, "", true);
	assert_int_equal(f.hv->ops->mem_set(f.hv, 0, 0x10000, 4 * PAGE_SIZE, host,
					    HV_MEM_LOG_DIRTY), 0);
	assert_int_equal(f.hv->ops->mem_set(f.hv, 1, 0x13000, PAGE_SIZE, host, 0), -EEXIST);
	assert_int_equal(fake_hv_write(f.hv, 0x11ffe, "abc", 4), 0);
	assert_int_equal(fake_hv_read(f.hv, 0x11ffe, text, 4), 0);
	assert_string_equal(text, "abc");
	assert_string_equal((char *)host + 0x1ffe, "abc");
	assert_int_equal(fake_hv_write(f.hv, 0x13fff, "abc", 4), -EFAULT);
	assert_int_equal(f.hv->ops->dirty_get(f.hv, 0, &bits), 0);
	assert_int_equal(bits, 6);
	assert_int_equal(f.hv->ops->dirty_clear(f.hv, 0, 0, 4, &clear), 0);
	assert_int_equal(f.hv->ops->dirty_get(f.hv, 0, &bits), 0);
	assert_int_equal(bits, 4);
	assert_int_equal(f.hv->ops->mem_set(f.hv, 0, 0x10000, 4 * PAGE_SIZE, host,
					    HV_MEM_READ_ONLY), 0);
	assert_int_equal(fake_hv_write(f.hv, 0x10000, "abc", 4), -EPERM);
	assert_int_equal(f.hv->ops->dirty_get(f.hv, 0, &bits), -ENOENT);
	end(&f);
	munmap(host, 4 * PAGE_SIZE);
}

static void calls_fail_when_told_to(void **state)
{
	struct fixture f;
	struct hv_exit exit;

	start(&f, "pp", true);
	fake_hv_fail(f.hv, FAKE_HV_VCPU_RUN, 1, -EIO);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), -EIO);
	assert_int_equal(f.hv->ops->vcpu_run(f.vcpu, &exit), 0);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(results_of_reads_reach_the_guest),
		cmocka_unit_test(a_kick_completes_the_access_and_holds_until_forgotten),
		cmocka_unit_test(doorbells_are_signalled_and_do_not_exit),
		cmocka_unit_test(a_halted_vcpu_wakes_for_interrupts_and_kicks),
		cmocka_unit_test(guest_writes_are_logged_until_cleared),
		cmocka_unit_test(calls_fail_when_told_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
