/* The log, in Firecracker's format. */
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "helpers/api.h"

uint64_t api_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* In order of what they let through. */
static const char *const levels[] = { "Off", "Error", "Warning", "Info", "Debug", "Trace" };

static unsigned level_of(const char *name)
{
	for (unsigned i = 0; name && i < ARRAY_SIZE(levels); i++)
		if (!strcasecmp(levels[i], name))
			return i;
	return name && !strcasecmp(name, "warn") ? 2 : 3;
}

bool api_logs(const struct api *api, const char *level)
{
	return level_of(level) <= level_of(api->options.level);
}

const char *api_quote(char *buf, size_t size, const char *text, size_t len)
{
	static const char special[] = "\n\r\t\"\\", letter[] = "nrt\"\\";
	size_t at = 0;

	buf[at++] = '"';
	/* Room for a character in two bytes, the quote and the end. */
	for (size_t i = 0; i < len && at + 4 <= size; i++) {
		const char *s = memchr(special, text[i], sizeof(special) - 1);

		if (s)
			buf[at++] = '\\';
		buf[at++] = s ? letter[s - special] : text[i];
	}
	buf[at++] = '"';
	buf[at] = '\0';
	return buf;
}

/* What of a line's tag was asked for: ":INFO:helpers/api_answer.c:347". */
static void say_origin(const struct api *api, const char *level, const char *file, int number,
		       char *tag, size_t size)
{
	static const char *const said[] = { "OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE" };
	char origin[80] = "";

	if (api->options.show_origin)
		snprintf(origin, sizeof(origin), ":%s:%d", file, number);
	snprintf(tag, size, "%s%s%s", api->options.show_level ? ":" : "",
		 api->options.show_level ? said[level_of(level)] : "", origin);
}

void api_log_at(struct api *api, const char *file, int number, const char *level, const char *fmt,
		...)
{
	char text[4096], line[4400], tag[100];
	struct timespec now;
	struct tm tm;
	va_list ap;
	int n;

	if (!api_logs(api, level))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* One line each, whatever a client sent. */
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	say_origin(api, level, file, number, tag, sizeof(tag));
	n = snprintf(line, sizeof(line), "%04d-%02d-%02dT%02d:%02d:%02d.%09ld [%s:main%s] %s\n",
		     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
		     now.tv_nsec, api->options.id, tag, text);
	/* Nobody can be told that the log is full. */
	if (write(api->log_fd, line, MIN((size_t)n, sizeof(line) - 1)) < 0)
		return;
}
