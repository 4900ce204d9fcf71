/* The ring of `wisp rewind`: which moments are there, and when one goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <unistd.h>

#include "vmm/cli/moments.h"

#define KEEP 3u

/* A moment is open as long as its end of the nursery's socket is: here, of a pipe. */
static void fill(struct moment *t, uint64_t at_ns, int *ret_other_end)
{
	int fds[2];

	cli_fork_init(&t->fork, NULL);
	assert_int_equal(pipe(fds), 0);
	t->fork.nursery[1] = fds[1];
	t->at_ns = at_ns;
	*ret_other_end = fds[0];
}

/* Has the other end gone? */
static bool is_gone(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	assert_true(poll(&p, 1, 0) >= 0);
	return p.revents & POLLHUP;
}

static void take(struct moments *m, uint64_t at_ns, int *ret_other_end)
{
	fill(moments_free_slot(m), at_ns, ret_other_end);
	moments_keep(m);
}

static void moments_are_there_the_latest_first(void **state)
{
	struct moments m;
	int end[10];

	(void)state;
	assert_int_equal(moments_init(&m, KEEP), 0);
	for (unsigned i = 0; i < 10; i++) {
		take(&m, i, &end[i]);
		assert_int_equal(m.num, MIN(i + 1, KEEP));
		for (unsigned k = 0; k < m.num; k++)
			assert_int_equal(moments_latest(&m, k)->at_ns, i - k);
		for (unsigned k = 0; k <= i; k++)
			assert_int_equal(is_gone(end[k]), i - k >= KEEP);
	}
	moments_done(&m);
	for (unsigned i = 0; i < 10; i++) {
		assert_true(is_gone(end[i]));
		close(end[i]);
	}
}

/* A file system that is full for a minute is no reason to forget the last seconds before it. */
static void moments_stay_while_none_can_be_taken(void **state)
{
	struct moments m;
	int end[KEEP], failed;

	(void)state;
	assert_int_equal(moments_init(&m, KEEP), 0);
	for (unsigned i = 0; i < KEEP; i++)
		take(&m, i, &end[i]);
	for (unsigned i = 0; i < 3 * KEEP; i++) {
		fill(moments_free_slot(&m), 100, &failed);
		cli_fork_done(&moments_free_slot(&m)->fork);
		assert_true(is_gone(failed));
		close(failed);
		assert_int_equal(m.num, KEEP);
		for (unsigned k = 0; k < KEEP; k++) {
			assert_false(is_gone(end[k]));
			assert_int_equal(moments_latest(&m, k)->at_ns, KEEP - 1 - k);
		}
	}
	moments_done(&m);
	for (unsigned k = 0; k < KEEP; k++)
		close(end[k]);
}

static void moments_of_one_keep_the_last(void **state)
{
	struct moments m;
	int end[2];

	(void)state;
	assert_int_equal(moments_init(&m, 1), 0);
	take(&m, 1, &end[0]);
	take(&m, 2, &end[1]);
	assert_int_equal(m.num, 1);
	assert_int_equal(moments_latest(&m, 0)->at_ns, 2);
	assert_true(is_gone(end[0]));
	assert_false(is_gone(end[1]));
	moments_done(&m);
	close(end[0]);
	close(end[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moments_are_there_the_latest_first),
		cmocka_unit_test(moments_stay_while_none_can_be_taken),
		cmocka_unit_test(moments_of_one_keep_the_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
