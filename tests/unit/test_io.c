/* Places in the file system where somebody listens, or did. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/core/io.h"

struct place {
	char dir[32];
	char path[64];
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	strcpy(p->dir, "/tmp/test_io.XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/socket", p->dir);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	unlink(p->path);
	assert_int_equal(rmdir(p->dir), 0);
	free(p);
	return 0;
}

static void who_listens_is_reached(void **state)
{
	const struct place *p = *state;
	int fd = io_listen(p->path, SOCK_SEQPACKET, 0600, 1), a, b;
	struct stat st;
	char c;

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	a = io_connect(p->path, SOCK_SEQPACKET);
	assert_true(a >= 0);
	assert_int_equal(fcntl(a, F_GETFD), FD_CLOEXEC);
	b = accept(fd, NULL, NULL);
	assert_int_equal(write(a, "x", 1), 1);
	assert_int_equal(read(b, &c, 1), 1);
	/* One of another kind is not meant, and nothing that lives is taken for dead. */
	assert_int_equal(io_connect(p->path, SOCK_STREAM), -EPROTOTYPE);
	assert_false(io_remove_dead_socket(p->path, SOCK_SEQPACKET));
	assert_int_equal(io_listen(p->path, SOCK_SEQPACKET, 0, 1), -EADDRINUSE);
	close(a);
	close(b);
	close(fd);
}

static void what_a_dead_one_left_makes_room(void **state)
{
	const struct place *p = *state;
	int fd = io_listen(p->path, SOCK_STREAM, 0, 1);

	assert_int_equal(close(fd), 0);
	assert_int_equal(io_connect(p->path, SOCK_STREAM), -ECONNREFUSED);
	assert_int_equal(io_listen(p->path, SOCK_STREAM, 0, 1), -EADDRINUSE);
	assert_true(io_remove_dead_socket(p->path, SOCK_STREAM));
	fd = io_listen(p->path, SOCK_STREAM | SOCK_NONBLOCK, 0, 1);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
}

static void other_files_are_left_alone(void **state)
{
	const struct place *p = *state;

	assert_int_equal(io_connect(p->path, SOCK_STREAM), -ENOENT);
	assert_int_equal(io_connect("", SOCK_STREAM), -ENOENT);
	assert_int_equal(io_listen("", SOCK_STREAM, 0, 1), -ENOENT);
	assert_int_equal(close(open(p->path, O_CREAT | O_WRONLY, 0600)), 0);
	assert_int_equal(io_listen(p->path, SOCK_STREAM, 0600, 1), -EADDRINUSE);
	assert_false(io_remove_dead_socket(p->path, SOCK_STREAM));
	assert_int_equal(access(p->path, F_OK), 0);
}

static void paths_that_no_socket_can_have_are_refused(void **state)
{
	const struct place *p = *state;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];
	int fd;

	/* The longest there is, and one byte more. */
	memset(path, '/', sizeof(path));
	memcpy(path, p->dir, strlen(p->dir));
	strcpy(path + sizeof(path) - 7, "socket");
	assert_int_equal(io_listen(path, SOCK_STREAM, 0, 1), -ENAMETOOLONG);
	assert_int_equal(io_connect(path, SOCK_STREAM), -ENAMETOOLONG);
	assert_false(io_remove_dead_socket(path, SOCK_STREAM));
	path[sizeof(path) - 2] = '\0';
	fd = io_listen(path, SOCK_STREAM, 0, 1);
	assert_true(fd >= 0);
	close(fd);
	assert_true(io_remove_dead_socket(path, SOCK_STREAM));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(who_listens_is_reached),
		TEST(what_a_dead_one_left_makes_room),
		TEST(other_files_are_left_alone),
		TEST(paths_that_no_socket_can_have_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
