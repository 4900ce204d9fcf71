/*
 * The format of a raw image that was found by looking at it must be found the
 * same way next time. A guest owns every byte of its disk: one that wrote a
 * qcow2 header to a raw image would have the next start open, as its backing
 * file, any file that the header names. So through a disk whose format nobody
 * stated, such a beginning cannot be written. Who says format=raw is free of it.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/block_internal.h"
#include "devices/qcow2_format.h"
#include "vmm/core/log.h"

struct guarded {
	struct block_req inner;
	struct block_req *outer;
	uint8_t first[BLOCK_SECTOR] __attribute__((aligned(BLOCK_SECTOR)));
	struct iovec iov[];
};

static void inner_done(struct block_req *req, int res)
{
	struct guarded *g = container_of(req, struct guarded, inner);
	struct block_req *outer = g->outer;

	free(g);
	block_finish(outer, res);
}

/* Our own copy of the first bytes, and the request's segments without these. */
static void take_first(struct guarded *g, const struct block_req *req)
{
	uint64_t left = MIN(req->len, (uint64_t)BLOCK_SECTOR);

	g->iov[0] = (struct iovec){ g->first, left };
	g->inner.iovcnt = 1;
	for (unsigned i = 0; i < req->iovcnt; i++) {
		uint64_t n = MIN(left, (uint64_t)req->iov[i].iov_len);

		memcpy(g->first + g->iov[0].iov_len - left, req->iov[i].iov_base, n);
		left -= n;
		if (n < req->iov[i].iov_len)
			g->iov[g->inner.iovcnt++] = (struct iovec){
				(uint8_t *)req->iov[i].iov_base + n,
				req->iov[i].iov_len - n,
			};
	}
}

void block_guard_submit(struct block *b, struct block_req *req)
{
	struct guarded *g = aligned_alloc(
		BLOCK_SECTOR, align_up(sizeof(*g) + (req->iovcnt + 1) * sizeof(g->iov[0]),
				       BLOCK_SECTOR));

	if (!g) {
		block_finish_later(req, -ENOMEM);
		return;
	}
	g->outer = req;
	g->inner = *req;
	g->inner.done = inner_done;
	g->inner.iov = g->iov;
	/* Copied before it is looked at: the guest may change its memory meanwhile. */
	take_first(g, req);
	if (req->offset || (req->len >= 4 && get_be32(g->first) == QCOW2_MAGIC)) {
		if (!b->guard_told)
			log_warn("disk '%s': the guest writes a qcow2 header to it; refused, since "
				 "its format was not given: use format=raw if it may", b->path);
		b->guard_told = true;
		free(g);
		block_finish_later(req, -EPERM);
		return;
	}
	b->inflight++;
	block_dispatch(b, &g->inner);
}
