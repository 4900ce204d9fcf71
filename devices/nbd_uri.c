/* Where an export is: URIs as the NBD project writes them, and the way there. */
#include "devices/nbd.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_PORT 10809
#define MAX_HOST     254 /* a name's length by DNS, and its end */

#define TLS "nbds"

/* Where the certificate of a server behind a UNIX socket is said to be for, if nobody says. */
#define LOCAL_HOST "localhost"

struct place {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_un un;
	};
	socklen_t len;
};

static bool begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

bool nbd_is_uri(const char *path)
{
	return begins(path, "nbd://") || begins(path, "nbd+unix://") ||
	       begins(path, "nbds://") || begins(path, "nbds+unix://");
}

bool nbd_wants_tls(const char *uri)
{
	return begins(uri, TLS);
}

static bool is_unix(const char *uri)
{
	return uri[strcspn(uri, "+:")] == '+';
}

/* @len bytes at @text with %XX decoded, into @buf; -EINVAL when malformed or too long. */
static int decode(const char *text, size_t len, char *buf, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		char hex[3] = "", c = text[i];

		if (c == '%') {
			if (i + 2 >= len || !isxdigit((unsigned char)text[i + 1]) ||
			    !isxdigit((unsigned char)text[i + 2]))
				return -EINVAL;
			memcpy(hex, text + i + 1, 2);
			c = (char)strtoul(hex, NULL, 16);
			i += 2;
		}
		if (!c || n + 1 >= size)
			return -EINVAL;
		buf[n++] = c;
	}
	buf[n] = '\0';
	return 0;
}

/* Behind the scheme. */
static const char *authority(const char *uri)
{
	return strstr(uri, "://") + 3;
}

char *nbd_export_name(const char *uri)
{
	const char *at = authority(uri);
	const char *slash = at + strcspn(at, "/?");
	char *name = malloc(NBD_MAX_NAME + 1);

	if (!name || !*slash || *slash == '?') {
		if (name)
			*name = '\0';
		return name;
	}
	if (decode(slash + 1, strcspn(slash + 1, "?#"), name, NBD_MAX_NAME + 1) < 0) {
		free(name);
		return NULL;
	}
	return name;
}

/*
 * What the query of @uri says of @key, decoded into @buf. -ENOENT: nothing; -EINVAL: what is
 * malformed or too long.
 */
static int query(const char *uri, const char *key, char *buf, size_t size)
{
	const char *at = strchr(uri, '?');
	size_t n = strlen(key);

	for (; at; at = strchr(at, '&')) {
		at++;
		if (begins(at, key) && at[n] == '=')
			return decode(at + n + 1, strcspn(at + n + 1, "&#"), buf, size);
	}
	return -ENOENT;
}

/* Every key is one that means something here: one that was misspelt is not passed over. */
static int check_query(const char *uri, struct error *err)
{
	static const char *const keys[] = { "socket", "tls-certificates", "tls-hostname" };
	const char *at = strchr(uri, '?');

	for (; at; at = strchr(at, '&')) {
		size_t n = strcspn(++at, "=&#");
		bool known = false;

		for (unsigned i = is_unix(uri) ? 0 : 1; i < (nbd_wants_tls(uri) ? 3 : 1); i++)
			known = known || (strlen(keys[i]) == n && !strncmp(at, keys[i], n));
		if (!known)
			return error_usage(err, -EINVAL, "disk '%s': '%.*s' is unknown in it", uri,
					   (int)n, at);
	}
	return 0;
}

static int find_unix(const char *uri, struct place *p, struct error *err)
{
	int r = -ENOENT;

	p->un = (struct sockaddr_un){ .sun_family = AF_UNIX };
	p->len = sizeof(p->un);
	if (*authority(uri) == '/')
		r = query(uri, "socket", p->un.sun_path, sizeof(p->un.sun_path));
	if (r == -ENOENT)
		return error_usage(err, -EINVAL, "disk '%s': is not %.*s:///EXPORT?socket=PATH",
				   uri, (int)strcspn(uri, ":"), uri);
	if (r < 0 || !*p->un.sun_path)
		return error_usage(err, -EINVAL, "disk '%s': the path of its socket is %s", uri,
				   r ? "malformed or too long" : "empty");
	return 0;
}

/* HOST and PORT of nbd://HOST[:PORT]/EXPORT, HOST without brackets. -EINVAL when malformed. */
static int split_tcp(const char *uri, char *host, size_t size, uint16_t *ret_port)
{
	const char *at = authority(uri), *end = at + strcspn(at, "/?#"), *colon;
	unsigned long port = DEFAULT_PORT;
	bool bracket = *at == '[';
	char *rest = "";

	if (bracket)
		at++;
	colon = at + strcspn(at, bracket ? "]" : ":/?#");
	if (colon > end || colon == at || (size_t)(colon - at) >= size ||
	    (bracket && *colon != ']'))
		return -EINVAL;
	memcpy(host, at, colon - at);
	host[colon - at] = '\0';
	colon += bracket;
	if (*colon == ':') {
		port = strtoul(colon + 1, &rest, 10);
		if (!isdigit((unsigned char)colon[1]) || rest != end || !port || port > UINT16_MAX)
			return -EINVAL;
	} else if (colon != end) {
		return -EINVAL;
	}
	*ret_port = port;
	return 0;
}

/* @host as a place, if it is an address or one that always means the same. */
static bool find_address(const char *host, uint16_t port, struct place *p)
{
	p->v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port) };
	p->len = sizeof(p->v6);
	if (inet_pton(AF_INET6, host, &p->v6.sin6_addr) == 1)
		return true;
	p->v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
	p->len = sizeof(p->v4);
	return inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1",
			 &p->v4.sin_addr) == 1;
}

/* As DNS has them; and no option of a program, which it is given to. */
static bool is_host_name(const char *host)
{
	bool digits = true;

	for (const char *c = host; *c; c++) {
		if (!isalnum((unsigned char)*c) && *c != '-' && *c != '.' && *c != '_')
			return false;
		if (!isdigit((unsigned char)*c) && *c != '.')
			digits = false;
	}
	return *host && *host != '-' && !digits;
}

char *nbd_host_name(const char *uri)
{
	char host[MAX_HOST];
	struct place p;
	uint16_t port;

	if (is_unix(uri) || split_tcp(uri, host, sizeof(host), &port) < 0 ||
	    find_address(host, port, &p) || !is_host_name(host))
		return NULL;
	return strdup(host);
}

/* @address is in the place of a name; p->len stays 0 for one that nobody has looked up. */
static int find_tcp(const char *uri, const char *address, struct place *p, struct error *err)
{
	char host[MAX_HOST];
	uint16_t port;

	if (split_tcp(uri, host, sizeof(host), &port) < 0)
		return error_usage(err, -EINVAL, "disk '%s': is not nbd://HOST[:PORT]/EXPORT", uri);
	if (find_address(address ? address : host, port, p))
		return 0;
	p->len = 0;
	return is_host_name(host) ? 0 : error_usage(err, -EINVAL,
						    "disk '%s': '%s' is neither an IP address nor "
						    "a name", uri, host);
}

char *nbd_certificates(const char *uri)
{
	char dir[PATH_MAX];

	return query(uri, "tls-certificates", dir, sizeof(dir)) < 0 || !*dir ? NULL : strdup(dir);
}

char *nbd_tls_host(const char *uri)
{
	char host[MAX_HOST];
	uint16_t port;
	int r = query(uri, "tls-hostname", host, sizeof(host));

	if (r == -ENOENT && is_unix(uri))
		return strdup(LOCAL_HOST);
	if (r == -ENOENT)
		r = split_tcp(uri, host, sizeof(host), &port);
	/* An address, or a name: nothing that could be taken for an option. */
	return r < 0 || !*host || *host == '-' ? NULL : strdup(host);
}

static int check_tls(const char *uri, struct error *err)
{
	char *dir = nbd_certificates(uri), *host = nbd_tls_host(uri);
	int r = 0;

	if (!host)
		r = error_usage(err, -EINVAL, "disk '%s': its tls-hostname is no name of a host",
				uri);
	if (!dir) {
		r = error_usage(err, -EINVAL, "disk '%s': names no certificates for TLS", uri);
		error_hint(err, "add tls-certificates=DIR to its query, with ca-cert.pem in DIR");
	}
	free(dir);
	free(host);
	return r;
}

static int find(const char *uri, const char *address, struct place *p,
		struct error *err)
{
	char *name = nbd_export_name(uri);
	int r;

	if (!name)
		return error_usage(err, -EINVAL, "disk '%s': the name of the export is malformed",
				   uri);
	free(name);
	r = is_unix(uri) ? find_unix(uri, p, err) : find_tcp(uri, address, p, err);
	if (!r)
		r = check_query(uri, err);
	if (!r && nbd_wants_tls(uri))
		r = check_tls(uri, err);
	return r;
}

int nbd_check_uri(const char *uri, struct error *err)
{
	struct place p;

	return find(uri, NULL, &p, err);
}

/* A host that is gone is noticed within 90 seconds, also while it owes what takes longer. */
static void keep_alive(int fd)
{
	const int yes = 1, idle = 30, interval = 10, probes = 6;

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

int nbd_connect(const char *uri, const char *address, struct error *err)
{
	const struct timeval limit = { .tv_sec = NBD_TIMEOUT_S };
	const struct linger drop = { .l_onoff = 1 };
	const int yes = 1;
	struct place p = { 0 };
	int fd, r = find(uri, address, &p, err);

	if (r < 0)
		return r;
	if (!p.len)
		return error_usage(err, -EINVAL, "disk '%s': is not an IP address", uri);
	fd = socket(p.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, -errno, "disk '%s': socket: %m", uri);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	/* A request is one message already, and nobody gains by waiting for a second. */
	if (p.any.sa_family != AF_UNIX) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
		keep_alive(fd);
	}
	/*
	 * What a connection that was given up has not sent yet is dropped when it is closed: it
	 * goes over another, and would come a second time, after what was written since.
	 */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &drop, sizeof(drop));
	/* A ring of this thread interrupts as a signal does; Linux goes on with the wait. */
	do {
		r = connect(fd, &p.any, p.len);
	} while (r < 0 && errno == EINTR);
	if (r == 0)
		return fd;
	r = errno == EINPROGRESS || errno == EAGAIN ? -ETIMEDOUT : -errno;
	close(fd);
	return error_usage(err, r, "disk '%s': cannot connect: %s", uri, strerror(-r));
}
