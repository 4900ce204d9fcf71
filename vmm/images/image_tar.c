/*
 * Tar archives: POSIX ustar and pax headers, and what GNU tar adds for long names and
 * large numbers. Sparse files and archives of several volumes are refused; images have none.
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/images/image_internal.h"

#define BLOCK 512u

/* Of what a pax header or a long name says; attributes may be 64 KiB. */
#define MAX_WORDS (1 * MiB)

/* A header as it is in the archive (POSIX.1, "ustar Interchange Format"). */
struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], owner[32], group[32], major[8], minor[8], prefix[155], rest[12];
};

_Static_assert(sizeof(struct header) == BLOCK, "a header fills a block");

/* What headers of other kinds say about the member that follows them. */
struct words {
	bool has_name, has_link, has_size, has_uid, has_gid, has_mtime;
	uint64_t size, uid, gid;
	int64_t mtime;
};

void tar_init(struct tar *t, struct image_stream *stream, uint32_t max_headers)
{
	*t = (struct tar){ .stream = stream, .headers_left = max_headers };
}

static int malformed(struct error *err, const char *what)
{
	return error_set(err, -EBADMSG, "tar archive: %s", what);
}

/* ---- fields ---- */

/* Octal digits, or with the first bit set a large number in base 256, as GNU tar writes them. */
static int get_number(const char *field, size_t len, uint64_t *ret)
{
	const uint8_t *p = (const uint8_t *)field;
	uint64_t v = 0;
	size_t i = 0;

	if (p[0] & 0x80) {
		if (p[0] & 0x40)
			return -EINVAL; /* a negative one */
		v = p[0] & 0x3f;
		for (i = 1; i < len; i++) {
			if (v >> 55)
				return -ERANGE;
			v = v << 8 | p[i];
		}
		*ret = v;
		return 0;
	}
	while (i < len && p[i] == ' ')
		i++;
	for (; i < len && p[i] >= '0' && p[i] <= '7'; i++) {
		if (v >> 60)
			return -ERANGE;
		v = v << 3 | (p[i] - '0');
	}
	if (i < len && p[i] && p[i] != ' ')
		return -EINVAL;
	*ret = v;
	return 0;
}

/* Fields end with a zero byte unless they are full. */
static size_t get_text(const char *field, size_t len, char *to)
{
	size_t n = strnlen(field, len);

	memcpy(to, field, n);
	to[n] = '\0';
	return n;
}

static bool checksum_fits(const struct header *h)
{
	const uint8_t *p = (const uint8_t *)h;
	const size_t from = offsetof(struct header, checksum);
	uint64_t want, sum = 0;

	for (size_t i = 0; i < BLOCK; i++)
		sum += i >= from && i < from + sizeof(h->checksum) ? ' ' : p[i];
	return !get_number(h->checksum, sizeof(h->checksum), &want) && want == sum;
}

/* ---- headers about the next member ---- */

/* The @size bytes that belong to a header, with a zero byte behind them; NULL with @ret_r. */
static char *read_words(struct tar *t, uint64_t size, int *ret_r, struct error *err)
{
	ssize_t n;
	char *p;

	if (size > MAX_WORDS) {
		*ret_r = malformed(err, "a header of more than 1 MiB");
		return NULL;
	}
	p = malloc(size + 1);
	if (!p) {
		*ret_r = error_set(err, -ENOMEM, "tar archive: %m");
		return NULL;
	}
	n = image_stream_read(t->stream, p, size, err);
	if (n >= 0 && (uint64_t)n == size)
		n = image_stream_skip(t->stream, -size % BLOCK, err);
	else if (n >= 0)
		n = malformed(err, "cut off");
	if (n < 0) {
		*ret_r = (int)n;
		free(p);
		return NULL;
	}
	p[size] = '\0';
	return p;
}

static int set_path(char *to, const char *value, size_t len, struct error *err)
{
	if (len >= PATH_MAX || memchr(value, '\0', len))
		return malformed(err, "a name that is too long or has a zero byte");
	memcpy(to, value, len);
	to[len] = '\0';
	return 0;
}

/* A decimal number, of times the part before the point. */
static bool set_decimal(const char *value, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(value, &end, 10);
	return !errno && end != value && value[0] >= '0' && value[0] <= '9' &&
	       (*end == '\0' || *end == '.');
}

#define XATTR_KEY "SCHILY.xattr."

/* As star and the engines of containers have it: the value's length, name, zero byte, value. */
static int add_xattr(struct tar_member *m, const char *name, const char *value, size_t len,
		     struct error *err)
{
	uint8_t *to = m->xattrs + m->xattrs_len;
	size_t name_size = strlen(name) + 1;
	uint32_t value_len = len;

	if (len > TAR_MAX_XATTRS ||
	    sizeof(value_len) + name_size + len > TAR_MAX_XATTRS - m->xattrs_len)
		return malformed(err, "extended attributes of more than 64 KiB");
	memcpy(to, &value_len, sizeof(value_len));
	memcpy(to + sizeof(value_len), name, name_size);
	memcpy(to + sizeof(value_len) + name_size, value, len);
	m->xattrs_len += sizeof(value_len) + name_size + len;
	return 0;
}

bool tar_next_xattr(const struct tar_member *m, size_t *at, struct tar_xattr *ret)
{
	if (*at == m->xattrs_len)
		return false;
	memcpy(&ret->len, m->xattrs + *at, sizeof(ret->len));
	ret->name = (const char *)m->xattrs + *at + sizeof(ret->len);
	ret->value = ret->name + strlen(ret->name) + 1;
	*at = (const uint8_t *)ret->value - m->xattrs + ret->len;
	return true;
}

/* @key and @value both end with a zero byte. */
static int take_pax(struct words *w, struct tar_member *m, const char *key, const char *value,
		    size_t len, struct error *err)
{
	uint64_t number = 0;
	bool is_time = !strcmp(key, "mtime");

	if (!strcmp(key, "path")) {
		w->has_name = true;
		return set_path(m->name, value, len, err);
	}
	if (!strcmp(key, "linkpath")) {
		w->has_link = true;
		return set_path(m->link, value, len, err);
	}
	if (!strncmp(key, XATTR_KEY, strlen(XATTR_KEY)))
		return add_xattr(m, key + strlen(XATTR_KEY), value, len, err);
	if (!strncmp(key, "GNU.sparse.", 11))
		return malformed(err, "sparse files are not supported");
	if (!is_time && strcmp(key, "size") != 0 && strcmp(key, "uid") != 0 &&
	    strcmp(key, "gid") != 0)
		return 0;
	/* Times before 1970 are of no use to anybody. */
	if (!set_decimal(value, &number) && !(is_time && *value == '-'))
		return malformed(err, "a number that is none");
	if (is_time) {
		w->has_mtime = true;
		w->mtime = (int64_t)MIN(number, (uint64_t)INT64_MAX);
	} else if (!strcmp(key, "size")) {
		w->has_size = true;
		w->size = number;
	} else if (!strcmp(key, "uid")) {
		w->has_uid = true;
		w->uid = number;
	} else {
		w->has_gid = true;
		w->gid = number;
	}
	return 0;
}

/* Records of "LENGTH KEY=VALUE\n", where LENGTH counts all of it. */
static int parse_pax(char *p, size_t size, struct words *w, struct tar_member *m, struct error *err)
{
	for (size_t at = 0; at < size;) {
		char *end, *key, *equals, *record = p + at;
		unsigned long long len;
		int r;

		errno = 0;
		len = record[0] >= '0' && record[0] <= '9' ? strtoull(record, &end, 10) : 0;
		if (errno || !len || len > size - at || *end != ' ' || record[len - 1] != '\n')
			return malformed(err, "a pax header with a wrong length");
		key = end + 1;
		record[len - 1] = '\0';
		equals = key < record + len ? strchr(key, '=') : NULL;
		if (!equals)
			return malformed(err, "a pax header without a value");
		*equals = '\0';
		r = take_pax(w, m, key, equals + 1, record + len - 1 - (equals + 1), err);
		if (r < 0)
			return r;
		at += len;
	}
	return 0;
}

/* What stands before a member about it. 1 when @h is such a header, 0 when it is the member. */
static int take_words(struct tar *t, const struct header *h, uint64_t size, struct words *w,
		      struct tar_member *m, struct error *err)
{
	char *text;
	int r = 0;

	if (!strchr("xgLK", h->type) || !h->type)
		return 0;
	text = read_words(t, size, &r, err);
	if (!text)
		return r;
	if (h->type == 'x') {
		r = parse_pax(text, size, w, m, err);
	} else if (h->type == 'L') {
		w->has_name = true;
		r = set_path(m->name, text, strlen(text), err);
	} else if (h->type == 'K') {
		w->has_link = true;
		r = set_path(m->link, text, strlen(text), err);
	}
	/* Global ones ('g') are comments, in what writes images. */
	free(text);
	return r < 0 ? r : 1;
}

/* ---- members ---- */

static int set_kind(struct tar_member *m, char type, struct error *err)
{
	switch (type) {
	case '\0':
	case '0':
	case '7': /* contiguous, where that means something */
		m->kind = TAR_FILE;
		/* As archives older than POSIX have directories. */
		if (*m->name && m->name[strlen(m->name) - 1] == '/')
			m->kind = TAR_DIRECTORY;
		return 0;
	case '1':
		m->kind = TAR_HARD_LINK;
		return 0;
	case '2':
		m->kind = TAR_SYMLINK;
		return 0;
	case '3':
	case '4':
		m->kind = TAR_DEVICE;
		return 0;
	case '5':
		m->kind = TAR_DIRECTORY;
		return 0;
	case '6':
		m->kind = TAR_FIFO;
		return 0;
	default:
		return error_set(err, -EBADMSG, "tar archive: '%.200s' is of the unknown kind %d",
				 m->name, type);
	}
}

static void set_name(const struct header *h, char *to)
{
	size_t n = 0;

	if (!memcmp(h->magic, "ustar", 6) && h->prefix[0]) {
		n = get_text(h->prefix, sizeof(h->prefix), to);
		to[n++] = '/';
	}
	get_text(h->name, sizeof(h->name), to + n);
}

static int set_member(struct tar *t, const struct header *h, const struct words *w,
		      struct tar_member *m, struct error *err)
{
	uint64_t mode, uid, gid, size, mtime;
	int r;

	if (get_number(h->mode, sizeof(h->mode), &mode) < 0 ||
	    (get_number(h->uid, sizeof(h->uid), &uid) < 0 && !w->has_uid) ||
	    (get_number(h->gid, sizeof(h->gid), &gid) < 0 && !w->has_gid) ||
	    (get_number(h->size, sizeof(h->size), &size) < 0 && !w->has_size))
		return malformed(err, "a number that is none");
	/* Some write the time of what has none as they like. */
	if (get_number(h->mtime, sizeof(h->mtime), &mtime) < 0)
		mtime = 0;
	if (!w->has_name)
		set_name(h, m->name);
	if (!w->has_link)
		get_text(h->link, sizeof(h->link), m->link);
	m->mode = mode & 07777;
	uid = w->has_uid ? w->uid : uid;
	gid = w->has_gid ? w->gid : gid;
	if (uid >= UINT32_MAX || gid >= UINT32_MAX)
		return malformed(err, "an owner's number is too large");
	m->uid = uid;
	m->gid = gid;
	m->mtime = w->has_mtime ? w->mtime : (int64_t)MIN(mtime, (uint64_t)INT64_MAX);
	size = w->has_size ? w->size : size;
	r = set_kind(m, h->type, err);
	if (r < 0)
		return r;
	if (size > INT64_MAX)
		return malformed(err, "a file that is too large");
	/* Of links some say the size of what they lead to; there is no data. */
	m->size = m->kind == TAR_FILE ? size : 0;
	t->left = m->size;
	t->padding = -m->size % BLOCK;
	return 1;
}

int tar_next(struct tar *t, struct tar_member *ret, struct error *err)
{
	struct words w = { 0 };
	struct header h;
	uint64_t size;
	ssize_t n;
	int r = image_stream_skip(t->stream, t->left + t->padding, err);

	t->left = t->padding = 0;
	ret->xattrs_len = 0;
	if (r < 0)
		return r;
	for (;;) {
		n = image_stream_read(t->stream, &h, sizeof(h), err);
		if (n < 0)
			return (int)n;
		/* A block of zeros is the end; many lack it. */
		if (!n || (n == sizeof(h) && !h.name[0] && !h.checksum[0]))
			return 0;
		if (n != sizeof(h))
			return malformed(err, "cut off");
		if (!checksum_fits(&h))
			return malformed(err, "a header with a wrong checksum");
		if (!t->headers_left--)
			return error_set(err, -E2BIG, "with it the image has more than %u members",
					 IMAGE_MAX_HEADERS);
		if (get_number(h.size, sizeof(h.size), &size) < 0)
			size = UINT64_MAX;
		r = take_words(t, &h, size, &w, ret, err);
		if (r < 0)
			return r;
		if (!r)
			return set_member(t, &h, &w, ret, err);
	}
}

ssize_t tar_read(struct tar *t, void *buf, size_t len, struct error *err)
{
	ssize_t n = image_stream_read(t->stream, buf, MIN(len, t->left), err);

	if (n < 0)
		return n;
	if (!n && t->left && len)
		return malformed(err, "cut off");
	t->left -= n;
	return n;
}

int tar_clean_name(char *name)
{
	char *to = name;

	for (char *from = name; *from;) {
		size_t n = strcspn(from, "/");

		if (n == 2 && !memcmp(from, "..", 2))
			return -EINVAL;
		if (n && !(n == 1 && *from == '.')) {
			if (to != name)
				*to++ = '/';
			memmove(to, from, n);
			to += n;
		}
		/* What was here may be overwritten by now: so the step is from where it was. */
		from += n;
		while (*from == '/')
			from++;
	}
	*to = '\0';
	return 0;
}
