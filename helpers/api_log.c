/* The log, in Firecracker's format. */
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "helpers/api.h"

/* In order of what they let through. */
static const char *const levels[] = { "Off", "Error", "Warning", "Info", "Debug", "Trace" };

static unsigned level_of(const char *name)
{
	for (unsigned i = 0; name && i < ARRAY_SIZE(levels); i++)
		if (!strcasecmp(levels[i], name))
			return i;
	return name && !strcasecmp(name, "warn") ? 2 : 3;
}

void api_log(struct api *api, const char *level, const char *fmt, ...)
{
	char text[800], line[1000];
	struct timespec now;
	struct tm tm;
	va_list ap;
	int n;

	if (level_of(level) > level_of(api->options.level))
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
	n = snprintf(line, sizeof(line), "%04d-%02d-%02dT%02d:%02d:%02d.%09ld [%s:main%s%s] %s\n",
		     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
		     now.tv_nsec, api->options.id, api->options.show_level ? ":" : "",
		     api->options.show_level ? level : "", text);
	/* Nobody can be told that the log is full. */
	if (write(api->log_fd, line, MIN((size_t)n, sizeof(line) - 1)) < 0)
		return;
}
