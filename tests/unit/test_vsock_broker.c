/* The parent's side of vsock: what is asked of it without end does not keep it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/vsock_broker.h"

static void ask(int fd, unsigned num)
{
	struct vsock_open_request request = { .port = 1 };

	for (request.id = 0; request.id < num; request.id++)
		assert_int_equal(send(fd, &request, sizeof(request), MSG_DONTWAIT),
				 sizeof(request));
}

/* How many answers there are by now, in the order of their requests from @first on. */
static unsigned answers(int fd, unsigned first)
{
	struct vsock_open_reply reply;
	unsigned n = 0;

	while (recv(fd, &reply, sizeof(reply), MSG_DONTWAIT) == sizeof(reply)) {
		assert_int_equal(reply.id, first + n++);
		assert_int_equal(reply.error, ENOENT);
	}
	return n;
}

static void one_who_only_asks_is_answered_in_turns(void **state)
{
	static const char path[] = "/nowhere/vsock";
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	ask(pair[1], 3);
	assert_int_equal(vsock_broker_serve(pair[0], path), 0);
	assert_int_equal(answers(pair[1], 0), 3);

	ask(pair[1], VSOCK_MAX_REQUESTS + 2);
	assert_int_equal(vsock_broker_serve(pair[0], path), 1);
	assert_int_equal(answers(pair[1], 0), VSOCK_MAX_REQUESTS);
	assert_int_equal(vsock_broker_serve(pair[0], path), 0);
	assert_int_equal(answers(pair[1], VSOCK_MAX_REQUESTS), 2);

	close(pair[1]);
	assert_int_equal(vsock_broker_serve(pair[0], path), -EPIPE);
	close(pair[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_who_only_asks_is_answered_in_turns),
	};

	return cmocka_run_group_tests_name("vsock broker", tests, NULL, NULL);
}
