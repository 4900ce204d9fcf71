#include "vmm/saved/packed_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "vmm/core/guest_mem.h"
#include "vmm/core/io.h"
#include "vmm/saved/packed_format.h"

/* ---- the index ---- */

/* Chunk after chunk: where its frame begins is where the one before ends, so none overlap. */
static void read_chunks(struct packed_memory *p, struct state_reader *r)
{
	uint64_t at = 0;

	for (uint64_t i = 0; i < p->num && !r->failed; i++) {
		uint32_t len = state_get_u32(r);

		p->at[i] = at;
		p->hash[i] = state_get_u64(r);
		if (len > PACKED_FRAME_MAX)
			state_reader_fail(r, "a frame of %u bytes", len);
		at += len;
	}
	p->at[p->num] = at;
}

static int read_index(struct packed_memory *p, struct state_reader *r)
{
	uint32_t chunk;

	p->bytes = state_get_u64(r);
	chunk = state_get_u32(r);
	if (r->failed)
		return 0;
	if (chunk != PACKED_CHUNK)
		return state_reader_fail(r, "chunks of %u bytes", chunk);
	p->num = p->bytes / PACKED_CHUNK + (p->bytes % PACKED_CHUNK != 0);
	/* What is left of the section bounds what is asked for here. */
	if (!p->num || p->bytes % PAGE_SIZE || p->num != (r->len - r->pos) / PACKED_ENTRY)
		return state_reader_fail(r, "RAM of %" PRIu64 " bytes", p->bytes);
	p->at = calloc(p->num + 1, sizeof(*p->at));
	p->hash = calloc(p->num, sizeof(*p->hash));
	if (!p->at || !p->hash)
		return -ENOMEM;
	read_chunks(p, r);
	return 0;
}

static int check_length(const struct packed_memory *p, struct error *err)
{
	struct stat st;

	if (fstat(p->fd, &st) < 0)
		return error_set(err, -errno, "packed memory: %m");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != p->at[p->num])
		return error_set(err, -EBADMSG,
				 "packed memory: a file of %lld bytes for frames of %" PRIu64,
				 (long long)st.st_size, p->at[p->num]);
	return 0;
}

int packed_memory_open(struct packed_memory *p, int fd, const uint8_t *buf, size_t len,
		       struct error *err)
{
	struct state_set set = { 0 };
	struct state_reader r;
	int ret;

	*p = (struct packed_memory){ .fd = fd };
	ret = state_set_open(&set, buf, len, err);
	if (!ret)
		ret = state_set_take(&set, PACKED_SECTION, 0, PACKED_VERSION, &r, err);
	if (!ret && read_index(p, &r) == -ENOMEM)
		ret = error_set(err, -ENOMEM, "packed memory: %m");
	else if (!ret)
		ret = state_reader_end(&r, err);
	if (!ret)
		ret = state_set_finish(&set, err);
	if (!ret)
		ret = check_length(p, err);
	state_set_close(&set);
	if (ret < 0)
		packed_memory_close(p);
	return ret;
}

void packed_memory_close(struct packed_memory *p)
{
	if (!p)
		return;
	if (p->fd >= 0)
		close(p->fd);
	free(p->at);
	free(p->hash);
	*p = (struct packed_memory){ .fd = -1 };
}

/* ---- chunks ---- */

int packed_reader_init(struct packed_reader *r)
{
	*r = (struct packed_reader){
		.zstd = ZSTD_createDCtx(),
		.frame = malloc(PACKED_FRAME_MAX),
		.chunk = malloc(PACKED_CHUNK),
	};
	if (r->zstd && r->frame && r->chunk)
		return 0;
	packed_reader_done(r);
	return -ENOMEM;
}

void packed_reader_done(struct packed_reader *r)
{
	ZSTD_freeDCtx(r->zstd);
	free(r->frame);
	free(r->chunk);
	*r = (struct packed_reader){ 0 };
}

/*
 * One frame, and of a chunk. Older formats and skippable frames, which the library would read as
 * well, are neither written nor believed.
 */
static bool is_frame(const uint8_t *frame, size_t len, size_t want)
{
	return len >= sizeof(uint32_t) && get_le32(frame) == ZSTD_MAGICNUMBER &&
	       ZSTD_getFrameContentSize(frame, len) == want &&
	       ZSTD_findFrameCompressedSize(frame, len) == len;
}

static int unpack(const struct packed_memory *p, struct packed_reader *r, uint64_t i)
{
	size_t len = p->at[i + 1] - p->at[i];
	size_t want = MIN(PACKED_CHUNK, p->bytes - i * PACKED_CHUNK);
	int ret;

	if (r->of == p && r->number == i)
		return 0;
	r->of = NULL;
	if (!len) {
		memset(r->chunk, 0, want);
	} else {
		ret = io_read_at(p->fd, r->frame, len, p->at[i]);
		if (ret < 0)
			return ret;
		if (XXH3_64bits(r->frame, len) != p->hash[i] || !is_frame(r->frame, len, want) ||
		    ZSTD_decompressDCtx(r->zstd, r->chunk, want, r->frame, len) != want)
			return -EBADMSG;
	}
	r->of = p;
	r->number = i;
	return 0;
}

int packed_memory_read(const struct packed_memory *p, struct packed_reader *r, void *buf,
		       size_t len, uint64_t offset)
{
	uint8_t *to = buf;

	while (len) {
		uint64_t i = offset / PACKED_CHUNK, from = offset % PACKED_CHUNK;
		size_t some = MIN((uint64_t)len, PACKED_CHUNK - from);
		int ret = unpack(p, r, i);

		if (ret < 0)
			return ret;
		memcpy(to, r->chunk + from, some);
		to += some;
		offset += some;
		len -= some;
	}
	return 0;
}
