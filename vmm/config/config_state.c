#include "vmm/config/config_state.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/nbd.h"

#define SECTION "machine/config"
#define VERSION 1

/* Longer command lines than these are no command lines. */
#define MAX_ARGS      1024
#define MAX_ARG_BYTES 4096

static int check_length(const char *text, struct error *err)
{
	if (strlen(text) < MAX_ARG_BYTES)
		return 0;
	return error_set(err, -E2BIG,
			 "a guest with an argument of %zu bytes ('%.40s...') cannot be saved: %u "
			 "are the most",
			 strlen(text), text, MAX_ARG_BYTES - 1);
}

int config_check_saved(const struct machine_config *c, struct error *err)
{
	int r = c->args_dir ? check_length(c->args_dir, err) : 0;

	if (c->num_args > MAX_ARGS)
		return error_set(err, -E2BIG,
				 "a guest with %u arguments cannot be saved: %u are the most",
				 c->num_args, MAX_ARGS);
	for (unsigned i = 0; i < c->num_args && !r; i++)
		r = check_length(c->args[i], err);
	for (unsigned i = 0; i < c->num_disks && !r; i++)
		r = check_length(c->disk[i].path, err);
	return r;
}

void config_save(const struct machine_config *c, struct state_writer *w)
{
	state_begin(w, SECTION, 0, VERSION);
	/* A directory that was removed leaves relative paths that lead nowhere, as they do here. */
	state_put_string(w, c->args_dir ? c->args_dir : "/");
	state_put_u32(w, c->num_args);
	for (unsigned i = 0; i < c->num_args; i++)
		state_put_string(w, c->args[i]);
	/* Where disks are by now: a restored machine may have been told other places. */
	state_put_u32(w, c->num_disks);
	for (unsigned i = 0; i < c->num_disks; i++)
		state_put_string(w, c->disk[i].path);
	state_end(w);
}

static int make_absolute(char **path, const char *dir)
{
	char *whole;

	if (!*path || **path == '/')
		return 0;
	if (asprintf(&whole, "%s/%s", dir, *path) < 0)
		return -ENOMEM;
	free(*path);
	*path = whole;
	return 0;
}

/* Everything that names a file of the host's. */
static int make_paths_absolute(struct machine_config *c, const char *dir)
{
	char **const paths[] = { &c->kernel,	&c->initrd,	&c->cpu_template,
				 &c->serial.path, &c->console.path, &c->vsock.path };
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(paths) && !r; i++)
		r = make_absolute(paths[i], dir);
	for (unsigned i = 0; i < c->num_disks && !r; i++) {
		if (!nbd_is_uri(c->disk[i].path))
			r = make_absolute(&c->disk[i].path, dir);
		for (unsigned k = 0; k < c->disk[i].num_backing && !r; k++)
			r = make_absolute(&c->disk[i].backing[k], dir);
	}
	for (unsigned i = 0; i < c->num_pmems && !r; i++)
		r = make_absolute(&c->pmem[i].path, dir);
	for (unsigned i = 0; i < c->num_shares && !r; i++)
		r = make_absolute(&c->share[i].path, dir);
	for (unsigned i = 0; i < c->num_nets && !r; i++)
		/* A name without a slash is looked up in the run directory. */
		if (c->net[i].switch_name && strchr(c->net[i].switch_name, '/'))
			r = make_absolute(&c->net[i].switch_name, dir);
	return r;
}

static void forget(char **s)
{
	free(*s);
	*s = NULL;
}

/* What was said about that run does not hold for this one. */
static int forget_run(struct machine_config *c)
{
	forget(&c->metrics_file);
	forget(&c->log_file);
	forget(&c->run_dir);
	c->log_level = LOG_WARN;
	c->timeout_seconds = 0;
	c->detach = c->dry_run = c->json = false;
	forget(&c->name);
	return asprintf(&c->name, "vm%d", getpid()) < 0 ? -ENOMEM : 0;
}

/* What the section holds, on its way into a configuration. */
struct saved_config {
	char dir[PATH_MAX];
	char *args[MAX_ARGS];
	unsigned num_args;
	char *disk[CONFIG_MAX_DISKS]; /* paths */
	unsigned num_disks;
};

static int read_string(struct state_reader *r, char **ret)
{
	char text[MAX_ARG_BYTES];

	state_get_string(r, text, sizeof(text));
	if (r->failed)
		return 0;
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

static int read_saved(struct state_reader *r, struct saved_config *s)
{
	uint32_t num;
	int ret = 0;

	state_get_string(r, s->dir, sizeof(s->dir));
	if (!r->failed && *s->dir != '/')
		state_reader_fail(r, "directory '%s'", s->dir);
	num = state_get_u32(r);
	if (num > MAX_ARGS)
		state_reader_fail(r, "%u arguments", num);
	for (unsigned i = 0; i < num && !r->failed && !ret; i++, s->num_args++)
		ret = read_string(r, &s->args[i]);
	num = state_get_u32(r);
	if (num > CONFIG_MAX_DISKS)
		state_reader_fail(r, "%u disks", num);
	for (unsigned i = 0; i < num && !r->failed && !ret; i++, s->num_disks++)
		ret = read_string(r, &s->disk[i]);
	return ret;
}

static int use_disk_paths(struct machine_config *c, struct saved_config *s, struct error *err)
{
	if (s->num_disks != c->num_disks)
		return error_set(err, -EBADMSG,
				 "saved state: section '" SECTION "': %u disks instead of %u",
				 s->num_disks, c->num_disks);
	for (unsigned i = 0; i < c->num_disks; i++) {
		free(c->disk[i].path);
		c->disk[i].path = s->disk[i];
		s->disk[i] = NULL;
	}
	return 0;
}

static void free_saved(struct saved_config *s)
{
	for (unsigned i = 0; s && i < MAX_ARGS; i++)
		free(s->args[i]);
	for (unsigned i = 0; s && i < CONFIG_MAX_DISKS; i++)
		free(s->disk[i]);
	free(s);
}

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "configuration: %m");
}

int config_load_args(struct machine_config *c, unsigned num, char *const *args, const char *dir,
		     struct error *err)
{
	int r = config_parse_run(c, num, args, err);

	if (r < 0)
		return r;
	free(c->args_dir);
	c->args_dir = strdup(dir);
	if (!c->args_dir || make_paths_absolute(c, dir) < 0 || forget_run(c) < 0)
		return no_memory(err);
	return 0;
}

int config_load(struct machine_config *c, struct state_set *state, struct error *err)
{
	struct saved_config *s = calloc(1, sizeof(*s));
	struct state_reader r;
	int ret;

	if (!s)
		return no_memory(err);
	ret = state_set_take(state, SECTION, 0, VERSION, &r, err);
	if (!ret && read_saved(&r, s) < 0)
		ret = no_memory(err);
	if (!ret)
		ret = state_reader_end(&r, err);
	if (!ret)
		ret = config_load_args(c, s->num_args, s->args, s->dir, err);
	if (!ret)
		ret = use_disk_paths(c, s, err);
	if (!ret && make_paths_absolute(c, s->dir) < 0)
		ret = no_memory(err);
	free_saved(s);
	return ret;
}
