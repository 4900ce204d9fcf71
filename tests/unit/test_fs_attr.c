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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attributes_are_set),
		cmocka_unit_test(changed_contents_take_set_user_id_away),
		cmocka_unit_test(extended_attributes_round_trip),
		cmocka_unit_test(kept_attributes_have_their_names_for_the_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
