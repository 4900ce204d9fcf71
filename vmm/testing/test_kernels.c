/* Which kernels are meant: images themselves, a tree that one was built in, a directory of images.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/testing/test_internal.h"

static int add(struct test_config *t, const char *path, struct error *err)
{
	if (t->num_kernels == TEST_MAX_KERNELS)
		return error_usage(err, -E2BIG, "--kernel '%s': more than %d kernels", path,
				   TEST_MAX_KERNELS);
	t->kernel[t->num_kernels] = strdup(path);
	if (!t->kernel[t->num_kernels])
		return error_set(err, -ENOMEM, "--kernel: %m");
	t->num_kernels++;
	return 0;
}

/* As distributions and `make install` name them; vmlinux may lie beside as the same once more. */
static int is_image(const struct dirent *d)
{
	return !strncmp(d->d_name, "vmlinuz", 7) || !strncmp(d->d_name, "bzImage", 7);
}

static int is_elf_image(const struct dirent *d)
{
	return !strncmp(d->d_name, "vmlinux", 7);
}

static int add_all(struct test_config *t, const char *dir, struct error *err)
{
	struct dirent **found = NULL;
	char path[PATH_MAX];
	int n = scandir(dir, &found, is_image, versionsort), r = 0;

	if (n == 0) {
		free(found);
		n = scandir(dir, &found, is_elf_image, versionsort);
	}
	if (n < 0)
		return error_usage(err, -errno, "--kernel '%s': cannot read: %m", dir);
	if (n == 0)
		r = error_usage(err, -ENOENT,
				"--kernel '%s': neither arch/x86/boot/bzImage nor vmlinuz* in it",
				dir);
	for (int i = 0; i < n; i++) {
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", dir, found[i]->d_name);
		/* /boot has links to some of them: each once. */
		if (!r && lstat(path, &st) == 0 && (S_ISREG(st.st_mode) || n == 1))
			r = add(t, path, err);
		free(found[i]);
	}
	free(found);
	return r;
}

int test_find_kernels(struct test_config *t, const char *path, struct error *err)
{
	char image[PATH_MAX];
	struct stat st;

	if (stat(path, &st) < 0)
		return error_usage(err, -errno, "--kernel '%s': cannot open: %m", path);
	if (!S_ISDIR(st.st_mode))
		return add(t, path, err);
	snprintf(image, sizeof(image), "%s/arch/x86/boot/bzImage", path);
	return access(image, R_OK) == 0 ? add(t, image, err) : add_all(t, path, err);
}
