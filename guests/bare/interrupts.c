/* SPDX-License-Identifier: Apache-2.0 */
/* The local APIC's interrupts and timer, the I/O APIC's routes. */
#include "bare.h"

#define TIMER 0x50
#define LOW   0x41
#define HIGH  0x91

static u32 since(u32 vector, u32 was)
{
	return irq_count[vector] - was;
}

static void self(u32 vector)
{
	apic_ipi(apic_id(), vector | 1 << 14);
}

static void test_ipi(void)
{
	u32 was = irq_count[LOW], high;

	self(LOW);
	check(since(LOW, was) == 0, "no interrupt comes while they are off");
	check(wait_for(since(LOW, was) == 1), "an interrupt to oneself comes when they are on");
	apic_write(APIC_TPR, 0x50);
	was = irq_count[LOW];
	high = irq_count[HIGH];
	self(LOW);
	self(HIGH);
	check(wait_for(since(HIGH, high) == 1), "one above the task priority comes");
	check(since(LOW, was) == 0, "one below it waits");
	apic_write(APIC_TPR, 0);
	check(wait_for(since(LOW, was) == 1), "and comes when the priority falls");
}

static void test_timer(void)
{
	u32 was = irq_count[TIMER], count, ecx = cpuid(1, 0).ecx;

	apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
	apic_write(APIC_LVT_TIMER, TIMER);
	apic_write(APIC_TIMER_INIT, 2000000);
	check(wait_for(since(TIMER, was) == 1), "timer: one shot");
	check(apic_read(APIC_TIMER_CURRENT) == 0, "timer: stands at zero after it");

	was = irq_count[TIMER];
	apic_write(APIC_LVT_TIMER, TIMER | 1 << 17);
	apic_write(APIC_TIMER_INIT, 2000000);
	check(wait_for(since(TIMER, was) >= 3), "timer: periodic, three times and more");
	apic_write(APIC_TIMER_INIT, 0);
	apic_write(APIC_LVT_TIMER, TIMER | 1 << 16);

	/* With an interrupt awaited, a halt is not for ever. */
	apic_write(APIC_LVT_TIMER, TIMER);
	was = irq_count[TIMER];
	apic_write(APIC_TIMER_INIT, 5000000);
	for (count = 0; !since(TIMER, was) && count < 10; count++)
		sti_hlt_cli();
	check(since(TIMER, was) == 1, "timer: wakes from a halt (%u)", count);

	if (!(ecx >> 24 & 1)) {
		skip("TSC deadline", "not in CPUID");
		return;
	}
	was = irq_count[TIMER];
	apic_write(APIC_LVT_TIMER, TIMER | 2 << 17);
	barrier();
	wrmsr(0x6e0, rdtsc() + 3000000);
	check(wait_for(since(TIMER, was) == 1), "timer: TSC deadline");
	check(rdmsr(0x6e0) == 0, "timer: the deadline is disarmed after it");
	was = irq_count[TIMER];
	wrmsr(0x6e0, 1);
	check(wait_for(since(TIMER, was) == 1), "timer: a deadline in the past comes at once");
	apic_write(APIC_LVT_TIMER, TIMER | 1 << 16);
}

static void test_ioapic(void)
{
	u32 gsi = acpi.ioapic_gsi_base + 20;

	ioapic_route(gsi, 0x66, true, true);
	check((ioapic_entry(gsi) & 0x1a0ff) == 0x18066, "I/O APIC: a route reads back (%lx)",
	      ioapic_entry(gsi));
	check(ioapic_entry(gsi) >> 56 == (apic_id() & 0xff), "I/O APIC: and its destination");
	ioapic_route(gsi, 0, false, true);
}

void payload(void)
{
	apic_init();
	note("local APIC %u, version %x, %s", apic_id(), apic_read(APIC_VERSION),
	     apic_x2 ? "x2APIC" : "xAPIC");
	check((apic_read(APIC_VERSION) & 0xff) >= 0x10, "there is a local APIC");
	test_ipi();
	test_timer();
	test_ioapic();
}
