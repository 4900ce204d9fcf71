/* Files that get their name when they are complete. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/control/report_file.h"
#include "vmm/core/util.h"

struct place {
	char dir[64];
	char path[128];
};

static int setup(void **state)
{
	static struct place p;

	snprintf(p.dir, sizeof(p.dir), "/tmp/wisp-late.XXXXXX");
	assert_non_null(mkdtemp(p.dir));
	snprintf(p.path, sizeof(p.path), "%s/file", p.dir);
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	unlink(p->path);
	return rmdir(p->dir);
}

static unsigned entries(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void begin(struct late_file *f, struct place *p)
{
	struct error err = { 0 };

	assert_int_equal(late_file_open(f, "--core", p->path, &err), 0);
	assert_int_equal(write(f->fd, "new", 3), 3);
}

static void has(struct place *p, const char *text)
{
	char buf[16] = "";
	int fd = open(p->path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, sizeof(buf) - 1), strlen(text));
	assert_string_equal(buf, text);
	close(fd);
}

static void write_old(struct place *p)
{
	int fd = open(p->path, O_WRONLY | O_CREAT, 0600);

	assert_int_equal(write(fd, "old", 3), 3);
	close(fd);
}

static void not_kept_it_leaves_nothing(void **state)
{
	struct place *p = *state;
	struct late_file f;

	begin(&f, p);
	assert_int_equal(access(p->path, F_OK), -1);
	late_file_close(&f);
	assert_int_equal(entries(p->dir), 0);
}

static void kept_it_has_its_name_alone(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };
	struct late_file f;
	struct stat st;

	begin(&f, p);
	assert_int_equal(late_file_keep(&f, &err), 0);
	late_file_close(&f);
	late_file_close(&f);
	has(p, "new");
	assert_int_equal(entries(p->dir), 1);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void what_was_there_stays_until_then(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };
	struct late_file f;

	write_old(p);
	begin(&f, p);
	has(p, "old");
	late_file_close(&f);
	has(p, "old");
	begin(&f, p);
	assert_int_equal(late_file_keep(&f, &err), 0);
	late_file_close(&f);
	has(p, "new");
}

static void what_cannot_be_a_file_is_refused(void **state)
{
	struct error err = { 0 };
	struct late_file f;

	assert_int_equal(late_file_open(&f, "--core", "/nowhere/file", &err), -ENOENT);
	assert_non_null(strstr(err.msg, "--core '/nowhere/file'"));
	assert_int_equal(late_file_open(&f, "--core", "/dev/null", &err), -EINVAL);
	assert_int_equal(late_file_open(&f, "--core", "/tmp", &err), -EINVAL);
}

static void report(struct report_file *f, const char *path, const char *text)
{
	struct error err = { 0 };

	assert_int_equal(report_file_open(f, "--metrics", path, &err), 0);
	assert_int_equal(write(f->fd, text, strlen(text)), strlen(text));
}

static void a_report_that_is_not_complete_changes_nothing(void **state)
{
	struct place *p = *state;
	struct report_file f;

	report(&f, p->path, "half");
	report_file_close(&f);
	report_file_close(&f);
	assert_int_equal(entries(p->dir), 0);
	write_old(p);
	report(&f, p->path, "half");
	report_file_close(&f);
	has(p, "old");
}

static void a_report_takes_the_place_and_the_mode_of_the_old(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };
	struct report_file f;
	struct stat st;
	mode_t mask;

	mask = umask(027);
	report(&f, p->path, "one");
	assert_int_equal(report_file_keep(&f, &err), 0);
	umask(mask);
	assert_int_equal(f.fd, -1);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(chmod(p->path, 0604), 0);
	report(&f, p->path, "two");
	assert_int_equal(report_file_keep(&f, &err), 0);
	has(p, "two");
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0604);
}

/* A file that a container was given: its name cannot be another file's. */
static void a_report_over_a_mount_point_is_written_there(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };
	struct report_file f;
	int status;
	pid_t pid;

	write_old(p);
	pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) < 0 ||
		    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount(p->path, p->path, NULL, MS_BIND, NULL) < 0)
			_exit(77);
		report(&f, p->path, "new");
		_exit(report_file_keep(&f, &err) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
	has(p, "new");
}

/* As /dev/stdout is one: what it leads to is written to, and it stays what it is. */
static void a_link_stays_a_link(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };
	struct report_file f;
	char link[140];
	struct stat st;

	write_old(p);
	snprintf(link, sizeof(link), "%s/link", p->dir);
	assert_int_equal(symlink(p->path, link), 0);
	report(&f, link, "new");
	assert_int_equal(report_file_keep(&f, &err), 0);
	has(p, "new");
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	unlink(link);
	report(&f, "/dev/null", "new");
	assert_int_equal(report_file_keep(&f, &err), 0);
	assert_int_equal(report_file_open(&f, "--metrics", "/nowhere/file", &err), -ENOENT);
	assert_string_equal(err.msg, "--metrics '/nowhere/file': cannot write: No such file or "
				     "directory");
	assert_int_equal(f.fd, -1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(not_kept_it_leaves_nothing),
		TEST(kept_it_has_its_name_alone),
		TEST(what_was_there_stays_until_then),
		TEST(what_cannot_be_a_file_is_refused),
		TEST(a_report_that_is_not_complete_changes_nothing),
		TEST(a_report_takes_the_place_and_the_mode_of_the_old),
		TEST(a_report_over_a_mount_point_is_written_there),
		TEST(a_link_stays_a_link),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
