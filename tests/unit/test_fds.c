#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/num_fds.h"
#include "vmm/core/fds.h"

#define MANY 3

static void send_fds(int socket, const int *fds, unsigned num)
{
	struct iovec iov = { "x", 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	FDS_SPACE(MANY) space;

	if (num)
		fds_attach(&msg, &space, fds, num);
	assert_int_equal(sendmsg(socket, &msg, 0), 1);
}

/* With room for @room descriptors in the message, and @max in @ret_fds. */
static unsigned receive_fds(int socket, unsigned room, int *ret_fds, unsigned max)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	FDS_SPACE(MANY) space;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &space,
		.msg_controllen = CMSG_SPACE(room * sizeof(int)),
	};

	assert_int_equal(recvmsg(socket, &msg, MSG_CMSG_CLOEXEC), 1);
	return fds_take(&msg, ret_fds, max);
}

static bool is_same_file(int a, int b)
{
	struct stat sa, sb;

	assert_int_equal(fstat(a, &sa), 0);
	assert_int_equal(fstat(b, &sb), 0);
	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static void they_arrive_in_their_order(void **state)
{
	int pair[2], files[2], got[MANY];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	for (unsigned i = 0; i < 2; i++)
		files[i] = memfd_create("test", 0);
	send_fds(pair[0], files, 2);
	assert_int_equal(receive_fds(pair[1], MANY, got, MANY), 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_not_equal(got[i], files[i]);
		assert_true(is_same_file(got[i], files[i]));
		close(got[i]);
		close(files[i]);
		close(pair[i]);
	}
}

/* In the room of one there is one of another, of which whoever asks for one must not lose track. */
static void what_nobody_asked_for_is_closed(void **state)
{
	int pair[2], files[MANY], got[MANY];
	unsigned before;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	for (unsigned i = 0; i < MANY; i++)
		files[i] = dup(pair[0]);
	before = num_fds();
	for (unsigned room = 1; room <= MANY; room++) {
		send_fds(pair[0], files, MANY);
		assert_int_equal(receive_fds(pair[1], room, got, 1), 1);
		assert_true(is_same_file(got[0], files[0]));
		close(got[0]);
		assert_int_equal(num_fds(), before);
	}
	for (unsigned i = 0; i < MANY; i++)
		close(files[i]);
	close(pair[0]);
	close(pair[1]);
}

static void message_may_come_alone(void **state)
{
	int pair[2], got[MANY];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	send_fds(pair[0], NULL, 0);
	assert_int_equal(receive_fds(pair[1], MANY, got, MANY), 0);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(they_arrive_in_their_order),
		cmocka_unit_test(what_nobody_asked_for_is_closed),
		cmocka_unit_test(message_may_come_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
