/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that is started before there is a command for it: it waits where it can be saved, once,
 * and then go on any number of times, each time as another guest.
 */
#include "init.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define MAX_PLAN (64u << 20)
#define MAX_SEED 64

static void read_all(int fd, void *to, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (char *)to + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			die("the rest of the plan: %s", n ? strerror(errno) : "it ends too early");
		done += n;
	}
}

/*
 * The tree may have changed by the time we go on: nothing that was looked up in it may be known
 * then but what is mounted over.
 */
static void forget_files(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	/* What was used lately is only passed over the first time. */
	for (int i = 0; i < 3; i++)
		(void)!write(fd, "3\n", 2);
	close(fd);
}

static void add_random(const char *hex)
{
	uint32_t room[(sizeof(struct rand_pool_info) + MAX_SEED) / sizeof(uint32_t)] = { 0 };
	struct rand_pool_info *seed = (struct rand_pool_info *)room;
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	char digits[3] = "";

	for (; seed->buf_size < MAX_SEED && hex[0] && hex[1]; hex += 2) {
		memcpy(digits, hex, 2);
		((uint8_t *)seed->buf)[seed->buf_size++] = strtoul(digits, NULL, 16);
	}
	seed->entropy_count = seed->buf_size * 8;
	/* Into the pool, and from there to what every processor draws from. */
	if (ioctl(fd, RNDADDENTROPY, seed) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		die("the random numbers: %s", strerror(errno));
	close(fd);
}

/* Our clocks stood still meanwhile, and go on; the time of day is what it is. */
static void set_time(const int *port)
{
	struct timespec now;
	uint64_t ns;

	if (write(port[PORT_STATUS], "awake\n", 6) != 6)
		die("the status: %s", strerror(errno));
	read_all(port[PORT_PLAN], &ns, sizeof(ns));
	ns = le64toh(ns);
	now = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000),
				 .tv_nsec = (long)(ns % 1000000000) };
	if (clock_settime(CLOCK_REALTIME, &now) < 0)
		die("the time of day: %s", strerror(errno));
}

void wake_up(struct plan *p, int *port)
{
	uint32_t len;
	char *text;

	/* What is for the command stays on the host until there is one: none may come of us. */
	if (port[PORT_STDIN] >= 0)
		close(port[PORT_STDIN]);
	port[PORT_STDIN] = -1;
	forget_files();
	if (write(port[PORT_STATUS], "warm\n", 5) != 5)
		die("the status: %s", strerror(errno));
	read_all(port[PORT_PLAN], &len, sizeof(len));
	len = le32toh(len);
	text = len <= MAX_PLAN ? malloc(len + 1) : NULL;
	if (!text)
		die("the rest of the plan: %u bytes", len);
	read_all(port[PORT_PLAN], text, len);
	text[len] = '\0';
	parse_plan(p, text, len);
	if (p->seed)
		add_random(p->seed);
	set_time(port);
	close(port[PORT_PLAN]);
}
