#include "vmm/machine/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "vmm/debug/gdb.h"
#include "vmm/fleet/resources.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_internal.h"

/* vCPU threads run shallow code; untouched stack costs nothing but address space. */
#define VCPU_STACK_BYTES (128 * KiB)

const char *hv_exit_name(enum hv_exit_kind kind)
{
	static const char *const name[HV_EXIT_NUM_KINDS] = {
		[HV_EXIT_NONE] = "interrupted",	     [HV_EXIT_PIO_READ] = "pio_read",
		[HV_EXIT_PIO_WRITE] = "pio_write",   [HV_EXIT_MMIO_READ] = "mmio_read",
		[HV_EXIT_MMIO_WRITE] = "mmio_write", [HV_EXIT_HLT] = "hlt",
		[HV_EXIT_SHUTDOWN] = "shutdown",     [HV_EXIT_FAIL_ENTRY] = "fail_entry",
		[HV_EXIT_INTERNAL] = "internal",     [HV_EXIT_EVENT] = "system_event",
		[HV_EXIT_DEBUG] = "debug",	     [HV_EXIT_MSR] = "msr",
		[HV_EXIT_UNKNOWN] = "unknown",
	};

	return name[kind];
}

/* Elements of a string instruction (rep outs) are separate accesses to the same port. */
static void serve_io(struct bus *bus, const struct hv_exit *exit, bool write)
{
	for (unsigned i = 0; i < exit->count; i++) {
		uint8_t *data = exit->data + (size_t)i * exit->size;

		if (write)
			bus_write(bus, exit->addr, data, exit->size);
		else
			bus_read(bus, exit->addr, data, exit->size);
	}
}

static void serve_event(struct machine *m, enum hv_event event)
{
	switch (event) {
	case HV_EVENT_SHUTDOWN:
		machine_end(m, MACHINE_END_POWEROFF, 0, NULL);
		break;
	case HV_EVENT_RESET:
		machine_end(m, MACHINE_END_REBOOT, 0, NULL);
		break;
	case HV_EVENT_CRASH:
		machine_end(m, MACHINE_END_PANIC, MACHINE_STATUS_PANIC, NULL);
		break;
	}
}

static void serve_exit(struct vcpu *v, const struct hv_exit *exit)
{
	struct machine *m = v->set->machine;

	atomic_fetch_add_explicit(&v->exits[exit->kind], 1, memory_order_relaxed);
	v->io_pending = false;
	switch (exit->kind) {
	case HV_EXIT_PIO_READ:
	case HV_EXIT_PIO_WRITE:
		v->io_pending = true;
		serve_io(m->pio, exit, exit->kind == HV_EXIT_PIO_WRITE);
		break;
	case HV_EXIT_MMIO_READ:
	case HV_EXIT_MMIO_WRITE:
		v->io_pending = true;
		serve_io(m->mmio, exit, exit->kind == HV_EXIT_MMIO_WRITE);
		break;
	case HV_EXIT_MSR:
		v->io_pending = true;
		log_debug("vCPU %u: unknown MSR 0x%llx %s", v->index,
			  (unsigned long long)exit->addr, exit->detail ? "written" : "read");
		break;
	case HV_EXIT_NONE:
		/* Forget the kick first, look at what is wanted next: no kick is lost. */
		v->set->hv->ops->vcpu_unkick(v->hv);
		break;
	case HV_EXIT_SHUTDOWN:
		machine_end(m, MACHINE_END_TRIPLE_FAULT, MACHINE_STATUS_TRIPLE_FAULT, v);
		break;
	case HV_EXIT_EVENT:
		serve_event(m, exit->detail);
		break;
	case HV_EXIT_DEBUG:
		if (m->gdb)
			gdb_debug_exit(m->gdb, v, exit);
		break;
	case HV_EXIT_HLT:
		break;
	case HV_EXIT_FAIL_ENTRY:
	case HV_EXIT_INTERNAL:
	case HV_EXIT_UNKNOWN:
	case HV_EXIT_NUM_KINDS:
		v->failed_exit = *exit;
		machine_end(m, MACHINE_END_INTERNAL, MACHINE_STATUS_INTERNAL, v);
		break;
	}
}

/* Enter the guest once. False when the hypervisor failed and the machine ends. */
static bool run_once(struct vcpu *v)
{
	struct hv_exit exit;
	int r = v->set->hv->ops->vcpu_run(v->hv, &exit);

	if (r < 0) {
		v->failed_exit = (struct hv_exit){ .kind = HV_EXIT_UNKNOWN, .detail = -r };
		machine_end(v->set->machine, MACHINE_END_INTERNAL, MACHINE_STATUS_INTERNAL, v);
		return false;
	}
	serve_exit(v, &exit);
	return true;
}

/*
 * The result of the last port or memory access reaches the guest's registers
 * at the next entry: enter with a kick pending, which completes it (and any
 * further fragments) without running an instruction.
 */
static void complete_io(struct vcpu *v)
{
	while (v->io_pending) {
		v->set->hv->ops->vcpu_kick(v->hv);
		if (!run_once(v))
			break;
	}
}

/* Are all where they are wanted? Under the lock. */
static bool is_settled(const struct vcpu_set *set)
{
	switch (atomic_load(&set->want)) {
	case VCPU_PAUSE:
		return set->running == 0;
	case VCPU_QUIT:
		return set->alive == 0;
	case VCPU_RUN:
		break;
	}
	return false;
}

static bool must_park(const struct vcpu *v, enum vcpu_want want)
{
	return want == VCPU_PAUSE || (want == VCPU_RUN && atomic_load(&v->held));
}

/* Leave the guest until something else is wanted. */
static void park(struct vcpu *v)
{
	struct vcpu_set *set = v->set;

	complete_io(v);
	pthread_mutex_lock(&set->lock);
	if (must_park(v, atomic_load(&set->want))) {
		if (--set->running == 0) {
			loop_post(set->loop, &set->settled);
			pthread_cond_broadcast(&set->changed);
		}
		while (must_park(v, atomic_load(&set->want)))
			pthread_cond_wait(&set->changed, &set->lock);
		set->running++;
	}
	pthread_mutex_unlock(&set->lock);
}

static int confine(struct vcpu *v)
{
	struct vcpu_set *set = v->set;
	int r = set->hv->ops->vcpu_begin ? set->hv->ops->vcpu_begin(v->hv) : 0;

	if (r < 0) {
		log_error("vCPU %u: cannot be made interruptible: %s", v->index, strerror(-r));
		return r;
	}
	r = set->sandbox ? sandbox_filter(set->sandbox, SANDBOX_THREAD_VCPU) : 0;
	if (r < 0)
		log_error("vCPU %u: cannot load its system call filter: %s", v->index,
			  strerror(-r));
	return r;
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	struct vcpu_set *set = v->set;
	enum vcpu_want want;
	int r;

	/* Before the filter: where it runs is not its own to choose afterwards. */
	resources_pin_vcpu(set->resources, v->index);
	r = confine(v);
	if (r < 0)
		machine_end(set->machine, MACHINE_END_INTERNAL, MACHINE_STATUS_INTERNAL, NULL);
	/* Until all threads are confined. */
	pthread_mutex_lock(&set->lock);
	pthread_mutex_unlock(&set->lock);
	while (!r && (want = atomic_load(&set->want)) != VCPU_QUIT) {
		if (must_park(v, want))
			park(v);
		else if (!run_once(v))
			break;
	}
	pthread_mutex_lock(&set->lock);
	set->running--;
	set->alive--;
	pthread_cond_broadcast(&set->changed);
	/* A vCPU that failed is out of the guest too: a pause must not wait for it. */
	if (is_settled(set))
		loop_post(set->loop, &set->settled);
	pthread_mutex_unlock(&set->lock);
	return NULL;
}

/*
 * What was wanted when this was posted may be no more: a pause that settled just as the machine
 * was told to end says nothing about the end. It is posted again when that settles.
 */
static void settled(struct loop_task *task)
{
	struct vcpu_set *set = container_of(task, struct vcpu_set, settled);
	void (*fn)(void *arg) = NULL;

	pthread_mutex_lock(&set->lock);
	if (is_settled(set)) {
		fn = set->on_settled;
		set->on_settled = NULL;
	}
	pthread_mutex_unlock(&set->lock);
	if (fn)
		fn(set->on_settled_arg);
}

int vcpu_set_init(struct vcpu_set *set, struct machine *machine, struct hv *hv, struct loop *loop,
		  unsigned num, struct error *err)
{
	int r;

	set->machine = machine;
	set->hv = hv;
	set->loop = loop;
	set->settled.run = settled;
	pthread_mutex_init(&set->lock, NULL);
	pthread_cond_init(&set->changed, NULL);
	set->vcpu = calloc(num, sizeof(*set->vcpu));
	if (!set->vcpu)
		return error_set(err, -ENOMEM, "vCPUs: %m");
	for (unsigned i = 0; i < num; i++) {
		struct vcpu *v = &set->vcpu[i];

		v->set = set;
		v->index = i;
		r = hv->ops->vcpu_create(hv, i, &v->hv, err);
		if (r < 0)
			return r;
		set->num++;
	}
	return 0;
}

void vcpu_set_done(struct vcpu_set *set)
{
	if (!set->hv)
		return;
	for (unsigned i = 0; i < set->num; i++)
		set->hv->ops->vcpu_free(set->vcpu[i].hv);
	free(set->vcpu);
	pthread_cond_destroy(&set->changed);
	pthread_mutex_destroy(&set->lock);
	set->hv = NULL;
}

int vcpu_set_start(struct vcpu_set *set, enum vcpu_want want, struct error *err)
{
	pthread_attr_t attr;
	int r = 0;

	/* The machine has another configuration as soon as something is plugged. */
	set->resources = &set->machine->config->resources;
	atomic_store(&set->want, want);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, VCPU_STACK_BYTES);
	pthread_mutex_lock(&set->lock);
	for (unsigned i = 0; i < set->num && !r; i++) {
		r = pthread_create(&set->vcpu[i].thread, &attr, vcpu_thread, &set->vcpu[i]);
		set->vcpu[i].started = r == 0;
		set->running += r == 0;
		set->alive += r == 0;
	}
	if (r)
		r = error_kind_set(err, ERROR_START, -r, "vCPU thread: %m");
	/* After the threads: they would be under this filter as well as their own. */
	else if (set->sandbox && (r = sandbox_filter(set->sandbox, SANDBOX_THREAD_MAIN)) < 0)
		error_kind_set(err, ERROR_START, r, "system call filter: %m");
	if (r < 0)
		atomic_store(&set->want, VCPU_QUIT);
	pthread_mutex_unlock(&set->lock);
	pthread_attr_destroy(&attr);
	return r;
}

int vcpu_set_await_parked(struct vcpu_set *set, struct error *err)
{
	bool whole;

	pthread_mutex_lock(&set->lock);
	while (set->running)
		pthread_cond_wait(&set->changed, &set->lock);
	whole = set->alive == set->num;
	if (!whole) {
		atomic_store(&set->want, VCPU_QUIT);
		pthread_cond_broadcast(&set->changed);
	}
	pthread_mutex_unlock(&set->lock);
	return whole ? 0
		     : error_kind_set(err, ERROR_START, -EAGAIN, "a vCPU's thread cannot begin");
}

void vcpu_set_want(struct vcpu_set *set, enum vcpu_want want, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&set->lock);
	atomic_store(&set->want, want);
	set->on_settled = fn;
	set->on_settled_arg = arg;
	pthread_cond_broadcast(&set->changed);
	if (is_settled(set))
		loop_post(set->loop, &set->settled);
	pthread_mutex_unlock(&set->lock);
	if (want == VCPU_RUN)
		return;
	for (unsigned i = 0; i < set->num; i++)
		if (set->vcpu[i].started)
			set->hv->ops->vcpu_kick(set->vcpu[i].hv);
}

void vcpu_set_hold(struct vcpu_set *set, bool hold)
{
	for (unsigned i = 0; i < set->num; i++)
		atomic_store(&set->vcpu[i].held, hold);
	pthread_mutex_lock(&set->lock);
	pthread_cond_broadcast(&set->changed);
	pthread_mutex_unlock(&set->lock);
	for (unsigned i = 0; hold && i < set->num; i++)
		if (set->vcpu[i].started)
			set->hv->ops->vcpu_kick(set->vcpu[i].hv);
}

void vcpu_set_join(struct vcpu_set *set)
{
	for (unsigned i = 0; i < set->num; i++) {
		if (set->vcpu[i].started)
			pthread_join(set->vcpu[i].thread, NULL);
		set->vcpu[i].started = false;
	}
}

uint64_t vcpu_set_exits(const struct vcpu_set *set, enum hv_exit_kind kind)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < set->num; i++)
		sum += atomic_load_explicit(&set->vcpu[i].exits[kind], memory_order_relaxed);
	return sum;
}
