#include "tests/unit/wire_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/socket.h>

void wire_pair(struct migrate_wire *a, struct migrate_wire *b)
{
	int pair[2], large = 8 * MiB;
	struct error err = { 0 };

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	for (unsigned i = 0; i < 2; i++) {
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
		setsockopt(pair[i], SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof(large));
	}
	assert_int_equal(migrate_wire_init(a, pair[0], pair[0], &err), 0);
	assert_int_equal(migrate_wire_init(b, pair[1], pair[1], &err), 0);
}
