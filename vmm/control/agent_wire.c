#include "vmm/control/agent_wire.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static int send_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= n;
	}
	return 0;
}

size_t agent_pack(char *to, enum agent_type type, const void *data, size_t len)
{
	uint32_t length = htole32(len);

	memcpy(to, &length, sizeof(length));
	to[4] = type;
	if (len)
		memcpy(to + AGENT_HEADER, data, len);
	return AGENT_HEADER + len;
}

int agent_send(int fd, enum agent_type type, const void *data, size_t len)
{
	char frame[AGENT_HEADER + AGENT_MAX_FRAME];

	if (len > AGENT_MAX_FRAME)
		return -EMSGSIZE;
	return send_all(fd, frame, agent_pack(frame, type, data, len));
}

/* To @at, until there are @want bytes of the frame: 1, 0 at an end before the first, -errno. */
static int receive_part(int fd, struct agent_partial *p, char *at, size_t want, int flags)
{
	while (p->got < want) {
		ssize_t n = recv(fd, at, want - p->got, flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return p->got ? -EBADMSG : 0;
		at += n;
		p->got += n;
	}
	return 1;
}

static int receive(int fd, struct agent_partial *p, struct agent_frame *f, int flags)
{
	uint32_t len;
	int r = 1;

	if (p->got < AGENT_HEADER)
		r = receive_part(fd, p, p->header + p->got, AGENT_HEADER, flags);
	if (r <= 0)
		return r;
	memcpy(&len, p->header, sizeof(len));
	f->len = le32toh(len);
	f->type = p->header[4];
	if (f->len > AGENT_MAX_FRAME)
		return -EBADMSG;
	f->data[f->len] = '\0';
	r = receive_part(fd, p, f->data + (p->got - AGENT_HEADER), AGENT_HEADER + f->len, flags);
	if (r == 1)
		p->got = 0;
	return r;
}

int agent_receive(int fd, struct agent_frame *f)
{
	struct agent_partial p = { .got = 0 };

	return receive(fd, &p, f, 0);
}

int agent_receive_some(int fd, struct agent_partial *p, struct agent_frame *f)
{
	return receive(fd, p, f, MSG_DONTWAIT);
}

int agent_send_failure(int fd, enum agent_type type, int error, const char *what, const char *path)
{
	char text[512];
	uint32_t number = htole32(error);
	int n;

	memcpy(text, &number, sizeof(number));
	n = snprintf(text + 4, sizeof(text) - 4, "%s: %s", what, path);
	if (n < 0)
		n = 0;
	if (n > (int)sizeof(text) - 5)
		n = sizeof(text) - 5;
	return agent_send(fd, type, text, 4 + n);
}
