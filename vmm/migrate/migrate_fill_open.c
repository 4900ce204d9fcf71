/* Post-copy at the destination, before anything comes: what it takes, and over what. */
#include <errno.h>
#include <stdlib.h>

#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/migrate/migrate_serve.h"
#include "vmm/run_dir.h"

void migrate_fill_listen(struct migrate_fill *f, const struct run_dir *dir)
{
	if (f)
		f->door.listener = run_dir_listen(dir, RUN_DIR_LATE);
}

void migrate_fill_in_parent(struct migrate_fill *f)
{
	if (f)
		migrate_door_close(&f->door);
}

void migrate_fill_open(struct migrate_fill *f)
{
	f->fd = page_faults_open(&f->refused);
}

bool migrate_fill_can(const struct migrate_fill *f, const struct machine *m, struct error *err)
{
	if (!f)
		return false;
	if (f->fd < 0)
		*err = f->refused;
	else if (m->mem->backing != GUEST_MEM_ANON || m->mem->num_overlays)
		error_set(err, -ENOTSUP, "not with --hugepages, shared memory or files over it");
	else
		return true;
	return false;
}

int migrate_fill_expect(struct migrate_fill *f, const struct machine *m,
			const struct migrate_record *rec, struct error *err)
{
	uint64_t bytes = guest_mem_size(m->mem);

	if (!f->missing) {
		f->num = bytes >> PAGE_SHIFT;
		f->missing = calloc(guest_mem_bitmap_words(bytes), sizeof(*f->missing));
	}
	if (!f->missing)
		return error_set(err, -ENOMEM, "migration: %m");
	return rec ? migrate_missing_take(rec, f->missing, f->num, err) : 0;
}

void migrate_fill_take_streams(struct migrate_fill *f, struct migrate_wire *wires, unsigned num)
{
	for (unsigned i = 0; i < num; i++) {
		f->more[i] = wires[i];
		wires[i] = (struct migrate_wire){ .in = -1, .out = -1, .fd = -1 };
	}
	f->num_more = num;
}
