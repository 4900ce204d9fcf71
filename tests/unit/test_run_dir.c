#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/run_dir.h"

struct place {
	char root[64];
};

static int setup(void **state)
{
	static struct place p;

	snprintf(p.root, sizeof(p.root), "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(p.root));
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	/* Fails, and the test with it, when something was left. */
	return rmdir(p->root);
}

/* A microVM that is killed: its directory stays, nobody listens. */
static void leave_a_dead_one(const char *root, const char *id)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		struct run_dir dir = { .listen_fd = -1 };
		char *log;
		int fd;

		if (run_dir_create(&dir, root, id, NULL) < 0)
			_exit(1);
		log = run_dir_file(&dir, RUN_DIR_LOG);
		fd = open(log, O_CREAT | O_WRONLY, 0600);
		_exit(fd < 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static bool exists(const char *root, const char *name)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	return access(path, F_OK) == 0;
}

static void directory_is_ours_alone_and_goes_without_a_trace(void **state)
{
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };
	struct error err = { 0 };
	struct stat st;
	int sock;

	assert_int_equal(run_dir_create(&dir, p->root, "a", &err), 0);
	assert_int_equal(stat(dir.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	sock = run_dir_connect(p->root, "a", RUN_DIR_CONTROL, SOCK_SEQPACKET, &err);
	assert_true(sock >= 0);
	close(sock);
	sock = run_dir_connect(NULL, dir.path, RUN_DIR_CONTROL, SOCK_SEQPACKET, &err);
	assert_true(sock >= 0);
	close(sock);
	run_dir_remove(&dir);
	assert_false(exists(p->root, "a"));
	run_dir_remove(&dir);
}

static void name_of_a_running_one_is_refused(void **state)
{
	struct place *p = *state;
	struct run_dir a = { .listen_fd = -1 }, b = { .listen_fd = -1 };
	struct error err = { 0 };

	assert_int_equal(run_dir_create(&a, p->root, "a", &err), 0);
	assert_int_equal(run_dir_create(&b, p->root, "a", &err), -EEXIST);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_non_null(strstr(err.msg, "'a' is running"));
	assert_int_equal(b.listen_fd, -1);
	run_dir_remove(&b);
	assert_true(exists(p->root, "a"));
	run_dir_remove(&a);
}

static void one_that_was_given_another_name_goes_by_that(void **state)
{
	struct place *p = *state;
	struct run_dir a = { .listen_fd = -1 }, b = { .listen_fd = -1 };
	struct error err = { 0 };
	char *console;
	int sock;

	assert_int_equal(run_dir_create(&a, p->root, "a", &err), 0);
	assert_int_equal(run_dir_create(&b, p->root, "b", &err), 0);
	assert_int_equal(run_dir_may_move(&b), 0);
	console = run_dir_file(&b, RUN_DIR_CONSOLE);
	assert_int_equal(run_dir_rename(p->root, "b", "a", &err), -EEXIST);
	assert_non_null(strstr(err.msg, "'a' is running"));
	run_dir_remove(&a);
	assert_int_equal(run_dir_rename(p->root, "b", "a", &err), 0);
	assert_false(exists(p->root, "b"));
	sock = run_dir_connect(p->root, "a", RUN_DIR_CONTROL, SOCK_SEQPACKET, &err);
	assert_true(sock >= 0);
	close(sock);
	/* What it opens again later it finds by the path that it knew before. */
	sock = open(console, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(sock >= 0);
	close(sock);
	assert_true(exists(p->root, "a/" RUN_DIR_CONSOLE));
	free(console);
	sock = run_dir_listen(&b, "more.sock");
	assert_true(sock >= 0);
	close(sock);
	assert_true(exists(p->root, "a/more.sock"));
	/* Another one may have the old name by now. */
	assert_int_equal(run_dir_create(&a, p->root, "b", &err), 0);
	run_dir_remove(&b);
	assert_false(exists(p->root, "a"));
	assert_true(exists(p->root, "b"));
	run_dir_remove(&a);
	assert_int_equal(run_dir_rename(p->root, "b", "a", &err), -ENOENT);
}

static void name_of_a_dead_one_is_free(void **state)
{
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };
	struct error err = { 0 };

	leave_a_dead_one(p->root, "a");
	assert_true(exists(p->root, "a/" RUN_DIR_LOG));
	assert_int_equal(run_dir_create(&dir, p->root, "a", &err), 0);
	assert_false(exists(p->root, "a/" RUN_DIR_LOG));
	run_dir_remove(&dir);
}

static int count(void *arg, const char *id, const char *path)
{
	*(unsigned *)arg += 1;
	return 0;
}

static void socket_of_a_dead_keeper_of_moments_goes(void **state)
{
	struct place *p = *state;
	char path[200];
	unsigned n = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/a" RUN_DIR_REWIND, p->root);
	fd = io_listen(path, SOCK_SEQPACKET, 0600, 8);
	assert_true(fd >= 0);
	assert_int_equal(run_dir_for_each(p->root, count, &n, NULL), 0);
	assert_true(exists(p->root, "a" RUN_DIR_REWIND));
	close(fd);
	assert_int_equal(run_dir_for_each(p->root, count, &n, NULL), 0);
	assert_false(exists(p->root, "a" RUN_DIR_REWIND));
	/* What is no socket is not of that kind. */
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(run_dir_for_each(p->root, count, &n, NULL), 0);
	assert_true(exists(p->root, "a" RUN_DIR_REWIND));
	assert_int_equal(unlink(path), 0);
}

/* Processes that begin together, and end when all have tried. */
struct crowd {
	int begin[2], tried[2], end[2];
	pid_t pid[4];
	unsigned num;
};

static void open_crowd(struct crowd *c)
{
	c->num = 0;
	assert_int_equal(pipe(c->begin), 0);
	assert_int_equal(pipe(c->tried), 0);
	assert_int_equal(pipe(c->end), 0);
}

/* True in the new one, once all may begin. */
static bool join(struct crowd *c)
{
	pid_t pid = fork();
	char byte;

	assert_true(pid >= 0);
	if (pid == 0) {
		close(c->begin[1]);
		close(c->end[1]);
		return read(c->begin[0], &byte, 1) == 0;
	}
	c->pid[c->num++] = pid;
	return false;
}

/* In one of them: it ends well or not. */
static _Noreturn void leave(struct crowd *c, bool well)
{
	char byte = 0;

	if (write(c->tried[1], &byte, 1) != 1 || read(c->end[0], &byte, 1) != 0)
		well = false;
	_exit(!well);
}

static void let_begin(struct crowd *c)
{
	close(c->begin[0]);
	close(c->begin[1]);
}

/* A bit for each that ended well. */
static unsigned let_end(struct crowd *c)
{
	unsigned well = 0;
	int status;
	char byte;

	for (unsigned i = 0; i < c->num; i++)
		assert_int_equal(read(c->tried[0], &byte, 1), 1);
	for (unsigned i = 0; i < 2; i++) {
		close(c->tried[i]);
		close(c->end[i]);
	}
	for (unsigned i = 0; i < c->num; i++) {
		assert_int_equal(waitpid(c->pid[i], &status, 0), c->pid[i]);
		well |= (status == 0) << i;
	}
	return well;
}

#define ROUNDS 100

static void name_of_a_dead_one_is_taken_once(void **state)
{
	struct place *p = *state;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct crowd c;
		unsigned won;

		leave_a_dead_one(p->root, "a");
		open_crowd(&c);
		while (c.num < ARRAY_SIZE(c.pid))
			if (join(&c)) {
				struct run_dir dir = { .listen_fd = -1 };

				leave(&c, run_dir_create(&dir, p->root, "a", NULL) == 0);
			}
		let_begin(&c);
		won = let_end(&c);
		if (!won || won & (won - 1))
			fail_msg("round %u: %x have the name", i, won);
	}
	assert_int_equal(run_dir_connect(p->root, "a", RUN_DIR_CONTROL, SOCK_SEQPACKET, NULL),
			 -ENOENT);
}

/* Who comes across a dead one removes nothing that has its name by then. */
static void live_one_is_not_removed_for_a_dead_one(void **state)
{
	struct place *p = *state;
	char path[128];

	snprintf(path, sizeof(path), "%s/a", p->root);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct run_dir dir = { .listen_fd = -1 };
		struct crowd c;

		leave_a_dead_one(p->root, "a");
		open_crowd(&c);
		while (c.num < ARRAY_SIZE(c.pid))
			if (join(&c)) {
				run_dir_remove_dead(path);
				leave(&c, true);
			}
		let_begin(&c);
		assert_int_equal(run_dir_create(&dir, p->root, "a", NULL), 0);
		let_end(&c);
		if (!exists(p->root, "a/" RUN_DIR_CONTROL))
			fail_msg("round %u: removed while it runs", i);
		run_dir_remove(&dir);
	}
}

static void connecting_to_a_dead_one_finds_none_and_cleans_up(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };

	leave_a_dead_one(p->root, "a");
	assert_int_equal(run_dir_connect(p->root, "a", RUN_DIR_CONTROL, SOCK_SEQPACKET, &err),
			 -ENOENT);
	assert_non_null(strstr(err.msg, "no microVM 'a'"));
	assert_false(exists(p->root, "a"));
}

static void directory_that_is_no_microvms_is_left_alone(void **state)
{
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };
	struct error err = { 0 };
	char path[100], file[120];

	snprintf(path, sizeof(path), "%s/photos", p->root);
	snprintf(file, sizeof(file), "%s/control.sock", path);
	assert_int_equal(mkdir(path, 0700), 0);
	close(open(file, O_CREAT | O_WRONLY, 0600));
	assert_false(run_dir_remove_dead(path));
	assert_int_equal(run_dir_connect(p->root, "photos", RUN_DIR_CONTROL, SOCK_SEQPACKET, &err),
			 -ENOENT);
	assert_true(run_dir_create(&dir, p->root, "photos", &err) < 0);
	assert_true(exists(p->root, "photos/control.sock"));
	unlink(file);
	rmdir(path);
}

static void a_name_is_no_way_out_of_the_root(void **state)
{
	static const char *const bad[] = { "", ".", "..", "../a", "a/b", "/tmp/a", ".hidden" };
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = { 0 };

		assert_int_equal(run_dir_create(&dir, p->root, bad[i], &err), -EINVAL);
		assert_int_equal(err.kind, ERROR_USAGE);
		assert_int_equal(dir.listen_fd, -1);
	}
}

static void root_that_others_may_write_to_is_refused(void **state)
{
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };
	struct error err = { 0 };

	assert_int_equal(chmod(p->root, 0777), 0);
	assert_int_equal(run_dir_create(&dir, p->root, "a", &err), -EPERM);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_false(exists(p->root, "a"));
	chmod(p->root, 0700);
}

static void default_root_follows_xdg_runtime_dir(void **state)
{
	struct place *p = *state;
	char path[PATH_MAX], want[100];
	struct error err = { 0 };

	setenv("XDG_RUNTIME_DIR", p->root, 1);
	assert_int_equal(run_dir_root(path, sizeof(path), NULL, false, &err), -ENOENT);
	assert_int_equal(run_dir_root(path, sizeof(path), NULL, true, &err), 0);
	snprintf(want, sizeof(want), "%s/wisp", p->root);
	assert_string_equal(path, want);
	/* Not ours alone any more. */
	chmod(path, 0750);
	assert_int_equal(run_dir_root(path, sizeof(path), NULL, true, &err), -EPERM);
	rmdir(path);
	/* A link planted there leads nowhere good. */
	assert_int_equal(symlink("/tmp", want), 0);
	assert_int_equal(run_dir_root(path, sizeof(path), NULL, true, &err), -ENOTDIR);
	unlink(want);
	/* Why nothing can be found there is told. */
	setenv("XDG_RUNTIME_DIR", "/dev/null", 1);
	err = (struct error){ 0 };
	assert_int_equal(run_dir_root(path, sizeof(path), NULL, false, &err), -ENOTDIR);
	assert_non_null(strstr(err.msg, "/dev/null/wisp"));
	unsetenv("XDG_RUNTIME_DIR");
}

static void path_longer_than_an_address_works(void **state)
{
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };
	struct error err = { 0 };
	char root[200];
	int sock;

	snprintf(root, sizeof(root), "%s/%0100d", p->root, 7);
	assert_int_equal(run_dir_create(&dir, root, "a", &err), 0);
	sock = run_dir_connect(root, "a", RUN_DIR_CONTROL, SOCK_SEQPACKET, &err);
	assert_true(sock >= 0);
	close(sock);
	run_dir_remove(&dir);
	rmdir(root);
}

static int append(void *arg, const char *id, const char *path)
{
	char *names = arg;

	snprintf(names + strlen(names), 100 - strlen(names), "%s ", id);
	return 0;
}

static void all_are_found_in_order_and_what_was_never_finished_goes(void **state)
{
	struct place *p = *state;
	struct run_dir b = { .listen_fd = -1 }, a = b;
	char names[100] = "", unfinished[100];
	struct error err = { 0 };
	pid_t gone = fork();

	if (gone == 0)
		_exit(0);
	waitpid(gone, NULL, 0);
	snprintf(unfinished, sizeof(unfinished), "%s/.wisp-%d", p->root, gone);
	assert_int_equal(mkdir(unfinished, 0700), 0);
	assert_int_equal(run_dir_create(&b, p->root, "b", &err), 0);
	assert_int_equal(run_dir_create(&a, p->root, "a", &err), 0);
	assert_int_equal(run_dir_for_each(p->root, append, names, &err), 0);
	assert_string_equal(names, "a b ");
	assert_int_equal(access(unfinished, F_OK), -1);
	run_dir_remove(&a);
	run_dir_remove(&b);
}

/* Somebody of another PID namespace may have our process id, or one that nobody has here. */
static void what_somebody_is_making_stays(void **state)
{
	struct place *p = *state;
	struct run_dir a = { .listen_fd = -1 };
	char names[100] = "", theirs[100], other[100];
	struct error err = { 0 };
	int fd;

	snprintf(theirs, sizeof(theirs), "%s/.wisp-%d", p->root, getpid());
	assert_int_equal(mkdir(theirs, 0700), 0);
	fd = open(theirs, O_RDONLY | O_DIRECTORY);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(run_dir_create(&a, p->root, "a", &err), 0);
	assert_int_equal(access(theirs, F_OK), 0);
	assert_int_equal(run_dir_for_each(p->root, append, names, &err), 0);
	assert_string_equal(names, "a ");
	assert_int_equal(access(theirs, F_OK), 0);
	/* It was killed. Of what is called otherwise we know nothing. */
	close(fd);
	snprintf(other, sizeof(other), "%s/.wisp-1a", p->root);
	assert_int_equal(mkdir(other, 0700), 0);
	assert_int_equal(run_dir_for_each(p->root, append, names, &err), 0);
	assert_int_equal(access(theirs, F_OK), -1);
	assert_int_equal(rmdir(other), 0);
	run_dir_remove(&a);
}

/* A directory stands for the cgroup: rmdir() is what removes both. */
static void dead_ones_cgroup_goes_with_its_directory(void **state)
{
	struct place *p = *state;
	char cgroup[100], path[100], link[120];

	snprintf(path, sizeof(path), "%s/a", p->root);
	snprintf(link, sizeof(link), "%s/" RUN_DIR_CGROUP, path);
	snprintf(cgroup, sizeof(cgroup), "%s/wisp-a", p->root);
	leave_a_dead_one(p->root, "a");
	assert_int_equal(mkdir(cgroup, 0700), 0);
	assert_int_equal(symlink(cgroup, link), 0);
	assert_true(run_dir_remove_dead(path));
	assert_int_equal(access(cgroup, F_OK), -1);
	/* No other name is believed. */
	snprintf(cgroup, sizeof(cgroup), "%s/other", p->root);
	leave_a_dead_one(p->root, "a");
	assert_int_equal(mkdir(cgroup, 0700), 0);
	assert_int_equal(symlink(cgroup, link), 0);
	assert_true(run_dir_remove_dead(path));
	assert_int_equal(rmdir(cgroup), 0);
}

/* One that ends in good order has removed its cgroup itself, and the link goes unfollowed. */
static void noted_cgroup_is_a_link(void **state)
{
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };
	char *link, target[100] = "";

	run_dir_note_cgroup(&dir, "/nowhere");
	assert_int_equal(run_dir_create(&dir, p->root, "a", NULL), 0);
	run_dir_note_cgroup(&dir, "/sys/fs/cgroup/wisp-a");
	link = run_dir_file(&dir, RUN_DIR_CGROUP);
	assert_true(readlink(link, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, "/sys/fs/cgroup/wisp-a");
	free(link);
	run_dir_remove(&dir);
}

static void noted_monitor_is_found_by_name_and_by_path(void **state)
{
	struct place *p = *state;
	struct run_dir dir = { .listen_fd = -1 };
	char *link;

	assert_int_equal(run_dir_monitor(p->root, "a"), 0);
	assert_int_equal(run_dir_create(&dir, p->root, "a", NULL), 0);
	assert_int_equal(run_dir_monitor(p->root, "a"), 0);
	run_dir_note_monitor(&dir, 4711);
	assert_int_equal(run_dir_monitor(p->root, "a"), 4711);
	assert_int_equal(run_dir_monitor(NULL, dir.path), 4711);
	/* What is no process, or more than one, is nobody to kill. */
	link = run_dir_file(&dir, RUN_DIR_MONITOR);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const bad[] = { "-1", "47x", "0" };

		assert_int_equal(unlink(link), 0);
		assert_int_equal(symlink(bad[i], link), 0);
		assert_int_equal(run_dir_monitor(p->root, "a"), 0);
	}
	free(link);
	run_dir_remove(&dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define IN_PLACE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
		IN_PLACE(directory_is_ours_alone_and_goes_without_a_trace),
		IN_PLACE(name_of_a_running_one_is_refused),
		IN_PLACE(one_that_was_given_another_name_goes_by_that),
		IN_PLACE(socket_of_a_dead_keeper_of_moments_goes),
		IN_PLACE(name_of_a_dead_one_is_free),
		IN_PLACE(name_of_a_dead_one_is_taken_once),
		IN_PLACE(live_one_is_not_removed_for_a_dead_one),
		IN_PLACE(connecting_to_a_dead_one_finds_none_and_cleans_up),
		IN_PLACE(directory_that_is_no_microvms_is_left_alone),
		IN_PLACE(a_name_is_no_way_out_of_the_root),
		IN_PLACE(root_that_others_may_write_to_is_refused),
		IN_PLACE(default_root_follows_xdg_runtime_dir),
		IN_PLACE(path_longer_than_an_address_works),
		IN_PLACE(what_somebody_is_making_stays),
		IN_PLACE(all_are_found_in_order_and_what_was_never_finished_goes),
		IN_PLACE(dead_ones_cgroup_goes_with_its_directory),
		IN_PLACE(noted_cgroup_is_a_link),
		IN_PLACE(noted_monitor_is_found_by_name_and_by_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
