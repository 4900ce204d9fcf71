#include "vmm/hypervisor/x86.h"

#include <errno.h>

/* Selectors of the GDT we write; the Linux boot protocol fixes the first two. */
#define SEL_CODE64 0x10
#define SEL_DATA   0x18
#define SEL_CODE32 0x20
#define SEL_TSS	   0x28

#define TYPE_DATA_RW	0x3 /* accessed */
#define TYPE_CODE_RX	0xb /* accessed */
#define TYPE_LDT	0x2
#define TYPE_TSS_BUSY	0xb

#define TSS_LIMIT 0x67

/* The GDT as memory has it; the hidden parts of the segments below say the same. */
static const uint64_t gdt[] = {
	[0] = 0,
	[SEL_CODE64 / 8] = 0x00af9b000000ffff,
	[SEL_DATA / 8] = 0x00cf93000000ffff,
	[SEL_CODE32 / 8] = 0x00cf9b000000ffff,
	[SEL_TSS / 8] = 0x00008b0000000067, /* and its upper half, zero: base 0 */
	[SEL_TSS / 8 + 1] = 0,
};

#define PTE_PRESENT (1ull << 0)
#define PTE_WRITE   (1ull << 1)
#define PTE_LARGE   (1ull << 7)

#define NUM_PDS	      4 /* one for each GiB */
#define LARGE_PAGE    (2 * MiB)
#define TABLE_ENTRIES 512

static struct kvm_segment code_segment(bool long_mode)
{
	return (struct kvm_segment){
		.selector = long_mode ? SEL_CODE64 : SEL_CODE32,
		.limit = UINT32_MAX,
		.type = TYPE_CODE_RX,
		.present = 1,
		.s = 1,
		.l = long_mode,
		.db = !long_mode,
		.g = 1,
	};
}

static struct kvm_segment data_segment(void)
{
	return (struct kvm_segment){
		.selector = SEL_DATA,
		.limit = UINT32_MAX,
		.type = TYPE_DATA_RW,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
}

/* What protected mode has in common for both: flat segments, a busy TSS, no LDT, no IDT. */
static void protected_mode(struct kvm_sregs *s, bool long_mode)
{
	s->cs = code_segment(long_mode);
	s->ds = s->es = s->fs = s->gs = s->ss = data_segment();
	s->tr = (struct kvm_segment){
		.selector = SEL_TSS,
		.limit = TSS_LIMIT,
		.type = TYPE_TSS_BUSY,
		.present = 1,
	};
	s->ldt = (struct kvm_segment){ .type = TYPE_LDT, .unusable = 1 };
	s->gdt = (struct kvm_dtable){ .base = FW_GDT_ADDR, .limit = sizeof(gdt) - 1 };
	s->idt = (struct kvm_dtable){ 0 };
	s->cr0 = X86_CR0_PE | X86_CR0_ET;
	s->cr2 = s->cr3 = s->cr4 = s->cr8 = s->efer = 0;
}

/* After RESET: SDM volume 3, table 10-1. */
static void reset_state(struct x86_vcpu_state *state)
{
	struct kvm_sregs *s = &state->sregs;
	struct kvm_segment data = {
		.limit = 0xffff,
		.type = TYPE_DATA_RW,
		.present = 1,
		.s = 1,
	};

	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->cs = data;
	s->cs.selector = 0xf000;
	s->cs.base = 0xffff0000;
	s->cs.type = TYPE_CODE_RX;
	s->tr = (struct kvm_segment){
		.limit = 0xffff,
		.type = TYPE_TSS_BUSY,
		.present = 1,
	};
	s->ldt = (struct kvm_segment){
		.limit = 0xffff,
		.type = TYPE_LDT,
		.present = 1,
	};
	s->gdt = s->idt = (struct kvm_dtable){ .limit = 0xffff };
	s->cr0 = X86_CR0_ET | X86_CR0_NW | X86_CR0_CD;
	s->cr2 = s->cr3 = s->cr4 = s->cr8 = s->efer = 0;
	state->regs.rip = 0xfff0;
}

void x86_boot_state(struct x86_vcpu_state *state, const struct fw_start *start)
{
	struct kvm_sregs *s = &state->sregs;
	struct kvm_regs *r = &state->regs;

	*r = (struct kvm_regs){ .rflags = X86_RFLAGS_FIXED };
	memset(s->interrupt_bitmap, 0, sizeof(s->interrupt_bitmap));
	switch (start->entry) {
	case FW_ENTRY_LINUX64:
		protected_mode(s, true);
		s->cr0 |= X86_CR0_PG;
		s->cr4 = X86_CR4_PAE;
		s->cr3 = start->cr3;
		s->efer = X86_EFER_LME | X86_EFER_LMA;
		break;
	case FW_ENTRY_PVH:
		protected_mode(s, false);
		break;
	case FW_ENTRY_RESET:
		reset_state(state);
		return;
	}
	r->rip = start->rip;
	r->rsp = start->rsp;
	r->rsi = start->rsi;
	r->rbx = start->rbx;
}

/* PML4, PDPT, four PDs of 2 MiB pages: the first 4 GiB are where they are. */
static int write_page_tables(struct guest_mem *mem, uint64_t addr)
{
	uint8_t *table = guest_mem_ptr(mem, addr, (2 + NUM_PDS) * PAGE_SIZE);
	uint64_t flags = PTE_PRESENT | PTE_WRITE;

	if (!table)
		return -EFAULT;
	put_le64(table, (addr + PAGE_SIZE) | flags);
	for (unsigned i = 0; i < NUM_PDS; i++)
		put_le64(table + PAGE_SIZE + i * 8, (addr + (2 + i) * PAGE_SIZE) | flags);
	for (unsigned i = 0; i < NUM_PDS * TABLE_ENTRIES; i++)
		put_le64(table + 2 * PAGE_SIZE + i * 8, i * LARGE_PAGE | flags | PTE_LARGE);
	return 0;
}

int x86_boot_tables(struct guest_mem *mem, const struct fw_start *start)
{
	int r;

	if (start->entry == FW_ENTRY_RESET)
		return 0;
	r = guest_mem_write(mem, FW_GDT_ADDR, gdt, sizeof(gdt));
	if (!r && start->entry == FW_ENTRY_LINUX64)
		r = write_page_tables(mem, start->cr3);
	return r;
}
