/* The log and the metrics, in Firecracker's formats. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/control_client.h"

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

int api_flush_metrics(struct api *api)
{
	json_t *line, *stat = NULL, *counters = NULL;
	struct timespec now;
	char *text;
	int r = 0;

	if (api->metrics_fd < 0)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	if (api->control >= 0 &&
	    control_ask(api->control, json_pack("{s:s}", "do", "stat"), NULL, 0, &stat, NULL) == 0)
		counters = json_object_get(stat, "counters");
	line = json_pack("{s:I, s:{s:I, s:I}, s:O*}", "utc_timestamp_ms",
			 (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, "api_server",
			 "requests", (json_int_t)api->requests, "failures",
			 (json_int_t)api->failures, "wisp", counters);
	json_decref(stat);
	text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	json_decref(line);
	if (!text || dprintf(api->metrics_fd, "%s\n", text) < 0)
		r = -EIO;
	free(text);
	return r;
}
