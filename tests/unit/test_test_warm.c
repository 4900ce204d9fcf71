/* wisp test --warm without a guest: what its snapshots are called, how many stay, what is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/testing/test_internal.h"

static void shell(const char *dir, const char *command)
{
	char text[512];

	snprintf(text, sizeof(text), "cd '%s' && %s", dir, command);
	assert_int_equal(system(text), 0);
}

/* ---- names ---- */

/* A tree, a kernel beside it, and what is tested with them. */
struct bench {
	char dir[64], kernel[96], root[96];
	struct test_config config;
	struct test_job job;
	char *command[3];
};

static int make_bench(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	snprintf(b->dir, sizeof(b->dir), "/tmp/wisp-warm.XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->kernel, sizeof(b->kernel), "%s/vmlinux", b->dir);
	snprintf(b->root, sizeof(b->root), "%s/root", b->dir);
	shell(b->dir, "mkdir root && printf 'Linux version 0-warm (who)' >vmlinux");
	setenv("XDG_CACHE_HOME", b->dir, 1);
	b->config.root = b->root;
	b->config.warm = true;
	b->command[0] = "true";
	b->config.command = b->command;
	b->config.cwd = "/";
	b->job.config = &b->config;
	b->job.machine.kernel = b->kernel;
	b->job.machine.cmdline = "panic=1";
	*state = b;
	return 0;
}

static int remove_bench(void **state)
{
	struct bench *b = *state;

	shell("/", (snprintf(b->root, sizeof(b->root), "rm -r %s", b->dir), b->root));
	free(b->job.warm);
	free(b);
	return 0;
}

/* What the snapshot would be called; to be freed. */
static char *name(struct bench *b)
{
	struct error err = { 0 };
	char *is;

	free(b->job.warm);
	b->job.warm = NULL;
	assert_int_equal(test_warm_find(&b->job, &err), 0);
	is = strrchr(b->job.warm, '/') + 1;
	assert_int_equal(strspn(is, "0123456789abcdef"), 32);
	return strdup(is);
}

static void assert_same(struct bench *b, const char *was, bool same)
{
	char *is = name(b);

	assert_int_equal(strcmp(is, was) == 0, same);
	free(is);
}

static void what_the_guest_depends_on_makes_another_start(void **state)
{
	struct bench *b = *state;
	char *was = name(b);

	assert_same(b, was, true);
	b->job.machine.cmdline = "panic=2";
	assert_same(b, was, false);
	b->job.machine.cmdline = "panic=1";
	b->config.run_arg[b->config.num_run_args++] = "--cpus=2";
	assert_same(b, was, false);
	b->config.num_run_args = 0;
	b->job.tty = true;
	assert_same(b, was, false);
	b->job.tty = false;
	assert_same(b, was, true);
	/* As long as it was, and at the same time by its own account. */
	shell(b->dir, "touch -r vmlinux then && printf 'Linux version 0-cool (who)' >vmlinux && "
		      "touch -r then vmlinux");
	assert_same(b, was, false);
	free(was);
	was = name(b);
	shell(b->dir, "touch root/new");
	assert_same(b, was, false);
	free(was);
}

static void what_is_said_of_the_run_makes_no_other_start(void **state)
{
	struct bench *b = *state;
	char *was = name(b);

	b->command[1] = "other";
	b->config.cwd = "/tmp";
	b->config.uid = 7;
	b->config.run_arg[b->config.num_run_args++] = "--timeout";
	b->config.run_arg[b->config.num_run_args++] = "--cpus=2";
	b->config.run_arg[b->config.num_run_args++] = "--core=/tmp/x";
	assert_same(b, was, true);
	/* An option that only begins like one of those. */
	b->config.run_arg[b->config.num_run_args++] = "--co";
	assert_same(b, was, false);
	shell(b->dir, "mkdir root/deep");
	free(was);
	was = name(b);
	shell(b->dir, "touch root/deep/er");
	assert_same(b, was, true);
	free(was);
}

static void options_that_a_snapshot_would_not_hold_for_are_refused(void **state)
{
	static char *with[][2] = { { "--rw", NULL },
				   { "--systemd", NULL },
				   { "--disk", "/dev/null" },
				   { "--pmem", "/dev/null" },
				   { "--gdb", "unix:/x" } };
	struct test_config *t = calloc(1, sizeof(*t));

	for (unsigned i = 0; i < ARRAY_SIZE(with); i++) {
		char *argv[6] = { "--warm" };
		struct error err = { 0 };
		int argc = 1;

		for (unsigned k = 0; k < 2 && with[i][k]; k++)
			argv[argc++] = with[i][k];
		argv[argc++] = "--";
		argv[argc++] = "true";
		assert_int_equal(test_config_parse(t, argc, argv, &err), -EINVAL);
		assert_non_null(strstr(err.msg, with[i][0]));
		test_config_done(t);
	}
	free(t);
}

/* ---- room ---- */

#define OLD  "00000000000000000000000000000001"
#define MID  "00000000000000000000000000000002"
#define NEW  "00000000000000000000000000000003"
#define PART "00000000000000000000000000000004.partial-abcdef"

static bool is_there(const struct bench *b, const char *path)
{
	char whole[256];

	snprintf(whole, sizeof(whole), "%s/%s", b->dir, path);
	return access(whole, F_OK) == 0;
}

static void what_was_used_last_stays(void **state)
{
	struct bench *b = *state;

	shell(b->dir, "for d in " OLD " " MID " " NEW " " PART " mine; do mkdir $d; "
		      "head -c 100000 /dev/zero >$d/memory; done; >lock; "
		      "touch -d '3 days ago' " OLD " " PART "; touch -d '2 days ago' " MID
		      "; touch -d '1 day ago' " NEW "; touch -d '9 days ago' mine");
	test_warm_prune(b->dir, 280000);
	assert_false(is_there(b, OLD));
	assert_true(is_there(b, MID "/memory"));
	assert_true(is_there(b, NEW "/memory"));
	/* One that nobody came to finish; what is not ours stays. */
	assert_false(is_there(b, PART));
	assert_true(is_there(b, "mine/memory"));
	/* The latest has its place however large it is. */
	test_warm_prune(b->dir, 1);
	assert_false(is_there(b, MID));
	assert_true(is_there(b, NEW "/memory"));
	assert_true(is_there(b, "lock"));
}

static void half_of_one_is_none_and_goes(void **state)
{
	struct bench *b = *state;
	char *was = name(b), path[128];

	assert_false(test_warm_is_there(&b->job));
	snprintf(path, sizeof(path), "mkdir wisp/warm/%s && >wisp/warm/%s/state", was, was);
	shell(b->dir, path);
	assert_false(test_warm_is_there(&b->job));
	assert_int_not_equal(access(b->job.warm, F_OK), 0);
	shell(b->dir, path);
	snprintf(path, sizeof(path), ">wisp/warm/%s/manifest.json", was);
	shell(b->dir, path);
	assert_true(test_warm_is_there(&b->job));
	free(was);
}

/* ---- several of one name ---- */

/* A snapshot, as far as its name goes. */
static void put_one(struct bench *b, const char *hex, const char *content)
{
	char command[240];

	snprintf(command, sizeof(command),
		 "cd wisp/warm && mkdir -m 700 %s && >%s/manifest.json && echo %s >%s/memory", hex,
		 hex, content, hex);
	shell(b->dir, command);
}

static bool warm_has(const struct bench *b, const char *hex, const char *content)
{
	char command[240];

	snprintf(command, sizeof(command), "cd %s/wisp/warm && grep -qx %s %s/memory 2>/dev/null",
		 b->dir, content, hex);
	return system(command) == 0;
}

static void only_the_guest_that_was_of_no_use_goes(void **state)
{
	struct bench *b = *state;
	char *was = name(b);

	put_one(b, was, "first");
	assert_true(test_warm_is_there(&b->job));
	/* Somebody else found the same, and was faster. */
	shell(b->dir, "mv wisp/warm/* gone");
	put_one(b, was, "second");
	test_warm_remove(&b->job);
	assert_true(warm_has(b, was, "second"));
	assert_true(test_warm_is_there(&b->job));
	test_warm_remove(&b->job);
	shell(b->dir, "test -z \"$(ls wisp/warm)\"");
	/* And there is none to remove. */
	test_warm_remove(&b->job);
	free(was);
}

/* What becomes of the snapshot when the guest that goes on from it ended for @reason. */
static bool stays(struct bench *b, const char *hex, enum machine_end_reason reason, bool made)
{
	struct machine_end end = { .reason = reason };
	int status = W_EXITCODE(2, 0);

	b->job.phase = TEST_PHASE_WARM;
	b->job.end = &end;
	b->job.made = made;
	assert_true(test_warm_is_there(&b->job));
	/* No other guest can be made: its kernel is gone. */
	b->job.machine.kernel = "/nonexistent";
	assert_false(test_go_on(&b->job, &status));
	b->job.machine.kernel = b->kernel;
	assert_int_equal(end.reason, MACHINE_END_START_FAILED);
	b->job.end = NULL;
	return warm_has(b, hex, "memory");
}

static void a_guest_stays_until_another_takes_its_place(void **state)
{
	struct bench *b = *state;
	char *was = name(b);

	put_one(b, was, "memory");
	assert_true(stays(b, was, MACHINE_END_START_FAILED, false));
	assert_true(stays(b, was, MACHINE_END_TRIPLE_FAULT, false));
	/* What could not even start may be this host's fault. */
	assert_true(stays(b, was, MACHINE_END_START_FAILED, true));
	assert_false(stays(b, was, MACHINE_END_TRIPLE_FAULT, true));
	free(was);
}

static void a_saver_that_never_ends_is_given_up(void **state)
{
	struct bench *b = *state;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGTERM, SIG_IGN);
		for (;;)
			pause();
	}
	b->job.saver = pid;
	test_warm_reap(&b->job, 10);
	assert_int_equal(b->job.saver, pid);
	test_warm_give_up(&b->job);
	assert_int_equal(b->job.saver, 0);
	assert_false(b->job.saved);
	assert_int_equal(waitpid(pid, NULL, 0), -1);
	/* One that ended well meanwhile has saved. */
	b->job.saver = fork();
	if (b->job.saver == 0)
		_exit(0);
	test_warm_reap(&b->job, 60000);
	assert_int_equal(b->job.saver, 0);
	assert_true(b->job.saved);
}

/* ---- what is not to be believed ---- */

static void a_start_that_somebody_wrote_is_refused(void **state)
{
	struct bench *b = *state;
	struct test_warm_start w;
	struct error err = { 0 };
	char *was = name(b), command[240];

	snprintf(command, sizeof(command),
		 "cd wisp/warm && mkdir %s && cd %s && head -c 4096 /dev/urandom >state && "
		 ">memory && echo '{\"format\":1}' >manifest.json",
		 was, was);
	shell(b->dir, command);
	assert_true(test_warm_open(&b->job, &w, &err) < 0);
	assert_true(err.msg[0]);
	snapshot_close(&w.snapshot);
	/* Others could have. */
	snprintf(command, sizeof(command), "chmod 777 wisp/warm/%s", was);
	shell(b->dir, command);
	err = (struct error){ 0 };
	assert_int_equal(test_warm_open(&b->job, &w, &err), -EPERM);
	snapshot_close(&w.snapshot);
	shell(b->dir, "chmod 777 wisp/warm");
	err = (struct error){ 0 };
	assert_int_equal(test_warm_find(&b->job, &err), -EPERM);
	free(was);
}

/* ---- what is said to it ---- */

static bool holds(const char *text, size_t len, const char *word)
{
	return memmem(text, len, word, strlen(word) + 1) != NULL;
}

static void the_plan_has_the_command_and_a_seed_of_its_own(void **state)
{
	struct bench *b = *state;
	char *one, *two;
	size_t len, other;

	b->command[1] = "two words";
	b->config.cwd = "/somewhere";
	assert_int_equal(test_plan_rest(&b->config, &b->job.machine, &one, &len), 0);
	assert_int_equal(get_le32(one), len - 4);
	assert_true(holds(one + 4, len - 4, "arg=true"));
	assert_true(holds(one + 4, len - 4, "arg=two words"));
	assert_true(holds(one + 4, len - 4, "cwd=/somewhere"));
	assert_true(holds(one + 4, len - 4, "cwd-is-asked-for=0"));
	assert_false(holds(one + 4, len - 4, "warm=1"));
	assert_int_equal(strspn(one + 4 + strlen("seed="), "0123456789abcdef"), 128);
	assert_int_equal(test_plan_rest(&b->config, &b->job.machine, &two, &other), 0);
	assert_int_equal(other, len);
	assert_memory_not_equal(one, two, len);
	free(one);
	free(two);
}

static void a_long_plan_is_sent_as_its_reader_comes_to_it(void **state)
{
	struct bench *b = *state;
	size_t size = 300 * KiB, len = 0;
	char *text = malloc(size), got[4096];
	int fds[2];

	for (size_t i = 0; i < size; i++)
		text[i] = (char)(i * 7 >> 3);
	assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
	b->job.plan = text;
	b->job.plan_len = size;
	b->job.plan_fd = fds[1];
	while (len < size) {
		ssize_t n;

		test_send_plan(&b->job);
		while ((n = read(fds[0], got, sizeof(got))) > 0) {
			assert_memory_equal(got, text + len, n);
			len += n;
		}
	}
	assert_int_equal(b->job.plan_done, size);
	/* Then the time of day, whatever the guest asks before. */
	test_send_time(&b->job);
	assert_int_equal(read(fds[0], got, sizeof(got)), 8);
	b->job.plan_done = 0;
	test_send_time(&b->job);
	assert_int_equal(read(fds[0], got, sizeof(got)), -1);
	close(fds[0]);
	close(fds[1]);
	free(text);
}

static void the_log_of_the_boot_is_kept_for_those_who_come_later(void **state)
{
	static const char at_boot[] = "[    0.100000] WARNING: CPU: 0 PID: 1 at mm/x.c:1\n";
	struct bench *b = *state;
	struct test_job *j = &b->job;

	j->phase = TEST_PHASE_MAKE;
	test_take_log(j, at_boot, strlen(at_boot));
	fflush(j->boot.out);
	assert_int_equal(j->boot.len, strlen(at_boot));
	assert_true(j->log.seen & TEST_LOG_WARN);
	j->phase = TEST_PHASE_WARM;
	test_take_log(j, "later\n", 6);
	fflush(j->boot.out);
	assert_int_equal(j->boot.len, strlen(at_boot));
	assert_memory_equal(j->boot.text, at_boot, strlen(at_boot));
	assert_non_null(strstr(j->log.tail, "later\n"));
	fclose(j->boot.out);
	free(j->boot.text);
}

#define WITH_BENCH(f) cmocka_unit_test_setup_teardown(f, make_bench, remove_bench)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_BENCH(what_the_guest_depends_on_makes_another_start),
		WITH_BENCH(what_is_said_of_the_run_makes_no_other_start),
		cmocka_unit_test(options_that_a_snapshot_would_not_hold_for_are_refused),
		WITH_BENCH(what_was_used_last_stays),
		WITH_BENCH(half_of_one_is_none_and_goes),
		WITH_BENCH(only_the_guest_that_was_of_no_use_goes),
		WITH_BENCH(a_guest_stays_until_another_takes_its_place),
		WITH_BENCH(a_saver_that_never_ends_is_given_up),
		WITH_BENCH(a_start_that_somebody_wrote_is_refused),
		WITH_BENCH(the_plan_has_the_command_and_a_seed_of_its_own),
		WITH_BENCH(a_long_plan_is_sent_as_its_reader_comes_to_it),
		WITH_BENCH(the_log_of_the_boot_is_kept_for_those_who_come_later),
	};

	return cmocka_run_group_tests_name("test_warm", tests, NULL, NULL);
}
