/* wisp restore: a snapshot's machine, with what this host calls its files; or several of it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/block.h"
#include "devices/nbd.h"
#include "vmm/cli/cli_saved.h"
#include "vmm/cli/cli_snapshot.h"
#include "vmm/config/config_state.h"
#include "vmm/core/io.h"
#include "vmm/default_guest.h"
#include "vmm/launch.h"
#include "vmm/machine/machine_state.h"
#include "vmm/run_dir.h"
#include "vmm/saved/demand.h"
#include "vmm/saved/snapshot_chain.h"
#include "vmm/saved/working_set.h"

/* What is recorded has its name when it is complete. */
#define PREFETCH_DRAFT SNAPSHOT_PREFETCH ".partial"

struct restoring {
	struct saved_options *options;
	unsigned number; /* of a clone, from 1 on; 0: this is the machine itself */
	const struct snapshot_chain *unpacked; /* the same, if its memory was for several clones */
	struct snapshot_chain chain;
	struct machine_layer layers[SNAPSHOT_MAX_LINKS];
	struct machine_config config;
	int disk_fds[CONFIG_MAX_DISKS];
	struct working_set working_set;
	struct demand demand;
	int record_fd; /* a new working set's; or -1 */
};

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
	if (s->memory_fd >= 0)
		close(s->memory_fd);
	packed_memory_close(&s->packed);
	s->memory_fd = fd;
	return 0;
}

/* ---- memory that another process has ---- */

/* fd:N is a connection that our caller made. */
static int take_handler(struct demand *d, const char *number, struct error *err)
{
	int type;
	socklen_t len = sizeof(type);
	char *end;
	long fd = strtol(number, &end, 10);

	if (end == number || *end || fd < 0 || fd > INT_MAX ||
	    getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return error_usage(err, -EINVAL, "--memory-handler fd:%s: not an open socket",
				   number);
	d->handler_fd = (int)fd;
	fcntl(d->handler_fd, F_SETFD, FD_CLOEXEC);
	return 0;
}

static int connect_handler(struct demand *d, const char *path, struct error *err)
{
	int fd = io_connect(path, SOCK_STREAM);

	if (fd < 0)
		return error_usage(err, fd, "--memory-handler '%s': cannot connect: %m", path);
	d->handler_fd = fd;
	return 0;
}

/* Last of all that can fail: the handler counts on one that asks it. */
static int find_handler(struct restoring *t, struct error *err)
{
	static const char passed[] = "fd:";
	const char *where = t->options->memory_handler;
	int r;

	if (!where)
		return 0;
	if (t->config.memory_backing == GUEST_MEM_SHARED)
		return error_usage(err, -ENOTSUP,
				   "--memory-handler: not for a guest with memory that is shared");
	if (!strncmp(where, passed, strlen(passed)))
		r = take_handler(&t->demand, where + strlen(passed), err);
	else
		r = connect_handler(&t->demand, where, err);
	t->demand.handed_over = r == 0;
	return r;
}

/* ---- what clones cannot share ---- */

static int add_number(char **path, unsigned number, struct error *err)
{
	char *own;

	if (!*path)
		return 0;
	if (asprintf(&own, "%s-%u", *path, number) < 0)
		return error_set(err, -ENOMEM, "clone: %m");
	free(*path);
	*path = own;
	return 0;
}

/* One name for all, on the command line or the saved machine's, and a number for each. */
static int name_clone(struct restoring *t, struct error *err)
{
	json_t *machine = json_object_get(snapshot_chain_last(&t->chain)->manifest, "machine");
	const char *saved = json_string_value(json_object_get(machine, "name"));
	char **name = &t->options->name;

	if (!*name)
		*name = strdup(saved ? saved : "clone");
	if (!*name)
		return error_set(err, -ENOMEM, "clone: %m");
	t->options->detach = true;
	/* Earlier copies keep their names. */
	t->number = run_dir_free_number(t->options->run_dir, *name, t->number);
	return add_number(name, t->number, err);
}

/* Its ends on the host: paths with its number, and none of the host's ports. */
static int separate_ends(struct restoring *t, struct error *err)
{
	struct machine_config *c = &t->config;
	char **const paths[] = { &c->serial.path, &c->console.path, &c->vsock.path,
				 &c->metrics_file };
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(paths) && !r; i++)
		r = add_number(paths[i], t->number, err);
	for (unsigned i = 0; i < c->num_nets; i++)
		c->net[i].num_forwards = 0;
	return r;
}

/* A disk that the snapshot only names, and that the guest writes: a private copy of it. */
static int separate_disk(struct restoring *t, unsigned i, struct error *err)
{
	const struct config_disk *d = &t->config.disk[i];
	struct stat st;
	bool copied;
	int fd, r;

	if (nbd_is_uri(d->path))
		return error_usage(err, -ENOTSUP,
				   "--clone: disk '%s' is a server's: no clone can "
				   "have it for itself",
				   d->id);
	fd = open(d->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return error_usage(err, -errno, "disk '%s': cannot open: %m", d->path);
	/* Nobody writes it while it is copied: a copy of a bit of each moment is no disk. */
	r = block_file_lock(&(struct block_file){ .fd = fd, .path = d->path }, true, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	r = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -ENOTSUP;
	if (!r)
		r = snapshot_private_disk(fd, d->path, d->direct, &copied);
	close(fd);
	if (r < 0)
		return error_usage(err, r, "disk '%s': no clone can have it for itself: %m", d->id);
	t->disk_fds[i] = r;
	return 0;
}

static int separate_disks(struct restoring *t, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < t->config.num_disks && !r; i++)
		if (t->disk_fds[i] < 0 && !t->config.disk[i].read_only)
			r = separate_disk(t, i, err);
	return r;
}

/* ---- what is needed of memory ---- */

static int start_record(struct restoring *t, const char *path, struct error *err)
{
	int dir = snapshot_chain_last(&t->chain)->dir_fd;

	/* What an earlier run left, or somebody laid there as a way to his own file, goes. */
	unlinkat(dir, PREFETCH_DRAFT, 0);
	t->record_fd = openat(dir, PREFETCH_DRAFT,
			      O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return t->record_fd < 0 ? error_usage(err, -errno, "--prefetch record: '%s': %m", path) : 0;
}

/* The monitor has written it at the guest's end, or nothing. */
static void end_record(struct restoring *t)
{
	int dir = snapshot_chain_last(&t->chain)->dir_fd;
	struct stat st;

	if (t->record_fd < 0)
		return;
	if (fstat(t->record_fd, &st) == 0 && st.st_size > 0 && fsync(t->record_fd) == 0)
		renameat(dir, PREFETCH_DRAFT, dir, SNAPSHOT_PREFETCH);
	else
		unlinkat(dir, PREFETCH_DRAFT, 0);
	close(t->record_fd);
}

/* What earlier runs needed, where that was recorded. It is a help only: nothing fails for it. */
static void read_record(struct restoring *t, const char *path)
{
	const struct snapshot *s = snapshot_chain_last(&t->chain);
	uint8_t *buf = NULL;
	struct error err = { 0 };
	size_t len;
	int r = snapshot_read_file(s, path, SNAPSHOT_PREFETCH, &buf, &len, &err);

	if (!r)
		r = working_set_read(&t->working_set, buf, len,
				     config_memory_total(&t->config) >> PAGE_SHIFT, &err);
	if (r < 0 && r != -ENOENT)
		log_warn("snapshot '%s': " SNAPSHOT_PREFETCH ": %s", path, err.msg);
	free(buf);
}

/* ---- memory that is compressed ---- */

/* Can it be unpacked page by page, when it is touched? */
static bool unpacks_late(const struct restoring *t)
{
	const struct saved_options *o = t->options;
	struct error err = { 0 };
	int fd;

	if (o->memory == SAVED_MEMORY_UFFD)
		return true;
	if (o->memory == SAVED_MEMORY_MAP || o->prefetch == SAVED_PREFETCH_RECORD ||
	    t->config.memory_backing != GUEST_MEM_ANON)
		return false;
	/* The monitor opens its own: this one is a question. */
	fd = page_faults_open(&err);
	if (fd < 0)
		log_info("compressed memory is unpacked at once: %s", err.msg);
	else
		close(fd);
	return fd >= 0;
}

static int unpack_all(struct snapshot_chain *c, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < c->num && !r; i++)
		if (snapshot_is_packed(&c->link[i]))
			r = snapshot_unpack(&c->link[i], err);
	return r;
}

/* As it was unpacked for all clones before. */
static int unpack_as(struct snapshot_chain *c, const struct snapshot_chain *before,
		     struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < c->num && !r; i++)
		if (snapshot_is_packed(&c->link[i]))
			r = snapshot_unpack_as(&c->link[i], &before->link[MIN(i, before->num - 1)],
					       err);
	return r;
}

static int unpack(struct restoring *t, struct error *err)
{
	if (t->options->memory_handler || !snapshot_chain_is_packed(&t->chain))
		return 0;
	if (t->unpacked->num)
		return unpack_as(&t->chain, t->unpacked, err);
	if (unpacks_late(t)) {
		t->options->memory = SAVED_MEMORY_UFFD;
		return 0;
	}
	return unpack_all(&t->chain, err);
}

/*
 * Of several clones: once, for all of them, which then share what they do not write. Unless each is
 * to have its pages when it touches them. @c is empty when there is nothing to share.
 */
static int unpack_for_clones(const struct saved_options *o, const char *path,
			     struct snapshot_chain *c, struct error *err)
{
	int r;

	if (o->clones < 2 || o->memory_handler || o->memory == SAVED_MEMORY_UFFD)
		return 0;
	r = snapshot_chain_open(c, path, err);
	if (!r && snapshot_chain_is_packed(c))
		r = unpack_all(c, err);
	else
		snapshot_chain_close(c);
	if (r < 0 && err->kind == ERROR_OTHER)
		err->kind = ERROR_USAGE;
	return r;
}

/* ---- one machine ---- */

/* Everything up to the first process. */
static int prepare(struct restoring *t, const char *path, struct error *err)
{
	struct saved_options *o = t->options;
	struct machine_config *c = &t->config;
	int r = snapshot_chain_open(&t->chain, path, err);
	struct snapshot *s = snapshot_chain_last(&t->chain);
	uint32_t given = 0;

	if (!r && o->memory_file)
		r = use_memory_file(s, o->memory_file, err);
	if (!r)
		r = machine_check_state(&s->state, err);
	if (!r)
		r = config_load(c, &s->state, err);
	if (!r && t->number)
		r = name_clone(t, err);
	if (!r)
		r = saved_options_apply(c, o, &given, err);
	if (!r && t->number)
		r = separate_ends(t, err);
	if (!r)
		r = config_validate(c, err);
	if (!r && !o->memory_handler)
		r = snapshot_check_memory(s, config_memory_total(c), err);
	if (!r && o->memory == SAVED_MEMORY_UFFD && c->memory_backing != GUEST_MEM_ANON)
		r = error_usage(err, -ENOTSUP,
				"--memory-backend uffd: not for a guest with --hugepages or memory "
				"that is shared");
	if (!r)
		r = unpack(t, err);
	/* A kernel is needed only when the guest is started again. */
	if (!r && c->reboot_resets)
		r = default_guest_find(c, err);
	if (!r)
		r = snapshot_disks(s, c, o->changed_disks, given, t->disk_fds, err);
	if (!r && t->number)
		r = separate_disks(t, err);
	if (!r && o->prefetch == SAVED_PREFETCH_RECORD)
		r = start_record(t, path, err);
	else if (!r && o->prefetch == SAVED_PREFETCH_ON && !o->memory_handler)
		read_record(t, path);
	if (!r)
		r = find_handler(t, err);
	/* A snapshot is a file that was named, whatever is wrong with it. */
	if (r < 0 && err->kind == ERROR_OTHER)
		err->kind = ERROR_USAGE;
	return r;
}

static const struct packed_memory *packed_of(const struct snapshot *s)
{
	return snapshot_is_packed(s) ? &s->packed : NULL;
}

/* Memory is that of the first one, and over it what changed until each of the others. */
static void use_chain(struct machine_image *image, struct restoring *t)
{
	const struct snapshot_chain *c = &t->chain;

	image->state = &snapshot_chain_last(&t->chain)->state;
	image->memory_fd = c->link[0].memory_fd;
	image->memory_name = c->link[0].path;
	image->packed = packed_of(&c->link[0]);
	image->layer = t->layers;
	image->working_set = t->working_set.touched ? &t->working_set : NULL;
	image->records = t->record_fd >= 0;
	image->record_fd = t->record_fd;
	if (t->demand.handed_over || t->options->memory == SAVED_MEMORY_UFFD)
		image->demand = &t->demand;
	for (unsigned i = 1; i < c->num; i++)
		t->layers[image->num_layers++] = (struct machine_layer){
			.name = c->link[i].path,
			.fd = c->link[i].memory_fd,
			.packed = packed_of(&c->link[i]),
			.pages = c->link[i].pages,
		};
}

/* @unpacked: what of its memory was, for this clone and others; empty: nothing. */
static int restore(struct saved_options *o, const char *path, unsigned number,
		   const struct snapshot_chain *unpacked)
{
	struct restoring *t = calloc(1, sizeof(*t));
	struct machine_image image = { .clock = o->clock, .changed_tsc = o->changed_tsc };
	struct launch_ends ends = {
		.initrd = -1,
		.serial_out = -1,
		.image = &image,
		.unplugged = number > 0,
	};
	struct error err = { 0 };
	pid_t starter = getpid();
	int r, status;

	if (!t) {
		error_set(&err, -ENOMEM, "restore: %m");
		error_print(&err);
		return error_status(&err);
	}
	t->options = o;
	t->number = number;
	t->unpacked = unpacked;
	t->record_fd = -1;
	ends.disk_fds = t->disk_fds;
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		t->disk_fds[i] = -1;
	config_init(&t->config);
	r = prepare(t, path, &err);
	if (!r)
		r = launch_open_log(&t->config, &err);
	if (r < 0) {
		error_print(&err);
		status = error_status(&err);
	} else {
		use_chain(&image, t);
		status = launch_run_with(&t->config, &ends);
	}
	demand_in_parent(&t->demand);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		if (t->disk_fds[i] >= 0)
			close(t->disk_fds[i]);
	/* With --detach the guest runs on in the background, which returns here at its end. */
	if (!(t->config.detach && getpid() == starter && status == 0))
		end_record(t);
	working_set_done(&t->working_set);
	snapshot_chain_close(&t->chain);
	config_done(&t->config);
	free(t);
	return status;
}

/* ---- the verb ---- */

/* Each in a process of its own, which goes into the background; up to the first that fails. */
static int restore_clones(struct saved_options *o, const char *path)
{
	struct snapshot_chain unpacked = { 0 };
	struct error err = { 0 };
	int status = 0;

	if (unpack_for_clones(o, path, &unpacked, &err) < 0) {
		error_print(&err);
		status = error_status(&err);
	}
	for (unsigned i = 1; i <= o->clones && status == 0; i++) {
		pid_t pid = fork();

		if (pid == 0)
			exit(restore(o, path, i, &unpacked));
		if (pid < 0) {
			fprintf(stderr, "wisp: cannot fork: %s\n", strerror(errno));
			status = 1;
			break;
		}
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		status = WIFEXITED(status) ? WEXITSTATUS(status) : 125;
	}
	snapshot_chain_close(&unpacked);
	return status;
}

/* One, the machine itself. */
static int restore_one(struct saved_options *o, const char *path)
{
	const struct snapshot_chain nothing = { 0 };

	return restore(o, path, 0, &nothing);
}

int restore_main(int argc, char **argv)
{
	struct saved_options o = { .log_level = LOG_WARN, .sandbox = SANDBOX_ON };
	struct error err = { 0 };
	const char *path;
	int status, r;

	r = config_parse_verb("restore", restore_options, &o, argc, argv, &path, 1, &err);
	if (r == 0)
		r = error_usage(&err, -EINVAL, "restore: needs DIR");
	if (r > 0 && o.clones &&
	    (o.memory_file || o.ready_fd || o.num_nets || o.prefetch == SAVED_PREFETCH_RECORD))
		r = error_usage(&err, -EINVAL,
				"--clone: without --memory-file, --ready-fd, --net "
				"and --prefetch record");
	if (r > 0 && o.memory_handler && o.memory_file)
		r = error_usage(&err, -EINVAL,
				"--memory-handler: without --memory-file: it has the file");
	if (r > 0 && o.prefetch == SAVED_PREFETCH_RECORD &&
	    (o.memory == SAVED_MEMORY_UFFD || o.memory_handler))
		r = error_usage(&err, -EINVAL,
				"--prefetch record: with %s all pages are brought, needed or not",
				o.memory_handler ? "--memory-handler" : "--memory-backend uffd");
	if (r < 0) {
		error_print(&err);
		status = error_status(&err);
	} else {
		status = o.clones ? restore_clones(&o, path) : restore_one(&o, path);
	}
	saved_options_done(&o);
	return status;
}
