/*
 * relay LISTEN CONNECT FAULT WHERE [MARK [STREAM]] : between the ends of a migration, to harm it.
 *
 * Forwards connections at the UNIX socket LISTEN to CONNECT, record by record (the layout is
 * in vmm/migrate/migrate_wire.c). FAULT happens once, to connection STREAM (0, which is the first),
 * at the first record of type WHERE (a number), at the first of them when one of another type has
 * passed over any connection ("WHERE/OTHER"), or at the first behind WHERE bytes from the source
 * ("@BYTES"):
 *
 *   cut     it ends, before the record
 *   after   it ends, after it
 *   hold    nothing is forwarded any more
 *   wait    nothing is forwarded until MARK is removed
 *   flip    one bit of it is wrong
 *   none    forwards for ever
 *
 * MARK is a file that is made then. With the first connection all others end.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING_BYTES 8
#define HEADER_BYTES   32
#define MAX_PAIRS      16

static struct {
	const char *fault, *mark;
	unsigned type;	 /* 0: by bytes */
	unsigned other;	 /* one of these comes first; 0: need not */
	uint64_t at;
	unsigned stream;
	int done;
} plan;

/* A connection, from the source on. */
static struct pair {
	int fd[2];
	int greeted[2];
	uint64_t forwarded; /* from the source */
} pairs[MAX_PAIRS];
static unsigned num_pairs;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int open_socket(const char *path, int listening)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (!listening) {
		if (connect(fd, (void *)&a, sizeof(a)) < 0)
			die(path);
		return fd;
	}
	unlink(path);
	if (fd < 0 || bind(fd, (void *)&a, sizeof(a)) < 0 || listen(fd, MAX_PAIRS) < 0)
		die(path);
	return fd;
}

/* Exactly @len bytes, or -1 at the end of the stream. */
static int read_all(int fd, uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = read(fd, p, len);

		if (n <= 0)
			return -1;
		p += n;
		len -= n;
	}
	return 0;
}

static int write_all(int fd, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0)
			return -1;
		p += n;
		len -= n;
	}
	return 0;
}

static uint32_t le32(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void mark(void)
{
	int fd = plan.mark ? open(plan.mark, O_WRONLY | O_CREAT, 0600) : -1;

	if (fd >= 0)
		close(fd);
	plan.done = 1;
}

static int is_due(const struct pair *pair, const uint8_t *header)
{
	if (plan.done || !strcmp(plan.fault, "none") || pair - pairs != plan.stream)
		return 0;
	if (plan.other)
		return 0;
	return plan.type ? le32(header) == plan.type : pair->forwarded >= plan.at;
}

/* What @side has said, to the other; -1: that is the end of this connection. */
static int forward(struct pair *pair, int side)
{
	static uint8_t buf[HEADER_BYTES + (1 << 27)];
	int from = pair->fd[side], to = pair->fd[!side];
	size_t len;
	int due;

	if (!pair->greeted[side]++) {
		if (read_all(from, buf, GREETING_BYTES) < 0)
			return -1;
		return write_all(to, buf, GREETING_BYTES);
	}
	if (read_all(from, buf, HEADER_BYTES) < 0)
		return -1;
	len = le32(buf + 4);
	if (len > sizeof(buf) - HEADER_BYTES)
		exit(1);
	if (read_all(from, buf + HEADER_BYTES, len) < 0)
		return -1;
	len += HEADER_BYTES;
	due = is_due(pair, buf);
	if (le32(buf) == plan.other)
		plan.other = 0;
	if (side == 0)
		pair->forwarded += len;
	if (due) {
		mark();
		if (!strcmp(plan.fault, "cut"))
			return -1;
		if (!strcmp(plan.fault, "flip"))
			buf[len / 2] ^= 1 << (len % 8);
		while (!strcmp(plan.fault, "hold"))
			pause();
		while (!strcmp(plan.fault, "wait") && access(plan.mark, F_OK) == 0)
			usleep(10000);
	}
	if (write_all(to, buf, len) < 0)
		return -1;
	return due && !strcmp(plan.fault, "after") ? -1 : 0;
}

static void add_pair(int listener, const char *path)
{
	int peer = accept(listener, NULL, NULL);

	if (peer < 0)
		die("accept");
	pairs[num_pairs].fd[0] = peer;
	/* Over all but the first the destination answers, and does not greet. */
	pairs[num_pairs].greeted[1] = num_pairs > 0;
	pairs[num_pairs++].fd[1] = open_socket(path, 0);
}

/* Both sides see it, of the first by our end. */
static void end_pair(struct pair *pair)
{
	if (pair == pairs)
		exit(0);
	for (int side = 0; side < 2; side++) {
		close(pair->fd[side]);
		pair->fd[side] = -1;
	}
}

int main(int argc, char **argv)
{
	struct pollfd p[1 + 2 * MAX_PAIRS];
	char *behind = NULL;

	if (argc < 5) {
		fprintf(stderr, "usage: relay LISTEN CONNECT FAULT WHERE [MARK [STREAM]]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	plan.fault = argv[3];
	plan.mark = argv[5];
	plan.stream = argc > 6 ? strtoul(argv[6], NULL, 10) : 0;
	if (argv[4][0] == '@')
		plan.at = strtoull(argv[4] + 1, NULL, 10);
	else
		plan.type = strtoul(argv[4], &behind, 10);
	if (behind && *behind == '/')
		plan.other = strtoul(behind + 1, NULL, 10);
	p[0] = (struct pollfd){ .fd = open_socket(argv[1], 1), .events = POLLIN };
	for (;;) {
		unsigned num = num_pairs;

		for (unsigned i = 0; i < 2 * num; i++)
			p[1 + i] = (struct pollfd){
				.fd = pairs[i / 2].fd[i % 2],
				.events = POLLIN,
			};
		if (poll(p, 1 + 2 * num, -1) < 0)
			return 1;
		for (unsigned i = 0; i < 2 * num; i++)
			if (p[1 + i].revents && pairs[i / 2].fd[i % 2] >= 0 &&
			    forward(&pairs[i / 2], i % 2) < 0)
				end_pair(&pairs[i / 2]);
		if (p[0].revents && num < MAX_PAIRS)
			add_pair(p[0].fd, argv[2]);
	}
}
