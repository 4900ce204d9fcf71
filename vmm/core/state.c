#include "vmm/core/state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/*
 * A section is a header of 80 bytes and its fields, all little-endian:
 *
 *	 0  u32  magic "WSEC"
 *	 4  u32  version of the section's format
 *	 8  u32  instance
 *	12  u32  zero
 *	16  u64  bytes of fields
 *	24  u64  XXH3 of the header with this field as zero, then of the fields
 *	32  48 bytes  name, zero-padded
 */
#define SECTION_MAGIC 0x43455357u
#define HEADER_BYTES  80u
#define NAME_BYTES    48u

enum { AT_MAGIC = 0, AT_VERSION = 4, AT_INSTANCE = 8, AT_ZERO = 12, AT_LENGTH = 16, AT_HASH = 24,
       AT_NAME = 32 };

/* ---- writing ---- */

void state_writer_init(struct state_writer *w)
{
	*w = (struct state_writer){ .section = SIZE_MAX };
}

void state_writer_done(struct state_writer *w)
{
	free(w->buf);
	state_writer_init(w);
}

/* Room for @len more bytes, or NULL: the writer has failed. */
static uint8_t *append(struct state_writer *w, size_t len)
{
	uint8_t *p;

	if (w->failed)
		return NULL;
	if (len > w->cap - w->len) {
		size_t cap = MAX(w->cap * 2, (size_t)512);
		uint8_t *grown;

		while (cap - w->len < len)
			cap *= 2;
		grown = realloc(w->buf, cap);
		if (!grown) {
			w->failed = -ENOMEM;
			return NULL;
		}
		w->buf = grown;
		w->cap = cap;
	}
	p = w->buf + w->len;
	w->len += len;
	return p;
}

static uint64_t section_hash(const uint8_t *header, const uint8_t *fields, size_t len)
{
	uint8_t copy[HEADER_BYTES];

	memcpy(copy, header, sizeof(copy));
	put_le64(copy + AT_HASH, 0);
	return XXH3_64bits_withSeed(fields, len, XXH3_64bits(copy, sizeof(copy)));
}

void state_begin(struct state_writer *w, const char *name, uint32_t instance, uint32_t version)
{
	size_t start = w->len, name_len = strlen(name);
	uint8_t *h;

	if (!w->failed && (w->section != SIZE_MAX || !name_len || name_len >= NAME_BYTES))
		w->failed = -EINVAL;
	h = append(w, HEADER_BYTES);
	if (!h)
		return;
	memset(h, 0, HEADER_BYTES);
	put_le32(h + AT_MAGIC, SECTION_MAGIC);
	put_le32(h + AT_VERSION, version);
	put_le32(h + AT_INSTANCE, instance);
	memcpy(h + AT_NAME, name, name_len);
	w->section = start;
}

void state_end(struct state_writer *w)
{
	uint8_t *h;
	size_t len;

	if (!w->failed && w->section == SIZE_MAX)
		w->failed = -EINVAL;
	if (w->failed)
		return;
	h = w->buf + w->section;
	len = w->len - w->section - HEADER_BYTES;
	put_le64(h + AT_LENGTH, len);
	put_le64(h + AT_HASH, section_hash(h, h + HEADER_BYTES, len));
	w->section = SIZE_MAX;
}

void state_put_bytes(struct state_writer *w, const void *p, size_t len)
{
	uint8_t *to = append(w, len);

	if (to && len)
		memcpy(to, p, len);
}

void state_put_u8(struct state_writer *w, uint8_t v)
{
	state_put_bytes(w, &v, sizeof(v));
}

void state_put_u16(struct state_writer *w, uint16_t v)
{
	v = htole16(v);
	state_put_bytes(w, &v, sizeof(v));
}

void state_put_u32(struct state_writer *w, uint32_t v)
{
	v = htole32(v);
	state_put_bytes(w, &v, sizeof(v));
}

void state_put_u64(struct state_writer *w, uint64_t v)
{
	v = htole64(v);
	state_put_bytes(w, &v, sizeof(v));
}

void state_put_string(struct state_writer *w, const char *s)
{
	size_t len = strlen(s);

	state_put_u32(w, len);
	state_put_bytes(w, s, len);
}

/* ---- reading ---- */

static bool is_name(const uint8_t *p)
{
	const uint8_t *end = memchr(p, 0, NAME_BYTES);

	if (!end || end == p)
		return false;
	for (const uint8_t *c = p; c < end; c++)
		if (*c <= ' ' || *c >= 0x7f)
			return false;
	for (; end < p + NAME_BYTES; end++)
		if (*end)
			return false;
	return true;
}

int state_next(const uint8_t *buf, size_t len, size_t *pos, struct state_reader *ret_r,
	       struct error *err)
{
	size_t left = len - *pos;
	const uint8_t *h;
	uint64_t fields;

	if (!left)
		return 0; /* @buf may be NULL then */
	h = buf + *pos;
	if (left < HEADER_BYTES || get_le32(h + AT_MAGIC) != SECTION_MAGIC ||
	    get_le32(h + AT_ZERO) || !is_name(h + AT_NAME))
		return error_set(err, -EBADMSG, "saved state: no section at byte %zu", *pos);
	fields = get_le64(h + AT_LENGTH);
	if (fields > left - HEADER_BYTES)
		return error_set(err, -EBADMSG, "saved state: section '%s' is cut off",
				 (const char *)h + AT_NAME);
	if (get_le64(h + AT_HASH) != section_hash(h, h + HEADER_BYTES, fields))
		return error_set(err, -EBADMSG, "saved state: section '%s' is damaged",
				 (const char *)h + AT_NAME);
	*ret_r = (struct state_reader){
		.p = h + HEADER_BYTES,
		.len = fields,
		.name = (const char *)h + AT_NAME,
		.instance = get_le32(h + AT_INSTANCE),
		.version = get_le32(h + AT_VERSION),
	};
	*pos += HEADER_BYTES + fields;
	return 1;
}

int state_reader_fail(struct state_reader *r, const char *fmt, ...)
{
	va_list ap;

	if (!r->failed) {
		va_start(ap, fmt);
		vsnprintf(r->why, sizeof(r->why), fmt, ap);
		va_end(ap);
		r->failed = -EBADMSG;
	}
	return -EBADMSG;
}

/* The next @len bytes, or NULL: the reader has failed. */
static const uint8_t *take(struct state_reader *r, size_t len)
{
	const uint8_t *p = r->p + r->pos;

	if (!r->failed && len > r->len - r->pos)
		state_reader_fail(r, "ends in the middle of a field");
	if (r->failed)
		return NULL;
	r->pos += len;
	return p;
}

uint8_t state_get_u8(struct state_reader *r)
{
	const uint8_t *p = take(r, 1);

	return p ? *p : 0;
}

uint16_t state_get_u16(struct state_reader *r)
{
	const uint8_t *p = take(r, 2);

	return p ? get_le16(p) : 0;
}

uint32_t state_get_u32(struct state_reader *r)
{
	const uint8_t *p = take(r, 4);

	return p ? get_le32(p) : 0;
}

uint64_t state_get_u64(struct state_reader *r)
{
	const uint8_t *p = take(r, 8);

	return p ? get_le64(p) : 0;
}

bool state_get_bool(struct state_reader *r)
{
	uint8_t v = state_get_u8(r);

	if (v > 1)
		state_reader_fail(r, "a flag is %u", v);
	return v == 1;
}

void state_get_bytes(struct state_reader *r, void *p, size_t len)
{
	const uint8_t *from = take(r, len);

	if (!len)
		return; /* @p may be NULL then */
	if (from)
		memcpy(p, from, len);
	else
		memset(p, 0, len);
}

void state_get_string(struct state_reader *r, char *buf, size_t size)
{
	uint32_t len = state_get_u32(r);
	const uint8_t *from;

	buf[0] = 0;
	if (len >= size)
		state_reader_fail(r, "a string of %u bytes where %zu fit", len, size - 1);
	from = take(r, len);
	if (!from)
		return;
	if (memchr(from, 0, len)) {
		state_reader_fail(r, "a string with a zero byte in it");
		return;
	}
	memcpy(buf, from, len);
	buf[len] = 0;
}

int state_reader_end(struct state_reader *r, struct error *err)
{
	if (!r->failed && r->pos != r->len)
		state_reader_fail(r, "%zu bytes are left over", r->len - r->pos);
	if (r->failed)
		return error_set(err, -EBADMSG, "saved state: section '%s', instance %u: %s",
				 r->name, r->instance, r->why);
	return 0;
}
