/* wisp restore: a snapshot's machine, with what this host calls its files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli_saved.h"
#include "vmm/cli_snapshot.h"
#include "vmm/config_state.h"
#include "vmm/default_guest.h"
#include "vmm/launch.h"
#include "vmm/machine_state.h"
#include "vmm/snapshot_chain.h"

/* ---- the verb ---- */

/* RAM that was written elsewhere than the state. */
static int use_memory_file(struct snapshot *s, const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return error_usage(err, -errno, "--memory-file '%s': cannot open: %m", path);
	if (s->base) {
		close(fd);
		return error_usage(err, -EINVAL, "--memory-file: a differential snapshot has none");
	}
	close(s->memory_fd);
	s->memory_fd = fd;
	return 0;
}

/* Everything up to the first process. */
static int prepare(struct saved_options *o, const char *path, struct snapshot_chain *chain,
		   struct machine_config *c, int *disk_fds, struct error *err)
{
	int r = snapshot_chain_open(chain, path, err);
	struct snapshot *s = snapshot_chain_last(chain);
	uint32_t given = 0;

	if (!r && o->memory_file)
		r = use_memory_file(s, o->memory_file, err);
	if (!r)
		r = machine_check_state(&s->state, err);
	if (!r)
		r = config_load(c, &s->state, err);
	if (!r)
		r = saved_options_apply(c, o, &given, err);
	if (!r)
		r = config_validate(c, err);
	if (!r)
		r = snapshot_check_memory(s, c->memory_bytes, err);
	/* A kernel is needed only when the guest is started again. */
	if (!r && c->reboot_resets)
		r = default_guest_find(c, err);
	if (!r)
		r = snapshot_disks(s, c, o->changed_disks, given, disk_fds, err);
	/* A snapshot is a file that was named, whatever is wrong with it. */
	if (r < 0 && err->kind == ERROR_OTHER)
		err->kind = ERROR_USAGE;
	return r;
}

/* Memory is that of the first one, and over it what changed until each of the others. */
static void use_chain(struct machine_image *image, struct snapshot_chain *c,
		      struct machine_layer *layers)
{
	image->state = &snapshot_chain_last(c)->state;
	image->memory_fd = c->link[0].memory_fd;
	image->layer = layers;
	for (unsigned i = 1; i < c->num; i++)
		layers[image->num_layers++] = (struct machine_layer){
			.fd = c->link[i].memory_fd,
			.pages = c->link[i].pages,
		};
}

int restore_main(int argc, char **argv)
{
	struct saved_options o = { .log_level = LOG_WARN, .sandbox = SANDBOX_ON };
	int disk_fds[CONFIG_MAX_DISKS];
	struct machine_layer layers[SNAPSHOT_MAX_LINKS];
	struct snapshot_chain chain = { 0 };
	struct machine_image image = { 0 };
	struct launch_ends ends = {
		.initrd = -1,
		.serial_out = -1,
		.image = &image,
		.disk_fds = disk_fds,
	};
	struct machine_config config;
	struct error err = { 0 };
	const char *path;
	int r, status;

	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		disk_fds[i] = -1;
	config_init(&config);
	r = config_parse_verb("restore", restore_options, &o, argc, argv, &path, 1, &err);
	if (r == 0)
		r = error_usage(&err, -EINVAL, "restore: needs DIR");
	if (r > 0)
		r = prepare(&o, path, &chain, &config, disk_fds, &err);
	if (!r)
		r = launch_open_log(&config, &err);
	if (r < 0) {
		error_print(&err);
		status = error_status(&err);
	} else {
		use_chain(&image, &chain, layers);
		image.clock = o.clock;
		status = launch_run_with(&config, &ends);
	}
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		if (disk_fds[i] >= 0)
			close(disk_fds[i]);
	snapshot_chain_close(&chain);
	config_done(&config);
	saved_options_done(&o);
	return status;
}
