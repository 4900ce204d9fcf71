#include "tests/unit/image_tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* ---- archives ---- */

void archive_append(struct archive *a, const void *data, size_t len)
{
	a->data = realloc(a->data, a->len + len + 512);
	assert_non_null(a->data);
	memcpy(a->data + a->len, data, len);
	a->len += len;
	while (a->len % 512)
		a->data[a->len++] = 0;
}

void archive_put_size(struct archive *a, char type, const char *name, const char *link, mode_t mode,
		      size_t size)
{
	char h[512] = { 0 };
	unsigned sum = 0;

	snprintf(h, 100, "%s", name);
	snprintf(h + 100, 8, "%07o", mode);
	snprintf(h + 108, 8, "%07o", getuid());
	snprintf(h + 116, 8, "%07o", getgid());
	snprintf(h + 124, 12, "%011zo", size);
	snprintf(h + 136, 12, "%011o", 1234567890);
	memset(h + 148, ' ', 8);
	h[156] = type;
	snprintf(h + 157, 100, "%s", link);
	memcpy(h + 257, "ustar\00000", 8);
	for (unsigned i = 0; i < sizeof(h); i++)
		sum += (uint8_t)h[i];
	snprintf(h + 148, 8, "%06o", sum);
	archive_append(a, h, sizeof(h));
}

void archive_put(struct archive *a, char type, const char *name, const char *link)
{
	archive_put_size(a, type, name, link, type == '5' ? 0755 : 0644, 0);
}

void archive_put_text(struct archive *a, const char *name, const char *text)
{
	archive_put_size(a, '0', name, "", 0644, strlen(text));
	archive_append(a, text, strlen(text));
}

void archive_put_pax_bytes(struct archive *a, const char *key, const void *value, size_t len)
{
	char record[PATH_MAX + 100];
	size_t n = strlen(key) + len + 3, digits = 1;

	for (size_t left = n + digits; left >= 10; left /= 10)
		digits++;
	/* One more digit may make it one longer. */
	if ((size_t)snprintf(NULL, 0, "%zu", n + digits) > digits)
		digits++;
	n += digits;
	assert_true(n < sizeof(record));
	snprintf(record, sizeof(record), "%zu %s=", n, key);
	memcpy(record + n - 1 - len, value, len);
	record[n - 1] = '\n';
	archive_put_size(a, 'x', "pax", "", 0644, n);
	archive_append(a, record, n);
}

void archive_put_pax(struct archive *a, const char *key, const char *value)
{
	archive_put_pax_bytes(a, key, value, strlen(value));
}

void archive_digest(const struct archive *a, char hex[IMAGE_HEX])
{
	struct sha256_ctx s;

	sha256_init(&s);
	sha256_update(&s, a->len, a->data);
	image_digest_hex(&s, hex);
}

struct image_blob blob_of(const void *data, size_t len)
{
	FILE *f = tmpfile();

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	fflush(f);
	return (struct image_blob){ dup(fileno(f)), 0, len };
}

size_t pack_gzip(const void *data, size_t len, void *to, size_t room)
{
	z_stream z = { .avail_in = len, .next_out = to, .avail_out = room };

	z.next_in = (void *)data;
	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY),
			 Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

/* ---- trees ---- */

void tree_setup(struct tree_fixture *f)
{
	int fd;

	*f = (struct tree_fixture){ .dir = "/tmp/wisp-image.XXXXXX" };
	assert_non_null(mkdtemp(f->dir));
	fd = open(f->dir, O_RDONLY | O_DIRECTORY);
	assert_true(fd >= 0);
	image_tree_init(&f->tree, fd);
}

void tree_teardown(struct tree_fixture *f)
{
	close(f->tree.fd);
	image_tree_done(&f->tree);
	assert_int_equal(image_remove_tree(AT_FDCWD, f->dir), 0);
}

int tree_add(struct tree_fixture *f, struct archive *a)
{
	struct image_blob blob;
	char hex[IMAGE_HEX];
	int r;

	archive_append(a, (char[1024]){ 0 }, 1024);
	archive_digest(a, hex);
	blob = blob_of(a->data, a->len);
	f->err = (struct error){ 0 };
	r = image_tree_add(&f->tree, &blob, "blob", hex, f->layers++ == 0, &f->err);
	close(blob.fd);
	free(a->data);
	*a = (struct archive){ 0 };
	return r;
}

const char *tree_path(struct tree_fixture *f, const char *name)
{
	snprintf(f->path, sizeof(f->path), "%s/%s", f->dir, name);
	return f->path;
}

bool tree_has(struct tree_fixture *f, const char *name)
{
	struct stat st;

	return lstat(tree_path(f, name), &st) == 0;
}

void assert_tree_text(struct tree_fixture *f, const char *name, const char *text)
{
	char buf[100] = "";
	FILE *in = fopen(tree_path(f, name), "r");

	assert_non_null(in);
	assert_int_equal(fread(buf, 1, sizeof(buf) - 1, in), strlen(text));
	assert_string_equal(buf, text);
	fclose(in);
}
