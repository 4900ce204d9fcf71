#include "tests/unit/loop_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

static enum loop_backend tested;

bool loop_fixture_select(enum loop_backend backend)
{
	struct loop_params params = { .backend = backend, .name = "probe" };
	struct error err = { 0 };
	struct loop *probe;

	if (loop_create(&probe, &params, &err) < 0) {
		printf("[  SKIPPED ] %s\n", err.msg);
		return false;
	}
	loop_free(probe);
	tested = backend;
	return true;
}

enum loop_backend loop_fixture_backend(void)
{
	return tested;
}

int loop_fixture_run(const char *name, const struct CMUnitTest *tests, size_t num)
{
	static const struct {
		enum loop_backend backend;
		const char *name;
	} backends[] = { { LOOP_EPOLL, "epoll" }, { LOOP_URING, "io_uring" } };
	int failed = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(backends); i++) {
		char group[64];

		if (!loop_fixture_select(backends[i].backend))
			continue;
		snprintf(group, sizeof(group), "%s over %s", name, backends[i].name);
		/* What the macro of this name calls, which wants to see the array. */
		failed += _cmocka_run_group_tests(group, tests, num, NULL, NULL);
	}
	return failed;
}

struct loop *loop_fixture_create(const struct clock *clock)
{
	struct loop_params params = { .backend = tested, .clock = clock, .name = "test" };
	struct loop *loop = NULL;
	struct error err = { 0 };

	if (loop_create(&loop, &params, &err) < 0)
		fail_msg("%s", err.msg);
	return loop;
}

int loop_fixture_setup(void **state)
{
	*state = loop_fixture_create(NULL);
	return 0;
}

int loop_fixture_teardown(void **state)
{
	loop_free(*state);
	return 0;
}

void loop_fixture_record(struct loop_op *op, int res)
{
	struct loop_result *r = container_of(op, struct loop_result, op);

	r->calls++;
	r->res = res;
}

int loop_fixture_await(struct loop *loop, struct loop_result *r)
{
	for (int i = 0; i < 60 && !r->calls; i++)
		while (!r->calls && loop_run_once(loop, NSEC_PER_SEC))
			;
	assert_int_equal(r->calls, 1);
	return r->res;
}
