/* `wisp disk`, with QEMU's tools as the judge of what it makes. */
#include "vmm/disk/disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/qcow2_tools.h"
#include "vmm/core/log.h"

/* `wisp disk @line`, in the folder; output to "out" there, complaints to "err". Its status. */
static int disk(const struct images *im, const char *line)
{
	char text[512], *argv[16], *save = NULL;
	int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO), status, argc = 0, fd;

	snprintf(text, sizeof(text), "%s", line);
	for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	assert_int_equal(chdir(im->dir), 0);
	fflush(stdout);
	fd = open("out", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	dup2(fd, STDOUT_FILENO);
	close(fd);
	fd = open("err", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	dup2(fd, STDERR_FILENO);
	close(fd);
	status = disk_main(argc, argv);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	close(out);
	close(err);
	assert_int_equal(chdir("/"), 0);
	return status;
}

static void refused(const struct images *im, const char *line, const char *why)
{
	assert_int_equal(disk(im, line), 2);
	must(im, "grep -q -- \"%s\" err || { cat err; false; }", why);
}

static void what_is_made_is_what_qemu_reads(void **state)
{
	static const char *const sizes[] = { "512", "1M", "3G", "100T" };
	static const char *const clusters[] = { "512", "4K", "64K", "2M" };
	struct images *im = *state;
	char line[200];

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (unsigned k = i == 3 ? 2 : 0; k < ARRAY_SIZE(clusters); k++) {
			snprintf(line, sizeof(line), "create --force --cluster-size %s x %s",
				 clusters[k], sizes[i]);
			assert_int_equal(disk(im, line), 0);
			check_image(im, "x", false);
			must(im, "qemu-io -c 'write -P 5 0 512' -c 'read -P 5 0 512' x >/dev/null");
			check_image(im, "x", false);
			assert_int_equal(disk(im, "check x"), 0);
		}
	}
	assert_int_equal(disk(im, "create --force --format raw x 10M"), 0);
	must(im, "test $(stat -c %%s x) = 10485760");
}

static void an_overlay_shows_what_is_beneath(void **state)
{
	struct images *im = *state;

	must(im, "mkdir sub; head -c 3M /dev/urandom >sub/base; cp sub/base want");
	assert_int_equal(disk(im, "create --backing base sub/x"), 0);
	must(im, "qemu-img compare -q -f qcow2 -F raw sub/x want");
	must(im, "qemu-img info sub/x | grep -q 'backing file format: raw'");
	assert_int_equal(disk(im, "create --backing x sub/y 8M"), 0);
	must(im, "qemu-img info sub/y | grep -q 'backing file format: qcow2'");
	must(im, "truncate -s 8M want; qemu-img compare -q -f qcow2 -F raw sub/y want");
	refused(im, "create --backing nothing sub/z", "No such file");
}

static void converting_keeps_every_byte_and_no_zeroes(void **state)
{
	struct images *im = *state;

	must(im, "(seq 300000; head -c 5M /dev/urandom) >a; truncate -s 40M a; "
		 "printf x | dd of=a bs=1 seek=39999999 conv=notrunc status=none");
	assert_int_equal(disk(im, "convert a b"), 0);
	check_image(im, "b", false);
	must(im, "qemu-img compare -q -f raw -F qcow2 a b; test $(du -k b | cut -f1) -lt 9000");
	assert_int_equal(disk(im, "convert --format raw b c"), 0);
	must(im, "cmp a c; test $(du -k c | cut -f1) -lt 9000");
	must(im, "qemu-img convert -c -O qcow2 a d; qemu-img create -q -f qcow2 -b d -F qcow2 e; "
		 "qemu-io -c 'write -P 9 1M 3M' e >/dev/null");
	refused(im, "convert e f", "was not allowed");
	assert_int_equal(disk(im, "convert --follow-backing e f"), 0);
	must(im, "qemu-img compare -q e f");
	assert_int_equal(disk(im, "convert --backing d --cluster-size 4K e g"), 0);
	must(im, "qemu-img compare -q e g");
	check_image(im, "g", false);
}

static void files_are_whole_or_as_they_were(void **state)
{
	struct images *im = *state;
	struct rlimit old, limit;

	must(im, "head -c 4M /dev/urandom >a; echo precious >b");
	refused(im, "convert a b", "exists already");
	refused(im, "create b 1M", "exists already");
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit){ 2 * MiB, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	refused(im, "convert --force a b", "cannot write: File too large");
	setrlimit(RLIMIT_FSIZE, &old);
	must(im, "grep -q precious b; test $(ls | wc -l) = 4");
	assert_int_equal(disk(im, "convert --force a b"), 0);
	must(im, "qemu-img compare -q -f raw -F qcow2 a b");
}

/* By numbers that come again and again, as in containers. */
static void what_a_killed_one_left_is_in_nobodys_way(void **state)
{
	struct images *im = *state;

	must(im, "echo half >new.img.%d-partial; echo half >new.img.%d-0-partial", getpid(),
	     getpid());
	assert_int_equal(disk(im, "create new.img 1M"), 0);
	must(im, "test -s new.img");
	/* Theirs it stays. */
	must(im, "grep -q half new.img.%d-0-partial", getpid());
}

static void a_check_finds_and_mends(void **state)
{
	struct images *im = *state;

	must(im, "qemu-img create -q -f qcow2 x 64M; qemu-io -c 'write 0 20M' x >/dev/null; "
		 "qemu-img snapshot -c s x; qemu-io -c 'write 1M 2M' x >/dev/null");
	assert_int_equal(disk(im, "check x"), 0);
	/* A count too many, then one too few. The first block of counts is at 128 KiB. */
	must(im, "printf '\\3' | "
		 "dd of=x bs=1 seek=$((131072 + 2 * 50 + 1)) conv=notrunc status=none");
	assert_int_equal(disk(im, "check x"), 3);
	must(im, "printf '\\0' | "
		 "dd of=x bs=1 seek=$((131072 + 2 * 60 + 1)) conv=notrunc status=none");
	assert_int_equal(disk(im, "check --json x"), 1);
	must(im, "grep -q '\"leaks\":1,\"errors\":1' out");
	assert_int_equal(disk(im, "check --repair x"), 0);
	check_image(im, "x", false);
	/* Refcounts out of date, and said to be. */
	must(im, "printf '\\1' | dd of=x bs=1 seek=79 conv=notrunc status=none");
	image_refused(im, "x", (struct block_config){ 0 }, "check --repair");
	assert_int_equal(disk(im, "check --repair x"), 0);
	block_close(image_open(im, "x", (struct block_config){ 0 }));
	refused(im, "check /dev/null", "nothing to check");
}

static void a_disk_grows_and_shrinks(void **state)
{
	struct images *im = *state;

	must(im, "qemu-img create -q -f qcow2 x 64M; qemu-io -c 'write -P 3 0 64M' x >/dev/null; "
		 "truncate -s 1M y");
	assert_int_equal(disk(im, "resize x 2T"), 0);
	check_image(im, "x", false);
	must(im, "qemu-io -c 'read -P 3 0 64M' -c 'read -P 0 64M 1M' -c 'write 1T 1M' x | "
		 "grep -v -q failed");
	refused(im, "resize x 10M", "has 2199023255552 bytes already");
	assert_int_equal(disk(im, "resize --shrink x 10M"), 0);
	check_image(im, "x", false);
	must(im, "test $(du -k x | cut -f1) -lt 11000");
	/* What was cut off does not come back. */
	assert_int_equal(disk(im, "resize x 12M"), 0);
	must(im, "qemu-io -c 'read -P 3 0 10M' -c 'read -P 0 10M 2M' x >io; ! grep -q fail io");
	assert_int_equal(disk(im, "resize y 3M"), 0);
	must(im, "test $(stat -c %%s y) = 3145728");
}

/* A file beneath may be longer than the disk: its rest is another disk's, and was never shown. */
static void a_disk_that_grows_shows_nothing_of_what_is_beneath(void **state)
{
	struct images *im = *state;

	must(im, "rm -f x y base; qemu-img create -q -f raw base 8M; "
		 "qemu-io -f raw -c 'write -P 7 0 8M' base >/dev/null");
	assert_int_equal(disk(im, "create --backing base x 1000K"), 0);
	refused(im, "resize x 4M", "was not allowed");
	must(im, "qemu-img info x | grep -q '1024000 bytes'");
	assert_int_equal(disk(im, "resize --follow-backing on x 4M"), 0);
	check_image(im, "x", false);
	must(im, "qemu-io -c 'read -P 7 0 1000K' -c 'read -P 0 1000K 3096K' x >io; "
		 "! grep -q fail io || { cat io; false; }");
	/* Then on to where nothing is, and over an image of that kind. */
	assert_int_equal(disk(im, "create --backing x y 2M"), 0);
	assert_int_equal(disk(im, "resize --backing base x 16M"), 0);
	assert_int_equal(disk(im, "resize --follow-backing on y 32M"), 0);
	must(im, "qemu-io -c 'read -P 7 0 1000K' -c 'read -P 0 1000K 31M' y >io; "
		 "! grep -q fail io || { cat io; false; }");
	must(im, "test $(du -k y | cut -f1) -lt 1000");
	/* A version that has no zero clusters. */
	must(im, "rm -f x; qemu-img create -q -f qcow2 -o compat=0.10 -b base -F raw x 1M");
	assert_int_equal(disk(im, "resize --follow-backing on x 4M"), 0);
	check_image(im, "x", false);
	must(im, "qemu-io -c 'read -P 7 0 1M' -c 'read -P 0 1M 3M' x >io; "
		 "! grep -q fail io || { cat io; false; }");
	/* What is cut off an overlay does not come back from beneath either. */
	assert_int_equal(disk(im, "resize --shrink --follow-backing on x 512K"), 0);
	assert_int_equal(disk(im, "resize --follow-backing on x 1M"), 0);
	must(im, "qemu-io -c 'read -P 7 0 512K' -c 'read -P 0 512K 512K' x >io; "
		 "! grep -q fail io || { cat io; false; }");
}

static void what_is_in_use_is_left_alone(void **state)
{
	struct images *im = *state;
	struct block *b;

	must(im, "qemu-img create -q -f qcow2 x 64M");
	b = image_open(im, "x", (struct block_config){ 0 });
	refused(im, "resize x 1G", "in use by another process");
	refused(im, "check x", "in use by another process");
	refused(im, "convert x y", "in use by another process");
	block_close(b);
}

static void nothing_that_is_needed_is_replaced(void **state)
{
	struct images *im = *state;
	struct block *b;

	must(im, "mkdir sub; head -c 1M /dev/urandom >sub/base; cp sub/base want");
	assert_int_equal(disk(im, "create --backing base sub/a"), 0);
	assert_int_equal(disk(im, "create --backing a sub/b"), 0);
	refused(im, "create --force --backing a sub/a", "cannot be replaced");
	refused(im, "create --force --backing b sub/a", "cannot be replaced");
	refused(im, "create --force --backing b sub/base", "cannot be replaced");
	must(im, "ln sub/a sub/same");
	refused(im, "create --force --backing same sub/a", "cannot be replaced");
	must(im, "qemu-img compare -q -f qcow2 -F raw sub/b want");
	/* Whoever runs from an image would go on with a file that has no name. */
	must(im, "cp want x; cp want y");
	b = image_open(im, "x", (struct block_config){ 0 });
	refused(im, "create --force x 1M", "in use by another process");
	refused(im, "convert --force y x", "in use by another process");
	block_close(b);
	must(im, "cmp x want; chmod 600 x");
	assert_int_equal(disk(im, "convert --force x x"), 0);
	must(im, "test $(stat -c %%a x) = 600");
	must(im, "qemu-img compare -q -f qcow2 -F raw x want");
}

static void a_name_says_what_a_new_image_is(void **state)
{
	struct images *im = *state;

	must(im, "head -c 1M /dev/urandom >a");
	assert_int_equal(disk(im, "convert a b.raw"), 0);
	must(im, "cmp a b.raw");
	assert_int_equal(disk(im, "convert --format qcow2 a c.raw"), 0);
	must(im, "qemu-img compare -q -f raw -F qcow2 a c.raw");
	assert_int_equal(disk(im, "create d.raw 1M"), 0);
	must(im, "test $(stat -c %%s d.raw) = 1048576");
	assert_int_equal(disk(im, "create raw 1M"), 0);
	check_image(im, "raw", false);
	refused(im, "create --backing a e.raw", "raw images have no --backing");
}

static void sizes_are_for_people_too(void **state)
{
	struct images *im = *state;

	assert_int_equal(disk(im, "create x 1536M"), 0);
	assert_int_equal(disk(im, "info x"), 0);
	must(im, "grep -qx 'disk size:     1610612736 (1.5G)' out || { cat out; false; }");
	must(im, "grep -qx 'marks:         none' out || { cat out; false; }");
	must(im, "printf '\\1' | dd of=x bs=1 seek=79 conv=notrunc status=none");
	assert_int_equal(disk(im, "info x"), 0);
	must(im, "grep -qx 'marks:         dirty ' out || { cat out; false; }");
	assert_int_equal(disk(im, "create --format raw y 512"), 0);
	assert_int_equal(disk(im, "info y"), 0);
	must(im, "grep -qx 'disk size:     512' out || { cat out; false; }");
}

static void what_cannot_be_meant_is_refused(void **state)
{
	struct images *im = *state;

	must(im, "truncate -s 1M a");
	refused(im, "create x", "needs PATH and SIZE");
	refused(im, "create x 1M 2M", "'2M' is one too many");
	refused(im, "info", "needs PATH");
	refused(im, "info a b", "'b' is one too many");
	refused(im, "convert a", "needs SOURCE and DEST");
	refused(im, "create x 0", "at least one sector");
	refused(im, "create x 700", "not whole sectors");
	refused(im, "create --cluster-size 4K x.raw 1M", "no --cluster-size");
	refused(im, "convert --cluster-size 4K a x.raw", "no --cluster-size");
	refused(im, "convert --cluster-size many a x", "'many' is not a size");
	refused(im, "create x 1M --repair", "--repair is for other actions");
	refused(im, "create x 1M --json", "--json is for other actions");
	refused(im, "info a --repair", "--repair is for other actions");
	refused(im, "check a --force", "--force is for other actions");
	refused(im, "convert a x --shrink", "--shrink is for other actions");
	refused(im, "resize a 2M --backing-format raw", "--backing-format is for other actions");
	must(im, "! ls x* 2>/dev/null; [ $(stat -c %%s a) = 1048576 ]");
}

static int setup(void **state)
{
	return images_setup(state, LOOP_AUTO);
}

#define disk_test(t) cmocka_unit_test_setup_teardown(t, setup, images_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		disk_test(what_is_made_is_what_qemu_reads),
		disk_test(an_overlay_shows_what_is_beneath),
		disk_test(converting_keeps_every_byte_and_no_zeroes),
		disk_test(files_are_whole_or_as_they_were),
		disk_test(what_a_killed_one_left_is_in_nobodys_way),
		disk_test(a_check_finds_and_mends),
		disk_test(a_disk_grows_and_shrinks),
		disk_test(a_disk_that_grows_shows_nothing_of_what_is_beneath),
		disk_test(what_is_in_use_is_left_alone),
		disk_test(nothing_that_is_needed_is_replaced),
		disk_test(a_name_says_what_a_new_image_is),
		disk_test(sizes_are_for_people_too),
		disk_test(what_cannot_be_meant_is_refused),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return cmocka_run_group_tests_name("wisp disk", tests, NULL, NULL);
}
