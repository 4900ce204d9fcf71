/*
 * Agreeing with an NBD server: the fixed newstyle handshake, which all servers of today
 * speak, with NBD_OPT_GO. The server may be anybody: all lengths are bounded.
 */
#include "devices/nbd.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/time.h>

#define MAGIC	     0x4e42444d41474943ull /* "NBDMAGIC" */
#define OPTION_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define REPLY_MAGIC  0x0003e889045565a9ull

#define FIXED_NEWSTYLE 1u
#define OPT_STARTTLS   5u
#define OPT_GO	       7u

#define REP_ACK	   1u
#define REP_INFO   3u
#define REP_ERROR  (1u << 31)
#define REP_UNSUP  (REP_ERROR | 1)
#define REP_POLICY (REP_ERROR | 2)
#define REP_TLS	   (REP_ERROR | 5)
#define REP_UNKNOWN (REP_ERROR | 6)

#define INFO_EXPORT	0u
#define INFO_BLOCK_SIZE 3u

#define MAX_REPLIES 64u
#define MAX_REPLY   4096u
#define MAX_BLOCK   (32 * MiB) /* what every server takes */
#define MAX_BYTES   (1ull << 62)
#define MAX_INTERRUPTIONS 64u

struct talk {
	int fd;
	const char *uri;
	struct error *err;
	struct nbd_export export;
	uint32_t option; /* that was asked for last */
	unsigned interruptions;
	bool described;
};

struct option_head {
	uint64_t magic;
	uint32_t option, len;
} __attribute__((packed));

struct reply_head {
	uint64_t magic;
	uint32_t option, type, len;
} __attribute__((packed));

static int lost(struct talk *t, ssize_t n)
{
	int e = n ? errno : ECONNRESET;

	if (e == EAGAIN)
		e = ETIMEDOUT;
	return error_usage(t->err, -e, "disk '%s': its server does not answer: %s", t->uri,
			   strerror(e));
}

/*
 * May a call that moved @n bytes, and not all, be made again? A ring of this thread that has work
 * for it interrupts its waits as a signal would; who keeps doing that is not waited for.
 */
static bool goes_on(struct talk *t, ssize_t n)
{
	return (n > 0 || (n < 0 && errno == EINTR)) && t->interruptions++ < MAX_INTERRUPTIONS;
}

static int get(struct talk *t, void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len) {
		ssize_t n = recv(t->fd, at, len, MSG_WAITALL);

		if (n != (ssize_t)len && !goes_on(t, n))
			return lost(t, n < 0 ? n : 0);
		at += MAX(n, 0);
		len -= MAX(n, 0);
	}
	return 0;
}

static int put(struct talk *t, const void *buf, size_t len)
{
	const uint8_t *at = buf;

	while (len) {
		ssize_t n = send(t->fd, at, len, MSG_NOSIGNAL);

		if (n != (ssize_t)len && !goes_on(t, n))
			return lost(t, n < 0 ? n : 0);
		at += MAX(n, 0);
		len -= MAX(n, 0);
	}
	return 0;
}

static int strange(struct talk *t, const char *what)
{
	return error_usage(t->err, -EPROTO, "disk '%s': %s", t->uri, what);
}

static int greet(struct talk *t)
{
	struct {
		uint64_t magic, option_magic;
		uint16_t flags;
	} __attribute__((packed)) hello;
	uint32_t flags = htobe32(FIXED_NEWSTYLE);
	int r = get(t, &hello, sizeof(hello));

	if (r < 0)
		return r;
	if (be64toh(hello.magic) != MAGIC)
		return strange(t, "what answers is no NBD server");
	if (be64toh(hello.option_magic) != OPTION_MAGIC || !(be16toh(hello.flags) & FIXED_NEWSTYLE))
		return strange(t, "its server speaks an old form of NBD");
	return put(t, &flags, sizeof(flags));
}

/* "Begin with the export of this name, and tell its block sizes." */
static int ask(struct talk *t)
{
	char *name = nbd_export_name(t->uri);
	size_t len = name ? strlen(name) : 0, size = sizeof(struct option_head) + 4 + len + 4;
	uint8_t *buf = name ? malloc(size) : NULL, *at = buf;
	struct option_head head = {
		.magic = htobe64(OPTION_MAGIC),
		.option = htobe32(OPT_GO),
		.len = htobe32(size - sizeof(head)),
	};
	uint32_t name_len = htobe32(len);
	uint16_t infos[2] = { htobe16(1), htobe16(INFO_BLOCK_SIZE) };
	int r;

	t->option = OPT_GO;
	if (!buf) {
		free(name);
		return error_set(t->err, -ENOMEM, "disk '%s': %m", t->uri);
	}
	at = mempcpy(at, &head, sizeof(head));
	at = mempcpy(at, &name_len, sizeof(name_len));
	at = mempcpy(at, name, len);
	memcpy(at, infos, sizeof(infos));
	r = put(t, buf, size);
	free(buf);
	free(name);
	return r;
}

static int take_info(struct talk *t, const uint8_t *data, uint32_t len)
{
	struct {
		uint64_t size;
		uint16_t flags;
	} __attribute__((packed)) export;
	struct {
		uint32_t min, preferred, max;
	} sizes;
	uint16_t type;

	if (len < sizeof(type))
		return strange(t, "its server sends too short an answer");
	memcpy(&type, data, sizeof(type));
	data += sizeof(type);
	len -= sizeof(type);
	if (be16toh(type) == INFO_EXPORT && len == sizeof(export)) {
		memcpy(&export, data, sizeof(export));
		t->export.size_bytes = be64toh(export.size);
		t->export.flags = be16toh(export.flags);
		t->described = true;
	} else if (be16toh(type) == INFO_BLOCK_SIZE && len == sizeof(sizes)) {
		memcpy(&sizes, data, sizeof(sizes));
		t->export.min_block = be32toh(sizes.min);
		t->export.preferred_block = be32toh(sizes.preferred);
		t->export.max_block = be32toh(sizes.max);
	}
	return 0;
}

static int refused(struct talk *t, uint32_t type, const char *words)
{
	const char *why = type == REP_UNKNOWN ? "its server has no such export" :
			  type == REP_TLS     ? "its server wants TLS (nbds in place of nbd)" :
			  t->option == OPT_STARTTLS ? "its server has no TLS" :
			  type == REP_POLICY  ? "its server does not allow it" :
			  type == REP_UNSUP   ? "its server is too old (it has no NBD_OPT_GO)" :
						"its server refuses the export";

	return error_usage(t->err, -EACCES, "disk '%s': %s%s%.200s", t->uri, why,
			   *words ? ": " : "", words);
}

/* One reply: 1 when it was the last. */
static int take_reply(struct talk *t)
{
	uint8_t data[MAX_REPLY + 1];
	struct reply_head head;
	uint32_t type, len;
	int r = get(t, &head, sizeof(head));

	if (r < 0)
		return r;
	type = be32toh(head.type);
	len = be32toh(head.len);
	if (be64toh(head.magic) != REPLY_MAGIC || be32toh(head.option) != t->option ||
	    len > MAX_REPLY)
		return strange(t, "its server sends a malformed answer");
	r = get(t, data, len);
	if (r < 0)
		return r;
	data[len] = '\0';
	if (type == REP_ACK)
		return 1;
	if (type & REP_ERROR) {
		/* A sentence for a person, which goes to a terminal. */
		for (uint32_t i = 0; i < len; i++)
			if (data[i] < ' ' || data[i] > '~')
				data[i] = '?';
		return refused(t, type, (const char *)data);
	}
	return type == REP_INFO ? take_info(t, data, len) : 0;
}

static int check(struct talk *t)
{
	struct nbd_export *e = &t->export;

	if (!t->described)
		return strange(t, "its server does not tell its size");
	if (e->size_bytes < BLOCK_SECTOR || e->size_bytes > MAX_BYTES)
		return strange(t, "its size makes no disk");
	if (!is_power_of_two(e->min_block) || e->min_block > PAGE_SIZE ||
	    !is_power_of_two(e->preferred_block) || e->max_block < e->preferred_block ||
	    e->max_block < PAGE_SIZE)
		return strange(t, "its server has block sizes that no guest can keep to");
	e->min_block = MAX(e->min_block, BLOCK_SECTOR);
	e->preferred_block = MAX(e->preferred_block, e->min_block);
	e->max_block = align_down(MIN((uint64_t)e->max_block, MAX_BLOCK), PAGE_SIZE);
	return 0;
}

static void begin(struct talk *t, int fd, const char *uri, struct error *err)
{
	const struct timeval limit = { .tv_sec = NBD_TIMEOUT_S };

	*t = (struct talk){
		.fd = fd,
		.uri = uri,
		.err = err,
		.export = { .min_block = 1, .preferred_block = PAGE_SIZE, .max_block = MAX_BLOCK },
	};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

int nbd_start_tls(int fd, const char *uri, struct error *err)
{
	const struct option_head head = {
		.magic = htobe64(OPTION_MAGIC),
		.option = htobe32(OPT_STARTTLS),
	};
	struct talk t;
	int r;

	begin(&t, fd, uri, err);
	t.option = OPT_STARTTLS;
	r = greet(&t);
	if (!r)
		r = put(&t, &head, sizeof(head));
	if (!r)
		r = take_reply(&t);
	if (!r)
		r = strange(&t, "its server sends a malformed answer");
	return MIN(r, 0);
}

int nbd_negotiate(int fd, const char *uri, struct nbd_export *ret_export, struct error *err)
{
	struct talk t;
	int r = 0;

	begin(&t, fd, uri, err);
	/* Before TLS they have greeted each other. */
	if (!nbd_wants_tls(uri))
		r = greet(&t);
	if (!r)
		r = ask(&t);
	for (unsigned i = 0; i < MAX_REPLIES && !r; i++)
		r = take_reply(&t);
	if (!r)
		r = strange(&t, "its server does not come to an end");
	if (r > 0)
		r = check(&t);
	if (!r)
		*ret_export = t.export;
	return r;
}
