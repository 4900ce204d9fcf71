#include "tests/unit/nbd_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <unistd.h>

void nbd_peer_reply(int fd, uint32_t magic, uint32_t error, uint64_t cookie)
{
	uint32_t head[4] = { htobe32(magic), htobe32(error), (uint32_t)cookie,
			     (uint32_t)(cookie >> 32) };

	assert_int_equal(write(fd, head, sizeof(head)), sizeof(head));
}
