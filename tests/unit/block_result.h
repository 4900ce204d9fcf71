/*
 * A request to a block and what came of it, for unit tests: submitted, and waited for by turning
 * the block's loop.
 *
 *	assert_int_equal(block_do(loop, b, (struct block_req){ .op = BLOCK_FLUSH }), 0);
 *
 * That it completes once, and not before block_submit() has returned, is asserted (cmocka).
 */
#ifndef WISP_TESTS_BLOCK_RESULT_H
#define WISP_TESTS_BLOCK_RESULT_H

#include "devices/block.h"

struct block_result {
	struct block_req req; /* its done is block_result_record */
	unsigned calls;
	int res;
};

void block_result_record(struct block_req *req, int res);

/* Turn @loop until @r is complete. Returns its result. */
int block_result_await(struct loop *loop, struct block_result *r);

/* Submit @req and wait: its result. */
int block_do(struct loop *loop, struct block *b, struct block_req req);

#endif
