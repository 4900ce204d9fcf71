#include "vmm/outputs.h"

#include <errno.h>
#include <sys/stat.h>

#include "devices/block.h"
#include "devices/nbd.h"

struct output {
	const char *option, *path;
	struct stat st;
};

static const char *file_of(const struct config_char *c)
{
	return c->kind == CHARDEV_FILE ? c->path : NULL;
}

static int compare(const struct output *o, const char *option, const char *path, struct error *err)
{
	struct stat st;

	if (!path || stat(path, &st) < 0 || st.st_dev != o->st.st_dev || st.st_ino != o->st.st_ino)
		return 0;
	return error_usage(err, -EINVAL, "%s: '%s' is also the file of %s", o->option, o->path,
			   option);
}

static int check(const struct output *o, const struct machine_config *c, struct error *err)
{
	int r = compare(o, "--kernel", c->kernel, err);

	if (!r)
		r = compare(o, "--initrd", c->initrd, err);
	if (!r)
		r = compare(o, "--cpu-template", c->cpu_template, err);
	for (unsigned i = 0; i < c->num_disks && !r; i++) {
		const struct config_disk *d = &c->disk[i];

		r = compare(o, "--disk", nbd_is_uri(d->path) ? NULL : d->path, err);
		for (unsigned k = 0; k < d->num_backing && !r; k++)
			r = compare(o, "--disk: backing", d->backing[k], err);
	}
	for (unsigned i = 0; i < c->num_pmems && !r; i++)
		r = compare(o, "--pmem", c->pmem[i].path, err);
	if (!r && block_path_in_use(o->path))
		r = error_usage(err, -EBUSY, "%s: '%s' is a disk in use by another process",
				o->option, o->path);
	return r;
}

int outputs_check(const struct machine_config *c, const char *save, struct error *err)
{
	struct output outputs[] = {
		{ .option = "--serial", .path = c->serial_present ? file_of(&c->serial) : NULL },
		{ .option = "--console", .path = c->console_present ? file_of(&c->console) : NULL },
		{ .option = "--metrics", .path = c->metrics_file },
		{ .option = "--core", .path = c->core_file },
		{ .option = "--log-file", .path = c->log_file },
		{ .option = "--save-config", .path = save },
	};
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(outputs) && !r; i++) {
		struct output *o = &outputs[i];

		/* What is not there yet, or no file, is nobody's. */
		if (o->path && stat(o->path, &o->st) == 0 && S_ISREG(o->st.st_mode))
			r = check(o, c, err);
	}
	return r;
}
