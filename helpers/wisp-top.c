/*
 * wisp-top - all running microVMs on one screen. Run by `wisp top`, since the monitor does not
 * carry ncurses. What is drawn is in helpers/top_screen.c; this drives the terminal and asks.
 */
#include <curses.h>
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "helpers/top.h"
#include "vmm/cli/cli_control.h"
#include "vmm/control/control_client.h"
#include "vmm/core/clock.h"
#include "vmm/fleet/fleet.h"

/* On the screen, those that do not answer must not make the others wait for long. */
#define PATIENCE_MS 500

/* Without a terminal. */
#define ONCE_COLUMNS 132

#define MAX_ASKED 8

/* A request that is on its way: a stop takes as long as the guest takes to power off. */
struct asked {
	int sock; /* -1: none */
	char id[72];
	const char *verb;
};

struct top {
	const struct control_options *options;
	struct top_sample sample[2];
	unsigned now; /* which of both */
	bool has_before;
	struct top_view view;
	struct asked asked[MAX_ASKED];
	bool confirming; /* the next key says whether view.selected is killed */
	struct top_screen screen;
};

/* ---- figures ---- */

/* The sample before the last gives way. */
static int sample(struct top *t, struct error *err)
{
	struct fleet_query query = {
		.run_dir = t->options->run_dir,
		.counters = true,
		.patience_ms = t->options->once ? 0 : PATIENCE_MS,
	};
	struct top_sample *s = &t->sample[!t->now];
	json_t *machines = NULL;
	int r = fleet_list(&query, &machines, err);

	if (r < 0)
		return r;
	top_sample_done(s);
	s->time_ms = clock_monotonic_ns(NULL) / NSEC_PER_MSEC;
	r = top_sample_fill(s, machines);
	json_decref(machines);
	if (!r)
		r = host_room_read(&s->room);
	if (r < 0)
		return error_set(err, r, "figures: %s", strerror(-r));
	if (getloadavg(s->load, 3) != 3)
		memset(s->load, 0, sizeof(s->load));
	t->has_before = t->sample[t->now].machine != NULL;
	t->now = !t->now;
	return 0;
}

static const struct top_sample *before(const struct top *t)
{
	return t->has_before ? &t->sample[!t->now] : NULL;
}

/* ---- what the user asks of microVMs ---- */

static void say(struct top *t, const char *verb, const char *id, const char *what)
{
	snprintf(t->view.message, sizeof(t->view.message), "%s %.72s: %.60s", verb, id, what);
}

/* Send it, and let the answer come when it comes. */
static void ask(struct top *t, const char *verb)
{
	struct asked *a = NULL;
	struct error err = { 0 };
	char text[32];
	int len = snprintf(text, sizeof(text), "{\"do\":\"%s\"}", verb);

	if (!*t->view.selected)
		return;
	for (unsigned i = 0; i < MAX_ASKED && !a; i++)
		if (t->asked[i].sock < 0)
			a = &t->asked[i];
	if (!a) {
		say(t, verb, t->view.selected, "too much is going on already");
		return;
	}
	a->sock = control_connect_in(t->options->run_dir, t->view.selected, &err);
	if (a->sock < 0 || control_send(a->sock, text, len, NULL, 0, MSG_DONTWAIT) < 0) {
		say(t, verb, t->view.selected, a->sock < 0 ? err.msg : "it does not listen");
		if (a->sock >= 0)
			close(a->sock);
		a->sock = -1;
		return;
	}
	a->verb = verb;
	snprintf(a->id, sizeof(a->id), "%s", t->view.selected);
	say(t, verb, a->id, "asked");
}

static void take_answer(struct top *t, struct asked *a)
{
	char text[4096];
	unsigned none;
	ssize_t n = control_receive(a->sock, text, sizeof(text), NULL, 0, &none, MSG_DONTWAIT);
	json_t *o;

	if (n == -EAGAIN)
		return;
	o = n > 0 ? json_loadb(text, n, 0, NULL) : NULL;
	/* One that hangs up has ended. */
	say(t, a->verb, a->id, json_object_get(o, "error") ? fleet_text(o, "error") : "done");
	json_decref(o);
	close(a->sock);
	a->sock = -1;
}

/* None while a question stands where they are shown. */
static void take_answers(struct top *t)
{
	for (unsigned i = 0; i < MAX_ASKED && !t->confirming; i++)
		if (t->asked[i].sock >= 0)
			take_answer(t, &t->asked[i]);
}

static const char *selected_state(const struct top *t)
{
	const struct top_sample *s = &t->sample[t->now];

	for (unsigned i = 0; i < s->num; i++)
		if (!strcmp(s->machine[i].id, t->view.selected))
			return s->machine[i].state;
	return "";
}

/* ---- the terminal ---- */

static volatile sig_atomic_t ended_by;

static void on_end(int number)
{
	ended_by = number;
}

/*
 * The screen is given back first; ncurses would end us with a status of its own. What is ignored,
 * as nohup has SIGHUP, stays so.
 */
static void heed_signals(void)
{
	static const int number[] = { SIGINT, SIGTERM, SIGHUP };
	const struct sigaction heeded = { .sa_handler = on_end };
	struct sigaction was;

	for (unsigned i = 0; i < ARRAY_SIZE(number); i++)
		if (sigaction(number[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN)
			sigaction(number[i], &heeded, NULL);
}

/* As anybody ends whom that signal ended. */
static void end_by_signal(void)
{
	signal(ended_by, SIG_DFL);
	raise(ended_by);
}

static attr_t attributes(enum top_style style)
{
	switch (style) {
	case TOP_BOLD:
		return A_BOLD;
	case TOP_HEAD:
	case TOP_SELECTED:
		return A_REVERSE;
	case TOP_LOW:
	case TOP_MEDIUM:
	case TOP_HIGH:
		return COLOR_PAIR(style);
	default:
		return A_NORMAL;
	}
}

/* Can this terminal write anywhere but in its last line? */
static bool cursor_moves(void)
{
	const char *move = tigetstr("cup");

	return move && move != (char *)-1;
}

static int open_terminal(struct error *err)
{
	const char *type = getenv("TERM");
	/* Not initscr(), which ends the program with words of its own. */
	SCREEN *screen = newterm(NULL, stdout, stdin);

	if (!screen || !cursor_moves()) {
		if (screen)
			endwin();
		error_usage(err, -ENOTTY, "top: terminals of type '%s' (TERM) %s",
			    type ? type : "", screen ? "have no screen" : "are not known");
		error_hint(err, "'wisp top --once' prints one screen");
		return -ENOTTY;
	}
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	if (has_colors()) {
		start_color();
		use_default_colors();
		init_pair(TOP_LOW, COLOR_GREEN, -1);
		init_pair(TOP_MEDIUM, COLOR_YELLOW, -1);
		init_pair(TOP_HIGH, COLOR_RED, -1);
	}
	return 0;
}

static void show(struct top *t)
{
	top_screen_init(&t->screen, LINES, COLS);
	top_draw(&t->screen, before(t), &t->sample[t->now], &t->view);
	for (unsigned r = 0; r < t->screen.rows; r++)
		for (unsigned c = 0; c < t->screen.columns; c++) {
			const struct top_cell *cell = &t->screen.cell[r][c];

			mvaddch((int)r, (int)c, (unsigned char)cell->ch | attributes(cell->style));
		}
	refresh();
}

/* Returns false to quit. */
static bool act_on_key(struct top *t, int key)
{
	if (t->confirming) {
		t->confirming = false;
		if (key == 'y')
			ask(t, "kill");
		else
			say(t, "kill", t->view.selected, "not done");
		return true;
	}
	*t->view.message = '\0';
	/* What is not seen is not acted on. */
	if (t->screen.rows < TOP_MIN_ROWS)
		return key != 'q';
	switch (key) {
	case 'q':
		return false;
	case KEY_UP:
		top_move(before(t), &t->sample[t->now], &t->view, -1);
		break;
	case KEY_DOWN:
		top_move(before(t), &t->sample[t->now], &t->view, 1);
		break;
	case 'o':
		t->view.order = (t->view.order + 1) % TOP_NUM_ORDERS;
		break;
	case 'p':
		ask(t, strcmp(selected_state(t), "paused") == 0 ? "resume" : "pause");
		break;
	case 's':
		ask(t, "stop");
		break;
	case 'k':
		if (!*t->view.selected)
			break;
		t->confirming = true;
		say(t, "kill", t->view.selected, "y kills it without asking its guest");
		break;
	default:
		break;
	}
	return true;
}

/* Keys are answered at once, figures come every --delay. */
static int run_screen(struct top *t, struct error *err)
{
	uint64_t period_ns = t->options->delay_seconds * NSEC_PER_SEC, next_ns = 0, now_ns;
	bool go_on = true;
	int r = open_terminal(err);

	if (r < 0)
		return r;
	t->view.keys = true;
	while (go_on && !r && !ended_by) {
		int key;

		take_answers(t);
		now_ns = clock_monotonic_ns(NULL);
		if (now_ns >= next_ns) {
			r = sample(t, err);
			next_ns = now_ns + period_ns;
		}
		if (!r)
			show(t);
		/* Answers are looked for now and then. */
		timeout((int)MIN((next_ns - now_ns) / NSEC_PER_MSEC + 1, (uint64_t)250));
		key = getch();
		/* Its reader is gone, or nothing was typed. */
		if (key == ERR && !isatty(STDIN_FILENO))
			break;
		if (key != ERR) {
			go_on = act_on_key(t, key);
			/* What it does is seen soon. */
			next_ns = MIN(next_ns, now_ns + 300 * NSEC_PER_MSEC);
		}
	}
	endwin();
	if (ended_by)
		end_by_signal();
	return r;
}

/* --once: two samples and one screen, as text. */
static int print_once(struct top *t, struct error *err)
{
	const char *width = getenv("COLUMNS");
	unsigned columns = width ? strtoul(width, NULL, 10) : 0;
	int r = sample(t, err);

	if (!r) {
		sleep(t->options->delay_seconds);
		r = sample(t, err);
	}
	if (r < 0)
		return r;
	top_screen_init(&t->screen, t->sample[t->now].num + 7, columns ? columns : ONCE_COLUMNS);
	top_draw(&t->screen, before(t), &t->sample[t->now], &t->view);
	for (unsigned row = 0; row + 2 < t->screen.rows; row++) {
		unsigned len = t->screen.columns;

		while (len && t->screen.cell[row][len - 1].ch == ' ')
			len--;
		for (unsigned c = 0; c < len; c++)
			putchar(t->screen.cell[row][c].ch);
		putchar('\n');
	}
	return fflush(stdout) ? error_set(err, -errno, "standard output: %m") : 0;
}

static int run(struct top *t, struct error *err)
{
	for (unsigned i = 0; i < MAX_ASKED; i++)
		t->asked[i].sock = -1;
	if (t->options->once)
		return print_once(t, err);
	if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
		heed_signals();
		return run_screen(t, err);
	}
	error_usage(err, -ENOTTY, "top: there is no terminal");
	error_hint(err, "'wisp top --once' prints one screen");
	return -ENOTTY;
}

int main(int argc, char **argv)
{
	struct control_options options = { .delay_seconds = 2 };
	struct top *t = calloc(1, sizeof(*t));
	struct error err = { 0 };
	int r;

	if (!t)
		return 1;
	t->options = &options;
	setlocale(LC_ALL, "");
	r = config_parse_verb("top", control_top_options, &options, argc - 1, argv + 1, NULL, 0,
			      &err);
	if (!r)
		r = run(t, &err);
	if (r < 0)
		error_print(&err);
	top_sample_done(&t->sample[0]);
	top_sample_done(&t->sample[1]);
	free(t);
	control_options_done(&options);
	return r < 0 ? error_status(&err) : 0;
}
