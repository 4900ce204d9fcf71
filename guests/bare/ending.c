/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends as it is told: end=poweroff, reset, cf9, keyboard, panic, triple, exit:N, test:N (port
 * 0xf4), halt, spin, unknown:PORT (a byte there, then exit 0). With after=N it first counts to
 * that, ten times a second.
 */
#include "bare.h"

static void power_off(void)
{
	/* Sleep control register of reduced hardware, else PM1a: SLP_EN with S5's type. */
	u64 reg = read32(acpi.fadt + 4) >= 256 ? read64(acpi.fadt + 248) : 0;

	note("sleep control at %lx", reg);
	if (acpi.fadt_flags & 1 << 20 && reg)
		outb(reg, 1 << 5 | 5 << 2);
	else
		outw(read32(acpi.fadt + 64), 1 << 13 | argument_number("s5", 5) << 10);
}

void payload(void)
{
	const char *end = argument("end");
	u64 after = argument_number("after", 0);

	check(end, "told how to end");
	if (!end)
		return;
	for (u64 i = 1; i <= after; i++) {
		note("count %d", (int)i);
		(void)wait_up_to(250000000ul, false);
	}
	if (starts_with(end, "poweroff")) {
		power_off();
	} else if (starts_with(end, "reset")) {
		if (acpi.reset_space == 1)
			outb(acpi.reset_addr, acpi.reset_value);
		else
			write8(acpi.reset_addr, acpi.reset_value);
	} else if (starts_with(end, "cf9")) {
		outb(0xcf9, 2);
		outb(0xcf9, 6);
	} else if (starts_with(end, "keyboard")) {
		outb(0x64, 0xfe);
	} else if (starts_with(end, "panic")) {
		outb(0x505, 1);
	} else if (starts_with(end, "triple")) {
		struct {
			u16 limit;
			u64 base;
		} __attribute__((packed)) none = { 0, 0 };

		asm volatile("lidt %0" : : "m"(none));
		(void)read64(0x600000000000);
	} else if (starts_with(end, "exit:")) {
		exit_with(parse_number(end + 5, NULL));
	} else if (starts_with(end, "test:")) {
		outb(0xf4, parse_number(end + 5, NULL));
	} else if (starts_with(end, "halt")) {
		for (;;)
			asm volatile("cli; hlt");
	} else if (starts_with(end, "spin")) {
		for (;;)
			pause();
	} else if (starts_with(end, "unknown:")) {
		outb(parse_number(end + 8, NULL), 0);
	}
	/* Some ends take a moment; and one that does not come is a failure. */
	(void)wait_up_to(12000000000ul, false);
	check(false, "the machine is still here");
}
