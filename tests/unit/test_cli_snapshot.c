/* `wisp snapshot` before a monitor of the test's own: what it says to it, and what it leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/cli/cli_snapshot.h"
#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/core/io.h"
#include "vmm/run_dir.h"

#define ANSWER "\"pause_us\":1,\"stored_bytes\":0}"

/* A run directory with a client that wants a snapshot of it beside it. */
struct fixture {
	char dir[64];
	char target[80];
	pid_t client;
	int sock;
	int go; /* the end of the pipe that it was sent */
};

static pid_t start_client(const struct fixture *f, const char *option)
{
	char *argv[] = { (char *)option, (char *)f->dir, (char *)f->target };
	pid_t pid = fork();

	if (pid == 0) {
		/* A test that runs in the background ignores it. */
		signal(SIGINT, SIG_DFL);
		signal(SIGHUP, SIG_DFL);
		_exit(option ? snapshot_main(3, argv) : snapshot_main(2, argv + 1));
	}
	assert_true(pid > 0);
	return pid;
}

static json_t *receive_all(struct fixture *f, const char *what, int *fds, unsigned *num_fds)
{
	static char buf[CONTROL_MAX_MESSAGE];
	ssize_t n = control_receive(f->sock, buf, sizeof(buf), fds, 4, num_fds, 0);
	json_t *o = json_loadb(buf, n > 0 ? n : 0, 0, NULL);

	assert_non_null(o);
	assert_string_equal(json_string_value(json_object_get(o, "do")), what);
	return o;
}

static void receive(struct fixture *f, const char *what, int *fds, unsigned *num_fds)
{
	json_decref(receive_all(f, what, fds, num_fds));
}

static void reply(struct fixture *f, const char *text)
{
	assert_int_equal(control_send(f->sock, text, strlen(text), NULL, 0, 0), strlen(text));
}

/* The socket of its run directory. */
static int listen_for(struct fixture *f)
{
	char path[96];
	int listener;

	snprintf(f->dir, sizeof(f->dir), "/tmp/wisp-test-snapshot-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->target, sizeof(f->target), "%s/saved", f->dir);
	snprintf(path, sizeof(path), "%s/" RUN_DIR_CONTROL, f->dir);
	listener = io_listen(path, SOCK_SEQPACKET, 0, 1);
	assert_true(listener >= 0);
	return listener;
}

/* A client comes to @listener, which is closed, and its guest is asked to stand still. */
static void meet_with(struct fixture *f, int listener, const char *option, const char *disks,
		      const int *disk_fds, unsigned num_disks)
{
	const struct timeval patience = { .tv_sec = 60 };
	char text[256];
	unsigned num;
	int fds[4];

	setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	f->client = start_client(f, option);
	f->sock = accept(listener, NULL, NULL);
	assert_true(f->sock >= 0);
	close(listener);
	setsockopt(f->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));

	receive(f, "disks", fds, &num);
	snprintf(text, sizeof(text),
		 "{\"ok\":true,\"disks\":[%s],\"args\":[],\"directory\":\"/\"}", disks);
	assert_int_equal(control_send(f->sock, text, strlen(text), disk_fds, num_disks, 0),
			 strlen(text));
	receive(f, "snapshot", fds, &num);
	assert_int_equal(num, 3);
	f->go = fds[0];
	close(fds[1]);
	close(fds[2]);
}

static void meet(struct fixture *f, int listener, const char *option)
{
	meet_with(f, listener, option, "", NULL, 0);
}

static void begin(struct fixture *f, const char *option)
{
	meet(f, listen_for(f), option);
}

/* It has been told that the guest stands still, and has said go. */
static void let_go(struct fixture *f)
{
	char byte;

	reply(f, "{\"progress\":{}}");
	assert_int_equal(read(f->go, &byte, 1), 1);
}

/* Its client has ended by @signal, or with status 1 (0), and nothing but the socket is left. */
static void end(struct fixture *f, int signal)
{
	struct dirent *e;
	char path[96];
	int status;
	DIR *d;

	assert_int_equal(waitpid(f->client, &status, 0), f->client);
	if (signal)
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signal);
	else
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	snprintf(path, sizeof(path), "%s/" RUN_DIR_CONTROL, f->dir);
	assert_int_equal(unlink(path), 0);
	d = opendir(f->dir);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			fail_msg("%s is left", e->d_name);
	closedir(d);
	assert_int_equal(rmdir(f->dir), 0);
	close(f->go);
	close(f->sock);
}

/* Nothing more is asked: the next that comes is the end. */
static void expect_hang_up(struct fixture *f)
{
	char buf[256];
	unsigned num;
	int fds[1];
	ssize_t n = control_receive(f->sock, buf, sizeof(buf), fds, 0, &num, 0);

	assert_true(n == 0 || n == -ECONNRESET);
}

/* Else it would stand still for good. */
static void guest_goes_on_when_its_client_is_told_to_end(void **state)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
		struct fixture f;
		unsigned num;
		int fds[4];

		begin(&f, "--stop");
		let_go(&f);
		kill(f.client, signals[i]);
		reply(&f, "{\"ok\":true,\"was_paused\":false," ANSWER);
		receive(&f, "resume", fds, &num);
		reply(&f, "{\"ok\":true}");
		end(&f, signals[i]);
	}
}

/* Until it has said go it need not wait: the monitor sees the end of the pipe. */
static void client_that_has_not_said_go_ends_at_once(void **state)
{
	struct fixture f;
	char byte;

	begin(&f, "--stop");
	kill(f.client, SIGTERM);
	assert_int_equal(read(f.go, &byte, 1), 0);
	expect_hang_up(&f);
	end(&f, SIGTERM);
}

/* A guest that goes on by itself is not waited for, and nothing half is left of the snapshot. */
static void client_whose_guest_goes_on_ends_at_once(void **state)
{
	struct fixture f;

	begin(&f, NULL);
	let_go(&f);
	kill(f.client, SIGINT);
	expect_hang_up(&f);
	end(&f, SIGINT);
}

static void guest_that_was_paused_stays_so(void **state)
{
	struct fixture f;

	begin(&f, "--stop");
	let_go(&f);
	kill(f.client, SIGTERM);
	reply(&f, "{\"ok\":true,\"was_paused\":true," ANSWER);
	expect_hang_up(&f);
	end(&f, SIGTERM);
}

/* The monitor has it go on, or not, before it says what went wrong. */
static void guest_that_could_not_be_saved_is_the_monitors(void **state)
{
	struct fixture f;

	begin(&f, "--stop");
	let_go(&f);
	reply(&f, "{\"error\":\"memory cannot be written\",\"errno\":28}");
	expect_hang_up(&f);
	end(&f, 0);
}

/*
 * A disk that is only named is on the medium before the snapshot counts. This one has a file that
 * cannot be synced, whose owner hears of it.
 */
static void disk_that_cannot_be_made_safe_is_not_saved(void **state)
{
	static const char writable[] = "{\"id\":\"a\",\"path\":\"/a\",\"read_only\":false}";
	int disk = open("/proc/version", O_RDONLY | O_CLOEXEC);
	struct fixture f;
	char byte;

	assert_int_not_equal(fsync(disk), 0);
	meet_with(&f, listen_for(&f), "--stop", writable, &disk, 1);
	reply(&f, "{\"progress\":{}}");
	assert_int_equal(read(f.go, &byte, 1), 0);
	reply(&f, "{\"error\":\"given up\",\"errno\":125}");
	end(&f, 0);
	close(disk);
}

/* In place of the microVM's parent: it is who listens, and stays until it is killed. */
static pid_t start_parent(int listener)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		listen(listener, 1);
		/* So that it is seen to do. */
		kill(getpid(), SIGSTOP);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
	return pid;
}

/* Its parent takes the directory away: before that nobody else can have its name. */
static void ended_one_is_gone_altogether(void **state)
{
	struct fixture f;
	int listener = listen_for(&f), fds[4], status;
	pid_t parent = start_parent(listener);
	char command[128];
	unsigned num;

	meet(&f, listener, "--stop");
	let_go(&f);
	reply(&f, "{\"ok\":true,\"was_paused\":false," ANSWER);
	receive(&f, "end", fds, &num);
	reply(&f, "{\"ok\":true,\"end\":\"asked\",\"status\":0}");
	/* It may only be slow to end; one that does not wait is seen more often than not. */
	usleep(200000);
	assert_int_equal(waitpid(f.client, &status, WNOHANG), 0);
	kill(parent, SIGKILL);
	assert_int_equal(waitpid(f.client, &status, 0), f.client);
	assert_int_equal(status, 0);
	assert_int_equal(waitpid(parent, &status, 0), parent);
	snprintf(command, sizeof(command), "rm -r '%s'", f.dir);
	assert_int_equal(system(command), 0);
	close(f.go);
	close(f.sock);
}

/* The monitor knows whether somebody else had it go on; what is saved stays, for what it is. */
static void guest_that_went_on_is_not_ended(void **state)
{
	struct fixture f;
	char command[128];
	unsigned num;
	int fds[4], status;
	json_t *o;

	begin(&f, "--stop");
	let_go(&f);
	reply(&f, "{\"ok\":true,\"was_paused\":false,\"runs\":7," ANSWER);
	o = receive_all(&f, "end", fds, &num);
	assert_int_equal(json_integer_value(json_object_get(o, "runs")), 7);
	json_decref(o);
	snprintf(command, sizeof(command), "! grep -q runs '%s/manifest.json'", f.target);
	assert_int_equal(system(command), 0);
	reply(&f, "{\"error\":\"it has gone on\",\"errno\":116}");
	assert_int_equal(waitpid(f.client, &status, 0), f.client);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	snprintf(command, sizeof(command), "rm -r '%s'", f.dir);
	assert_int_equal(system(command), 0);
	close(f.go);
	close(f.sock);
}

/* As when somebody had it go on, and it powered off: what it wrote since is not known. */
static void guest_that_ended_by_itself_is_not_what_was_saved(void **state)
{
	struct fixture f;
	char command[128];
	unsigned num;
	int fds[4], status;

	begin(&f, "--stop");
	let_go(&f);
	reply(&f, "{\"ok\":true,\"was_paused\":false,\"runs\":7," ANSWER);
	receive(&f, "end", fds, &num);
	close(f.sock);
	assert_int_equal(waitpid(f.client, &status, 0), f.client);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	snprintf(command, sizeof(command), "rm -r '%s'", f.dir);
	assert_int_equal(system(command), 0);
	close(f.go);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_goes_on_when_its_client_is_told_to_end),
		cmocka_unit_test(client_that_has_not_said_go_ends_at_once),
		cmocka_unit_test(client_whose_guest_goes_on_ends_at_once),
		cmocka_unit_test(guest_that_was_paused_stays_so),
		cmocka_unit_test(guest_that_could_not_be_saved_is_the_monitors),
		cmocka_unit_test(disk_that_cannot_be_made_safe_is_not_saved),
		cmocka_unit_test(ended_one_is_gone_altogether),
		cmocka_unit_test(guest_that_went_on_is_not_ended),
		cmocka_unit_test(guest_that_ended_by_itself_is_not_what_was_saved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
