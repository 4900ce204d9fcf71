/* The host's half of `wisp exec` with a guest that cannot be relied on: the test is the guest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "tests/unit/patience.h"
#include "vmm/cli/cli_exec.c"

#define INPUT_BYTES 65536u /* as much as a pipe holds */

struct fixture {
	pid_t pid;
	int sock; /* the guest's end */
	int out;  /* what the command prints */
	struct agent_frame frame;
};

/* Serve, in a process of its own; @input: that much is on its standard input, then the end. */
static void begin(struct fixture *f, size_t input, int send_buffer)
{
	int pair[2], in[2], out[2], ready[2];
	static char bytes[INPUT_BYTES];
	struct error err = { 0 };
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	assert_int_equal(pipe(ready), 0);
	if (send_buffer)
		assert_int_equal(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &send_buffer,
					    sizeof(send_buffer)),
				 0);
	memset(bytes, 'i', sizeof(bytes));
	assert_int_equal(write(in[1], bytes, input), input);
	f->pid = fork();
	assert_true(f->pid >= 0);
	if (f->pid == 0) {
		struct exec e = { .sock = pair[0], .signals = open_signals(false) };
		int r;

		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		close(in[1]);
		close(pair[1]);
		if (write(ready[1], "", 1) != 1)
			_exit(98);
		r = serve(&e, &err);
		_exit(r == 1 || e.status ? e.status : 99);
	}
	close(pair[0]);
	close(in[0]);
	/* Without input it stays open, and nothing comes. */
	if (input)
		close(in[1]);
	close(out[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	f->sock = pair[1];
	f->out = out[0];
}

static int end(struct fixture *f)
{
	int status = 0, gone = 0;

	for (uint64_t limit = patience(); !gone && !patience_ends(limit); usleep(1000))
		gone = waitpid(f->pid, &status, WNOHANG);
	if (!gone)
		kill(f->pid, SIGKILL);
	assert_int_equal(gone, f->pid);
	close(f->sock);
	close(f->out);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void expect_signal(struct fixture *f, int number)
{
	assert_int_equal(agent_receive(f->sock, &f->frame), 1);
	assert_int_equal(f->frame.type, AGENT_SIGNAL);
	assert_int_equal(f->frame.data[0], number);
}

/* Different ones: of one kind the kernel keeps no more than one. */
static void insist(struct fixture *f)
{
	kill(f->pid, SIGTERM);
	kill(f->pid, SIGINT);
	kill(f->pid, SIGQUIT);
}

static void half_a_frame_keeps_nobody(void **state)
{
	unsigned signals = 0;
	struct fixture f;
	int status;

	begin(&f, 0, 0);
	assert_int_equal(write(f.sock, "\x64\0\0\0" "ohalf", 9), 9);
	insist(&f);
	while (signals < 3 && agent_receive(f.sock, &f.frame) == 1)
		signals += f.frame.type == AGENT_SIGNAL;
	assert_int_equal(signals, 3);
	status = end(&f);
	assert_true(status == 128 + SIGTERM || status == 128 + SIGINT || status == 128 + SIGQUIT);
}

static void a_guest_that_takes_nothing_keeps_nobody(void **state)
{
	struct fixture f;

	begin(&f, INPUT_BYTES, 1);
	insist(&f);
	assert_true(end(&f) > 128);
}

static void signals_count_from_what_was_heard_last(void **state)
{
	static const uint8_t ended[2] = { 0, 7 };
	struct fixture f;
	char text[8] = "";

	begin(&f, 0, 0);
	for (int i = 0; i < 3; i++) {
		kill(f.pid, SIGINT);
		expect_signal(&f, SIGINT);
		kill(f.pid, SIGTERM);
		expect_signal(&f, SIGTERM);
		assert_int_equal(agent_send(f.sock, AGENT_OUTPUT, "ouch", 4), 0);
		assert_int_equal(read(f.out, text, sizeof(text)), 4);
		assert_string_equal(text, "ouch");
	}
	assert_int_equal(agent_send(f.sock, AGENT_ENDED, ended, sizeof(ended)), 0);
	assert_int_equal(end(&f), 7);
}

/* A frame goes out in many pieces, and comes in by single bytes. */
static void pieces_make_a_whole(void **state)
{
	char frames[64];
	size_t len = agent_pack(frames, AGENT_OUTPUT, "abc", 3), got = 0;
	struct fixture f;
	char text[8] = "";

	begin(&f, INPUT_BYTES, 1);
	for (;;) {
		assert_int_equal(agent_receive(f.sock, &f.frame), 1);
		assert_int_equal(f.frame.type, AGENT_INPUT);
		got += f.frame.len;
		if (!f.frame.len)
			break;
		for (size_t i = 0; i < f.frame.len; i++)
			assert_int_equal(f.frame.data[i], 'i');
	}
	assert_int_equal(got, INPUT_BYTES);
	len += agent_pack(frames + len, AGENT_ENDED, "\0\x03", 2);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(write(f.sock, frames + i, 1), 1);
	assert_int_equal(read(f.out, text, sizeof(text)), 3);
	assert_string_equal(text, "abc");
	assert_int_equal(end(&f), 3);
}

/* More than a pipe holds; as the guest's, it takes all of it. */
static void say_much(struct fixture *f)
{
	static char bytes[AGENT_MAX_FRAME];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i % 251);
	for (size_t len = 0; len <= 2 * INPUT_BYTES; len += sizeof(bytes))
		assert_int_equal(agent_send(f->sock, AGENT_OUTPUT, bytes, sizeof(bytes)), 0);
}

/* Wait until there is no more room for what the command says. */
static void await_full(const struct fixture *f)
{
	int held = 0;

	for (uint64_t limit = patience(); held < (int)INPUT_BYTES && !patience_ends(limit);
	     usleep(1000))
		assert_int_equal(ioctl(f->out, FIONREAD, &held), 0);
	assert_int_equal(held, INPUT_BYTES);
}

static void output_that_nobody_reads_keeps_nobody(void **state)
{
	struct fixture f;

	begin(&f, 0, 0);
	say_much(&f);
	await_full(&f);
	kill(f.pid, SIGINT);
	expect_signal(&f, SIGINT);
	kill(f.pid, SIGTERM);
	expect_signal(&f, SIGTERM);
	kill(f.pid, SIGINT);
	assert_int_equal(end(&f), 128 + SIGINT);
}

static void output_that_is_read_late_is_all_there(void **state)
{
	size_t len = 0;
	struct fixture f;
	char buf[4096];
	ssize_t n;

	begin(&f, 0, 0);
	say_much(&f);
	assert_int_equal(agent_send(f.sock, AGENT_ENDED, "\0\x05", 2), 0);
	await_full(&f);
	while ((n = read(f.out, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++, len++)
			assert_int_equal((uint8_t)buf[i], len % AGENT_MAX_FRAME % 251);
	assert_true(len > 2 * INPUT_BYTES);
	assert_int_equal(len % AGENT_MAX_FRAME, 0);
	assert_int_equal(end(&f), 5);
}

/* Where it cannot be opened once more, as a socket. */
static void output_to_a_socket_keeps_nobody(void **state)
{
	struct exec e = { .frame.len = AGENT_MAX_FRAME };
	struct error err = { 0 };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	open_output(&e.output, pair[0]);
	assert_int_equal(e.output.fd, pair[0]);
	assert_int_equal(e.output.most, PIPE_BUF);
	e.waits = &e.output;
	for (size_t written = PIPE_BUF; e.waits; written += PIPE_BUF) {
		assert_int_equal(write_some(&e, &err), 0);
		assert_int_equal(e.written, MIN(written, (size_t)AGENT_MAX_FRAME));
	}
	e.waits = &e.output;
	e.written = 0;
	close(pair[1]);
	assert_int_equal(write_some(&e, &err), -EPIPE);
	close(pair[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(half_a_frame_keeps_nobody),
		cmocka_unit_test(a_guest_that_takes_nothing_keeps_nobody),
		cmocka_unit_test(signals_count_from_what_was_heard_last),
		cmocka_unit_test(pieces_make_a_whole),
		cmocka_unit_test(output_that_nobody_reads_keeps_nobody),
		cmocka_unit_test(output_that_is_read_late_is_all_there),
		cmocka_unit_test(output_to_a_socket_keeps_nobody),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
