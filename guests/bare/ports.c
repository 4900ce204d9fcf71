/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port's registers, the clock, and ports with nobody behind them. */
#include "bare.h"

#define COM1 0x3f8
#define RBR (COM1 + 0)
#define THR (COM1 + 0)
#define IER (COM1 + 1)
#define IIR (COM1 + 2)
#define FCR (COM1 + 2)
#define LCR (COM1 + 3)
#define MCR (COM1 + 4)
#define LSR (COM1 + 5)
#define MSR (COM1 + 6)
#define SCR (COM1 + 7)

#define VECTOR 0x44

static void drain_out(void)
{
	for (u32 i = 0; i < 100000 && !(inb(LSR) & 0x40); i++)
		pause();
}

static void test_serial_registers(void)
{
	bool scratch, divisor, fifo;

	outb(SCR, 0x5a);
	scratch = inb(SCR) == 0x5a;
	outb(SCR, 0xa5);
	scratch &= inb(SCR) == 0xa5;
	check(scratch, "serial: the scratch register keeps its value");

	drain_out();
	outb(LCR, 0x83);
	outb(THR, 0x0c);
	outb(IER, 0x01);
	divisor = inb(RBR) == 0x0c && inb(IER) == 0x01;
	outb(THR, 1);
	outb(IER, 0);
	outb(LCR, 0x03);
	check(divisor && inb(LCR) == 3,
	      "serial: the divisor latch is apart from the data and interrupt registers");

	outb(FCR, 0x07);
	fifo = (inb(IIR) & 0xc0) == 0xc0;
	outb(FCR, 0x00);
	fifo &= (inb(IIR) & 0xc0) == 0;
	outb(FCR, 0x07);
	check(fifo, "serial: the FIFO's bits show when it is on");
	check((inb(LSR) & 0x60) == 0x60, "serial: the transmitter starts empty");
}

/* Nothing is printed while the port is in loopback: a verdict would be received. */
static void test_serial_loopback(void)
{
	bool received, modem, overrun, in_order, timeout_id, data_id;
	u8 none;
	u32 n;

	drain_out();
	outb(MCR, 0x10);
	outb(THR, 'x');
	received = (inb(LSR) & 1) && inb(RBR) == 'x' && !(inb(LSR) & 1);
	outb(MCR, 0x1f);
	modem = (inb(MSR) & 0xf0) == 0xf0;
	outb(MCR, 0x12); /* RTS comes back as CTS */
	modem &= (inb(MSR) & 0xf0) == 0x10;
	outb(MCR, 0x10);
	(void)inb(MSR);

	outb(FCR, 0x07);
	for (u8 i = 0; i < 18; i++)
		outb(THR, 'a' + i);
	overrun = inb(LSR) & 2;
	for (n = 0, in_order = true; (inb(LSR) & 1) && n < 32; n++)
		in_order &= inb(RBR) == 'a' + n || n == 15;
	outb(FCR, 0xc7); /* interrupt at 14 bytes */
	outb(IER, 1);
	outb(THR, 'x');
	/* Less than the level: an interrupt comes, as a timeout. Some models have it at once. */
	timeout_id = wait_for((inb(IIR) & 0x0f) == 0x0c || (inb(IIR) & 0x0f) == 0x04);
	(void)inb(RBR);
	outb(FCR, 0x07);
	outb(THR, 'x');
	data_id = (inb(IIR) & 0x0f) == 0x04;
	(void)inb(RBR);
	none = inb(IIR) & 0x0f;
	outb(IER, 0);
	outb(FCR, 0x07);
	outb(MCR, 0x0b);
	check(received, "serial: loopback returns what is sent");
	check(modem, "serial: loopback joins the modem lines");
	check(overrun, "serial: the 17th byte overruns a FIFO of 16");
	check(n == 16 && in_order, "serial: 16 bytes come out as they went in (%u)", n);
	check(timeout_id, "serial: bytes below the level raise a timeout interrupt");
	check(data_id, "serial: received data is identified");
	check(none == 1, "serial: reading it ends the interrupt (%x)", none);
}

static void test_serial_interrupts(void)
{
	u8 thre, none;
	u32 n;

	drain_out();
	outb(IER, 2);
	thre = inb(IIR) & 0x0f;
	none = inb(IIR) & 0x0f;
	outb(IER, 0);
	check(thre == 2, "serial: an empty transmitter is identified");
	check(none == 1, "serial: reading the identification ends that");

	drain_out();
	apic_init();
	ioapic_route(acpi.isa_gsi[4], VECTOR, false, false);
	n = irq_count[VECTOR];
	outb(IER, 2);
	check(wait_for(irq_count[VECTOR] != n),
	      "serial: its interrupt arrives by the I/O APIC (GSI %u)", acpi.isa_gsi[4]);
	outb(IER, 0);
	ioapic_route(acpi.isa_gsi[4], VECTOR, false, true);
}

static void test_serial(void)
{
	if (inb(LSR) == 0xff && inb(SCR) == 0xff) {
		skip("serial port", "there is none");
		return;
	}
	test_serial_registers();
	test_serial_loopback();
	test_serial_interrupts();
}

static u8 rtc(u8 reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void test_rtc(void)
{
	u8 b = rtc(0x0b), second, minute, hour, year;

	if (b == 0xff) {
		skip("RTC", "there is none");
		return;
	}
	for (u32 i = 0; i < 10000 && (rtc(0x0a) & 0x80); i++)
		pause();
	second = rtc(0);
	minute = rtc(2);
	hour = rtc(4);
	year = rtc(9);
	note("RTC: %02x:%02x:%02x, year %02x, status B %02x", hour, minute, second, year, b);
	if (!(b & 4)) {
		check((second & 0xf) < 10 && (minute & 0xf) < 10 && (year & 0xf) < 10,
		      "RTC: BCD digits");
		second = (second >> 4) * 10 + (second & 0xf);
		minute = (minute >> 4) * 10 + (minute & 0xf);
		year = (year >> 4) * 10 + (year & 0xf);
	}
	check(second < 60 && minute < 60 && year >= 24, "RTC: a time that can be");
	check(rtc(0x0d) & 0x80, "RTC: its battery is good");
	check(rtc(0x8b) == b, "RTC: the NMI bit is no part of the index");
	outb(0x70, 0x0b);
	outb(0x71, b | 0x80); /* stop updates */
	check(rtc(0x0b) & 0x80, "RTC: status B can be set");
	outb(0x70, 0x0b);
	outb(0x71, b);
}

static void test_others(void)
{
	static const char text[] = "# a line by one string instruction\n";
	const char *from = text;
	u64 n = sizeof(text) - 1;
	u8 in[4] = { 0 };
	u8 *to = in;
	u8 pvpanic = inb(0x505);

	check(inb(0x1234) == 0xff && inw(0x1234) == 0xffff && inl(0x1234) == 0xffffffff,
	      "an empty port reads all ones");
	outb(0x1234, 1);
	outw(0x1234, 1);
	outl(0x1234, 1);
	check(true, "writes to an empty port are survived");

	asm volatile("rep outsb" : "+S"(from), "+c"(n) : "d"((u16)THR) : "memory");
	check(n == 0 && from == text + sizeof(text) - 1, "string output runs to its end");
	outb(SCR, 0x3c);
	n = 4;
	asm volatile("rep insb" : "+D"(to), "+c"(n) : "d"((u16)SCR) : "memory");
	check(n == 0 && in[0] == 0x3c && in[3] == 0x3c, "string input fills memory");

	if (pvpanic == 0xff)
		skip("pvpanic", "there is none");
	else
		check(pvpanic & 1, "pvpanic: says that it takes panics");
	note("keyboard controller status %02x", inb(0x64));
}

void payload(void)
{
	test_serial();
	test_rtc();
	test_others();
}
