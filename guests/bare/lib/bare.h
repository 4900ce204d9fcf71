/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bare-metal payloads are made of: no C library, no kernel, one address
 * space mapped one to one, everything polled or by interrupt in ring 0.
 *
 * A payload defines payload(), which calls check() for each of its claims. Some
 * hosts interpret ring 0 at a million or two instructions a second and know only common
 * instructions (no int n, no SSE, no fences): loops are short, and barriers are
 * locked additions.
 */
#ifndef BARE_H
#define BARE_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef _Bool bool;
#define true  1
#define false 0
#define NULL  ((void *)0)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- the payload's side ---- */

void payload(void);

/* "ok N - name" or "not ok N - name" on the serial port; returns @ok. */
#define check(ok, ...) check_at(__FILE__, __LINE__, (ok), __VA_ARGS__)
bool check_at(const char *file, int line, bool ok, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void skip(const char *what, const char *why);
/* A line of comment. %s %c %d %u %x %lu %lx %p, with width and leading zeros. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* End the machine by the exit port: 0 when all checks passed. */
__attribute__((noreturn)) void finish(void);
__attribute__((noreturn)) void exit_with(u8 status);

/* The value of "name=" on the command line, or NULL; ends at a space. */
const char *argument(const char *name);
u64 argument_number(const char *name, u64 otherwise);
u64 parse_number(const char *text, const char **end);

void *memset(void *p, int c, u64 n);
void *memcpy(void *to, const void *from, u64 n);
int memcmp(const void *a, const void *b, u64 n);
u64 strlen(const char *s);
bool starts_with(const char *s, const char *prefix);

/* ---- the processor ---- */

static inline void outb(u16 port, u8 v)
{
	asm volatile("outb %0, %1" : : "a"(v), "d"(port) : "memory");
}
static inline void outw(u16 port, u16 v)
{
	asm volatile("outw %0, %1" : : "a"(v), "d"(port) : "memory");
}
static inline void outl(u16 port, u32 v)
{
	asm volatile("outl %0, %1" : : "a"(v), "d"(port) : "memory");
}
static inline u8 inb(u16 port)
{
	u8 v;
	asm volatile("inb %1, %0" : "=a"(v) : "d"(port) : "memory");
	return v;
}
static inline u16 inw(u16 port)
{
	u16 v;
	asm volatile("inw %1, %0" : "=a"(v) : "d"(port) : "memory");
	return v;
}
static inline u32 inl(u16 port)
{
	u32 v;
	asm volatile("inl %1, %0" : "=a"(v) : "d"(port) : "memory");
	return v;
}

static inline u8 read8(u64 a) { return *(volatile u8 *)a; }
static inline u16 read16(u64 a) { return *(volatile u16 *)a; }
static inline u32 read32(u64 a) { return *(volatile u32 *)a; }
static inline u64 read64(u64 a) { return *(volatile u64 *)a; }
static inline void write8(u64 a, u8 v) { *(volatile u8 *)a = v; }
static inline void write16(u64 a, u16 v) { *(volatile u16 *)a = v; }
static inline void write32(u64 a, u32 v) { *(volatile u32 *)a = v; }
static inline void write64(u64 a, u64 v) { *(volatile u64 *)a = v; }

static inline u64 rdtsc(void)
{
	u32 low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}

static inline u64 rdmsr(u32 msr)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (u64)high << 32 | low;
}

static inline void wrmsr(u32 msr, u64 v)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

struct cpuid {
	u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
	struct cpuid c;

	asm volatile("cpuid"
		     : "=a"(c.eax), "=b"(c.ebx), "=c"(c.ecx), "=d"(c.edx)
		     : "a"(leaf), "c"(sub));
	return c;
}

/* mfence is not among what every host's instruction emulator knows. */
static inline void barrier(void) { asm volatile("lock addl $0, (%%rsp)" : : : "memory", "cc"); }
static inline void pause(void) { asm volatile("pause" : : : "memory"); }
static inline void sti(void) { asm volatile("sti" : : : "memory"); }
static inline void cli(void) { asm volatile("cli" : : : "memory"); }
/* The interrupt that ends the wait cannot come between the two. */
static inline void sti_hlt_cli(void) { asm volatile("sti; hlt; cli" : : : "memory"); }

static inline u32 atomic_add(volatile u32 *p, u32 n)
{
	asm volatile("lock xaddl %0, %1" : "+r"(n), "+m"(*p) : : "memory", "cc");
	return n;
}

/*
 * Wait until @condition holds, with interrupts open; false when it did not come true in @ticks
 * of the TSC. A leap of the TSC counts as little: a guest that was saved goes on later, and not
 * every host lets its TSC stand still meanwhile.
 */
#define wait_up_to(ticks, condition) ({					\
	u64 left_ = (ticks), last_ = rdtsc();				\
	bool ok_;							\
									\
	sti();								\
	while (!(ok_ = !!(condition)) && left_) {			\
		u64 now_ = rdtsc(), step_ = now_ - last_;		\
									\
		if (step_ > TICKS_AT_ONCE)				\
			step_ = TICKS_AT_ONCE;				\
		left_ -= step_ < left_ ? step_ : left_;			\
		last_ = now_;						\
		pause();						\
	}								\
	cli();								\
	ok_; })
#define TICKS_AT_ONCE 200000000ul

/* Half a minute on most processors: a disk below may be slow to sync. */
#define wait_for(condition) wait_up_to(120000000000ul, condition)

/* ---- exceptions and interrupts ---- */

struct frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error;
	u64 rip, cs, rflags, rsp, ss;
};

/* Called first with each exception, when set: has it dealt with it? It may change the frame. */
extern bool (*exception_handler)(struct frame *f);

void interrupts_init(void);
/* How often each vector came. Those from 32 on are acknowledged at the local APIC. */
extern volatile u32 irq_count[256];

/*
 * Run one instruction that may fault: the vector plus one when it did, else 0. The handler
 * resumes after the instruction.
 */
extern volatile u64 guard_resume;
extern volatile u32 guard_fault, guard_error;
#define guard(instruction, ...)                                         \
	({                                                              \
		guard_fault = 0;                                        \
		asm volatile("movq $2f, guard_resume\n1: " instruction  \
			     "\n2: movq $0, guard_resume" __VA_ARGS__); \
		guard_fault;                                            \
	})

/* ---- the local APIC, the I/O APIC, other processors ---- */

#define APIC_ID	       0x20
#define APIC_VERSION   0x30
#define APIC_TPR       0x80
#define APIC_EOI       0xb0
#define APIC_SPURIOUS  0xf0
#define APIC_ICR       0x300
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_TIMER_INIT 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE 0x3e0

extern bool apic_x2;
void apic_init(void); /* this processor's, in x2APIC mode when it has that */
u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 v);
u32 apic_id(void);
void apic_ipi(u32 dest, u32 command);

void ioapic_route(u32 gsi, u8 vector, bool level, bool masked);
u64 ioapic_entry(u32 gsi);

/* Start all other processors of the MADT; how many came. Each runs @f(number), then halts. */
u32 smp_start(void (*f)(u32 number));
u32 smp_apic_id(u32 index);

/* ---- memory, and what the loader says about the machine ---- */

struct memory_range {
	u64 addr, size;
	u32 type; /* 1 RAM */
};

#define MAX_RANGES 64
extern struct memory_range memory_map[MAX_RANGES];
extern u32 num_ranges;
extern char command_line[4096];
extern u64 rsdp_addr;

/* Map the GiB around @addr, one to one, when it is above the 4 that always are. */
void map_high(u64 addr);
/* A piece of zeroed memory below 4 GiB, aligned; never given back. */
void *alloc(u64 size, u64 align);

#define MAX_CPUS 256
#define MAX_MMIO 32

struct acpi {
	bool ok; /* every table's checksum is right */
	u32 num_tables;
	u64 xsdt, fadt, madt, mcfg, dsdt;
	u32 dsdt_len;
	u64 vmclock; /* AMZNC10C in the DSDT; 0: there is none */
	u64 lapic;
	u64 ioapic;
	u32 ioapic_gsi_base;
	u32 num_cpus;
	u32 apic_ids[MAX_CPUS];
	u32 isa_gsi[16]; /* after overrides */
	u64 ecam;
	u8 ecam_first_bus, ecam_last_bus;
	struct {
		u64 base;
		u32 size, gsi;
	} mmio[MAX_MMIO]; /* virtio-mmio: LNRO0005 in the DSDT */
	u32 num_mmio;
	u8 reset_space, reset_value; /* 0 memory, 1 port */
	u64 reset_addr;
	u32 fadt_flags;
};

extern struct acpi acpi;
void acpi_read(void);

/* ---- PCI ---- */

u32 pci_read(u32 bdf, u32 reg);	/* by ECAM when there is one */
void pci_write(u32 bdf, u32 reg, u32 v);
u32 pci_cf8_read(u32 bdf, u32 reg);
void pci_cf8_write(u32 bdf, u32 reg, u32 v);
u8 pci_read8(u32 bdf, u32 reg);
u16 pci_read16(u32 bdf, u32 reg);
void pci_write16(u32 bdf, u32 reg, u16 v);
/* Where @bar is, assigned by us when nobody has; 0 when it is not there or a port. */
u64 pci_bar(u32 bdf, u32 bar);
u64 pci_bar_size(u32 bdf, u32 bar);
/* The next capability of kind @id after @from (0: first), or 0. */
u32 pci_capability(u32 bdf, u8 id, u32 from);

/* ---- random numbers, the same in each run unless seed= is given ---- */

u64 random_next(void);
void random_seed(u64 seed);

#endif
