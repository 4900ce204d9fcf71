/*
 * A window is MIGRATE_WINDOW_PAGES pages of RAM (fewer at the end of a range), counted over all
 * ranges in ascending order. Its record begins with two bitmaps, of the pages that follow
 * and of those that are zero.
 */
#include "vmm/migrate/migrate_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <zstd.h>

#include "vmm/core/io.h"
#include "vmm/core/page_faults.h"

#define BITMAP_BYTES (MIGRATE_WINDOW_WORDS * 8)
#define PAGES_AT     (2 * BITMAP_BYTES)

static uint64_t range_pages(const struct guest_mem_range *r)
{
	return r->size >> PAGE_SHIFT;
}

static bool has_bit(const uint64_t *words, uint64_t i)
{
	return words[i / 64] >> (i % 64) & 1;
}

static void set_bit(uint64_t *words, uint64_t i)
{
	words[i / 64] |= 1ull << (i % 64);
}

/* ---- what is to be sent ---- */

static int lane_init(struct migrate_lane *lane, int level)
{
	lane->window = malloc(MIGRATE_MAX_WINDOW);
	lane->packed = level ? malloc(MIGRATE_MAX_WINDOW) : NULL;
	lane->zstd = level ? ZSTD_createCCtx() : NULL;
	return !lane->window || (level && (!lane->packed || !lane->zstd)) ? -ENOMEM : 0;
}

static void lane_done(struct migrate_lane *lane)
{
	ZSTD_freeCCtx(lane->zstd);
	free(lane->window);
	free(lane->packed);
	*lane = (struct migrate_lane){ 0 };
}

static int init(struct migrate_memory *s, struct guest_mem *mem, int level, unsigned lanes)
{
	int r = 0;

	*s = (struct migrate_memory){
		.mem = mem,
		.level = level,
		.num_lanes = lanes,
		.target_fd = -1,
	};
	for (unsigned i = 0; i < lanes && !r; i++)
		r = lane_init(&s->lane[i], level);
	return r;
}

int migrate_memory_start_still(struct migrate_memory *s, struct guest_mem *mem, int level,
			       struct error *err)
{
	int r = init(s, mem, level, 1);

	return r < 0 ? error_set(err, r, "migration: %m") : 0;
}

int migrate_memory_start(struct migrate_memory *s, struct guest_mem *mem, struct hv *hv, int level,
			 unsigned lanes, struct error *err)
{
	int r = init(s, mem, level, lanes);

	s->hv = hv;
	s->first = true;
	for (unsigned i = 0; i < mem->num_ranges && !r; i++) {
		s->todo[i] = malloc(dirty_log_words(&mem->range[i]) * sizeof(uint64_t));
		if (!s->todo[i])
			r = -ENOMEM;
		else
			memset(s->todo[i], 0xff,
			       dirty_log_words(&mem->range[i]) * sizeof(uint64_t));
	}
	if (!r)
		r = dirty_log_start(mem, hv);
	s->logging = !r;
	return r < 0 ? error_set(err, r, "migration: cannot watch what the guest writes: %m") : 0;
}

int migrate_memory_write_to(struct migrate_memory *s, int fd, struct error *err)
{
	int r = guest_mem_check_fd(fd, s->mem->map_size, err);

	if (!r)
		s->target_fd = fd;
	return r;
}

void migrate_memory_stop(struct migrate_memory *s)
{
	s->target_fd = -1;
	if (s->logging)
		dirty_log_stop(s->mem, s->hv);
	s->logging = false;
	for (unsigned i = 0; i < ARRAY_SIZE(s->todo); i++) {
		free(s->todo[i]);
		s->todo[i] = NULL;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(s->lane); i++)
		lane_done(&s->lane[i]);
}

static int collect_range(struct migrate_memory *s, unsigned i, uint64_t *pages)
{
	int r = dirty_log_collect(s->mem, s->hv, i, s->todo[i]);

	for (uint64_t k = 0; k < dirty_log_words(&s->mem->range[i]); k++)
		*pages += __builtin_popcountll(s->todo[i][k]);
	return r;
}

int migrate_memory_collect(struct migrate_memory *s, uint64_t *ret_pages, struct error *err)
{
	uint64_t pages = 0;
	int r = 0;

	for (unsigned i = 0; i < s->mem->num_ranges && !r; i++)
		r = collect_range(s, i, &pages);
	if (r < 0)
		return error_set(err, r, "migration: which memory changed cannot be told: %m");
	*ret_pages = s->first ? migrate_memory_populated(s->mem) : pages;
	return 0;
}

uint64_t migrate_memory_populated(struct guest_mem *mem)
{
	bool wanted[MIGRATE_WINDOW_PAGES];
	uint64_t pages = 0;

	for (uint64_t at = 0; at < mem->map_size; at += MIGRATE_WINDOW_PAGES * PAGE_SIZE) {
		unsigned num = MIN((mem->map_size - at) >> PAGE_SHIFT,
				   (uint64_t)MIGRATE_WINDOW_PAGES);

		guest_mem_populated(mem, at, num, wanted);
		for (unsigned i = 0; i < num; i++)
			pages += wanted[i];
	}
	return pages;
}

/* ---- out ---- */

/*
 * Fill the record of a window; 0 when there is nothing to say. Pages are copied, so that what is
 * summed up and compressed does not change under our hands.
 */
static size_t fill_window(struct migrate_memory *s, const struct migrate_lane *lane,
			  const uint64_t *todo, uint64_t offset, unsigned num)
{
	uint64_t present[MIGRATE_WINDOW_WORDS] = { 0 }, zero[MIGRATE_WINDOW_WORDS] = { 0 };
	const uint8_t *host = s->mem->map + offset;
	bool populated[MIGRATE_WINDOW_PAGES];
	size_t len = PAGES_AT;
	unsigned zero_pages = 0;

	guest_mem_populated(s->mem, offset, num, populated);
	for (unsigned i = 0; i < num; i++) {
		uint8_t *copy = lane->window + len;

		if (!has_bit(todo, i))
			continue;
		if (populated[i])
			memcpy(copy, host + i * PAGE_SIZE, PAGE_SIZE);
		if (populated[i] && !guest_mem_page_is_zero(copy)) {
			set_bit(present, i);
			len += PAGE_SIZE;
		} else if (!s->first) {
			/* What is there may be what it held before. */
			set_bit(zero, i);
			zero_pages++;
		}
	}
	for (unsigned i = 0; i < MIGRATE_WINDOW_WORDS; i++) {
		put_le64(lane->window + i * 8, present[i]);
		put_le64(lane->window + BITMAP_BYTES + i * 8, zero[i]);
	}
	s->pages_sent += (len - PAGES_AT) / PAGE_SIZE;
	s->zero_pages += zero_pages;
	return len > PAGES_AT || zero_pages ? len : 0;
}

/* Compress the pages of a record that has @len bytes. The new length, or 0: no gain. */
static size_t pack_window(const struct migrate_lane *lane, int level, size_t len)
{
	size_t room = len - PAGES_AT, n;

	if (!level || room == 0)
		return 0;
	n = ZSTD_compressCCtx(lane->zstd, lane->packed + PAGES_AT, room - 1,
			      lane->window + PAGES_AT, room, level);
	if (ZSTD_isError(n))
		return 0;
	memcpy(lane->packed, lane->window, PAGES_AT);
	return PAGES_AT + n;
}

/*
 * As fill_window(), straight to where the pages are to be. By writes, a run of pages each: through
 * a mapping each page would be a page fault, and no more memory a SIGBUS. One that changes between
 * the look at it and the write is written again in the next round.
 */
static int write_window(struct migrate_memory *s, const uint64_t *todo, uint64_t offset,
			unsigned num, struct error *err)
{
	uint64_t present[MIGRATE_WINDOW_WORDS] = { 0 }, zero[MIGRATE_WINDOW_WORDS] = { 0 };
	const uint8_t *from = s->mem->map + offset;
	bool populated[MIGRATE_WINDOW_PAGES];
	uint64_t at = 0, end;
	int r = 0;

	guest_mem_populated(s->mem, offset, num, populated);
	for (unsigned i = 0; i < num; i++) {
		if (!has_bit(todo, i))
			continue;
		if (populated[i] && !guest_mem_page_is_zero(from + i * PAGE_SIZE))
			set_bit(present, i);
		else if (!s->first)
			set_bit(zero, i);
	}
	for (; !r && (at = guest_mem_next_run(present, num, at, &end)) < num; at = end) {
		uint64_t pos = at * PAGE_SIZE, bytes = (end - at) * PAGE_SIZE;

		r = io_write_at(s->target_fd, from + pos, bytes, offset + pos);
		s->pages_sent += end - at;
		s->page_bytes += bytes;
	}
	at = 0;
	for (; !r && (at = guest_mem_next_run(zero, num, at, &end)) < num; at = end) {
		uint64_t pos = offset + at * PAGE_SIZE, bytes = (end - at) * PAGE_SIZE;

		if (fallocate(s->target_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)pos, (off_t)bytes) < 0)
			r = -errno;
		s->zero_pages += end - at;
	}
	return r < 0 ? error_set(err, r, "migration: the other side's memory: %m") : 0;
}

static int send_record(struct migrate_memory *s, const struct migrate_lane *lane,
		       struct migrate_wire *w, const uint64_t *todo, uint64_t offset,
		       unsigned num, struct error *err)
{
	size_t len = fill_window(s, lane, todo, offset, num), packed;
	uint64_t before = w->bytes_out;
	int r;

	if (!len)
		return 0;
	packed = pack_window(lane, s->level, len);
	r = migrate_wire_send(w, packed ? MIGRATE_PAGES_ZSTD : MIGRATE_PAGES, offset >> PAGE_SHIFT,
			      packed ? lane->packed : lane->window, packed ? packed : len, err);
	s->page_bytes += w->bytes_out - before;
	return r;
}

static int send_window(struct migrate_memory *s, const struct migrate_lane *lane,
		       struct migrate_wire *w, unsigned index, uint64_t first, struct error *err)
{
	const struct guest_mem_range *range = &s->mem->range[index];
	unsigned num = MIN(range_pages(range) - first, (uint64_t)MIGRATE_WINDOW_PAGES);
	uint64_t offset = (uint64_t)(range->host - s->mem->map) + first * PAGE_SIZE;
	uint64_t *todo = s->todo[index] + first / 64;
	int r = dirty_log_clear(s->mem, s->hv, index, first, num, todo);

	if (r < 0)
		return error_set(err, r, "migration: the log of changed memory: %m");
	if (s->target_fd >= 0)
		r = write_window(s, todo, offset, num, err);
	else
		r = send_record(s, lane, w, todo, offset, num, err);
	memset(todo, 0, (num + 63) / 64 * 8);
	return r;
}

int migrate_memory_send_pages(struct migrate_memory *s, unsigned lane, struct migrate_wire *w,
			      uint64_t page, unsigned num, const uint64_t *wanted,
			      struct error *err)
{
	return send_record(s, &s->lane[lane], w, wanted, page << PAGE_SHIFT, num, err);
}

static bool is_clean(const uint64_t *todo, unsigned num)
{
	uint64_t any = 0;

	for (unsigned i = 0; i < (num + 63) / 64; i++)
		any |= todo[i];
	return !any;
}

/* Find window @n, counted over all ranges: false when there are fewer. */
static bool find_window(const struct migrate_memory *s, uint64_t n, unsigned *ret_index,
			uint64_t *ret_first)
{
	for (unsigned i = 0; i < s->mem->num_ranges; i++) {
		uint64_t num = (range_pages(&s->mem->range[i]) + MIGRATE_WINDOW_PAGES - 1) /
			       MIGRATE_WINDOW_PAGES;

		if (n < num) {
			*ret_index = i;
			*ret_first = n * MIGRATE_WINDOW_PAGES;
			return true;
		}
		n -= num;
	}
	return false;
}

static bool window_is_clean(const struct migrate_memory *s, unsigned index, uint64_t first)
{
	uint64_t left = range_pages(&s->mem->range[index]) - first;

	return is_clean(s->todo[index] + first / 64, MIN(left, (uint64_t)MIGRATE_WINDOW_PAGES));
}

/* Of one window, which begins at page @at of RAM. */
static int take_window(struct migrate_memory *s, unsigned index, uint64_t first, uint64_t at,
		       uint64_t *pages)
{
	const struct guest_mem_range *range = &s->mem->range[index];
	unsigned num = MIN(range_pages(range) - first, (uint64_t)MIGRATE_WINDOW_PAGES);
	uint64_t *todo = s->todo[index] + first / 64;
	int r = dirty_log_clear(s->mem, s->hv, index, first, num, todo);

	if (r < 0)
		return r;
	/* A range need not begin where a word does. */
	for (unsigned i = 0; i < num; i++)
		if (has_bit(todo, i))
			set_bit(pages, at + i);
	memset(todo, 0, (num + 63) / 64 * 8);
	return 0;
}

int migrate_memory_take(struct migrate_memory *s, uint64_t *pages, struct error *err)
{
	uint64_t first;
	unsigned index;
	int r = 0;

	for (uint64_t n = 0; find_window(s, n, &index, &first) && !r; n++) {
		uint64_t at = ((s->mem->range[index].host - s->mem->map) >> PAGE_SHIFT) + first;

		if (!window_is_clean(s, index, first))
			r = take_window(s, index, first, at, pages);
	}
	return r < 0 ? error_set(err, r, "migration: the log of changed memory: %m") : 0;
}

uint64_t migrate_memory_windows(const struct migrate_memory *s)
{
	uint64_t windows = 0, first;
	unsigned index;

	for (uint64_t n = 0; find_window(s, n, &index, &first); n++)
		windows += !window_is_clean(s, index, first);
	return windows;
}

void migrate_memory_begin(struct migrate_memory *s)
{
	s->next_window = 0;
}

int migrate_memory_send_share(struct migrate_memory *s, unsigned lane, struct migrate_wire *w,
			      int (*between)(void *arg, struct error *err), void *arg,
			      struct error *err)
{
	uint64_t first;
	unsigned index;
	int r;

	while (find_window(s, s->next_window++, &index, &first)) {
		if (window_is_clean(s, index, first))
			continue;
		r = send_window(s, &s->lane[lane], w, index, first, err);
		if (!r && between)
			r = between(arg, err);
		if (r < 0)
			return r;
	}
	return 0;
}

void migrate_memory_end(struct migrate_memory *s)
{
	s->first = false;
}

int migrate_memory_send(struct migrate_memory *s, struct migrate_wire *w,
			int (*between)(void *arg, struct error *err), void *arg,
			struct error *err)
{
	int r;

	migrate_memory_begin(s);
	r = migrate_memory_send_share(s, 0, w, between, arg, err);
	if (!r)
		migrate_memory_end(s);
	return r;
}

/* ---- in ---- */

int migrate_sink_init(struct migrate_sink *s, struct guest_mem *mem, struct error *err)
{
	*s = (struct migrate_sink){
		.mem = mem,
		.zstd = ZSTD_createDCtx(),
		.pages = malloc(MIGRATE_WINDOW_PAGES * PAGE_SIZE),
	};
	if (s->zstd && s->pages)
		return 0;
	migrate_sink_done(s);
	return error_set(err, -ENOMEM, "migration: %m");
}

void migrate_sink_done(struct migrate_sink *s)
{
	ZSTD_freeDCtx(s->zstd);
	free(s->pages);
	*s = (struct migrate_sink){ 0 };
}

static int nonsense(struct error *err)
{
	return error_set(err, -EBADMSG, "migration: pages that make no sense");
}

/* A page that is to be empty; what was never touched stays so. */
static void make_zero(uint8_t *page)
{
	if (!guest_mem_page_is_zero(page))
		memset(page, 0, PAGE_SIZE);
}

/* The bitmaps of @rec: no page twice, none outside. Returns how many pages follow, or -EBADMSG. */
static int read_bitmaps(const struct migrate_record *rec, uint64_t total, uint64_t *present,
			uint64_t *zero)
{
	unsigned num;
	int pages = 0;

	if (rec->len < PAGES_AT || rec->page >= total)
		return -EBADMSG;
	num = MIN(total - rec->page, (uint64_t)MIGRATE_WINDOW_PAGES);
	for (unsigned i = 0; i < MIGRATE_WINDOW_WORDS; i++) {
		uint64_t allowed = num >= (i + 1) * 64 ? UINT64_MAX :
				   num > i * 64	       ? (1ull << (num - i * 64)) - 1 :
							 0;

		present[i] = get_le64(rec->payload + i * 8);
		zero[i] = get_le64(rec->payload + BITMAP_BYTES + i * 8);
		if ((present[i] & zero[i]) || ((present[i] | zero[i]) & ~allowed))
			return -EBADMSG;
		pages += __builtin_popcountll(present[i]);
	}
	return pages;
}

/* Who waits for one of these pages has them now. Others than those that are missing stay. */
static int place(struct migrate_sink *s, uint64_t first, const uint64_t *present,
		 const uint64_t *zero, const uint8_t *from, struct error *err)
{
	uint64_t end, at = 0;
	int r = 0;

	while (!r && (at = guest_mem_next_run(present, MIGRATE_WINDOW_PAGES, at, &end)) <
			     MIGRATE_WINDOW_PAGES) {
		r = page_faults_place(s->faults, (first + at) << PAGE_SHIFT, from,
				      (end - at) << PAGE_SHIFT);
		from += (end - at) << PAGE_SHIFT;
		at = end;
	}
	at = 0;
	while (!r && (at = guest_mem_next_run(zero, MIGRATE_WINDOW_PAGES, at, &end)) <
			     MIGRATE_WINDOW_PAGES) {
		r = page_faults_zero(s->faults, (first + at) << PAGE_SHIFT,
				     (end - at) << PAGE_SHIFT);
		at = end;
	}
	return r < 0 ? error_set(err, r, "migration: pages that came cannot be placed: %m") : 0;
}

int migrate_sink_take(struct migrate_sink *s, const struct migrate_record *rec,
		      struct error *err)
{
	uint64_t present[MIGRATE_WINDOW_WORDS], zero[MIGRATE_WINDOW_WORDS];
	uint64_t total = s->mem->map_size >> PAGE_SHIFT;
	int pages = read_bitmaps(rec, total, present, zero);
	const uint8_t *from = rec->payload + PAGES_AT;
	size_t bytes;

	if (pages < 0)
		return nonsense(err);
	bytes = (size_t)pages * PAGE_SIZE;
	if (rec->type == MIGRATE_PAGES_ZSTD) {
		if (ZSTD_decompressDCtx(s->zstd, s->pages, bytes, from, rec->len - PAGES_AT) !=
		    bytes)
			return nonsense(err);
		from = s->pages;
	} else if (rec->len != PAGES_AT + bytes) {
		return nonsense(err);
	}
	s->pages_received += pages;
	if (s->faults)
		return place(s, rec->page, present, zero, from, err);
	for (unsigned i = 0; i < MIGRATE_WINDOW_PAGES; i++) {
		uint8_t *page = s->mem->map + (rec->page + i) * PAGE_SIZE;

		if (has_bit(present, i)) {
			memcpy(page, from, PAGE_SIZE);
			from += PAGE_SIZE;
		} else if (has_bit(zero, i)) {
			make_zero(page);
		}
	}
	return 0;
}
