/*
 * `wisp doctor`: what this host can do for microVMs, and how to mend what it
 * cannot. Looks, and changes nothing.
 */
#ifndef WISP_VMM_DOCTOR_H
#define WISP_VMM_DOCTOR_H

#include <stdio.h>

#include "vmm/core/util.h"

enum doctor_state {
	DOCTOR_OK,
	DOCTOR_WARN,	/* works, but something is slower or left out */
	DOCTOR_MISSING, /* not there */
};

struct doctor_line {
	enum doctor_state state;
	const char *what; /* a stable key: "io_uring" */
	char detail[200];
	const char *mend; /* what to do about it; NULL when fine or nothing helps */
};

#define DOCTOR_MAX_LINES 64

/* What was found. Zero-initialised is ready to use, but for can_run. */
struct doctor {
	struct doctor_line line[DOCTOR_MAX_LINES];
	unsigned num_lines;
	bool can_run; /* no line yet says that microVMs cannot */
};

/* Add a line; @what and @mend are kept, not copied. */
void doctor_say(struct doctor *d, enum doctor_state state, const char *what, const char *mend,
		const char *fmt, ...) __printf(5, 6);

/* doctor_kvm.c, doctor_host.c */
void doctor_check_kvm(struct doctor *d);
void doctor_check_host(struct doctor *d);

/* Of the files beneath @root, which is "" but in tests. doctor_speculation.c */
void doctor_check_speculation(struct doctor *d, const char *root);

/* For checks: the first line of a small file; false when it cannot be read. */
bool doctor_read_line(const char *path, char *buf, size_t size);

/* All lines and a verdict, as text or as one JSON object. */
void doctor_print(const struct doctor *d, FILE *out);
void doctor_print_json(const struct doctor *d, FILE *out);

/* The arguments after "doctor". Returns the exit status: 0, 126 when microVMs cannot run, 2. */
int doctor_main(int argc, char **argv);

#endif
