/*
 * Evidence when a vCPU fails: registers, the bytes at RIP, and how RIP
 * translates, read through the guest's own page tables.
 */
#include <stdarg.h>
#include <stdio.h>

#include "vmm/machine_internal.h"

#define PTE_PRESENT 1ull
#define PTE_LARGE   (1ull << 7)
#define PTE_ADDR    0x000ffffffffff000ull
#define CR4_LA57    (1ull << 12)

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

/*
 * Walk the page tables for @addr, printing each level. Returns the physical
 * address, or UINT64_MAX where the walk ends. Long mode (4 and 5 levels), PAE and
 * 32-bit paging alike: only entry size and index width differ.
 */
static uint64_t walk(struct machine *m, const struct kvm_sregs *s, uint64_t addr, struct text *t)
{
	bool wide = s->cr4 & X86_CR4_PAE;
	bool is_long = s->efer & X86_EFER_LMA;
	unsigned levels = is_long ? (s->cr4 & CR4_LA57 ? 5 : 4) : wide ? 3 : 2;
	unsigned bits = wide ? 9 : 10, entry_size = wide ? 8 : 4;
	uint64_t table = s->cr3 & (is_long || !wide ? PTE_ADDR : 0xffffffe0ull);

	if (!(s->cr0 & X86_CR0_PG)) {
		add(t, "  paging is off: physical 0x%llx\n", (unsigned long long)addr);
		return addr;
	}
	for (unsigned level = levels; level > 0; level--) {
		unsigned shift = PAGE_SHIFT + bits * (level - 1);
		uint64_t index = addr >> shift & ((1ull << bits) - 1);
		uint64_t entry = 0;

		/* Three-level PAE has four entries at the top. */
		if (!is_long && wide && level == 3)
			index &= 3;
		if (guest_mem_read(m->mem, table + index * entry_size, &entry, entry_size) < 0) {
			add(t, "  level %u: table 0x%llx is not RAM\n", level,
			    (unsigned long long)table);
			return UINT64_MAX;
		}
		add(t, "  level %u [%3u] = 0x%016llx\n", level, (unsigned)index,
		    (unsigned long long)entry);
		if (!(entry & PTE_PRESENT)) {
			add(t, "  not present\n");
			return UINT64_MAX;
		}
		if (level > 1 && (entry & PTE_LARGE)) {
			uint64_t mask = (1ull << shift) - 1;

			return (entry & PTE_ADDR & ~mask) | (addr & mask);
		}
		table = entry & PTE_ADDR;
	}
	return table | (addr & (PAGE_SIZE - 1));
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

void machine_dump_vcpu(struct machine *m, struct vcpu *v, char *text, size_t size)
{
	const struct hv_exit *e = &v->failed_exit;
	struct text t = { .p = text, .size = size };
	struct x86_vcpu_state state;
	uint8_t insn[16];
	uint64_t linear, gpa;
	int r;

	add(&t, "vCPU %u: %s", v->index,
	    e->kind == HV_EXIT_NONE ? "triple fault" : hv_exit_name(e->kind));
	if (e->kind != HV_EXIT_NONE)
		add(&t, ", detail 0x%llx", (unsigned long long)e->detail);
	add(&t, "\n");
	r = m->hv->ops->vcpu_get(v->hv, &state);
	if (r < 0) {
		add(&t, "  registers cannot be read: error %d\n", -r);
		return;
	}
	add_registers(&t, &state.regs, &state.sregs);
	if (e->insn_len) {
		add(&t, "  instruction (from KVM):");
		add_bytes(&t, e->insn, e->insn_len);
	}
	/* Only 64-bit code ignores the base of CS. */
	linear = state.regs.rip + (state.sregs.cs.l ? 0 : state.sregs.cs.base);
	gpa = walk(m, &state.sregs, linear, &t);
	if (gpa == UINT64_MAX)
		return;
	add(&t, "  rip is at guest physical 0x%llx:", (unsigned long long)gpa);
	if (guest_mem_read(m->mem, gpa, insn, sizeof(insn)) < 0)
		add(&t, " not RAM\n");
	else
		add_bytes(&t, insn, sizeof(insn));
}
