/* Character devices over a socket, to which clients come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_port.h"
#include "tests/unit/loop_fixture.h"

static void socket_path(char *path, size_t size)
{
	snprintf(path, size, "/tmp/wisp-chardev-%d.sock", getpid());
}

static int dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	return fd;
}

static void clients_come_and_go(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct fake_port p;
	char path[64], buf[8];
	int fd;

	socket_path(path, sizeof(path));
	config.path = path;
	fake_port_init(&p, &config);
	assert_false(chardev_is_open(p.c));
	/* Nobody there: dropped, and no reason to wait. */
	assert_int_equal(chardev_write(p.c, "lost", 4), 4);

	for (unsigned i = 1; i <= 3; i++) {
		fd = dial(path);
		fake_port_await(&p, p.opened == i);
		assert_true(chardev_is_open(p.c));
		assert_int_equal(write(fd, "in", 2), 2);
		fake_port_await(&p, p.num_got == 2 * i);
		assert_int_equal(chardev_write(p.c, "out", 3), 3);
		fake_port_settle(&p);
		assert_int_equal(read(fd, buf, sizeof(buf)), 3);
		close(fd);
		fake_port_await(&p, p.closed == i);
		assert_false(chardev_is_open(p.c));
	}
	fake_port_done(&p);
	assert_int_equal(access(path, F_OK), -1);
}

static void a_client_that_said_all_still_hears_the_answer(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct fake_port p;
	char path[64], buf[8];
	int fd;

	socket_path(path, sizeof(path));
	config.path = path;
	fake_port_init(&p, &config);
	fd = dial(path);
	assert_int_equal(write(fd, "?", 1), 1);
	shutdown(fd, SHUT_WR);
	fake_port_await(&p, p.num_got == 1);
	fake_port_settle(&p);
	assert_int_equal(p.closed, 0);
	assert_int_equal(chardev_write(p.c, "answer", 6), 6);
	fake_port_settle(&p);
	assert_int_equal(read(fd, buf, sizeof(buf)), 6);
	close(fd);
	fake_port_await(&p, p.closed == 1);
	fake_port_done(&p);
}

static void a_client_that_leaves_unread_input_is_noticed(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct fake_port p;
	char path[64];
	int fd;

	socket_path(path, sizeof(path));
	config.path = path;
	fake_port_init(&p, &config);
	p.room = 0;
	fd = dial(path);
	assert_int_equal(write(fd, "never read", 10), 10);
	fake_port_await(&p, p.opened == 1);
	fake_port_settle(&p);
	close(fd);
	fake_port_await(&p, p.closed == 1);

	/* The next one is heard, after what is still to be said. */
	fd = dial(path);
	assert_int_equal(write(fd, "b", 1), 1);
	fake_port_await(&p, p.opened == 2);
	p.room = SIZE_MAX;
	chardev_resume_input(p.c);
	fake_port_await(&p, p.num_got == 11);
	assert_memory_equal(p.got, "never readb", 11);
	/* One that goes with output under way does not hold up the guest. */
	p.out_left = sizeof(p.got);
	p.out = p.got;
	for (int i = 0; i < 10 && !p.out_left; i++) {
		p.out = p.got;
		p.out_left = sizeof(p.got);
		fake_port_pump(&p);
	}
	fake_port_pump(&p);
	fake_port_settle(&p);
	close(fd);
	fake_port_await(&p, p.closed == 2);
	if (p.out_left)
		fake_port_pump(&p);
	assert_int_equal(p.out_left, 0);
	fake_port_done(&p);
}

/* More than is read at once, a few bytes of room at a time, and nobody there when it comes. */
static void what_a_client_said_before_it_left_is_heard(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct fake_port p;
	uint8_t said[20000];
	char path[64];
	int fd;

	for (size_t i = 0; i < sizeof(said); i++)
		said[i] = i * 7 + i / 256;
	socket_path(path, sizeof(path));
	config.path = path;
	fake_port_init(&p, &config);
	p.room = 16;
	fd = dial(path);
	assert_int_equal(write(fd, said, sizeof(said)), sizeof(said));
	close(fd);
	fake_port_await(&p, p.closed == 1);
	while (p.num_got < sizeof(said)) {
		size_t got = p.num_got;

		p.room = 16;
		chardev_resume_input(p.c);
		fake_port_await(&p, p.num_got > got);
	}
	assert_int_equal(p.num_got, sizeof(said));
	assert_memory_equal(p.got, said, sizeof(said));
	fake_port_done(&p);
}

/* The guest's output is what finds out that nobody is there any more, or nobody who listens. */
static void output_finds_it_gone(bool gone)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct fake_port p;
	char path[64];
	int fd;

	socket_path(path, sizeof(path));
	config.path = path;
	fake_port_init(&p, &config);
	p.room = 0;
	fd = dial(path);
	fake_port_await(&p, p.opened == 1);
	assert_int_equal(write(fd, "all of it", 9), 9);
	if (gone)
		close(fd);
	else
		shutdown(fd, SHUT_RD);
	chardev_write(p.c, "?", 1);
	fake_port_await(&p, p.closed == 1);
	p.room = SIZE_MAX;
	chardev_resume_input(p.c);
	assert_int_equal(p.num_got, 9);
	assert_memory_equal(p.got, "all of it", 9);
	fake_port_done(&p);
	if (!gone)
		close(fd);
}

static void what_a_client_said_is_heard_when_output_finds_it_gone(void **state)
{
	output_finds_it_gone(true);
}

/* It could still say something, for which nobody waits. */
static void a_client_that_does_not_listen_is_not_waited_for(void **state)
{
	output_finds_it_gone(false);
}

static void a_stale_socket_is_replaced_and_a_live_one_is_not(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int stale = socket(AF_UNIX, SOCK_STREAM, 0);
	struct error err = { 0 };
	static struct fake_port p;
	struct chardev *other;
	char path[64];

	socket_path(path, sizeof(path));
	strcpy(addr.sun_path, path);
	assert_int_equal(bind(stale, (void *)&addr, sizeof(addr)), 0);
	close(stale);
	config.path = path;
	fake_port_init(&p, &config);
	assert_int_equal(chardev_create(&other, &config, p.loop, &err), -EADDRINUSE);
	assert_int_equal(err.kind, ERROR_USAGE);
	close(dial(path)); /* still there */
	fake_port_done(&p);
}

static void what_is_no_socket_stays(void **state)
{
	char path[] = "/tmp/wisp-chardev-XXXXXX";
	struct chardev_config config = { .kind = CHARDEV_SOCKET, .path = path };
	struct error err = { 0 };
	struct chardev *c;
	struct loop *loop;
	struct stat st;
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "precious", 8), 8);
	close(fd);
	loop = loop_fixture_create(NULL);
	assert_int_equal(chardev_create(&c, &config, loop, &err), -EADDRINUSE);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 8);
	loop_free(loop);
	unlink(path);
}

/* A process that has used up its descriptors, and gets some back later. */
static void a_client_is_taken_once_there_are_descriptors_again(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), next;
	struct rlimit limit, none;
	static struct fake_port p;
	char path[64];

	socket_path(path, sizeof(path));
	strcpy(addr.sun_path, path);
	config.path = path;
	fake_port_init(&p, &config);
	next = dup(fd);
	close(next);
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	none.rlim_cur = next;
	setrlimit(RLIMIT_NOFILE, &none);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	for (int i = 0; i < 20; i++)
		loop_run_once(p.loop, NSEC_PER_MSEC);
	setrlimit(RLIMIT_NOFILE, &limit);
	assert_int_equal(p.opened, 0);
	fake_port_await(&p, p.opened == 1);
	close(fd);
	fake_port_await(&p, p.closed == 1);
	fake_port_done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_come_and_go),
		cmocka_unit_test(a_client_that_said_all_still_hears_the_answer),
		cmocka_unit_test(a_client_that_leaves_unread_input_is_noticed),
		cmocka_unit_test(what_a_client_said_before_it_left_is_heard),
		cmocka_unit_test(what_a_client_said_is_heard_when_output_finds_it_gone),
		cmocka_unit_test(a_client_that_does_not_listen_is_not_waited_for),
		cmocka_unit_test(a_stale_socket_is_replaced_and_a_live_one_is_not),
		cmocka_unit_test(what_is_no_socket_stays),
		cmocka_unit_test(a_client_is_taken_once_there_are_descriptors_again),
	};

	return loop_fixture_run("chardev_socket", tests, ARRAY_SIZE(tests));
}
