/*
 * Extended attributes that layers bring.
 *
 * Those that mean something to the host, or need its privileges, are kept among the user's:
 * "security.capability" as "user.wisp.security.capability". So none can do anything here; who
 * serves the tree gives them their names back (devices/fs_xattr.c).
 */
#include <linux/limits.h>
#include <stdio.h>
#include <sys/xattr.h>

#include "devices/fs.h"
#include "vmm/images/image_internal.h"

#define MAX_NAME 255

static bool starts_with(const char *name, const char *prefix)
{
	return !strncmp(name, prefix, strlen(prefix));
}

/* What an overlay has noted for itself tells another one lies. */
static bool is_overlays(const char *name)
{
	return starts_with(name, "trusted.overlay.") || starts_with(name, "user.overlay.");
}

static void remove_all(int fd)
{
	char names[XATTR_LIST_MAX];
	ssize_t len = flistxattr(fd, names, sizeof(names));

	for (const char *p = names; len > 0 && p < names + len; p += strlen(p) + 1)
		if (starts_with(p, "user."))
			(void)fremovexattr(fd, p);
}

void image_tree_set_xattrs(struct image_tree *t, int fd, const struct tar_member *m)
{
	struct tar_xattr x;
	char name[MAX_NAME + 1];

	if (t->xattrs)
		remove_all(fd);
	for (size_t at = 0; tar_next_xattr(m, &at, &x);) {
		const char *prefix = starts_with(x.name, "user.") ? "" : FS_KEPT_XATTR;

		if (!*x.name || is_overlays(x.name) || starts_with(x.name, FS_KEPT_XATTR))
			continue;
		if (snprintf(name, sizeof(name), "%s%s", prefix, x.name) < (int)sizeof(name) &&
		    fsetxattr(fd, name, x.value, x.len, 0) == 0)
			t->xattrs++;
		else
			t->xattrs_lost++;
	}
}
