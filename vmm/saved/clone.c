#include "vmm/saved/clone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/monitor.h"
#include "vmm/sandbox/core_sched.h"
#include "vmm/sandbox/sandbox.h"

#define MAX_REQUEST 4096

struct nursery {
	struct machine *m; /* what is left of the machine that was forked */
	const struct state_writer *state;
	int sock;
	int life_fd; /* the parent notices our end by it */
};

/* One request, as it came. */
struct birth {
	char name[64];
	bool paused; /* it stands still at first */
	struct {
		unsigned num;
		int format[BLOCK_MAX_CHAIN];
	} beneath[CONFIG_MAX_DISKS];
	int fd[CONTROL_MAX_FDS];
	unsigned num_fds;
	unsigned next; /* descriptor that nobody has taken yet */
	int control_fd;
};

/* ---- leaving what belongs to the parent ---- */

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Close all descriptors but standard ones and those in @keep, which is sorted here. */
static void close_all_but(int *keep, unsigned num)
{
	unsigned from = 3;

	qsort(keep, num, sizeof(*keep), by_number);
	for (unsigned i = 0; i < num; i++) {
		if (keep[i] > (int)from)
			close_range(from, keep[i] - 1, 0);
		from = MAX(from, (unsigned)keep[i] + 1);
	}
	close_range(from, ~0u, 0);
}

/*
 * The VM and the loop are the parent's: let go of them, without any of the calls that would undo
 * something there. What is mapped would hold on to them, so it goes as well.
 */
static void leave_behind(struct nursery *n)
{
	struct machine *m = n->m;
	const struct guest_mem *mem = m->mem;
	int keep[GUEST_MEM_MAX_OVERLAYS + 4];
	unsigned num = 0;

	for (unsigned i = 0; i < m->vcpus.num; i++)
		m->hv->ops->vcpu_free(m->vcpus.vcpu[i].hv);
	m->hv->ops->free(m->hv);
	machine_abandon_loops(m);
	keep[num++] = n->sock;
	keep[num++] = n->life_fd;
	keep[num++] = m->monitor->kvm_fd;
	keep[num++] = m->monitor->signal_fd;
	for (unsigned i = 0; i < mem->num_overlays; i++)
		if (mem->overlay[i].fd >= 0)
			keep[num++] = mem->overlay[i].fd;
	close_all_but(keep, num);
}

/* ---- a child ---- */

static int take_fd(struct birth *b)
{
	return b->next < b->num_fds ? b->fd[b->next++] : -1;
}

/* What it is called and where its ports end is its own, all else as it was. */
static void make_config(struct machine_config *c, const struct machine_config *from,
			struct birth *b)
{
	*c = *from;
	c->name = b->name;
	if (c->console_present)
		c->console = (struct config_char){ .kind = CHARDEV_SOCKET };
	if (c->serial_present)
		c->serial = (struct config_char){ .kind = CHARDEV_SOCKET };
	c->metrics_file = NULL;
	c->timeout_seconds = 0;
	/* Also of one that was restored to stand still: nobody asked that of its clones. */
	c->start_paused = b->paused;
	/* A ring cannot be made any more where we are (vmm/seccomp/main.c). */
	c->loop = LOOP_EPOLL;
}

/* Messages name them by the image on top: where they are only who opened them knows. */
static void take_beneath(struct block_chain *chain, const struct config_disk *d, unsigned disk,
			 struct birth *b)
{
	chain->num = b->beneath[disk].num;
	for (unsigned i = 0; i < chain->num; i++)
		chain->file[i] = (struct block_chain_file){
			.path = strdup(d->path),
			.fd = take_fd(b),
			.format = b->beneath[disk].format[i],
		};
}

static void take_files(struct machine_files *files, const struct machine_config *c, struct birth *b)
{
	machine_files_init(files);
	if (c->console_present)
		files->console = take_fd(b);
	if (c->serial_present)
		files->serial = take_fd(b);
	for (unsigned i = 0; i < c->num_disks; i++) {
		files->disk[i] = take_fd(b);
		take_beneath(&files->beneath[i], &c->disk[i], i, b);
	}
	for (unsigned i = 0; i < c->num_nets; i++)
		files->net[i].socket = take_fd(b);
	for (unsigned i = 0; i < c->num_shares; i++)
		files->share[i] = take_fd(b);
	if (c->vsock_present)
		files->vsock_listen = take_fd(b);
}

static int open_state(struct nursery *n, struct state_set *set, struct error *err)
{
	struct state_reader config;
	int r = state_set_open(set, n->state->buf, n->state->len, err);

	if (!r)
		r = machine_check_state(set, err);
	/* The configuration is here, in memory. */
	return r ? r : state_set_take(set, "machine/config", 0, UINT32_MAX, &config, err);
}

static int live(struct nursery *n, struct birth *b, int alive, struct machine_end *end)
{
	struct machine_image image = { .memory_fd = -1, .mem = n->m->mem };
	const struct monitor_params *parent = n->m->monitor;
	struct monitor_params params = *parent;
	struct machine_config config;
	struct machine_files files;
	struct state_set set = { 0 };
	struct error err = { 0 };

	if (open_state(n, &set, &err) < 0) {
		error_print(&err);
		return error_status(&err);
	}
	/* It would share its cores with the one that it was forked from. */
	if (parent->config->core_sched && core_sched_begin(&err) < 0) {
		error_print(&err);
		return error_status(&err);
	}
	/* Not as it was at the start: devices may have come and gone. */
	make_config(&config, n->m->config, b);
	take_files(&files, &config, b);
	image.state = &set;
	params.config = &config;
	params.files = &files;
	params.image = &image;
	params.end = end;
	params.deadline_ns = 0;
	params.locked_in = true;
	params.started_fd = -1;
	params.keeper_fd = alive;
	params.control_fd = b->control_fd;
	params.metrics_fd = -1;
	/* Its parent is the one that it was forked from, which may end before it. */
	if (n->m->vcpus.sandbox)
		n->m->vcpus.sandbox->parent = 0;
	return monitor_serve(&params, n->m->vcpus.sandbox);
}

static _Noreturn void be_born(struct nursery *n, struct birth *b)
{
	struct machine_end end = { 0 };
	int alive, log, status;

	close(n->sock);
	close(n->life_fd);
	b->control_fd = take_fd(b);
	alive = take_fd(b);
	log = take_fd(b);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		dup3(log, fd, 0);
	log_setup(STDERR_FILENO, n->m->config->log_level);
	status = live(n, b, alive, &end);
	if (write(alive, &status, sizeof(status)) < 0)
		log_debug("nobody waits for the end: %m");
	_exit(status);
}

/* ---- requests ---- */

/* A client that cannot be told waits for ever, but for the end of the socket. */
static void reply(struct nursery *n, const char *error, pid_t child)
{
	json_t *answer = error ? json_pack("{s:s}", "error", error)
			       : json_pack("{s:b, s:i}", "ok", true, "pid", (int)child);
	char *text = json_dumps(answer, JSON_COMPACT);

	if (!text || control_send(n->sock, text, strlen(text), NULL, 0, 0) < 0)
		_exit(1);
	free(text);
	json_decref(answer);
}

static unsigned fds_needed(const struct machine_config *c, const struct birth *b)
{
	unsigned n = 3 + c->console_present + c->serial_present + c->num_disks + c->num_nets +
		     c->num_shares + c->vsock_present;

	for (unsigned i = 0; i < c->num_disks; i++)
		n += b->beneath[i].num;
	return n;
}

/* Of what @request says what fits; the number of descriptors shows whether that was all. */
static void read_beneath(struct birth *b, const json_t *request)
{
	const json_t *disks = json_object_get(request, "beneath");

	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		const json_t *formats = json_array_get(disks, i);

		b->beneath[i].num = MIN(json_array_size(formats), (size_t)BLOCK_MAX_CHAIN);
		for (unsigned k = 0; k < b->beneath[i].num; k++)
			b->beneath[i].format[k] =
				(int)json_integer_value(json_array_get(formats, k));
	}
}

/* @text is a request; what is wrong with it, or NULL. */
static const char *understand(struct nursery *n, const char *text, size_t len, struct birth *b)
{
	json_t *request = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	const char *name = json_string_value(json_object_get(request, "name"));
	const char *why = NULL;

	read_beneath(b, request);
	if (!name || !*name)
		why = "a clone needs a name";
	else if (strlen(name) >= sizeof(b->name))
		why = "a clone's name is too long";
	else if (b->num_fds != fds_needed(n->m->config, b))
		why = "not the descriptors that a clone needs";
	else
		memcpy(b->name, name, strlen(name) + 1);
	b->paused = json_is_true(json_object_get(request, "paused"));
	json_decref(request);
	return why;
}

static void serve(struct nursery *n, const char *text, size_t len, struct birth *b)
{
	const char *why = understand(n, text, len, b);
	pid_t pid = why ? 0 : fork();

	if (!why && pid == 0)
		be_born(n, b);
	if (pid < 0)
		why = strerror(errno);
	reply(n, why, pid);
}

_Noreturn void clone_nursery(struct machine *m, const struct state_writer *state, int sock,
			     int life_fd)
{
	struct nursery n = { .m = m, .state = state, .sock = sock, .life_fd = life_fd };
	char text[MAX_REQUEST];

	leave_behind(&n);
	for (;;) {
		struct birth b = { 0 };
		ssize_t len = control_receive(sock, text, sizeof(text), b.fd, CONTROL_MAX_FDS,
					      &b.num_fds, 0);

		if (len <= 0)
			_exit(0);
		serve(&n, text, len, &b);
		for (unsigned i = 0; i < b.num_fds; i++)
			close(b.fd[i]);
		/* Those that have ended meanwhile; the others find a new parent when we end. */
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}
