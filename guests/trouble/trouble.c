/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel module that gets its kernel into trouble when it is loaded: TROUBLE says into which.
 * Made without the kernel's headers: what of `struct module` differs between kernels (its size,
 * where the pointer to the init function is) the script "modules" here reads from a module that
 * came with the kernel.
 */
#define WARN	 1
#define OOPS	 2
#define BUG	 3
#define PANIC	 4
#define LOCKUP	 5
#define DEADLOCK 6

#ifndef TROUBLE /* for who only looks at this file: as Linux 6.1 has it */
#define TROUBLE	    OOPS
#define MODULE_SIZE "0x380"
#define INIT_AT	    "0x138"
#define VERMAGIC    ""
#endif

#define NAME_AT "24" /* behind the state and a list head */

int init_module(void);
void panic(const char *format, ...);

/* With the init function at INIT_AT: its address is what the loader wants to find there. */
__asm__(".pushsection .gnu.linkonce.this_module, \"aw\"\n"
	".skip " NAME_AT "\n"
	".asciz \"trouble\"\n"
	".skip " INIT_AT " - (" NAME_AT " + 8)\n"
	".quad init_module\n"
	".skip " MODULE_SIZE " - " INIT_AT " - 8\n"
	".popsection\n"
	".pushsection .modinfo, \"a\"\n"
	".asciz \"vermagic=" VERMAGIC "\"\n"
	".asciz \"name=trouble\"\n"
	".asciz \"license=GPL\"\n"
	".popsection\n");

/* ud2, and an entry of the table of places where it means something. */
#define UD2(flags)                                                              \
	__asm__ volatile("1: ud2\n"                                             \
			 ".pushsection __bug_table, \"aw\"\n"                   \
			 "2: .long 1b - 2b\n"                                   \
			 ".long 3f - .\n"                                       \
			 ".word 42, " flags "\n"                                \
			 ".popsection\n"                                        \
			 ".pushsection .rodata.str1.1, \"aMS\", @progbits, 1\n" \
			 "3: .asciz \"trouble.c\"\n"                            \
			 ".popsection\n")

static void trouble(void)
{
	switch (TROUBLE) {
	case WARN:
		UD2("1");
		break;
	case BUG:
		UD2("0");
		break;
	case OOPS:
		*(volatile int *)16 = 1;
		break;
	case PANIC:
		panic("trouble was asked for");
		break;
	case DEADLOCK:
		/* As a lock taken twice with interrupts off: this processor hears nothing more. */
		__asm__ volatile("cli");
		for (;;)
			__asm__ volatile("pause");
	case LOCKUP:
		for (;;)
			__asm__ volatile("pause");
	}
}

int init_module(void)
{
	trouble();
	return 0;
}
