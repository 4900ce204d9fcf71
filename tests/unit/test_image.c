/* Container images as they are found: where the parts are, which they are, and the cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <zstd.h>

#include "tests/unit/image_tools.h"

#define CONFIG                                          \
	"{\"architecture\":\"amd64\",\"os\":\"linux\"," \
	"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:%s\",\"sha256:%s\"]}}"

struct images {
	struct tree_fixture f; /* its directory has the images and the cache */
	struct archive layer[2];
	char digest[2][IMAGE_HEX];
};

static void setup_images(struct images *i)
{
	tree_setup(&i->f);
	memset(i->layer, 0, sizeof(i->layer));
	archive_put_text(&i->layer[0], "etc/name", "lower");
	archive_put_text(&i->layer[0], "etc/gone", "x");
	archive_put_text(&i->layer[1], "etc/name", "upper");
	archive_put(&i->layer[1], '0', "etc/.wh.gone", "");
	for (unsigned n = 0; n < 2; n++) {
		archive_append(&i->layer[n], (char[1024]){ 0 }, 1024);
		archive_digest(&i->layer[n], i->digest[n]);
	}
	assert_int_equal(setenv("XDG_CACHE_HOME", i->f.dir, 1), 0);
}

static void teardown_images(struct images *i)
{
	for (unsigned n = 0; n < 2; n++)
		free(i->layer[n].data);
	tree_teardown(&i->f);
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
	archive_put_size(&a, '0', "one/layer.tar", "", 0644, i->layer[0].len);
	archive_append(&a, i->layer[0].data, i->layer[0].len);
	archive_put_size(&a, '0', "two/layer.tar", "", 0644, i->layer[1].len);
	archive_append(&a, i->layer[1].data, i->layer[1].len);
	/* Older ones link a layer that two images have. */
	archive_put(&a, '2', "three/layer.tar", "../two/layer.tar");
	archive_put_text(&a, "config.json", config);
	archive_put_text(&a, "manifest.json",
			 "[{\"Config\":\"config.json\",\"RepoTags\":[\"a:b\"],"
			 "\"Layers\":[\"one/layer.tar\",\"three/layer.tar\"]}]");
	archive_append(&a, (char[1024]){ 0 }, 1024);
	write_file(tree_path(&i->f, name), a.data, a.len);
	free(a.data);
}

/* A part of a layout, called by what it holds; its digest is left in @hex. */
static void write_blob(struct images *i, const void *data, size_t len, char hex[IMAGE_HEX])
{
	struct archive a = { (void *)data, len };
	char name[128];

	archive_digest(&a, hex);
	snprintf(name, sizeof(name), "oci/blobs/sha256/%s", hex);
	write_file(tree_path(&i->f, name), data, len);
}

static void write_oci(struct images *i)
{
	char text[2000], config[IMAGE_HEX], manifest[IMAGE_HEX], layer[2][IMAGE_HEX];
	char packed[20000];
	size_t n;

	assert_int_equal(mkdir(tree_path(&i->f, "oci"), 0755), 0);
	assert_int_equal(mkdir(tree_path(&i->f, "oci/blobs"), 0755), 0);
	assert_int_equal(mkdir(tree_path(&i->f, "oci/blobs/sha256"), 0755), 0);
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
	write_file(tree_path(&i->f, "oci/index.json"), text, strlen(text));
	write_file(tree_path(&i->f, "oci/oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}", 30);
}

static void both_kinds_of_images_come_to_one_tree(void **state)
{
	char *docker, *oci, *again, name[PATH_MAX];
	struct images i;

	setup_images(&i);
	write_docker(&i, "image.tar");
	write_oci(&i);
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &docker, &i.f.err), 1);
	assert_int_equal(image_find(tree_path(&i.f, "oci"), &oci, &i.f.err), 1);
	assert_string_equal(docker, oci);
	assert_memory_equal(docker, i.f.dir, strlen(i.f.dir));
	assert_false(image_has_xattrs(docker));
	snprintf(name, sizeof(name), "%s/etc/name", docker + strlen(i.f.dir) + 1);
	assert_tree_text(&i.f, name, "upper");
	snprintf(name, sizeof(name), "%s/etc/gone", docker + strlen(i.f.dir) + 1);
	assert_false(tree_has(&i.f, name));
	/* Unpacked once: what is put into the tree is there the next time. */
	snprintf(name, sizeof(name), "%s/mark", docker);
	write_file(name, "", 0);
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &again, &i.f.err), 1);
	assert_string_equal(again, docker);
	assert_int_equal(access(name, F_OK), 0);
	free(docker);
	free(oci);
	free(again);
	teardown_images(&i);
}

static void tree_with_attributes_is_known_to_have_them(void **state)
{
	char *tree, name[PATH_MAX], value[16];
	struct images i;

	setup_images(&i);
	if (setxattr(i.f.dir, "user.wisp.probe", "x", 1, 0) < 0) {
		teardown_images(&i);
		skip();
	}
	free(i.layer[1].data);
	i.layer[1] = (struct archive){ 0 };
	archive_put_pax(&i.layer[1], "SCHILY.xattr.security.capability", "caps");
	archive_put_text(&i.layer[1], "ping", "x");
	archive_append(&i.layer[1], (char[1024]){ 0 }, 1024);
	archive_digest(&i.layer[1], i.digest[1]);
	write_docker(&i, "image.tar");
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &tree, &i.f.err), 1);
	assert_true(image_has_xattrs(tree));
	snprintf(name, sizeof(name), "%s/ping", tree);
	assert_int_equal(getxattr(name, "user.wisp.security.capability", value, 16), 4);
	free(tree);
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
	in = fopen(tree_path(&i.f, "image.tar"), "r");
	n = fread(data, 1, sizeof(data), in);
	fclose(in);
	n = pack_gzip(data, n, packed, sizeof(packed));
	write_file(tree_path(&i.f, "image.tgz"), packed, n);
	assert_int_equal(image_find(tree_path(&i.f, "image.tgz"), &tree, &i.f.err), 1);
	free(tree);
	teardown_images(&i);
}

static void image_that_lies_leaves_nothing_in_the_cache(void **state)
{
	char name[PATH_MAX], *tree;
	struct images i;

	setup_images(&i);
	/* The digest of another layer. */
	i.digest[1][0] = i.digest[1][0] == '0' ? '1' : '0';
	write_docker(&i, "image.tar");
	i.f.err = (struct error){ 0 };
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &tree, &i.f.err), -EBADMSG);
	assert_non_null(strstr(i.f.err.msg, "image.tar"));
	assert_int_equal(i.f.err.kind, ERROR_USAGE);
	/* Nothing but the lock. */
	snprintf(name, sizeof(name), "%s/wisp/images/lock", i.f.dir);
	assert_int_equal(unlink(name), 0);
	snprintf(name, sizeof(name), "%s/wisp/images", i.f.dir);
	assert_int_equal(rmdir(name), 0);
	teardown_images(&i);
}

static void interrupted_unpacking_leaves_one_directory_at_most(void **state)
{
	char cache[PATH_MAX], name[PATH_MAX + 64], *tree;
	struct images i;

	setup_images(&i);
	write_docker(&i, "image.tar");
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &tree, &i.f.err), 1);
	/* As one leaves it that was killed before the end. */
	snprintf(cache, sizeof(cache), "%s/wisp/images", i.f.dir);
	snprintf(name, sizeof(name), "%.*s", (int)(strlen(tree) - strlen("/root")), tree);
	free(tree);
	snprintf(i.f.path, sizeof(i.f.path), "%s/partial", cache);
	assert_int_equal(rename(name, i.f.path), 0);
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &tree, &i.f.err), 1);
	free(tree);
	snprintf(name, sizeof(name), "%s/partial", cache);
	assert_int_equal(access(name, F_OK), -1);
	teardown_images(&i);
}

static void hard_links_among_parts_are_from_the_archives_root(void **state)
{
	struct archive a = { 0 };
	char config[1000], name[PATH_MAX], *tree;
	struct images i;

	setup_images(&i);
	snprintf(config, sizeof(config), CONFIG, i.digest[0], i.digest[1]);
	archive_put_size(&a, '0', "one/layer.tar", "", 0644, i.layer[0].len);
	archive_append(&a, i.layer[0].data, i.layer[0].len);
	archive_put_size(&a, '0', "two/layer.tar", "", 0644, i.layer[1].len);
	archive_append(&a, i.layer[1].data, i.layer[1].len);
	archive_put(&a, '1', "three/layer.tar", "two/layer.tar");
	archive_put_text(&a, "config.json", config);
	archive_put_text(&a, "manifest.json",
			 "[{\"Config\":\"config.json\","
			 "\"Layers\":[\"one/layer.tar\",\"three/layer.tar\"]}]");
	write_file(tree_path(&i.f, "image.tar"), a.data, a.len);
	free(a.data);
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &tree, &i.f.err), 1);
	snprintf(name, sizeof(name), "%s/etc/name", tree + strlen(i.f.dir) + 1);
	assert_tree_text(&i.f, name, "upper");
	free(tree);
	teardown_images(&i);
}

static void names_in_messages_do_nothing_to_a_terminal(void **state)
{
	struct images i;
	char *tree;

	setup_images(&i);
	free(i.layer[1].data);
	i.layer[1] = (struct archive){ 0 };
	archive_put_text(&i.layer[1], "../\033[2J\177\r\nout", "x");
	archive_append(&i.layer[1], (char[1024]){ 0 }, 1024);
	archive_digest(&i.layer[1], i.digest[1]);
	write_docker(&i, "image.tar");
	assert_int_equal(image_find(tree_path(&i.f, "image.tar"), &tree, &i.f.err), -EXDEV);
	assert_non_null(strstr(i.f.err.msg, "'../?[2J???out' leads out"));
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
	write_file(tree_path(&i.f, "text"), "hello", 5);
	assert_true(image_find(tree_path(&i.f, "text"), &tree, &i.f.err) < 0);
	write_file(tree_path(&i.f, "empty"), "", 0);
	i.f.err = (struct error){ 0 };
	assert_true(image_find(tree_path(&i.f, "empty"), &tree, &i.f.err) < 0);
	assert_non_null(strstr(i.f.err.msg, "index.json"));
	/* What helps comes along from the process that looked. */
	assert_non_null(strstr(i.f.err.hint, "given as a directory"));
	teardown_images(&i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_kinds_of_images_come_to_one_tree),
		cmocka_unit_test(tree_with_attributes_is_known_to_have_them),
		cmocka_unit_test(packed_archive_is_an_image_too),
		cmocka_unit_test(image_that_lies_leaves_nothing_in_the_cache),
		cmocka_unit_test(interrupted_unpacking_leaves_one_directory_at_most),
		cmocka_unit_test(hard_links_among_parts_are_from_the_archives_root),
		cmocka_unit_test(names_in_messages_do_nothing_to_a_terminal),
		cmocka_unit_test(what_is_no_image_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
