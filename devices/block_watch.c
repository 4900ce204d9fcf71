/*
 * What is written to an image while somebody copies it: a bit for each unit, set by all loops that
 * serve the image and taken away by whoever copies. Nobody takes a lock.
 *
 * The bits stay until the image is closed, also when nobody looks any more: a loop may be about
 * to set one. They are 2 MiB for a disk of 1 TiB, and few disks are ever watched.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "devices/block_internal.h"

struct block_watch {
	_Atomic bool on;
	uint64_t num_units;
	struct block_watch *older; /* of when the image was smaller */
	_Atomic uint64_t word[];
};

int block_watch(struct block *b)
{
	struct block_watch *w = __atomic_load_n(&b->watch, __ATOMIC_ACQUIRE);
	uint64_t num_units = (block_size(b) + BLOCK_WATCH_UNIT - 1) / BLOCK_WATCH_UNIT;

	if (!w || w->num_units < num_units) {
		struct block_watch *larger;

		larger = calloc(1, sizeof(*w) + (num_units + 63) / 64 * sizeof(w->word[0]));
		if (!larger)
			return -ENOMEM;
		larger->num_units = num_units;
		larger->older = w;
		w = larger;
	}
	/* What was noted before is of no interest: all of the image will be read. */
	for (uint64_t i = 0; i < (w->num_units + 63) / 64; i++)
		atomic_store(&w->word[i], 0);
	atomic_store(&w->on, true);
	__atomic_store_n(&b->watch, w, __ATOMIC_SEQ_CST);
	return 0;
}

void block_unwatch(struct block *b)
{
	struct block_watch *w = __atomic_load_n(&b->watch, __ATOMIC_ACQUIRE);

	if (w)
		atomic_store(&w->on, false);
}

void block_watch_collect(struct block *b, uint64_t *units, uint64_t num_units)
{
	struct block_watch *w = __atomic_load_n(&b->watch, __ATOMIC_ACQUIRE);
	uint64_t words = w ? (MIN(num_units, w->num_units) + 63) / 64 : 0;

	for (uint64_t i = 0; i < words; i++) {
		/* Most are clean, and reading leaves their cache line to who writes it. */
		if (atomic_load_explicit(&w->word[i], memory_order_relaxed))
			units[i] |= atomic_exchange(&w->word[i], 0);
	}
}

void block_watch_note(const struct block_req *req)
{
	struct block *b = req->block->origin ? req->block->origin : req->block;
	struct block_watch *w = __atomic_load_n(&b->watch, __ATOMIC_SEQ_CST);
	uint64_t first, last;

	if (!w || !req->len || !atomic_load(&w->on))
		return;
	first = req->offset / BLOCK_WATCH_UNIT;
	last = (req->offset + req->len - 1) / BLOCK_WATCH_UNIT;
	/* It grew since: whoever copies it will find that it did. */
	for (uint64_t i = first; i <= last && i < w->num_units; i++)
		atomic_fetch_or(&w->word[i / 64], 1ull << (i % 64));
}

void block_watch_free(struct block_watch *w)
{
	while (w) {
		struct block_watch *older = w->older;

		free(w);
		w = older;
	}
}
