#include "vmm/migrate_address.h"

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

const char migrate_addresses[] = "tcp:HOST:PORT|unix:PATH|exec:COMMAND|fd:N";

/* ---- sockets ---- */

union address {
	struct sockaddr any;
	struct sockaddr_in ip4;
	struct sockaddr_in6 ip6;
	struct sockaddr_un un;
};

/* "HOST:PORT", "[HOST]:PORT": numbers only, since names need more than this process has. */
static int parse_tcp(const char *text, union address *a, socklen_t *len)
{
	const char *colon = strrchr(text, ':');
	char host[64], *end;
	unsigned long port;
	size_t n;

	if (!colon)
		return -EINVAL;
	port = strtoul(colon + 1, &end, 10);
	n = colon - text;
	if (!colon[1] || *end || port == 0 || port > 65535 || n >= sizeof(host))
		return -EINVAL;
	if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	memcpy(host, text, n);
	host[n] = '\0';
	*a = (union address){ 0 };
	if (!strcmp(host, "localhost"))
		memcpy(host, "127.0.0.1", sizeof("127.0.0.1"));
	if (inet_pton(AF_INET, host, &a->ip4.sin_addr) == 1) {
		a->ip4.sin_family = AF_INET;
		a->ip4.sin_port = htons(port);
		*len = sizeof(a->ip4);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &a->ip6.sin6_addr) == 1) {
		a->ip6.sin6_family = AF_INET6;
		a->ip6.sin6_port = htons(port);
		*len = sizeof(a->ip6);
		return 0;
	}
	return -EINVAL;
}

static int parse_unix(const char *path, union address *a, socklen_t *len)
{
	size_t n = strlen(path);

	if (!n || n >= sizeof(a->un.sun_path))
		return -EINVAL;
	*a = (union address){ .un.sun_family = AF_UNIX };
	memcpy(a->un.sun_path, path, n);
	*len = sizeof(a->un);
	return 0;
}

static int accept_one(int fd)
{
	int peer;

	do
		peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	while (peer < 0 && (errno == EINTR || errno == ECONNABORTED));
	return peer < 0 ? -errno : peer;
}

static int await_peer(int fd, const union address *a, socklen_t len)
{
	int one = 1, r;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &a->any, len) < 0)
		return -errno;
	r = listen(fd, 1) < 0 ? -errno : accept_one(fd);
	if (a->any.sa_family == AF_UNIX)
		unlink(a->un.sun_path);
	return r;
}

static int open_socket(const union address *a, socklen_t len, bool listening)
{
	int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, r;

	if (fd < 0)
		return -errno;
	if (listening)
		r = await_peer(fd, a, len);
	else
		r = connect(fd, &a->any, len) < 0 ? -errno : fcntl(fd, F_DUPFD_CLOEXEC, 3);
	close(fd);
	/* A blackout is no time to wait for more to send. */
	if (r >= 0 && a->any.sa_family != AF_UNIX)
		setsockopt(r, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
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

int migrate_address_open(const char *address, bool listening, int *ret_in, int *ret_out,
			 struct error *err)
{
	const char *rest = strchr(address, ':');
	size_t kind = rest ? (size_t)(rest - address) : 0;
	union address a;
	socklen_t len;
	int r = -EINVAL;

	rest = rest ? rest + 1 : "";
	if (kind == 2 && !strncmp(address, "fd", kind)) {
		r = use_descriptor(rest, ret_in, ret_out);
		return r < 0 ? error_usage(err, r, "'%s': %m", address) : 0;
	}
	if (kind == 4 && !strncmp(address, "exec", kind) && *rest) {
		r = run_command(rest);
	} else {
		if (kind == 3 && !strncmp(address, "tcp", kind))
			r = parse_tcp(rest, &a, &len);
		else if (kind == 4 && !strncmp(address, "unix", kind))
			r = parse_unix(rest, &a, &len);
		if (r < 0) {
			error_usage(err, r, "'%s' is none of %s", address, migrate_addresses);
			error_hint(err, "HOST is an address in numbers, or localhost");
			return r;
		}
		r = open_socket(&a, len, listening);
	}
	if (r < 0)
		return error_usage(err, r, "'%s': cannot %s: %m", address,
				   listening ? "listen" : "connect");
	*ret_in = *ret_out = r;
	return 0;
}
