#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "devices/fs_internal.h"
#include "tests/unit/fake_fuse.h"

#define ROOT FUSE_ROOT_ID

static const struct fs_server_config plain = { 0 };

/* ---- containment ---- */

static void names_that_are_none_are_refused(void **state)
{
	static const char *const names[] = { "", ".", "..", "/", "a/b", "../x", "/etc", "x/" };
	struct fake_fuse f;
	uint64_t node;

	fake_fuse_init(&f, &plain);
	fake_host_file(&f, "x", "x");
	assert_int_equal(fake_lookup(&f, ROOT, "x", &node), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		const char *n = names[i];

		assert_int_equal(fake_lookup(&f, ROOT, n, NULL), -EINVAL);
		assert_int_equal(fake_create(&f, ROOT, n, O_RDWR, NULL, NULL), -EINVAL);
		assert_int_equal(fake_mkdir(&f, ROOT, n, NULL), -EINVAL);
		assert_int_equal(fake_mknod(&f, ROOT, n, S_IFREG | 0644, 0), -EINVAL);
		assert_int_equal(fake_symlink(&f, ROOT, n, "t", NULL), -EINVAL);
		assert_int_equal(fake_link(&f, node, ROOT, n), -EINVAL);
		assert_int_equal(fake_unlink(&f, ROOT, n), -EINVAL);
		assert_int_equal(fake_rmdir(&f, ROOT, n), -EINVAL);
		assert_int_equal(fake_rename(&f, ROOT, n, ROOT, "y", 0), -EINVAL);
		assert_int_equal(fake_rename(&f, ROOT, "x", ROOT, n, 0), -EINVAL);
	}
	/* One that nothing ends. */
	assert_int_equal(fake_request(&f, FUSE_LOOKUP, ROOT, "abc", 3, NULL, 0, NULL, 0), -EINVAL);
	assert_int_equal(fake_request(&f, FUSE_LOOKUP, ROOT, NULL, 0, NULL, 0, NULL, 0), -EINVAL);
	fake_fuse_done(&f);
}

static void name_of_more_than_255_bytes_is_too_long(void **state)
{
	char name[300];
	struct fake_fuse f;

	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_mkdir(&f, ROOT, name, NULL), -ENAMETOOLONG);
	name[255] = '\0';
	assert_int_equal(fake_mkdir(&f, ROOT, name, NULL), 0);
	fake_fuse_done(&f);
}

static void no_link_is_followed(void **state)
{
	uint64_t node, fh;
	struct fuse_attr attr;
	struct fake_fuse f;

	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_symlink(&f, ROOT, "out", "/etc", &node), 0);
	/* It is a link, of which one can learn where it points, and no directory. */
	assert_int_equal(fake_getattr(&f, node, &attr), 0);
	assert_true(S_ISLNK(attr.mode));
	assert_int_equal(fake_lookup(&f, node, "passwd", NULL), -ENOTDIR);
	assert_int_equal(fake_opendir(&f, node, &fh), -ENOTDIR);
	assert_int_equal(fake_open(&f, node, O_RDONLY, &fh), -ENXIO);
	assert_int_equal(fake_create(&f, node, "x", O_RDWR, NULL, NULL), -ENOTDIR);
	assert_int_equal(fake_request(&f, FUSE_READLINK, node, NULL, 0, NULL, 0, NULL, 0), 0);
	assert_int_equal(f.out_len, 4);
	assert_memory_equal(fake_body(&f), "/etc", 4);
	/* Creating what is there as a link opens nothing behind it. */
	assert_int_equal(fake_symlink(&f, ROOT, "trap", "/tmp/wisp-must-not-exist", NULL), 0);
	assert_int_equal(fake_create(&f, ROOT, "trap", O_RDWR, NULL, NULL), -ENXIO);
	assert_int_equal(access("/tmp/wisp-must-not-exist", F_OK), -1);
	fake_fuse_done(&f);
}

struct swapper {
	struct fake_fuse *f;
	char dir[64];
	atomic_bool stop;
	atomic_uint swaps;
};

/* A host that makes the directory "d" a link to one outside, and back, as fast as it can. */
static void *swap(void *arg)
{
	struct swapper *s = arg;
	char a[128], b[128];

	snprintf(a, sizeof(a), "%s/d", s->dir);
	snprintf(b, sizeof(b), "%s/other", s->dir);
	while (!s->stop)
		s->swaps += renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
	return NULL;
}

static void swapped_links_never_lead_out(void **state)
{
	char outside[] = "/tmp/wisp-test-out.XXXXXX", secret[64];
	struct swapper s = { 0 };
	const time_t end = time(NULL) + 60;
	unsigned inside = 0;
	struct fake_fuse f;
	pthread_t thread;
	struct stat st;

	assert_non_null(mkdtemp(outside));
	snprintf(secret, sizeof(secret), "%s/file", outside);
	close(open(secret, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
	assert_int_equal(stat(secret, &st), 0);
	/* So few descriptors that every step walks down anew. */
	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 1 });
	assert_int_equal(mkdir(fake_path(&f, "d"), 0755), 0);
	fake_host_file(&f, "d/file", "inside");
	assert_int_equal(symlink(outside, fake_path(&f, "other")), 0);
	snprintf(s.dir, sizeof(s.dir), "%s", f.dir);
	assert_int_equal(pthread_create(&thread, NULL, swap, &s), 0);
	/* On a busy host the swapper may stand still, with the link in place, for long. */
	for (unsigned i = 0; i < 3000 || ((!inside || s.swaps < 100) && time(NULL) < end); i++) {
		uint64_t dir, node, fh;
		struct stat got;

		if (fake_lookup(&f, ROOT, "d", &dir) < 0)
			continue;
		if (fake_lookup(&f, dir, "file", &node) == 0) {
			if (fake_open(&f, node, O_RDWR, &fh) == 0) {
				assert_int_equal(fstat(f.fd, &got), 0);
				assert_true(got.st_ino != st.st_ino || got.st_dev != st.st_dev);
				inside++;
				fake_release(&f, node, fh);
			}
			fake_forget(&f, node, 1);
		}
		if (fake_create(&f, dir, "new", O_RDWR, &node, &fh) == 0) {
			fake_release(&f, node, fh);
			fake_forget(&f, node, 1);
			fake_unlink(&f, dir, "new");
		}
		fake_forget(&f, dir, 1);
	}
	s.stop = true;
	pthread_join(thread, NULL);
	assert_true(inside > 0);
	assert_true(s.swaps >= 100);
	/* Nothing was made out there. */
	assert_int_equal(unlink(secret), 0);
	assert_int_equal(rmdir(outside), 0);
	fake_fuse_done(&f);
}

static void devices_are_not_made_and_pipes_not_opened(void **state)
{
	struct fake_fuse f;
	uint64_t node;

	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_mknod(&f, ROOT, "sda", S_IFBLK | 0600, 0x800), -EPERM);
	assert_int_equal(fake_mknod(&f, ROOT, "mem", S_IFCHR | 0600, 0x101), -EPERM);
	assert_int_equal(fake_mknod(&f, ROOT, "pipe", S_IFIFO | 0600, 0), 0);
	assert_int_equal(fake_mknod(&f, ROOT, "sock", S_IFSOCK | 0600, 0), 0);
	/* Opening one would wait for ever. */
	assert_int_equal(fake_lookup(&f, ROOT, "pipe", &node), 0);
	assert_int_equal(fake_open(&f, node, O_WRONLY, NULL), -ENXIO);
	assert_int_equal(fake_create(&f, ROOT, "pipe", O_WRONLY, NULL, NULL), -ENXIO);
	fake_fuse_done(&f);
}

static void kernel_interfaces_show_as_empty_directories(void **state)
{
	struct fs_server_config config = { .root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) };
	/* What it has already, should it be set all the same. */
	struct fuse_setattr_in mode = { .valid = FATTR_MODE, .mode = 0555 };
	struct fuse_setxattr_in set = { .size = 1 };
	uint64_t proc, fh;
	struct fake_fuse f = { 0 };

	assert_int_equal(fs_server_create(&f.s, &config, NULL), 0);
	assert_int_equal(fake_say_init(&f), 0);
	if (fake_lookup(&f, ROOT, "proc", &proc) == 0 && access("/proc/self", F_OK) == 0) {
		assert_int_equal(fake_lookup(&f, proc, "self", NULL), -ENOENT);
		assert_int_equal(fake_lookup(&f, proc, "sysrq-trigger", NULL), -ENOENT);
		assert_int_equal(fake_create(&f, proc, "x", O_RDWR, NULL, NULL), -EROFS);
		assert_int_equal(fake_setattr(&f, proc, &mode), -EROFS);
		assert_int_equal(fake_request(&f, FUSE_SETXATTR, proc, &set,
					      FUSE_COMPAT_SETXATTR_IN_SIZE, "user.x", 7, "y", 1),
				 -EROFS);
		assert_int_equal(fake_request(&f, FUSE_REMOVEXATTR, proc, "user.x", 7, NULL, 0,
					      NULL, 0),
				 -EROFS);
		assert_int_equal(fake_opendir(&f, proc, &fh), 0);
		assert_int_equal(fake_readdir(&f, true, proc, fh, 0, 4096), 0);
		assert_int_equal(f.out_len, 0);
	}
	fs_server_free(f.s);
}

static void numbers_that_nobody_gave_are_stale(void **state)
{
	static const uint64_t numbers[] = { 0, 2, 1ull << 32 | 1, UINT64_MAX, 0xffffffff };
	struct fuse_setattr_in set = { .valid = FATTR_MODE, .mode = 0600 };
	struct fake_fuse f;
	uint64_t node;

	fake_fuse_init(&f, &plain);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		assert_int_equal(fake_getattr(&f, numbers[i], NULL), -ESTALE);
		assert_int_equal(fake_setattr(&f, numbers[i], &set), -ESTALE);
		assert_int_equal(fake_lookup(&f, numbers[i], "x", NULL), -ESTALE);
		assert_int_equal(fake_open(&f, numbers[i], O_RDONLY, NULL), -ESTALE);
		assert_int_equal(fake_release(&f, ROOT, numbers[i]), -EBADF);
		assert_int_equal(fake_readdir(&f, false, ROOT, numbers[i], 0, 4096), -EBADF);
		fake_forget(&f, numbers[i], UINT64_MAX);
	}
	/* One that was taken back is another's afterwards, under another number. */
	fake_host_file(&f, "a", "a");
	assert_int_equal(fake_lookup(&f, ROOT, "a", &node), 0);
	fake_forget(&f, node, 1);
	assert_true(f.no_reply);
	assert_int_equal(fake_getattr(&f, node, NULL), -ESTALE);
	/* Nor can the root be taken back. */
	fake_forget(&f, ROOT, 1000);
	assert_int_equal(fake_getattr(&f, ROOT, NULL), 0);
	fake_fuse_done(&f);
}

static void short_requests_are_refused(void **state)
{
	struct fake_fuse f;
	uint8_t zeroes[256] = { 0 };
	int fd;

	fake_fuse_init(&f, &plain);
	for (uint32_t op = 0; op < 64; op++) {
		if (op == FUSE_DESTROY || op == FUSE_INIT)
			continue;
		for (size_t len = 0; len < 128; len += 3)
			(void)fake_request(&f, op, ROOT, zeroes, len, NULL, 0, NULL, 0);
	}
	assert_int_equal(fake_request(&f, 9999, ROOT, NULL, 0, NULL, 0, NULL, 0), -ENOSYS);
	/* A length that is not the message's. */
	((struct fuse_in_header *)f.in)->len = 12;
	((struct fuse_in_header *)f.in)->opcode = FUSE_STATFS;
	assert_true(fs_server_handle(f.s, f.in, 40, f.out, sizeof(f.out), &fd) > 0);
	assert_int_equal(((struct fuse_out_header *)f.out)->error, -EINVAL);
	assert_int_equal(fs_server_handle(f.s, f.in, 39, f.out, sizeof(f.out), &fd), 0);
	fake_fuse_done(&f);
}

/* ---- what one can do ---- */

static void file_is_created_written_and_read(void **state)
{
	uint64_t node, fh;
	struct fuse_attr attr;
	struct fake_fuse f;
	char buf[8];

	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_create(&f, ROOT, "f", O_RDWR, &node, &fh), 0);
	assert_true(f.fd >= 0);
	/* What moves data waits where it must. */
	assert_int_equal(fcntl(f.fd, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(pwrite(f.fd, "hello", 5, 0), 5);
	assert_int_equal(fake_getattr(&f, node, &attr), 0);
	assert_int_equal(attr.size, 5);
	assert_int_equal(attr.uid, getuid());
	assert_int_equal(fake_release(&f, node, fh), 0);
	assert_int_equal(fake_release(&f, node, fh), -EBADF);
	assert_int_equal(fake_open(&f, node, O_RDONLY, &fh), 0);
	assert_int_equal(pread(f.fd, buf, sizeof(buf), 0), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(fake_create(&f, ROOT, "f", O_RDWR | O_EXCL, NULL, NULL), -EEXIST);
	assert_int_equal(fake_create(&f, ROOT, "f", O_RDWR | O_TRUNC, NULL, &fh), 0);
	assert_int_equal(fake_getattr(&f, node, &attr), 0);
	assert_int_equal(attr.size, 0);
	fake_fuse_done(&f);
}

static void removed_file_lives_on_while_it_is_known(void **state)
{
	struct fuse_setattr_in size = { .valid = FATTR_SIZE, .size = 100 };
	uint64_t node, fh;
	struct fuse_attr attr;
	struct fake_fuse f;

	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 1 });
	assert_int_equal(fake_create(&f, ROOT, "f", O_RDWR, &node, &fh), 0);
	assert_int_equal(fake_unlink(&f, ROOT, "f"), 0);
	assert_int_equal(fake_getattr(&f, node, &attr), 0);
	assert_int_equal(attr.nlink, 0);
	assert_int_equal(fake_setattr(&f, node, &size), 0);
	assert_int_equal(fake_lookup(&f, ROOT, "f", NULL), -ENOENT);
	fake_forget(&f, node, 1);
	assert_int_equal(fake_getattr(&f, node, NULL), -ESTALE);
	fake_fuse_done(&f);
}

static int getattr_as(struct fake_fuse *f, uint64_t node, const struct fuse_getattr_in *in)
{
	return fake_request(f, FUSE_GETATTR, node, in, sizeof(*in), NULL, 0, NULL, 0);
}

/* Few descriptors of nodes are kept, and the name by which it could be found again is gone. */
static void an_open_file_has_attributes_without_a_name(void **state)
{
	struct fuse_getattr_in in = { .getattr_flags = FUSE_GETATTR_FH };
	struct fuse_setattr_in size = { .valid = FATTR_SIZE | FATTR_FH, .size = 7 };
	uint64_t node, other;
	struct fake_fuse f;
	char name[8];

	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 1 });
	assert_int_equal(fake_create(&f, ROOT, "f", O_RDWR, &node, &in.fh), 0);
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "d%u", i);
		assert_int_equal(fake_mkdir(&f, ROOT, name, &other), 0);
		assert_int_equal(fake_lookup(&f, other, "none", NULL), -ENOENT);
	}
	assert_int_equal(unlink(fake_path(&f, "f")), 0);
	assert_int_equal(fake_getattr(&f, node, NULL), -ESTALE);
	size.fh = in.fh;
	assert_int_equal(fake_setattr(&f, node, &size), 0);
	assert_int_equal(getattr_as(&f, node, &in), 0);
	assert_int_equal(((const struct fuse_attr_out *)fake_body(&f))->attr.size, 7);
	assert_int_equal(((const struct fuse_attr_out *)fake_body(&f))->attr.nlink, 0);
	/* Of another file it says nothing. */
	assert_int_equal(getattr_as(&f, ROOT, &in), 0);
	assert_true(S_ISDIR(((const struct fuse_attr_out *)fake_body(&f))->attr.mode));
	fake_fuse_done(&f);
}

static void node_follows_its_file_when_it_moves(void **state)
{
	uint64_t a, b, x, y;
	struct fuse_attr before, after;
	struct fake_fuse f;

	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 1 });
	assert_int_equal(fake_mkdir(&f, ROOT, "a", &a), 0);
	assert_int_equal(fake_mkdir(&f, ROOT, "b", &b), 0);
	fake_host_file(&f, "a/x", "x");
	fake_host_file(&f, "b/y", "yy");
	assert_int_equal(fake_lookup(&f, a, "x", &x), 0);
	assert_int_equal(fake_lookup(&f, b, "y", &y), 0);
	assert_int_equal(fake_getattr(&f, x, &before), 0);
	assert_int_equal(fake_rename(&f, a, "x", b, "y", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(fake_rename(&f, a, "x", b, "y", RENAME_EXCHANGE), 0);
	assert_int_equal(fake_getattr(&f, x, &after), 0);
	assert_int_equal(before.ino, after.ino);
	assert_int_equal(fake_getattr(&f, y, &after), 0);
	assert_int_equal(after.size, 2);
	/* Directories above move too, and what is below is found all the same. */
	assert_int_equal(fake_rename(&f, ROOT, "b", a, "bb", 0), 0);
	assert_int_equal(fake_rename(&f, ROOT, "a", ROOT, "aa", 0), 0);
	assert_int_equal(fake_getattr(&f, x, &after), 0);
	assert_int_equal(before.ino, after.ino);
	assert_int_equal(access(fake_path(&f, "aa/bb/y"), F_OK), 0);
	/* Replacing keeps the replaced one for whoever has it. */
	assert_int_equal(fake_rename(&f, b, "y", a, "x", 0), 0);
	assert_int_equal(fake_getattr(&f, y, &after), 0);
	assert_int_equal(after.nlink, 0);
	fake_fuse_done(&f);
}

/* A directory is only known for a file in it, which takes its name by another of its own. */
static void what_is_exchanged_may_have_been_the_others_place(void **state)
{
	uint64_t dir, file, again;
	struct fuse_attr attr;
	struct fake_fuse f;

	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_mkdir(&f, ROOT, "d", &dir), 0);
	assert_int_equal(fake_create(&f, dir, "f", O_RDWR, &file, NULL), 0);
	assert_int_equal(link(fake_path(&f, "d/f"), fake_path(&f, "g")), 0);
	fake_forget(&f, dir, 1);
	assert_int_equal(fake_rename(&f, ROOT, "d", ROOT, "g", RENAME_EXCHANGE), 0);
	assert_int_equal(fake_getattr(&f, file, &attr), 0);
	assert_true(S_ISREG(attr.mode));
	assert_int_equal(fake_getattr(&f, dir, NULL), -ESTALE);
	assert_int_equal(fake_lookup(&f, ROOT, "g", &again), 0);
	assert_int_equal(fake_lookup(&f, again, "f", &dir), 0);
	assert_true(dir == file);
	fake_fuse_done(&f);
}

static void file_that_the_host_replaced_is_stale(void **state)
{
	struct fake_fuse f;
	uint64_t node, again;

	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 1 });
	fake_host_file(&f, "f", "one");
	assert_int_equal(fake_lookup(&f, ROOT, "f", &node), 0);
	fake_host_file(&f, "g", "two");
	assert_int_equal(rename(fake_path(&f, "g"), fake_path(&f, "f")), 0);
	assert_int_equal(fake_getattr(&f, node, NULL), -ESTALE);
	assert_int_equal(fake_open(&f, node, O_RDONLY, NULL), -ESTALE);
	assert_int_equal(fake_lookup(&f, ROOT, "f", &again), 0);
	assert_true(again != node);
	assert_int_equal(fake_open(&f, again, O_RDONLY, NULL), 0);
	fake_fuse_done(&f);
}

/* Opening a pipe or a tape does something; so what is another file by now is not opened at all. */
static void what_replaced_a_file_is_not_even_opened(void **state)
{
	char event[sizeof(struct inotify_event) + NAME_MAX + 1];
	struct fake_fuse f;
	uint64_t dir, node, fh;
	int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	assert_true(watch >= 0);
	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 1 });
	assert_int_equal(fake_mkdir(&f, ROOT, "d", &dir), 0);
	fake_host_file(&f, "d/file", "old");
	assert_int_equal(fake_lookup(&f, dir, "file", &node), 0);
	fake_host_file(&f, "d/new", "new");
	assert_int_equal(rename(fake_path(&f, "d/new"), fake_path(&f, "d/file")), 0);
	assert_true(inotify_add_watch(watch, fake_path(&f, "d/file"), IN_OPEN) >= 0);
	assert_int_equal(fake_open(&f, node, O_RDONLY, &fh), -ESTALE);
	assert_int_equal(read(watch, event, sizeof(event)), -1);
	assert_int_equal(errno, EAGAIN);
	/* The watch works. */
	assert_int_equal(fake_lookup(&f, dir, "file", &node), 0);
	assert_int_equal(fake_open(&f, node, O_RDONLY, &fh), 0);
	assert_true(read(watch, event, sizeof(event)) > 0);
	close(watch);
	fake_fuse_done(&f);
}

/* Count the entries of the root, so many bytes at a time. */
static unsigned list_root(struct fake_fuse *f, bool plus, uint32_t size)
{
	uint64_t fh, offset = 0;
	unsigned n = 0;

	assert_int_equal(fake_opendir(f, ROOT, &fh), 0);
	for (;;) {
		size_t at = 0;

		assert_int_equal(fake_readdir(f, plus, ROOT, fh, offset, size), 0);
		assert_true(f->out_len <= size);
		if (!f->out_len)
			break;
		while (at < f->out_len) {
			const uint8_t *p = (const uint8_t *)fake_body(f) + at;
			const struct fuse_direntplus *e = (const struct fuse_direntplus *)p;
			const struct fuse_dirent *d = plus ? &e->dirent :
							     (const struct fuse_dirent *)p;

			n += d->name[0] == 'f';
			offset = d->off;
			if (plus && d->name[0] == 'f')
				assert_true(e->entry_out.nodeid && e->entry_out.attr.mode);
			at += plus ? FUSE_DIRENTPLUS_SIZE(e) : FUSE_DIRENT_SIZE(d);
		}
		assert_int_equal(at, f->out_len);
	}
	return n;
}

static void directory_is_read_whole_in_pieces_of_any_size(void **state)
{
	struct fake_fuse f;
	char name[64];

	fake_fuse_init(&f, &plain);
	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "f%u-%.*s", i, (int)(i % 40),
			 "----------------------------------------");
		fake_host_file(&f, name, "");
	}
	assert_int_equal(list_root(&f, false, 4096), 300);
	assert_int_equal(list_root(&f, true, 4096), 300);
	assert_int_equal(list_root(&f, false, 300), 300);
	assert_int_equal(list_root(&f, true, 512), 300);
	assert_int_equal(list_root(&f, true, 80000), 300);
	fake_fuse_done(&f);
}

static void read_only_tree_is_not_changed(void **state)
{
	struct fuse_setattr_in set = { .valid = FATTR_MODE, .mode = 0600 };
	struct fake_fuse f;
	uint64_t node;

	fake_fuse_init(&f, &(struct fs_server_config){ .read_only = true });
	fake_host_file(&f, "f", "x");
	assert_int_equal(fake_lookup(&f, ROOT, "f", &node), 0);
	assert_int_equal(fake_open(&f, node, O_RDONLY, NULL), 0);
	assert_int_equal(fake_open(&f, node, O_RDWR, NULL), -EROFS);
	assert_int_equal(fake_open(&f, node, O_RDONLY | O_TRUNC, NULL), -EROFS);
	assert_int_equal(fake_create(&f, ROOT, "g", O_RDWR, NULL, NULL), -EROFS);
	assert_int_equal(fake_unlink(&f, ROOT, "f"), -EROFS);
	assert_int_equal(fake_rename(&f, ROOT, "f", ROOT, "g", 0), -EROFS);
	assert_int_equal(fake_setattr(&f, node, &set), -EROFS);
	assert_int_equal(fake_mkdir(&f, ROOT, "d", NULL), -EROFS);
	fake_fuse_done(&f);
}

static void deep_trees_are_walked_with_one_descriptor(void **state)
{
	struct fake_fuse f;
	uint64_t dir = ROOT, node;

	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 1 });
	for (unsigned i = 0; i < 400; i++)
		assert_int_equal(fake_mkdir(&f, dir, "d", &dir), 0);
	assert_int_equal(fake_create(&f, dir, "f", O_RDWR, &node, NULL), 0);
	assert_int_equal(fake_getattr(&f, ROOT, NULL), 0);
	assert_int_equal(fake_getattr(&f, node, NULL), 0);
	assert_true(f.s->num_open <= 2);
	fake_fuse_done(&f);
}

static void guest_that_opens_without_end_is_stopped(void **state)
{
	struct fake_fuse f;
	uint64_t node, fh;
	int r = 0;
	unsigned n;

	fake_fuse_init(&f, &(struct fs_server_config){ .max_open = 20 });
	fake_host_file(&f, "f", "x");
	assert_int_equal(fake_lookup(&f, ROOT, "f", &node), 0);
	for (n = 0; n < 100 && !r; n++)
		r = fake_open(&f, node, O_RDONLY, &fh);
	assert_int_equal(r, -ENFILE);
	assert_int_equal(n, 21);
	assert_int_equal(fake_release(&f, node, fh), 0);
	assert_int_equal(fake_open(&f, node, O_RDONLY, &fh), 0);
	fake_fuse_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_that_are_none_are_refused),
		cmocka_unit_test(name_of_more_than_255_bytes_is_too_long),
		cmocka_unit_test(no_link_is_followed),
		cmocka_unit_test(swapped_links_never_lead_out),
		cmocka_unit_test(devices_are_not_made_and_pipes_not_opened),
		cmocka_unit_test(kernel_interfaces_show_as_empty_directories),
		cmocka_unit_test(numbers_that_nobody_gave_are_stale),
		cmocka_unit_test(short_requests_are_refused),
		cmocka_unit_test(file_is_created_written_and_read),
		cmocka_unit_test(removed_file_lives_on_while_it_is_known),
		cmocka_unit_test(an_open_file_has_attributes_without_a_name),
		cmocka_unit_test(node_follows_its_file_when_it_moves),
		cmocka_unit_test(what_is_exchanged_may_have_been_the_others_place),
		cmocka_unit_test(file_that_the_host_replaced_is_stale),
		cmocka_unit_test(what_replaced_a_file_is_not_even_opened),
		cmocka_unit_test(directory_is_read_whole_in_pieces_of_any_size),
		cmocka_unit_test(read_only_tree_is_not_changed),
		cmocka_unit_test(deep_trees_are_walked_with_one_descriptor),
		cmocka_unit_test(guest_that_opens_without_end_is_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
