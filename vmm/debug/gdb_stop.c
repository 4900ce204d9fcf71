/* Stopping, going on, and what stops: breakpoints and watchpoints. */
#include <errno.h>
#include <stdlib.h>

#include "vmm/debug/gdb_internal.h"
#include "vmm/hypervisor/x86_walk.h"

#define INT3	  0xcc
#define VECTOR_DB 1
#define VECTOR_BP 3

#define DR6_HW	 0xfull
#define DR6_STEP (1ull << 14)

/* ---- software breakpoints: an int3 in the guest's code ---- */

static bool is_breakpoint(const struct gdb *g, uint64_t linear)
{
	for (unsigned i = 0; i < g->num_breakpoints; i++)
		if (g->breakpoint[i].linear == linear)
			return true;
	return false;
}

static int write_code(struct gdb *g, const struct gdb_breakpoint *b, uint8_t code)
{
	int r = guest_mem_write(g->m->mem, b->gpa, &code, 1);

	if (!r)
		guest_mem_mark_dirty(g->m->mem, b->gpa, 1);
	return r;
}

static int insert_int3(struct gdb *g, uint64_t linear)
{
	struct gdb_breakpoint *b = &g->breakpoint[g->num_breakpoints];
	struct x86_vcpu_state state;
	int r;

	if (is_breakpoint(g, linear))
		return 0;
	if (g->num_breakpoints == GDB_MAX_BREAKPOINTS)
		return -ENOSPC;
	r = g->m->hv->ops->vcpu_get(gdb_vcpu(g, g->thread)->hv, &state);
	if (r < 0)
		return r;
	b->linear = linear;
	b->gpa = x86_walk(g->m->mem, &state.sregs, linear, NULL, NULL);
	if (b->gpa == UINT64_MAX || guest_mem_read(g->m->mem, b->gpa, &b->saved, 1) < 0)
		return -EFAULT;
	b->lifted = machine_is_paused(g->m);
	r = b->lifted ? 0 : write_code(g, b, INT3);
	if (!r)
		g->num_breakpoints++;
	return r;
}

/* Where the guest has put other code meanwhile there is nothing to put back. */
static bool take_out(struct gdb *g, const struct gdb_breakpoint *b)
{
	uint8_t now;

	return guest_mem_read(g->m->mem, b->gpa, &now, 1) == 0 && now == INT3 &&
	       write_code(g, b, b->saved) == 0;
}

void gdb_lift_breakpoints(struct gdb *g)
{
	for (unsigned i = 0; g && i < g->num_breakpoints; i++)
		g->breakpoint[i].lifted |= take_out(g, &g->breakpoint[i]);
}

void gdb_lay_breakpoints(struct gdb *g)
{
	uint8_t now;

	for (unsigned i = 0; g && i < g->num_breakpoints; i++) {
		struct gdb_breakpoint *b = &g->breakpoint[i];

		/* Other code may be there, if the machine went back to an earlier moment. */
		if (b->lifted && guest_mem_read(g->m->mem, b->gpa, &now, 1) == 0 &&
		    now == b->saved)
			write_code(g, b, INT3);
		b->lifted = false;
	}
}

static int remove_int3(struct gdb *g, uint64_t linear)
{
	for (unsigned i = 0; i < g->num_breakpoints; i++) {
		if (g->breakpoint[i].linear != linear)
			continue;
		take_out(g, &g->breakpoint[i]);
		g->breakpoint[i] = g->breakpoint[--g->num_breakpoints];
		return 0;
	}
	return -ENOENT;
}

void gdb_break_hide(const struct gdb *g, uint64_t linear, uint8_t *buf, size_t len)
{
	for (unsigned i = 0; i < g->num_breakpoints; i++) {
		const struct gdb_breakpoint *b = &g->breakpoint[i];
		uint64_t at = (g->physical ? b->gpa : b->linear) - linear;

		if (at < len && buf[at] == INT3)
			buf[at] = b->saved;
	}
}

void gdb_break_refresh(struct gdb *g, uint64_t linear, size_t len)
{
	for (unsigned i = 0; i < g->num_breakpoints; i++) {
		struct gdb_breakpoint *b = &g->breakpoint[i];
		uint64_t at = (g->physical ? b->gpa : b->linear) - linear;

		if (at < len && guest_mem_read(g->m->mem, b->gpa, &b->saved, 1) == 0 && !b->lifted)
			write_code(g, b, INT3);
	}
}

/* ---- hardware breakpoints and watchpoints: debug registers ---- */

static int find_hw(const struct gdb *g, const struct hv_hw_breakpoint *want)
{
	for (unsigned i = 0; i < g->debug.num_hw; i++) {
		const struct hv_hw_breakpoint *b = &g->debug.hw[i];

		if (b->kind == want->kind && b->addr == want->addr && b->len == want->len)
			return i;
	}
	return -1;
}

/* The processor wants a power of two, aligned to itself. */
static int hw_of(struct hv_hw_breakpoint *b, unsigned type, uint64_t linear, unsigned len)
{
	b->addr = linear;
	b->len = type == 1 ? 1 : len;
	/* A processor cannot watch reads alone. */
	b->kind = type == 1 ? HV_BREAK_EXEC : type == 2 ? HV_BREAK_WRITE : HV_BREAK_ACCESS;
	if ((b->len != 1 && b->len != 2 && b->len != 4 && b->len != 8) || linear % b->len)
		return -EINVAL;
	return 0;
}

int gdb_break_insert(struct gdb *g, unsigned type, uint64_t linear, unsigned len)
{
	struct hv_hw_breakpoint b;
	int r;

	if (type == 0)
		return insert_int3(g, linear);
	r = hw_of(&b, type, linear, len);
	if (r < 0 || find_hw(g, &b) >= 0)
		return r;
	if (g->debug.num_hw == HV_MAX_HW_BREAKPOINTS)
		return -ENOSPC;
	g->debug.hw[g->debug.num_hw++] = b;
	return 0;
}

int gdb_break_remove(struct gdb *g, unsigned type, uint64_t linear, unsigned len)
{
	struct hv_hw_breakpoint b;
	int i;

	if (type == 0)
		return remove_int3(g, linear);
	i = hw_of(&b, type, linear, len) < 0 ? -1 : find_hw(g, &b);
	if (i < 0)
		return -ENOENT;
	g->debug.hw[i] = g->debug.hw[--g->debug.num_hw];
	return 0;
}

static void break_clear(struct gdb *g)
{
	while (g->num_breakpoints)
		take_out(g, &g->breakpoint[--g->num_breakpoints]);
	g->debug.num_hw = 0;
}

/* ---- stopping ---- */

static void let_go(struct gdb *g)
{
	enum gdb_how how[CONFIG_MAX_CPUS];

	break_clear(g);
	for (unsigned i = 0; i < gdb_num_vcpus(g); i++)
		how[i] = GDB_GO;
	gdb_resume(g, how);
}

static void vcpus_stopped(void *arg)
{
	struct gdb *g = arg;

	g->state = GDB_STOPPED;
	for (unsigned i = 0; i < gdb_num_vcpus(g); i++)
		atomic_store(&gdb_vcpu(g, i)->held, false);
	if (g->fd < 0) {
		let_go(g);
		return;
	}
	/* The one before may have left its breakpoints behind. */
	if (g->fresh)
		break_clear(g);
	g->fresh = false;
	if (g->stop_reply_due)
		gdb_say_stop(g);
	gdb_packets(g);
}

void gdb_release(struct gdb *g)
{
	if (g->state == GDB_STOPPED)
		let_go(g);
	else if (g->num_breakpoints || g->debug.num_hw)
		gdb_stop(g);
}

void gdb_stop(struct gdb *g)
{
	if (g->state != GDB_RUNNING)
		return;
	g->state = GDB_STOPPING;
	machine_debug_stop(g->m, vcpus_stopped, g);
}

void gdb_stop_posted(struct loop_task *task)
{
	gdb_stop(container_of(task, struct gdb, stop_task));
}

/* Ours? The tables it reads change only while all vCPUs are out of the guest. */
static bool is_ours(const struct gdb *g, unsigned vcpu, const struct hv_exit *exit)
{
	if (exit->size == VECTOR_BP)
		return is_breakpoint(g, exit->addr);
	return g->stepping[vcpu] || (exit->detail & DR6_HW);
}

void gdb_debug_exit(struct gdb *g, struct vcpu *v, const struct hv_exit *exit)
{
	struct gdb_stop *stop = &g->stop[v->index];

	if (!is_ours(g, v->index, exit)) {
		struct hv_debug debug = g->debug;

		/* The guest's own int3 or trap: kernels patch their code with them. */
		debug.step = g->stepping[v->index];
		debug.dr6 = exit->detail;
		debug.inject = exit->size == VECTOR_BP ? HV_INJECT_BP : HV_INJECT_DB;
		g->m->hv->ops->vcpu_debug(v->hv, &debug);
		return;
	}
	stop->vector = exit->size;
	stop->pc = exit->addr;
	stop->dr6 = exit->detail;
	atomic_store(&stop->happened, true);
	/* Not back into the guest before the loop has stopped them all. */
	atomic_store(&v->held, true);
	loop_post(g->m->loop, &g->stop_task);
}

/* The watchpoint that DR6 names, or NULL. */
static const struct hv_hw_breakpoint *hit(const struct gdb *g, const struct gdb_stop *stop)
{
	for (unsigned i = 0; i < g->debug.num_hw; i++)
		if (stop->vector == VECTOR_DB && stop->dr6 & 1 << i)
			return &g->debug.hw[i];
	return NULL;
}

void gdb_say_stop(struct gdb *g)
{
	const struct hv_hw_breakpoint *b;
	struct gdb_stop *stop = NULL;
	unsigned i, n = gdb_num_vcpus(g);

	g->stop_reply_due = false;
	/* Of several that stopped at once one is told of; the others stop again. */
	for (i = 0; i < n && !stop; i++) {
		unsigned at = (g->reported + i) % n;

		if (atomic_load(&g->stop[at].happened)) {
			stop = &g->stop[at];
			g->reported = at;
		}
	}
	g->thread = g->reported;
	gdb_say(g, "T%02xthread:%x;", stop ? GDB_SIGTRAP : GDB_SIGINT, g->reported + 1);
	if (stop) {
		b = hit(g, stop);
		if (stop->vector == VECTOR_BP)
			gdb_say(g, "swbreak:;");
		else if (b && b->kind == HV_BREAK_EXEC)
			gdb_say(g, "hwbreak:;");
		else if (b)
			gdb_say(g, "%s:%llx;", b->kind == HV_BREAK_WRITE ? "watch" : "awatch",
				(unsigned long long)b->addr);
	}
	for (i = 0; i < n; i++)
		atomic_store(&g->stop[i].happened, false);
	gdb_send(g);
}

void gdb_resume(struct gdb *g, const enum gdb_how *how)
{
	for (unsigned i = 0; i < gdb_num_vcpus(g); i++) {
		struct hv_debug debug = g->debug;

		debug.software = g->num_breakpoints > 0;
		debug.step = how[i] == GDB_STEP;
		debug.enabled = debug.software || debug.step || debug.num_hw;
		g->stepping[i] = debug.step;
		g->m->hv->ops->vcpu_debug(gdb_vcpu(g, i)->hv, &debug);
		atomic_store(&gdb_vcpu(g, i)->held, how[i] == GDB_STAY);
	}
	g->debug.software = g->num_breakpoints > 0;
	g->debug.enabled = g->debug.software || g->debug.num_hw;
	g->stop_reply_due = g->fd >= 0;
	g->state = GDB_RUNNING;
	machine_debug_continue(g->m);
}
