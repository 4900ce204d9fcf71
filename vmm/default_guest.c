#include "vmm/default_guest.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const places[] = { "guests/default", "../share/wisp/default" };

int executable_dir(char *dir, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", dir, size - 1);
	char *slash;

	if (n < 0)
		return -errno;
	dir[n] = '\0';
	slash = strrchr(dir, '/');
	if (slash)
		*slash = '\0';
	return 0;
}

int default_guest_find(struct machine_config *c, struct error *err)
{
	char dir[PATH_MAX], kernel[PATH_MAX + 64], initrd[PATH_MAX + 64];
	int r;

	if (c->kernel || c->firmware)
		return 0;
	r = executable_dir(dir, sizeof(dir));
	if (r < 0)
		return error_set(err, r, "/proc/self/exe: %m");
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		/* Uncompressed: no decompressor runs, and most of it is mapped, not copied. */
		snprintf(kernel, sizeof(kernel), "%s/%s/vmlinux", dir, places[i]);
		if (access(kernel, R_OK) < 0)
			continue;
		c->kernel = strdup(kernel);
		if (!c->kernel)
			return error_set(err, -ENOMEM, "default guest: %m");
		if (c->initrd)
			return 0;
		snprintf(initrd, sizeof(initrd), "%s/%s/initrd", dir, places[i]);
		c->initrd = strdup(initrd);
		return c->initrd ? 0 : error_set(err, -ENOMEM, "default guest: %m");
	}
	error_usage(err, -ENOENT, "--kernel: none given, and there is no default guest beside %s",
		    dir);
	error_hint(err, "make one with 'make guest', or give --kernel and --initrd");
	return -ENOENT;
}
