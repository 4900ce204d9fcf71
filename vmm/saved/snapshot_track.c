#include "vmm/saved/snapshot_track.h"

#include <errno.h>
#include <stdlib.h>

struct snapshot_track {
	struct guest_mem *mem;
	struct hv *hv;
	uint64_t *changed;	   /* since the base: a bit for each page of RAM, in its order */
	char *base_id, *base_path; /* NULL: nothing is a base */
	char *taken_id;		   /* the latest one's; NULL: its fate is known */
	bool written;		   /* and all of its memory is in its file */
};

static void forget_changes(struct snapshot_track *t)
{
	memset(t->changed, 0, guest_mem_bitmap_words(t->mem->map_size) * sizeof(*t->changed));
}

static int cannot(struct error *err, int r)
{
	return error_set(err, r, "which memory changed cannot be told: %m");
}

int snapshot_track_create(struct snapshot_track **ret_track, struct guest_mem *mem, struct hv *hv,
			  struct error *err)
{
	struct snapshot_track *t;
	int r;

	t = calloc(1, sizeof(*t));
	if (!t)
		return cannot(err, -ENOMEM);
	t->mem = mem;
	t->hv = hv;
	t->changed = calloc(guest_mem_bitmap_words(mem->map_size), sizeof(*t->changed));
	r = t->changed ? dirty_log_start(mem, hv) : -ENOMEM;
	if (r < 0) {
		free(t->changed);
		free(t);
		return cannot(err, r);
	}
	/* The log may begin with all pages in it, which also leaves them writable. */
	r = dirty_log_take(mem, hv, t->changed);
	if (r < 0) {
		snapshot_track_free(t);
		return cannot(err, r);
	}
	forget_changes(t);
	*ret_track = t;
	return 0;
}

void snapshot_track_free(struct snapshot_track *t)
{
	if (!t)
		return;
	dirty_log_stop(t->mem, t->hv);
	free(t->changed);
	free(t->base_id);
	free(t->base_path);
	free(t->taken_id);
	free(t);
}

int snapshot_track_take(struct snapshot_track *t, const char *id, struct error *err)
{
	int r = dirty_log_take(t->mem, t->hv, t->changed);

	free(t->taken_id);
	t->taken_id = r < 0 ? NULL : strdup(id);
	t->written = false;
	if (!r && !t->taken_id)
		r = -ENOMEM;
	return r < 0 ? cannot(err, r) : 0;
}

bool snapshot_track_base(const struct snapshot_track *t, struct snapshot_base *ret_base)
{
	if (!t->base_id)
		return false;
	*ret_base = (struct snapshot_base){ .id = t->base_id, .path = t->base_path };
	return true;
}

const uint64_t *snapshot_track_changed(const struct snapshot_track *t)
{
	return t->changed;
}

void snapshot_track_written(struct snapshot_track *t, const char *id)
{
	if (t->taken_id && !strcmp(t->taken_id, id))
		t->written = true;
}

int snapshot_track_keep(struct snapshot_track *t, const char *id, const char *path)
{
	char *at;

	if (!t->taken_id || strcmp(t->taken_id, id))
		return -ESTALE;
	if (!t->written)
		return -EBUSY;
	at = strdup(path);
	if (!at)
		return -ENOMEM;
	free(t->base_id);
	free(t->base_path);
	t->base_id = t->taken_id;
	t->base_path = at;
	t->taken_id = NULL;
	/* All that was counted was before it was taken: the logs have what came after. */
	forget_changes(t);
	return 0;
}

int snapshot_track_loaded(struct snapshot_track **ret_track, struct guest_mem *mem, struct hv *hv,
			  const char *id, const char *path, struct error *err)
{
	uint64_t num = guest_mem_bitmap_words(mem->map_size);
	uint64_t *written = calloc(num, sizeof(*written));
	struct snapshot_track *t = NULL;
	int r;

	if (!written)
		return cannot(err, -ENOMEM);
	/* First, since our own log begins anew below. */
	for (unsigned i = 0; i < mem->num_ranges; i++)
		guest_mem_take_dirty(mem, i, 0, dirty_log_words(&mem->range[i]),
				     written + dirty_log_first_word(mem, i));
	r = snapshot_track_create(&t, mem, hv, err);
	if (!t)
		goto out;
	r = snapshot_track_take(t, id, err);
	if (!r) {
		snapshot_track_written(t, id);
		r = snapshot_track_keep(t, id, path);
		if (r < 0)
			cannot(err, r);
	}
	if (r < 0) {
		snapshot_track_free(t);
	} else {
		for (uint64_t i = 0; i < num; i++)
			t->changed[i] |= written[i];
		*ret_track = t;
	}
out:
	free(written);
	return r;
}
