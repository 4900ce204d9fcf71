/* Snapshots that build on one another, and compressed ones: found again, checked, joined. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/guest_mem.h"
#include "vmm/saved/snapshot_chain.h"
#include "vmm/saved/snapshot_pages.h"

/* Not a multiple of the pages that a word of a bitmap has. */
#define PAGES 198u

struct there {
	char dir[48];
};

static int make_directory(void **state)
{
	struct there *t = calloc(1, sizeof(*t));

	strcpy(t->dir, "/tmp/wisp-test-XXXXXX");
	*state = mkdtemp(t->dir) ? t : NULL;
	return *state ? 0 : -1;
}

static int remove_directory(void **state)
{
	struct there *t = *state;
	char command[64];
	int r;

	snprintf(command, sizeof(command), "rm -rf %s", t->dir);
	r = system(command);
	free(t);
	return r;
}

static char *path_in(const struct there *t, const char *name)
{
	static char path[4][80];
	static unsigned next;
	char *p = path[next++ % ARRAY_SIZE(path)];

	snprintf(p, sizeof(path[0]), "%s/%s", t->dir, name);
	return p;
}

static void put_file(int fd, const void *data, size_t len)
{
	assert_int_equal(pwrite(fd, data, len, 0), len);
}

static void put_state(int fd)
{
	struct state_writer w;

	state_writer_init(&w);
	state_seal(&w);
	put_file(fd, w.buf, w.len);
	state_writer_done(&w);
}

/* A page of a snapshot and what it begins with; "" is a page of zeros. */
struct page {
	unsigned number;
	const char *text;
};

/* A snapshot @name whose pages are @pages, up to one without a text. On @base: differential. */
static void make_so(const struct there *t, const char *name, const char *base,
		    const struct page *pages, bool packed)
{
	json_t *manifest = json_pack("{s:[{s:s, s:s}]}", "disks", "id", "disk0", "copy", "disk-0");
	uint64_t bits[(PAGES + 63) / 64] = { 0 };
	uint64_t bytes;
	struct snapshot_draft d;
	struct error err = { 0 };
	struct state_writer w;
	int fd;

	assert_int_equal(snapshot_draft_begin(&d, path_in(t, name), base != NULL, &err), 0);
	fd = openat(d.dir_fd, "disk-0", O_WRONLY | O_CREAT, 0600);
	put_file(fd, name, strlen(name));
	close(fd);
	put_state(d.state_fd);
	assert_int_equal(ftruncate(d.memory_fd, PAGES * PAGE_SIZE), 0);
	for (; pages->text; pages++) {
		bits[pages->number / 64] |= 1ull << pages->number % 64;
		assert_int_equal(pwrite(d.memory_fd, pages->text, strlen(pages->text),
					pages->number * PAGE_SIZE),
				 strlen(pages->text));
	}
	if (base) {
		struct snapshot b;

		assert_int_equal(snapshot_open(&b, path_in(t, base), &err), 0);
		json_object_set_new(manifest, "base",
				    json_pack("{s:s, s:s}", "id", b.id, "path", path_in(t, base)));
		snapshot_close(&b);
		state_writer_init(&w);
		snapshot_pages_write(&w, bits, PAGES);
		put_file(d.pages_fd, w.buf, w.len);
		state_writer_done(&w);
	}
	if (packed)
		assert_int_equal(snapshot_draft_pack(&d, &bytes, &err), 0);
	assert_int_equal(snapshot_draft_commit(&d, manifest, &err), 0);
	snapshot_draft_end(&d);
	json_decref(manifest);
}

static void make(const struct there *t, const char *name, const char *base,
		 const struct page *pages)
{
	make_so(t, name, base, pages, false);
}

static const struct page first_pages[] = { { 0, "a" }, { 1, "b" }, { 2, "c" }, { 0 } };
static const struct page second_pages[] = { { 1, "B" }, { PAGES - 1, "end" }, { 0 } };
static const struct page third_pages[] = { { 2, "" }, { 3, "D" }, { 0 } };
static const struct page all_pages[] = { { 0, "a" }, { 1, "B" },	   { 2, "" },
					 { 3, "D" }, { PAGES - 1, "end" }, { 0 } };

static void make_three(const struct there *t)
{
	make(t, "one", NULL, first_pages);
	make(t, "two", "one", second_pages);
	make(t, "three", "two", third_pages);
}

/* The memory of the complete snapshot @name has @pages, and all else is zero. */
static void expect_ram(const struct there *t, const char *name, const struct page *pages)
{
	char expected[PAGE_SIZE], there[PAGE_SIZE];
	struct snapshot s;
	struct error err = { 0 };

	assert_int_equal(snapshot_open(&s, path_in(t, name), &err), 0);
	assert_null(s.base);
	assert_int_equal(snapshot_check_memory(&s, PAGES * PAGE_SIZE, &err), 0);
	for (unsigned i = 0; i < PAGES; i++) {
		memset(expected, 0, sizeof(expected));
		if (pages->text && pages->number == i) {
			memcpy(expected, pages->text, strlen(pages->text));
			pages++;
		}
		assert_int_equal(pread(s.memory_fd, there, PAGE_SIZE, i * PAGE_SIZE), PAGE_SIZE);
		assert_memory_equal(there, expected, PAGE_SIZE);
	}
	snapshot_close(&s);
}

static int open_chain(struct snapshot_chain *c, const struct there *t, const char *name,
		      struct error *err)
{
	*err = (struct error){ 0 };
	return snapshot_chain_open(c, path_in(t, name), err);
}

static void chain_is_followed_to_its_begin(void **state)
{
	const struct guest_mem_range range = { .size = PAGES * PAGE_SIZE };
	struct guest_mem *mem;
	struct snapshot_chain c;
	struct error err = { 0 };
	char there[4];

	make_three(*state);
	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, &err), 0);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(c.num, 3);
	assert_null(c.link[0].base);
	/* What a restore does. */
	assert_int_equal(guest_mem_load(mem, c.link[0].memory_fd, &err), 0);
	for (unsigned i = 1; i < c.num; i++)
		assert_int_equal(guest_mem_load_pages(mem, c.link[i].memory_fd, c.link[i].pages),
				 0);
	for (const struct page *p = all_pages; p->text; p++) {
		memcpy(there, mem->map + p->number * PAGE_SIZE, sizeof(there));
		assert_string_equal(there, p->text);
	}
	snapshot_chain_close(&c);
	guest_mem_free(mem);
}

static void chain_that_moved_together_is_found(void **state)
{
	struct there *t = *state;
	struct snapshot_chain c;
	char to[48];
	struct error err;

	make_three(t);
	snprintf(to, sizeof(to), "%.30s-moved", t->dir);
	assert_int_equal(rename(t->dir, to), 0);
	strcpy(t->dir, to);
	assert_int_equal(open_chain(&c, t, "three", &err), 0);
	assert_int_equal(c.num, 3);
	snapshot_chain_close(&c);
}

static void missing_base_is_refused(void **state)
{
	struct there *t = *state;
	struct snapshot_chain c;
	struct error err;

	make_three(t);
	assert_int_equal(rename(path_in(t, "one"), path_in(t, "elsewhere")), 0);
	assert_true(open_chain(&c, t, "three", &err) < 0);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_non_null(strstr(err.msg, "/two': builds on"));
	snapshot_chain_close(&c);
}

static void base_that_is_another_is_refused(void **state)
{
	struct snapshot_chain c;
	struct error err;

	make_three(*state);
	/* Replaced by a later one under the same name. */
	make(*state, "one", NULL, first_pages);
	assert_true(open_chain(&c, *state, "two", &err) < 0);
	assert_non_null(strstr(err.msg, "another one"));
	snapshot_chain_close(&c);
}

static void snapshot_that_builds_on_another_is_not_appended(void **state)
{
	struct snapshot_chain c;
	struct error err;

	make_three(*state);
	assert_int_equal(open_chain(&c, *state, "one", &err), 0);
	assert_int_equal(snapshot_chain_append(&c, path_in(*state, "three"), &err), -ESTALE);
	snapshot_chain_close(&c);
	assert_int_equal(open_chain(&c, *state, "one", &err), 0);
	assert_int_equal(snapshot_chain_append(&c, path_in(*state, "one"), &err), -ESTALE);
	snapshot_chain_close(&c);
}

static void differential_snapshot_replaces_none(void **state)
{
	struct snapshot_draft d;
	struct error err = { 0 };

	make(*state, "one", NULL, first_pages);
	assert_int_equal(snapshot_draft_begin(&d, path_in(*state, "one"), true, &err), -EEXIST);
	snapshot_draft_end(&d);
	expect_ram(*state, "one", first_pages);
}

static void draft_replaces_nothing_but_snapshots(void **state)
{
	json_t *manifest = json_pack("{s:[]}", "disks");
	const char *path = path_in(*state, "new"), *file;
	struct snapshot_draft d;
	struct error err = { 0 };
	struct stat st;

	/* What gets its name while it is made is no snapshot, and somebody's. */
	assert_int_equal(snapshot_draft_begin(&d, path, false, &err), 0);
	put_state(d.state_fd);
	assert_int_equal(mkdir(path, 0700), 0);
	file = path_in(*state, "new/file");
	assert_int_equal(mkdir(file, 0700), 0);
	assert_int_equal(snapshot_draft_commit(&d, manifest, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "no snapshot"));
	snapshot_draft_end(&d);
	assert_int_equal(stat(file, &st), 0);
	json_decref(manifest);
}

static void only_regular_files_are_copied(void **state)
{
	int from = open("/dev/zero", O_RDONLY), to = memfd_create("to", MFD_CLOEXEC);
	bool copied;

	assert_true(from >= 0);
	assert_int_equal(snapshot_copy_file(from, to, &copied), -ENOTSUP);
	close(from);
	close(to);
}

/* A pipe would be waited for until somebody writes to it. */
static void copy_of_a_disk_that_is_no_file_is_refused(void **state)
{
	struct snapshot_chain c;
	struct snapshot s;
	struct error err = { 0 };
	char *disk;

	make_three(*state);
	disk = path_in(*state, "three/disk-0");
	assert_int_equal(unlink(disk), 0);
	assert_int_equal(mkfifo(disk, 0600), 0);
	assert_int_equal(snapshot_open(&s, path_in(*state, "three"), &err), 0);
	assert_int_equal(snapshot_open_copy(&s, "disk-0", &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "no regular file"));
	assert_int_equal(snapshot_open_copy(&s, "../one/disk-0", &err), -EBADMSG);
	snapshot_close(&s);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "new"), false, &err), -EBADMSG);
	snapshot_chain_close(&c);
}

static void expect_disk(const struct there *t, const char *name, const char *text)
{
	char path[120], there[16] = "";
	int fd;

	snprintf(path, sizeof(path), "%s/%s/disk-0", t->dir, name);
	fd = open(path, O_RDONLY);
	assert_true(read(fd, there, sizeof(there) - 1) >= 0);
	assert_string_equal(there, text);
	close(fd);
}

static void merged_chain_is_one_complete_snapshot(void **state)
{
	struct snapshot_chain c;
	struct snapshot s;
	struct error err;
	char id[SNAPSHOT_ID_SIZE];

	make_three(*state);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	snprintf(id, sizeof(id), "%s", snapshot_chain_last(&c)->id);
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "three"), false, &err), 0);
	snapshot_chain_close(&c);
	expect_ram(*state, "three", all_pages);
	expect_disk(*state, "three", "three");
	/* The others are as they were, and it is who it was: what builds on it goes on to. */
	expect_ram(*state, "one", first_pages);
	assert_int_equal(snapshot_open(&s, path_in(*state, "three"), &err), 0);
	assert_string_equal(s.id, id);
	snapshot_close(&s);
}

static void merge_elsewhere_leaves_all_as_it_was(void **state)
{
	struct snapshot_chain c;
	struct error err;

	make_three(*state);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "new"), false, &err), 0);
	snapshot_chain_close(&c);
	expect_ram(*state, "new", all_pages);
	expect_disk(*state, "new", "three");
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(c.num, 3);
	snapshot_chain_close(&c);
}

static void compressed_ones_are_merged_with_others(void **state)
{
	struct snapshot_chain c;
	struct error err;
	struct stat st;

	make_so(*state, "one", NULL, first_pages, true);
	make(*state, "two", "one", second_pages);
	make_so(*state, "three", "two", third_pages, true);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_true(snapshot_chain_is_packed(&c));
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "plain"), false, &err), 0);
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "three"), true, &err), 0);
	snapshot_chain_close(&c);
	expect_ram(*state, "plain", all_pages);
	/* As that one which it is now, it goes through memory once more. */
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(c.num, 1);
	assert_true(snapshot_is_packed(&c.link[0]));
	assert_int_equal(fstatat(c.link[0].dir_fd, SNAPSHOT_MEMORY, &st, 0), -1);
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "again"), false, &err), 0);
	snapshot_chain_close(&c);
	expect_ram(*state, "again", all_pages);
}

static void compressed_one_can_be_had_as_a_file(void **state)
{
	char there[2] = "";
	struct snapshot s;
	struct error err;

	make_so(*state, "one", NULL, first_pages, true);
	assert_int_equal(snapshot_open(&s, path_in(*state, "one"), &err), 0);
	assert_int_equal(s.memory_fd, -1);
	assert_int_equal(snapshot_check_memory(&s, PAGES * PAGE_SIZE, &err), 0);
	assert_int_equal(snapshot_check_memory(&s, PACKED_CHUNK, &err), -EBADMSG);
	assert_int_equal(snapshot_unpack(&s, &err), 0);
	assert_false(snapshot_is_packed(&s));
	assert_int_equal(snapshot_check_memory(&s, PAGES * PAGE_SIZE, &err), 0);
	assert_int_equal(pread(s.memory_fd, there, 1, PAGE_SIZE), 1);
	assert_string_equal(there, "b");
	snapshot_close(&s);
}

/* As for several clones: the second one finds what was unpacked for the first. */
static void compressed_one_is_unpacked_once_for_several(void **state)
{
	struct snapshot first, second, other;
	struct stat one, two;
	struct error err = { 0 };

	make_so(*state, "one", NULL, first_pages, true);
	make_so(*state, "two", NULL, first_pages, true);
	assert_int_equal(snapshot_open(&first, path_in(*state, "one"), &err), 0);
	assert_int_equal(snapshot_open(&second, path_in(*state, "one"), &err), 0);
	assert_int_equal(snapshot_open(&other, path_in(*state, "two"), &err), 0);
	assert_int_equal(snapshot_unpack_as(&second, &first, &err), -ESTALE);
	assert_int_equal(snapshot_unpack(&first, &err), 0);
	assert_int_equal(snapshot_unpack_as(&other, &first, &err), -ESTALE);
	assert_non_null(strstr(err.msg, "another one now"));
	assert_int_equal(snapshot_unpack_as(&second, &first, &err), 0);
	assert_false(snapshot_is_packed(&second));
	assert_int_equal(snapshot_check_memory(&second, PAGES * PAGE_SIZE, &err), 0);
	assert_int_equal(fstat(first.memory_fd, &one), 0);
	assert_int_equal(fstat(second.memory_fd, &two), 0);
	assert_int_equal(one.st_ino, two.st_ino);
	/* It is several guests' memory: none of them may write it. */
	assert_int_equal(fcntl(first.memory_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(second.memory_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	snapshot_close(&first);
	snapshot_close(&second);
	snapshot_close(&other);
}

static void damage_is_blamed_on_the_one_that_has_it(void **state)
{
	struct snapshot_chain c;
	struct error err;
	int dir, fd;

	make_so(*state, "one", NULL, first_pages, true);
	make_so(*state, "two", "one", second_pages, true);
	dir = open(path_in(*state, "one"), O_RDONLY | O_DIRECTORY);
	fd = openat(dir, SNAPSHOT_FRAMES, O_WRONLY);
	assert_int_equal(pwrite(fd, "X", 1, 8), 1);
	close(fd);
	close(dir);
	assert_int_equal(open_chain(&c, *state, "two", &err), 0);
	assert_int_equal(snapshot_unpack(&c.link[1], &err), 0);
	assert_int_equal(snapshot_unpack(&c.link[0], &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "/one'"));
	snapshot_chain_close(&c);
}

static void which_one_it_is_takes_its_manifest_alone(void **state)
{
	struct snapshot s;
	struct error err = { 0 };
	int dir;

	make_so(*state, "one", NULL, first_pages, true);
	dir = open(path_in(*state, "one"), O_RDONLY | O_DIRECTORY);
	assert_int_equal(unlinkat(dir, SNAPSHOT_INDEX, 0), 0);
	assert_int_equal(unlinkat(dir, SNAPSHOT_STATE, 0), 0);
	close(dir);
	assert_int_equal(snapshot_open_manifest(&s, path_in(*state, "one"), &err), 0);
	assert_non_null(s.id);
	snapshot_close(&s);
}

static void compressed_one_without_its_files_is_refused(void **state)
{
	static const char *const parts[] = { SNAPSHOT_FRAMES, SNAPSHOT_INDEX };
	struct snapshot s;
	struct error err;
	int dir;

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		make_so(*state, "one", NULL, first_pages, true);
		dir = open(path_in(*state, "one"), O_RDONLY | O_DIRECTORY);
		assert_int_equal(unlinkat(dir, parts[i], 0), 0);
		err = (struct error){ 0 };
		assert_int_equal(snapshot_open(&s, path_in(*state, "one"), &err), -ENOENT);
		assert_non_null(strstr(err.msg, parts[i]));
		snapshot_close(&s);
		close(dir);
	}
}

/* Later versions may compress otherwise. */
static void unknown_compression_is_refused(void **state)
{
	json_t *manifest = json_pack("{s:i, s:s, s:{s:s}}", "format", SNAPSHOT_FORMAT_PACKED, "id",
				     "x", "memory", "compression", "lzma");
	struct snapshot s;
	struct error err;
	char path[160];

	make_so(*state, "one", NULL, first_pages, true);
	snprintf(path, sizeof(path), "%s/" SNAPSHOT_MANIFEST, path_in(*state, "one"));
	assert_int_equal(json_dump_file(manifest, path, 0), 0);
	json_decref(manifest);
	assert_int_equal(snapshot_open(&s, path_in(*state, "one"), &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "compressed in a way ('lzma')"));
	snapshot_close(&s);
}

static void merge_replaces_none_that_others_build_on(void **state)
{
	struct snapshot_chain c;
	struct error err;

	make_three(*state);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "one"), false, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "build on it"));
	assert_int_equal(snapshot_chain_merge(&c, path_in(*state, "two"), false, &err), -EEXIST);
	snapshot_chain_close(&c);
	expect_ram(*state, "one", first_pages);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(c.num, 3);
	snapshot_chain_close(&c);
}

static void expect_kept(const struct snapshot_chain *c, const char *path)
{
	struct error err = { 0 };

	assert_int_equal(snapshot_chain_check_replaced(c, path, &err), -EEXIST);
}

/* One directory has many names. */
static void one_that_others_build_on_is_known_by_any_name(void **state)
{
	struct snapshot_chain c;
	struct error err = { 0 };

	make_three(*state);
	assert_int_equal(open_chain(&c, *state, "three", &err), 0);
	assert_int_equal(symlink("two", path_in(*state, "link")), 0);
	expect_kept(&c, path_in(*state, "one"));
	expect_kept(&c, path_in(*state, "three/../one/"));
	expect_kept(&c, path_in(*state, "link"));
	assert_int_equal(snapshot_chain_check_replaced(&c, path_in(*state, "three"), &err), 0);
	assert_int_equal(snapshot_chain_check_replaced(&c, path_in(*state, "new"), &err), 0);
	snapshot_chain_close(&c);
}

#define in_directory(f) cmocka_unit_test_setup_teardown(f, make_directory, remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		in_directory(chain_is_followed_to_its_begin),
		in_directory(chain_that_moved_together_is_found),
		in_directory(missing_base_is_refused),
		in_directory(base_that_is_another_is_refused),
		in_directory(snapshot_that_builds_on_another_is_not_appended),
		in_directory(differential_snapshot_replaces_none),
		in_directory(draft_replaces_nothing_but_snapshots),
		cmocka_unit_test(only_regular_files_are_copied),
		in_directory(copy_of_a_disk_that_is_no_file_is_refused),
		in_directory(merged_chain_is_one_complete_snapshot),
		in_directory(merge_elsewhere_leaves_all_as_it_was),
		in_directory(compressed_ones_are_merged_with_others),
		in_directory(compressed_one_can_be_had_as_a_file),
		in_directory(compressed_one_is_unpacked_once_for_several),
		in_directory(damage_is_blamed_on_the_one_that_has_it),
		in_directory(which_one_it_is_takes_its_manifest_alone),
		in_directory(compressed_one_without_its_files_is_refused),
		in_directory(unknown_compression_is_refused),
		in_directory(one_that_others_build_on_is_known_by_any_name),
		in_directory(merge_replaces_none_that_others_build_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
