#include "vmm/saved/snapshot_pages.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define SECTION "memory/pages"
#define VERSION 1

void snapshot_pages_put(struct state_writer *w, const char *section, const uint64_t *pages,
			uint64_t num)
{
	state_begin(w, section, 0, VERSION);
	state_put_u64(w, num);
	/* The bytes of a word in the order in which this architecture has them: bit 0 first. */
	state_put_bytes(w, pages, (num + 63) / 64 * sizeof(*pages));
	state_end(w);
}

void snapshot_pages_write(struct state_writer *w, const uint64_t *pages, uint64_t num)
{
	snapshot_pages_put(w, SECTION, pages, num);
	state_seal(w);
}

static int read_bitmap(struct state_reader *r, uint64_t num, uint64_t **ret_pages,
		       struct error *err)
{
	uint64_t has = state_get_u64(r), words = (num + 63) / 64, *pages;
	int ret;

	if (!r->failed && has != num)
		state_reader_fail(r, "%" PRIu64 " pages for RAM of %" PRIu64, has, num);
	if (r->failed)
		return state_reader_end(r, err);
	pages = calloc(MAX(words, (uint64_t)1), sizeof(*pages));
	if (!pages)
		return error_set(err, -ENOMEM, "saved memory: %m");
	state_get_bytes(r, pages, words * sizeof(*pages));
	if (!r->failed && num % 64 && pages[words - 1] >> num % 64)
		state_reader_fail(r, "pages beyond the end of RAM");
	ret = state_reader_end(r, err);
	if (ret < 0)
		free(pages);
	else
		*ret_pages = pages;
	return ret;
}

int snapshot_pages_take(struct state_set *set, const char *section, uint64_t num,
			uint64_t **ret_pages, struct error *err)
{
	struct state_reader r;
	int ret = state_set_take(set, section, 0, VERSION, &r, err);

	return ret ? ret : read_bitmap(&r, num, ret_pages, err);
}

int snapshot_pages_read(const uint8_t *buf, size_t len, uint64_t num, uint64_t **ret_pages,
			struct error *err)
{
	struct state_set set = { 0 };
	uint64_t *pages = NULL;
	int ret = state_set_open(&set, buf, len, err);

	if (!ret)
		ret = snapshot_pages_take(&set, SECTION, num, &pages, err);
	if (!ret)
		ret = state_set_finish(&set, err);
	if (ret < 0)
		free(pages);
	else
		*ret_pages = pages;
	state_set_close(&set);
	return ret;
}
