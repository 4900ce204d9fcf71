#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <unistd.h>

#include "vmm/core/log.h"

static int in_fd, out_fd;

static int setup(void **state)
{
	int fds[2];

	if (pipe(fds) < 0)
		return -1;
	in_fd = fds[0];
	out_fd = fds[1];
	return 0;
}

static int teardown(void **state)
{
	log_setup(STDERR_FILENO, LOG_WARN);
	close(in_fd);
	close(out_fd);
	return 0;
}

/* All that was logged so far; the writing side is closed by it. */
static char *logged(char *buf, size_t size)
{
	ssize_t n;

	close(out_fd);
	n = read(in_fd, buf, size - 1);
	buf[n > 0 ? n : 0] = 0;
	return buf;
}

static void log_line_names_the_level_and_keeps_errno(void **state)
{
	char buf[256];

	log_setup(out_fd, LOG_INFO);
	errno = ENOSPC;
	log_info("disk %d: %m", 3);
	log_debug("not wanted");
	assert_int_equal(errno, ENOSPC);
	assert_string_equal(logged(buf, sizeof(buf)),
			    "wisp: info: disk 3: No space left on device\n");
}

static void log_line_cuts_long_text_and_hides_control_characters(void **state)
{
	char text[3000], buf[4096];

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	text[2] = '\n';
	text[3] = '\033';
	log_setup(out_fd, LOG_WARN);
	log_warn("%s", text);
	logged(buf, sizeof(buf));
	assert_int_equal(strlen(buf), 1023);
	assert_memory_equal(buf, "wisp: warn: xx??x", 17);
	assert_ptr_equal(strchr(buf, '\n'), buf + 1022);
}

static void log_limited_speaks_ten_times_and_owns_up_later(void **state)
{
	struct log_limit limit = { 0 };
	char buf[4096], *p;
	int lines = 0;

	log_setup(out_fd, LOG_WARN);
	for (int i = 0; i < 1000; i++)
		log_limited(&limit, LOG_WARN, "guest error %d", i);
	assert_int_equal(limit.dropped, 990);
	limit.window_ns -= NSEC_PER_SEC;
	log_limited(&limit, LOG_WARN, "last");
	logged(buf, sizeof(buf));
	for (p = buf; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 12);
	assert_non_null(strstr(buf, "990 similar lines were left out\nwisp: warn: last\n"));
}

static void log_level_parse_knows_all_and_refuses_others(void **state)
{
	enum log_level level = LOG_ERROR;

	assert_int_equal(log_level_parse("trace", &level), 0);
	assert_int_equal(level, LOG_TRACE);
	assert_int_equal(log_level_parse("Trace", &level), -EINVAL);
	assert_int_equal(log_level_parse("", &level), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(log_line_names_the_level_and_keeps_errno, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			log_line_cuts_long_text_and_hides_control_characters, setup, teardown),
		cmocka_unit_test_setup_teardown(log_limited_speaks_ten_times_and_owns_up_later,
						setup, teardown),
		cmocka_unit_test(log_level_parse_knows_all_and_refuses_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
