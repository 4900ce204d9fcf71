/* Seeds for fuzz_migrate: a stream as it is sent, and records and a HELLO to be made good. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zstd.h>

#include "vmm/migrate/migrate_wire.h"

#define WINDOW_HEADER 128

static int save(const char *dir, const char *name, uint8_t kind, const void *p, size_t len)
{
	char path[4096];
	FILE *out;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	out = fopen(path, "we");
	if (!out)
		return -errno;
	ok = fputc(kind, out) != EOF && fwrite(p, len, 1, out) == 1;
	return fclose(out) == 0 && ok ? 0 : -EIO;
}

/* A window with pages 0 and 3, and 5 empty. */
static size_t make_window(uint8_t *p, bool packed)
{
	static uint8_t pages[2 * PAGE_SIZE];

	memset(p, 0, WINDOW_HEADER);
	p[0] = 1 | 1 << 3;
	p[64] = 1 << 5;
	memset(pages, 7, sizeof(pages));
	if (packed)
		return WINDOW_HEADER + ZSTD_compress(p + WINDOW_HEADER, sizeof(pages), pages,
						     sizeof(pages), 1);
	memcpy(p + WINDOW_HEADER, pages, sizeof(pages));
	return WINDOW_HEADER + sizeof(pages);
}

static int save_stream(const char *dir)
{
	static uint8_t window[WINDOW_HEADER + 4 * PAGE_SIZE], bytes[64 * KiB];
	struct migrate_wire w;
	struct error err = { 0 };
	int pair[2];
	ssize_t n;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    migrate_wire_init(&w, pair[0], pair[0], &err) < 0)
		return -EIO;
	for (unsigned packed = 0; packed < 2; packed++) {
		size_t len = make_window(window, packed);

		migrate_wire_send(&w, packed ? MIGRATE_PAGES_ZSTD : MIGRATE_PAGES, 512 * packed,
				  window, len, &err);
	}
	migrate_wire_send(&w, MIGRATE_ROUND, 0, NULL, 0, &err);
	migrate_wire_send(&w, MIGRATE_GIVEN_UP, 0, "words", 5, &err);
	n = read(pair[1], bytes, sizeof(bytes));
	migrate_wire_done(&w);
	close(pair[1]);
	return n <= 0 ? -EIO : save(dir, "stream", 0, bytes, n);
}

static int save_records(const char *dir)
{
	static uint8_t bytes[64 * KiB];
	size_t at = 0;

	for (unsigned packed = 0; packed < 2; packed++) {
		size_t len = make_window(bytes + at + 4, packed);

		bytes[at] = (packed ? MIGRATE_PAGES_ZSTD : MIGRATE_PAGES) - 1;
		bytes[at + 1] = 8 * packed;
		put_le16(bytes + at + 2, len);
		at += 4 + len;
	}
	return save(dir, "records", 1, bytes, at);
}

/* Of a disk: a unit and an empty one, the same compressed, and a range of empty ones. */
static int save_disk(const char *dir)
{
	static uint8_t bytes[16 * KiB], unit[64 * KiB];
	uint8_t *p = bytes;
	size_t len;

	/* The length of a record in a seed has 16 bits, so only the compressed one is whole. */
	memset(unit, 7, sizeof(unit));
	p[0] = MIGRATE_DISK_ZSTD - 1;
	put_le16(p + 4 + 4, 1);
	put_le16(p + 4 + 6, 1 << 2);
	len = ZSTD_compress(p + 4 + 8, KiB, unit, sizeof(unit), 1);
	put_le16(p + 2, 8 + len);
	p += 4 + 8 + len;
	p[0] = MIGRATE_DISK - 1;
	put_le32(p + 4, 2);
	put_le16(p + 4 + 6, 1 << 1);
	put_le16(p + 2, 8);
	p += 4 + 8;
	p[0] = MIGRATE_DISK_ZEROES - 1;
	put_le64(p + 4 + 4, 6);
	put_le16(p + 2, 12);
	p += 4 + 12;
	return save(dir, "disk", 1, bytes, p - bytes);
}

/* What a destination says of pages that it misses: at first, and over another connection. */
static int save_late(const char *dir)
{
	uint8_t bytes[64] = { 0 }, *p = bytes;
	int r;

	p[0] = MIGRATE_MISSING - 1;
	put_le16(p + 2, 16);
	put_le64(p + 4, 5);
	put_le64(p + 12, 1ull << 63);
	p += 20;
	p[0] = MIGRATE_RESUMED - 1;
	p += 4;
	p[0] = MIGRATE_WANT - 1;
	p[1] = 1;
	p += 4;
	p[0] = MIGRATE_WHOLE - 1;
	p += 4;
	r = save(dir, "resumed", 3 | 4, bytes, p - bytes);
	if (!r)
		r = save(dir, "missing", 1, bytes, p - bytes);
	return r ? r : save(dir, "wanted", 3, bytes + 24, p - bytes - 24);
}

/* The version is 1 + the number of bytes modulo MIGRATE_VERSION (fuzz_migrate.c). */
static int save_hello(const char *dir, const char *file, const char *name, const void *rest,
		      size_t rest_len)
{
	uint8_t bytes[128] = { 0 };
	size_t n = strlen(name);

	put_le32(bytes + 16, n);
	memcpy(bytes + 20, name, n);
	put_le64(bytes + 20 + n, 64 * MiB);
	put_le64(bytes + 28 + n, 5 * MiB);
	put_le32(bytes + 36 + n, 1);
	put_le64(bytes + 40 + n, MiB);
	memcpy(bytes + 48 + n, rest, rest_len);
	return save(dir, file, 2, bytes, 48 + n + rest_len);
}

int main(int argc, char **argv)
{
	int r;

	if (argc != 2) {
		fputs("usage: seeds_migrate DIRECTORY\n", stderr);
		return 2;
	}
	r = save_stream(argv[1]);
	if (!r)
		r = save_records(argv[1]);
	if (!r)
		r = save_disk(argv[1]);
	if (!r)
		r = save_late(argv[1]);
	if (!r)
		r = save_hello(argv[1], "hello", "moving", "", 0);
	if (!r)
		r = save_hello(argv[1], "hello-copies", "moving", "\0\1", 2);
	if (!r)
		r = save_hello(argv[1], "hello-late", "moving", "\0\0\2\1\1", 5);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
	return r < 0;
}
