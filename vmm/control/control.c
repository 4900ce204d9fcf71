#include "vmm/control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/control/control_client.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate.h"

/* One of them each for the REST API, `wisp top`, a console; and some to ask now and then. */
#define MAX_CONNECTIONS 32
#define ACCEPT_AGAIN_NS (100 * NSEC_PER_MSEC)

struct connection;

struct control_call {
	struct connection *conn;
	const struct control_verb *verb;
	json_t *args;
	int fd[CONTROL_MAX_FDS];
	unsigned num_fds;
	bool at_end; /* answered by the machine's end */
	bool events; /* and told what happens until then */
	void (*cancel)(void *arg); /* has it answered when the machine ends first; or NULL */
	void *cancel_arg;
};

struct connection {
	struct list link;
	struct control *control;
	int fd;
	struct loop_op poll_op;
	bool polling;
	bool closing;
	struct control_call *call; /* the request at hand: the next is read after its answer */
	bool behind; /* it listens to events, and had no room for the last one */
	/* An answer that its reader has no room for yet. */
	char *out;
	size_t out_len;
	int out_fd[CONTROL_MAX_FDS];
	unsigned num_out_fds;
};

struct control {
	struct machine *machine;
	struct loop *loop;
	int listen_fd;
	struct loop_op accept_op;
	struct loop_timer accept_again;
	bool accepting;
	bool closing;
	struct list connections;
	unsigned num_connections;
	const struct control_call *alone; /* the one at hand whose verb says so */
	const struct connection *keeper;  /* whose client the guest stands still for, or NULL */
	bool forsaken;			  /* that has left, and @alone is to be answered first */
	const struct machine_end *end;	  /* once @closing */
	uint64_t start_ns;
	pid_t pid, parent;
	uid_t user; /* who may connect; the monitor may become another one later */
};

static void watch(struct connection *c);
static void tell_state(struct control_call *call);

static void close_fds(int *fds, unsigned num)
{
	for (unsigned i = 0; i < num; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* ---- connections ---- */

/* Its client has left without a word on what becomes of the guest. */
static void go_on_without(struct control *control)
{
	control->keeper = NULL;
	/* Who is at work on a guest that stood still is not to see it run. */
	control->forsaken = control->alone;
	if (control->forsaken || control->closing || !machine_is_paused(control->machine))
		return;
	log_info("who let the guest stand still has left: it goes on");
	machine_resume(control->machine);
}

static void connection_free(struct connection *c)
{
	list_del(&c->link);
	c->control->num_connections--;
	if (c->control->keeper == c)
		go_on_without(c->control);
	close_fds(c->out_fd, c->num_out_fds);
	free(c->out);
	close(c->fd);
	free(c);
}

/* At once, or when the operation and the request at hand have come to their end. */
static void hang_up(struct connection *c)
{
	c->closing = true;
	if (c->polling)
		loop_cancel(c->control->loop, &c->poll_op);
	else if (!c->call)
		connection_free(c);
}

/* False: its reader has left, and the connection may be gone. */
static bool flush_answer(struct connection *c)
{
	ssize_t n = control_send(c->fd, c->out, c->out_len, c->out_fd, c->num_out_fds,
				 MSG_DONTWAIT);

	if (n == -EAGAIN)
		return true;
	close_fds(c->out_fd, c->num_out_fds);
	c->num_out_fds = 0;
	free(c->out);
	c->out = NULL;
	if (n < 0)
		hang_up(c);
	return n >= 0;
}

/* Copies, which the answer keeps until it is sent. All, or -errno and none. */
static int copy_fds(struct connection *c, const int *fds, unsigned num)
{
	for (unsigned i = 0; i < num; i++) {
		c->out_fd[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (c->out_fd[i] < 0) {
			int r = -errno;

			close_fds(c->out_fd, i);
			return r;
		}
	}
	c->num_out_fds = num;
	return 0;
}

static json_t *failure(int error, const char *text)
{
	return json_pack("{s:s, s:i}", "error", text, "errno", abs(error));
}

/* @object is taken over. NULL: no memory. */
static char *to_text(json_t *object)
{
	char *text = json_dumps(object, JSON_COMPACT);

	json_decref(object);
	return text;
}

/* The call's one answer, @object taken over; the call is gone afterwards. */
static void answer(struct control_call *call, json_t *object, const int *fds, unsigned num_fds)
{
	struct connection *c = call->conn;
	struct control *control = c->control;
	char *text = to_text(object);
	int r = text && strlen(text) > CONTROL_MAX_MESSAGE ? -EMSGSIZE : copy_fds(c, fds, num_fds);

	if (r < 0) {
		free(text);
		text = to_text(failure(r, r == -EMSGSIZE ?
						"the answer is too long for a message" :
						"no descriptors are left for the answer's files"));
	}
	if (control->alone == call)
		control->alone = NULL;
	close_fds(call->fd, call->num_fds);
	json_decref(call->args);
	free(call);
	c->call = NULL;
	c->behind = false;
	if (control->forsaken && !control->alone)
		go_on_without(control);
	if (!text || c->closing) {
		free(text);
		hang_up(c);
		return;
	}
	c->out = text;
	c->out_len = strlen(text);
	if (!flush_answer(c))
		return;
	if (control->closing)
		hang_up(c);
	else
		watch(c);
}

static const struct control_verb *find_verb(const char *name)
{
	for (const struct control_verb *v = control_verbs; name && v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

static void dispatch(struct control_call *call)
{
	struct control *control = call->conn->control;
	const char *name = json_string_value(json_object_get(call->args, "do"));

	if (!json_is_object(call->args)) {
		control_fail(call, -EBADMSG, "a request is a JSON object");
		return;
	}
	call->verb = find_verb(name);
	if (!call->verb) {
		control_fail(call, -EOPNOTSUPP, "this microVM does not know the request '%.40s'",
			     name ? name : "");
		return;
	}
	if (!call->verb->without_guest && control->machine->arriving) {
		control_fail(call, -EBUSY, "the microVM's guest has not arrived yet");
		return;
	}
	if (!call->verb->without_guest && migrate_is_away(control->machine)) {
		control_fail(call, -EBUSY, "the microVM's guest was handed over to another one");
		return;
	}
	if (call->verb->alone && control->alone) {
		control_fail(call, -EBUSY, "the microVM is busy with '%s'",
			     control->alone->verb->name);
		return;
	}
	if (call->verb->alone)
		control->alone = call;
	call->verb->handle(call);
}

static void read_request(struct connection *c)
{
	struct control_call *call = calloc(1, sizeof(*call));
	char *buf = malloc(CONTROL_MAX_MESSAGE);
	json_error_t why;
	ssize_t n;

	if (!call || !buf) {
		free(call);
		free(buf);
		hang_up(c);
		return;
	}
	n = control_receive(c->fd, buf, CONTROL_MAX_MESSAGE, call->fd, CONTROL_MAX_FDS,
			    &call->num_fds, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && n != -EMSGSIZE)) {
		close_fds(call->fd, call->num_fds);
		free(call);
		free(buf);
		if (n == -EAGAIN)
			watch(c);
		else
			hang_up(c);
		return;
	}
	call->conn = c;
	c->call = call;
	if (n > 0)
		call->args = json_loadb(buf, n, JSON_REJECT_DUPLICATES, &why);
	free(buf);
	if (n == -EMSGSIZE)
		control_fail(call, -EMSGSIZE, "longer than %llu bytes, or more than %d descriptors",
			     CONTROL_MAX_MESSAGE, CONTROL_MAX_FDS);
	else if (!call->args)
		control_fail(call, -EBADMSG, "not JSON: %s (at byte %d)", why.text, why.position);
	else
		dispatch(call);
}

static void polled(struct loop_op *op, int res)
{
	struct connection *c = container_of(op, struct connection, poll_op);

	c->polling = false;
	if (res == -ECANCELED && !c->closing) {
		/* For room now, or for room no more. */
		watch(c);
	} else if (c->closing || res < 0) {
		hang_up(c);
	} else if (c->out) {
		if (flush_answer(c))
			watch(c);
	} else if (c->call && res == POLLOUT) {
		/* Something that happened meanwhile may have taken the room. */
		if (c->behind)
			tell_state(c->call);
		watch(c);
	} else if (c->call) {
		control_fail(c->call, -ECANCELED, "who listens to events asks nothing else");
	} else {
		read_request(c);
	}
}

/*
 * Wait for room for the answer, or for the next request; while one is at hand for neither, but for
 * the end of a client that listens to events, or room for what it has not heard of.
 */
static void watch(struct connection *c)
{
	short events = c->out ? POLLOUT : c->behind ? POLLIN | POLLOUT : POLLIN;

	if (c->polling || (c->call && !c->call->events))
		return;
	c->polling = true;
	loop_poll(c->control->loop, &c->poll_op, c->fd, events);
}

/* ---- events ---- */

/* What it is now; one who reads slowly hears of the last change, if not of all. */
static void tell_state(struct control_call *call)
{
	const char *event = machine_is_paused(control_machine(call)) ? "paused" : "running";
	struct connection *c = call->conn;
	bool was_behind = c->behind;

	c->behind = !control_progress(call, json_pack("{s:s}", "event", event));
	/* What is polled for changes. */
	if (c->behind && !was_behind && c->polling)
		loop_cancel(c->control->loop, &c->poll_op);
}

static void machine_changed(void *arg)
{
	struct control *control = arg;
	struct list *pos, *next;

	list_for_each_safe(pos, next, &control->connections) {
		struct connection *c = list_entry(pos, struct connection, link);

		if (c->call && c->call->events)
			tell_state(c->call);
	}
}

void control_reply_events(struct control_call *call)
{
	call->events = true;
	call->at_end = true;
	tell_state(call);
	watch(call->conn);
}

/* ---- the listener ---- */

static void watch_listener(struct control *control)
{
	control->accepting = true;
	loop_accept(control->loop, &control->accept_op, control->listen_fd);
}

/*
 * The directory keeps others out; whoever got at the socket all the same is asked here. In the
 * sandbox's user namespace, which maps no user, all look alike and this keeps nobody out.
 */
static bool is_welcome(const struct control *control, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == control->user || peer.uid == 0);
}

void control_seed_hash_tables(void)
{
	size_t seed = 0;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed) || !seed)
		seed = (size_t)clock_monotonic_ns(NULL) | 1;
	json_object_seed(seed);
}

static void add_connection(struct control *control, int fd)
{
	static const char full[] = "{\"error\":\"too many connections\",\"errno\":16}";
	struct connection *c;

	if (list_empty(&control->connections))
		control_seed_hash_tables();
	if (!is_welcome(control, fd)) {
		close(fd);
		return;
	}
	c = control->num_connections < MAX_CONNECTIONS ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		control_send(fd, full, strlen(full), NULL, 0, MSG_DONTWAIT);
		close(fd);
		return;
	}
	c->control = control;
	c->fd = fd;
	c->poll_op.done = polled;
	list_add_tail(&control->connections, &c->link);
	control->num_connections++;
	watch(c);
}

static void accepted(struct loop_op *op, int res)
{
	struct control *control = container_of(op, struct control, accept_op);

	control->accepting = false;
	if (res >= 0)
		add_connection(control, res);
	if (control->closing)
		return;
	if (res >= 0 || res == -ECONNABORTED || res == -EINTR) {
		watch_listener(control);
		return;
	}
	/* No descriptor or memory is left: that passes, and clients wait. */
	log_debug("control socket: cannot accept for now: %s", strerror(-res));
	loop_timer_set(control->loop, &control->accept_again,
		       clock_monotonic_ns(loop_clock(control->loop)) + ACCEPT_AGAIN_NS);
}

static void accept_again(struct loop_timer *t)
{
	watch_listener(container_of(t, struct control, accept_again));
}

/* ---- life ---- */

int control_create(struct control **ret_control, struct machine *m, int listen_fd,
		   struct error *err)
{
	struct control *control = calloc(1, sizeof(*control));

	if (!control) {
		close(listen_fd);
		return error_set(err, -ENOMEM, "control socket: %m");
	}
	control->machine = m;
	control->loop = machine_loop(m);
	control->listen_fd = listen_fd;
	control->accept_op.done = accepted;
	control->accept_again.expired = accept_again;
	/* Asked here and now: the auxiliary vector has it from outside of the user namespace. */
	control->user = geteuid();
	control->pid = getpid();
	control->parent = getppid();
	control->start_ns = clock_monotonic_ns(NULL);
	list_init(&control->connections);
	machine_watch(m, machine_changed, control);
	watch_listener(control);
	*ret_control = control;
	return 0;
}

static void answer_at_end(struct control_call *call, const struct machine_end *end)
{
	if (call->at_end)
		control_reply(call, json_pack("{s:s, s:i}", "end", machine_end_name(end->reason),
					      "status", end->status));
	else if (call->cancel)
		call->cancel(call->cancel_arg);
	else
		control_fail_ended(call);
}

void control_free(struct control *control, const struct machine_end *end)
{
	struct list *pos, *next;

	if (!control)
		return;
	machine_watch(control->machine, NULL, NULL);
	control->closing = true;
	control->end = end;
	/* Those whose answer is still to come are hung up on behind it. */
	list_for_each_safe(pos, next, &control->connections) {
		struct connection *c = list_entry(pos, struct connection, link);

		if (c->call)
			answer_at_end(c->call, end);
		else
			hang_up(c);
	}
	loop_timer_cancel(control->loop, &control->accept_again);
	if (control->accepting)
		loop_cancel(control->loop, &control->accept_op);
	while (control->accepting || !list_empty(&control->connections))
		loop_run_once(control->loop, UINT64_MAX);
	close(control->listen_fd);
	free(control);
}

/* ---- for verbs ---- */

struct machine *control_machine(struct control_call *call)
{
	return call->conn->control->machine;
}

const json_t *control_args(const struct control_call *call)
{
	return call->args;
}

int control_arg_string(struct control_call *call, const char *name, const char *fallback,
		       const char **ret)
{
	const json_t *v = json_object_get(call->args, name);

	if (v && (!json_is_string(v) ||
		  strlen(json_string_value(v)) != json_string_length(v))) {
		control_fail(call, -EINVAL, "'%s' is not a string", name);
		return -EINVAL;
	}
	*ret = v ? json_string_value(v) : fallback;
	return 0;
}

int control_arg_number(struct control_call *call, const char *name, uint64_t fallback,
		       uint64_t max, uint64_t *ret)
{
	const json_t *v = json_object_get(call->args, name);

	if (v && (!json_is_integer(v) || json_integer_value(v) < 0 ||
		  (uint64_t)json_integer_value(v) > max)) {
		control_fail(call, -EINVAL, "'%s' is not a number from 0 to %llu", name,
			     (unsigned long long)max);
		return -EINVAL;
	}
	*ret = v ? (uint64_t)json_integer_value(v) : fallback;
	return 0;
}

int control_arg_bool(struct control_call *call, const char *name, bool fallback, bool *ret)
{
	const json_t *v = json_object_get(call->args, name);

	if (v && !json_is_boolean(v)) {
		control_fail(call, -EINVAL, "'%s' is neither true nor false", name);
		return -EINVAL;
	}
	*ret = v ? json_is_true(v) : fallback;
	return 0;
}

int control_take_fd(struct control_call *call, unsigned i)
{
	int fd = i < call->num_fds ? call->fd[i] : -EBADF;

	if (fd < 0)
		return -EBADF;
	call->fd[i] = -1;
	return fd;
}

unsigned control_num_fds(const struct control_call *call)
{
	return call->num_fds;
}

void control_reply_fds(struct control_call *call, json_t *result, const int *fds, unsigned num)
{
	if (!result)
		result = json_object();
	json_object_set_new(result, "ok", json_true());
	answer(call, result, fds, MIN(num, (unsigned)CONTROL_MAX_FDS));
}

void control_reply(struct control_call *call, json_t *result)
{
	control_reply_fds(call, result, NULL, 0);
}

static void fail_text(struct control_call *call, int error, bool usage, const char *text)
{
	json_t *o = failure(error, text);

	/* Not UTF-8: it quotes what the client sent. */
	if (!o)
		o = failure(error, strerror(abs(error)));
	if (usage)
		json_object_set_new(o, "usage", json_true());
	answer(call, o, NULL, 0);
}

void control_fail(struct control_call *call, int error, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fail_text(call, error, false, text);
}

void control_fail_error(struct control_call *call, const struct error *err)
{
	fail_text(call, err->code ? err->code : -EIO, err->kind == ERROR_USAGE, err->msg);
}

void control_fail_ended(struct control_call *call)
{
	control_fail(call, -ECANCELED, "the microVM ended (%s)",
		     machine_end_name(call->conn->control->end->reason));
}

void control_on_end(struct control_call *call, void (*cancel)(void *arg), void *arg)
{
	call->cancel = cancel;
	call->cancel_arg = arg;
}

void control_reply_at_end(struct control_call *call)
{
	call->at_end = true;
}

void control_keep_paused(struct control_call *call)
{
	call->conn->control->keeper = call->conn;
}

void control_keep_for_all(struct control_call *call)
{
	call->conn->control->keeper = NULL;
}

bool control_progress(struct control_call *call, json_t *progress)
{
	json_t *o = json_pack("{s:o}", "progress", progress);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	bool said = text && !call->conn->closing &&
		    control_send(call->conn->fd, text, strlen(text), NULL, 0, MSG_DONTWAIT) >= 0;

	free(text);
	json_decref(o);
	return said;
}

int control_client(const struct control_call *call)
{
	return call->conn->fd;
}

pid_t control_pid(const struct control_call *call)
{
	return call->conn->control->pid;
}

pid_t control_parent(const struct control_call *call)
{
	return call->conn->control->parent;
}

uint64_t control_uptime_ns(const struct control_call *call)
{
	return clock_monotonic_ns(NULL) - call->conn->control->start_ns;
}
