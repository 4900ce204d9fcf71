/* What the server of a share says of a file, and lets be changed: modes, owners, attributes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/unit/fake_fuse.h"

#define ROOT FUSE_ROOT_ID

static const struct fs_server_config plain = { 0 };

static void attributes_are_set(void **state)
{
	struct fuse_setattr_in in = {
		.valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME,
		.mode = 0640,
		.size = 1234,
		.atime = 1000,
		.atimensec = UTIME_NOW, /* no order to us */
		.mtime = 2000,
		.mtimensec = 5,
	};
	struct fuse_attr attr;
	struct fake_fuse f;
	uint64_t node;

	fake_fuse_init(&f, &plain);
	fake_host_file(&f, "f", "x");
	assert_int_equal(fake_lookup(&f, ROOT, "f", &node), 0);
	assert_int_equal(fake_setattr(&f, node, &in), 0);
	assert_int_equal(fake_getattr(&f, node, &attr), 0);
	assert_int_equal(attr.mode, S_IFREG | 0640);
	assert_int_equal(attr.size, 1234);
	assert_int_equal(attr.atime, 1000);
	assert_int_equal(attr.mtime, 2000);
	assert_int_equal(attr.mtimensec, 5);
	fake_fuse_done(&f);
}

/* Whoever runs this: root could change a file and leave the bits. */
static void changed_contents_take_set_user_id_away(void **state)
{
	struct fuse_setattr_in size = { .valid = FATTR_SIZE, .size = 1 };
	struct fuse_setattr_in mode = { .valid = FATTR_MODE, .mode = 06755 };
	struct fuse_copy_file_range_in copy = { .len = 3 };
	struct fuse_attr attr;
	struct fake_fuse f;
	uint64_t node;

	fake_fuse_init(&f, &plain);
	fake_host_file(&f, "from", "text");
	fake_host_file(&f, "f", "text");
	assert_int_equal(fake_lookup(&f, ROOT, "f", &node), 0);
	for (unsigned way = 0; way < 4; way++) {
		assert_int_equal(chmod(fake_path(&f, "f"), 06755), 0);
		if (way == 0) {
			assert_int_equal(fake_setattr(&f, node, &size), 0);
		} else if (way == 1) {
			assert_int_equal(fake_open(&f, node, O_RDWR | O_TRUNC, &copy.fh_out), 0);
		} else if (way == 2) {
			assert_int_equal(fake_create(&f, ROOT, "f", O_RDWR | O_TRUNC, NULL, NULL),
					 0);
		} else {
			assert_int_equal(fake_create(&f, ROOT, "from", O_RDONLY, NULL, &copy.fh_in),
					 0);
			assert_int_equal(fake_request(&f, FUSE_COPY_FILE_RANGE, node, &copy,
						      sizeof(copy), NULL, 0, NULL, 0), 0);
		}
		assert_int_equal(fake_getattr(&f, node, &attr), 0);
		assert_int_equal(attr.mode, S_IFREG | 0755);
	}
	/* Who asks for them has them, also in a group that is not ours. */
	(void)!chown(fake_path(&f, "f"), -1, 4242);
	assert_int_equal(fake_setattr(&f, node, &mode), 0);
	assert_int_equal(fake_open(&f, node, O_RDWR, NULL), 0);
	assert_int_equal(fake_getattr(&f, node, &attr), 0);
	assert_int_equal(attr.mode, S_IFREG | 06755);
	fake_fuse_done(&f);
}

static void extended_attributes_round_trip(void **state)
{
	struct fuse_setxattr_in set = { .size = 5 };
	struct fuse_getxattr_in get = { .size = 100 };
	struct fake_fuse f;
	uint64_t node;
	int r;

	fake_fuse_init(&f, &plain);
	fake_host_file(&f, "f", "x");
	assert_int_equal(fake_lookup(&f, ROOT, "f", &node), 0);
	r = fake_request(&f, FUSE_SETXATTR, node, &set, FUSE_COMPAT_SETXATTR_IN_SIZE, "user.a", 7,
			 "value", 5);
	if (r == -EOPNOTSUPP) {
		fake_fuse_done(&f);
		skip();
	}
	assert_int_equal(r, 0);
	assert_int_equal(fake_request(&f, FUSE_GETXATTR, node, &get, sizeof(get), "user.a", 7, NULL,
				      0), 0);
	assert_int_equal(f.out_len, 5);
	assert_memory_equal(fake_body(&f), "value", 5);
	get.size = 0;
	assert_int_equal(fake_request(&f, FUSE_GETXATTR, node, &get, sizeof(get), "user.a", 7, NULL,
				      0), 0);
	assert_int_equal(((const struct fuse_getxattr_out *)fake_body(&f))->size, 5);
	get.size = 2;
	assert_int_equal(fake_request(&f, FUSE_GETXATTR, node, &get, sizeof(get), "user.a", 7, NULL,
				      0), -ERANGE);
	assert_int_equal(fake_request(&f, FUSE_REMOVEXATTR, node, "user.a", 7, NULL, 0, NULL, 0),
			 0);
	/* More value than there is message. */
	set.size = 60000;
	assert_int_equal(fake_request(&f, FUSE_SETXATTR, node, &set, FUSE_COMPAT_SETXATTR_IN_SIZE,
				      "user.a", 7, "value", 5), -EINVAL);
	fake_fuse_done(&f);
}

/* As image_xattr.c keeps those of a container image. */
static void kept_attributes_have_their_names_for_the_guest(void **state)
{
	const struct fs_server_config image = { .kept_xattr = true, .read_only = true };
	struct fuse_getxattr_in get = { .size = 100 };
	struct fake_fuse f;
	uint64_t node;
	char path[200];

	fake_fuse_init(&f, &image);
	fake_host_file(&f, "f", "x");
	snprintf(path, sizeof(path), "%s/f", f.dir);
	if (setxattr(path, "user.wisp.security.capability", "caps", 4, 0) < 0) {
		fake_fuse_done(&f);
		skip();
	}
	assert_int_equal(setxattr(path, "user.mine", "m", 1, 0), 0);
	assert_int_equal(fake_lookup(&f, ROOT, "f", &node), 0);
	assert_int_equal(fake_request(&f, FUSE_GETXATTR, node, &get, sizeof(get),
				      "security.capability", 20, NULL, 0), 0);
	assert_int_equal(f.out_len, 4);
	assert_memory_equal(fake_body(&f), "caps", 4);
	assert_int_equal(fake_request(&f, FUSE_GETXATTR, node, &get, sizeof(get), "user.mine", 10,
				      NULL, 0), 0);
	assert_int_equal(f.out_len, 1);
	assert_int_equal(fake_request(&f, FUSE_GETXATTR, node, &get, sizeof(get), "trusted.x", 10,
				      NULL, 0), -ENODATA);
	/* Both in the list, in whatever order; what the host has labelled it with is not. */
	assert_int_equal(fake_request(&f, FUSE_LISTXATTR, node, &get, sizeof(get), NULL, 0, NULL,
				      0), 0);
	assert_int_equal(f.out_len, 30);
	assert_non_null(memmem(fake_body(&f), 30, "security.capability", 20));
	assert_non_null(memmem(fake_body(&f), 30, "user.mine", 10));
	assert_null(memmem(fake_body(&f), 30, "wisp", 4));
	get.size = 29;
	assert_int_equal(fake_request(&f, FUSE_LISTXATTR, node, &get, sizeof(get), NULL, 0, NULL,
				      0), -ERANGE);
	get.size = 0;
	assert_int_equal(fake_request(&f, FUSE_LISTXATTR, node, &get, sizeof(get), NULL, 0, NULL,
				      0), 0);
	assert_int_equal(((const struct fuse_getxattr_out *)fake_body(&f))->size, 30);
	fake_fuse_done(&f);
}

/* ---- ACLs ---- */

#define ACCESS_ACL  "system.posix_acl_access"
#define DEFAULT_ACL "system.posix_acl_default"

#define ACL_ALL ((uint32_t)FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT)

static const struct fs_server_config with_acl = { .acl = true };

/* As the kernel's system.posix_acl_* are: version 2; tag, permissions and whose in each entry. */
struct acl {
	uint32_t version;
	struct {
		uint16_t tag, perm;
		uint32_t id;
	} entry[5];
};

/* user::rwx, user:4242:rwx, group::rwx, mask::rwx, other::rwx */
static const struct acl open_to_all = {
	2, { { 1, 7, -1 }, { 2, 7, 4242 }, { 4, 7, -1 }, { 16, 7, -1 }, { 32, 7, -1 } },
};

/* Which of them are agreed on with a driver that offers @flags. */
static uint32_t agreed(struct fake_fuse *f, uint32_t flags)
{
	const struct fuse_init_in in = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.flags = flags,
	};

	assert_int_equal(fake_request(f, FUSE_INIT, 0, &in, sizeof(in), NULL, 0, NULL, 0), 0);
	return ((const struct fuse_init_out *)fake_body(f))->flags & ACL_ALL;
}

static void acls_are_agreed_on_where_asked_for_and_all_is_known(void **state)
{
	struct fake_fuse f;

	fake_fuse_init(&f, &plain);
	assert_int_equal(agreed(&f, ~0u), 0);
	fake_fuse_restart(&f, &with_acl);
	assert_int_equal(agreed(&f, ~0u), ACL_ALL);
	/* Without a word on set-group-ID bits, or the umask, less safe than none. */
	assert_int_equal(agreed(&f, ~(uint32_t)FUSE_SETXATTR_EXT), 0);
	assert_int_equal(agreed(&f, ~(uint32_t)FUSE_DONT_MASK), 0);
	fake_fuse_done(&f);
}

/* Make the default ACL of the root, or leave the test. */
static void put_default_acl(struct fake_fuse *f)
{
	if (setxattr(f->dir, DEFAULT_ACL, &open_to_all, sizeof(open_to_all), 0) < 0) {
		fake_fuse_done(f);
		skip();
	}
}

static mode_t mode_of(struct fake_fuse *f, const char *name)
{
	struct stat st;

	assert_int_equal(lstat(fake_path(f, name), &st), 0);
	return st.st_mode & 07777;
}

static void make_one_of_each(struct fake_fuse *f)
{
	const struct fuse_mkdir_in dir = { .mode = 0777, .umask = 027 };
	const struct fuse_mknod_in pipe = { .mode = S_IFIFO | 0666, .umask = 027 };
	const struct fuse_create_in file = {
		.mode = 0666,
		.umask = 027,
		.flags = O_CREAT | O_RDWR,
	};

	assert_int_equal(fake_request(f, FUSE_MKDIR, ROOT, &dir, sizeof(dir), "d", 2, NULL, 0), 0);
	assert_int_equal(fake_request(f, FUSE_MKNOD, ROOT, &pipe, sizeof(pipe), "p", 2, NULL, 0),
			 0);
	assert_int_equal(fake_request(f, FUSE_CREATE, ROOT, &file, sizeof(file), "f", 2, NULL, 0),
			 0);
}

static void umask_counts_but_where_there_is_a_default_acl(void **state)
{
	const mode_t before = umask(022);
	struct fake_fuse f;

	fake_fuse_init(&f, &with_acl);
	make_one_of_each(&f);
	assert_int_equal(mode_of(&f, "d"), 0750);
	assert_int_equal(mode_of(&f, "p"), 0640);
	assert_int_equal(mode_of(&f, "f"), 0640);
	assert_int_equal(umask(022), 022); /* ours is as it was */
	assert_int_equal(fake_rmdir(&f, ROOT, "d"), 0);
	assert_int_equal(fake_unlink(&f, ROOT, "p"), 0);
	assert_int_equal(fake_unlink(&f, ROOT, "f"), 0);
	put_default_acl(&f);
	make_one_of_each(&f);
	assert_int_equal(mode_of(&f, "d"), 0777);
	assert_int_equal(mode_of(&f, "p"), 0666);
	assert_int_equal(mode_of(&f, "f"), 0666);
	fake_fuse_done(&f);
	umask(before);
}

static int set_acl(struct fake_fuse *f, uint64_t node, const char *name, uint32_t flags)
{
	const struct fuse_setxattr_in in = { .size = sizeof(open_to_all), .setxattr_flags = flags };

	return fake_request(f, FUSE_SETXATTR, node, &in, sizeof(in), name, strlen(name) + 1,
			    &open_to_all, sizeof(open_to_all));
}

static void acl_takes_set_group_id_away_where_the_guest_says_so(void **state)
{
	struct fake_fuse f;
	uint64_t node;

	fake_fuse_init(&f, &with_acl);
	assert_int_equal(fake_mkdir(&f, ROOT, "d", &node), 0);
	assert_int_equal(chmod(fake_path(&f, "d"), 02755), 0);
	if (set_acl(&f, node, ACCESS_ACL, 0) == -EOPNOTSUPP) {
		fake_fuse_done(&f);
		skip();
	}
	assert_int_equal(mode_of(&f, "d"), 02777);
	/* A directory's default ACL says nothing of its own mode. */
	assert_int_equal(set_acl(&f, node, DEFAULT_ACL, FUSE_SETXATTR_ACL_KILL_SGID), 0);
	assert_int_equal(mode_of(&f, "d"), 02777);
	assert_int_equal(set_acl(&f, node, ACCESS_ACL, FUSE_SETXATTR_ACL_KILL_SGID), 0);
	assert_int_equal(mode_of(&f, "d"), 0777);
	fake_fuse_done(&f);
}

/* -EOPNOTSUPP would have the guest deny access to all in there. */
static void where_acls_are_not_kept_there_are_none(void **state)
{
	struct fs_server_config config = { .acl = true };
	const struct fuse_getxattr_in get = { .size = 100 };
	struct fake_fuse f = { 0 };
	uint64_t proc;

	config.root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fs_server_create(&f.s, &config, NULL), 0);
	assert_int_equal(fake_say_init(&f), 0);
	if (fake_lookup(&f, ROOT, "proc", &proc) == 0 && access("/proc/self", F_OK) == 0) {
		assert_int_equal(fake_request(&f, FUSE_GETXATTR, proc, &get, sizeof(get),
					      ACCESS_ACL, sizeof(ACCESS_ACL), NULL, 0), -ENODATA);
		assert_int_equal(fake_request(&f, FUSE_GETXATTR, proc, &get, sizeof(get),
					      "user.x", 7, NULL, 0), -EOPNOTSUPP);
	}
	fs_server_free(f.s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attributes_are_set),
		cmocka_unit_test(changed_contents_take_set_user_id_away),
		cmocka_unit_test(extended_attributes_round_trip),
		cmocka_unit_test(kept_attributes_have_their_names_for_the_guest),
		cmocka_unit_test(acls_are_agreed_on_where_asked_for_and_all_is_known),
		cmocka_unit_test(umask_counts_but_where_there_is_a_default_acl),
		cmocka_unit_test(acl_takes_set_group_id_away_where_the_guest_says_so),
		cmocka_unit_test(where_acls_are_not_kept_there_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
