#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/control/agent_client.h"
#include "vmm/control/agent_tree.h"

/* A directory of the test's own, and a connection. */
struct fixture {
	char dir[64];
	char path[96];
	int here, there;
	struct agent_frame frame;
	struct agent_tree_error why;
};

static void begin(struct fixture *f)
{
	int pair[2];

	memset(&f->why, 0, sizeof(f->why));
	snprintf(f->dir, sizeof(f->dir), "/tmp/wisp-test-agent-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->here = pair[0];
	f->there = pair[1];
}

static void end(struct fixture *f)
{
	char command[192];

	close(f->here);
	close(f->there);
	snprintf(command, sizeof(command), "chmod -R u+rwx %s; rm -rf %s", f->dir, f->dir);
	assert_int_equal(system(command), 0);
}

static const char *in_dir(struct fixture *f, const char *name)
{
	snprintf(f->path, sizeof(f->path), "%s/%s", f->dir, name);
	return f->path;
}

static void put_file(struct fixture *f, const char *name, const char *text, mode_t mode)
{
	int fd = open(in_dir(f, name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void expect_file(struct fixture *f, const char *name, const char *text, mode_t mode)
{
	char buf[256] = "";
	struct stat st;
	int fd = open(in_dir(f, name), O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, buf, sizeof(buf) - 1) >= 0);
	assert_string_equal(buf, text);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
	close(fd);
}

/* Send @from by another process, receive to @to. */
static int copy(struct fixture *f, const char *from, const char *to, mode_t mask)
{
	char target[96];
	pid_t sender = fork();
	int r;

	snprintf(target, sizeof(target), "%s/%s", f->dir, to);
	if (sender == 0) {
		f->why.left_out = NULL;
		r = agent_tree_send(f->there, in_dir(f, from), &f->why);
		if (r < 0 && f->why.what)
			agent_send_failure(f->there, AGENT_FAILED, -r, f->why.what, f->why.path);
		else
			agent_send(f->there, AGENT_DONE, NULL, 0);
		_exit(0);
	}
	r = agent_tree_receive(f->here, target, NULL, mask, &f->frame, &f->why);
	waitpid(sender, NULL, 0);
	return r;
}

static void frames_arrive_as_they_were_sent(void **state)
{
	static char big[AGENT_MAX_FRAME + 1];
	struct fixture f;

	begin(&f);
	assert_int_equal(agent_send(f.there, AGENT_ARG, "word", 4), 0);
	assert_int_equal(agent_send(f.there, AGENT_RUN, NULL, 0), 0);
	assert_int_equal(agent_send(f.there, AGENT_INPUT, big, AGENT_MAX_FRAME), 0);
	assert_int_equal(agent_send(f.there, AGENT_INPUT, big, sizeof(big)), -EMSGSIZE);
	assert_int_equal(agent_receive(f.here, &f.frame), 1);
	assert_int_equal(f.frame.type, AGENT_ARG);
	assert_string_equal(f.frame.data, "word");
	assert_int_equal(agent_receive(f.here, &f.frame), 1);
	assert_int_equal(f.frame.len, 0);
	assert_int_equal(agent_receive(f.here, &f.frame), 1);
	assert_int_equal(f.frame.len, AGENT_MAX_FRAME);
	shutdown(f.there, SHUT_WR);
	assert_int_equal(agent_receive(f.here, &f.frame), 0);
	end(&f);
}

static void frame_that_is_cut_off_or_too_long_is_refused(void **state)
{
	struct fixture f;

	begin(&f);
	assert_int_equal(write(f.there, "\x01\x80\x00\x00" "c", 5), 5);
	assert_int_equal(agent_receive(f.here, &f.frame), -EBADMSG);
	end(&f);
	begin(&f);
	assert_int_equal(write(f.there, "\x05\x00\x00\x00" "cab", 7), 7);
	shutdown(f.there, SHUT_WR);
	assert_int_equal(agent_receive(f.here, &f.frame), -EBADMSG);
	end(&f);
}

static void tree_is_copied_with_modes_and_links(void **state)
{
	char text[64] = "";
	struct fixture f;

	begin(&f);
	assert_int_equal(mkdir(in_dir(&f, "a"), 0755), 0);
	assert_int_equal(mkdir(in_dir(&f, "a/sub"), 0755), 0);
	put_file(&f, "a/sub/file", "content", 0640);
	put_file(&f, "a/empty", "", 0444);
	assert_int_equal(symlink("../elsewhere", in_dir(&f, "a/link")), 0);
	assert_int_equal(chmod(in_dir(&f, "a/sub"), 0500), 0);

	assert_int_equal(copy(&f, "a", "b", 07777), 0);
	expect_file(&f, "b/sub/file", "content", 0640);
	expect_file(&f, "b/empty", "", 0444);
	assert_true(readlink(in_dir(&f, "b/link"), text, sizeof(text) - 1) > 0);
	assert_string_equal(text, "../elsewhere");
	/* Once more it goes into the directory that is there now. */
	assert_int_equal(copy(&f, "a", "b", 07777), 0);
	expect_file(&f, "b/a/sub/file", "content", 0640);
	end(&f);
}

static void holes_stay_holes(void **state)
{
	struct fixture f;
	char command[320];

	begin(&f);
	snprintf(command, sizeof(command),
		 "cd %s && truncate -s 8M a && echo here | dd of=a bs=1 seek=3000000 conv=notrunc "
		 "status=none && mkdir to",
		 f.dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(copy(&f, "a", "to", 0777), 0);
	snprintf(command, sizeof(command),
		 "cd %s && cmp a to/a && test $(du -k to/a | cut -f1) -lt 200", f.dir);
	assert_int_equal(system(command), 0);
	end(&f);
}

static void modes_are_masked(void **state)
{
	struct fixture f;

	begin(&f);
	put_file(&f, "a", "program", 04755);
	assert_int_equal(copy(&f, "a", "b", 0777), 0);
	expect_file(&f, "b", "program", 0755);
	end(&f);
}

static void missing_file_is_told_and_nothing_is_made(void **state)
{
	struct error err = { 0 };
	struct fixture f;

	begin(&f);
	assert_int_equal(copy(&f, "none", "b", 0777), -ECANCELED);
	assert_int_equal(access(in_dir(&f, "b"), F_OK), -1);
	assert_int_equal(agent_failure(&f.frame, "cp", &err), -ENOENT);
	assert_non_null(strstr(err.msg, "No such file"));
	end(&f);
}

/* A guest is not believed: each of these ends without a file outside of where it belongs. */
static void names_that_lead_elsewhere_are_refused(void **state)
{
	static const char *const bad[] = { "../out", "/tmp/out", "..", ".", "", "a/b" };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		char entry[64] = { 0 };
		struct fixture f;

		begin(&f);
		memcpy(entry + 4, bad[i], strlen(bad[i]));
		agent_send(f.there, AGENT_ENTER, "\0\0\0\0into", 8);
		agent_send(f.there, AGENT_FILE, entry, 4 + strlen(bad[i]));
		agent_send(f.there, AGENT_CONTENT, NULL, 0);
		assert_int_equal(
			agent_tree_receive(f.here, f.dir, NULL, 0777, &f.frame, &f.why), -EBADMSG);
		assert_int_equal(access(in_dir(&f, "out"), F_OK), -1);
		end(&f);
	}
}

static void nothing_is_written_through_a_link_that_came_along(void **state)
{
	struct fixture f;

	begin(&f);
	put_file(&f, "precious", "mine", 0600);
	assert_int_equal(mkdir(in_dir(&f, "to"), 0700), 0);
	agent_send(f.there, AGENT_ENTER, "\xed\x01\0\0d", 5);
	agent_send(f.there, AGENT_LINK, "x\0../../precious", 16);
	agent_send(f.there, AGENT_FILE, "\xed\x01\0\0x", 5);
	agent_send(f.there, AGENT_CONTENT, "theirs", 6);
	agent_send(f.there, AGENT_CONTENT, NULL, 0);
	assert_int_equal(agent_tree_receive(f.here, in_dir(&f, "to"), NULL, 0777, &f.frame, &f.why),
			 -ELOOP);
	expect_file(&f, "precious", "mine", 0600);
	end(&f);
	/* Nor is a directory entered through one. */
	begin(&f);
	agent_send(f.there, AGENT_ENTER, "\xed\x01\0\0d", 5);
	agent_send(f.there, AGENT_LINK, "x\0..", 4);
	agent_send(f.there, AGENT_ENTER, "\xed\x01\0\0x", 5);
	assert_true(agent_tree_receive(f.here, f.dir, NULL, 0777, &f.frame, &f.why) < 0);
	assert_non_null(f.why.what);
	end(&f);
}

/* A guest that is asked for a file answers with another, by whose name the host would be had. */
static void tree_is_called_what_was_asked_for(void **state)
{
	struct fixture f;

	begin(&f);
	put_file(&f, ".bashrc", "mine", 0600);
	agent_send(f.there, AGENT_FILE, "\xa4\x01\0\0.bashrc", 11);
	agent_send(f.there, AGENT_CONTENT, "theirs", 6);
	agent_send(f.there, AGENT_CONTENT, NULL, 0);
	agent_send(f.there, AGENT_DONE, NULL, 0);
	assert_int_equal(agent_tree_receive(f.here, f.dir, "log", 0777, &f.frame, &f.why), 0);
	expect_file(&f, ".bashrc", "mine", 0600);
	expect_file(&f, "log", "theirs", 0644);
	end(&f);
	/* Nor is a directory of another name entered. */
	begin(&f);
	assert_int_equal(mkdir(in_dir(&f, ".ssh"), 0700), 0);
	agent_send(f.there, AGENT_ENTER, "\xed\x01\0\0.ssh", 8);
	agent_send(f.there, AGENT_FILE, "\xa4\x01\0\0keys", 8);
	agent_send(f.there, AGENT_CONTENT, NULL, 0);
	agent_send(f.there, AGENT_LEAVE, NULL, 0);
	agent_send(f.there, AGENT_DONE, NULL, 0);
	assert_int_equal(agent_tree_receive(f.here, f.dir, "log", 0777, &f.frame, &f.why), 0);
	assert_int_equal(access(in_dir(&f, ".ssh/keys"), F_OK), -1);
	expect_file(&f, "log/keys", "", 0644);
	end(&f);
}

static void link_is_not_what_was_asked_for(void **state)
{
	struct fixture f;

	begin(&f);
	agent_send(f.there, AGENT_LINK, "log\0.bashrc", 11);
	agent_send(f.there, AGENT_DONE, NULL, 0);
	assert_int_equal(agent_tree_receive(f.here, f.dir, "log", 0777, &f.frame, &f.why),
			 -EBADMSG);
	end(&f);
}

static void name_is_the_last_component(void **state)
{
	static const char *const names[][2] = {
		{ "/etc/passwd", "passwd" }, { "passwd", "passwd" }, { "/srv//log///", "log" },
		{ "/", "root" },	     { "", "root" },	     { ".", "root" },
		{ "/srv/..", "root" },	     { "..a", "..a" },
	};
	char name[NAME_MAX + 1], longer[2 * NAME_MAX];

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		agent_tree_name(names[i][0], name);
		assert_string_equal(name, names[i][1]);
	}
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	agent_tree_name(longer, name);
	assert_int_equal(strlen(name), NAME_MAX);
}

static void endless_nesting_ends(void **state)
{
	struct fixture f;
	pid_t sender;

	begin(&f);
	sender = fork();
	if (sender == 0) {
		while (agent_send(f.there, AGENT_ENTER, "\xed\x01\0\0d", 5) == 0)
			;
		_exit(0);
	}
	close(f.there);
	f.there = -1;
	assert_int_equal(agent_tree_receive(f.here, f.dir, NULL, 0777, &f.frame, &f.why), -EBADMSG);
	shutdown(f.here, SHUT_RDWR);
	waitpid(sender, NULL, 0);
	end(&f);
}

/* ---- what does not come ---- */

static char left_out_text[sizeof((struct error){ 0 }.msg)];

static void note_left_out(struct agent_tree_error *why, const struct agent_frame *f)
{
	struct error err = { 0 };

	assert_non_null(f);
	assert_int_equal(why->num_left_out, 1);
	assert_int_equal(agent_failure(f, "cp", &err), -EOPNOTSUPP);
	snprintf(left_out_text, sizeof(left_out_text), "%s", err.msg);
}

static void what_is_no_file_is_left_out_and_named(void **state)
{
	struct fixture f;
	struct stat st;

	begin(&f);
	f.why.left_out = note_left_out;
	assert_int_equal(mkdir(in_dir(&f, "a"), 0755), 0);
	assert_int_equal(mkdir(in_dir(&f, "a/sub"), 0750), 0);
	assert_int_equal(mkfifo(in_dir(&f, "a/sub/pipe"), 0600), 0);
	put_file(&f, "a/sub/file", "content", 0640);
	put_file(&f, "a/file", "content", 0640);
	assert_int_equal(copy(&f, "a", "b", 0777), 0);
	assert_int_equal(f.why.num_left_out, 1);
	assert_non_null(strstr(left_out_text, "/a/sub/pipe: "));
	expect_file(&f, "b/sub/file", "content", 0640);
	expect_file(&f, "b/file", "content", 0640);
	assert_int_equal(lstat(in_dir(&f, "b/sub/pipe"), &st), -1);
	assert_int_equal(stat(in_dir(&f, "b/sub"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	end(&f);
	/* Asked for by itself it is an error; so is a sender that has nothing but that. */
	begin(&f);
	assert_int_equal(mkfifo(in_dir(&f, "pipe"), 0600), 0);
	assert_int_equal(copy(&f, "pipe", "b", 0777), -ECANCELED);
	agent_send_failure(f.there, AGENT_LEFT_OUT, EIO, "read", "x");
	assert_int_equal(agent_tree_receive(f.here, in_dir(&f, "b"), NULL, 0777, &f.frame, &f.why),
			 -EBADMSG);
	end(&f);
}

static void send_half(struct fixture *f, enum agent_type end)
{
	agent_send(f->there, AGENT_ENTER, "\xed\x01\0\0d", 5);
	agent_send(f->there, AGENT_FILE, "\xa4\x01\0\0x", 5);
	agent_send(f->there, AGENT_CONTENT, "half", 4);
	agent_send_failure(f->there, end, EIO, "read", "x");
}

static void file_that_does_not_come_whole_is_not_there(void **state)
{
	struct fixture f;
	struct stat st;

	begin(&f);
	send_half(&f, AGENT_LEFT_OUT);
	agent_send(f.there, AGENT_LEAVE, NULL, 0);
	agent_send(f.there, AGENT_DONE, NULL, 0);
	assert_int_equal(agent_tree_receive(f.here, f.dir, NULL, 0777, &f.frame, &f.why), 0);
	assert_int_equal(f.why.num_left_out, 1);
	assert_int_equal(access(in_dir(&f, "d/x"), F_OK), -1);
	/* What was there is written over, as ever. */
	put_file(&f, "d/x", "a file that was there", 0600);
	send_half(&f, AGENT_FAILED);
	assert_int_equal(agent_tree_receive(f.here, f.dir, NULL, 0777, &f.frame, &f.why),
			 -ECANCELED);
	assert_int_equal(access(in_dir(&f, "d/x"), F_OK), 0);
	end(&f);
	begin(&f);
	send_half(&f, AGENT_FAILED);
	assert_int_equal(agent_tree_receive(f.here, f.dir, NULL, 0777, &f.frame, &f.why),
			 -ECANCELED);
	assert_int_equal(access(in_dir(&f, "d/x"), F_OK), -1);
	assert_int_equal(stat(in_dir(&f, "d"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	end(&f);
}

static void failure_is_one_line_of_text(void **state)
{
	struct error err = { 0 };
	struct fixture f;

	begin(&f);
	agent_send(f.there, AGENT_FAILED, "\xff\xff\xff\xff\x1b[2Jtwo\nlines", 16);
	assert_int_equal(agent_receive(f.here, &f.frame), 1);
	assert_int_equal(agent_failure(&f.frame, "exec", &err), -EIO);
	assert_null(strpbrk(err.msg, "\x1b\n"));
	end(&f);
}

/* Of a tree onto what is no directory: which one, of all that have its name? */
static void what_cannot_be_received_is_named_from_where_it_was_asked_for(void **state)
{
	char longer[NAME_MAX + 1], command[1024];
	struct fixture f;

	begin(&f);
	snprintf(command, sizeof(command), "cd %s && mkdir -p a/b/c to/a/b && echo >to/a/b/c",
		 f.dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(copy(&f, "a", "to", 0777), -ENOTDIR);
	assert_string_equal(f.why.what, "open");
	assert_string_equal(f.why.path, in_dir(&f, "to/a/b/c"));
	end(&f);

	/* Under another name. */
	begin(&f);
	snprintf(command, sizeof(command), "cd %s && mkdir a && echo >file", f.dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(copy(&f, "a", "file", 0777), -ENOTDIR);
	assert_string_equal(f.why.path, in_dir(&f, "file"));
	end(&f);

	/* Longer than what is kept of it: its end. */
	begin(&f);
	memset(longer, 'd', 230);
	longer[230] = '\0';
	snprintf(command, sizeof(command), "cd %s && mkdir -p a/%s/b to/a/%s && echo >to/a/%s/b",
		 f.dir, longer, longer, longer);
	assert_int_equal(system(command), 0);
	assert_int_equal(copy(&f, "a", "to", 0777), -ENOTDIR);
	assert_int_equal(strlen(f.why.path), sizeof(f.why.path) - 1);
	assert_memory_equal(f.why.path, "...", 3);
	assert_string_equal(f.why.path + strlen(f.why.path) - 3, "d/b");
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_arrive_as_they_were_sent),
		cmocka_unit_test(frame_that_is_cut_off_or_too_long_is_refused),
		cmocka_unit_test(tree_is_copied_with_modes_and_links),
		cmocka_unit_test(holes_stay_holes),
		cmocka_unit_test(modes_are_masked),
		cmocka_unit_test(missing_file_is_told_and_nothing_is_made),
		cmocka_unit_test(names_that_lead_elsewhere_are_refused),
		cmocka_unit_test(nothing_is_written_through_a_link_that_came_along),
		cmocka_unit_test(tree_is_called_what_was_asked_for),
		cmocka_unit_test(link_is_not_what_was_asked_for),
		cmocka_unit_test(name_is_the_last_component),
		cmocka_unit_test(endless_nesting_ends),
		cmocka_unit_test(what_is_no_file_is_left_out_and_named),
		cmocka_unit_test(file_that_does_not_come_whole_is_not_there),
		cmocka_unit_test(failure_is_one_line_of_text),
		cmocka_unit_test(what_cannot_be_received_is_named_from_where_it_was_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
