#include "vmm/cli/cli_disks.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/control/control_client.h"

#define QCOW2_MAGIC "QFI\xfb"

static bool is_qcow2(const json_t *disk, int fd)
{
	char magic[4096] __attribute__((aligned(4096)));

	/* By its own blocks, for a disk that is open with O_DIRECT. */
	return !json_is_true(json_object_get(disk, "raw")) &&
	       pread(fd, magic, sizeof(magic), 0) >= 4 && !memcmp(magic, QCOW2_MAGIC, 4);
}

bool cli_disk_is_copied(const struct cli_disk *d, enum cli_disks_use use)
{
	return !d->read_only && (use != CLI_DISKS_LAST_SNAPSHOT || d->nameless);
}

static int refuse(const struct cli_disk *d, enum cli_disks_use use, struct error *err)
{
	const char *what = use == CLI_DISKS_CLONE ? "a clone" : "a snapshot";

	if (!d->is_file)
		return error_usage(err, -ENOTSUP, "disk '%s': not a file, so %s cannot keep it",
				   d->path, what);
	if (d->is_block && cli_disk_is_copied(d, use)) {
		error_usage(err, -ENOTSUP, "disk '%s': a block device, which %s cannot copy",
			    d->path, what);
		if (use == CLI_DISKS_SNAPSHOT)
			error_hint(err, "with --stop it is only named, and stays as it is");
		return -ENOTSUP;
	}
	if (d->direct && use == CLI_DISKS_CLONE) {
		error_usage(err, -ENOTSUP,
			    "disk '%s': with direct I/O, which no clone can have yet", d->path);
		error_hint(err, "'wisp snapshot' and 'wisp restore --clone' can");
		return -ENOTSUP;
	}
	return 0;
}

int cli_disks_refuse(const struct cli_disks *d, enum cli_disks_use use, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < d->num && !r; i++)
		r = refuse(&d->disk[i], use, err);
	return r;
}

int cli_disks_get(struct cli_disks *d, int sock, struct error *err)
{
	int fds[CONFIG_MAX_DISKS];
	struct control_extra extra = {
		.fds = fds,
		.max_fds = CONFIG_MAX_DISKS,
		.give_up_fd = -1,
	};
	json_t *disks, *disk;
	size_t i;
	int r;

	*d = (struct cli_disks){ 0 };
	r = control_ask_extra(sock, json_pack("{s:s}", "do", "disks"), NULL, 0, &d->reply, &extra,
			      err);
	if (r < 0)
		return r;
	disks = json_object_get(d->reply, "disks");
	for (i = 0; i < extra.num_fds; i++)
		d->disk[d->num++].fd = fds[i];
	if (json_array_size(disks) != d->num)
		return error_set(err, -EBADMSG, "the monitor's answer makes no sense");
	json_array_foreach(disks, i, disk)
	{
		struct cli_disk *to = &d->disk[i];
		struct stat st;

		to->id = json_string_value(json_object_get(disk, "id"));
		to->path = json_string_value(json_object_get(disk, "path"));
		to->read_only = json_is_true(json_object_get(disk, "read_only"));
		to->direct = json_is_true(json_object_get(disk, "direct"));
		if (!to->id || !to->path || strchr(to->id, '/') || fstat(to->fd, &st) < 0)
			return error_set(err, -EBADMSG, "the monitor's answer makes no sense");
		to->is_block = S_ISBLK(st.st_mode);
		to->is_file = S_ISREG(st.st_mode) || to->is_block;
		to->nameless = st.st_nlink == 0;
		to->qcow2 = is_qcow2(disk, to->fd);
	}
	return 0;
}

json_int_t cli_disks_generation(const struct cli_disks *d)
{
	/* A monitor of before knows of none. */
	return json_integer_value(json_object_get(d->reply, "generation"));
}

void cli_disks_done(struct cli_disks *d)
{
	for (unsigned i = 0; i < d->num; i++)
		close(d->disk[i].fd);
	json_decref(d->reply);
	*d = (struct cli_disks){ 0 };
}
