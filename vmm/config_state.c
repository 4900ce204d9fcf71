#include "vmm/config_state.h"

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

void config_save(const struct machine_config *c, struct state_writer *w)
{
	state_begin(w, SECTION, 0, VERSION);
	/* A directory that was removed leaves relative paths that lead nowhere, as they do here. */
	state_put_string(w, c->args_dir ? c->args_dir : "/");
	state_put_u32(w, c->num_args);
	for (unsigned i = 0; i < c->num_args; i++)
		state_put_string(w, c->args[i]);
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
	char **const paths[] = { &c->kernel, &c->initrd, &c->serial.path, &c->console.path,
				 &c->vsock.path };
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(paths) && !r; i++)
		r = make_absolute(paths[i], dir);
	for (unsigned i = 0; i < c->num_disks && !r; i++) {
		if (!nbd_is_uri(c->disk[i].path))
			r = make_absolute(&c->disk[i].path, dir);
		for (unsigned k = 0; k < c->disk[i].num_backing && !r; k++)
			r = make_absolute(&c->disk[i].backing[k], dir);
	}
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

static int read_args(struct state_reader *r, char *cwd, size_t size, char **args, unsigned *ret_num)
{
	char arg[MAX_ARG_BYTES];
	uint32_t num;

	state_get_string(r, cwd, size);
	num = state_get_u32(r);
	if (!r->failed && *cwd != '/')
		state_reader_fail(r, "directory '%s'", cwd);
	if (num > MAX_ARGS)
		state_reader_fail(r, "%u arguments", num);
	for (unsigned i = 0; i < num && !r->failed; i++) {
		state_get_string(r, arg, sizeof(arg));
		args[i] = strdup(arg);
		if (!args[i])
			return -ENOMEM;
		(*ret_num)++;
	}
	return 0;
}

int config_load(struct machine_config *c, struct state_set *state, struct error *err)
{
	char **args = calloc(MAX_ARGS, sizeof(*args));
	char cwd[PATH_MAX];
	struct state_reader r;
	unsigned num = 0;
	int ret = state_set_take(state, SECTION, 0, VERSION, &r, err);

	if (ret < 0)
		goto out;
	if (!args || read_args(&r, cwd, sizeof(cwd), args, &num) < 0) {
		ret = error_set(err, -ENOMEM, "configuration: %m");
		goto out;
	}
	ret = state_reader_end(&r, err);
	if (!ret)
		ret = config_parse_run(c, num, args, err);
	if (!ret && (forget_run(c) < 0 || make_paths_absolute(c, cwd) < 0))
		ret = error_set(err, -ENOMEM, "configuration: %m");
out:
	for (unsigned i = 0; i < num; i++)
		free(args[i]);
	free(args);
	return ret;
}
