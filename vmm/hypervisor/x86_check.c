/*
 * The processor's own rules for a guest state, applied before it does: what
 * VM entry refuses on VMX (Intel SDM volume 3, 27.3.1, with "unrestricted
 * guest", which KVM uses) and on SVM (AMD APM volume 2, 15.5.1). Only what
 * struct x86_vcpu_state holds; debug registers and MSRs are not in it.
 */
#include "vmm/hypervisor/x86.h"

#include <errno.h>

#define CR4_PCIDE (1ull << 17)
#define CR4_CET	  (1ull << 23)
#define CR4_LA57  (1ull << 12)

/* 63:32, 28:19, 17 and 15:6. */
#define CR0_RESERVED (~0ull << 32 | 0x1ff80000ull | 1ull << 17 | 0xffc0ull)
/* All above LAM_SUP, and 26 and 15, which nothing has been given yet. */
#define CR4_RESERVED (~0ull << 29 | 1ull << 26 | 1ull << 15)

#define EFER_VMX_ALLOWED (X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NX)
/* and SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, AIBRSE */
#define EFER_SVM_ALLOWED (EFER_VMX_ALLOWED | 0xf000ull | 1ull << 17 | 1ull << 18 | 3ull << 20)

#define RFLAGS_VM	(1ull << 17)
#define RFLAGS_RESERVED (~0ull << 22 | 1ull << 15 | 1ull << 5 | 1ull << 3)

/* Segment types. */
#define TYPE_ACCESSED 0x1
#define TYPE_READABLE 0x2 /* of code; of data: writable */
#define TYPE_CODE     0x8
#define TYPE_DATA_RW  0x3
#define TYPE_DATA_RWD 0x7 /* expand-down */
#define TYPE_LDT      0x2
#define TYPE_TSS16    0x3
#define TYPE_TSS      0xb
#define AR_V86	      0xf3

#define SEL_TI 4u /* the selector is one of the LDT */

static int broken(struct error *err, const char *what, const char *rule)
{
	return error_set(err, -EINVAL, "VM entry: %s: %s", what, rule);
}

static bool long_mode(const struct kvm_sregs *s)
{
	return s->efer & X86_EFER_LMA;
}

static bool canonical(const struct kvm_sregs *s, uint64_t addr)
{
	unsigned bits = s->cr4 & CR4_LA57 ? 57 : 48;
	int64_t top = (int64_t)addr >> (bits - 1);

	return top == 0 || top == -1;
}

/* ---- what both check ---- */

static int check_modes(const struct kvm_sregs *s, unsigned phys_bits, uint64_t efer_allowed,
		       struct error *err)
{
	bool lme_paging = s->efer & X86_EFER_LME && s->cr0 & X86_CR0_PG;

	if (s->cr0 & CR0_RESERVED)
		return broken(err, "CR0", "reserved bits are set");
	if (s->cr0 & X86_CR0_NW && !(s->cr0 & X86_CR0_CD))
		return broken(err, "CR0", "NW without CD");
	if (s->cr0 & X86_CR0_PG && !(s->cr0 & X86_CR0_PE))
		return broken(err, "CR0", "PG without PE");
	if (s->cr4 & CR4_RESERVED)
		return broken(err, "CR4", "reserved bits are set");
	if (s->cr3 >> phys_bits)
		return broken(err, "CR3", "wider than physical addresses");
	if (s->efer & ~efer_allowed)
		return broken(err, "EFER", "reserved bits are set");
	if (lme_paging && !(s->cr4 & X86_CR4_PAE))
		return broken(err, "CR4", "no PAE in IA-32e mode");
	if (lme_paging != long_mode(s))
		return broken(err, "EFER", "LMA is not LME and CR0.PG");
	if (long_mode(s) && s->cs.l && s->cs.db)
		return broken(err, "CS", "L and D in IA-32e mode");
	if (!long_mode(s) && s->cs.l)
		return broken(err, "CS", "L outside of IA-32e mode"); /* KVM refuses it */
	return 0;
}

int x86_check_svm(const struct x86_vcpu_state *state, unsigned phys_bits, struct error *err)
{
	/* Bases are made canonical and attributes taken as they are: APM 15.5.1. */
	return check_modes(&state->sregs, phys_bits, EFER_SVM_ALLOWED, err);
}

/* ---- VMX: segments, 27.3.1.2 ---- */

static int check_granularity(const struct kvm_segment *seg, const char *name, struct error *err)
{
	if ((seg->limit & 0xfff) != 0xfff && seg->g)
		return broken(err, name, "G with a limit that does not end in 0xfff");
	if (seg->limit >> 20 && !seg->g)
		return broken(err, name, "a limit above 1 MiB without G");
	return 0;
}

/* In virtual-8086 mode everything follows from the selector. */
static int check_v86(const struct kvm_segment *seg, const char *name, struct error *err)
{
	unsigned ar = seg->type | seg->s << 4 | seg->dpl << 5 | seg->present << 7 |
		      seg->avl << 12 | seg->l << 13 | seg->db << 14 | seg->g << 15;

	if (seg->base != (uint64_t)seg->selector << 4)
		return broken(err, name, "base is not the selector's in virtual-8086 mode");
	if (seg->limit != 0xffff)
		return broken(err, name, "limit is not 0xffff in virtual-8086 mode");
	if (seg->unusable || ar != AR_V86)
		return broken(err, name, "access rights are not 0xf3 in virtual-8086 mode");
	return 0;
}

static int check_cs(const struct kvm_sregs *s, struct error *err)
{
	const struct kvm_segment *cs = &s->cs;

	if (cs->base >> 32)
		return broken(err, "CS", "base above 4 GiB");
	if (cs->unusable || !cs->present || !cs->s)
		return broken(err, "CS", "not a present code or data segment");
	switch (cs->type) {
	case TYPE_DATA_RW: /* allowed by "unrestricted guest" */
		if (cs->dpl)
			return broken(err, "CS", "a data segment with DPL above 0");
		break;
	case 9:
	case 11:
		if (cs->dpl != s->ss.dpl)
			return broken(err, "CS", "DPL differs from that of SS");
		break;
	case 13:
	case 15:
		if (cs->dpl > s->ss.dpl)
			return broken(err, "CS", "conforming with a DPL above that of SS");
		break;
	default:
		return broken(err, "CS", "type is not accessed code");
	}
	return check_granularity(cs, "CS", err);
}

static int check_ss(const struct kvm_sregs *s, struct error *err)
{
	const struct kvm_segment *ss = &s->ss;

	/* These two hold even when it is unusable. */
	if ((s->cs.type == TYPE_DATA_RW || !(s->cr0 & X86_CR0_PE)) && ss->dpl)
		return broken(err, "SS", "DPL above 0 in real mode");
	if (ss->unusable)
		return 0;
	if (ss->base >> 32)
		return broken(err, "SS", "base above 4 GiB");
	if (ss->type != TYPE_DATA_RW && ss->type != TYPE_DATA_RWD)
		return broken(err, "SS", "type is not accessed, writable data");
	if (!ss->present || !ss->s)
		return broken(err, "SS", "not a present data segment");
	return check_granularity(ss, "SS", err);
}

static int check_data(const struct kvm_sregs *s, const struct kvm_segment *seg, const char *name,
		      struct error *err)
{
	/* FS and GS have 64-bit bases, loaded even when unusable. */
	if (seg == &s->fs || seg == &s->gs) {
		if (!canonical(s, seg->base))
			return broken(err, name, "base is not canonical");
	} else if (!seg->unusable && seg->base >> 32) {
		return broken(err, name, "base above 4 GiB");
	}
	if (seg->unusable)
		return 0;
	if (!(seg->type & TYPE_ACCESSED))
		return broken(err, name, "type is not accessed");
	if (seg->type & TYPE_CODE && !(seg->type & TYPE_READABLE))
		return broken(err, name, "code that cannot be read");
	if (!seg->present || !seg->s)
		return broken(err, name, "not a present code or data segment");
	return check_granularity(seg, name, err);
}

static int check_system_segments(const struct kvm_sregs *s, struct error *err)
{
	const struct kvm_segment *tr = &s->tr, *ldt = &s->ldt;
	int r;

	if (tr->unusable || !tr->present || tr->s)
		return broken(err, "TR", "not a present system segment");
	if (tr->selector & SEL_TI)
		return broken(err, "TR", "selector in the LDT");
	if (tr->type != TYPE_TSS && (long_mode(s) || tr->type != TYPE_TSS16))
		return broken(err, "TR", "type is not a busy TSS");
	if (!canonical(s, tr->base))
		return broken(err, "TR", "base is not canonical");
	r = check_granularity(tr, "TR", err);
	if (r < 0 || ldt->unusable)
		return r;
	if (ldt->selector & SEL_TI)
		return broken(err, "LDTR", "selector in the LDT");
	if (!ldt->present || ldt->s || ldt->type != TYPE_LDT)
		return broken(err, "LDTR", "not a present LDT");
	if (!canonical(s, ldt->base))
		return broken(err, "LDTR", "base is not canonical");
	return check_granularity(ldt, "LDTR", err);
}

static int check_segments(const struct x86_vcpu_state *state, struct error *err)
{
	const struct kvm_sregs *s = &state->sregs;
	const struct {
		const struct kvm_segment *seg;
		const char *name;
	} data[] = { { &s->ds, "DS" }, { &s->es, "ES" }, { &s->fs, "FS" }, { &s->gs, "GS" } };
	bool v86 = state->regs.rflags & RFLAGS_VM;
	int r;

	r = v86 ? check_v86(&s->cs, "CS", err) : check_cs(s, err);
	if (!r)
		r = v86 ? check_v86(&s->ss, "SS", err) : check_ss(s, err);
	for (unsigned i = 0; i < ARRAY_SIZE(data) && !r; i++)
		r = v86 ? check_v86(data[i].seg, data[i].name, err) :
			  check_data(s, data[i].seg, data[i].name, err);
	return r < 0 ? r : check_system_segments(s, err);
}

/* ---- VMX: 27.3.1.1, .3 and .4 ---- */

static int check_rip_rflags(const struct x86_vcpu_state *state, struct error *err)
{
	const struct kvm_sregs *s = &state->sregs;
	uint64_t rflags = state->regs.rflags, rip = state->regs.rip;
	bool code64 = long_mode(s) && s->cs.l;

	if (!code64 && rip >> 32)
		return broken(err, "RIP", "above 4 GiB outside of 64-bit mode");
	if (code64 && !canonical(s, rip))
		return broken(err, "RIP", "not canonical");
	if (rflags & RFLAGS_RESERVED)
		return broken(err, "RFLAGS", "reserved bits are set");
	if (!(rflags & X86_RFLAGS_FIXED))
		return broken(err, "RFLAGS", "bit 1 is clear");
	if (rflags & RFLAGS_VM && (long_mode(s) || !(s->cr0 & X86_CR0_PE)))
		return broken(err, "RFLAGS", "VM outside of protected mode");
	return 0;
}

int x86_check_vmx(const struct x86_vcpu_state *state, unsigned phys_bits, struct error *err)
{
	const struct kvm_sregs *s = &state->sregs;
	int r;

	r = check_modes(s, phys_bits, EFER_VMX_ALLOWED, err);
	if (r < 0)
		return r;
	if (s->cr4 & CR4_PCIDE && !long_mode(s))
		return broken(err, "CR4", "PCIDE outside of IA-32e mode");
	if (s->cr4 & CR4_CET && !(s->cr0 & X86_CR0_WP))
		return broken(err, "CR4", "CET without CR0.WP");
	r = check_segments(state, err);
	if (r < 0)
		return r;
	if (!canonical(s, s->gdt.base))
		return broken(err, "GDTR", "base is not canonical");
	if (!canonical(s, s->idt.base))
		return broken(err, "IDTR", "base is not canonical");
	return check_rip_rflags(state, err);
}
