/* vCPU threads: asked to pause, to run and to end, in any order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/fake_hv.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/vcpu.h"

#define NUM_VCPUS 3

struct vcpus {
	struct hv *hv;
	struct loop *loop;
	struct vcpu_set set;
	unsigned settled;
	unsigned alive_then, running_then; /* when the last one settled */
};

static int setup(void **state)
{
	static struct vcpus v;
	static struct machine_config config;
	static struct machine machine = { .config = &config };
	struct fake_hv_params hv = { 0 };
	struct loop_params loop = { .name = "test" };
	struct error err = { 0 };

	memset(&v, 0, sizeof(v));
	v.hv = fake_hv_create(&hv);
	assert_int_equal(loop_create(&v.loop, &loop, &err), 0);
	assert_int_equal(vcpu_set_init(&v.set, &machine, v.hv, v.loop, NUM_VCPUS, &err), 0);
	*state = &v;
	return 0;
}

static int teardown(void **state)
{
	struct vcpus *v = *state;

	vcpu_set_done(&v->set);
	loop_free(v->loop);
	v->hv->ops->free(v->hv);
	return 0;
}

static void has_settled(void *arg)
{
	struct vcpus *v = arg;

	pthread_mutex_lock(&v->set.lock);
	v->alive_then = v->set.alive;
	v->running_then = v->set.running;
	pthread_mutex_unlock(&v->set.lock);
	v->settled++;
}

static void run_until_settled(struct vcpus *v, unsigned times)
{
	while (v->settled < times)
		loop_run_once(v->loop, UINT64_MAX);
}

/* Without the loop: what they post stays undelivered. */
static void wait_until_parked(struct vcpus *v)
{
	unsigned running;

	do {
		sched_yield();
		pthread_mutex_lock(&v->set.lock);
		running = v->set.running;
		pthread_mutex_unlock(&v->set.lock);
	} while (running);
}

static void start(struct vcpus *v, enum vcpu_want want)
{
	struct error err = { 0 };

	assert_int_equal(vcpu_set_start(&v->set, want, &err), 0);
}

static void finish(struct vcpus *v)
{
	unsigned before = v->settled;

	vcpu_set_want(&v->set, VCPU_QUIT, has_settled, v);
	run_until_settled(v, before + 1);
	assert_int_equal(v->alive_then, 0);
	vcpu_set_join(&v->set);
}

static void end_does_not_take_an_earlier_pause_for_its_own(void **state)
{
	struct vcpus *v = *state;

	start(v, VCPU_RUN);
	vcpu_set_want(&v->set, VCPU_PAUSE, has_settled, v);
	wait_until_parked(v);
	finish(v);
	assert_int_equal(v->settled, 1);
}

static void pause_settles_again_while_some_have_not_woken(void **state)
{
	struct vcpus *v = *state;

	start(v, VCPU_RUN);
	for (unsigned i = 1; i <= 200; i++) {
		vcpu_set_want(&v->set, VCPU_PAUSE, has_settled, v);
		run_until_settled(v, i);
		assert_int_equal(v->running_then, 0);
		vcpu_set_want(&v->set, VCPU_RUN, NULL, NULL);
	}
	finish(v);
}

static void resumed_before_it_settled_says_nothing(void **state)
{
	struct vcpus *v = *state;

	start(v, VCPU_RUN);
	vcpu_set_want(&v->set, VCPU_PAUSE, has_settled, v);
	wait_until_parked(v);
	vcpu_set_want(&v->set, VCPU_RUN, NULL, NULL);
	loop_run_once(v->loop, 0);
	assert_int_equal(v->settled, 0);
	finish(v);
}

static void never_started_ones_settle_at_once_each_time(void **state)
{
	struct vcpus *v = *state;

	vcpu_set_want(&v->set, VCPU_PAUSE, has_settled, v);
	run_until_settled(v, 1);
	finish(v);
	assert_int_equal(v->settled, 2);
}

static void started_paused_they_settle_without_a_kick(void **state)
{
	struct vcpus *v = *state;

	start(v, VCPU_PAUSE);
	vcpu_set_want(&v->set, VCPU_PAUSE, has_settled, v);
	run_until_settled(v, 1);
	assert_int_equal(v->running_then, 0);
	finish(v);
}

static int second_cannot_begin(struct hv_vcpu *vcpu)
{
	static _Atomic unsigned begun;

	return atomic_fetch_add(&begun, 1) % NUM_VCPUS == 1 ? -EAGAIN : 0;
}

static void one_that_cannot_begin_is_waited_for(void **state)
{
	struct vcpus *v = *state;
	const struct hv_ops *all = v->hv->ops;
	struct hv_ops ops = *all;
	struct error err = { 0 };

	start(v, VCPU_PAUSE);
	assert_int_equal(vcpu_set_await_parked(&v->set, &err), 0);
	assert_int_equal(v->set.running, 0);
	assert_int_equal(v->set.alive, NUM_VCPUS);
	finish(v);

	ops.vcpu_begin = second_cannot_begin;
	v->hv->ops = &ops;
	v->set.machine->loop = v->loop;
	start(v, VCPU_PAUSE);
	assert_int_equal(vcpu_set_await_parked(&v->set, &err), -EAGAIN);
	assert_int_equal(err.kind, ERROR_START);
	vcpu_set_join(&v->set);
	assert_int_equal(v->set.alive, 0);
	v->hv->ops = all;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(end_does_not_take_an_earlier_pause_for_its_own),
		TEST(pause_settles_again_while_some_have_not_woken),
		TEST(resumed_before_it_settled_says_nothing),
		TEST(never_started_ones_settle_at_once_each_time),
		TEST(started_paused_they_settle_without_a_kick),
		TEST(one_that_cannot_begin_is_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
