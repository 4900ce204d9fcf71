/*
 * The end of a machine that hangs: what its registers are, then what its kernel says
 * when an NMI, which nothing holds off, asks it.
 */
#include <stdio.h>

#include "vmm/machine/machine_internal.h"
#include "vmm/debug/vmcoreinfo.h"
#include "vmm/migrate/migrate.h"

static void words_are_over(struct loop_timer *t)
{
	struct machine *m = container_of(t, struct machine, timeout);

	if (!migrate_puts_off(m, t))
		machine_end(m, MACHINE_END_HANG, MACHINE_STATUS_HANG, NULL);
}

/*
 * One vCPU is enough: a kernel that panics has the others tell where they are. A core file is to
 * show it as it hangs, and has all that it could say.
 */
static bool ask_kernel(struct machine *m)
{
	const struct hv_ops *ops = m->hv->ops;
	uint64_t wait_ns = m->config->last_words_seconds * NSEC_PER_SEC;

	if (!wait_ns || m->config->core_file || !ops->vcpu_nmi ||
	    ops->vcpu_nmi(m->vcpus.vcpu[0].hv) < 0)
		return false;
	m->timeout.expired = words_are_over;
	loop_timer_set(m->loop, &m->timeout, clock_monotonic_ns(m->clock) + wait_ns);
	machine_resume(m);
	return true;
}

static void write_evidence(void *arg)
{
	struct machine *m = arg;
	char *text = m->end.evidence;
	size_t size = sizeof(m->end.evidence), len = 0;
	uint64_t offset;

	/* Whoever was quicker has written what there is to say. */
	if (atomic_load(&m->ending) || migrate_is_away(m))
		return;
	for (unsigned i = 0; i < m->vcpus.num && len + 1 < size; i++) {
		machine_dump_vcpu(m, &m->vcpus.vcpu[i], text + len, size - len);
		len += strlen(text + len);
	}
	/* For whoever has its symbols. */
	if (vmcoreinfo_kernel_offset(m->mem, &offset))
		snprintf(text + len, size - len, VMCOREINFO_OFFSET_WORDS "%llx\n",
			 (unsigned long long)offset);
	m->hung = true;
	if (!ask_kernel(m))
		machine_end(m, MACHINE_END_HANG, MACHINE_STATUS_HANG, NULL);
}

void machine_end_hung(struct machine *m)
{
	/* It stands still here, and is somebody else's. */
	if (migrate_is_away(m))
		return;
	if (m->hung)
		machine_end(m, MACHINE_END_HANG, MACHINE_STATUS_HANG, NULL);
	else
		machine_pause(m, write_evidence, m);
}
