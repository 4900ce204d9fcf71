/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All processors come, each as itself, and share memory. expect_cpus=N tells how many.
 */
#include "bare.h"

#define ROUNDS	     20
#define FIRST_VECTOR 0x40
#define VECTORS	     64

static volatile u32 counter, with_lock, lock, own_id;
static u32 boot_id;

static void work(u32 number)
{
	struct cpuid c = cpuid(1, 0);

	if (c.ebx >> 24 == (apic_id() & 0xff))
		atomic_add(&own_id, 1);
	for (u32 i = 0; i < ROUNDS; i++) {
		u32 taken = 1;

		atomic_add(&counter, 1);
		do {
			taken = 1;
			asm volatile("xchgl %0, %1" : "+r"(taken), "+m"(lock) : : "memory");
			if (taken)
				pause();
		} while (taken);
		with_lock = with_lock + 1;
		barrier();
		lock = 0;
	}
	apic_ipi(boot_id, FIRST_VECTOR + number % VECTORS);
}

void payload(void)
{
	u32 started, missing = 0, same = 0, n;

	apic_init();
	boot_id = apic_id();
	if (argument("expect_cpus"))
		check(acpi.num_cpus == argument_number("expect_cpus", 0),
		      "%u processors are announced", acpi.num_cpus);
	n = acpi.num_cpus - 1;
	started = smp_start(work);
	check(started == n, "all others start (%u of %u)", started, n);
	check(own_id == n, "each has in CPUID the APIC ID of its APIC");
	check(counter == n * ROUNDS, "locked additions are not lost (%u)", counter);
	check(with_lock == n * ROUNDS, "additions under a lock are not lost (%u)", with_lock);
	for (u32 i = 0; i <= n; i++)
		for (u32 j = 0; j < i; j++)
			same += smp_apic_id(i) == smp_apic_id(j);
	check(!same, "no two have the same APIC ID");
	/* Those of equal vectors may have been one. */
	for (u32 i = 1; i <= n && i <= VECTORS; i++)
		if (!wait_for(irq_count[FIRST_VECTOR + i % VECTORS]))
			missing++;
	check(!missing, "each one's interrupt to this one arrives");
}
