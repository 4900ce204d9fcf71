#include "vmm/core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/text.h"

/* A message that was cut off says so. */
static void mark_cut(char *text, size_t size, int len)
{
	if (len >= 0 && (size_t)len >= size)
		memcpy(text + size - sizeof("..."), "...", sizeof("..."));
}

static void set_message(struct error *err, int r, const char *fmt, va_list ap)
{
	int saved = errno;

	err->code = r;
	/* "%m" is the text of errno: make it the text of @r. */
	errno = r < 0 ? -r : r;
	mark_cut(err->msg, sizeof(err->msg), vsnprintf(err->msg, sizeof(err->msg), fmt, ap));
	errno = saved;
}

int error_set(struct error *err, int r, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return r;
	va_start(ap, fmt);
	set_message(err, r, fmt, ap);
	va_end(ap);
	return r;
}

int error_usage(struct error *err, int r, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return r;
	err->kind = ERROR_USAGE;
	va_start(ap, fmt);
	set_message(err, r, fmt, ap);
	va_end(ap);
	return r;
}

int error_kind_set(struct error *err, enum error_kind kind, int r, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return r;
	err->kind = kind;
	va_start(ap, fmt);
	set_message(err, r, fmt, ap);
	va_end(ap);
	return r;
}

void error_hint(struct error *err, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	vsnprintf(err->hint, sizeof(err->hint), fmt, ap);
	va_end(ap);
}

void error_prefix(struct error *err, const char *fmt, ...)
{
	char msg[sizeof(err->msg)];
	va_list ap;
	int len;

	if (!err)
		return;
	memcpy(msg, err->msg, sizeof(msg));
	va_start(ap, fmt);
	len = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	if (len < 0 || (size_t)len >= sizeof(err->msg))
		return;
	/* Cut at the end when it does not fit: what comes first names the place. */
	mark_cut(err->msg, sizeof(err->msg),
		 len + snprintf(err->msg + len, sizeof(err->msg) - len, ": %s", msg));
}

int error_status(const struct error *err)
{
	switch (err->kind) {
	case ERROR_USAGE:
		return 2;
	case ERROR_START:
		return 125;
	case ERROR_REFUSED:
		return 126;
	case ERROR_OTHER:
		break;
	}
	return 1;
}

/*
 * Names of files that a guest made, and what another host says, are in messages: they must not move
 * the cursor or forge a line.
 */
static void print_line(const char *head, const char *text)
{
	char line[sizeof(((struct error *)NULL)->msg)];

	text_printable(line, sizeof(line), text, sizeof(line));
	fprintf(stderr, "wisp: %s%s\n", head, line);
}

void error_print(const struct error *err)
{
	print_line("", err->msg);
	if (err->hint[0])
		print_line("hint: ", err->hint);
}
