/*
 * A loop to test, on whichever back end is being tested. What fails here fails the cmocka test that
 * called it.
 */
#ifndef WISP_TESTS_LOOP_FIXTURE_H
#define WISP_TESTS_LOOP_FIXTURE_H

#include "vmm/core/loop.h"

/* Tests are of @backend from here on. False, and says why, where the host does not have it. */
bool loop_fixture_select(enum loop_backend backend);

enum loop_backend loop_fixture_backend(void);

struct CMUnitTest;

/* Run @num tests once on each back end that the host has. Returns how many failed. */
int loop_fixture_run(const char *name, const struct CMUnitTest *tests, size_t num);

/* A loop by @clock; NULL: the real one. */
struct loop *loop_fixture_create(const struct clock *clock);

/* Such a loop as the *state of a test that loop_test() names. */
int loop_fixture_setup(void **state);
int loop_fixture_teardown(void **state);

#define loop_test(name)                                                                            \
	cmocka_unit_test_setup_teardown(name, loop_fixture_setup, loop_fixture_teardown)

/* An operation and what came of it. */
struct loop_result {
	struct loop_op op;
	unsigned calls;
	int res;
};

#define LOOP_RESULT { .op.done = loop_fixture_record }

void loop_fixture_record(struct loop_op *op, int res);

/* Run until @r is complete; a minute without it is a failure. Returns its result. */
int loop_fixture_await(struct loop *loop, struct loop_result *r);

#endif
