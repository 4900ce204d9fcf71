/* RAM of a snapshot packed, and unpacked as a whole: in the process of the verb. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "vmm/core/guest_mem.h"
#include "vmm/core/io.h"
#include "vmm/saved/held_signals.h"
#include "vmm/saved/packed_format.h"

/* Packs memory to a third about as fast as a disk takes it; higher ones gain a few percent. */
#define LEVEL 3

struct packing {
	int from, to;
	uint64_t at; /* in @to */
	ZSTD_CCtx *zstd;
	uint8_t *chunk, *frame;
	struct state_writer *index;
};

static bool is_zero(const uint8_t *chunk, size_t len)
{
	unsigned num = len / PAGE_SIZE;
	bool zero;

	return guest_mem_alike(chunk, num, &zero) == num && zero;
}

static void put_entry(struct packing *p, size_t len)
{
	state_put_u32(p->index, len);
	state_put_u64(p->index, len ? XXH3_64bits(p->frame, len) : 0);
}

static int pack_chunk(struct packing *p, uint64_t offset, size_t len)
{
	int r = io_read_at(p->from, p->chunk, len, offset);
	size_t n;

	if (r < 0)
		return r;
	if (is_zero(p->chunk, len)) {
		put_entry(p, 0);
		return 0;
	}
	n = ZSTD_compressCCtx(p->zstd, p->frame, PACKED_FRAME_MAX, p->chunk, len, LEVEL);
	if (ZSTD_isError(n))
		return -ENOMEM;
	r = io_write_at(p->to, p->frame, n, p->at);
	p->at += n;
	put_entry(p, n);
	return r;
}

/* Up to where there is nothing but a hole from @offset on; @offset itself when there is data. */
static int find_data(int fd, uint64_t offset, uint64_t end, uint64_t *ret_data)
{
	off_t data = lseek(fd, (off_t)offset, SEEK_DATA);

	if (data < 0 && errno != ENXIO)
		return -errno;
	*ret_data = data < 0 ? end : (uint64_t)data;
	return 0;
}

static int pack_all(struct packing *p, uint64_t bytes)
{
	uint64_t data = 0, offset = 0;
	int r = 0;

	while (offset < bytes && !r) {
		size_t len = MIN(PACKED_CHUNK, bytes - offset);

		if (data < offset + len)
			r = find_data(p->from, offset, bytes, &data);
		if (!r && data < offset + len)
			r = pack_chunk(p, offset, len);
		else if (!r)
			put_entry(p, 0);
		/* Who holds signals back has something to put right. */
		if (!r && held_signals_came())
			r = -EINTR;
		offset += len;
	}
	return r;
}

bool packed_memory_fits(uint64_t bytes)
{
	return bytes / PACKED_CHUNK * PACKED_ENTRY <= PACKED_INDEX_MAX;
}

int packed_memory_write(int from, uint64_t bytes, int to, struct state_writer *index)
{
	struct packing p = {
		.from = from,
		.to = to,
		.zstd = ZSTD_createCCtx(),
		.chunk = malloc(PACKED_CHUNK),
		.frame = malloc(PACKED_FRAME_MAX),
		.index = index,
	};
	int r = p.zstd && p.chunk && p.frame ? 0 : -ENOMEM;

	if (!packed_memory_fits(bytes))
		r = -EFBIG;
	if (!r) {
		state_begin(index, PACKED_SECTION, 0, PACKED_VERSION);
		state_put_u64(index, bytes);
		state_put_u32(index, PACKED_CHUNK);
		r = pack_all(&p, bytes);
		state_end(index);
		state_seal(index);
	}
	ZSTD_freeCCtx(p.zstd);
	free(p.chunk);
	free(p.frame);
	return r ? r : index->failed;
}

/* ---- and back ---- */

/* Without pages that are zero. */
static int write_pages(int to, const uint8_t *buf, size_t len, uint64_t offset)
{
	size_t some;
	bool zero;
	int r = 0;

	for (size_t at = 0; at < len && !r; at += some) {
		some = PAGE_SIZE * guest_mem_alike(buf + at, (len - at) / PAGE_SIZE, &zero);
		if (!zero)
			r = io_write_at(to, buf + at, some, offset + at);
	}
	return r;
}

int packed_memory_expand(const struct packed_memory *p, int to)
{
	struct packed_reader reader;
	uint8_t *buf = malloc(PACKED_CHUNK);
	int r = packed_reader_init(&reader);

	if (!buf)
		r = -ENOMEM;
	if (!r && ftruncate(to, (off_t)p->bytes) < 0)
		r = -errno;
	for (uint64_t i = 0; i < p->num && !r; i++) {
		uint64_t offset = i * PACKED_CHUNK;
		size_t len = MIN(PACKED_CHUNK, p->bytes - offset);

		if (!packed_memory_has(p, i))
			continue;
		r = packed_memory_read(p, &reader, buf, len, offset);
		if (!r)
			r = write_pages(to, buf, len, offset);
	}
	packed_reader_done(&reader);
	free(buf);
	return r;
}
