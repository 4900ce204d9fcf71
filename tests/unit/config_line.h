/*
 * One configuration made from the words of a command line, for unit tests.
 *
 *	line_take(&m, "--cpus 2 disk.img,ro");
 *	assert_int_equal(m.config.cpus, 2);
 *	config_done(&m.config);
 *	line_refuse("--cpus 0", "--cpus: 0 is out of range (1 to 255)");
 */
#ifndef WISP_TESTS_CONFIG_LINE_H
#define WISP_TESTS_CONFIG_LINE_H

#include "vmm/config/config.h"

struct line {
	struct machine_config config;
	struct error err;
	int r; /* what parsing, and then checking it, returned */
};

/* Parse "a b c" split at spaces; a word may hold '~' for a space. config_done() is the caller's. */
void line_parse(struct line *m, const char *line);

/* The same, which has to be a good one (cmocka). */
void line_take(struct line *m, const char *line);

/* A bad one, by the user's fault, that is answered with @message. */
void line_refuse(const char *line, const char *message);

#endif
