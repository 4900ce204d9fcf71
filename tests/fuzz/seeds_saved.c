/* Seeds for fuzz_saved: packed memory of three chunks, as it is written and to be made good; pages
 * of a layer, and a working set. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/seed.h"
#include "vmm/saved/packed_memory.h"

#define NUM   3u
#define BYTES (2 * PACKED_CHUNK + 5 * PAGE_SIZE)

/* RAM: of one chunk the middle, nothing of the next, and of the last all, of which little packs. */
static int make_memory(void)
{
	static uint8_t ram[BYTES];
	int fd = memfd_create("ram", MFD_CLOEXEC);
	uint32_t x = 1;

	memset(ram + 6 * PAGE_SIZE, 7, PAGE_SIZE);
	for (size_t i = 2 * PACKED_CHUNK; i < BYTES; i++) {
		x = x * 1664525 + 1013904223;
		ram[i] = i % 64 < 8 ? x >> 24 : 1;
	}
	return fd >= 0 && write(fd, ram, BYTES) == BYTES ? fd : -1;
}

static bool save_packed(const char *dir)
{
	static uint8_t seed[128 * KiB];
	int from = make_memory(), to = memfd_create("frames", MFD_CLOEXEC), other = dup(to);
	struct packed_memory p = { .fd = -1 };
	struct state_writer w;
	uint8_t *at = seed;
	ssize_t n = -1;
	bool ok;

	state_writer_init(&w);
	ok = packed_memory_write(from, BYTES, to, &w) == 0 &&
	     packed_memory_open(&p, to, w.buf, w.len, NULL) == 0;
	if (ok) {
		*at++ = 0;
		put_le16(at, w.len);
		memcpy(at + 2, w.buf, w.len);
		at += 2 + w.len;
		n = pread(other, at, seed + sizeof(seed) - at, 0);
		ok = n > 0 && seed_write(dir, "packed", seed, at + n - seed);
	}
	if (ok) {
		at = seed;
		*at++ = 1;
		*at++ = NUM - 1;
		*at++ = NUM * (PACKED_CHUNK / PAGE_SIZE) - BYTES / PAGE_SIZE;
		for (unsigned i = 0; i < NUM; i++, at += 2)
			put_le16(at, p.at[i + 1] - p.at[i]);
		n = pread(other, at, seed + sizeof(seed) - at, 0);
		ok = n > 0 && seed_write(dir, "good", seed, at + n - seed);
	}
	packed_memory_close(&p);
	state_writer_done(&w);
	close(from);
	close(other);
	return ok;
}

/* 100 pages: how many there are, then a bit for each. */
static bool save_pages(const char *dir)
{
	uint8_t seed[2 + 2 * 24] = { 2, 100 - 1 };

	for (unsigned i = 0; i < 2; i++) {
		uint8_t *section = seed + 2 + i * 24ul;

		put_le64(section, 100);
		put_le64(section + 8, 0xf0f0);
		put_le64(section + 16, 1ull << 35);
	}
	if (!seed_write(dir, "pages", seed, 2 + 24))
		return false;
	seed[0] = 3;
	return seed_write(dir, "working-set", seed, sizeof(seed));
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: seeds_saved DIRECTORY\n", stderr);
		return 2;
	}
	if (save_packed(argv[1]) && save_pages(argv[1]))
		return 0;
	perror(argv[1]);
	return 1;
}
