#include "vmm/monitor.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "devices/terminal.h"
#include "vmm/control/control.h"
#include "vmm/debug/elf_core.h"
#include "vmm/hypervisor/kvm.h"
#include "vmm/hypervisor/x86_template.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/sandbox/core_sched.h"
#include "vmm/sandbox/orphan.h"
#include "vmm/saved/demand.h"
#include "vmm/saved/working_set.h"

/* A second signal after this long means: do not wait for disks any more. */
#define PATIENCE_NS NSEC_PER_SEC

/* Signals as operations of the machine's loop. */
struct signals {
	struct loop_op ready;
	struct machine *machine;
	struct machine_end *end;
	uint64_t first_ns; /* when the first came that asked for the end; 0: none did */
	int fd;
};

static void watch_signals(struct signals *s)
{
	loop_poll(machine_loop(s->machine), &s->ready, s->fd, POLLIN);
}

/* Winding down waits for requests in flight, which a dead disk or server never completes. */
static void give_up(struct signals *s, int status)
{
	terminal_restore();
	log_error("ended before all input and output was done");
	s->end->reason = MACHINE_END_SIGNAL;
	s->end->status = status;
	_exit(status);
}

static void end_asked(struct signals *s, int status)
{
	uint64_t now_ns = clock_monotonic_ns(NULL);

	if (!s->first_ns)
		s->first_ns = now_ns;
	else if (now_ns - s->first_ns > PATIENCE_NS)
		give_up(s, status);
	machine_end(s->machine, MACHINE_END_SIGNAL, status, NULL);
}

static void signals_ready(struct loop_op *op, int res)
{
	struct signals *s = container_of(op, struct signals, ready);
	struct signalfd_siginfo info;

	if (res < 0)
		return;
	while (read(s->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGWINCH)
			machine_window_changed(s->machine);
		else if (info.ssi_signo == SIGQUIT)
			machine_end_hung(s->machine);
		else
			end_asked(s, 128 + (int)info.ssi_signo);
	}
	watch_signals(s);
}

/* Who made a clone and looks after its helpers and its run directory. */
struct keeper {
	struct loop_op gone;
	struct machine *machine;
};

/* Nobody would know of the clone, nor how it ended: no monitor outlives who started it. */
static void keeper_gone(struct loop_op *op, int res)
{
	struct keeper *k = container_of(op, struct keeper, gone);

	if (res < 0)
		return;
	log_error("the clone's keeper is gone");
	machine_end(k->machine, MACHINE_END_SIGNAL, 128 + SIGTERM, NULL);
}

static bool uses_terminal(const struct machine_config *c)
{
	return (c->console_present && c->console.kind == CHARDEV_STDIO) ||
	       (c->serial_present && c->serial.kind == CHARDEV_STDIO);
}

/* The parent keeps them if they are complete. */
static void write_metrics(struct machine *m, FILE *out, const char *path, struct machine_end *end)
{
	if (!out)
		return;
	machine_print_metrics(m, out);
	end->metrics_written = fflush(out) == 0 && !ferror(out);
	fclose(out);
	if (!end->metrics_written)
		log_warn("--metrics '%s': cannot write: %m", path);
}

/* Say what is not plain from the guest's own output. */
static void report(const struct machine_config *c, const struct machine_end *end)
{
	if (c->silent)
		return;
	switch (end->reason) {
	case MACHINE_END_PANIC:
		log_error("the guest panicked");
		break;
	case MACHINE_END_TRIPLE_FAULT:
		log_error("the guest ended in a triple fault");
		break;
	case MACHINE_END_INTERNAL:
		log_error("the hypervisor could not go on");
		break;
	case MACHINE_END_HANG:
		log_error("the guest was ended where it stood");
		break;
	case MACHINE_END_TIMEOUT:
		log_error("--timeout: %u s are over", c->timeout_seconds);
		break;
	default:
		break;
	}
	if (end->evidence[0])
		fputs(end->evidence, stderr);
}

/* An ELF core of a guest that did not end as it should have. */
static void write_core(struct machine *m, int fd, struct machine_end *end)
{
	struct elf_core *core = NULL;
	struct error err = { 0 };
	int r;

	if (fd < 0 || (end->reason != MACHINE_END_PANIC &&
		       end->reason != MACHINE_END_TRIPLE_FAULT &&
		       end->reason != MACHINE_END_INTERNAL &&
		       end->reason != MACHINE_END_HANG))
		return;
	r = elf_core_create(&core, m, &err);
	if (!r) {
		r = elf_core_write(core, fd);
		if (r < 0)
			error_set(&err, r, "--core: %m");
	}
	if (r < 0)
		error_print(&err);
	end->core_written = r == 0;
	elf_core_free(core);
}

/* As with metrics: opened before, read at the end. -1: nobody wants it, or there is none. */
static int open_page_map(const struct machine_image *image)
{
	int fd = image && image->records ? working_set_open_map() : -1;

	if (image && image->records && fd < 0)
		log_warn("--prefetch record: which pages the guest touches cannot be told");
	return fd;
}

static void write_working_set(struct machine *m, const struct machine_image *image, int map_fd)
{
	int r;

	if (!image || map_fd < 0)
		return;
	r = working_set_record(machine_memory(m), map_fd, image->record_fd);
	if (r < 0)
		log_warn("--prefetch record: cannot be written: %s", strerror(-r));
	close(map_fd);
}

/* Linux says nothing at all there, and nobody would know why. */
static void warn_of_kvm(const struct fw_kernel *kernel)
{
	if (kernel && fw_kernel_is_linux(kernel) && kvm_is_paravirtual(""))
		log_warn("the KVM of this host is paravirtual (kvm_pvm): Linux does not come up on "
			 "it, only small bare-metal payloads do ('wisp doctor' says what to do)");
}

static int build(const struct monitor_params *p, struct sandbox *sandbox, struct machine **ret_m,
		 struct error *err)
{
	struct machine_params machine = {
		.config = p->config,
		.host_cpuid = &p->host->cpuid,
		.files = p->files,
		.image = p->image,
		.sandbox = sandbox,
	};
	const struct x86_template *template = p->files->cpu_template;
	int r = 0;

	if (template)
		r = kvm_check_capabilities(p->kvm_fd, template->capability,
					   template->num_capabilities, err);
	if (!r)
		r = kvm_create(&machine.hv, p->kvm_fd, p->host, err);
	if (r)
		return r;
	r = machine_create(ret_m, &machine, err);
	if (r < 0)
		machine.hv->ops->free(machine.hv);
	else
		warn_of_kvm(p->files->kernel);
	return r;
}

/*
 * A page of a restored guest cannot be read. Whoever waits for it, the loop perhaps, does so for
 * good: no end in good order.
 */
static void memory_broken(void *arg, const char *name, int r)
{
	struct machine_end *end = arg;

	if (name)
		log_error("snapshot '%s': its memory cannot be read, and the guest cannot go "
			  "on: %s",
			  name, strerror(-r));
	else
		log_error("saved memory: cannot be had, and the guest cannot go on: %s",
			  strerror(-r));
	end->reason = MACHINE_END_INTERNAL;
	end->status = MACHINE_STATUS_INTERNAL;
	_exit(end->status);
}

/* The saved machine whose memory comes on demand: only now that the process is locked in. */
static int load_on_demand(const struct monitor_params *p, struct sandbox *sandbox,
			  struct machine *m, struct error *err)
{
	struct demand *d = p->image->demand;
	int r;

	d->broken = memory_broken;
	d->arg = p->end;
	r = demand_start(d, machine_memory(m), p->image, machine_loop(m), sandbox, err);
	return r ? r : machine_load(m, p->image, &p->host->cpuid, err);
}

/* `run --detach` returns to its caller now. */
static void tell_started(int fd)
{
	if (fd < 0)
		return;
	if (write(fd, "", 1) < 0)
		log_debug("nobody waits for the start: %m");
	close(fd);
}

/* A machine, and what its monitor has beside it. */
struct serving {
	struct machine *machine;
	struct control *control;
	struct signals signals;
	struct keeper keeper;
	FILE *metrics;
	int page_map;
};

/* The terminal, and who may say from outside what is to become of the machine. */
static int listen_outside(struct serving *s, const struct monitor_params *p, struct error *err)
{
	struct machine *m = s->machine;
	int r = uses_terminal(p->config) ? terminal_raw() : 0;

	if (r < 0)
		return error_set(err, r, "terminal: cannot set raw mode: %m");
	s->signals = (struct signals){
		.ready.done = signals_ready,
		.machine = m,
		.end = p->end,
		.fd = p->signal_fd,
	};
	s->keeper = (struct keeper){ .gone.done = keeper_gone, .machine = m };
	machine_set_monitor(m, p);
	machine_ask_again(m, p->end);
	watch_signals(&s->signals);
	/* No event but that the other end is closed, which is always reported. */
	if (p->keeper_fd >= 0)
		loop_poll(machine_loop(m), &s->keeper.gone, p->keeper_fd, 0);
	if (p->deadline_ns)
		machine_set_deadline(m, p->deadline_ns);
	if (p->metrics_fd >= 0)
		s->metrics = fdopen(p->metrics_fd, "w");
	s->page_map = open_page_map(p->image);
	return p->control_fd < 0 ? 0 : control_create(&s->control, m, p->control_fd, err);
}

/* From here on no path leads anywhere: what follows has its descriptors. */
static int lock_in(struct machine *m, const struct monitor_params *p, struct sandbox *sandbox,
		   struct error *err)
{
	int r = p->locked_in ? 0 : sandbox_lock(sandbox, err);

	/* From the first byte that somebody else's monitor sends. */
	if (!r && p->image && p->image->arrival &&
	    (r = sandbox_filter(sandbox, SANDBOX_THREAD_MAKER)) < 0)
		error_set(err, r, "system call filter: %m");
	/* Before anything that may have to wait: from then on no orphan stays. */
	return r ? r : machine_start_maker(m, err);
}

/* What is to come of a saved guest, or all of one that moves here; then it runs. */
static int start(struct machine *m, const struct monitor_params *p, struct sandbox *sandbox,
		 struct error *err)
{
	const struct migrate_arrival *arrival = p->image ? p->image->arrival : NULL;
	int r = 0;

	if (p->image && p->image->demand)
		r = load_on_demand(p, sandbox, m, err);
	if (!r && arrival) {
		if (arrival->fill)
			arrival->fill->sandbox = sandbox;
		r = migrate_receive(m, arrival, &p->host->cpuid, err);
	}
	return r ? r : machine_start(m, err);
}

static int not_started(const struct monitor_params *p, struct error *err)
{
	terminal_restore();
	/* Whatever has no better name: it could not be started. */
	if (err->kind == ERROR_OTHER)
		err->kind = ERROR_START;
	p->end->reason = MACHINE_END_START_FAILED;
	p->end->status = machine_end_say(p->end, err);
	return p->end->status;
}

/* What there is to say and to write of it, and its end. */
static void leave(struct serving *s, const struct monitor_params *p)
{
	control_free(s->control, p->end);
	terminal_restore();
	report(p->config, p->end);
	write_core(s->machine, p->core_fd, p->end);
	write_metrics(s->machine, s->metrics, p->config->metrics_file, p->end);
	write_working_set(s->machine, p->image, s->page_map);
	if (p->image && p->image->demand)
		demand_stop(p->image->demand);
	machine_free(s->machine);
}

int monitor_serve(const struct monitor_params *p, struct sandbox *sandbox)
{
	const struct migrate_arrival *arrival = p->image ? p->image->arrival : NULL;
	struct serving s = { .page_map = -1 };
	struct error err = { 0 };
	int r;

	r = build(p, sandbox, &s.machine, &err);
	if (!r)
		r = listen_outside(&s, p, &err);
	if (!r)
		r = lock_in(s.machine, p, sandbox, &err);
	if (!r)
		r = start(s.machine, p, sandbox, &err);
	if (arrival)
		migrate_arrived(s.machine, arrival, r, &err);
	if (r < 0)
		return not_started(p, &err);
	/*
	 * What of a clone's heap was written is its own and no more its parent's: what was only
	 * needed to make it goes back.
	 */
	if (p->image && p->image->mem)
		malloc_trim(0);
	tell_started(p->started_fd);
	machine_run(s.machine, p->end);
	leave(&s, p);
	return p->end->status;
}

int monitor_main(const struct monitor_params *p)
{
	struct sandbox_params lock = {
		.mode = p->config->sandbox,
		.uid = p->config->uid,
		.gid = p->config->gid,
	};
	struct sandbox sandbox = { 0 };
	struct error err = { 0 };

	/* It takes privileges that are gone afterwards. */
	if (p->image && p->image->arrival && p->image->arrival->fill)
		migrate_fill_open(p->image->arrival->fill);
	if ((p->image && p->image->demand && demand_open(p->image->demand, &err) < 0) ||
	    (p->config->core_sched && core_sched_begin(&err) < 0) ||
	    sandbox_enter(&sandbox, &lock, &err) < 0) {
		p->end->reason = MACHINE_END_START_FAILED;
		p->end->status = machine_end_say(p->end, &err);
		return p->end->status;
	}
	/* A main thread that nothing confines goes on watching by itself. */
	if (lock.mode != SANDBOX_OFF) {
		sandbox.parent = p->parent;
		orphan_leave();
	}
	return monitor_serve(p, &sandbox);
}
