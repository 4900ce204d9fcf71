/* What the two halves of vmm/saved/packed_memory.h agree on. */
#ifndef WISP_VMM_PACKED_FORMAT_H
#define WISP_VMM_PACKED_FORMAT_H

#include "vmm/saved/packed_memory.h"

#define PACKED_SECTION "memory/chunks"
#define PACKED_VERSION 1

/* Of the index: a u32, how long the frame is, and a u64, its hash. */
#define PACKED_ENTRY 12u

/* How long an index becomes at most; one entry of it is for 64 KiB of RAM. */
#define PACKED_INDEX_MAX (63 * MiB)

/* What 64 KiB that cannot be packed become at most; ZSTD_COMPRESSBOUND(), with room to spare. */
#define PACKED_FRAME_MAX (PACKED_CHUNK + PACKED_CHUNK / 64)

#endif
