/*
 * The process's log: levelled lines on stderr or a file descriptor.
 *
 * The one thing that belongs to the process and not to a machine. Lines are
 * formatted on the stack and written by one write(2), so threads never mix
 * within a line and logging never allocates. What a guest can cause to be
 * logged goes through log_limited().
 */
#ifndef WISP_CORE_LOG_H
#define WISP_CORE_LOG_H

#include "vmm/core/util.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

/* Where lines go (@fd is borrowed) and which are wanted. Call before threads exist. */
void log_setup(int fd, enum log_level max);

/* "error", "warn", "info", "debug", "trace" to a level; -EINVAL for anything else. */
int log_level_parse(const char *name, enum log_level *ret_level);

/* Would a line of @level be written? For what is dear to put together. Any thread. */
bool log_wants(enum log_level level);

/* One line, without newline, as "wisp: <level>: text". Any thread. */
void log_line(enum log_level level, const char *fmt, ...) __printf(2, 3);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_wants(LOG_DEBUG))                                                          \
			log_line(LOG_DEBUG, __VA_ARGS__);                                          \
	} while (0)

/* A budget of lines for one call site or device; zero-initialised is ready to use. */
struct log_limit {
	uint64_t window_ns; /* start of the current second */
	unsigned used;
	unsigned dropped;
};

/* At most ten lines a second per @limit; says how many it dropped when it speaks again. */
void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
	__printf(3, 4);

#endif
