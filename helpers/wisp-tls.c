/*
 * wisp-tls: the encrypted side of a migration over TCP, or of a disk's connection to its NBD
 * server. Started with a connected socket (descriptor 3) and one end of a socketpair (4), it
 * carries bytes between the two: plain ones on the pair, TLS 1.3 on the connection. It says
 * "ready" to the status pipe (5) once it knows who is at the other end, else why not.
 *
 *	wisp-tls client HOST DIR
 *	wisp-tls server DIR
 *	wisp-tls nbd HOST DIR
 *	wisp-tls check DIR
 *
 * The last only says whether the certificates in DIR could be used.
 *
 * Both sides of a migration show a certificate. The other's has to be signed by an authority in
 * DIR/ca.pem, and the server's has to be for HOST. Our own is DIR/cert.pem with the key
 * DIR/key.pem. For NBD the files are named as its other programs have them, ca-cert.pem,
 * client-cert.pem and client-key.pem, and the latter two may be missing, for servers that do not
 * ask. The files are read first; then the process locks itself in: it cannot open anything any
 * more.
 */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/core/util.h"
#include "vmm/sandbox/sandbox.h"

enum { CONNECTION_FD = 3, PLAIN_FD, STATUS_FD };

/* What both sides speak; nothing older exists that has to be spoken to. */
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3"

#define HANDSHAKE_MS 10000

/* How long the other side may take to see our end, which tells it from a lost connection. */
#define GOODBYE_MS 2000

/* Bytes on their way in one direction. */
struct flow {
	uint8_t buf[64 * KiB];
	size_t at, len;
	bool ended; /* no more will come */
};

struct tunnel {
	gnutls_session_t session;
	struct flow out, in; /* from the plain side to TLS, and back */
	bool want_read, want_write; /* of the connection, before there can be progress */
	/*
	 * Who leaves the plain side sends what was not answered over another connection. Of what
	 * has not gone out yet nothing may, or it would undo what was written since.
	 */
	bool drops;
};

/* ---- who we are, and who they are ---- */

/* With status @status: 1 the other side is at fault, 2 we are. */
static _Noreturn void give_up(int status, const char *what, const char *why)
{
	char text[240];
	int len = snprintf(text, sizeof(text), "%s: %s\n", what, why);

	/* The verb that started us may be gone; then nobody wants to know. */
	if (write(STATUS_FD, text, MIN((size_t)len, sizeof(text) - 1)) < 0)
		status = 2;
	exit(status);
}

static char *file_in(const char *dir, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		give_up(2, name, strerror(ENOMEM));
	return path;
}

/* The library does not say why it cannot read a file. */
static void check_readable(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		give_up(2, path, strerror(errno));
	close(fd);
}

static gnutls_certificate_credentials_t read_credentials(const char *dir, bool nbd)
{
	char *ca = file_in(dir, nbd ? "ca-cert.pem" : "ca.pem");
	char *cert = file_in(dir, nbd ? "client-cert.pem" : "cert.pem");
	char *key = file_in(dir, nbd ? "client-key.pem" : "key.pem");
	bool nameless = nbd && access(cert, F_OK) < 0 && access(key, F_OK) < 0;
	gnutls_certificate_credentials_t c;
	int r = gnutls_certificate_allocate_credentials(&c);

	if (r < 0)
		give_up(2, "TLS", gnutls_strerror(r));
	check_readable(ca);
	if (!nameless) {
		check_readable(cert);
		check_readable(key);
	}
	r = gnutls_certificate_set_x509_trust_file(c, ca, GNUTLS_X509_FMT_PEM);
	if (r <= 0)
		give_up(2, ca, r ? gnutls_strerror(r) : "holds no certificate");
	if (!nameless)
		r = gnutls_certificate_set_x509_key_file(c, cert, key, GNUTLS_X509_FMT_PEM);
	if (r < 0)
		give_up(2, cert, gnutls_strerror(r));
	free(ca);
	free(cert);
	free(key);
	return c;
}

static void say_why_not_trusted(gnutls_session_t session)
{
	unsigned status = gnutls_session_get_verify_cert_status(session);
	gnutls_datum_t text;

	if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0)
		give_up(1, "the other side's certificate", "is not to be trusted");
	give_up(1, "the other side's certificate", (const char *)text.data);
}

static void shake_hands(gnutls_session_t session, const char *host)
{
	int r;

	gnutls_transport_set_int(session, CONNECTION_FD);
	gnutls_handshake_set_timeout(session, HANDSHAKE_MS);
	gnutls_session_set_verify_cert(session, host, 0);
	do
		r = gnutls_handshake(session);
	while (r < 0 && !gnutls_error_is_fatal(r));
	if (r == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
		say_why_not_trusted(session);
	if (r < 0)
		give_up(1, "TLS", gnutls_strerror(r));
}

static gnutls_session_t start_session(gnutls_certificate_credentials_t credentials,
				      const char *host)
{
	gnutls_session_t session;
	int r = gnutls_init(&session, (host ? GNUTLS_CLIENT : GNUTLS_SERVER) | GNUTLS_NO_SIGNAL);

	if (!r)
		r = gnutls_priority_set_direct(session, PRIORITY, NULL);
	if (!r)
		r = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
	if (r < 0)
		give_up(2, "TLS", gnutls_strerror(r));
	if (host)
		gnutls_server_name_set(session, GNUTLS_NAME_DNS, host, strlen(host));
	else
		gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
	return session;
}

/* ---- bytes ---- */

/* A call of the library's that moves bytes: how many, or 0 when the connection is to be awaited. */
static size_t moved(struct tunnel *t, ssize_t n, bool *ended)
{
	if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) {
		if (gnutls_record_get_direction(t->session))
			t->want_write = true;
		else
			t->want_read = true;
		return 0;
	}
	/* The other side's goodbye, or a connection that is lost: plain bytes end either way. */
	if (n <= 0)
		*ended = true;
	return n > 0 ? n : 0;
}

/* As far as it goes without waiting. */
static void push_out(struct tunnel *t)
{
	struct flow *f = &t->out;
	size_t sent;
	ssize_t n;

	while (!t->want_write && !t->in.ended) {
		if (f->at == f->len) {
			f->at = f->len = 0;
			n = f->ended ? 0 : read(PLAIN_FD, f->buf, sizeof(f->buf));
			if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
				f->ended = true;
			if (n <= 0)
				return;
			f->len = n;
		}
		sent = moved(t, gnutls_record_send(t->session, f->buf + f->at, f->len - f->at),
			     &t->in.ended);
		if (!sent)
			return;
		f->at += sent;
	}
}

static void pull_in(struct tunnel *t)
{
	struct flow *f = &t->in;
	ssize_t n;

	for (;;) {
		if (f->at == f->len) {
			f->at = f->len = 0;
			if (f->ended || t->want_read)
				return;
			f->len = moved(t, gnutls_record_recv(t->session, f->buf, sizeof(f->buf)),
				       &f->ended);
			if (!f->len)
				return;
		}
		n = write(PLAIN_FD, f->buf + f->at, f->len - f->at);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			t->out.ended = f->ended = true;
		if (n <= 0)
			return;
		f->at += n;
	}
}

static bool is_over(const struct tunnel *t)
{
	return (t->in.ended && t->in.at == t->in.len) ||
	       (t->out.ended && (t->drops || t->out.at == t->out.len));
}

static void await(struct tunnel *t)
{
	struct pollfd p[2] = { { .fd = CONNECTION_FD }, { .fd = PLAIN_FD } };

	if (t->want_read)
		p[0].events |= POLLIN;
	if (t->want_write)
		p[0].events |= POLLOUT;
	if (t->out.at == t->out.len && !t->out.ended)
		p[1].events |= POLLIN;
	if (t->in.at < t->in.len)
		p[1].events |= POLLOUT;
	/* A hang-up that nobody waits for would be told again and again. */
	if (!p[0].events)
		p[0].fd = -1;
	if (!p[1].events && !t->drops)
		p[1].fd = -1;
	if (poll(p, ARRAY_SIZE(p), -1) < 0)
		return;
	if (p[0].revents)
		t->want_read = t->want_write = false;
	if (t->drops && p[1].revents & POLLHUP)
		t->out.ended = true;
}

static void carry(struct tunnel *t)
{
	while (!is_over(t)) {
		push_out(t);
		pull_in(t);
		if (!is_over(t))
			await(t);
	}
}

/* Closed at once, a connection with unread bytes would be reset, and our last ones with it. */
static void say_goodbye(struct tunnel *t)
{
	struct pollfd p = { .fd = CONNECTION_FD, .events = POLLIN };

	shutdown(PLAIN_FD, SHUT_RDWR);
	gnutls_bye(t->session, GNUTLS_SHUT_WR);
	shutdown(CONNECTION_FD, SHUT_WR);
	while (poll(&p, 1, GOODBYE_MS) > 0 &&
	       read(CONNECTION_FD, t->in.buf, sizeof(t->in.buf)) > 0)
		;
}

int main(int argc, char **argv)
{
	const char *const nothing[] = { NULL };
	bool check = argc == 3 && !strcmp(argv[1], "check");
	bool nbd = argc == 4 && !strcmp(argv[1], "nbd");
	bool client = nbd || (argc == 4 && !strcmp(argv[1], "client"));
	static struct tunnel tunnel;
	gnutls_certificate_credentials_t credentials;

	if (!client && !check && (argc != 3 || strcmp(argv[1], "server") != 0)) {
		fprintf(stderr, "usage: wisp-tls client HOST DIR | server DIR | nbd HOST DIR | "
				"check DIR\n"
				"It is started by wisp where TLS is wanted.\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	tunnel.drops = nbd;
	credentials = read_credentials(argv[argc - 1], nbd);
	if (check)
		return write(STATUS_FD, "ready\n", strlen("ready\n")) < 0;
	/* From the first byte of somebody else's on. */
	sandbox_lock_helper(SANDBOX_THREAD_TLS, nothing);
	tunnel.session = start_session(credentials, client ? argv[2] : NULL);
	shake_hands(tunnel.session, client ? argv[2] : NULL);
	if (write(STATUS_FD, "ready\n", strlen("ready\n")) < 0)
		return 1;
	close(STATUS_FD);
	if (fcntl(CONNECTION_FD, F_SETFL, O_NONBLOCK) < 0 ||
	    fcntl(PLAIN_FD, F_SETFL, O_NONBLOCK) < 0)
		return 1;
	carry(&tunnel);
	if (!tunnel.drops)
		say_goodbye(&tunnel);
	return 0;
}
