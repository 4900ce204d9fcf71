/* What the input of fuzz_fs is made of: requests, each with its body behind it. */
#ifndef WISP_TESTS_FUZZ_FS_H
#define WISP_TESTS_FUZZ_FS_H

#include "vmm/core/util.h"

struct fuzz_request {
	uint8_t opcode; /* or FUZZ_RELOAD */
	uint8_t node;  /* which of those that were found or made, or a number nobody gave */
	uint8_t first; /* what the body's first 8 bytes become: see below */
	uint8_t len;   /* of the body */
};

/* No request: the server is saved and loaded. With a body: loaded, from what that has. */
#define FUZZ_RELOAD 255

#define FUZZ_FIRST_AS_IT_IS 0
#define FUZZ_FIRST_NODE	    1   /* and up: a node */
#define FUZZ_FIRST_HANDLE   128 /* and up: a handle */

#endif
