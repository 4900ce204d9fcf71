/* wisp-net when it has no descriptor left: each of its turns is watched where it waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>

static int watched_poll(struct pollfd *p, nfds_t n, int timeout);

#define poll watched_poll
#include "helpers/user_net.c"
#undef poll

#include <sys/resource.h>
#include <sys/un.h>

#include "tests/unit/patience.h"

#define RETRIES 4

struct fixture {
	struct user_net *un;
	int guest, control, client;
	struct sockaddr_in port;
	struct sockaddr_un path;
	struct rlimit limit;
	bool knocks_at_control;
	unsigned turns;
	unsigned told;	   /* how often it was told that somebody is there */
	bool told_before;  /* in the turn before */
	uint64_t deadline; /* of waiting for it to be over */
};

/* What is watched has no argument for the test. */
static struct fixture f;

/* No descriptor from the first free one on. */
static void take_descriptors_away(void)
{
	struct rlimit none = f.limit;
	int fd = fcntl(f.guest, F_DUPFD_CLOEXEC, 0);

	close(fd);
	none.rlim_cur = fd;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
}

static void connect_client(void)
{
	const struct sockaddr *to = f.knocks_at_control ? (const struct sockaddr *)&f.path :
							  (const struct sockaddr *)&f.port;
	socklen_t len = f.knocks_at_control ? sizeof(f.path) : sizeof(f.port);

	assert_int_equal(connect(f.client, to, len), 0);
}

static bool is_told(const struct pollfd *p, nfds_t n)
{
	int fd = f.knocks_at_control ? f.control : f.un->listening[0];

	for (nfds_t i = 0; i < n; i++) {
		if (p[i].fd == fd && p[i].revents)
			return true;
	}
	return false;
}

/*
 * In place of poll(): somebody comes in the first turn; when it has been told of that RETRIES
 * times, there are descriptors again; and when it is told no more, the guest goes.
 */
static int watched_poll(struct pollfd *p, nfds_t n, int timeout)
{
	bool told;
	int r;

	if (!f.turns++) {
		connect_client();
		take_descriptors_away();
	}
	r = poll(p, n, timeout < 0 ? 1000 : timeout);
	if (r < 0)
		return r;
	told = is_told(p, n);
	/* With nothing changed since, the second time in a row is the beginning of for ever. */
	if (told && f.told_before && f.told < RETRIES)
		fail_msg("it spins while it is out of descriptors");
	f.told += told;
	/* This time there is room. */
	if (f.told == RETRIES)
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &f.limit), 0);
	if (f.told == RETRIES && !told && !f.told_before)
		shutdown(f.guest, SHUT_RDWR);
	f.told_before = told;
	assert_false(patience_ends(f.deadline));
	return r;
}

static int setup(void **state)
{
	struct user_net_config config = { .mtu = 1500 };
	struct error err = { 0 };
	socklen_t len = sizeof(f.port);
	char rule[64];
	int pair[2], fd;

	f = (struct fixture){ .deadline = patience() };
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &f.limit), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	f.guest = pair[1];
	f.control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	f.path.sun_family = AF_UNIX;
	snprintf(f.path.sun_path, sizeof(f.path.sun_path), "/tmp/wisp-test-crowded-%d", getpid());
	assert_int_equal(bind(f.control, (struct sockaddr *)&f.path, sizeof(f.path)), 0);
	assert_int_equal(listen(f.control, 4), 0);
	inet_pton(AF_INET, "10.0.2.0", &config.network);
	inet_pton(AF_INET, "255.255.255.0", &config.mask);
	inet_pton(AF_INET, "10.0.2.2", &config.host);
	inet_pton(AF_INET, "10.0.2.3", &config.dns);
	inet_pton(AF_INET, "10.0.2.15", &config.dhcp_start);
	config.fd = pair[0];
	config.control_fd = f.control;
	assert_int_equal(user_net_create(&f.un, &config, &err), 0);

	/* A port that was free a moment ago; taken meanwhile, another is. */
	do {
		f.port = (struct sockaddr_in){ .sin_family = AF_INET };
		f.port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind(fd, (struct sockaddr *)&f.port, len), 0);
		assert_int_equal(getsockname(fd, (struct sockaddr *)&f.port, &len), 0);
		close(fd);
		snprintf(rule, sizeof(rule), "tcp:127.0.0.1:%u-:80", ntohs(f.port.sin_port));
	} while (user_net_forward(f.un, rule, &err) < 0 && !patience_ends(f.deadline));
	return 0;
}

static int teardown(void **state)
{
	setrlimit(RLIMIT_NOFILE, &f.limit);
	unlink(f.path.sun_path);
	close(f.un->fd);
	user_net_free(f.un);
	close(f.guest);
	close(f.control);
	close(f.client);
	return 0;
}

static void whoever_connects_waits_until_there_are_descriptors(void **state)
{
	f.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(user_net_run(f.un), 0);
	assert_int_equal(f.told, RETRIES);
}

static void whoever_asks_for_a_change_waits_until_there_are_descriptors(void **state)
{
	char answer[64] = "";

	f.knocks_at_control = true;
	f.client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(user_net_run(f.un), 0);
	assert_int_equal(f.told, RETRIES);
	assert_true(recv(f.client, answer, sizeof(answer) - 1, MSG_DONTWAIT) > 0);
	assert_string_equal(answer, "not a request");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(whoever_connects_waits_until_there_are_descriptors,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			whoever_asks_for_a_change_waits_until_there_are_descriptors, setup,
			teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
