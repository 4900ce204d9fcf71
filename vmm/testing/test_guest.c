/* The guest of `wisp test`: its machine, and the initial file system that is made for it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/default_guest.h"
#include "vmm/helper.h"
#include "vmm/images/image.h"
#include "vmm/testing/cpio.h"
#include "vmm/testing/modules.h"
#include "vmm/testing/test_internal.h"

#define MAX_FILES 64
/* Of all modules: beyond it somebody wants to fill the host's memory. */
#define MAX_MODULES (1 * GiB)

/* Devices of every such guest, whatever else it has. */
static const char *const drivers[] = {
	"virtio_console", "virtiofs", "overlay", "pvpanic-mmio", "virtio_blk", "virtio_net",
};

/* ---- the machine ---- */

static int add_root_share(const struct test_config *t, struct machine_config *c, struct error *err)
{
	struct config_share *s = &c->share[c->num_shares];

	if (c->num_shares == CONFIG_MAX_SHARES)
		return error_usage(err, -ENOSPC, "--share: no room left for the root");
	*s = (struct config_share){
		.path = strdup(t->root),
		.tag = strdup(TEST_ROOT_TAG),
		.id = strdup(TEST_ROOT_TAG),
		.read_only = !t->write_through,
		/* An overlay takes what is below it for unchanging, and asks a lot about it. */
		.cache = t->write_through ? FS_CACHE_AUTO : FS_CACHE_ALWAYS,
		.xattr = t->write_through || (t->is_image && image_has_xattrs(t->root)),
		.is_image = t->is_image,
	};
	c->num_shares++;
	return s->path && s->tag && s->id ? 0 : error_set(err, -ENOMEM, "test: %m");
}

bool test_log_is_read(const struct test_config *t)
{
	return t->verbose || t->dmesg;
}

/* The log goes to the serial port, which every kernel can write to from early on. */
static int make_cmdline(const struct test_config *t, bool tty, struct machine_config *c,
			struct error *err)
{
	char *words, *whole;

	if (c->cmdline_only)
		return error_usage(err, -EINVAL, "--cmdline-only: not for a test");
	/*
	 * Of the boot, errors; all of it only when somebody reads it: each byte is an exit. To an
	 * NMI it answers with a trace of where it hangs, on all processors.
	 */
	if (asprintf(&words, "loglevel=%d earlyprintk=ttyS0 unknown_nmi_panic%s%s rdinit=/init%s%s",
		     test_log_is_read(t) ? 8 : 4, c->cpus > 1 ? " panic_print=64" : "",
		     /* The tree's disks are not there. */
		     t->systemd ? " fstab=no" : "", c->cmdline ? " " : "",
		     c->cmdline ? c->cmdline : "") < 0)
		return error_set(err, -ENOMEM, "command line: %m");
	free(c->cmdline);
	c->cmdline = words;
	c->serial_present = true;
	c->serial.kind = CHARDEV_NULL;
	/* A console is for the command alone: the kernel does not hear of it. */
	c->console_present = false;
	whole = config_cmdline(c);
	if (!whole)
		return error_set(err, -ENOMEM, "command line: %m");
	free(c->cmdline);
	c->cmdline = whole;
	c->cmdline_only = true;
	c->console_present = tty;
	c->console.kind = CHARDEV_STDIO;
	return 0;
}

/* One of several at a time must not have the name of another. */
static int set_name(struct machine_config *c, unsigned index, struct error *err)
{
	char *name;

	if (asprintf(&name, "test%d-%u", getpid(), index) < 0)
		return error_set(err, -ENOMEM, "test: %m");
	free(c->name);
	c->name = name;
	return 0;
}

/* Nor must its core file. */
static int set_core(const struct test_config *t, struct machine_config *c, unsigned index,
		    struct error *err)
{
	char *path;

	if (!c->core_file || t->num_kernels < 2)
		return 0;
	if (asprintf(&path, "%s.%u", c->core_file, index + 1) < 0)
		return error_set(err, -ENOMEM, "--core: %m");
	free(c->core_file);
	c->core_file = path;
	return 0;
}

int test_guest_config(const struct test_config *t, const char *kernel, unsigned index, bool tty,
		      struct machine_config *c, struct error *err)
{
	int r;

	config_init(c);
	r = config_parse_run(c, (int)t->num_run_args, t->run_arg, err);
	if (!r && kernel) {
		c->kernel = strdup(kernel);
		r = c->kernel ? 0 : error_set(err, -ENOMEM, "--kernel: %m");
	}
	if (!r)
		r = set_name(c, index, err);
	if (!r)
		r = set_core(t, c, index, err);
	if (!r)
		r = add_root_share(t, c, err);
	if (!r)
		r = config_validate(c, err);
	if (!r)
		r = default_guest_find(c, err);
	if (!r)
		r = make_cmdline(t, tty, c, err);
	/* What it boots into is made here. */
	free(c->initrd);
	c->initrd = NULL;
	c->silent = true;
	c->last_words_seconds = TEST_LAST_WORDS;
	return r;
}

/* ---- the initial file system ---- */

struct making {
	struct cpio cpio;
	const struct modules *modules;
	char *file[MAX_FILES]; /* modules that are in already */
	unsigned num_files;
	const char *tried; /* the last of them, or NULL */
	FILE *conf;
};

/* One module's file: into the archive, and a line about it. */
static int add_module(void *arg, const char *path)
{
	struct making *m = arg;
	const char *base = strrchr(path, '/');
	uint64_t size;
	char name[64];
	int fd;

	base = base ? base + 1 : path;
	for (unsigned i = 0; i < m->num_files; i++)
		if (!strcmp(m->file[i], path))
			return 0;
	if (m->num_files == MAX_FILES)
		return -ENOSPC;
	m->file[m->num_files] = strdup(path);
	if (!m->file[m->num_files])
		return -ENOMEM;
	m->tried = m->file[m->num_files++];
	fd = modules_open(m->modules, path, &size);
	if (fd < 0)
		return fd;
	if (m->cpio.size + size > MAX_MODULES) {
		close(fd);
		return -EFBIG;
	}
	snprintf(name, sizeof(name), "modules/%s", base);
	cpio_add_copy(&m->cpio, name, 0644, fd);
	close(fd);
	fprintf(m->conf, "module=/%s%c", name, 0);
	return m->cpio.failed;
}

int test_guest_drivers(const struct modules *modules, const struct machine_config *c,
		       int (*fn)(void *arg, const char *path), void *arg)
{
	int r = modules_for(modules, c->transport == CONFIG_MMIO ? "virtio_mmio" : "virtio_pci",
			    fn, arg);

	for (unsigned i = 0; i < ARRAY_SIZE(drivers) && !r; i++)
		r = modules_for(modules, drivers[i], fn, arg);
	return r;
}

static int add_modules(struct making *m, const struct machine_config *c, struct error *err)
{
	int r;

	cpio_add_dir(&m->cpio, "modules");
	r = test_guest_drivers(m->modules, c, add_module, m);
	return r < 0 ? error_set(err, r, "modules of %s in '%s', '%.100s': %m", m->modules->release,
				 m->modules->dir, m->tried ? m->tried : "modules.dep")
		     : 0;
}

static int add_init(struct cpio *c, struct error *err)
{
	char path[PATH_MAX + 64];
	int r = helper_find("wisp-init", path, sizeof(path), err), fd;

	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set(err, -errno, "'%s': cannot open: %m", path);
	/* The kernel opens it for init's standard files before there is a devtmpfs. */
	cpio_add_dir(c, "dev");
	cpio_add_copy(c, "init", 0755, fd);
	close(fd);
	return 0;
}

int test_guest_initrd(const struct test_config *t, const struct machine_config *c, bool tty,
		      bool warm, char *release, size_t release_size, struct error *err)
{
	struct modules modules;
	struct making m = { .modules = &modules };
	char *text = NULL;
	size_t len = 0;
	/* An image has been made by somebody for any kernel but this one. */
	int r = modules_find(&modules, c->kernel, t->is_image ? NULL : t->root, err);

	if (r < 0)
		return r;
	snprintf(release, release_size, "%s", modules.release);
	r = cpio_init(&m.cpio);
	if (r < 0) {
		modules_done(&modules);
		return error_set(err, r, "initial file system: %m");
	}
	m.conf = open_memstream(&text, &len);
	r = m.conf ? add_init(&m.cpio, err) : error_set(err, -ENOMEM, "test: %m");
	if (!r)
		r = add_modules(&m, c, err);
	if (!r && warm)
		test_plan_put_start(m.conf, t, tty);
	else if (!r)
		test_plan_put(m.conf, t, c, tty);
	if (m.conf && fclose(m.conf) && !r)
		r = error_set(err, -ENOMEM, "test: %m");
	if (!r)
		cpio_add_file(&m.cpio, "wisp.conf", 0400, text, len);
	free(text);
	for (unsigned i = 0; i < m.num_files; i++)
		free(m.file[i]);
	modules_done(&modules);
	if (r < 0) {
		close(m.cpio.fd);
		return r;
	}
	r = cpio_end(&m.cpio);
	return r < 0 ? error_set(err, r, "initial file system: %m") : r;
}
