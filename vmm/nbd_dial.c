#include "vmm/nbd_dial.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/nbd.h"
#include "vmm/core/fds.h"
#include "vmm/core/log.h"
#include "vmm/helper.h"
#include "vmm/tls_helper.h"

#define MAX_ANSWER 2048u /* of wisp-resolve: some dozens of addresses */

/* How long a process that dials may live, whatever its resolver and its servers do. */
#define LIMIT_S (4 * NBD_TIMEOUT_S)
/* How long it lives after its answer: a monitor has no server called more often than that. */
#define REST_S	1
/* More than a socket holds. */
#define MAX_QUESTIONS 1024

/* ---- names ---- */

static void become_resolver(const char *name, int out)
{
	char *argv[] = { "wisp-resolve", (char *)name, NULL };
	struct error err = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(out, STDOUT_FILENO) >= 0)
		helper_exec(argv[0], argv, &err);
	_exit(127);
}

/* The addresses of @name, one a line. The C library cannot look up names in a static executable. */
static int look_up(const char *name, char *text, size_t size, struct error *err)
{
	size_t len = 0;
	ssize_t n = -1;
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set(err, -errno, "host '%s': %m", name);
	pid = fork();
	if (pid == 0)
		become_resolver(name, ends[1]);
	close(ends[1]);
	while (pid > 0 && len < size - 1) {
		n = read(ends[0], text + len, size - 1 - len);
		if (n > 0)
			len += n;
		else if (n == 0 || errno != EINTR)
			break;
	}
	text[len] = '\0';
	close(ends[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (!len)
		return error_usage(err, -EHOSTUNREACH, "host '%s': its address is not known", name);
	return 0;
}

/* The socket of the server @uri. */
static int dial(const char *uri, struct error *err)
{
	char *name = nbd_host_name(uri), text[MAX_ANSWER], *save = NULL;
	int r;

	if (!name)
		return nbd_connect(uri, NULL, err);
	r = look_up(name, text, sizeof(text), err);
	free(name);
	if (r < 0)
		return r;
	/* In the resolver's order; the error is the last one's. */
	for (char *a = strtok_r(text, "\n", &save); a; a = strtok_r(NULL, "\n", &save)) {
		*err = (struct error){ 0 };
		r = nbd_connect(uri, a, err);
		if (r >= 0)
			break;
	}
	return r;
}

/* The helper's end of a connection that @fd is, on which the server expects TLS next. */
static int start_helper(int fd, const char *uri, struct error *err)
{
	char *host = nbd_tls_host(uri), *dir = nbd_certificates(uri), *what = NULL;
	int r;

	if (host && dir && asprintf(&what, "disk '%s'", uri) >= 0) {
		r = tls_helper_start(fd, &(struct tls_peer){ "nbd", host, dir, what }, err);
		free(what);
	} else {
		r = error_set(err, -ENOMEM, "disk '%s': %m", uri);
		close(fd);
	}
	free(host);
	free(dir);
	return r;
}

int nbd_dial(const char *uri, struct error *err)
{
	int fd = dial(uri, err), r;

	if (fd < 0 || !nbd_wants_tls(uri))
		return fd;
	r = nbd_start_tls(fd, uri, err);
	if (!r)
		return start_helper(fd, uri, err);
	close(fd);
	return r;
}

/* ---- later ---- */

static void answer(int to, const struct nbd_dialed *reply, int fd)
{
	FDS_SPACE(1) space;
	struct iovec iov = { (void *)reply, sizeof(*reply) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (!reply->error)
		fds_attach(&msg, &space, &fd, 1);
	(void)!sendmsg(to, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* In a process of its own. */
static void dial_and_answer(const struct nbd_dialer *d, uint32_t id)
{
	struct nbd_dialed reply = { .id = id };
	struct error err = { 0 };
	int fd, r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(LIMIT_S);
	r = fd = nbd_dial(d->uri, &err);
	if (fd >= 0)
		r = nbd_negotiate(fd, d->uri, &reply.export, &err);
	if (r < 0)
		log_debug("%s", err.msg);
	reply.error = r < 0 ? -r : 0;
	answer(d->fd, &reply, fd);
	/* The connection is the monitor's: it must be over when that closes it. */
	if (fd >= 0)
		close(fd);
	sleep(REST_S);
	_exit(0);
}

int nbd_dialer_open(struct nbd_dialer *d, const char *uri, int *ret_monitors, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "disk '%s': socket pair: %m", uri);
	*d = (struct nbd_dialer){ .fd = pair[0], .uri = uri };
	*ret_monitors = pair[1];
	if (fcntl(d->fd, F_SETOWN, getpid()) < 0 || fcntl(d->fd, F_SETFL, O_ASYNC) < 0)
		return error_set(err, -errno, "disk '%s': socket pair: %m", uri);
	return 0;
}

void nbd_dialer_serve(struct nbd_dialer *d)
{
	bool is_asked = false;
	uint32_t id;
	pid_t pid;

	if (d->pid > 0 && waitpid(d->pid, NULL, WNOHANG) == 0)
		return;
	d->pid = 0;
	/*
	 * Of several questions the last: the monitor has given up on those before it. But one that
	 * does nothing but ask must not keep us here.
	 */
	for (unsigned i = 0; i < MAX_QUESTIONS && d->fd >= 0; i++) {
		if (recv(d->fd, &id, sizeof(id), MSG_DONTWAIT) != sizeof(id))
			break;
		is_asked = true;
	}
	if (!is_asked)
		return;
	pid = fork();
	if (pid == 0)
		dial_and_answer(d, id);
	d->pid = MAX(pid, 0);
}

void nbd_dialer_close(struct nbd_dialer *d)
{
	if (d->pid > 0 && waitpid(d->pid, NULL, WNOHANG) == 0) {
		kill(d->pid, SIGKILL);
		while (waitpid(d->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (d->fd >= 0)
		close(d->fd);
	*d = (struct nbd_dialer){ .fd = -1 };
}
