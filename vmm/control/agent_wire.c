#include "vmm/control/agent_wire.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

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

int agent_send(int fd, enum agent_type type, const void *data, size_t len)
{
	char frame[AGENT_HEADER + AGENT_MAX_FRAME];
	uint32_t length = htole32(len);

	if (len > AGENT_MAX_FRAME)
		return -EMSGSIZE;
	memcpy(frame, &length, sizeof(length));
	frame[4] = type;
	if (len)
		memcpy(frame + AGENT_HEADER, data, len);
	return send_all(fd, frame, AGENT_HEADER + len);
}

/* 1, 0 when the end comes before the first byte, or -errno. */
static int receive_all(int fd, char *p, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = read(fd, p + got, len - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return got ? -EBADMSG : 0;
		got += n;
	}
	return 1;
}

int agent_receive(int fd, struct agent_frame *f)
{
	char header[AGENT_HEADER];
	uint32_t len;
	int r = receive_all(fd, header, sizeof(header));

	if (r <= 0)
		return r;
	memcpy(&len, header, sizeof(len));
	f->len = le32toh(len);
	f->type = header[4];
	if (f->len > AGENT_MAX_FRAME)
		return -EBADMSG;
	f->data[f->len] = '\0';
	if (!f->len)
		return 1;
	r = receive_all(fd, f->data, f->len);
	return r ? r : -EBADMSG;
}

int agent_send_failure(int fd, int error, const char *what, const char *path)
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
	return agent_send(fd, AGENT_FAILED, text, 4 + n);
}
