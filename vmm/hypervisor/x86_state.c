#include "vmm/hypervisor/x86_state.h"

#include <errno.h>

#include "vmm/hypervisor/x86_msr_set.h"

#define MAX_SEGMENT_TYPE 15
#define RFLAGS_DEFINED	 0x3f7fd7ull
#define HIGH_HALF	 0xffffffff00000000ull

/* The XSAVE area: SDM volume 1, 13.4. */
#define XSAVE_HEADER	  512
#define XSAVE_HEADER_SIZE 64
#define XSAVE_MIN	  (XSAVE_HEADER + XSAVE_HEADER_SIZE)

/* ---- segments and system registers ---- */

static void write_segment(const struct kvm_segment *s, struct state_writer *w)
{
	state_put_u64(w, s->base);
	state_put_u32(w, s->limit);
	state_put_u16(w, s->selector);
	state_put_u8(w, s->type);
	state_put_u8(w, s->dpl);
	state_put_u8(w, s->present);
	state_put_u8(w, s->db);
	state_put_u8(w, s->s);
	state_put_u8(w, s->l);
	state_put_u8(w, s->g);
	state_put_u8(w, s->avl);
	state_put_u8(w, s->unusable);
}

static void read_segment(struct kvm_segment *s, struct state_reader *r)
{
	*s = (struct kvm_segment){ 0 };
	s->base = state_get_u64(r);
	s->limit = state_get_u32(r);
	s->selector = state_get_u16(r);
	s->type = state_get_u8(r);
	s->dpl = state_get_u8(r);
	s->present = state_get_bool(r);
	s->db = state_get_bool(r);
	s->s = state_get_bool(r);
	s->l = state_get_bool(r);
	s->g = state_get_bool(r);
	s->avl = state_get_bool(r);
	s->unusable = state_get_bool(r);
	if (s->type > MAX_SEGMENT_TYPE || s->dpl > 3)
		state_reader_fail(r, "a segment of type %u, level %u", s->type, s->dpl);
}

static void write_table(const struct kvm_dtable *t, struct state_writer *w)
{
	state_put_u64(w, t->base);
	state_put_u16(w, t->limit);
}

static void read_table(struct kvm_dtable *t, struct state_reader *r)
{
	*t = (struct kvm_dtable){ 0 };
	t->base = state_get_u64(r);
	t->limit = state_get_u16(r);
}

/* The segment registers in the order of the section. */
#define NUM_SEGMENTS 8

static struct kvm_segment *segment(struct kvm_sregs *s, unsigned i)
{
	struct kvm_segment *const order[NUM_SEGMENTS] = { &s->cs, &s->ds, &s->es, &s->fs,
							  &s->gs, &s->ss, &s->tr, &s->ldt };

	return order[i];
}

static void write_sregs(const struct kvm_sregs *sregs, struct state_writer *w)
{
	struct kvm_sregs s = *sregs;

	for (unsigned i = 0; i < NUM_SEGMENTS; i++)
		write_segment(segment(&s, i), w);
	write_table(&s.gdt, w);
	write_table(&s.idt, w);
	state_put_u64(w, s.cr0);
	state_put_u64(w, s.cr2);
	state_put_u64(w, s.cr3);
	state_put_u64(w, s.cr4);
	state_put_u64(w, s.cr8);
	state_put_u64(w, s.efer);
	state_put_u64(w, s.apic_base);
}

static void read_sregs(struct kvm_sregs *s, struct state_reader *r)
{
	*s = (struct kvm_sregs){ 0 };
	for (unsigned i = 0; i < NUM_SEGMENTS; i++)
		read_segment(segment(s, i), r);
	read_table(&s->gdt, r);
	read_table(&s->idt, r);
	s->cr0 = state_get_u64(r);
	s->cr2 = state_get_u64(r);
	s->cr3 = state_get_u64(r);
	s->cr4 = state_get_u64(r);
	s->cr8 = state_get_u64(r);
	s->efer = state_get_u64(r);
	s->apic_base = state_get_u64(r);
	if (s->cr0 & HIGH_HALF)
		state_reader_fail(r, "CR0 is %#llx", s->cr0);
	if (s->cr8 > 15)
		state_reader_fail(r, "CR8 is %#llx", s->cr8);
}

/* ---- general registers ---- */

#define NUM_GENERAL 18

static __u64 *general(struct kvm_regs *r, unsigned i)
{
	__u64 *const order[NUM_GENERAL] = {
		&r->rax, &r->rbx, &r->rcx, &r->rdx, &r->rsi, &r->rdi, &r->rsp, &r->rbp,	   &r->r8,
		&r->r9,	 &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15, &r->rflags, &r->rip,
	};

	return order[i];
}

static void write_regs(const struct kvm_regs *regs, struct state_writer *w)
{
	struct kvm_regs copy = *regs;

	for (unsigned i = 0; i < NUM_GENERAL; i++)
		state_put_u64(w, *general(&copy, i));
}

static void read_regs(struct kvm_regs *regs, struct state_reader *r)
{
	for (unsigned i = 0; i < NUM_GENERAL; i++)
		*general(regs, i) = state_get_u64(r);
	if (!r->failed && (regs->rflags & ~RFLAGS_DEFINED || !(regs->rflags & X86_RFLAGS_FIXED)))
		state_reader_fail(r, "RFLAGS is %#llx", regs->rflags);
}

/* ---- events ---- */

#define EVENT_FLAGS                                                                           \
	(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |                  \
	 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | \
	 KVM_VCPUEVENT_VALID_TRIPLE_FAULT)

static void write_events(const struct kvm_vcpu_events *e, struct state_writer *w)
{
	state_put_u8(w, e->exception.injected);
	state_put_u8(w, e->exception.nr);
	state_put_u8(w, e->exception.has_error_code);
	state_put_u8(w, e->exception.pending);
	state_put_u32(w, e->exception.error_code);
	state_put_u8(w, e->interrupt.injected);
	state_put_u8(w, e->interrupt.nr);
	state_put_u8(w, e->interrupt.soft);
	state_put_u8(w, e->interrupt.shadow);
	state_put_u8(w, e->nmi.injected);
	state_put_u8(w, e->nmi.pending);
	state_put_u8(w, e->nmi.masked);
	state_put_u32(w, e->sipi_vector);
	state_put_u32(w, e->flags);
	state_put_u8(w, e->smi.smm);
	state_put_u8(w, e->smi.pending);
	state_put_u8(w, e->smi.smm_inside_nmi);
	state_put_u8(w, e->smi.latched_init);
	state_put_u8(w, e->triple_fault.pending);
	state_put_u8(w, e->exception_has_payload);
	state_put_u64(w, e->exception_payload);
}

static void read_events(struct kvm_vcpu_events *e, struct state_reader *r)
{
	*e = (struct kvm_vcpu_events){ 0 };
	e->exception.injected = state_get_bool(r);
	e->exception.nr = state_get_u8(r);
	e->exception.has_error_code = state_get_bool(r);
	e->exception.pending = state_get_bool(r);
	e->exception.error_code = state_get_u32(r);
	e->interrupt.injected = state_get_bool(r);
	e->interrupt.nr = state_get_u8(r);
	e->interrupt.soft = state_get_bool(r);
	e->interrupt.shadow = state_get_u8(r);
	e->nmi.injected = state_get_bool(r);
	e->nmi.pending = state_get_u8(r);
	e->nmi.masked = state_get_bool(r);
	e->sipi_vector = state_get_u32(r);
	e->flags = state_get_u32(r);
	e->smi.smm = state_get_bool(r);
	e->smi.pending = state_get_bool(r);
	e->smi.smm_inside_nmi = state_get_bool(r);
	e->smi.latched_init = state_get_bool(r);
	e->triple_fault.pending = state_get_bool(r);
	e->exception_has_payload = state_get_bool(r);
	e->exception_payload = state_get_u64(r);
	if (e->exception.nr > 31)
		state_reader_fail(r, "exception %u", e->exception.nr);
	if (e->interrupt.shadow > (KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI))
		state_reader_fail(r, "interrupt shadow %#x", e->interrupt.shadow);
	if (e->sipi_vector > UINT8_MAX)
		state_reader_fail(r, "start-up vector %#x", e->sipi_vector);
	if (e->flags & ~EVENT_FLAGS)
		state_reader_fail(r, "event flags %#x", e->flags);
	/* Its own firmware would have to be there: we have none that lives in SMM. */
	if (e->smi.smm || e->smi.smm_inside_nmi)
		state_reader_fail(r, "system management mode");
}

/* ---- the rest of a vCPU ---- */

static void write_debug(const struct kvm_debugregs *d, struct state_writer *w)
{
	for (unsigned i = 0; i < ARRAY_SIZE(d->db); i++)
		state_put_u64(w, d->db[i]);
	state_put_u64(w, d->dr6);
	state_put_u64(w, d->dr7);
}

static void read_debug(struct kvm_debugregs *d, struct state_reader *r)
{
	*d = (struct kvm_debugregs){ 0 };
	for (unsigned i = 0; i < ARRAY_SIZE(d->db); i++)
		d->db[i] = state_get_u64(r);
	d->dr6 = state_get_u64(r);
	d->dr7 = state_get_u64(r);
	if ((d->dr6 | d->dr7) & HIGH_HALF)
		state_reader_fail(r, "DR6 is %#llx, DR7 is %#llx", d->dr6, d->dr7);
}

static void write_xcrs(const struct kvm_xcrs *x, struct state_writer *w)
{
	state_put_u32(w, x->nr_xcrs);
	for (unsigned i = 0; i < x->nr_xcrs; i++) {
		state_put_u32(w, x->xcrs[i].xcr);
		state_put_u64(w, x->xcrs[i].value);
	}
}

static void read_xcrs(struct kvm_xcrs *x, struct state_reader *r)
{
	*x = (struct kvm_xcrs){ .nr_xcrs = state_get_u32(r) };
	if (x->nr_xcrs > KVM_MAX_XCRS) {
		state_reader_fail(r, "%u extended control registers", x->nr_xcrs);
		return;
	}
	for (unsigned i = 0; i < x->nr_xcrs; i++) {
		x->xcrs[i].xcr = state_get_u32(r);
		x->xcrs[i].value = state_get_u64(r);
		/* There is one, and its lowest bit always reads as one: SDM 1, 13.3. */
		if (x->xcrs[i].xcr || !(x->xcrs[i].value & 1))
			state_reader_fail(r, "XCR%u is %#llx", x->xcrs[i].xcr, x->xcrs[i].value);
	}
}

static void read_xsave(struct x86_saved_vcpu *v, struct state_reader *r)
{
	v->xsave_bytes = state_get_u32(r);
	if (v->xsave_bytes < XSAVE_MIN || v->xsave_bytes > X86_MAX_XSAVE) {
		state_reader_fail(r, "an XSAVE area of %u bytes", v->xsave_bytes);
		return;
	}
	state_get_bytes(r, v->xsave, v->xsave_bytes);
	/* Beside the components that are there: no compaction, nothing reserved. */
	for (unsigned i = 8; i < XSAVE_HEADER_SIZE; i++)
		if (v->xsave[XSAVE_HEADER + i]) {
			state_reader_fail(r, "the header of the XSAVE area");
			return;
		}
}

static void read_msrs(struct x86_saved_vcpu *v, struct state_reader *r)
{
	struct x86_msr_set seen = { 0 };

	v->num_msrs = state_get_u32(r);
	if (v->num_msrs > X86_MAX_SAVED_MSRS) {
		state_reader_fail(r, "%u model-specific registers", v->num_msrs);
		return;
	}
	for (unsigned i = 0; i < v->num_msrs; i++) {
		struct kvm_msr_entry *m = &v->msr[i];

		*m = (struct kvm_msr_entry){ .index = state_get_u32(r) };
		m->data = state_get_u64(r);
		if (!x86_msr_set_add(&seen, m->index))
			state_reader_fail(r, "MSR %#x is there twice", m->index);
	}
}

void x86_vcpu_write(const struct x86_saved_vcpu *v, struct state_writer *w)
{
	write_regs(&v->regs.regs, w);
	write_sregs(&v->regs.sregs, w);
	state_put_u8(w, v->has_pdptrs);
	for (unsigned i = 0; i < ARRAY_SIZE(v->pdptr); i++)
		state_put_u64(w, v->pdptr[i]);
	state_put_u32(w, v->mp_state);
	write_events(&v->events, w);
	write_debug(&v->debug, w);
	write_xcrs(&v->xcrs, w);
	state_put_bytes(w, v->lapic, sizeof(v->lapic));
	state_put_u64(w, v->tsc);
	state_put_u32(w, v->xsave_bytes);
	state_put_bytes(w, v->xsave, v->xsave_bytes);
	state_put_u32(w, v->num_msrs);
	for (unsigned i = 0; i < v->num_msrs; i++) {
		state_put_u32(w, v->msr[i].index);
		state_put_u64(w, v->msr[i].data);
	}
}

int x86_vcpu_read(struct x86_saved_vcpu *v, struct state_reader *r)
{
	memset(v, 0, sizeof(*v));
	read_regs(&v->regs.regs, r);
	read_sregs(&v->regs.sregs, r);
	v->has_pdptrs = state_get_bool(r);
	for (unsigned i = 0; i < ARRAY_SIZE(v->pdptr); i++)
		v->pdptr[i] = state_get_u64(r);
	v->mp_state = state_get_u32(r);
	if (v->mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		state_reader_fail(r, "processor state %u", v->mp_state);
	read_events(&v->events, r);
	read_debug(&v->debug, r);
	read_xcrs(&v->xcrs, r);
	state_get_bytes(r, v->lapic, sizeof(v->lapic));
	v->tsc = state_get_u64(r);
	read_xsave(v, r);
	read_msrs(v, r);
	return r->failed;
}

/* ---- interrupt controllers and clock ---- */

#define IOAPIC_PINS 24

#define PIC_FIELDS 16

static uint8_t *pic_field(struct kvm_pic_state *p, unsigned i)
{
	uint8_t *const order[PIC_FIELDS] = {
		&p->last_irr,
		&p->irr,
		&p->imr,
		&p->isr,
		&p->priority_add,
		&p->irq_base,
		&p->read_reg_select,
		&p->poll,
		&p->special_mask,
		&p->init_state,
		&p->auto_eoi,
		&p->rotate_on_auto_eoi,
		&p->special_fully_nested_mode,
		&p->init4,
		&p->elcr,
		&p->elcr_mask,
	};

	return order[i];
}

static void write_pic(const struct kvm_irqchip *chip, struct state_writer *w)
{
	struct kvm_pic_state p = chip->chip.pic;

	for (unsigned i = 0; i < PIC_FIELDS; i++)
		state_put_u8(w, *pic_field(&p, i));
}

static void read_pic(struct kvm_irqchip *chip, struct state_reader *r)
{
	struct kvm_pic_state *p = &chip->chip.pic;

	for (unsigned i = 0; i < PIC_FIELDS; i++)
		*pic_field(p, i) = state_get_u8(r);
	if (p->priority_add > 7)
		state_reader_fail(r, "a PIC's priority %u", p->priority_add);
	if (p->init_state > 3)
		state_reader_fail(r, "a PIC in initialisation step %u", p->init_state);
}

void x86_vm_write(const struct x86_saved_vm *vm, struct state_writer *w)
{
	const struct kvm_ioapic_state *io = &vm->ioapic.chip.ioapic;

	write_pic(&vm->pic[0], w);
	write_pic(&vm->pic[1], w);
	state_put_u32(w, io->ioregsel);
	state_put_u32(w, io->id);
	state_put_u32(w, io->irr);
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		state_put_u64(w, io->redirtbl[i].bits);
	state_put_u64(w, vm->clock_ns);
	state_put_u64(w, vm->realtime_ns);
}

/* No clock of ours has run for 200 years: sums with it cannot overflow. */
#define MAX_NS (200ull * 365 * 86400 * NSEC_PER_SEC)

int x86_vm_read(struct x86_saved_vm *vm, struct state_reader *r)
{
	struct kvm_ioapic_state *io = &vm->ioapic.chip.ioapic;

	memset(vm, 0, sizeof(*vm));
	vm->pic[0].chip_id = KVM_IRQCHIP_PIC_MASTER;
	vm->pic[1].chip_id = KVM_IRQCHIP_PIC_SLAVE;
	vm->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	read_pic(&vm->pic[0], r);
	read_pic(&vm->pic[1], r);
	io->base_address = FW_IOAPIC_ADDR;
	io->ioregsel = state_get_u32(r);
	io->id = state_get_u32(r);
	io->irr = state_get_u32(r);
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		io->redirtbl[i].bits = state_get_u64(r);
	vm->clock_ns = state_get_u64(r);
	vm->realtime_ns = state_get_u64(r);
	if (io->irr >> IOAPIC_PINS)
		state_reader_fail(r, "the I/O APIC has pins %#x", io->irr);
	if (vm->clock_ns > MAX_NS || vm->realtime_ns > MAX_NS)
		state_reader_fail(r, "a time beyond all calendars");
	return r->failed;
}

/* ---- CPUID ---- */

void x86_cpuid_write(const struct x86_cpuid *cpuid, struct state_writer *w)
{
	state_put_u32(w, cpuid->num);
	for (unsigned i = 0; i < cpuid->num; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		state_put_u32(w, e->function);
		state_put_u32(w, e->index);
		state_put_u32(w, e->flags);
		state_put_u32(w, e->eax);
		state_put_u32(w, e->ebx);
		state_put_u32(w, e->ecx);
		state_put_u32(w, e->edx);
	}
}

int x86_cpuid_read(struct x86_cpuid *cpuid, struct state_reader *r)
{
	cpuid->num = state_get_u32(r);
	if (cpuid->num > X86_MAX_CPUID) {
		unsigned num = cpuid->num;

		cpuid->num = 0;
		return state_reader_fail(r, "%u CPUID entries", num);
	}
	for (unsigned i = 0; i < cpuid->num; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		*e = (struct kvm_cpuid_entry2){ .function = state_get_u32(r) };
		e->index = state_get_u32(r);
		e->flags = state_get_u32(r) & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		e->eax = state_get_u32(r);
		e->ebx = state_get_u32(r);
		e->ecx = state_get_u32(r);
		e->edx = state_get_u32(r);
	}
	return r->failed;
}
