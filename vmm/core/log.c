#include "vmm/core/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "vmm/core/clock.h"

/* Longer lines are cut: nothing a guest can cause grows beyond it. */
#define LINE_BYTES 1024

#define LIMIT_LINES_PER_SECOND 10

/* The process's one log; set before threads exist, read-only afterwards. */
static int log_fd = STDERR_FILENO;
static enum log_level log_max = LOG_WARN;

/* Guards every log_limit: a device may speak from its loop and from a vCPU. */
static pthread_mutex_t limit_lock = PTHREAD_MUTEX_INITIALIZER;

static const char *const level_names[] = {
	[LOG_ERROR] = "error", [LOG_WARN] = "warn",   [LOG_INFO] = "info",
	[LOG_DEBUG] = "debug", [LOG_TRACE] = "trace",
};

void log_setup(int fd, enum log_level max)
{
	log_fd = fd;
	log_max = max;
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
	for (unsigned i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (!strcmp(name, level_names[i])) {
			*ret_level = i;
			return 0;
		}
	}
	return -EINVAL;
}

bool log_wants(enum log_level level)
{
	return level <= log_max;
}

/* Text may come from a guest: it must not move the cursor or forge a line. */
static void make_printable(char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = s[i];

		if ((c < 0x20 && c != '\t') || c == 0x7f)
			s[i] = '?';
	}
}

static void write_line(enum log_level level, const char *fmt, va_list ap)
{
	char line[LINE_BYTES];
	int saved = errno;
	size_t len, head;
	ssize_t n;
	int r;

	head = snprintf(line, sizeof(line), "wisp: %s: ", level_names[level]);
	errno = saved; /* for "%m" */
	r = vsnprintf(line + head, sizeof(line) - head - 1, fmt, ap);
	len = head + MIN(r > 0 ? (size_t)r : 0, sizeof(line) - head - 2);
	make_printable(line + head, len - head);
	line[len++] = '\n';
	do
		n = write(log_fd, line, len);
	while (n < 0 && errno == EINTR);
	errno = saved;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if (!log_wants(level))
		return;
	va_start(ap, fmt);
	write_line(level, fmt, ap);
	va_end(ap);
}

/* May @limit speak? @ret_dropped: how many lines of earlier seconds it owes a word about. */
static bool take_turn(struct log_limit *limit, unsigned *ret_dropped)
{
	uint64_t now = clock_monotonic_ns(NULL);
	bool granted;

	pthread_mutex_lock(&limit_lock);
	*ret_dropped = 0;
	if (!limit->window_ns || now - limit->window_ns >= NSEC_PER_SEC) {
		limit->window_ns = now;
		limit->used = 0;
		*ret_dropped = limit->dropped;
		limit->dropped = 0;
	}
	granted = limit->used < LIMIT_LINES_PER_SECOND;
	if (granted)
		limit->used++;
	else
		limit->dropped++;
	pthread_mutex_unlock(&limit_lock);
	return granted;
}

void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
	unsigned dropped;
	va_list ap;

	if (!log_wants(level) || !take_turn(limit, &dropped))
		return;
	if (dropped)
		log_line(level, "%u similar lines were left out", dropped);
	va_start(ap, fmt);
	write_line(level, fmt, ap);
	va_end(ap);
}
