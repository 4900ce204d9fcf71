#include "vmm/control/control_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "vmm/cli/usage.h"
#include "vmm/control/control.h"
#include "vmm/core/fds.h"
#include "vmm/run_dir.h"

/* Who answers beside the loop does nothing else. */
#define LATE_ANSWER_SECONDS 30

/* ---- framing, of both ends ---- */

ssize_t control_send(int sock, const void *data, size_t len, const int *fds, unsigned num_fds,
		     int flags)
{
	struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	FDS_SPACE(CONTROL_MAX_FDS) space;
	ssize_t n;

	if (num_fds > CONTROL_MAX_FDS)
		return -E2BIG;
	if (num_fds)
		fds_attach(&msg, &space, fds, num_fds);
	do
		n = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t control_receive(int sock, void *data, size_t size, int *fds, unsigned max_fds,
			unsigned *ret_num_fds, int flags)
{
	struct iovec iov = { .iov_base = data, .iov_len = size };
	FDS_SPACE(CONTROL_MAX_FDS) space;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &space,
		.msg_controllen = sizeof(space),
	};
	bool reset = false;
	ssize_t n;

	/* A peer that left without reading all is reported once, in front of its last words. */
	do
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !reset && (reset = true))));
	if (n < 0)
		return -errno;
	*ret_num_fds = fds_take(&msg, fds, max_fds);
	/* Descriptors that were left out could be just the ones that are meant. */
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		for (unsigned i = 0; i < *ret_num_fds; i++)
			close(fds[i]);
		*ret_num_fds = 0;
		return -EMSGSIZE;
	}
	return n;
}

/* ---- asking ---- */

int control_connect_in(const char *run_dir, const char *id, struct error *err)
{
	return run_dir_connect(run_dir, id, RUN_DIR_CONTROL, SOCK_SEQPACKET, err);
}

pid_t control_peer(int sock)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
}

int control_connect_awake(const char *run_dir, const char *id, struct error *err)
{
	int sock = control_connect_in(run_dir, id, err);
	pid_t pid;

	if (sock < 0)
		return sock;
	pid = usage_stopped_monitor(run_dir_monitor(run_dir, id), control_peer(sock));
	if (!pid)
		return sock;
	close(sock);
	error_set(err, -EBUSY, "microVM '%s' cannot answer: its process %d is stopped", id, pid);
	error_hint(err, "'kill -CONT %d' lets it go on, 'wisp kill %s' ends it", pid, id);
	return -EBUSY;
}

int control_connect_late(const char *run_dir, const char *id, struct error *err)
{
	const struct timeval patience = { .tv_sec = LATE_ANSWER_SECONDS };
	int sock = run_dir_connect(run_dir, id, RUN_DIR_LATE, SOCK_SEQPACKET, err);

	if (sock >= 0)
		setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return sock;
}

int control_connect(const char *id, struct error *err)
{
	return control_connect_in(NULL, id, err);
}

static int send_request(int sock, json_t *request, const int *fds, unsigned num_fds,
			struct error *err)
{
	char *text = json_dumps(request, JSON_COMPACT);
	ssize_t n;

	json_decref(request);
	if (!text)
		return error_set(err, -ENOMEM, "request: %m");
	n = control_send(sock, text, strlen(text), fds, num_fds, 0);
	free(text);
	/* One that turned us away has said why. */
	return n < 0 && n != -EPIPE ? error_set(err, n, "the microVM cannot be asked: %m") : 0;
}

/* Until there is something to receive, or -EINTR. */
static int await_message(int sock, const struct control_extra *extra)
{
	struct pollfd p[] = {
		{ .fd = sock, .events = POLLIN },
		{ .fd = extra ? extra->give_up_fd : -1, .events = POLLIN },
	};

	if (p[1].fd < 0)
		return 0;
	while (poll(p, ARRAY_SIZE(p), -1) < 0)
		if (errno != EINTR)
			return -errno;
	/* What has come is heard first. */
	return p[0].revents ? 0 : -EINTR;
}

/* One message as an object. */
static int receive_object(int sock, char *buf, struct control_extra *extra, json_t **ret,
			  struct error *err)
{
	unsigned ignored;
	int none[1];
	json_error_t why;
	ssize_t n = await_message(sock, extra);

	if (!n)
		n = control_receive(sock, buf, CONTROL_MAX_MESSAGE, extra ? extra->fds : none,
				    extra ? extra->max_fds : 0, extra ? &extra->num_fds : &ignored,
				    0);
	if (n == -EINTR)
		return error_set(err, -EINTR, "given up before the microVM answered");
	if (n == -EAGAIN)
		return error_set(err, -ETIMEDOUT, "the microVM does not answer");
	if (n == -ECONNRESET || n == 0)
		return error_set(err, -ECONNRESET, "the microVM ended before it answered");
	if (n < 0)
		return error_set(err, n, "the microVM's answer: %m");
	*ret = json_loadb(buf, n, 0, &why);
	if (!json_is_object(*ret)) {
		json_decref(*ret);
		return error_set(err, -EPROTO, "the microVM's answer is no object");
	}
	return 0;
}

static int receive_reply(int sock, json_t **ret_reply, struct control_extra *extra,
			 struct error *err)
{
	char *buf = malloc(CONTROL_MAX_MESSAGE);
	json_t *o = NULL, *progress;
	const char *text;
	int r;

	if (!buf)
		return error_set(err, -ENOMEM, "reply: %m");
	for (;;) {
		r = receive_object(sock, buf, extra, &o, err);
		if (r < 0)
			break;
		progress = json_object_get(o, "progress");
		if (!progress)
			break;
		if (extra && extra->progress)
			extra->progress(extra->arg, progress);
		json_decref(o);
	}
	free(buf);
	if (r < 0)
		return r;
	text = json_string_value(json_object_get(o, "error"));
	if (text) {
		int code = (int)json_integer_value(json_object_get(o, "errno"));

		r = error_set(err, code > 0 ? -code : -EIO, "%s", text);
		if (err && json_is_true(json_object_get(o, "usage")))
			err->kind = ERROR_USAGE;
	} else if (ret_reply) {
		*ret_reply = json_incref(o);
	}
	json_decref(o);
	return r;
}

int control_ask_extra(int sock, json_t *request, const int *fds, unsigned num_fds,
		      json_t **ret_reply, struct control_extra *extra, struct error *err)
{
	int r = send_request(sock, request, fds, num_fds, err);

	return r < 0 ? r : receive_reply(sock, ret_reply, extra, err);
}

int control_ask(int sock, json_t *request, const int *fds, unsigned num_fds, json_t **ret_reply,
		struct error *err)
{
	return control_ask_extra(sock, request, fds, num_fds, ret_reply, NULL, err);
}
