/* wisp test without a guest: its options, the initial file system, the log, the verdict. */
#include <setjmp.h>
#include <signal.h>
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
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/testing/cpio.h"
#include "vmm/testing/modules.h"
#include "vmm/testing/test_internal.h"

/* ---- options ---- */

static int parse(struct test_config *t, struct error *err, char **argv)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	return test_config_parse(t, argc, argv, err);
}

static void options_are_sorted_into_ours_and_those_of_run(void **state)
{
	char *argv[] = { "--rw",     "--cpus",	  "2",	       "--env", "A=b",	  "--kernel=/x",
			 "--kernel", "/dev/null", "--timeout", "5",	"--user", "7:8",
			 "--",	     "echo",	  "--cpus",    NULL };
	struct test_config *t = calloc(1, sizeof(*t));
	struct error err = { 0 };

	assert_int_equal(parse(t, &err, argv), -ENOENT); /* no such kernel */
	assert_non_null(strstr(err.msg, "'/x'"));
	test_config_done(t);
	argv[5] = "--kernel=/dev/null";
	assert_int_equal(parse(t, &err, argv), 0);
	assert_true(t->write_through);
	assert_int_equal(t->num_kernels, 2);
	assert_int_equal(t->uid, 7);
	assert_int_equal(t->gid, 8);
	assert_string_equal(t->command[0], "echo");
	assert_string_equal(t->command[1], "--cpus");
	assert_string_equal(t->root, "/");
	/* Theirs, and what a test has by default. */
	assert_int_equal(t->num_run_args, 8);
	assert_string_equal(t->run_arg[0], "--cpus");
	assert_string_equal(t->run_arg[4], "--net");
	assert_string_equal(t->run_arg[7], "1G");
	test_config_done(t);
	free(t);
}

static void a_directory_that_comes_along_is_not_one_that_was_asked_for(void **state)
{
	struct test_config *t = calloc(1, sizeof(*t));
	struct error err = { 0 };

	assert_int_equal(parse(t, &err, (char *[]){ "--cwd", "/srv", "true", NULL }), 0);
	assert_string_equal(t->cwd, "/srv");
	assert_true(t->cwd_is_asked_for);
	test_config_done(t);
	assert_int_equal(parse(t, &err, (char *[]){ "true", NULL }), 0);
	assert_int_equal(*t->cwd, '/');
	assert_false(t->cwd_is_asked_for);
	test_config_done(t);
	free(t);
}

static void test_without_a_command_or_with_unknown_options_is_refused(void **state)
{
	struct test_config *t = calloc(1, sizeof(*t));
	struct error err = { 0 };

	assert_int_equal(parse(t, &err, (char *[]){ "--rw", NULL }), -EINVAL);
	test_config_done(t);
	assert_int_equal(parse(t, &err, (char *[]){ "--", NULL }), -EINVAL);
	test_config_done(t);
	assert_int_equal(parse(t, &err, (char *[]){ "--what", "--", "true", NULL }), -EINVAL);
	assert_non_null(strstr(err.msg, "--what"));
	test_config_done(t);
	assert_int_equal(parse(t, &err, (char *[]){ "--fail-on", "oops,joy", "true", NULL }),
			 -EINVAL);
	assert_non_null(strstr(err.msg, "'joy'"));
	test_config_done(t);
	assert_int_equal(parse(t, &err, (char *[]){ "--cwd", "src", "true", NULL }), -EINVAL);
	assert_string_equal(err.msg, "--cwd 'src': a directory of the guest's begins with '/'");
	test_config_done(t);
	free(t);
}

static void what_a_test_has_of_its_own_is_not_given(void **state)
{
	static char *const options[][2] = { { "--rootfs", "/" },
					    { "--initrd", "/dev/null" },
					    { "--serial", "stdio" },
					    { "--console", "none" },
					    { "--detach", "--json" } };
	struct test_config *t = calloc(1, sizeof(*t));
	struct error err;

	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		char *argv[] = { options[i][0], options[i][1], "--", "true", NULL };

		err = (struct error){ 0 };
		assert_int_equal(parse(t, &err, argv), -EINVAL);
		assert_memory_equal(err.msg, options[i][0], strlen(options[i][0]));
		assert_non_null(strstr(err.msg, "not for a test"));
		test_config_done(t);
	}
	free(t);
}

static void root_that_is_no_directory_is_refused_by_its_option(void **state)
{
	char *argv[] = { "--root", "/no/such/tree", "--", "true", NULL };
	struct test_config *t = calloc(1, sizeof(*t));
	struct error err = { 0 };

	assert_int_equal(parse(t, &err, argv), -ENOENT);
	assert_non_null(strstr(err.msg, "--root '/no/such/tree'"));
	test_config_done(t);
	/* Nor what is neither a directory nor an image. */
	argv[1] = "/dev/null";
	assert_int_equal(parse(t, &err, argv), -ENOTDIR);
	assert_non_null(strstr(err.msg, "--root '/dev/null'"));
	test_config_done(t);
	free(t);
}

static void report_that_cannot_be_written_is_told_before_the_run(void **state)
{
	static char *const options[] = { "--junit", "--tap" };
	char path[] = "/tmp/wisp-test-report.XXXXXX", text[8] = "";
	struct test_config *t = calloc(1, sizeof(*t));
	int fd = mkstemp(path);

	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		char *argv[] = { options[i], "/no/such/dir/report", "--", "true", NULL };
		struct error err = { 0 };

		assert_int_equal(parse(t, &err, argv), -ENOENT);
		assert_memory_equal(err.msg, options[i], strlen(options[i]));
		test_config_done(t);
		/* The one of the last run stays until there is another. */
		argv[1] = path;
		assert_int_equal(pwrite(fd, "before", 6, 0), 6);
		assert_int_equal(parse(t, &err, argv), 0);
		assert_int_equal(pread(fd, text, sizeof(text) - 1, 0), 6);
		assert_string_equal(text, "before");
		test_config_done(t);
	}
	close(fd);
	unlink(path);
	free(t);
}

static void report_in_the_place_of_another_file_of_the_run_is_refused(void **state)
{
	char dir[] = "/tmp/wisp-test-XXXXXX", kernel[64], link_name[64], fresh[64];
	struct test_config *t = calloc(1, sizeof(*t));
	struct error err = { 0 };
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	snprintf(link_name, sizeof(link_name), "%s/link", dir);
	snprintf(fresh, sizeof(fresh), "%s/fresh", dir);
	fd = open(kernel, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(link(kernel, link_name), 0);
	for (unsigned i = 0; i < 3; i++) {
		static char *const option[] = { "--dmesg", "--junit", "--tap" };
		char *over[] = { "--kernel", kernel, option[i], link_name, "true", NULL };
		char *twice[] = {
			option[i], fresh, option[(i + 1) % 3], fresh, "true", NULL,
		};

		err = (struct error){ 0 };
		assert_int_equal(parse(t, &err, over), -EINVAL);
		assert_memory_equal(err.msg, option[i], strlen(option[i]));
		assert_non_null(strstr(err.msg, "that is the kernel"));
		test_config_done(t);
		assert_int_equal(parse(t, &err, twice), -EINVAL);
		assert_non_null(strstr(err.msg, "the same file as"));
		test_config_done(t);
		assert_int_equal(access(fresh, F_OK), -1);
	}
	/* What has several writers may have them. */
	assert_int_equal(parse(t, &err,
			       (char *[]){ "--tap", "/dev/null", "--junit", "/dev/null", "true",
					   NULL }),
			 0);
	test_config_done(t);
	unlink(kernel);
	unlink(link_name);
	rmdir(dir);
	free(t);
}

static void bisect_skips_what_says_nothing_of_the_commit(void **state)
{
	assert_int_equal(test_bisect_status(TEST_EXIT, 0), 0);
	assert_int_equal(test_bisect_status(TEST_EXIT, 1), 1);
	assert_int_equal(test_bisect_status(TEST_EXIT, 137), 1); /* 128 and above would stop it */
	assert_int_equal(test_bisect_status(TEST_EXIT, 125), 125);
	assert_int_equal(test_bisect_status(TEST_BOOT_FAILURE, 254), 125);
	assert_int_equal(test_bisect_status(TEST_HANG, 249), 1);
	assert_int_equal(test_bisect_status(TEST_PANIC, 250), 1);
	/* That has the number too, and must not be taken for a skip. */
	assert_int_equal(test_bisect_status(TEST_MONITOR_FAILURE, 125), 128);
}

/* ---- the initial file system ---- */

static void archive_is_what_cpio_unpacks(void **state)
{
	char dir[] = "/tmp/wisp-test-cpio.XXXXXX", command[200], path[100];
	struct cpio c;
	struct stat st;
	int fd;

	if (system("command -v cpio >/dev/null"))
		skip();
	assert_non_null(mkdtemp(dir));
	assert_int_equal(cpio_init(&c), 0);
	cpio_add_dir(&c, "d");
	cpio_add_file(&c, "d/five", 0640, "12345", 5);
	cpio_add_file(&c, "empty", 0755, NULL, 0);
	fd = memfd_create("x", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 100001), 0);
	cpio_add_copy(&c, "d/copy", 0600, fd);
	close(fd);
	fd = cpio_end(&c);
	assert_true(fd >= 0);
	snprintf(command, sizeof(command), "cd %s && cpio -i --quiet </proc/%d/fd/%d", dir,
		 getpid(), fd);
	assert_int_equal(system(command), 0);
	snprintf(path, sizeof(path), "%s/d/five", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 5);
	assert_int_equal(st.st_mode, S_IFREG | 0640);
	snprintf(path, sizeof(path), "%s/d/copy", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 100001);
	snprintf(path, sizeof(path), "%s/empty", dir);
	assert_int_equal(access(path, X_OK), 0);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	close(fd);
}

struct order {
	char text[200];
};

static int note(void *arg, const char *path)
{
	struct order *o = arg;
	size_t len = strlen(o->text);

	snprintf(o->text + len, sizeof(o->text) - len, "%s ", path);
	return 0;
}

static void modules_come_after_what_they_need(void **state)
{
	static char dep[] = "k/virtio.ko: k/virtio_ring.ko\n"
			    "k/virtio-pci.ko.xz: k/modern.ko k/virtio.ko k/virtio_ring.ko\n"
			    "k/fuse.ko:\n"
			    "k/virtiofs.ko: k/fuse.ko";
	struct modules m = { .dep = dep, .dep_len = sizeof(dep) - 1 };
	struct order o = { 0 };

	assert_int_equal(modules_for(&m, "virtio_pci", note, &o), 0);
	assert_string_equal(o.text, "k/virtio_ring.ko k/virtio.ko k/modern.ko k/virtio-pci.ko.xz ");
	o.text[0] = '\0';
	assert_int_equal(modules_for(&m, "virtiofs", note, &o), 0);
	assert_string_equal(o.text, "k/fuse.ko k/virtiofs.ko ");
	o.text[0] = '\0';
	/* No prefix of a name is that name; what is not there is built in. */
	assert_int_equal(modules_for(&m, "virt", note, &o), 0);
	assert_int_equal(modules_for(&m, "virtio_pci_more", note, &o), 0);
	/* What would do something to a terminal is no name. */
	m.dep = (char[]){ "k/\033[2J.ko k/fuse.ko:\nk/fuse.ko: k/\033c.ko\n" };
	assert_int_equal(modules_for(&m, "fuse", note, &o), -EINVAL);
	m.dep = NULL;
	assert_int_equal(modules_for(&m, "fuse", note, &o), 0);
	assert_string_equal(o.text, "");
}

static void shell(const char *dir, const char *command)
{
	char whole[700];

	snprintf(whole, sizeof(whole), "cd %s && { %s; }", dir, command);
	assert_int_equal(system(whole), 0);
}

static void assert_opens(const struct modules *m, const char *path, int expected)
{
	uint64_t size = 0;
	int fd = modules_open(m, path, &size);

	if (fd >= 0)
		close(fd);
	assert_int_equal(MIN(fd, 0), expected);
	assert_int_equal(size, fd < 0 ? 0 : 3);
}

static void modules_are_files_of_their_own_tree(void **state)
{
	char dir[] = "/tmp/wisp-test-XXXXXX", kernel[64], root[64], place[128];
	struct error err = { 0 };
	struct modules m;

	assert_non_null(mkdtemp(dir));
	snprintf(kernel, sizeof(kernel), "%s/boot/kernel", dir);
	snprintf(root, sizeof(root), "%s/root", dir);
	shell(dir,
	      "mkdir -p boot root/lib/modules/0-wisp/k; echo 'Linux version 0-wisp ' >boot/kernel;"
	      "echo id >id_rsa; cd root; echo in >in; cd lib/modules/0-wisp; echo ko >k/a.ko;"
	      "ln -s ../k/a.ko k/b.ko; ln -s /in k/c.ko; ln -s ../../../../../../../in k/d.ko;"
	      "ln -s ../../../../../id_rsa k/e.ko; ln -s \"$OLDPWD/../id_rsa\" k/f.ko;"
	      "mkfifo k/g.ko; mkdir k/h.ko; echo 'k/a.ko:' >modules.dep");
	assert_int_equal(modules_find(&m, kernel, root, &err), 0);
	assert_string_equal(m.dep, "k/a.ko:\n");
	assert_opens(&m, "k/a.ko", 0);
	assert_opens(&m, "k/b.ko", 0);
	/* Links and ".." are about the tree, as they are for who runs in it. */
	assert_opens(&m, "k/c.ko", 0);
	assert_opens(&m, "k/d.ko", 0);
	assert_opens(&m, "k/e.ko", -ENOENT);
	assert_opens(&m, "k/f.ko", -ENOENT);
	assert_opens(&m, "../../../../id_rsa", -ENOENT);
	/* Nobody writes to this one: an open that waits would do so for ever. */
	assert_opens(&m, "k/g.ko", -EINVAL);
	assert_opens(&m, "k/h.ko", -EINVAL);
	modules_done(&m);

	/* Beside the kernel nothing leads out of the modules' own directory. */
	shell(dir, "mv root/lib boot/lib");
	assert_int_equal(modules_find(&m, kernel, NULL, &err), 0);
	assert_opens(&m, "k/b.ko", 0);
	assert_opens(&m, "k/c.ko", -EXDEV);
	assert_opens(&m, "k/d.ko", -EXDEV);
	assert_opens(&m, "../../../kernel", -EXDEV);
	assert_opens(&m, "k/g.ko", -EINVAL);
	modules_done(&m);

	/* A tree that is not to be asked is not. */
	shell(dir, "mv boot/lib root/lib");
	assert_int_equal(modules_find(&m, kernel, NULL, &err), 0);
	assert_string_equal(m.dir, "");
	assert_null(m.dep);
	modules_done(&m);

	/* Nor is its list waited for, or read where a link leads out. */
	shell(dir, "cd root/lib/modules/0-wisp; rm modules.dep; mkfifo modules.dep");
	assert_int_equal(modules_find(&m, kernel, root, &err), 0);
	assert_null(m.dep);
	modules_done(&m);
	snprintf(place, sizeof(place), "rm -r root/lib; ln -s %s/host root/lib; mkdir host", dir);
	shell(dir, place);
	shell(dir, "mkdir -p host/modules/0-wisp; echo >host/modules/0-wisp/modules.dep");
	assert_int_equal(modules_find(&m, kernel, root, &err), 0);
	assert_null(m.dep);
	modules_done(&m);
	shell("/", (snprintf(place, sizeof(place), "rm -r %s", dir), place));
}

static void release_is_read_from_bzimage_and_elf(void **state)
{
	char path[] = "/tmp/wisp-test-kernel.XXXXXX", release[64], image[0x600] = { 0 };
	struct error err = { 0 };
	int fd = mkstemp(path);

	memcpy(image + 0x202, "HdrS", 4);
	put_le16(image + 0x20e, 0x200);
	snprintf(image + 0x400, 100, "6.1.0-test (who@where) #1");
	assert_int_equal(pwrite(fd, image, sizeof(image), 0), sizeof(image));
	assert_int_equal(kernel_release(path, release, sizeof(release), &err), 0);
	assert_string_equal(release, "6.1.0-test");
	/* A place beyond the end. */
	put_le16(image + 0x20e, 0xfff0);
	assert_int_equal(pwrite(fd, image, sizeof(image), 0), sizeof(image));
	assert_int_equal(kernel_release(path, release, sizeof(release), &err), -EINVAL);
	memset(image, 0, sizeof(image));
	snprintf(image + 0x20, 100, "Linux version %%s (%%s)");
	snprintf(image + 0x100, 100, "Linux version 6.12.9+ (who@where)");
	assert_int_equal(pwrite(fd, image, sizeof(image), 0), sizeof(image));
	assert_int_equal(kernel_release(path, release, sizeof(release), &err), 0);
	assert_string_equal(release, "6.12.9+");
	close(fd);
	unlink(path);
}

static void make_file(const char *dir, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	close(open(path, O_WRONLY | O_CREAT, 0600));
}

static void kernels_are_images_build_trees_and_directories(void **state)
{
	char dir[] = "/tmp/wisp-test-XXXXXX", path[256], command[300];
	struct test_config *t = calloc(1, sizeof(*t));
	struct error err = { 0 };

	assert_non_null(mkdtemp(dir));
	assert_int_equal(test_find_kernels(t, dir, &err), -ENOENT);
	make_file(dir, "vmlinux-6.1");
	assert_int_equal(test_find_kernels(t, dir, &err), 0);
	assert_int_equal(t->num_kernels, 1);

	/* Of the same kernel twice, the one that is always there; in the order of versions. */
	make_file(dir, "vmlinuz-6.12");
	make_file(dir, "vmlinuz-6.1");
	make_file(dir, "config-6.1");
	assert_int_equal(test_find_kernels(t, dir, &err), 0);
	assert_int_equal(t->num_kernels, 3);
	snprintf(path, sizeof(path), "%s/vmlinuz-6.1", dir);
	assert_string_equal(t->kernel[1], path);
	assert_int_equal(test_find_kernels(t, path, &err), 0);
	assert_string_equal(t->kernel[3], path);

	snprintf(command, sizeof(command), "mkdir -p %s/arch/x86/boot", dir);
	assert_int_equal(system(command), 0);
	make_file(dir, "arch/x86/boot/bzImage");
	assert_int_equal(test_find_kernels(t, dir, &err), 0);
	assert_int_equal(t->num_kernels, 5);
	assert_non_null(strstr(t->kernel[4], "/arch/x86/boot/bzImage"));
	assert_int_equal(test_find_kernels(t, "/nonexistent", &err), -ENOENT);

	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	test_config_done(t);
	free(t);
}

/* ---- the log ---- */

static void feed(struct test_log *log, const char *text)
{
	test_log_feed(log, text, strlen(text));
}

static void log_shows_trouble_and_its_first_word(void **state)
{
	struct test_log *log = calloc(1, sizeof(*log));

	feed(log, "[1.0] all is w");
	feed(log, "ell\r\n[2.0] WARNING: CPU: 0 PID: 1 at x.c:3\n");
	assert_int_equal(log->seen, TEST_LOG_WARN);
	assert_string_equal(log->cause, "[2.0] WARNING: CPU: 0 PID: 1 at x.c:3");
	feed(log, "[3.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\n");
	assert_int_equal(log->seen, TEST_LOG_WARN | TEST_LOG_LOCKUP);
	feed(log, "[4.0] BUG: kernel NULL pointer dereference, address: 0\n");
	assert_true(log->seen & TEST_LOG_OOPS);
	/* What led to a panic says more than the panic. */
	feed(log, "[5.0] Kernel panic - not syncing: Fatal exception\n[5.1] end\n");
	assert_true(log->seen & TEST_LOG_PANIC);
	assert_string_equal(log->cause, "[3.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!");
	assert_string_equal(log->last, "[5.1] end");
	feed(log, "[5.2] reboot: Power down\n");
	assert_string_equal(log->last, "[5.1] end");

	/* The command is not to blame for what was before it. */
	test_log_command_starts(log);
	assert_int_equal(log->seen, 0);
	feed(log, "[6.0] WARNING: CPU: 0 PID: 9 at y.c:1\n");
	feed(log, "[6.5] RIP: 0010:here+0x1/0x2\n[6.6] RIP: 0033:0x7f\n");
	feed(log, "[7.0] Kernel panic - not syncing: sysrq\n");
	assert_string_equal(log->place, "[6.5] RIP: 0010:here+0x1/0x2");
	assert_int_equal(log->seen, TEST_LOG_WARN | TEST_LOG_PANIC);
	assert_string_equal(log->cause, "[7.0] Kernel panic - not syncing: sysrq");
	free(log);
}

static void log_without_end_keeps_its_tail(void **state)
{
	struct test_log *log = calloc(1, sizeof(*log));
	char line[3000];

	memset(line, 'x', sizeof(line));
	for (unsigned i = 0; i < 100; i++)
		test_log_feed(log, line, sizeof(line));
	feed(log, "\nthe end\n");
	assert_int_equal(log->len, TEST_LOG_TAIL);
	assert_string_equal(log->tail + log->len - 8, "the end\n");
	assert_string_equal(log->last, "the end");
	free(log);
}

/* ---- the verdict ---- */

static void every_end_has_its_outcome(void **state)
{
	static const struct {
		enum machine_end_reason reason;
		bool ready, reported, by_signal;
		int command;
		unsigned seen;
		enum test_outcome outcome;
		int status;
	} ends[] = {
		{ MACHINE_END_POWEROFF, true, true, false, 42, 0, TEST_EXIT, 42 },
		{ MACHINE_END_POWEROFF, true, true, true, 9, 0, TEST_EXIT, 137 },
		{ MACHINE_END_POWEROFF, true, true, false, 0, TEST_LOG_OOPS, TEST_OOPS, 251 },
		{ MACHINE_END_POWEROFF, true, true, false, 0, TEST_LOG_WARN, TEST_EXIT, 0 },
		{ MACHINE_END_POWEROFF, true, false, false, 0, 0, TEST_EXIT, 255 },
		{ MACHINE_END_POWEROFF, false, false, false, 0, 0, TEST_BOOT_FAILURE, 254 },
		{ MACHINE_END_PANIC, true, false, false, 0, 0, TEST_PANIC, 250 },
		{ MACHINE_END_PANIC, true, true, false, 0, 0, TEST_PANIC, 250 },
		{ MACHINE_END_PANIC, false, false, false, 0, 0, TEST_BOOT_FAILURE, 254 },
		{ MACHINE_END_TRIPLE_FAULT, true, false, false, 0, 0, TEST_TRIPLE_FAULT, 252 },
		{ MACHINE_END_TRIPLE_FAULT, false, false, false, 0, 0, TEST_BOOT_FAILURE, 254 },
		{ MACHINE_END_TIMEOUT, true, false, false, 0, 0, TEST_TIMEOUT, 253 },
		{ MACHINE_END_TIMEOUT, false, false, false, 0, 0, TEST_BOOT_FAILURE, 254 },
		{ MACHINE_END_INTERNAL, true, false, false, 0, 0, TEST_MONITOR_FAILURE, 125 },
		{ MACHINE_END_NONE, true, false, false, 0, 0, TEST_MONITOR_FAILURE, 125 },
		{ MACHINE_END_SIGNAL, true, false, false, 0, 0, TEST_MONITOR_FAILURE, 125 },
	};
	struct test_config *t = calloc(1, sizeof(*t));

	t->fail_on = TEST_LOG_OOPS;
	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		struct machine_end end = { .reason = ends[i].reason };
		struct test_job *j = calloc(1, sizeof(*j));

		*j = (struct test_job){
			.config = t,
			.end = &end,
			.ready = ends[i].ready,
			.reported = ends[i].reported,
			.by_signal = ends[i].by_signal,
			.command_status = ends[i].command,
			.log.seen = ends[i].seen,
		};
		test_decide(j, 0);
		assert_int_equal(j->outcome, ends[i].outcome);
		assert_int_equal(j->status, ends[i].status);
		free(j);
	}
	free(t);
}

static void what_we_ended_has_the_reason_why(void **state)
{
	struct machine_end end = { .reason = MACHINE_END_HANG };
	struct test_config *t = calloc(1, sizeof(*t));
	struct test_job *j = calloc(1, sizeof(*j));

	*j = (struct test_job){
		.config = t,
		.end = &end,
		.ready = true,
		.asked = TEST_LOCKUP,
		.doomed_ns = 1,
		.cause = "lockup",
	};
	test_decide(j, 0);
	assert_int_equal(j->outcome, TEST_LOCKUP);
	assert_int_equal(j->status, 249);
	assert_string_equal(j->cause, "lockup");
	/* Unless we were told to end before it ended. */
	end.reason = MACHINE_END_SIGNAL;
	j->told = SIGTERM;
	test_decide(j, 0);
	assert_int_equal(j->outcome, TEST_MONITOR_FAILURE);
	assert_int_equal(j->status, 128 + SIGTERM);
	assert_string_equal(j->cause, "interrupted");
	free(j);
	free(t);
}

static void json_holds_whatever_a_kernel_says(void **state)
{
	struct machine_end end = { 0 };
	struct test_config *t = calloc(1, sizeof(*t));
	struct test_job *j = calloc(1, sizeof(*j));
	char *text = NULL, *log;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	*j = (struct test_job){
		.config = t,
		.end = &end,
		.outcome = TEST_PANIC,
		.status = 250,
		.out_fd = memfd_create("output", MFD_CLOEXEC),
	};
	assert_int_equal(write(j->out_fd, "it\0said\xfe", 8), 8);
	feed(&j->log, "a \"quoted\" \\ word\x01\xff\n");
	test_print_json(j, 1, f);
	fclose(f);
	log = strstr(text, "\"log\":");
	assert_non_null(log);
	assert_non_null(strstr(log, "a \\\"quoted\\\" \\\\ word\\u0001\\u00ff\\n"));
	assert_non_null(strstr(text, "\"outcome\":\"panic\",\"status\":250"));
	assert_non_null(strstr(text, "\"output\":\"it\\u0000said\\u00fe\""));
	close(j->out_fd);
	for (size_t i = 0; i + 1 < len; i++)
		assert_true(text[i] >= 0x20 && text[i] < 0x7f);
	free(text);
	free(j);
	free(t);
}

static void junit_tells_wisps_own_failures_from_the_kernels(void **state)
{
	static const enum test_outcome outcome[] = { TEST_EXIT, TEST_PANIC, TEST_MONITOR_FAILURE };
	char path[] = "/tmp/wisp-junit.XXXXXX", text[4096] = "", *command[] = { "a<b", NULL };
	struct test_config *t = calloc(1, sizeof(*t));
	struct test_job *jobs = calloc(3, sizeof(*jobs));
	int fd = mkstemp(path);

	t->command = command;
	for (unsigned i = 0; i < 3; i++) {
		jobs[i].config = t;
		jobs[i].outcome = outcome[i];
		jobs[i].status = i ? 250 : 0;
		jobs[i].ended_ns = 1500000000;
	}
	assert_int_equal(test_write_junit(jobs, 3, path), 0);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "tests=\"3\" failures=\"1\" errors=\"1\" time=\"4.500\""));
	assert_non_null(strstr(text, "name=\"a&lt;b\" time=\"1.500\"/>"));
	assert_non_null(strstr(text, "<failure type=\"panic\""));
	assert_non_null(strstr(text, "<error type=\"monitor-failure\""));
	/* All that Ant's schema has. */
	assert_non_null(strstr(text, " timestamp=\"2"));
	assert_non_null(strstr(text, " hostname=\""));
	assert_non_null(strstr(text, "<system-out/>"));
	close(fd);
	unlink(path);
	free(jobs);
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_are_sorted_into_ours_and_those_of_run),
		cmocka_unit_test(a_directory_that_comes_along_is_not_one_that_was_asked_for),
		cmocka_unit_test(test_without_a_command_or_with_unknown_options_is_refused),
		cmocka_unit_test(what_a_test_has_of_its_own_is_not_given),
		cmocka_unit_test(root_that_is_no_directory_is_refused_by_its_option),
		cmocka_unit_test(report_that_cannot_be_written_is_told_before_the_run),
		cmocka_unit_test(report_in_the_place_of_another_file_of_the_run_is_refused),
		cmocka_unit_test(bisect_skips_what_says_nothing_of_the_commit),
		cmocka_unit_test(archive_is_what_cpio_unpacks),
		cmocka_unit_test(modules_come_after_what_they_need),
		cmocka_unit_test(modules_are_files_of_their_own_tree),
		cmocka_unit_test(release_is_read_from_bzimage_and_elf),
		cmocka_unit_test(kernels_are_images_build_trees_and_directories),
		cmocka_unit_test(log_shows_trouble_and_its_first_word),
		cmocka_unit_test(log_without_end_keeps_its_tail),
		cmocka_unit_test(every_end_has_its_outcome),
		cmocka_unit_test(what_we_ended_has_the_reason_why),
		cmocka_unit_test(json_holds_whatever_a_kernel_says),
		cmocka_unit_test(junit_tells_wisps_own_failures_from_the_kernels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
