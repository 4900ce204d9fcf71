/*
 * RAM of a snapshot, compressed: chunks of 64 KiB, each a zstd frame of its own, so that any page
 * can be had without those before it. `memory-zstd` is the frames, one after the other;
 * `memory-index` says of each chunk how long its frame is and what its bytes hash to, in a section
 * like those of the state (docs/snapshot.md). A chunk that is all zero has no frame.
 *
 * Both files are hostile. The index is checked when it is opened: its lengths make up the frames'
 * file, none is longer than a chunk can become, and RAM is no larger than there are chunks. A frame
 * is checked when it is read: its hash, then that it says of itself to be one chunk, whole. So
 * nothing is ever unpacked to more than 64 KiB.
 */
#ifndef WISP_VMM_PACKED_MEMORY_H
#define WISP_VMM_PACKED_MEMORY_H

#include "vmm/core/state.h"

#define PACKED_CHUNK (64 * KiB)

/* Read by any thread, once opened. */
struct packed_memory {
	int fd;		/* the frames */
	uint64_t bytes; /* of RAM, whole pages */
	uint64_t num;	/* chunks of it; the last one may be shorter */
	uint64_t *at;	/* num + 1 of them: where in the file a chunk's frame is, up to the next */
	uint64_t *hash; /* XXH3 of each frame */
};

/*
 * Take the index in @buf of the frames in @fd, which is the packed memory's from then on, in
 * either case. -EBADMSG with @err when the two are no packed memory, -ENOMEM.
 */
int packed_memory_open(struct packed_memory *p, int fd, const uint8_t *buf, size_t len,
		       struct error *err);

/* Accepts one that could not be opened, and NULL. */
void packed_memory_close(struct packed_memory *p);

/* Is there anything but zero in chunk @i? */
static inline bool packed_memory_has(const struct packed_memory *p, uint64_t i)
{
	return p->at[i] != p->at[i + 1];
}

/* What one thread reads with. After the init it needs no memory, and no system call but pread(). */
struct packed_reader {
	struct ZSTD_DCtx_s *zstd;
	uint8_t *frame, *chunk;
	/* What is in @chunk: that one of this memory; NULL: nothing. */
	const struct packed_memory *of;
	uint64_t number;
};

/* -ENOMEM. */
int packed_reader_init(struct packed_reader *r);
void packed_reader_done(struct packed_reader *r);

/*
 * @len bytes of RAM from @offset on, which there are. Those next to one another are unpacked once.
 * -EBADMSG when the frame is not what the index says, -EIO when it is cut off, and other -errno.
 */
int packed_memory_read(const struct packed_memory *p, struct packed_reader *r, void *buf,
		       size_t len, uint64_t offset);

/* Is there an index for RAM of @bytes? Up to 336 GiB. */
bool packed_memory_fits(uint64_t bytes);

/*
 * Pack RAM of @bytes, a sparse file as guest_mem_save() writes it, into @to, which is empty; the
 * index is appended to @index, and sealed. -EFBIG: RAM is too large for an index. -errno.
 */
int packed_memory_write(int from, uint64_t bytes, int to, struct state_writer *index);

/* The other way: into @to, which is empty, and sparse afterwards. -errno. */
int packed_memory_expand(const struct packed_memory *p, int to);

#endif
