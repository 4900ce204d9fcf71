#include "tests/unit/config_line.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#define MAX_ARGS 40

void line_parse(struct line *m, const char *line)
{
	char *copy = strdup(line), *argv[MAX_ARGS], *save;
	int argc = 0;

	assert_non_null(copy);
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		assert_true(argc < MAX_ARGS);
		for (char *s = w; *s; s++)
			if (*s == '~')
				*s = ' ';
		argv[argc++] = w;
	}
	memset(&m->err, 0, sizeof(m->err));
	config_init(&m->config);
	m->r = config_parse_run(&m->config, argc, argv, &m->err);
	if (!m->r)
		m->r = config_validate(&m->config, &m->err);
	free(copy);
}

void line_take(struct line *m, const char *line)
{
	line_parse(m, line);
	if (m->r)
		fail_msg("'%s' was refused: %s", line, m->err.msg);
}

void line_refuse(const char *line, const char *message)
{
	struct line m;

	line_parse(&m, line);
	assert_true(m.r < 0);
	assert_string_equal(m.err.msg, message);
	assert_int_equal(error_status(&m.err), 2);
	config_done(&m.config);
}
