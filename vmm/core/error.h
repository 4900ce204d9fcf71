/*
 * An error for a person: what was attempted, on what, and why it failed.
 *
 * Functions return 0 or -errno; those that set things up also take a
 * struct error and fill it. Only the top of the program prints it. The struct
 * is plain data on the caller's stack; nothing to free.
 */
#ifndef WISP_CORE_ERROR_H
#define WISP_CORE_ERROR_H

#include "vmm/core/util.h"

/* What kind of failure it is decides the exit status (docs: wisp(1), EXIT STATUS). */
enum error_kind {
	ERROR_OTHER = 0, /* exit status 1 */
	ERROR_USAGE,	 /* 2: command line, configuration, a named file or resource */
	ERROR_START,	 /* 125: the microVM could not be started */
	ERROR_REFUSED,	 /* 126: the host refuses (no /dev/kvm, no permission) */
};

struct error {
	enum error_kind kind;
	int code;	/* -errno */
	char msg[320];	/* "disk 'a.img': cannot open: No such file or directory" */
	char hint[200]; /* one line on how to mend it, or empty */
};

/*
 * Fill @err (may be NULL) with a message and return @r, so that
 * "return error_set(err, -errno, ...)" reads well. "%m" in @fmt is the text of
 * -@r, whatever errno has become. Keeps the kind that was set before.
 */
int error_set(struct error *err, int r, const char *fmt, ...) __printf(3, 4);

/* As error_set(), for a mistake of the user's: kind becomes ERROR_USAGE. */
int error_usage(struct error *err, int r, const char *fmt, ...) __printf(3, 4);

/* As error_set(), with the kind given. */
int error_kind_set(struct error *err, enum error_kind kind, int r, const char *fmt, ...)
	__printf(4, 5);

/* Add the line that says how to mend it; replaces an earlier hint. */
void error_hint(struct error *err, const char *fmt, ...) __printf(2, 3);

/* Put "<text>: " in front of the message that is there, e.g. which option it came from. */
void error_prefix(struct error *err, const char *fmt, ...) __printf(2, 3);

/* The process exit status for @err: 1, 2, 125 or 126. */
int error_status(const struct error *err);

/* Print "wisp: msg" and, where there is one, "wisp: hint: ..." to stderr. */
void error_print(const struct error *err);

#endif
