#include "vmm/control/control_debug.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/control/control_copy.h"
#include "vmm/debug/elf_core.h"
#include "vmm/debug/gdb.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/sandbox/maker.h"

/* ---- core ---- */

struct dump {
	struct control_call *call;
	struct machine *m;
	int fd;
	struct elf_core *core; /* what is to be written, until the copy has it */
	int report_fd; /* the copy's result, an int */
	pid_t copy;
	bool was_paused;
	bool writing; /* @done is under way */
	struct loop_op done;
};

static void dump_free(struct dump *d)
{
	if (d->fd >= 0)
		close(d->fd);
	if (d->report_fd >= 0)
		close(d->report_fd);
	free(d);
}

/* The machine has ended: the copy writes on, and is gone when the monitor is. */
static void dump_ended(struct dump *d)
{
	control_fail_ended(d->call);
	dump_free(d);
}

static void dump_cancel(void *arg)
{
	struct dump *d = arg;

	if (d->writing)
		loop_cancel(d->m->loop, &d->done);
	else
		dump_ended(d);
}

static void dump_done(struct loop_op *op, int res)
{
	struct dump *d = container_of(op, struct dump, done);
	int r;

	if (res == -ECANCELED) {
		dump_ended(d);
		return;
	}
	if (read(d->report_fd, &r, sizeof(r)) != sizeof(r))
		r = -ECHILD;
	/* It has closed all its files, and so given its memory back: it is gone in a moment. */
	maker_reap(d->m->maker, d->copy);
	if (r == -ECHILD)
		control_fail(d->call, r, "core: the process that wrote it was killed");
	else if (r < 0)
		control_fail(d->call, r, "core: cannot be written: %s", strerror(-r));
	else
		control_reply(d->call, NULL);
	dump_free(d);
}

/* In the copy, where nothing moves any more. */
static void write_copy(void *arg, int report_fd)
{
	const struct dump *d = arg;
	int r;

	control_copy_begin(d->call);
	r = elf_core_write(d->core, d->fd);
	_exit(write(report_fd, &r, sizeof(r)) != sizeof(r));
}

static void dump_paused(void *arg)
{
	struct dump *d = arg;
	struct error err = { 0 };
	int r = machine_check_paused(d->m, &err);

	if (r < 0)
		error_prefix(&err, "core");
	else
		r = elf_core_create(&d->core, d->m, &err);
	if (!r) {
		d->copy = maker_fork(d->m->maker, write_copy, d, &d->report_fd);
		if (d->copy < 0)
			r = error_set(&err, d->copy, "core: cannot fork: %m");
	}
	elf_core_free(d->core);
	d->core = NULL;
	if (!d->was_paused && machine_is_paused(d->m))
		machine_resume(d->m);
	if (r < 0) {
		control_fail_error(d->call, &err);
		dump_free(d);
		return;
	}
	d->done.done = dump_done;
	d->writing = true;
	loop_poll(d->m->loop, &d->done, d->report_fd, POLLHUP);
}

void control_verb_core(struct control_call *call)
{
	struct dump *d = calloc(1, sizeof(*d));

	if (!d) {
		control_fail(call, -ENOMEM, "core: no memory");
		return;
	}
	d->call = call;
	d->m = control_machine(call);
	d->report_fd = -1;
	d->fd = control_take_fd(call, 0);
	if (d->fd < 0) {
		control_fail(call, -EBADF, "core: no file came along");
		dump_free(d);
		return;
	}
	/* In a copy of this process pages that are still to come would read as zero. */
	if (!guest_mem_is_whole(d->m->mem)) {
		control_fail(call, -EBUSY,
			     "core: some of the guest's memory is still to come: try again later");
		dump_free(d);
		return;
	}
	control_on_end(call, dump_cancel, d);
	d->was_paused = machine_is_paused(d->m);
	if (d->was_paused)
		dump_paused(d);
	else
		machine_pause(d->m, dump_paused, d);
}

/* ---- gdb ---- */

static bool is_listening(int fd)
{
	int listening = 0;
	socklen_t len = sizeof(listening);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening;
}

void control_verb_gdb(struct control_call *call)
{
	struct machine *m = control_machine(call);
	struct error err = { 0 };
	const char *where;
	bool hold;
	int fd;

	if (control_arg_bool(call, "hold", false, &hold) < 0 ||
	    control_arg_string(call, "where", NULL, &where) < 0)
		return;
	if (m->gdb && gdb_target(m->gdb)) {
		control_fail(call, -EBUSY,
			     "gdb: a debugging stub listens already: target remote %s",
			     gdb_target(m->gdb));
		return;
	}
	if (m->gdb) {
		control_fail(call, -EBUSY, "gdb: a debugging stub listens already");
		return;
	}
	fd = control_take_fd(call, 0);
	if (fd < 0 || !is_listening(fd)) {
		if (fd >= 0)
			close(fd);
		control_fail(call, -EBADF, "gdb: no listening socket came along");
		return;
	}
	if (gdb_create(&m->gdb, m, fd, where, &err) < 0) {
		close(fd);
		control_fail_error(call, &err);
		return;
	}
	/* What kept its processors from running is the debugger from here on. */
	if (hold && machine_is_paused(m)) {
		m->debug_stopped = true;
		gdb_hold(m->gdb);
		machine_resume(m);
	}
	control_reply(call, NULL);
}
