#include "vmm/hypervisor/x86_walk.h"

#define PTE_PRESENT 1ull
#define PTE_LARGE   (1ull << 7)
#define PTE_ADDR    0x000ffffffffff000ull
#define CR4_LA57    (1ull << 12)
#define ENTRIES	    512u

/*
 * Long mode (4 and 5 levels), PAE and 32-bit paging alike: only the entries' size and the
 * indexes' width differ.
 */
uint64_t x86_walk(const struct guest_mem *mem, const struct kvm_sregs *s, uint64_t linear,
		  x86_walk_fn fn, void *arg)
{
	bool wide = s->cr4 & X86_CR4_PAE;
	bool is_long = s->efer & X86_EFER_LMA;
	unsigned levels = is_long ? (s->cr4 & CR4_LA57 ? 5 : 4) : wide ? 3 : 2;
	unsigned bits = wide ? 9 : 10, entry_size = wide ? 8 : 4;
	struct x86_walk_step step = {
		.table = s->cr3 & (is_long || !wide ? PTE_ADDR : 0xffffffe0ull),
	};

	if (!(s->cr0 & X86_CR0_PG))
		return linear;
	for (step.level = levels; step.level > 0; step.level--) {
		unsigned shift = PAGE_SHIFT + bits * (step.level - 1);

		step.index = linear >> shift & ((1u << bits) - 1);
		/* Three-level PAE has four entries at the top. */
		if (!is_long && wide && step.level == 3)
			step.index &= 3;
		step.entry = 0;
		step.is_ram = guest_mem_read(mem, step.table + (uint64_t)step.index * entry_size,
					     &step.entry, entry_size) == 0;
		if (fn)
			fn(arg, &step);
		if (!(step.entry & PTE_PRESENT))
			return UINT64_MAX;
		if (step.level > 1 && (step.entry & PTE_LARGE)) {
			uint64_t mask = (1ull << shift) - 1;

			return (step.entry & PTE_ADDR & ~mask) | (linear & mask);
		}
		step.table = step.entry & PTE_ADDR;
	}
	return step.table | (linear & (PAGE_SIZE - 1));
}

size_t x86_linear_read(const struct guest_mem *mem, const struct kvm_sregs *sregs,
		       uint64_t linear, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		uint64_t at = linear + done;
		size_t n = MIN(len - done, PAGE_SIZE - (size_t)(at & (PAGE_SIZE - 1)));
		uint64_t gpa = x86_walk(mem, sregs, at, NULL, NULL);

		if (gpa == UINT64_MAX || guest_mem_read(mem, gpa, (uint8_t *)buf + done, n) < 0)
			break;
		done += n;
	}
	return done;
}

size_t x86_linear_write(struct guest_mem *mem, const struct kvm_sregs *sregs, uint64_t linear,
			const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		uint64_t at = linear + done;
		size_t n = MIN(len - done, PAGE_SIZE - (size_t)(at & (PAGE_SIZE - 1)));
		uint64_t gpa = x86_walk(mem, sregs, at, NULL, NULL);

		if (gpa == UINT64_MAX ||
		    guest_mem_write(mem, gpa, (const uint8_t *)buf + done, n) < 0)
			break;
		guest_mem_mark_dirty(mem, gpa, n);
		done += n;
	}
	return done;
}

/* ---- everything that is mapped ---- */

/*
 * Tables may point at one another in a circle; each level is visited once for
 * every path to it, so a hostile guest could make this run for ages: a limit on
 * entries looked at ends it.
 */
#define MAX_ENTRIES (16u << 20)

struct collection {
	const struct guest_mem *mem;
	unsigned levels;
	uint64_t from;
	struct x86_mapping *map;
	size_t max, num;
	struct x86_mapping last;
	unsigned looked_at;
};

static void collect(struct collection *c, uint64_t linear, uint64_t gpa, uint64_t size)
{
	struct x86_mapping *last = &c->last;

	/* Devices have no place in a file of memory. */
	if (!guest_mem_find(c->mem, gpa, size))
		return;
	if (c->num && last->linear + last->size == linear && last->gpa + last->size == gpa) {
		last->size += size;
	} else {
		c->num++;
		*last = (struct x86_mapping){ linear, gpa, size };
	}
	if (c->num <= c->max)
		c->map[c->num - 1] = *last;
}

/* NOLINTNEXTLINE(misc-no-recursion): five levels at most */
static void collect_table(struct collection *c, uint64_t table, unsigned level, uint64_t linear)
{
	unsigned shift = PAGE_SHIFT + 9 * (level - 1);
	uint64_t size = 1ull << shift;
	const uint64_t *entries = guest_mem_ptr(c->mem, table, PAGE_SIZE);

	for (unsigned i = 0; entries && i < ENTRIES; i++) {
		uint64_t entry = __atomic_load_n(&entries[i], __ATOMIC_RELAXED);
		uint64_t at = linear + ((uint64_t)i << shift);

		if (c->looked_at++ > MAX_ENTRIES)
			return;
		/* The upper half's addresses have all higher bits set. */
		if (level == c->levels && i >= ENTRIES / 2)
			at |= ~0ull << (shift + 9);
		if (!(entry & PTE_PRESENT) || at + (size - 1) < c->from)
			continue;
		if (level > 1 && !(entry & PTE_LARGE))
			collect_table(c, entry & PTE_ADDR, level - 1, at);
		else
			collect(c, at, entry & PTE_ADDR & ~(size - 1), size);
	}
}

size_t x86_walk_all(const struct guest_mem *mem, const struct kvm_sregs *sregs, uint64_t from,
		    struct x86_mapping *map, size_t max)
{
	struct collection c = {
		.mem = mem,
		.levels = sregs->cr4 & CR4_LA57 ? 5 : 4,
		.from = from,
		.map = map,
		.max = max,
	};

	if (!(sregs->efer & X86_EFER_LMA) || !(sregs->cr0 & X86_CR0_PG))
		return 0;
	collect_table(&c, sregs->cr3 & PTE_ADDR, c.levels, 0);
	return c.num;
}
