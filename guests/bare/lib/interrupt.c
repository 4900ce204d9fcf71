/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions, interrupt controllers, other processors. */
#include "bare.h"

extern u8 vectors[];
extern u8 ap_trampoline[], ap_trampoline_end[];
extern u32 ap_next;

/* Below 1 MiB, clear of what loaders put there; the start-up vector is its page number. */
#define TRAMPOLINE 0x10000ul

volatile u32 irq_count[256];
volatile u64 guard_resume;
volatile u32 guard_fault, guard_error;
bool apic_x2;
bool (*exception_handler)(struct frame *f);

static u64 idt[512] __attribute__((aligned(16)));

static void load_idt(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (u64)idt };

	asm volatile("lidt %0" : : "m"(pointer));
}

void interrupts_init(void)
{
	for (u32 i = 0; i < 256; i++) {
		u64 at = (u64)vectors + i * 16;

		idt[2 * i] = (at & 0xffff) | 8ul << 16 | 0x8eul << 40 | (at >> 16 & 0xffff) << 48;
		idt[2 * i + 1] = at >> 32;
	}
	/* int3 is for all, in ring 3 too. */
	idt[2 * 3] |= 3ul << 45;
	load_idt();
	/* Nobody here takes interrupts from the old pair of controllers. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

void interrupt(struct frame *f);
void interrupt(struct frame *f)
{
	if (f->vector >= 32) {
		atomic_add(&irq_count[f->vector], 1);
		if (f->vector != 0xff)
			apic_write(APIC_EOI, 0);
		return;
	}
	if (exception_handler && exception_handler(f))
		return;
	if (guard_resume) {
		guard_fault = f->vector + 1;
		guard_error = f->error;
		f->rip = guard_resume;
		return;
	}
	check(false, "exception %lu, error %lx, rip %lx, rsp %lx", f->vector, f->error, f->rip,
	      f->rsp);
	finish();
}

/* ---- local APIC ---- */

void apic_init(void)
{
	u64 base = rdmsr(0x1b);

	apic_x2 = cpuid(1, 0).ecx >> 21 & 1;
	wrmsr(0x1b, base | 1ul << 11);
	if (apic_x2)
		wrmsr(0x1b, base | 3ul << 10);
	apic_write(APIC_TPR, 0);
	apic_write(APIC_SPURIOUS, 0x1ff);
}

u32 apic_read(u32 reg)
{
	return apic_x2 ? rdmsr(0x800 + (reg >> 4)) : read32(acpi.lapic + reg);
}

void apic_write(u32 reg, u32 v)
{
	if (apic_x2)
		wrmsr(0x800 + (reg >> 4), v);
	else
		write32(acpi.lapic + reg, v);
}

u32 apic_id(void)
{
	return apic_x2 ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
}

void apic_ipi(u32 dest, u32 command)
{
	if (apic_x2) {
		wrmsr(0x830, (u64)dest << 32 | command);
	} else {
		write32(acpi.lapic + APIC_ICR + 16, dest << 24);
		write32(acpi.lapic + APIC_ICR, command);
		while (read32(acpi.lapic + APIC_ICR) & 1 << 12)
			pause();
	}
}

/* ---- I/O APIC ---- */

static u32 ioapic_read(u32 reg)
{
	write32(acpi.ioapic, reg);
	return read32(acpi.ioapic + 0x10);
}

static void ioapic_write(u32 reg, u32 v)
{
	write32(acpi.ioapic, reg);
	write32(acpi.ioapic + 0x10, v);
}

void ioapic_route(u32 gsi, u8 vector, bool level, bool masked)
{
	u32 reg = 0x10 + 2 * (gsi - acpi.ioapic_gsi_base);

	ioapic_write(reg, 1 << 16);
	ioapic_write(reg + 1, apic_id() << 24);
	ioapic_write(reg, vector | level << 15 | masked << 16);
}

u64 ioapic_entry(u32 gsi)
{
	u32 reg = 0x10 + 2 * (gsi - acpi.ioapic_gsi_base);

	return ioapic_read(reg) | (u64)ioapic_read(reg + 1) << 32;
}

/* ---- other processors ---- */

static void (*ap_function)(u32 number);
static volatile u32 ap_ids[MAX_CPUS];
static volatile u32 ap_done;

void ap_main(u32 number);
void ap_main(u32 number)
{
	load_idt();
	apic_init();
	if (number < MAX_CPUS)
		ap_ids[number] = apic_id();
	if (ap_function)
		ap_function(number);
	atomic_add(&ap_done, 1);
}

u32 smp_apic_id(u32 index)
{
	return ap_ids[index];
}

u32 smp_start(void (*f)(u32 number))
{
	u32 self = apic_id(), asked = 0;

	ap_function = f;
	memcpy((void *)TRAMPOLINE, ap_trampoline, ap_trampoline_end - ap_trampoline);
	ap_ids[0] = self;
	for (u32 i = 0; i < acpi.num_cpus; i++) {
		if (acpi.apic_ids[i] == self)
			continue;
		apic_ipi(acpi.apic_ids[i], 0x4500); /* INIT */
		apic_ipi(acpi.apic_ids[i], 0x4600 | TRAMPOLINE >> 12);
		asked++;
	}
	/* A processor that slept through the first gets the second, as the manual has it. */
	if (!wait_up_to(12000000000ul, ap_done == asked)) {
		for (u32 i = 0; i < acpi.num_cpus; i++)
			if (acpi.apic_ids[i] != self)
				apic_ipi(acpi.apic_ids[i], 0x4600 | TRAMPOLINE >> 12);
		(void)wait_for(ap_done == asked);
	}
	return ap_done;
}
