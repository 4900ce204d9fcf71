/* The disks of a guest that moves: whose locks they bear, and what of them is on the medium. */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate.h"

/* Of a disk behind an NBD server there is a socket, and the server keeps order. */
static bool is_file(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && !S_ISSOCK(st.st_mode);
}

int migrate_lock_disks(struct machine *m, struct error *err)
{
	for (unsigned i = 0; i < m->config->num_disks; i++) {
		struct block_file f = { .fd = m->disk_fd[i], .path = m->config->disk[i].path };
		int r = !is_file(f.fd) ? 0 :
					 block_file_lock(&f, m->config->disk[i].read_only, err);

		if (r == 0)
			continue;
		while (i-- > 0)
			block_unlock(m->disk_fd[i]);
		return r;
	}
	return 0;
}

void migrate_unlock_disks(struct machine *m)
{
	for (unsigned i = 0; i < m->config->num_disks; i++)
		if (is_file(m->disk_fd[i]))
			block_unlock(m->disk_fd[i]);
}

static struct virtio_device *find_disk(const struct machine *m, unsigned index)
{
	return machine_virtio(m, VIRTIO_ID_BLOCK, m->config->disk[index].id);
}

uint64_t migrate_disk_bytes(const struct machine *m, unsigned index)
{
	const struct virtio_device *dev = find_disk(m, index);

	return dev ? virtio_blk_size(dev) : 0;
}

struct block *migrate_disk_image(const struct machine *m, unsigned index)
{
	const struct virtio_device *dev = find_disk(m, index);

	return dev && is_file(m->disk_fd[index]) ? virtio_blk_image(dev) : NULL;
}

int migrate_sync_disks(struct machine *m, const bool *copied, struct error *err)
{
	for (unsigned i = 0; i < m->config->num_disks; i++) {
		const struct config_disk *d = &m->config->disk[i];

		if (copied[i] || d->read_only || !is_file(m->disk_fd[i]))
			continue;
		if (fdatasync(m->disk_fd[i]) < 0)
			return error_set(err, -errno, "disk '%s': %m", d->path);
	}
	return 0;
}
