/*
 * relay LISTEN CONNECT FAULT WHERE [MARK] : between the two ends of a migration, to harm it.
 *
 * Forwards one connection at the UNIX socket LISTEN to CONNECT, record by record (the layout is
 * in vmm/migrate/migrate_wire.c). FAULT happens once, at the first record of type WHERE (a number),
 * or at the first behind WHERE bytes from the source ("@BYTES"):
 *
 *   cut     both connections end, before the record
 *   after   both connections end, after it
 *   hold    nothing is forwarded any more
 *   flip    one bit of it is wrong
 *   none    forwards for ever
 *
 * MARK is a file that is made then.
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

static struct {
	const char *fault, *mark;
	unsigned type;	 /* 0: by bytes */
	uint64_t at;
	uint64_t forwarded; /* from the source */
	int done;
} plan;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int open_socket(const char *path, int listening)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), peer;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (!listening) {
		if (connect(fd, (void *)&a, sizeof(a)) < 0)
			die(path);
		return fd;
	}
	unlink(path);
	if (fd < 0 || bind(fd, (void *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0)
		die(path);
	peer = accept(fd, NULL, NULL);
	if (peer < 0)
		die("accept");
	return peer;
}

/* Exactly @len bytes; the end of the stream ends us, which both sides see. */
static void read_all(int fd, uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = read(fd, p, len);

		if (n <= 0)
			exit(0);
		p += n;
		len -= n;
	}
}

static void write_all(int fd, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0)
			exit(0);
		p += n;
		len -= n;
	}
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

static int is_due(const uint8_t *header)
{
	if (plan.done || !strcmp(plan.fault, "none"))
		return 0;
	return plan.type ? le32(header) == plan.type : plan.forwarded >= plan.at;
}

static void forward(int from, int to, int from_source)
{
	static uint8_t buf[HEADER_BYTES + (1 << 27)];
	size_t len;
	int due;

	read_all(from, buf, HEADER_BYTES);
	len = le32(buf + 4);
	if (len > sizeof(buf) - HEADER_BYTES)
		exit(1);
	read_all(from, buf + HEADER_BYTES, len);
	len += HEADER_BYTES;
	due = is_due(buf);
	if (from_source)
		plan.forwarded += len;
	if (due) {
		mark();
		if (!strcmp(plan.fault, "cut"))
			exit(0);
		if (!strcmp(plan.fault, "flip"))
			buf[len / 2] ^= 1 << (len % 8);
		while (!strcmp(plan.fault, "hold"))
			pause();
	}
	write_all(to, buf, len);
	if (due && !strcmp(plan.fault, "after"))
		exit(0);
}

int main(int argc, char **argv)
{
	struct pollfd p[2];
	int greeted[2] = { 0 };

	if (argc < 5) {
		fprintf(stderr, "usage: relay LISTEN CONNECT FAULT WHERE [MARK]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	plan.fault = argv[3];
	plan.mark = argv[5];
	if (argv[4][0] == '@')
		plan.at = strtoull(argv[4] + 1, NULL, 10);
	else
		plan.type = strtoul(argv[4], NULL, 10);
	p[0] = (struct pollfd){ .fd = open_socket(argv[1], 1), .events = POLLIN };
	p[1] = (struct pollfd){ .fd = open_socket(argv[2], 0), .events = POLLIN };
	while (poll(p, 2, -1) >= 0) {
		for (int i = 0; i < 2; i++) {
			if (!p[i].revents)
				continue;
			if (greeted[i]++) {
				forward(p[i].fd, p[!i].fd, i == 0);
			} else {
				uint8_t greeting[GREETING_BYTES];

				read_all(p[i].fd, greeting, sizeof(greeting));
				write_all(p[!i].fd, greeting, sizeof(greeting));
			}
		}
	}
	return 1;
}
