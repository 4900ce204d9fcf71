/*
 * Evidence when a vCPU fails: registers, the bytes at RIP, and how RIP
 * translates, read through the guest's own page tables.
 */
#include <stdarg.h>
#include <stdio.h>

#include "vmm/hypervisor/x86_walk.h"
#include "vmm/machine/machine_internal.h"

#define RESET_VECTOR 0xfffffff0u

/* Linux's half of the addresses, and in it the kernel's own code. */
#define KERNEL_HALF 0xffff800000000000ull
#define KERNEL_TEXT 0xffffffff80000000ull

/* Its stacks are of this size, aligned to it. */
#define STACK_BYTES (16 * KiB)
#define STACK_WORDS (STACK_BYTES / sizeof(uint64_t))
#define STACK_SHOWN 24u

/* Text that grows in a fixed buffer; what does not fit is cut. */
struct text {
	char *p;
	size_t size, len;
};

static void __printf(2, 3) add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->p + t->len, t->size - t->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len = MIN(t->len + (size_t)n, t->size - 1);
}

static void add_step(void *arg, const struct x86_walk_step *step)
{
	struct text *t = arg;

	if (!step->is_ram) {
		add(t, "  level %u: table 0x%llx is not RAM\n", step->level,
		    (unsigned long long)step->table);
		return;
	}
	add(t, "  level %u [%3u] = 0x%016llx\n", step->level, step->index,
	    (unsigned long long)step->entry);
	if (!(step->entry & 1))
		add(t, "  not present\n");
}

static void add_bytes(struct text *t, const uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		add(t, " %02x", p[i]);
	add(t, "\n");
}

static void add_registers(struct text *t, const struct kvm_regs *r, const struct kvm_sregs *s)
{
#define LL(x) ((unsigned long long)(x))
	add(t, "  rip %016llx  rsp %016llx  rflags %08llx\n", LL(r->rip), LL(r->rsp),
	    LL(r->rflags));
	add(t, "  rax %016llx  rbx %016llx  rcx %016llx  rdx %016llx\n", LL(r->rax), LL(r->rbx),
	    LL(r->rcx), LL(r->rdx));
	add(t, "  rsi %016llx  rdi %016llx  rbp %016llx\n", LL(r->rsi), LL(r->rdi), LL(r->rbp));
	add(t, "  r8  %016llx  r9  %016llx  r10 %016llx  r11 %016llx\n", LL(r->r8), LL(r->r9),
	    LL(r->r10), LL(r->r11));
	add(t, "  r12 %016llx  r13 %016llx  r14 %016llx  r15 %016llx\n", LL(r->r12), LL(r->r13),
	    LL(r->r14), LL(r->r15));
	add(t, "  cr0 %llx  cr2 %llx  cr3 %llx  cr4 %llx  efer %llx\n", LL(s->cr0), LL(s->cr2),
	    LL(s->cr3), LL(s->cr4), LL(s->efer));
	add(t, "  cs %04x base %llx limit %x type %x l %u db %u  ss %04x  tr %04x\n",
	    s->cs.selector, LL(s->cs.base), s->cs.limit, s->cs.type, s->cs.l, s->cs.db,
	    s->ss.selector, s->tr.selector);
	add(t, "  gdt %llx/%x  idt %llx/%x\n", LL(s->gdt.base), s->gdt.limit, LL(s->idt.base),
	    s->idt.limit);
#undef LL
}

/* What on a kernel's stack may be where it came from; some of it is left from earlier. */
static void add_stack(struct text *t, const struct machine *m, const struct x86_vcpu_state *state)
{
	uint64_t word[STACK_WORDS], at = state->regs.rsp;
	size_t n = MIN(sizeof(word), align_down(at, STACK_BYTES) + STACK_BYTES - at);
	unsigned shown = 0;

	if (at % sizeof(word[0]) || at < KERNEL_HALF || state->sregs.cs.selector & 3)
		return;
	n = x86_linear_read(m->mem, &state->sregs, at, word, n) / sizeof(word[0]);
	for (size_t i = 0; i < n && shown < STACK_SHOWN; i++) {
		if (word[i] < KERNEL_TEXT)
			continue;
		add(t, "%s%016llx%s", shown % 4 ? " " : "  stack: ", (unsigned long long)word[i],
		    shown % 4 == 3 ? "\n" : "");
		shown++;
	}
	if (shown % 4)
		add(t, "\n");
}

void machine_dump_vcpu(struct machine *m, struct vcpu *v, char *text, size_t size)
{
	const struct hv_exit *e = &v->failed_exit;
	struct text t = { .p = text, .size = size };
	struct x86_vcpu_state state;
	uint8_t insn[16];
	uint64_t linear, gpa;
	int r;

	add(&t, "vCPU %u: %s", v->index,
	    e->kind != HV_EXIT_NONE ? hv_exit_name(e->kind) :
	    atomic_load(&m->ending) ? "triple fault" : "stopped");
	if (e->kind != HV_EXIT_NONE)
		add(&t, ", detail 0x%llx", (unsigned long long)e->detail);
	add(&t, "\n");
	r = m->hv->ops->vcpu_get(v->hv, &state);
	if (r < 0) {
		add(&t, "  registers cannot be read: error %d\n", -r);
		return;
	}
	add_registers(&t, &state.regs, &state.sregs);
	add_stack(&t, m, &state);
	if (e->insn_len) {
		add(&t, "  instruction (from KVM):");
		add_bytes(&t, e->insn, e->insn_len);
	}
	/* Only 64-bit code ignores the base of CS. */
	linear = state.regs.rip + (state.sregs.cs.l ? 0 : state.sregs.cs.base);
	/* KVM on AMD resets a processor that shuts down; no guest of ours starts there. */
	if (linear == RESET_VECTOR)
		add(&t, "  as after a reset: what was in them is lost (KVM on AMD)\n");
	if (!(state.sregs.cr0 & X86_CR0_PG))
		add(&t, "  paging is off: physical 0x%llx\n", (unsigned long long)linear);
	gpa = x86_walk(m->mem, &state.sregs, linear, add_step, &t);
	if (gpa == UINT64_MAX)
		return;
	add(&t, "  rip is at guest physical 0x%llx:", (unsigned long long)gpa);
	if (guest_mem_read(m->mem, gpa, insn, sizeof(insn)) < 0)
		add(&t, " not RAM\n");
	else
		add_bytes(&t, insn, sizeof(insn));
}
