#include "vmm/migrate/migrate_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/core/log.h"
#include "vmm/migrate/migrate_wire.h"
#include "vmm/tls_helper.h"

const char migrate_addresses[] = "tcp:HOST:PORT|unix:PATH|exec:COMMAND|fd:N";

/* ---- sockets ---- */

union address {
	struct sockaddr any;
	struct sockaddr_in ip4;
	struct sockaddr_in6 ip6;
	struct sockaddr_un un;
};

/* Where to, and what is to be known of who is there. */
struct target {
	union address addr;
	socklen_t len;
	char host[64];	 /* tcp: as the user wrote it */
	const char *tls; /* certificates; NULL: anybody will do */
};

/* "HOST:PORT", "[HOST]:PORT": numbers only, since names need more than this process has. */
static int parse_tcp(const char *text, struct target *t)
{
	const char *colon = strrchr(text, ':');
	union address *a = &t->addr;
	char *host = t->host, *end;
	unsigned long port;
	size_t n;

	if (!colon)
		return -EINVAL;
	port = strtoul(colon + 1, &end, 10);
	n = colon - text;
	if (!colon[1] || *end || port == 0 || port > 65535 || n >= sizeof(t->host))
		return -EINVAL;
	if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	memcpy(host, text, n);
	host[n] = '\0';
	if (inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1",
		      &a->ip4.sin_addr) == 1) {
		a->ip4.sin_family = AF_INET;
		a->ip4.sin_port = htons(port);
		t->len = sizeof(a->ip4);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &a->ip6.sin6_addr) == 1) {
		a->ip6.sin6_family = AF_INET6;
		a->ip6.sin6_port = htons(port);
		t->len = sizeof(a->ip6);
		return 0;
	}
	return -EINVAL;
}

static int parse_unix(const char *path, struct target *t)
{
	union address *a = &t->addr;
	size_t n = strlen(path);

	if (!n || n >= sizeof(a->un.sun_path))
		return -EINVAL;
	a->un.sun_family = AF_UNIX;
	memcpy(a->un.sun_path, path, n);
	t->len = sizeof(a->un);
	return 0;
}

/* A blackout is no time to wait for more to send. */
static void send_at_once(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int migrate_listener_accept(const struct migrate_listener *l, struct error *err)
{
	int fd;

	do
		fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
	while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd < 0)
		return error_set(err, -errno, "migration: cannot be connected to: %m");
	/* No UNIX socket knows of it. */
	send_at_once(fd);
	if (!l->tls)
		return fd;
	return tls_helper_start(fd, &(struct tls_peer){ "server", NULL, l->tls, "--tls" }, err);
}

/* One that we would not talk to is no reason not to wait for the right one. */
static int accept_trusted(const struct migrate_listener *l, struct error *err)
{
	for (;;) {
		int r = migrate_listener_accept(l, err);

		if (r != -EPROTO)
			return r;
		log_warn("%s; waiting for another one", err->msg);
	}
}

/*
 * Bind @fd where @t says, also where one that was killed has left its socket. Somebody who waits
 * there would take a call of ours for its source: it is called by a type that it refuses.
 */
static int bind_anew(int fd, const struct target *t)
{
	const struct sockaddr *sa = &t->addr.any;

	if (bind(fd, sa, t->len) == 0)
		return 0;
	if (errno != EADDRINUSE || sa->sa_family != AF_UNIX)
		return -errno;
	if (!io_remove_dead_socket(t->addr.un.sun_path, SOCK_SEQPACKET))
		return -EADDRINUSE;
	return bind(fd, sa, t->len) < 0 ? -errno : 0;
}

/* Listen with @fd, which is @l's then. */
static int await_peer(struct migrate_listener *l, int fd, const struct target *t,
		      struct error *err)
{
	const struct sockaddr *sa = &t->addr.any;
	int one = 1, r;

	l->fd = fd;
	l->tls = t->tls;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	r = bind_anew(fd, t);
	if (r < 0)
		return r;
	if (sa->sa_family == AF_UNIX)
		memcpy(l->path, t->addr.un.sun_path, sizeof(l->path));
	/* A source connects as often as it has streams before we look. */
	return listen(fd, MIGRATE_MAX_STREAMS) < 0 ? -errno : accept_trusted(l, err);
}

void migrate_listener_close(struct migrate_listener *l)
{
	if (l->fd >= 0)
		close(l->fd);
	if (l->path[0])
		unlink(l->path);
	*l = (struct migrate_listener){ .fd = -1 };
}

static int call_peer(int fd, const struct target *t, struct error *err)
{
	int r = connect(fd, &t->addr.any, t->len) < 0 ? -errno : fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (r < 0 || !t->tls)
		return r;
	send_at_once(r);
	return tls_helper_start(r, &(struct tls_peer){ "client", t->host, t->tls, "--tls" }, err);
}

static int open_socket(const struct target *t, struct migrate_listener *l, struct error *err)
{
	int fd = socket(t->addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	if (fd < 0)
		return -errno;
	if (l)
		return await_peer(l, fd, t, err);
	r = call_peer(fd, t, err);
	close(fd);
	if (r >= 0 && !t->tls && t->addr.any.sa_family != AF_UNIX)
		send_at_once(r);
	return r;
}

/* ---- commands and descriptors ---- */

static int run_command(const char *command)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		dup2(pair[1], STDIN_FILENO);
		dup2(pair[1], STDOUT_FILENO);
		signal(SIGPIPE, SIG_DFL);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	close(pair[1]);
	if (pid > 0)
		return pair[0];
	close(pair[0]);
	return -errno;
}

static int use_descriptor(const char *text, int *ret_in, int *ret_out)
{
	struct stat st;
	char *end;
	long n = strtol(text, &end, 10);
	int in, out;

	if (!*text || *end || n < 0 || n > 1 << 20 || fstat((int)n, &st) < 0)
		return -EBADF;
	in = fcntl((int)n, F_DUPFD_CLOEXEC, 3);
	if (in < 0)
		return -errno;
	if (S_ISSOCK(st.st_mode) || n != STDIN_FILENO) {
		*ret_in = *ret_out = in;
		return 0;
	}
	out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	if (out < 0) {
		close(in);
		return -errno;
	}
	*ret_in = in;
	*ret_out = out;
	return 0;
}

static bool is_kind(const char *address, const char *kind)
{
	size_t len = strlen(kind);

	return !strncmp(address, kind, len) && address[len] == ':';
}

/* Either end of a socket. */
static int open_address(const char *address, struct migrate_listener *l, const char *tls,
			struct error *err)
{
	const char *rest = strchr(address, ':');
	struct target t = { .tls = tls };
	int r = -EINVAL;

	if (is_kind(address, "tcp"))
		r = parse_tcp(rest + 1, &t);
	else if (is_kind(address, "unix"))
		r = parse_unix(rest + 1, &t);
	if (r < 0) {
		error_usage(err, r, "'%s' is none of %s", address, migrate_addresses);
		error_hint(err, "HOST is an address in numbers, or localhost");
		return r;
	}
	return open_socket(&t, l, err);
}

bool migrate_address_is_socket(const char *address)
{
	return is_kind(address, "tcp") || is_kind(address, "unix");
}

/* With @l by waiting there, else by connecting. */
static int open_or_await(const char *address, struct migrate_listener *l, const char *tls,
			 int *ret_in, int *ret_out, struct error *err)
{
	struct error why = { 0 };
	int r;

	if (tls && !is_kind(address, "tcp"))
		return error_usage(err, -EINVAL, "--tls: '%s' is no tcp:HOST:PORT", address);
	if (tls) {
		r = tls_helper_check(tls, "--tls", err);
		if (r < 0)
			return r;
	}
	if (is_kind(address, "fd")) {
		r = use_descriptor(address + strlen("fd:"), ret_in, ret_out);
		return r < 0 ? error_usage(err, r, "'%s': %m", address) : 0;
	}
	if (is_kind(address, "exec") && address[strlen("exec:")])
		r = run_command(address + strlen("exec:"));
	else
		r = open_address(address, l, tls, &why);
	if (r >= 0) {
		*ret_in = *ret_out = r;
		return 0;
	}
	if (!why.msg[0])
		return error_usage(err, r, "'%s': cannot %s: %m", address,
				   l ? "listen" : "connect");
	*err = why;
	return r;
}

int migrate_address_open(const char *address, const char *tls, int *ret_in, int *ret_out,
			 struct error *err)
{
	return open_or_await(address, NULL, tls, ret_in, ret_out, err);
}

int migrate_address_await(const char *address, const char *tls, struct migrate_listener *l,
			  int *ret_in, int *ret_out, struct error *err)
{
	int r;

	*l = (struct migrate_listener){ .fd = -1 };
	r = open_or_await(address, l, tls, ret_in, ret_out, err);
	if (r < 0)
		migrate_listener_close(l);
	return r;
}
