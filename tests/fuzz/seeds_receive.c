/* Seeds for fuzz_receive: migrations that succeed, in each way, and some that must not. */
#include "tests/fuzz/fuzz_receive.h"

#include <string.h>
#include <zstd.h>

#include "tests/fuzz/seed.h"
#include "vmm/migrate/migrate_wire.h"

#define WINDOW_HEADER 128

struct seed {
	uint8_t bytes[48 * KiB];
	size_t len;
};

static void begin(struct seed *s, uint8_t flags)
{
	s->bytes[0] = flags;
	s->len = 1;
}

/* Over connection @lane; @page as in the input. */
static void add(struct seed *s, unsigned lane, enum migrate_record_type type, uint8_t page,
		const void *payload, size_t len)
{
	uint8_t *p = s->bytes + s->len;

	p[0] = lane << 6 | (type - 1);
	p[1] = page;
	put_le16(p + 2, len);
	if (len)
		memcpy(p + FUZZ_RECEIVE_RECORD_BYTES, payload, len);
	s->len += FUZZ_RECEIVE_RECORD_BYTES + len;
}

/* Pages 0 and 3 of a window, and 5 empty. */
static void add_pages(struct seed *s, unsigned lane, uint8_t page, bool packed)
{
	static uint8_t window[WINDOW_HEADER + 2 * PAGE_SIZE], pages[2 * PAGE_SIZE];
	size_t len = sizeof(pages);

	memset(window, 0, sizeof(window));
	window[0] = 1 | 1 << 3;
	window[64] = 1 << 5;
	memset(pages, 7, sizeof(pages));
	if (packed)
		len = ZSTD_compress(window + WINDOW_HEADER, len, pages, len, 1);
	else
		memcpy(window + WINDOW_HEADER, pages, len);
	add(s, lane, packed ? MIGRATE_PAGES_ZSTD : MIGRATE_PAGES, page, window,
	    WINDOW_HEADER + len);
}

/* A unit of the disk that is empty. */
static void add_disk(struct seed *s)
{
	uint8_t zeroes[12] = { 0 };

	put_le64(zeroes + 4, 1);
	add(s, 0, MIGRATE_DISK_ZEROES, 0, zeroes, sizeof(zeroes));
}

static void add_end(struct seed *s, const void *changes, size_t len)
{
	add(s, 0, MIGRATE_ROUND, 0, NULL, 0);
	add(s, 0, MIGRATE_STATE, MIGRATE_STATE_PAUSED, changes, len);
}

static bool save(const struct seed *s, const char *dir, const char *name)
{
	return seed_write(dir, name, s->bytes, s->len);
}

/* One round and the end, in each way. */
static bool save_whole(struct seed *s, const char *dir)
{
	begin(s, 0);
	add_pages(s, 0, 0, false);
	add_pages(s, 0, 8, true);
	add_end(s, NULL, 0);
	add(s, 0, MIGRATE_COMMIT, 0, NULL, 0);
	if (!save(s, dir, "whole"))
		return false;
	begin(s, FUZZ_RECEIVE_SHARED);
	add_end(s, NULL, 0);
	add(s, 0, MIGRATE_COMMIT, 0, NULL, 0);
	if (!save(s, dir, "written"))
		return false;
	begin(s, FUZZ_RECEIVE_COPIES);
	add_disk(s);
	add_end(s, NULL, 0);
	add(s, 0, MIGRATE_COMMIT, 0, NULL, 0);
	if (!save(s, dir, "copies"))
		return false;
	begin(s, FUZZ_RECEIVE_LANES(2));
	add_pages(s, 1, 0, true);
	add(s, 1, MIGRATE_ROUND, 0, NULL, 0);
	add_pages(s, 2, 8, false);
	add(s, 2, MIGRATE_ROUND, 0, NULL, 0);
	add_end(s, NULL, 0);
	add(s, 0, MIGRATE_COMMIT, 0, NULL, 0);
	return save(s, dir, "streams");
}

/* What ends early, and what is not as agreed. */
static bool save_refused(struct seed *s, const char *dir)
{
	static const uint8_t changes[] = { 2, 0, 0, 255, 5, 4, 0, 1 }, missing[8] = { 1 };

	begin(s, FUZZ_RECEIVE_BY_HAND);
	add_end(s, NULL, 0);
	if (!save(s, dir, "by-hand"))
		return false;
	begin(s, 0);
	add_end(s, NULL, 0);
	if (!save(s, dir, "cut-off"))
		return false;
	begin(s, 0);
	add_end(s, NULL, 0);
	add(s, 0, MIGRATE_GIVEN_UP, 0, "words", 5);
	if (!save(s, dir, "given-up"))
		return false;
	begin(s, 0);
	add_end(s, changes, sizeof(changes));
	add(s, 0, MIGRATE_COMMIT, 0, NULL, 0);
	if (!save(s, dir, "changed"))
		return false;
	begin(s, 0);
	add(s, 0, MIGRATE_MISSING, 0, missing, sizeof(missing));
	add(s, 0, MIGRATE_STATE, MIGRATE_STATE_POSTCOPY, NULL, 0);
	if (!save(s, dir, "missing"))
		return false;
	begin(s, FUZZ_RECEIVE_CUT | FUZZ_RECEIVE_LANES(1));
	add_pages(s, 1, 0, false);
	add_end(s, NULL, 0);
	if (!save(s, dir, "cut-within-a-round"))
		return false;
	begin(s, FUZZ_RECEIVE_OTHER);
	return save(s, dir, "other-disks");
}

int main(int argc, char **argv)
{
	static struct seed s;

	if (argc != 2)
		return 2;
	return !save_whole(&s, argv[1]) || !save_refused(&s, argv[1]);
}
