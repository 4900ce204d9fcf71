/* The guest's half of `wisp exec`, run here: a command between frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guests/agent/command.c"
#include "tests/unit/patience.h"
#include "vmm/core/util.h"

#define MAX_TEXT 4096

/* A session in a process of its own, and what it has said. */
struct fixture {
	int sock;
	pid_t agent;
	struct agent_frame frame;
	char out[MAX_TEXT], err[MAX_TEXT];
	size_t out_len, err_len, taken, total_out;
};

static void begin(struct fixture *f)
{
	int pair[2];

	memset(f, 0, sizeof(*f));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->agent = fork();
	if (f->agent == 0) {
		close(pair[0]);
		if (agent_receive(pair[1], &f->frame) > 0)
			run_command(pair[1], &f->frame);
		_exit(0);
	}
	close(pair[1]);
	f->sock = pair[0];
}

static void end(struct fixture *f)
{
	int status;

	close(f->sock);
	assert_int_equal(waitpid(f->agent, &status, 0), f->agent);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void say(struct fixture *f, enum agent_type type, const char *text)
{
	assert_int_equal(agent_send(f->sock, type, text, strlen(text)), 0);
}

static void run_shell(struct fixture *f, const char *script)
{
	say(f, AGENT_ARG, "sh");
	say(f, AGENT_ARG, "-c");
	say(f, AGENT_ARG, script);
	say(f, AGENT_RUN, "");
}

static void add(char *to, size_t *len, const struct agent_frame *f)
{
	size_t n = MIN((size_t)f->len, MAX_TEXT - 1 - *len);

	memcpy(to + *len, f->data, n);
	*len += n;
}

/* Take one frame. Returns its type. */
static int take(struct fixture *f)
{
	struct agent_frame *m = &f->frame;

	assert_int_equal(agent_receive(f->sock, m), 1);
	if (m->type == AGENT_OUTPUT) {
		add(f->out, &f->out_len, m);
		f->total_out += m->len;
	} else if (m->type == AGENT_ERRORS) {
		add(f->err, &f->err_len, m);
	} else if (m->type == AGENT_TAKEN) {
		f->taken += get_le32(m->data);
	}
	return m->type;
}

static void await_output(struct fixture *f, const char *text)
{
	while (!strstr(f->out, text))
		assert_int_equal(take(f), AGENT_OUTPUT);
}

/* Up to the end, which is to be (0, status) or (1, signal). */
static void expect_end(struct fixture *f, int by_signal, int number)
{
	int type;

	while ((type = take(f)) != AGENT_ENDED)
		assert_true(type == AGENT_OUTPUT || type == AGENT_ERRORS || type == AGENT_TAKEN);
	assert_int_equal(f->frame.len, 2);
	assert_int_equal(f->frame.data[0], by_signal);
	assert_int_equal((uint8_t)f->frame.data[1], number);
}

static void streams_and_status_are_the_commands(void **state)
{
	struct fixture f;

	begin(&f);
	run_shell(&f, "printf out; printf err >&2; exit 42");
	expect_end(&f, 0, 42);
	assert_string_equal(f.out, "out");
	assert_string_equal(f.err, "err");
	end(&f);
	begin(&f);
	run_shell(&f, "kill -USR1 $$");
	expect_end(&f, 1, SIGUSR1);
	end(&f);
}

static void environment_and_directory_are_as_asked(void **state)
{
	struct fixture f;

	begin(&f);
	say(&f, AGENT_VARIABLE, "COLOUR=deep blue");
	say(&f, AGENT_DIRECTORY, "/usr");
	run_shell(&f, "echo \"$COLOUR in $PWD\"");
	expect_end(&f, 0, 0);
	assert_string_equal(f.out, "deep blue in /usr\n");
	end(&f);
}

/* As many and as long as Linux takes them. */
static void words_may_be_longer_than_a_frame_and_many(void **state)
{
	static char piece[AGENT_MAX_FRAME + 1];
	struct fixture f;

	memset(piece, 'x', AGENT_MAX_FRAME);
	begin(&f);
	say(&f, AGENT_ARG, "sh");
	say(&f, AGENT_ARG, "-c");
	say(&f, AGENT_ARG, "echo $# ${#0} ${#V}");
	for (unsigned i = 0; i < 3; i++)
		say(&f, AGENT_PART, piece);
	say(&f, AGENT_ARG, "end");
	for (unsigned i = 0; i < 2000; i++)
		say(&f, AGENT_ARG, "y");
	say(&f, AGENT_PART, "V=abc");
	say(&f, AGENT_VARIABLE, "def");
	say(&f, AGENT_RUN, "");
	expect_end(&f, 0, 0);
	assert_string_equal(f.out, "2000 98307 6\n");
	end(&f);
	begin(&f);
	for (unsigned i = 0; i < 4; i++)
		say(&f, AGENT_PART, piece);
	assert_int_equal(take(&f), AGENT_FAILED);
	assert_int_equal(get_le32(f.frame.data), E2BIG);
	end(&f);
}

static void command_that_is_not_there_is_a_failure(void **state)
{
	struct fixture f;

	begin(&f);
	say(&f, AGENT_ARG, "/no/such/program");
	say(&f, AGENT_RUN, "");
	assert_int_equal(take(&f), AGENT_FAILED);
	assert_int_equal(get_le32(f.frame.data), ENOENT);
	end(&f);
	begin(&f);
	say(&f, AGENT_DIRECTORY, "/no/such/directory");
	run_shell(&f, "true");
	assert_int_equal(take(&f), AGENT_FAILED);
	assert_string_equal(f.frame.data + 4, "enter: /no/such/directory");
	end(&f);
	begin(&f);
	say(&f, AGENT_RUN, "");
	assert_int_equal(take(&f), AGENT_FAILED);
	end(&f);
}

static void input_ends_when_it_is_said_to(void **state)
{
	struct fixture f;

	begin(&f);
	run_shell(&f, "cat; echo over");
	say(&f, AGENT_INPUT, "some");
	say(&f, AGENT_INPUT, "thing ");
	say(&f, AGENT_INPUT, "");
	expect_end(&f, 0, 0);
	assert_string_equal(f.out, "something over\n");
	assert_int_equal(f.taken, 10);
	end(&f);
}

static void command_that_does_not_read_still_hears_signals(void **state)
{
	static char block[AGENT_MAX_FRAME];
	struct fixture f;
	uint8_t number = SIGTERM;

	begin(&f);
	run_shell(&f, "echo up; exec sleep 100");
	await_output(&f, "up\n");
	/* All that may be sent without being taken. */
	for (unsigned i = 0; i < AGENT_WINDOW / sizeof(block); i++)
		assert_int_equal(agent_send(f.sock, AGENT_INPUT, block, sizeof(block)), 0);
	assert_int_equal(agent_send(f.sock, AGENT_SIGNAL, &number, 1), 0);
	expect_end(&f, 1, SIGTERM);
	end(&f);
}

static void more_input_than_may_be_sent_ends_the_session(void **state)
{
	static char block[AGENT_MAX_FRAME];
	struct fixture f;
	int r;

	begin(&f);
	run_shell(&f, "exec sleep 100");
	do
		r = agent_send(f.sock, AGENT_INPUT, block, sizeof(block));
	while (r == 0);
	assert_true(r == -EPIPE || r == -ECONNRESET);
	end(&f);
}

static void input_that_nobody_reads_is_dropped(void **state)
{
	static char block[AGENT_MAX_FRAME];
	uint8_t number = SIGUSR1;
	struct fixture f;

	begin(&f);
	/* It ends when it is told to, after all that input. */
	run_shell(&f, "exec <&-; trap 'echo alive; exit 0' USR1; echo closed; "
		      "while :; do sleep 0.1; done");
	await_output(&f, "closed\n");
	for (unsigned i = 0; i < AGENT_WINDOW / sizeof(block); i++)
		assert_int_equal(agent_send(f.sock, AGENT_INPUT, block, sizeof(block)), 0);
	assert_int_equal(agent_send(f.sock, AGENT_SIGNAL, &number, 1), 0);
	expect_end(&f, 0, 0);
	assert_string_equal(f.out, "closed\nalive\n");
	end(&f);
}

static void output_is_complete_at_the_end(void **state)
{
	struct fixture f;

	begin(&f);
	run_shell(&f, "head -c 10000000 /dev/zero");
	expect_end(&f, 0, 0);
	assert_int_equal(f.total_out, 10000000);
	end(&f);
}

static void what_stays_behind_does_not_hold_up_the_end(void **state)
{
	struct fixture f;

	begin(&f);
	run_shell(&f, "sleep 100 & echo $!");
	expect_end(&f, 0, 0);
	assert_int_equal(kill(strtol(f.out, NULL, 10), SIGKILL), 0);
	end(&f);
}

static void host_that_leaves_hangs_up(void **state)
{
	struct fixture f;
	uint64_t over;

	begin(&f);
	run_shell(&f, "echo $$; exec sleep 100");
	await_output(&f, "\n");
	close(f.sock);
	f.sock = -1;
	assert_int_equal(waitpid(f.agent, NULL, 0), f.agent);
	/* Its parent did not wait for it, and it is gone all the same. */
	over = patience();
	while (kill(strtol(f.out, NULL, 10), 0) == 0) {
		assert_false(patience_ends(over));
		usleep(10000);
	}
}

static void terminal_has_a_size_that_follows(void **state)
{
	const uint8_t size[4] = { 33, 0, 99, 0 }, other[4] = { 44, 0, 111, 0 };
	struct fixture f;

	begin(&f);
	assert_int_equal(agent_send(f.sock, AGENT_TERMINAL, size, sizeof(size)), 0);
	run_shell(&f, "tty; stty size; read -r a; stty size; exit 5");
	await_output(&f, "33 99\r\n");
	assert_non_null(strstr(f.out, "/dev/pts/"));
	assert_int_equal(agent_send(f.sock, AGENT_WINDOW_SIZE, other, sizeof(other)), 0);
	say(&f, AGENT_INPUT, "\n");
	expect_end(&f, 0, 5);
	assert_non_null(strstr(f.out, "44 111\r\n"));
	end(&f);
}

static void terminal_turns_keys_into_signals(void **state)
{
	const uint8_t size[4] = { 24, 0, 80, 0 };
	struct fixture f;

	begin(&f);
	assert_int_equal(agent_send(f.sock, AGENT_TERMINAL, size, sizeof(size)), 0);
	run_shell(&f, "echo up; exec sleep 100");
	await_output(&f, "up\r\n");
	say(&f, AGENT_INPUT, "\x03");
	expect_end(&f, 1, SIGINT);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_and_status_are_the_commands),
		cmocka_unit_test(environment_and_directory_are_as_asked),
		cmocka_unit_test(words_may_be_longer_than_a_frame_and_many),
		cmocka_unit_test(command_that_is_not_there_is_a_failure),
		cmocka_unit_test(input_ends_when_it_is_said_to),
		cmocka_unit_test(command_that_does_not_read_still_hears_signals),
		cmocka_unit_test(more_input_than_may_be_sent_ends_the_session),
		cmocka_unit_test(input_that_nobody_reads_is_dropped),
		cmocka_unit_test(output_is_complete_at_the_end),
		cmocka_unit_test(what_stays_behind_does_not_hold_up_the_end),
		cmocka_unit_test(host_that_leaves_hangs_up),
		cmocka_unit_test(terminal_has_a_size_that_follows),
		cmocka_unit_test(terminal_turns_keys_into_signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
