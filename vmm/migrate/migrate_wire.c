/*
 * A record, little-endian:
 *
 *	 0  u32  type
 *	 4  u32  length of the payload
 *	 8  u64  page
 *	16  u32  number of the record, from 0 in each direction
 *	20  u32  0
 *	24  u64  XXH3 of the payload, seeded with that of the 24 bytes before
 */
#include "vmm/migrate/migrate_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/core/fds.h"
#include "vmm/core/io.h"
#include "vmm/core/iov.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HEADER_BYTES 32
#define AT_HASH	     24

/* What a header gets in memory before any byte of its payload has come. */
#define FIRST_ROOM (256 * KiB)

/* What a peer who is busy may take to move the next byte. */
#define PATIENCE_MS 10000

/*
 * Of one who has hung up: somebody between us may have to forward what he said, and before it he
 * may have answered what we had sent.
 */
#define LAST_WORDS_MS	   1000
#define LAST_WORDS_RECORDS 8

static const struct {
	const char *name;
	size_t max;
} types[MIGRATE_NUM_TYPES] = {
	[MIGRATE_HELLO] = { "HELLO", 1 * MiB },
	[MIGRATE_PAGES] = { "PAGES", MIGRATE_MAX_WINDOW },
	[MIGRATE_PAGES_ZSTD] = { "PAGES_ZSTD", MIGRATE_MAX_WINDOW },
	[MIGRATE_ROUND] = { "ROUND", 0 },
	[MIGRATE_STATE] = { "STATE", MIGRATE_MAX_PAYLOAD },
	[MIGRATE_COMMIT] = { "COMMIT", 0 },
	[MIGRATE_READY] = { "READY", MIGRATE_MAX_TEXT },
	[MIGRATE_ROUND_DONE] = { "ROUND_DONE", 0 },
	[MIGRATE_PREPARED] = { "PREPARED", 0 },
	[MIGRATE_RUNNING] = { "RUNNING", 0 },
	[MIGRATE_GIVEN_UP] = { "GIVEN_UP", MIGRATE_MAX_TEXT },
	[MIGRATE_DISK] = { "DISK", MIGRATE_MAX_DISK },
	[MIGRATE_DISK_ZSTD] = { "DISK_ZSTD", MIGRATE_MAX_DISK },
	[MIGRATE_DISK_ZEROES] = { "DISK_ZEROES", 12 },
	[MIGRATE_STREAM] = { "STREAM", MIGRATE_UUID_BYTES },
	[MIGRATE_MISSING] = { "MISSING", MIGRATE_MAX_MISSING },
	[MIGRATE_WANT] = { "WANT", 0 },
	[MIGRATE_SENT] = { "SENT", 0 },
	[MIGRATE_WHOLE] = { "WHOLE", 0 },
	[MIGRATE_RESUME] = { "RESUME", MIGRATE_UUID_BYTES },
	[MIGRATE_RESUMED] = { "RESUMED", 0 },
	[MIGRATE_TAP] = { "TAP", MIGRATE_MAX_TAP },
};

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int migrate_wire_init(struct migrate_wire *w, int in, int out, struct error *err)
{
	int r;

	*w = (struct migrate_wire){
		.in = in,
		.out = out,
		.wake_fd = -1,
		.fd = -1,
		.patience_ms = PATIENCE_MS,
	};
	r = set_nonblocking(in);
	if (!r && out != in)
		r = set_nonblocking(out);
	return r < 0 ? error_set(err, r, "migration: its connection: %m") : 0;
}

void migrate_wire_done(struct migrate_wire *w)
{
	if (w->in >= 0)
		close(w->in);
	if (w->out >= 0 && w->out != w->in)
		close(w->out);
	if (w->fd >= 0)
		close(w->fd);
	w->in = w->out = w->fd = -1;
	free(w->buf);
	w->buf = NULL;
}

/* ---- bytes ---- */

/* Wait for any of @p, of which the first is to stop us. Returns how many are ready, or -errno. */
static int await_any(struct migrate_wire *w, struct pollfd *p, unsigned num, int wait_ms,
		     struct error *err)
{
	int n;

	p[0] = (struct pollfd){ .fd = w->wake_fd, .events = POLLIN };
	do
		n = poll(p, num, wait_ms);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_set(err, -errno, "migration: its connection: %m");
	return p[0].revents ? error_set(err, -ECANCELED, "migration: cancelled") : n;
}

/* Wait until @fd is ready for @events. */
static int await(struct migrate_wire *w, int fd, short events, int wait_ms, struct error *err)
{
	struct pollfd p[2] = { [1] = { .fd = fd, .events = events } };
	int n = await_any(w, p, ARRAY_SIZE(p), wait_ms, err);

	if (n < 0)
		return n;
	if (n == 0)
		return error_set(err, -ETIMEDOUT,
				 "migration: the other side does not answer (%d ms)", wait_ms);
	return 0;
}

/* Two errors mean something here that no socket can know: the other side gave up, and we do. */
static int lost(int r, struct error *err)
{
	if (r == -ECONNABORTED || r == -ECANCELED)
		r = -ECONNRESET;
	return error_set(err, r, "migration: the connection to the other side is lost: %m");
}

static ssize_t send_with(int socket, struct iovec *iov, unsigned num, int fd)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = num };
	FDS_SPACE(1) space;

	fds_attach(&msg, &space, &fd, 1);
	return sendmsg(socket, &msg, MSG_NOSIGNAL);
}

/* With the first bytes descriptor @fd, unless it is -1. */
static int send_all(struct migrate_wire *w, struct iovec *iov, unsigned num, int fd,
		    struct error *err)
{
	num = iov_advance(&iov, num, 0);
	while (num) {
		ssize_t n = fd < 0 ? io_writev(w->out, iov, num) :
				     send_with(w->out, iov, num, fd);
		int r;

		if (n >= 0) {
			w->bytes_out += n;
			fd = -1;
			num = iov_advance(&iov, num, n);
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return lost(-errno, err);
		r = await(w, w->out, POLLOUT, (int)w->patience_ms, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Keep the first descriptor that came with @msg; whoever sends more than one has no use for us. */
static void keep_fd(struct migrate_wire *w, struct msghdr *msg)
{
	int fd = fds_take_one(msg);

	if (w->fd < 0)
		w->fd = fd;
	else if (fd >= 0)
		close(fd);
}

static ssize_t read_some(struct migrate_wire *w, void *buf, size_t len)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	FDS_SPACE(1) space;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &space,
		.msg_controllen = sizeof(space),
	};
	ssize_t n;

	/* A plain read has the kernel drop what nobody asked for. */
	if (!w->wants_fd)
		return read(w->in, buf, len);
	n = recvmsg(w->in, &msg, MSG_CMSG_CLOEXEC);
	if (n < 0 && errno == ENOTSOCK)
		return read(w->in, buf, len);
	if (n >= 0)
		keep_fd(w, &msg);
	return n;
}

/* Read all @len bytes; @wait_ms for the first, the wire's patience for each further part. */
static int receive_all(struct migrate_wire *w, void *buf, size_t len, int wait_ms,
		       struct error *err)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = read_some(w, p, len);
		int r;

		if (n > 0) {
			w->bytes_in += n;
			p += n;
			len -= n;
			wait_ms = (int)w->patience_ms;
			continue;
		}
		if (n == 0)
			return error_set(err, -ECONNRESET,
					 "migration: the other side hung up without a word");
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return lost(-errno, err);
		r = await(w, w->in, POLLIN, wait_ms, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- records ---- */

int migrate_wire_greet(struct migrate_wire *w, struct error *err)
{
	struct iovec iov = { .iov_base = MIGRATE_MAGIC, .iov_len = strlen(MIGRATE_MAGIC) };

	return send_all(w, &iov, 1, -1, err);
}

int migrate_wire_expect_greeting(struct migrate_wire *w, int wait_ms, struct error *err)
{
	char magic[sizeof(MIGRATE_MAGIC) - 1];
	int r = receive_all(w, magic, sizeof(magic), wait_ms, err);

	if (r < 0)
		return r;
	if (memcmp(magic, MIGRATE_MAGIC, sizeof(magic)) != 0)
		return error_set(err, -EPROTONOSUPPORT,
				 "migration: the other side does not speak " MIGRATE_MAGIC);
	return 0;
}

static uint64_t hash(const uint8_t *header, const void *payload, size_t len)
{
	return XXH3_64bits_withSeed(payload, len, XXH3_64bits(header, AT_HASH));
}

bool migrate_wire_carries_fds(const struct migrate_wire *w)
{
	int domain;
	socklen_t len = sizeof(domain);

	return getsockopt(w->out, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

bool migrate_wire_is_local(const struct migrate_wire *w)
{
	return w->in == w->out && migrate_wire_carries_fds(w);
}

int migrate_wire_send(struct migrate_wire *w, enum migrate_record_type type, uint64_t page,
		      const void *payload, size_t len, struct error *err)
{
	return migrate_wire_send_fd(w, type, page, payload, len, -1, err);
}

int migrate_wire_send_fd(struct migrate_wire *w, enum migrate_record_type type, uint64_t page,
			 const void *payload, size_t len, int fd, struct error *err)
{
	uint8_t header[HEADER_BYTES] = { 0 };
	struct iovec iov[2] = {
		{ .iov_base = header, .iov_len = sizeof(header) },
		{ .iov_base = (void *)payload, .iov_len = len },
	};

	if (len > types[type].max)
		return error_set(err, -EMSGSIZE, "migration: %zu bytes are too long for %s", len,
				 types[type].name);
	put_le32(header, type);
	put_le32(header + 4, len);
	put_le64(header + 8, page);
	put_le32(header + 16, w->next_out++);
	put_le64(header + AT_HASH, hash(header, payload ? payload : "", len));
	return send_all(w, iov, len ? 2 : 1, fd, err);
}

void migrate_wire_give_up(struct migrate_wire *w, const struct error *err)
{
	/* Whatever was wrong with the peer, these are only words, and not waited for. */
	int wake_fd = w->wake_fd;
	unsigned patience_ms = w->patience_ms;

	w->wake_fd = -1;
	w->patience_ms = 100;
	migrate_wire_send(w, MIGRATE_GIVEN_UP, 0, err->msg, strlen(err->msg), NULL);
	w->wake_fd = wake_fd;
	w->patience_ms = patience_ms;
}

static int corrupt(struct error *err, const char *what)
{
	return error_set(err, -EBADMSG, "migration: the stream is corrupt: %s", what);
}

static int make_room(struct migrate_wire *w, size_t len, struct error *err)
{
	uint8_t *grown;

	if (len <= w->buf_size)
		return 0;
	grown = realloc(w->buf, len);
	if (!grown)
		return error_set(err, -ENOMEM, "migration: %m");
	w->buf = grown;
	w->buf_size = len;
	return 0;
}

/* A header is only words: what it asks for is there when as much has come, twice at most. */
static int receive_payload(struct migrate_wire *w, size_t len, struct error *err)
{
	size_t got = 0, room = MIN(len, FIRST_ROOM), some;
	int r = make_room(w, MAX(room, (size_t)1), err);

	while (got < len && !r) {
		room = MAX(w->buf_size, 2 * got);
		some = MIN(len, room) - got;
		r = make_room(w, got + some, err);
		if (!r)
			r = receive_all(w, w->buf + got, some, (int)w->patience_ms, err);
		got += some;
	}
	return r;
}

void migrate_wire_text(const struct migrate_record *rec, char text[MIGRATE_MAX_TEXT + 1])
{
	size_t i;

	for (i = 0; i < rec->len && i < MIGRATE_MAX_TEXT; i++)
		text[i] = rec->payload[i] >= ' ' && rec->payload[i] < 127 ? rec->payload[i] : '?';
	text[i] = '\0';
}

static int given_up(const struct migrate_record *rec, struct error *err)
{
	char text[MIGRATE_MAX_TEXT + 1];

	migrate_wire_text(rec, text);
	return error_set(err, -ECONNABORTED, "the other side: %s", text);
}

int migrate_wire_await_or(struct migrate_wire *w, int fd, int wait_ms, struct error *err)
{
	struct pollfd p[] = {
		[1] = { .fd = w->in, .events = POLLIN },
		[2] = { .fd = fd, .events = POLLIN },
	};
	int n = await_any(w, p, ARRAY_SIZE(p), wait_ms, err);

	return n <= 0 ? n : p[1].revents ? 1 : 2;
}

int migrate_wire_await(struct migrate_wire *w, int wait_ms, struct error *err)
{
	return migrate_wire_await_or(w, -1, wait_ms, err);
}

int migrate_wire_receive(struct migrate_wire *w, struct migrate_record *ret, int wait_ms,
			 struct error *err)
{
	uint8_t header[HEADER_BYTES];
	struct migrate_record rec;
	uint32_t type;
	int r = receive_all(w, header, sizeof(header), wait_ms, err);

	if (r < 0)
		return r;
	type = get_le32(header);
	rec = (struct migrate_record){ .len = get_le32(header + 4), .page = get_le64(header + 8) };
	if (type == 0 || type >= MIGRATE_NUM_TYPES)
		return corrupt(err, "a record of an unknown type");
	rec.type = type;
	if (w->accepts && type != MIGRATE_GIVEN_UP && !(w->accepts >> type & 1))
		return corrupt(err, "a record that does not belong there");
	if (rec.len > types[type].max)
		return corrupt(err, "a record that is too long");
	if (get_le32(header + 16) != w->next_in || get_le32(header + 20) != 0)
		return corrupt(err, "a record out of turn");
	w->next_in++;
	r = receive_payload(w, rec.len, err);
	if (r < 0)
		return r;
	rec.payload = w->buf;
	if (get_le64(header + AT_HASH) != hash(header, rec.payload, rec.len))
		return corrupt(err, "a checksum is wrong");
	if (rec.type == MIGRATE_GIVEN_UP)
		return given_up(&rec, err);
	*ret = rec;
	return 0;
}

int migrate_wire_last_words(struct migrate_wire *w, int r, struct error *err)
{
	struct error words = { 0 };
	struct migrate_record rec;

	for (unsigned i = 0; i < LAST_WORDS_RECORDS; i++) {
		int last = migrate_wire_receive(w, &rec, LAST_WORDS_MS, &words);

		if (last == -ECONNABORTED)
			*err = words;
		if (last < 0)
			return last == -ECONNABORTED ? last : r;
	}
	return r;
}

int migrate_wire_check(const struct migrate_record *rec, enum migrate_record_type type,
		       struct error *err)
{
	if (rec->type == type)
		return 0;
	error_set(err, -EBADMSG, "migration: %s came where %s was due", types[rec->type].name,
		  types[type].name);
	/* Two sources, or our own words come back. */
	if (rec->type == MIGRATE_HELLO)
		error_hint(err, "is it 'wisp receive' that answers there?");
	return -EBADMSG;
}

int migrate_wire_expect(struct migrate_wire *w, enum migrate_record_type type,
			struct migrate_record *ret, int wait_ms, struct error *err)
{
	int r = migrate_wire_receive(w, ret, wait_ms, err);

	return r < 0 ? r : migrate_wire_check(ret, type, err);
}
