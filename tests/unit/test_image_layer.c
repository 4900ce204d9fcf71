/* Layers of container images, put over a tree one after the other. */
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
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/unit/image_tools.h"

static void layer_becomes_a_tree(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;
	struct stat st, other;

	tree_setup(&f);
	archive_put_size(&a, '5', "./", "", 0755, 0);
	archive_put_size(&a, '5', "./dir/", "", 0555, 0);
	archive_put_text(&a, "./dir/file", "text");
	archive_put_size(&a, '0', "dir/run", "", 0755, 0);
	archive_put(&a, '1', "dir/same", "dir/file");
	archive_put(&a, '2', "link", "/etc/passwd");
	archive_put(&a, '6', "pipe", "");
	archive_put(&a, '3', "null", "");
	archive_put_text(&a, "not/said/before", "x");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_int_equal(image_tree_finish(&f.tree, &f.err), 0);
	assert_tree_text(&f, "dir/file", "text");
	assert_tree_text(&f, "not/said/before", "x");
	assert_int_equal(stat(tree_path(&f, "dir/file"), &st), 0);
	assert_int_equal(st.st_mtime, 1234567890);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(stat(tree_path(&f, "dir/same"), &other), 0);
	assert_int_equal(st.st_ino, other.st_ino);
	assert_int_equal(stat(tree_path(&f, "dir"), &st), 0);
	assert_int_equal(st.st_mode & 0077, 0055);
	assert_int_equal(st.st_mtime, 1234567890);
	assert_int_equal(lstat(tree_path(&f, "link"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(lstat(tree_path(&f, "pipe"), &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	assert_false(tree_has(&f, "null"));
	assert_int_equal(f.tree.skipped, 1);
	tree_teardown(&f);
}

static void whiteouts_take_away_what_lower_layers_have(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;

	tree_setup(&f);
	archive_put_text(&a, "kept", "1");
	archive_put_text(&a, "gone", "1");
	archive_put_text(&a, "dir/a/b", "1");
	archive_put_text(&a, "dir/c", "1");
	archive_put_text(&a, "tree/x/y", "1");
	assert_int_equal(tree_add(&f, &a), 0);
	archive_put(&a, '0', ".wh.gone", "");
	archive_put(&a, '0', ".wh.tree", "");
	/* What is new stays, also when it stands in front. */
	archive_put_text(&a, "dir/new", "2");
	archive_put(&a, '0', "dir/.wh..wh..opq", "");
	archive_put(&a, '0', ".wh.never-there", "");
	archive_put(&a, '0', "nowhere/.wh..wh..opq", "");
	archive_put(&a, '0', ".wh..wh.plnk", "");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_true(tree_has(&f, "kept"));
	assert_false(tree_has(&f, "gone"));
	assert_false(tree_has(&f, "tree"));
	assert_false(tree_has(&f, "dir/a"));
	assert_false(tree_has(&f, "dir/c"));
	assert_tree_text(&f, "dir/new", "2");
	assert_false(tree_has(&f, ".wh.gone"));
	assert_false(tree_has(&f, ".wh..wh.plnk"));
	tree_teardown(&f);
}

static void whiteouts_touch_nothing_but_what_is_below_them(void **state)
{
	struct tree_fixture f;
	struct archive a = { 0 };
	struct stat st;

	tree_setup(&f);
	archive_put_text(&a, "file", "1");
	archive_put_text(&a, "other/x", "1");
	archive_put(&a, '2', "link", "other");
	archive_put(&a, '2', "loop", "loop");
	archive_put(&a, '2', "nowhere", "never/there");
	assert_int_equal(tree_add(&f, &a), 0);
	/* None of these is a directory in the layer below. */
	archive_put(&a, '0', "file/.wh..wh..opq", "");
	archive_put(&a, '0', "file/.wh.x", "");
	archive_put(&a, '0', "file/more/.wh.x", "");
	archive_put(&a, '0', "file/more/.wh..wh..opq", "");
	archive_put(&a, '0', "link/.wh..wh..opq", "");
	archive_put(&a, '0', "loop/.wh..wh..opq", "");
	archive_put(&a, '0', "loop/.wh.x", "");
	archive_put(&a, '0', "nowhere/.wh..wh..opq", "");
	archive_put(&a, '5', "link", "");
	archive_put_text(&a, "link/new", "2");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_tree_text(&f, "file", "1");
	assert_tree_text(&f, "other/x", "1");
	assert_tree_text(&f, "link/new", "2");
	assert_int_equal(lstat(tree_path(&f, "link"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_false(tree_has(&f, "link/x"));
	assert_false(tree_has(&f, "other/new"));
	tree_teardown(&f);
}

static void higher_layers_replace_what_is_below(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;
	struct stat st;

	tree_setup(&f);
	archive_put_text(&a, "file", "old");
	archive_put(&a, '1', "other", "file");
	archive_put_text(&a, "tree/x", "1");
	archive_put_text(&a, "becomes-dir", "1");
	archive_put_text(&a, "stays/x", "1");
	archive_put(&a, '2', "usr-lib", "stays");
	assert_int_equal(tree_add(&f, &a), 0);
	archive_put_text(&a, "file", "new");
	archive_put(&a, '2', "tree", "stays");
	archive_put(&a, '5', "becomes-dir", "");
	archive_put(&a, '5', "stays", "");
	/* Through a link in the tree, as programs do that do not know of it. */
	archive_put_text(&a, "usr-lib/y", "2");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_tree_text(&f, "file", "new");
	/* Another name of the old file keeps what it was. */
	assert_tree_text(&f, "other", "old");
	assert_int_equal(lstat(tree_path(&f, "tree"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(lstat(tree_path(&f, "becomes-dir"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_tree_text(&f, "stays/x", "1");
	assert_tree_text(&f, "stays/y", "2");
	tree_teardown(&f);
}

static void link_of_a_file_to_itself_keeps_it(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;

	tree_setup(&f);
	archive_put_text(&a, "file", "text");
	archive_put(&a, '1', "file", "./file");
	archive_put(&a, '1', "same", "file");
	archive_put(&a, '1', "file", "same");
	archive_put_text(&a, "taken/x", "1");
	archive_put(&a, '1', "taken", "file");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_tree_text(&f, "file", "text");
	assert_tree_text(&f, "same", "text");
	assert_tree_text(&f, "taken", "text");
	/* One to a file that is not there is an error, and takes nothing away. */
	archive_put(&a, '1', "file", "never-there");
	assert_int_equal(tree_add(&f, &a), -ENOENT);
	assert_tree_text(&f, "file", "text");
	tree_teardown(&f);
}

static void directories_are_as_the_layer_says_that_made_them(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;
	struct stat st;

	tree_setup(&f);
	archive_put_text(&a, "not/said/x", "1");
	archive_put_size(&a, '5', "a/", "", 0700, 0);
	archive_put_size(&a, '5', "a/b/", "", 0700, 0);
	archive_put_size(&a, '5', "c/", "", 0755, 0);
	archive_put_size(&a, '5', "c/b/", "", 0751, 0);
	archive_put_size(&a, '5', "gone/", "", 0700, 0);
	assert_int_equal(tree_add(&f, &a), 0);
	archive_put(&a, '2', "a", "c");
	archive_put(&a, '2', "gone", "c");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_int_equal(image_tree_finish(&f.tree, &f.err), 0);
	assert_int_equal(stat(tree_path(&f, "not/said"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	/* What was a/b is not what now has the name. */
	assert_int_equal(stat(tree_path(&f, "a/b"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0751);
	assert_int_equal(stat(tree_path(&f, "c"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	tree_teardown(&f);
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
	struct tree_fixture f;

	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
		tree_setup(&f);
		archive_put(&a, '5', "a", "");
		assert_int_equal(tree_add(&f, &a), 0);
		archive_put(&a, refused[i].type, refused[i].name, refused[i].link);
		assert_true(tree_add(&f, &a) < 0);
		assert_non_null(strstr(f.err.msg, "layer blob"));
		tree_teardown(&f);
	}
	/* Links that lead out when the host follows them lead inside here. */
	tree_setup(&f);
	archive_put(&a, '2', "up", "../../../../../../..");
	archive_put(&a, '2', "abs", "/tmp");
	archive_put_text(&a, "up/tmp/wisp-image-must-not-exist", "x");
	archive_put_text(&a, "abs/wisp-image-must-not-exist", "y");
	archive_put(&a, '1', "hard", "abs/wisp-image-must-not-exist");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_tree_text(&f, "tmp/wisp-image-must-not-exist", "y");
	assert_tree_text(&f, "hard", "y");
	assert_int_equal(access("/tmp/wisp-image-must-not-exist", F_OK), -1);
	/* Nor does a whiteout reach what is there. */
	archive_put(&a, '0', "up/.wh.tmp", "");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_int_equal(access("/tmp", F_OK), 0);
	assert_false(tree_has(&f, "tmp"));
	/* A device's own file system is not one of the tree's, whatever a link says. */
	archive_put(&a, '2', "self", "/proc/self/root");
	archive_put_text(&a, "self/wisp-image-must-not-exist", "x");
	assert_true(tree_add(&f, &a) < 0 || tree_has(&f, "proc/self/root"));
	assert_int_equal(access("/wisp-image-must-not-exist", F_OK), -1);
	tree_teardown(&f);
}

static void long_names_and_large_numbers_are_read(void **state)
{
	char deep[400], name[300];
	struct archive a = { 0 };
	struct tree_fixture f;
	struct stat st;

	tree_setup(&f);
	memset(name, 'n', sizeof(name));
	name[200] = '\0';
	snprintf(deep, sizeof(deep), "%s/%s", "dir", name);
	archive_put_pax(&a, "path", deep);
	archive_put_pax(&a, "mtime", "1000000000.25");
	archive_put_text(&a, "short", "pax");
	name[0] = 'g';
	archive_put_size(&a, 'L', "././@LongLink", "", 0, strlen(name) + 1);
	archive_append(&a, name, strlen(name) + 1);
	archive_put_text(&a, "short", "gnu");
	archive_put_size(&a, 'K', "././@LongLink", "", 0, strlen(name) + 1);
	archive_append(&a, name, strlen(name) + 1);
	archive_put(&a, '2', "link", "short");
	/* Comments for all that follows. */
	archive_put_size(&a, 'g', "pax_global_header", "", 0, 0);
	assert_int_equal(tree_add(&f, &a), 0);
	assert_tree_text(&f, deep, "pax");
	assert_int_equal(stat(tree_path(&f, deep), &st), 0);
	assert_int_equal(st.st_mtime, 1000000000);
	assert_tree_text(&f, name, "gnu");
	assert_tree_text(&f, "link", "gnu");
	tree_teardown(&f);
}

/* ---- extended attributes ---- */

#define XATTR "SCHILY.xattr."

/* Of five bytes, two of them zero. */
static void assert_attribute(struct tree_fixture *f, const char *file, const char *name)
{
	char value[16];

	assert_int_equal(getxattr(tree_path(f, file), name, value, sizeof(value)), 5);
	assert_memory_equal(value, "a\0=\0b", 5);
}

static void attributes_are_kept_where_they_mean_nothing(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;
	char value[16];

	tree_setup(&f);
	if (setxattr(f.dir, "user.wisp.old", "x", 1, 0) < 0) {
		tree_teardown(&f);
		skip();
	}
	archive_put_pax_bytes(&a, XATTR "security.capability", "a\0=\0b", 5);
	archive_put_pax_bytes(&a, XATTR "user.mine", "a\0=\0b", 5);
	archive_put_pax(&a, XATTR "trusted.overlay.opaque", "y");
	archive_put_text(&a, "file", "text");
	archive_put_text(&a, "next", "text");
	archive_put_pax_bytes(&a, XATTR "system.posix_acl_default", "a\0=\0b", 5);
	archive_put(&a, '5', "dir", "");
	archive_put_pax(&a, XATTR "user.x", "1");
	archive_put(&a, '2', "link", "file");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_attribute(&f, "file", "user.wisp.security.capability");
	assert_attribute(&f, "file", "user.mine");
	assert_attribute(&f, "dir", "user.wisp.system.posix_acl_default");
	/* None where there is none, and none that the host would act on. */
	assert_int_equal(listxattr(tree_path(&f, "next"), NULL, 0), 0);
	assert_int_equal(getxattr(tree_path(&f, "file"), "security.capability", value, 16), -1);
	assert_int_equal(getxattr(tree_path(&f, "file"), "user.wisp.trusted.overlay.opaque", value,
				  16),
			 -1);
	assert_int_equal(f.tree.xattrs, 3);
	assert_int_equal(f.tree.xattrs_lost, 1);
	/* A layer's own count, not those of what it replaces. */
	archive_put(&a, '5', "dir", "");
	archive_put_text(&a, "file", "new");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_int_equal(listxattr(tree_path(&f, "dir"), NULL, 0), 0);
	assert_int_equal(listxattr(tree_path(&f, "file"), NULL, 0), 0);
	tree_teardown(&f);
}

static void attribute_that_cannot_be_kept_is_no_error(void **state)
{
	char name[300] = XATTR "security.";
	struct archive a = { 0 };
	struct tree_fixture f;

	tree_setup(&f);
	memset(name + strlen(name), 'n', 250);
	archive_put_pax(&a, name, "x");
	archive_put_text(&a, "file", "text");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_tree_text(&f, "file", "text");
	assert_int_equal(f.tree.xattrs, 0);
	assert_int_equal(f.tree.xattrs_lost, 1);
	/* So many that no file system has room: somebody wants ours to run out. */
	name[40] = '\0';
	for (unsigned i = 0; i < 20; i++) {
		char large[4000];

		memset(large, 'x', sizeof(large));
		archive_put_pax_bytes(&a, name, large, sizeof(large));
	}
	archive_put_text(&a, "other", "text");
	assert_int_equal(tree_add(&f, &a), -EBADMSG);
	assert_non_null(strstr(f.err.msg, "64 KiB"));
	tree_teardown(&f);
}

/* ---- limits ---- */

/* "d/d/d", of @n components. */
static void name_deep(char *to, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		to[(size_t)2 * i] = 'd';
		to[(size_t)2 * i + 1] = i + 1 < n ? '/' : '\0';
	}
}

static void put_deep(struct archive *a, unsigned components)
{
	char name[400];

	name_deep(name, components);
	archive_put_pax(a, "path", name);
	archive_put(a, '5', "short", "");
}

static void names_have_so_many_components(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;

	tree_setup(&f);
	put_deep(&a, 128);
	assert_int_equal(tree_add(&f, &a), 0);
	put_deep(&a, 129);
	assert_int_equal(tree_add(&f, &a), -ENAMETOOLONG);
	assert_non_null(strstr(f.err.msg, "'d/d/d/"));
	assert_non_null(strstr(f.err.msg, "128 directories"));
	tree_teardown(&f);
}

/* Links make a tree deeper than any name in its layers. */
static void tree_of_any_depth_is_removed(void **state)
{
	char down[200], name[256], link[16] = "x";
	struct archive a = { 0 };
	struct tree_fixture f;

	name_deep(down, 100);
	tree_setup(&f);
	/* The names that the remover would take first. */
	archive_put_text(&a, "x/.deep-0", "file");
	archive_put_text(&a, "x/.deep-1/x", "full");
	archive_put(&a, '5', "x/.deep-2", "");
	/* Each goes on where the one before it has led to: 2000 directories deep. */
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "%s/%s", link, down);
		archive_put_pax(&a, "path", name);
		archive_put(&a, '5', "short", "");
		snprintf(link, sizeof(link), "link-%u", i);
		archive_put_pax(&a, "linkpath", name);
		archive_put(&a, '2', link, "short");
	}
	assert_int_equal(tree_add(&f, &a), 0);
	snprintf(name, sizeof(name), "%s/%s", link, down);
	assert_false(tree_has(&f, name));
	assert_true(tree_has(&f, link));
	archive_put(&a, '0', ".wh.x", "");
	assert_int_equal(tree_add(&f, &a), 0);
	assert_false(tree_has(&f, "x"));
	tree_teardown(&f);
}

static void image_comes_to_no_more_than_a_limit(void **state)
{
	char large[3000];
	struct archive a = { 0 };
	struct tree_fixture f;

	memset(large, 'x', sizeof(large) - 1);
	large[sizeof(large) - 1] = '\0';
	tree_setup(&f);
	f.tree.bytes_left = 12 * KiB;
	archive_put_text(&a, "a", large);
	assert_int_equal(tree_add(&f, &a), 0);
	archive_put_text(&a, "b", large);
	assert_int_equal(tree_add(&f, &a), 0);
	/* Each is small enough by itself. */
	archive_put_text(&a, "c", large);
	assert_int_equal(tree_add(&f, &a), -EFBIG);
	assert_non_null(strstr(f.err.msg, "64 GiB"));
	tree_teardown(&f);
	/* What is about members counts as much as they do. */
	tree_setup(&f);
	f.tree.headers_left = 5;
	archive_put_pax(&a, "mtime", "1");
	archive_put_text(&a, "a", "");
	assert_int_equal(tree_add(&f, &a), 0);
	for (unsigned i = 0; i < 4; i++)
		archive_put_pax(&a, "mtime", "1");
	archive_put_text(&a, "b", "");
	assert_int_equal(tree_add(&f, &a), -E2BIG);
	assert_non_null(strstr(f.err.msg, "members"));
	tree_teardown(&f);
}

/* ---- what is refused ---- */

static void malformed_archives_are_refused(void **state)
{
	struct archive a = { 0 };
	struct tree_fixture f;

	tree_setup(&f);
	/* A checksum that does not fit. */
	archive_put_text(&a, "file", "text");
	a.data[0] ^= 1;
	assert_int_equal(tree_add(&f, &a), -EBADMSG);
	/* Data that is not there. */
	archive_put_size(&a, '0', "file", "", 0644, 1 << 30);
	assert_int_equal(tree_add(&f, &a), -EBADMSG);
	/* Kinds that nobody knows, and sparse files. */
	archive_put(&a, 'S', "file", "");
	assert_int_equal(tree_add(&f, &a), -EBADMSG);
	archive_put_pax(&a, "GNU.sparse.major", "1");
	archive_put_text(&a, "file", "text");
	assert_int_equal(tree_add(&f, &a), -EBADMSG);
	/* Records of pax with wrong lengths. */
	for (unsigned i = 0; i < 6; i++) {
		static const char *const records[] = { "5 a=b\n", "99 a=b\n", "0 a=b\n",
						       "6 a=bc",  "2 \n",     "-6 a=b\n" };

		archive_put_size(&a, 'x', "pax", "", 0644, strlen(records[i]));
		archive_append(&a, records[i], strlen(records[i]));
		archive_put_text(&a, "file", "text");
		assert_int_equal(tree_add(&f, &a), -EBADMSG);
	}
	archive_put_pax(&a, "size", "-1");
	archive_put_text(&a, "file", "text");
	assert_int_equal(tree_add(&f, &a), -EBADMSG);
	tree_teardown(&f);
}

static void content_that_is_not_the_images_is_refused(void **state)
{
	char hex[IMAGE_HEX] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
	struct archive a = { 0 };
	struct image_blob blob;
	struct tree_fixture f;

	tree_setup(&f);
	archive_put_text(&a, "file", "text");
	blob = blob_of(a.data, a.len);
	assert_int_equal(image_tree_add(&f.tree, &blob, "blob", hex, true, &f.err), -EBADMSG);
	assert_non_null(strstr(f.err.msg, "not what the image says"));
	close(blob.fd);
	free(a.data);
	tree_teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layer_becomes_a_tree),
		cmocka_unit_test(whiteouts_take_away_what_lower_layers_have),
		cmocka_unit_test(whiteouts_touch_nothing_but_what_is_below_them),
		cmocka_unit_test(higher_layers_replace_what_is_below),
		cmocka_unit_test(link_of_a_file_to_itself_keeps_it),
		cmocka_unit_test(directories_are_as_the_layer_says_that_made_them),
		cmocka_unit_test(nothing_leads_out_of_the_tree),
		cmocka_unit_test(long_names_and_large_numbers_are_read),
		cmocka_unit_test(attributes_are_kept_where_they_mean_nothing),
		cmocka_unit_test(attribute_that_cannot_be_kept_is_no_error),
		cmocka_unit_test(names_have_so_many_components),
		cmocka_unit_test(tree_of_any_depth_is_removed),
		cmocka_unit_test(image_comes_to_no_more_than_a_limit),
		cmocka_unit_test(malformed_archives_are_refused),
		cmocka_unit_test(content_that_is_not_the_images_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
