/* A machine that stands still for a while: its vCPUs out of the guest, its queues drained. */
#include <stdlib.h>

#include "vmm/debug/gdb.h"
#include "vmm/machine/machine_internal.h"

/* Several may wait for the same pause, each by a client of its own. */
struct machine_pauser {
	void (*fn)(void *arg);
	void *arg;
	struct machine_pauser *next;
};

void machine_free_pausers(struct machine *m)
{
	while (m->pausers) {
		struct machine_pauser *p = m->pausers;

		m->pausers = p->next;
		free(p);
	}
}

/* True when that was possible. */
static bool add_pauser(struct machine *m, void (*fn)(void *arg), void *arg)
{
	struct machine_pauser *p = malloc(sizeof(*p)), **last = &m->pausers;

	if (!p)
		return false;
	*p = (struct machine_pauser){ .fn = fn, .arg = arg };
	while (*last)
		last = &(*last)->next;
	*last = p;
	return true;
}

static void all_drained(struct machine *m)
{
	struct machine_pauser *p = m->pausers;

	m->paused = true;
	m->pausers = NULL;
	gdb_lift_breakpoints(m->gdb);
	/* That it stands still for its end is no news beside the end. */
	if (m->changed_fn && !m->winding_down)
		m->changed_fn(m->changed_arg);
	while (p) {
		struct machine_pauser *next = p->next;

		if (p->fn)
			p->fn(p->arg);
		free(p);
		p = next;
	}
}

static void device_drained(struct virtio_device *dev, void *arg)
{
	struct machine *m = arg;

	if (--m->undrained == 0)
		all_drained(m);
}

void machine_drain(struct machine *m)
{
	/* One more than there are devices, so that none can end the count before all began. */
	m->undrained = m->num_virtio + 1;
	for (unsigned i = 0; i < m->num_virtio; i++)
		virtio_pause(m->virtio[i].dev, device_drained, m);
	device_drained(NULL, m);
}

/* A pause and the debugger's stop may wait for the same moment. */
static void vcpus_stopped(void *arg)
{
	struct machine *m = arg;
	void (*fn)(void *arg) = m->debug_fn;
	bool pausing = m->pausing;

	m->debug_fn = NULL;
	m->pausing = false;
	if (pausing)
		machine_drain(m);
	if (fn)
		fn(m->debug_arg);
}

void machine_pause(struct machine *m, void (*done)(void *arg), void *arg)
{
	/* Its vCPUs go already; whoever waits for the pause learns of the end. */
	if (m->winding_down)
		return;
	if (!add_pauser(m, done, arg)) {
		if (done)
			done(arg);
		return;
	}
	if (m->pausing || m->undrained)
		return;
	m->pausing = true;
	vcpu_set_want(&m->vcpus, VCPU_PAUSE, vcpus_stopped, m);
}

void machine_debug_stop(struct machine *m, void (*fn)(void *arg), void *arg)
{
	if (m->winding_down)
		return;
	m->debug_stopped = true;
	m->debug_fn = fn;
	m->debug_arg = arg;
	vcpu_set_want(&m->vcpus, VCPU_PAUSE, vcpus_stopped, m);
}

void machine_debug_continue(struct machine *m)
{
	m->debug_stopped = false;
	if (!m->paused && !m->pausing && !m->undrained && !m->winding_down)
		vcpu_set_want(&m->vcpus, VCPU_RUN, NULL, NULL);
}

void machine_resume_devices(struct machine *m)
{
	m->paused = false;
	m->runs++;
	gdb_lay_breakpoints(m->gdb);
	for (unsigned i = 0; i < m->num_virtio; i++)
		virtio_resume(m->virtio[i].dev);
	if (m->changed_fn)
		m->changed_fn(m->changed_arg);
}

void machine_resume(struct machine *m)
{
	const struct hv_ops *ops = m->hv->ops;

	/* Its vCPUs are on their way out, and must not turn back. */
	if (m->winding_down)
		return;
	m->resume_due = m->holds > 0;
	/* One that runs must not be told that it stood still: that waits for its vCPUs. */
	if (m->resume_due || !m->paused)
		return;
	machine_resume_devices(m);
	for (unsigned i = 0; i < m->vcpus.num && ops->vcpu_stood_still; i++)
		ops->vcpu_stood_still(m->vcpus.vcpu[i].hv);
	if (!m->debug_stopped)
		vcpu_set_want(&m->vcpus, VCPU_RUN, NULL, NULL);
}

void machine_hold(struct machine *m)
{
	m->holds++;
}

void machine_release(struct machine *m)
{
	m->holds--;
	if (m->resume_due && !m->holds)
		machine_resume(m);
}

void machine_watch(struct machine *m, void (*fn)(void *arg), void *arg)
{
	m->changed_fn = fn;
	m->changed_arg = arg;
}

bool machine_is_paused(const struct machine *m)
{
	return m->paused;
}
