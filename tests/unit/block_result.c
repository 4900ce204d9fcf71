#include "tests/unit/block_result.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/patience.h"

void block_result_record(struct block_req *req, int res)
{
	struct block_result *r = container_of(req, struct block_result, req);

	r->calls++;
	r->res = res;
}

int block_result_await(struct loop *loop, struct block_result *r)
{
	for (uint64_t end = patience(); !r->calls && !patience_ends(end);)
		loop_run_once(loop, NSEC_PER_SEC);
	assert_int_equal(r->calls, 1);
	return r->res;
}

int block_do(struct loop *loop, struct block *b, struct block_req req)
{
	struct block_result r = { .req = req };

	r.req.done = block_result_record;
	block_submit(b, &r.req);
	/* Never from within. */
	assert_int_equal(r.calls, 0);
	return block_result_await(loop, &r);
}
