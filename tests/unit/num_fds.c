#include "tests/unit/num_fds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <unistd.h>

#include "vmm/core/loop.h"

unsigned num_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned num = 0;

	assert_non_null(dir);
	while (readdir(dir))
		num++;
	closedir(dir);
	/* Itself, ".." and the directory's own. */
	return num - 3;
}

void no_fds_left(struct rlimit *ret_before)
{
	struct rlimit none;
	int next = dup(0);

	assert_true(next >= 0);
	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, ret_before), 0);
	none = (struct rlimit){ next, ret_before->rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
}

unsigned rounds_without_fds(struct loop *loop)
{
	struct rlimit before;
	unsigned n = 0;

	no_fds_left(&before);
	for (unsigned i = 0; i < 30; i++)
		n += loop_run_once(loop, NSEC_PER_MSEC) > 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	return n;
}
