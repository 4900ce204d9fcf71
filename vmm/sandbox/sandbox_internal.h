/*
 * Between the files of the sandbox, one for each layer. Nobody else includes it.
 */
#ifndef WISP_VMM_SANDBOX_INTERNAL_H
#define WISP_VMM_SANDBOX_INTERNAL_H

#include <linux/filter.h>

#include "vmm/sandbox/sandbox.h"

/*
 * A @layer cannot be had because of -@r, "%m" of which is in @why: a word in the log and 0, or
 * with SANDBOX_STRICT an error.
 */
int sandbox_missing(const struct sandbox *s, int r, const char *layer, struct error *err);

/* Each: 0, -errno with what it is in @err, or what sandbox_missing() said. */
int sandbox_enter_namespaces(struct sandbox *s, struct error *err);
int sandbox_empty_root(struct sandbox *s, struct error *err);
int sandbox_landlock(struct sandbox *s, struct error *err);
/* For a helper: files beneath these directories may be read, the network is free. 0 or -errno. */
int sandbox_landlock_readable(const char *const *readable);
int sandbox_check_seccomp(struct sandbox *s, struct error *err);

/* Made from the tables in vmm/seccomp/ by its generate.c. */
struct sandbox_filter {
	const struct sock_filter *filter;
	unsigned short len;
};

extern const struct sandbox_filter sandbox_filters[SANDBOX_NUM_THREADS];

#endif
