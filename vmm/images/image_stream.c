#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "vmm/images/image_internal.h"

#define BUFFER (128 * KiB)

enum packing { PLAIN, GZIP, ZSTD };

struct image_stream {
	struct image_blob left; /* what was not read yet */
	const char *name;
	enum packing packing;
	z_stream gzip;
	ZSTD_DStream *zstd;
	uint8_t *buffer; /* of what is packed */
	size_t at, have; /* in it */
	bool ended;	 /* a packed frame, not necessarily the last */
	uint64_t position, max;
	bool hashing;
	struct sha256_ctx hash;
};

/* More packed bytes. 1, 0 at the end, -errno. */
static int fill(struct image_stream *s, struct error *err)
{
	ssize_t n;

	do {
		n = pread(s->left.fd, s->buffer, MIN(s->left.size, BUFFER), (off_t)s->left.offset);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_set(err, -errno, "%s: cannot read: %m", s->name);
	s->left.offset += n;
	s->left.size -= n;
	s->at = 0;
	s->have = n;
	return n > 0;
}

static enum packing recognise(const uint8_t *p, size_t len)
{
	if (len >= 2 && p[0] == 0x1f && p[1] == 0x8b)
		return GZIP;
	if (len >= 4 && get_le32(p) == ZSTD_MAGICNUMBER)
		return ZSTD;
	return PLAIN;
}

int image_stream_open(struct image_stream **ret_s, const struct image_blob *blob, const char *name,
		      struct error *err)
{
	struct image_stream *s = calloc(1, sizeof(*s));
	int r = 0;

	if (s)
		s->buffer = malloc(BUFFER);
	if (!s || !s->buffer) {
		free(s);
		return error_set(err, -ENOMEM, "%s: %m", name);
	}
	s->left = *blob;
	s->name = name;
	s->max = UINT64_MAX;
	r = fill(s, err);
	if (r < 0)
		goto fail;
	s->packing = recognise(s->buffer, s->have);
	r = -ENOMEM;
	/* Windows and header as zlib finds them; 16: gzip's. */
	if (s->packing == GZIP && inflateInit2(&s->gzip, 16 + MAX_WBITS) != Z_OK)
		goto fail;
	if (s->packing == ZSTD && !(s->zstd = ZSTD_createDStream()))
		goto fail;
	*ret_s = s;
	return 0;
fail:
	free(s->buffer);
	free(s);
	return r == -ENOMEM ? error_set(err, r, "%s: %m", name) : r;
}

void image_stream_close(struct image_stream *s)
{
	if (!s)
		return;
	if (s->packing == GZIP)
		inflateEnd(&s->gzip);
	ZSTD_freeDStream(s->zstd);
	free(s->buffer);
	free(s);
}

void image_stream_limit(struct image_stream *s, uint64_t max)
{
	s->max = max;
}

bool image_stream_packed(const struct image_stream *s)
{
	return s->packing != PLAIN;
}

static int malformed(const struct image_stream *s, struct error *err)
{
	return error_set(err, -EBADMSG, "%s: packed data is damaged or cut off", s->name);
}

/*
 * Unpack some bytes of what is in the buffer: how many came out, which may be none when it wants
 * more, or -errno.
 */
static ssize_t unpack_gzip(struct image_stream *s, uint8_t *buf, size_t len, struct error *err)
{
	int r;

	/* One member behind another is one file; nothing behind it is its end. */
	if (s->ended && s->at == s->have)
		return 0;
	if (s->ended && inflateReset(&s->gzip) != Z_OK)
		return malformed(s, err);
	s->ended = false;
	s->gzip.next_in = s->buffer + s->at;
	s->gzip.avail_in = s->have - s->at;
	s->gzip.next_out = buf;
	s->gzip.avail_out = len;
	r = inflate(&s->gzip, Z_NO_FLUSH);
	s->at = s->have - s->gzip.avail_in;
	if (r == Z_STREAM_END)
		s->ended = true;
	else if (r != Z_OK && r != Z_BUF_ERROR)
		return malformed(s, err);
	return len - s->gzip.avail_out;
}

static ssize_t unpack_zstd(struct image_stream *s, uint8_t *buf, size_t len, struct error *err)
{
	ZSTD_inBuffer in = { s->buffer, s->have, s->at };
	ZSTD_outBuffer out = { buf, len, 0 };
	size_t r;

	if (s->ended && s->at == s->have)
		return 0;
	r = ZSTD_decompressStream(s->zstd, &out, &in);
	s->at = in.pos;
	if (ZSTD_isError(r))
		return malformed(s, err);
	s->ended = r == 0;
	return out.pos;
}

static ssize_t take_plain(struct image_stream *s, uint8_t *buf, size_t len)
{
	size_t n = MIN(len, s->have - s->at);

	memcpy(buf, s->buffer + s->at, n);
	s->at += n;
	return n;
}

ssize_t image_stream_read(struct image_stream *s, void *buf, size_t len, struct error *err)
{
	size_t done = 0;

	while (done < len) {
		uint8_t *to = (uint8_t *)buf + done;
		ssize_t n;
		int r;

		n = s->packing == GZIP	 ? unpack_gzip(s, to, len - done, err)
		    : s->packing == ZSTD ? unpack_zstd(s, to, len - done, err)
					 : take_plain(s, to, len - done);
		if (n < 0)
			return n;
		done += n;
		if (n || s->at < s->have)
			continue;
		r = fill(s, err);
		if (r < 0)
			return r;
		if (!r && s->packing != PLAIN && !s->ended)
			return malformed(s, err);
		if (!r)
			break;
	}
	s->position += done;
	if (s->position > s->max)
		return error_set(err, -EFBIG, "%s: with it the image has more than %llu GiB",
				 s->name, IMAGE_MAX_BYTES / GiB);
	if (s->hashing)
		sha256_update(&s->hash, done, buf);
	return done;
}

int image_stream_skip(struct image_stream *s, uint64_t len, struct error *err)
{
	uint8_t sink[8192];

	if (s->packing == PLAIN && !s->hashing && len > s->have - s->at) {
		uint64_t beyond = len - (s->have - s->at);

		if (beyond > s->left.size)
			return error_set(err, -EBADMSG, "%s: cut off", s->name);
		s->left.offset += beyond;
		s->left.size -= beyond;
		s->at = s->have;
		s->position += len;
		return 0;
	}
	while (len) {
		ssize_t n = image_stream_read(s, sink, MIN(len, sizeof(sink)), err);

		if (n <= 0)
			return n < 0 ? (int)n : error_set(err, -EBADMSG, "%s: cut off", s->name);
		len -= n;
	}
	return 0;
}

uint64_t image_stream_position(const struct image_stream *s)
{
	return s->position;
}

void image_stream_hash(struct image_stream *s)
{
	sha256_init(&s->hash);
	s->hashing = true;
}

void image_digest_hex(struct sha256_ctx *s, char ret[IMAGE_HEX])
{
	uint8_t sum[SHA256_DIGEST_SIZE];

	sha256_digest(s, sizeof(sum), sum);
	for (unsigned i = 0; i < sizeof(sum); i++)
		snprintf(ret + (size_t)2 * i, 3, "%02x", sum[i]);
}

int image_stream_digest(struct image_stream *s, char ret_hex[IMAGE_HEX], struct error *err)
{
	uint8_t sink[8192];
	ssize_t n;

	do {
		n = image_stream_read(s, sink, sizeof(sink), err);
	} while (n > 0);
	if (n < 0)
		return (int)n;
	image_digest_hex(&s->hash, ret_hex);
	return 0;
}
