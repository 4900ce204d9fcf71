/* What a microVM's parent and `wisp switch` say to a switch that runs. */
#include "devices/net_switch.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/core/io.h"

/* A switch answers from its loop, which never waits for a guest. */
#define ANSWER_MS 5000

#define MAX_REPORT (128 * KiB)

static int connect_to(const char *path, struct error *err)
{
	int fd = io_connect(path, SOCK_SEQPACKET);

	if (fd == -ENOENT || fd == -ECONNREFUSED) {
		const char *name = strrchr(path, '/');

		error_usage(err, fd, "switch '%s': does not run", path);
		error_hint(err, "start it: wisp switch %.*s", (int)strcspn(name + 1, "."),
			   name + 1);
		return fd;
	}
	return fd < 0 ? error_usage(err, fd, "switch '%s': %m", path) : fd;
}

/* Say what is wanted and wait for the answer of at most @size bytes. */
static ssize_t ask(int fd, const struct net_switch_join *join, void *answer, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	ssize_t len;
	int n;

	if (send(fd, join, sizeof(*join), MSG_NOSIGNAL) < 0)
		return -errno;
	do
		n = poll(&p, 1, ANSWER_MS);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -ETIMEDOUT;
	len = recv(fd, answer, size, MSG_DONTWAIT);
	return len > 0 ? len : -ECONNRESET;
}

int net_switch_connect(const char *path, const char *name, unsigned vlan, struct error *err)
{
	struct net_switch_join join = {
		.magic = htole32(NET_SWITCH_MAGIC),
		.wish = htole16(NET_SWITCH_JOIN),
		.vlan = htole16(vlan),
	};
	int buffer = 1 * MiB, fd = connect_to(path, err);
	uint32_t answer;
	ssize_t r;

	if (fd < 0)
		return fd;
	snprintf(join.name, sizeof(join.name), "%s", name);
	r = ask(fd, &join, &answer, sizeof(answer));
	if (r == sizeof(answer))
		r = -(int)le32toh(answer);
	if (r != 0) {
		close(fd);
		r = r < 0 ? r : -EPROTO;
		return error_usage(err, r, "switch '%s': refuses port '%s' in VLAN %u: %m", path,
				   name, vlan);
	}
	/* As much as the host allows: a burst of frames should not have to wait. */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	return fd;
}

int net_switch_ask(const char *path, bool json, char **ret_text, struct error *err)
{
	struct net_switch_join join = {
		.magic = htole32(NET_SWITCH_MAGIC),
		.wish = htole16(json ? NET_SWITCH_JSON : NET_SWITCH_TEXT),
	};
	int fd = connect_to(path, err);
	char *text;
	ssize_t r;

	if (fd < 0)
		return fd;
	text = malloc(MAX_REPORT + 1);
	r = text ? ask(fd, &join, text, MAX_REPORT) : -ENOMEM;
	close(fd);
	if (r < 0) {
		free(text);
		return error_set(err, r, "switch '%s': no answer: %m", path);
	}
	text[r] = '\0';
	*ret_text = text;
	return 0;
}
