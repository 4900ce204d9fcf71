/* A served directory, saved and loaded: what is found again, and what no saved state gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/fs_internal.h"
#include "tests/unit/fake_fuse.h"

#define ROOT FUSE_ROOT_ID

static const struct fs_server_config plain = { 0 };

static void saved_state_is_found_again(void **state)
{
	uint64_t dir, node, fh, dir_fh, gone, same;
	struct state_writer w;
	struct fake_fuse f;
	struct fuse_attr attr;

	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_mkdir(&f, ROOT, "d", &dir), 0);
	assert_int_equal(fake_create(&f, dir, "f", O_RDWR, &node, &fh), 0);
	assert_int_equal(fake_opendir(&f, dir, &dir_fh), 0);
	fake_host_file(&f, "gone", "x");
	assert_int_equal(fake_lookup(&f, ROOT, "gone", &gone), 0);
	state_writer_init(&w);
	fs_server_save(f.s, &w);
	assert_int_equal(w.failed, 0);
	assert_int_equal(unlink(fake_path(&f, "gone")), 0);

	fake_fuse_restart(&f, &plain);
	assert_int_equal(fs_server_load(f.s, w.buf, w.len, NULL), 0);
	assert_int_equal(fake_getattr(&f, node, &attr), 0);
	assert_true(S_ISREG(attr.mode));
	assert_int_equal(fake_getattr(&f, gone, NULL), -ESTALE);
	assert_int_equal(fake_lookup(&f, dir, "f", &same), 0);
	assert_true(same == node);
	assert_int_equal(fake_readdir(&f, true, dir, dir_fh, 0, 4096), 0);
	assert_int_equal(fake_release(&f, node, fh), 0);
	/* New ones do not get numbers that are taken. */
	assert_int_equal(fake_mkdir(&f, dir, "new", &same), 0);
	assert_true(same != node && same != dir && same != gone);
	state_writer_done(&w);
	fake_fuse_done(&f);
}

static void open_file_that_is_gone_fails_the_load(void **state)
{
	struct error err = { 0 };
	struct state_writer w;
	struct fake_fuse f;
	uint64_t dir;

	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_mkdir(&f, ROOT, "dir", &dir), 0);
	assert_int_equal(fake_create(&f, dir, "file", O_RDWR, NULL, NULL), 0);
	state_writer_init(&w);
	fs_server_save(f.s, &w);
	assert_int_equal(unlink(fake_path(&f, "dir/file")), 0);
	fake_fuse_restart(&f, &plain);
	assert_int_equal(fs_server_load(f.s, w.buf, w.len, &err), -ESTALE);
	assert_non_null(strstr(err.msg, "dir/file"));
	state_writer_done(&w);
	fake_fuse_done(&f);
}

/* Whoever wrote the state wants a descriptor that a read-only tree does not give. */
static void saved_state_opens_nothing_for_writing_where_nobody_may(void **state)
{
	const struct fs_server_config read_only = { .read_only = true };
	struct error err = { 0 };
	struct state_writer w;
	struct fake_fuse f;

	fake_fuse_init(&f, &plain);
	assert_int_equal(fake_create(&f, ROOT, "file", O_RDWR, NULL, NULL), 0);
	state_writer_init(&w);
	fs_server_save(f.s, &w);
	fake_fuse_restart(&f, &read_only);
	assert_int_equal(fs_server_load(f.s, w.buf, w.len, &err), -EROFS);
	assert_non_null(strstr(err.msg, "'file'"));
	state_writer_done(&w);
	fake_fuse_done(&f);
}

/* A server of all there is. */
static struct fs_server *serve_everything(void)
{
	struct fs_server_config config = { .root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) };
	struct fs_server *s;

	assert_int_equal(fs_server_create(&s, &config, NULL), 0);
	return s;
}

/* Its writer says that /proc is like any other file system. */
static void saved_state_opens_nothing_of_the_kernels(void **state)
{
	struct state_writer w, open;
	struct error err = { 0 };
	struct fake_fuse f = { .s = serve_everything() };
	uint64_t proc, node, fh;

	assert_int_equal(fake_say_init(&f), 0);
	if (fake_lookup(&f, ROOT, "proc", &proc) < 0 || access("/proc/version", F_OK) < 0) {
		fs_server_free(f.s);
		skip();
	}
	for (unsigned i = 0; i < f.s->num_devs; i++)
		f.s->dev[i].hollow = false;
	assert_int_equal(fake_lookup(&f, proc, "version", &node), 0);
	assert_int_equal(fake_open(&f, node, O_RDONLY, &fh), 0);
	state_writer_init(&open);
	fs_server_save(f.s, &open);
	assert_int_equal(fake_release(&f, node, fh), 0);
	state_writer_init(&w);
	fs_server_save(f.s, &w);
	fs_server_free(f.s);

	f.s = serve_everything();
	assert_int_equal(fs_server_load(f.s, open.buf, open.len, &err), -ENXIO);
	assert_non_null(strstr(err.msg, "proc/version"));
	fs_server_free(f.s);

	f.s = serve_everything();
	assert_int_equal(fs_server_load(f.s, w.buf, w.len, &err), 0);
	assert_int_equal(fake_open(&f, node, O_RDONLY, NULL), -ENXIO);
	assert_int_equal(fake_lookup(&f, proc, "uptime", NULL), -ENOENT);
	fs_server_free(f.s);
	state_writer_done(&open);
	state_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(saved_state_is_found_again),
		cmocka_unit_test(open_file_that_is_gone_fails_the_load),
		cmocka_unit_test(saved_state_opens_nothing_for_writing_where_nobody_may),
		cmocka_unit_test(saved_state_opens_nothing_of_the_kernels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
