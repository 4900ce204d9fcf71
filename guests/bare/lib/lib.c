/* SPDX-License-Identifier: Apache-2.0 */
/* Strings, the serial port, verdicts, the loader's information, the way into payload(). */
#include "bare.h"

#define COM1	    0x3f8
#define EXIT_PORT   0x501

extern u64 boot_info;
extern u32 boot_is_pvh;
extern u64 pdpt[512];
extern u8 image_end[];

struct memory_range memory_map[MAX_RANGES];
u32 num_ranges;
char command_line[4096];
u64 rsdp_addr;

static u32 num_checks, num_failed;

void *memset(void *p, int c, u64 n)
{
	void *to = p;

	asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *to, const void *from, u64 n)
{
	void *d = to;

	asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, u64 n)
{
	const u8 *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

u64 strlen(const char *s)
{
	u64 n = 0;

	while (s[n])
		n++;
	return n;
}

bool starts_with(const char *s, const char *prefix)
{
	for (; *prefix; s++, prefix++)
		if (*s != *prefix)
			return false;
	return true;
}

/* ---- output ---- */

static void put(char c)
{
	/* Without a port all bits read as ones, and nobody waits. */
	for (u32 i = 0; i < 100000 && !(inb(COM1 + 5) & 0x20); i++)
		pause();
	outb(COM1, c);
}

static void put_string(const char *s)
{
	for (; *s; s++)
		put(*s);
}

static void put_number(u64 v, u32 base, u32 width, char pad)
{
	char text[24];
	u32 n = 0;

	do {
		text[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (width > n) {
		put(pad);
		width--;
	}
	while (n)
		put(text[--n]);
}

static void put_format(const char *f, __builtin_va_list ap)
{
	for (; *f; f++) {
		char pad = ' ';
		u32 width = 0;
		bool is_long = false;
		u64 v;

		if (*f != '%') {
			put(*f);
			continue;
		}
		if (*++f == '0')
			pad = '0', f++;
		while (*f >= '0' && *f <= '9')
			width = width * 10 + *f++ - '0';
		while (*f == 'l')
			is_long = true, f++;
		switch (*f) {
		case 's':
			put_string(__builtin_va_arg(ap, const char *));
			break;
		case 'c':
			put(__builtin_va_arg(ap, int));
			break;
		case 'd':
			v = is_long ? __builtin_va_arg(ap, long) : __builtin_va_arg(ap, int);
			if ((long)v < 0) {
				put('-');
				v = -v;
			}
			put_number(v, 10, width, pad);
			break;
		case 'u':
		case 'x':
			v = is_long ? __builtin_va_arg(ap, u64) : __builtin_va_arg(ap, u32);
			put_number(v, *f == 'x' ? 16 : 10, width, pad);
			break;
		case 'p':
			put_string("0x");
			put_number(__builtin_va_arg(ap, u64), 16, 0, ' ');
			break;
		default:
			put(*f);
		}
	}
}

void note(const char *format, ...)
{
	__builtin_va_list ap;

	put_string("# ");
	__builtin_va_start(ap, format);
	put_format(format, ap);
	__builtin_va_end(ap);
	put('\n');
}

bool check_at(const char *file, int line, bool ok, const char *format, ...)
{
	__builtin_va_list ap;

	put_string(ok ? "ok " : "not ok ");
	put_number(++num_checks, 10, 0, ' ');
	put_string(" - ");
	__builtin_va_start(ap, format);
	put_format(format, ap);
	__builtin_va_end(ap);
	put('\n');
	if (!ok) {
		num_failed++;
		note("at %s:%d", file, line);
	}
	return ok;
}

void skip(const char *what, const char *why)
{
	put_string("ok ");
	put_number(++num_checks, 10, 0, ' ');
	put_string(" - ");
	put_string(what);
	put_string(" # SKIP ");
	put_string(why);
	put('\n');
}

void exit_with(u8 status)
{
	/* What is still in the port's FIFO is to be read first. */
	for (u32 i = 0; i < 100000 && !(inb(COM1 + 5) & 0x40); i++)
		pause();
	outb(EXIT_PORT, status);
	for (;;)
		asm volatile("cli; hlt");
}

void finish(void)
{
	put_string("1..");
	put_number(num_checks, 10, 0, ' ');
	put('\n');
	exit_with(num_failed != 0);
}

/* ---- the command line ---- */

const char *argument(const char *name)
{
	u64 n = strlen(name);

	for (const char *s = command_line; *s; s++) {
		if ((s == command_line || s[-1] == ' ') && starts_with(s, name) && s[n] == '=')
			return s + n + 1;
	}
	return NULL;
}

u64 parse_number(const char *s, const char **end)
{
	u32 base = 10;
	u64 v = 0;

	if (s[0] == '0' && s[1] == 'x')
		base = 16, s += 2;
	for (;; s++) {
		u32 d;

		if (*s >= '0' && *s <= '9')
			d = *s - '0';
		else if (base == 16 && *s >= 'a' && *s <= 'f')
			d = *s - 'a' + 10;
		else
			break;
		v = v * base + d;
	}
	if (end)
		*end = s;
	return v;
}

u64 argument_number(const char *name, u64 otherwise)
{
	const char *s = argument(name);

	return s ? parse_number(s, NULL) : otherwise;
}

/* ---- memory ---- */

void map_high(u64 addr)
{
	u64 gib = addr >> 30;
	u64 *pd;

	if (gib < 4 || gib >= 512 || pdpt[gib])
		return;
	pd = alloc(4096, 4096);
	for (u64 i = 0; i < 512; i++)
		pd[i] = (gib << 30) + (i << 21) + 0x83;
	pdpt[gib] = (u64)pd + 3;
}

void *alloc(u64 size, u64 align)
{
	static u64 next;
	u64 at;

	if (!next)
		next = (u64)image_end;
	at = (next + align - 1) & ~(align - 1);
	next = at + size;
	memset((void *)at, 0, size);
	return (void *)at;
}

u64 random_state = 0x9e3779b97f4a7c15;

void random_seed(u64 seed)
{
	random_state = seed ? seed : 1;
}

u64 random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* ---- what the loader left ---- */

static void add_range(u64 addr, u64 size, u32 type)
{
	if (num_ranges < MAX_RANGES)
		memory_map[num_ranges++] = (struct memory_range){ addr, size, type };
}

static void read_boot_info(void)
{
	u64 text;

	if (boot_is_pvh) {
		/* hvm_start_info: xen/include/public/arch-x86/hvm/start_info.h */
		u64 map = read64(boot_info + 40);

		text = read64(boot_info + 24);
		rsdp_addr = read64(boot_info + 32);
		for (u32 i = 0; i < read32(boot_info + 48); i++, map += 24)
			add_range(read64(map), read64(map + 8), read32(map + 16));
	} else {
		/* struct boot_params: Linux's arch/x86/include/uapi/asm/bootparam.h */
		text = read32(boot_info + 0x228) | (u64)read32(boot_info + 0xc8) << 32;
		rsdp_addr = read64(boot_info + 0x70);
		for (u32 i = 0; i < read8(boot_info + 0x1e8); i++) {
			u64 e = boot_info + 0x2d0 + i * 20;

			add_range(read64(e), read64(e + 8), read32(e + 16));
		}
	}
	for (u32 i = 0; text && i < sizeof(command_line) - 1; i++) {
		command_line[i] = read8(text + i);
		if (!command_line[i])
			break;
	}
}

void bare_main(void);
void bare_main(void)
{
	read_boot_info();
	interrupts_init();
	random_seed(argument_number("seed", 42));
	note("entered by %s, command line '%s'", boot_is_pvh ? "PVH" : "the 64-bit entry",
	     command_line);
	acpi_read();
	payload();
	finish();
}
