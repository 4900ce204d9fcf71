#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "vmm/images/image_internal.h"

/* ---- a small writer of archives ---- */

struct archive {
	uint8_t *data;
	size_t len;
};

static void append(struct archive *a, const void *data, size_t len)
{
	a->data = realloc(a->data, a->len + len + 512);
	assert_non_null(a->data);
	memcpy(a->data + a->len, data, len);
	a->len += len;
	while (a->len % 512)
		a->data[a->len++] = 0;
}

static void put_size(struct archive *a, char type, const char *name, const char *link, mode_t mode,
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
	append(a, h, sizeof(h));
}

static void put(struct archive *a, char type, const char *name, const char *link)
{
	put_size(a, type, name, link, type == '5' ? 0755 : 0644, 0);
}

static void put_text(struct archive *a, const char *name, const char *text)
{
	put_size(a, '0', name, "", 0644, strlen(text));
	append(a, text, strlen(text));
}

static void put_pax(struct archive *a, const char *key, const char *value)
{
	char record[PATH_MAX + 100];
	size_t n = strlen(key) + strlen(value) + 3, digits = 1;

	for (size_t left = n + digits; left >= 10; left /= 10)
		digits++;
	/* One more digit may make it one longer. */
	if ((size_t)snprintf(NULL, 0, "%zu", n + digits) > digits)
		digits++;
	snprintf(record, sizeof(record), "%zu %s=%s\n", n + digits, key, value);
	put_size(a, 'x', "pax", "", 0644, strlen(record));
	append(a, record, strlen(record));
}

static void digest_of(const struct archive *a, char hex[IMAGE_HEX])
{
	struct sha256_ctx s;

	sha256_init(&s);
	sha256_update(&s, a->len, a->data);
	image_digest_hex(&s, hex);
}

/* A file without a name that holds @len bytes. */
static struct image_blob blob_of(const void *data, size_t len)
{
	FILE *f = tmpfile();

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	fflush(f);
	return (struct image_blob){ dup(fileno(f)), 0, len };
}

/* ---- a tree that layers are put over ---- */

struct fixture {
	char dir[32];
	struct image_tree tree;
	unsigned layers;
	struct error err;
	char path[PATH_MAX + 64];
};

static void setup(struct fixture *f)
{
	int fd;

	*f = (struct fixture){ .dir = "/tmp/wisp-image.XXXXXX" };
	assert_non_null(mkdtemp(f->dir));
	fd = open(f->dir, O_RDONLY | O_DIRECTORY);
	assert_true(fd >= 0);
	image_tree_init(&f->tree, fd);
}

static void teardown(struct fixture *f)
{
	close(f->tree.fd);
	image_tree_done(&f->tree);
	assert_int_equal(image_remove_tree(AT_FDCWD, f->dir), 0);
}

/* @a is used up. */
static int add(struct fixture *f, struct archive *a)
{
	struct image_blob blob;
	char hex[IMAGE_HEX];
	int r;

	append(a, (char[1024]){ 0 }, 1024);
	digest_of(a, hex);
	blob = blob_of(a->data, a->len);
	f->err = (struct error){ 0 };
	r = image_tree_add(&f->tree, &blob, "blob", hex, f->layers++ == 0, &f->err);
	close(blob.fd);
	free(a->data);
	*a = (struct archive){ 0 };
	return r;
}

static const char *at(struct fixture *f, const char *name)
{
	snprintf(f->path, sizeof(f->path), "%s/%s", f->dir, name);
	return f->path;
}

static bool is_there(struct fixture *f, const char *name)
{
	struct stat st;

	return lstat(at(f, name), &st) == 0;
}

static void assert_text(struct fixture *f, const char *name, const char *text)
{
	char buf[100] = "";
	FILE *in = fopen(at(f, name), "r");

	assert_non_null(in);
	assert_int_equal(fread(buf, 1, sizeof(buf) - 1, in), strlen(text));
	assert_string_equal(buf, text);
	fclose(in);
}

/* ---- SHA-256 ---- */

static void sha256_gives_the_standards_examples(void **state)
{
	static const struct {
		const char *text, *hex;
	} example[] = {
		{ "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
		{ "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
		{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
	};
	char hex[IMAGE_HEX], million[1000];
	struct sha256_ctx s;

	for (unsigned i = 0; i < ARRAY_SIZE(example); i++) {
		sha256_init(&s);
		sha256_update(&s, strlen(example[i].text), (const uint8_t *)example[i].text);
		image_digest_hex(&s, hex);
		assert_string_equal(hex, example[i].hex);
	}
	/* A million times "a", in pieces that fit no block. */
	memset(million, 'a', sizeof(million));
	sha256_init(&s);
	for (unsigned left = 1000000; left;) {
		unsigned n = MIN(left, 997u);

		sha256_update(&s, n, (const uint8_t *)million);
		left -= n;
	}
	image_digest_hex(&s, hex);
	assert_string_equal(hex,
			    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* ---- streams ---- */

static size_t pack_gzip(const void *data, size_t len, void *to, size_t room)
{
	z_stream z = { .avail_in = len, .next_out = to, .avail_out = room };

	z.next_in = (void *)data;
	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY),
			 Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

static void assert_stream_gives(const void *packed, size_t packed_len, const char *data,
				size_t len)
{
	struct image_blob blob = blob_of(packed, packed_len);
	char *got = malloc(len + 1);
	struct image_stream *s;
	size_t have = 0;
	ssize_t n;

	assert_int_equal(image_stream_open(&s, &blob, "blob", NULL), 0);
	while ((n = image_stream_read(s, got + have, MIN(len + 1 - have, (size_t)777), NULL)) > 0)
		have += n;
	assert_int_equal(n, 0);
	assert_int_equal(have, len);
	assert_memory_equal(got, data, len);
	image_stream_close(s);
	free(got);
	close(blob.fd);
}

static void streams_unpack_what_gzip_and_zstd_packed(void **state)
{
	size_t len = 300000, room = 400000, n, m;
	char *data = malloc(len), *packed = malloc(2 * room);

	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * i >> 7);
	assert_stream_gives(data, len, data, len);
	n = pack_gzip(data, len, packed, room);
	assert_stream_gives(packed, n, data, len);
	n = ZSTD_compress(packed, room, data, len, 3);
	assert_stream_gives(packed, n, data, len);
	/* Two packed pieces, one behind the other, are one file. */
	n = ZSTD_compress(packed, room, data, 1000, 3);
	m = ZSTD_compress(packed + n, room, data + 1000, len - 1000, 3);
	assert_stream_gives(packed, n + m, data, len);
	n = pack_gzip(data, 1000, packed, room);
	m = pack_gzip(data + 1000, len - 1000, packed + n, room);
	assert_stream_gives(packed, n + m, data, len);
	free(data);
	free(packed);
}

static void stream_that_is_cut_off_or_damaged_is_an_error(void **state)
{
	char data[5000], packed[6000];
	size_t len[2];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * i >> 3);
	for (unsigned kind = 0; kind < 2; kind++) {
		len[0] = kind ? ZSTD_compress(packed, sizeof(packed), data, sizeof(data), 3) :
				pack_gzip(data, sizeof(data), packed, sizeof(packed));
		for (unsigned damaged = 0; damaged < 2; damaged++) {
			struct image_blob blob;
			struct image_stream *s;
			char sink[6000];

			packed[len[0] / 2] ^= damaged ? 0x55 : 0;
			blob = blob_of(packed, damaged ? len[0] : len[0] - 1);
			assert_int_equal(image_stream_open(&s, &blob, "blob", NULL), 0);
			/* zstd's blocks have no checksum here: then the content is another one. */
			if (!damaged || !kind)
				assert_int_equal(image_stream_read(s, sink, sizeof(sink), NULL),
						 -EBADMSG);
			image_stream_close(s);
			close(blob.fd);
		}
	}
}

/* ---- layers ---- */

static void layer_becomes_a_tree(void **state)
{
	struct archive a = { 0 };
	struct fixture f;
	struct stat st, other;

	setup(&f);
	put_size(&a, '5', "./", "", 0755, 0);
	put_size(&a, '5', "./dir/", "", 0555, 0);
	put_text(&a, "./dir/file", "text");
	put_size(&a, '0', "dir/run", "", 0755, 0);
	put(&a, '1', "dir/same", "dir/file");
	put(&a, '2', "link", "/etc/passwd");
	put(&a, '6', "pipe", "");
	put(&a, '3', "null", "");
	put_text(&a, "not/said/before", "x");
	assert_int_equal(add(&f, &a), 0);
	assert_int_equal(image_tree_finish(&f.tree, &f.err), 0);
	assert_text(&f, "dir/file", "text");
	assert_text(&f, "not/said/before", "x");
	assert_int_equal(stat(at(&f, "dir/file"), &st), 0);
	assert_int_equal(st.st_mtime, 1234567890);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(stat(at(&f, "dir/same"), &other), 0);
	assert_int_equal(st.st_ino, other.st_ino);
	assert_int_equal(stat(at(&f, "dir"), &st), 0);
	assert_int_equal(st.st_mode & 0077, 0055);
	assert_int_equal(st.st_mtime, 1234567890);
	assert_int_equal(lstat(at(&f, "link"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(lstat(at(&f, "pipe"), &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	assert_false(is_there(&f, "null"));
	assert_int_equal(f.tree.skipped, 1);
	teardown(&f);
}

static void whiteouts_take_away_what_lower_layers_have(void **state)
{
	struct archive a = { 0 };
	struct fixture f;

	setup(&f);
	put_text(&a, "kept", "1");
	put_text(&a, "gone", "1");
	put_text(&a, "dir/a/b", "1");
	put_text(&a, "dir/c", "1");
	put_text(&a, "tree/x/y", "1");
	assert_int_equal(add(&f, &a), 0);
	put(&a, '0', ".wh.gone", "");
	put(&a, '0', ".wh.tree", "");
	/* What is new stays, also when it stands in front. */
	put_text(&a, "dir/new", "2");
	put(&a, '0', "dir/.wh..wh..opq", "");
	put(&a, '0', ".wh.never-there", "");
	put(&a, '0', "nowhere/.wh..wh..opq", "");
	put(&a, '0', ".wh..wh.plnk", "");
	assert_int_equal(add(&f, &a), 0);
	assert_true(is_there(&f, "kept"));
	assert_false(is_there(&f, "gone"));
	assert_false(is_there(&f, "tree"));
	assert_false(is_there(&f, "dir/a"));
	assert_false(is_there(&f, "dir/c"));
	assert_text(&f, "dir/new", "2");
	assert_false(is_there(&f, ".wh.gone"));
	assert_false(is_there(&f, ".wh..wh.plnk"));
	teardown(&f);
}

static void higher_layers_replace_what_is_below(void **state)
{
	struct archive a = { 0 };
	struct fixture f;
	struct stat st;

	setup(&f);
	put_text(&a, "file", "old");
	put(&a, '1', "other", "file");
	put_text(&a, "tree/x", "1");
	put_text(&a, "becomes-dir", "1");
	put_text(&a, "stays/x", "1");
	put(&a, '2', "usr-lib", "stays");
	assert_int_equal(add(&f, &a), 0);
	put_text(&a, "file", "new");
	put(&a, '2', "tree", "stays");
	put(&a, '5', "becomes-dir", "");
	put(&a, '5', "stays", "");
	/* Through a link in the tree, as programs do that do not know of it. */
	put_text(&a, "usr-lib/y", "2");
	assert_int_equal(add(&f, &a), 0);
	assert_text(&f, "file", "new");
	/* Another name of the old file keeps what it was. */
	assert_text(&f, "other", "old");
	assert_int_equal(lstat(at(&f, "tree"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(lstat(at(&f, "becomes-dir"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_text(&f, "stays/x", "1");
	assert_text(&f, "stays/y", "2");
	teardown(&f);
}

static void nothing_leads_out_of_the_tree(void **state)
{
	static const struct {
		char type;
		const char *name, *link;
	} refused[] = {
		{ '0', "../wisp-out", "" },
		{ '0', "a/../../wisp-out", "" },
		{ '5', "..", "" },
		{ '2', "x/..", "y" },
		{ '0', "../.wh.wisp-out", "" },
		{ '0', ".wh...", "" },
		{ '0', ".wh..", "" },
		{ '1', "hard", "../../etc/passwd" },
		{ '1', "hard", "" },
		{ '1', "hard", "/nowhere/at/all" },
	};
	struct archive a = { 0 };
	struct fixture f;

	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
		setup(&f);
		put(&a, '5', "a", "");
		assert_int_equal(add(&f, &a), 0);
		put(&a, refused[i].type, refused[i].name, refused[i].link);
		assert_true(add(&f, &a) < 0);
		assert_non_null(strstr(f.err.msg, "layer blob"));
		teardown(&f);
	}
	/* Links that lead out when the host follows them lead inside here. */
	setup(&f);
	put(&a, '2', "up", "../../../../../../..");
	put(&a, '2', "abs", "/tmp");
	put_text(&a, "up/tmp/wisp-image-must-not-exist", "x");
	put_text(&a, "abs/wisp-image-must-not-exist", "y");
	put(&a, '1', "hard", "abs/wisp-image-must-not-exist");
	assert_int_equal(add(&f, &a), 0);
	assert_text(&f, "tmp/wisp-image-must-not-exist", "y");
	assert_text(&f, "hard", "y");
	assert_int_equal(access("/tmp/wisp-image-must-not-exist", F_OK), -1);
	/* Nor does a whiteout reach what is there. */
	put(&a, '0', "up/.wh.tmp", "");
	assert_int_equal(add(&f, &a), 0);
	assert_int_equal(access("/tmp", F_OK), 0);
	assert_false(is_there(&f, "tmp"));
	/* A device's own file system is not one of the tree's, whatever a link says. */
	put(&a, '2', "self", "/proc/self/root");
	put_text(&a, "self/wisp-image-must-not-exist", "x");
	assert_true(add(&f, &a) < 0 || is_there(&f, "proc/self/root"));
	assert_int_equal(access("/wisp-image-must-not-exist", F_OK), -1);
	teardown(&f);
}

static void long_names_and_large_numbers_are_read(void **state)
{
	char deep[400], name[300];
	struct archive a = { 0 };
	struct fixture f;
	struct stat st;

	setup(&f);
	memset(name, 'n', sizeof(name));
	name[200] = '\0';
	snprintf(deep, sizeof(deep), "%s/%s", "dir", name);
	put_pax(&a, "path", deep);
	put_pax(&a, "mtime", "1000000000.25");
	put_text(&a, "short", "pax");
	name[0] = 'g';
	put_size(&a, 'L', "././@LongLink", "", 0, strlen(name) + 1);
	append(&a, name, strlen(name) + 1);
	put_text(&a, "short", "gnu");
	put_size(&a, 'K', "././@LongLink", "", 0, strlen(name) + 1);
	append(&a, name, strlen(name) + 1);
	put(&a, '2', "link", "short");
	/* Comments for all that follows. */
	put_size(&a, 'g', "pax_global_header", "", 0, 0);
	assert_int_equal(add(&f, &a), 0);
	assert_text(&f, deep, "pax");
	assert_int_equal(stat(at(&f, deep), &st), 0);
	assert_int_equal(st.st_mtime, 1000000000);
	assert_text(&f, name, "gnu");
	assert_text(&f, "link", "gnu");
	teardown(&f);
}

static void malformed_archives_are_refused(void **state)
{
	struct archive a = { 0 };
	struct fixture f;

	setup(&f);
	/* A checksum that does not fit. */
	put_text(&a, "file", "text");
	a.data[0] ^= 1;
	assert_int_equal(add(&f, &a), -EBADMSG);
	/* Data that is not there. */
	put_size(&a, '0', "file", "", 0644, 1 << 30);
	assert_int_equal(add(&f, &a), -EBADMSG);
	/* Kinds that nobody knows, and sparse files. */
	put(&a, 'S', "file", "");
	assert_int_equal(add(&f, &a), -EBADMSG);
	put_pax(&a, "GNU.sparse.major", "1");
	put_text(&a, "file", "text");
	assert_int_equal(add(&f, &a), -EBADMSG);
	/* Records of pax with wrong lengths. */
	for (unsigned i = 0; i < 6; i++) {
		static const char *const records[] = { "5 a=b\n", "99 a=b\n", "0 a=b\n",
						       "6 a=bc",  "2 \n",     "-6 a=b\n" };

		put_size(&a, 'x', "pax", "", 0644, strlen(records[i]));
		append(&a, records[i], strlen(records[i]));
		put_text(&a, "file", "text");
		assert_int_equal(add(&f, &a), -EBADMSG);
	}
	put_pax(&a, "size", "-1");
	put_text(&a, "file", "text");
	assert_int_equal(add(&f, &a), -EBADMSG);
	teardown(&f);
}

static void content_that_is_not_the_images_is_refused(void **state)
{
	char hex[IMAGE_HEX] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
	struct archive a = { 0 };
	struct image_blob blob;
	struct fixture f;

	setup(&f);
	put_text(&a, "file", "text");
	blob = blob_of(a.data, a.len);
	assert_int_equal(image_tree_add(&f.tree, &blob, "blob", hex, true, &f.err), -EBADMSG);
	assert_non_null(strstr(f.err.msg, "not what the image says"));
	close(blob.fd);
	free(a.data);
	teardown(&f);
}

/* ---- whole images ---- */

#define CONFIG                                                                     \
	"{\"architecture\":\"amd64\",\"os\":\"linux\","                                \
	"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:%s\",\"sha256:%s\"]}}"

struct images {
	struct fixture f; /* its directory has the images and the cache */
	struct archive layer[2];
	char digest[2][IMAGE_HEX];
};

static void setup_images(struct images *i)
{
	setup(&i->f);
	memset(i->layer, 0, sizeof(i->layer));
	put_text(&i->layer[0], "etc/name", "lower");
	put_text(&i->layer[0], "etc/gone", "x");
	put_text(&i->layer[1], "etc/name", "upper");
	put(&i->layer[1], '0', "etc/.wh.gone", "");
	for (unsigned n = 0; n < 2; n++) {
		append(&i->layer[n], (char[1024]){ 0 }, 1024);
		digest_of(&i->layer[n], i->digest[n]);
	}
	assert_int_equal(setenv("XDG_CACHE_HOME", i->f.dir, 1), 0);
}

static void teardown_images(struct images *i)
{
	for (unsigned n = 0; n < 2; n++)
		free(i->layer[n].data);
	teardown(&i->f);
}

static void write_file(const char *path, const void *data, size_t len)
{
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	assert_int_equal(fwrite(data, 1, len, out), len);
	assert_int_equal(fclose(out), 0);
}

/* As `docker save` writes it. */
static void write_docker(struct images *i, const char *name)
{
	struct archive a = { 0 };
	char config[1000];

	snprintf(config, sizeof(config), CONFIG, i->digest[0], i->digest[1]);
	put_size(&a, '0', "one/layer.tar", "", 0644, i->layer[0].len);
	append(&a, i->layer[0].data, i->layer[0].len);
	put_size(&a, '0', "two/layer.tar", "", 0644, i->layer[1].len);
	append(&a, i->layer[1].data, i->layer[1].len);
	/* Older ones link a layer that two images have. */
	put(&a, '2', "three/layer.tar", "../two/layer.tar");
	put_text(&a, "config.json", config);
	put_text(&a, "manifest.json",
		 "[{\"Config\":\"config.json\",\"RepoTags\":[\"a:b\"],"
		 "\"Layers\":[\"one/layer.tar\",\"three/layer.tar\"]}]");
	append(&a, (char[1024]){ 0 }, 1024);
	write_file(at(&i->f, name), a.data, a.len);
	free(a.data);
}

/* A part of a layout, called by what it holds; its digest is left in @hex. */
static void write_blob(struct images *i, const void *data, size_t len, char hex[IMAGE_HEX])
{
	struct archive a = { (void *)data, len };
	char name[128];

	digest_of(&a, hex);
	snprintf(name, sizeof(name), "oci/blobs/sha256/%s", hex);
	write_file(at(&i->f, name), data, len);
}

static void write_oci(struct images *i)
{
	char text[2000], config[IMAGE_HEX], manifest[IMAGE_HEX], layer[2][IMAGE_HEX];
	char packed[20000];
	size_t n;

	assert_int_equal(mkdir(at(&i->f, "oci"), 0755), 0);
	assert_int_equal(mkdir(at(&i->f, "oci/blobs"), 0755), 0);
	assert_int_equal(mkdir(at(&i->f, "oci/blobs/sha256"), 0755), 0);
	snprintf(text, sizeof(text), CONFIG, i->digest[0], i->digest[1]);
	write_blob(i, text, strlen(text), config);
	n = pack_gzip(i->layer[0].data, i->layer[0].len, packed, sizeof(packed));
	write_blob(i, packed, n, layer[0]);
	n = ZSTD_compress(packed, sizeof(packed), i->layer[1].data, i->layer[1].len, 3);
	write_blob(i, packed, n, layer[1]);
	snprintf(text, sizeof(text),
		 "{\"config\":{\"digest\":\"sha256:%s\"},\"layers\":[{\"digest\":\"sha256:%s\"},"
		 "{\"digest\":\"sha256:%s\"}]}",
		 config, layer[0], layer[1]);
	write_blob(i, text, strlen(text), manifest);
	snprintf(text, sizeof(text),
		 "{\"manifests\":[{\"digest\":\"sha256:%s\",\"platform\":{"
		 "\"architecture\":\"arm64\",\"os\":\"linux\"}},{\"digest\":\"sha256:%s\"}]}",
		 config, manifest);
	write_file(at(&i->f, "oci/index.json"), text, strlen(text));
	write_file(at(&i->f, "oci/oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}", 30);
}

static void both_kinds_of_images_come_to_one_tree(void **state)
{
	char *docker, *oci, *again, name[PATH_MAX];
	struct images i;

	setup_images(&i);
	write_docker(&i, "image.tar");
	write_oci(&i);
	assert_int_equal(image_find(at(&i.f, "image.tar"), &docker, &i.f.err), 1);
	assert_int_equal(image_find(at(&i.f, "oci"), &oci, &i.f.err), 1);
	assert_string_equal(docker, oci);
	assert_memory_equal(docker, i.f.dir, strlen(i.f.dir));
	snprintf(name, sizeof(name), "%s/etc/name", docker + strlen(i.f.dir) + 1);
	assert_text(&i.f, name, "upper");
	snprintf(name, sizeof(name), "%s/etc/gone", docker + strlen(i.f.dir) + 1);
	assert_false(is_there(&i.f, name));
	/* Unpacked once: what is put into the tree is there the next time. */
	snprintf(name, sizeof(name), "%s/mark", docker);
	write_file(name, "", 0);
	assert_int_equal(image_find(at(&i.f, "image.tar"), &again, &i.f.err), 1);
	assert_string_equal(again, docker);
	assert_int_equal(access(name, F_OK), 0);
	free(docker);
	free(oci);
	free(again);
	teardown_images(&i);
}

static void packed_archive_is_an_image_too(void **state)
{
	char data[40000], packed[40000], *tree;
	struct images i;
	size_t n;
	FILE *in;

	setup_images(&i);
	write_docker(&i, "image.tar");
	in = fopen(at(&i.f, "image.tar"), "r");
	n = fread(data, 1, sizeof(data), in);
	fclose(in);
	n = pack_gzip(data, n, packed, sizeof(packed));
	write_file(at(&i.f, "image.tgz"), packed, n);
	assert_int_equal(image_find(at(&i.f, "image.tgz"), &tree, &i.f.err), 1);
	free(tree);
	teardown_images(&i);
}

static void image_that_lies_leaves_nothing_in_the_cache(void **state)
{
	char name[PATH_MAX], *tree;
	struct images i;

	setup_images(&i);
	/* The digest of another layer. */
	i.digest[1][0] ^= 1;
	write_docker(&i, "image.tar");
	i.f.err = (struct error){ 0 };
	assert_int_equal(image_find(at(&i.f, "image.tar"), &tree, &i.f.err), -EBADMSG);
	assert_non_null(strstr(i.f.err.msg, "image.tar"));
	assert_int_equal(i.f.err.kind, ERROR_USAGE);
	/* Nothing but the lock. */
	snprintf(name, sizeof(name), "%s/wisp/images/lock", i.f.dir);
	assert_int_equal(unlink(name), 0);
	snprintf(name, sizeof(name), "%s/wisp/images", i.f.dir);
	assert_int_equal(rmdir(name), 0);
	teardown_images(&i);
}

static void what_is_no_image_is_said(void **state)
{
	struct images i;
	char *tree;

	setup_images(&i);
	/* A plain directory, or nothing at all, is not ours to judge. */
	assert_int_equal(image_find(i.f.dir, &tree, &i.f.err), 0);
	assert_int_equal(image_find("/nowhere/at/all", &tree, &i.f.err), 0);
	write_file(at(&i.f, "text"), "hello", 5);
	assert_true(image_find(at(&i.f, "text"), &tree, &i.f.err) < 0);
	write_file(at(&i.f, "empty"), "", 0);
	i.f.err = (struct error){ 0 };
	assert_true(image_find(at(&i.f, "empty"), &tree, &i.f.err) < 0);
	assert_non_null(strstr(i.f.err.msg, "index.json"));
	teardown_images(&i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sha256_gives_the_standards_examples),
		cmocka_unit_test(streams_unpack_what_gzip_and_zstd_packed),
		cmocka_unit_test(stream_that_is_cut_off_or_damaged_is_an_error),
		cmocka_unit_test(layer_becomes_a_tree),
		cmocka_unit_test(whiteouts_take_away_what_lower_layers_have),
		cmocka_unit_test(higher_layers_replace_what_is_below),
		cmocka_unit_test(nothing_leads_out_of_the_tree),
		cmocka_unit_test(long_names_and_large_numbers_are_read),
		cmocka_unit_test(malformed_archives_are_refused),
		cmocka_unit_test(content_that_is_not_the_images_is_refused),
		cmocka_unit_test(both_kinds_of_images_come_to_one_tree),
		cmocka_unit_test(packed_archive_is_an_image_too),
		cmocka_unit_test(image_that_lies_leaves_nothing_in_the_cache),
		cmocka_unit_test(what_is_no_image_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
