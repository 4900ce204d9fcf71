/* SPDX-License-Identifier: Apache-2.0 */
/* Who the guest is, and what follows when it has become another one. */
#include "guests/agent/agent.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define HOST_CID 2u

#define DIRECTORY "/run/wisp"
#define HOOK	  "/etc/wisp/identity"

/* As linux/random.h has it. */
struct random_seed {
	int entropy_count; /* bits */
	int buf_size;
	uint8_t buf[AGENT_RANDOM_BYTES];
};

#define ADD_ENTROPY _IOW('R', 0x03, int[2])
#define RESEED_CRNG _IO('R', 0x07)

struct identity {
	char id[AGENT_MAX_IDENTITY], generation[AGENT_MAX_IDENTITY], random[AGENT_MAX_IDENTITY];
};

/* Into the pool, and from there to what every processor draws from. */
static void add_random(const char *hex)
{
	struct random_seed seed = { .buf_size = AGENT_RANDOM_BYTES };
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	char digits[3] = "";

	for (int i = 0; i < AGENT_RANDOM_BYTES && hex[0] && hex[1]; i++, hex += 2) {
		memcpy(digits, hex, 2);
		seed.buf[i] = strtoul(digits, NULL, 16);
	}
	seed.entropy_count = AGENT_RANDOM_BYTES * 8;
	(void)!ioctl(fd, ADD_ENTROPY, &seed);
	(void)!ioctl(fd, RESEED_CRNG);
	close(fd);
}

/* Whoever reads the file reads all of the one or all of the other. */
static void write_file(const struct identity *who)
{
	FILE *f;

	mkdir(DIRECTORY, 0755);
	f = fopen(DIRECTORY "/identity.new", "we");
	if (!f)
		return;
	fprintf(f, "WISP_ID=%s\nWISP_GENERATION=%s\n", who->id, who->generation);
	if (fclose(f) == 0)
		rename(DIRECTORY "/identity.new", DIRECTORY "/identity");
}

static void run_hook(const struct identity *who)
{
	if (access(HOOK, X_OK) < 0 || fork() != 0)
		return;
	signal(SIGCHLD, SIG_DFL);
	setenv("WISP_ID", who->id, 1);
	setenv("WISP_GENERATION", who->generation, 1);
	execl(HOOK, HOOK, NULL);
	_exit(127);
}

static int connect_to_host(void)
{
	struct vm_address addr = {
		.family = FAMILY_VSOCK,
		.port = AGENT_IDENTITY_PORT,
		.cid = HOST_CID,
	};
	const struct timeval patience = { .tv_sec = 2 };
	int fd = socket(FAMILY_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* 0, or -1: that is not what we asked for. */
static int read_identity(int fd, struct identity *who)
{
	char text[AGENT_MAX_IDENTITY + 1] = "";
	size_t len = 0;
	int lines = 0;

	for (; lines < 3; len++) {
		if (len == AGENT_MAX_IDENTITY || read(fd, text + len, 1) != 1)
			return -1;
		lines += text[len] == '\n';
	}
	lines = sscanf(text, "id=%255s generation=%255s random=%255s", who->id, who->generation,
		       who->random);
	return lines == 3 ? 0 : -1;
}

int ask_identity(void)
{
	static char known[AGENT_MAX_IDENTITY]; /* generation */
	struct identity who;
	int fd = connect_to_host();

	if (fd < 0)
		return -1;
	if (read_identity(fd, &who) < 0) {
		close(fd);
		return -1;
	}
	/* First of all: whoever draws random numbers now draws those that its siblings do. */
	if (known[0] && strcmp(known, who.generation) != 0)
		add_random(who.random);
	write_file(&who);
	if (known[0] && strcmp(known, who.generation) != 0)
		run_hook(&who);
	memcpy(known, who.generation, sizeof(known));
	explicit_bzero(who.random, sizeof(who.random));
	return fd;
}
