/*
 * ELF kernel images: checking program headers and notes (System V gABI,
 * chapter 5), and loading. The 64-bit entry is e_entry; the PVH entry comes from
 * Xen's note XEN_ELFNOTE_PHYS32_ENTRY.
 */
#include "firmware/internal.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>

#define NOTE_PHYS32_ENTRY 18
#define MAX_PROGRAM_HEADERS 64
#define MAX_NOTE_BYTES	    (1 * MiB)

/* A mapping faults page by page; to copy little is cheaper. More than two pages in any case. */
#define MIN_MAP_BYTES (64 * KiB)

/* What Linux takes (COMMAND_LINE_SIZE); an ELF image does not say. */
#define CMDLINE_MAX 2047

bool fw_elf_probe(const uint8_t *head, uint64_t len)
{
	return len >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG);
}

static int check_header(const struct fw_kernel *k, const Elf64_Ehdr *ehdr, struct error *err)
{
	const char *name = fw_kernel_name(k);

	if (ehdr->e_ident[EI_CLASS] != ELFCLASS64 || ehdr->e_ident[EI_DATA] != ELFDATA2LSB ||
	    ehdr->e_machine != EM_X86_64)
		return error_usage(err, -ENOEXEC, "kernel '%s': not an ELF file for x86-64", name);
	if (ehdr->e_type != ET_EXEC)
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': an ELF file of type %u, not an executable one",
				   name, ehdr->e_type);
	if (ehdr->e_phentsize != sizeof(Elf64_Phdr) || !ehdr->e_phnum ||
	    ehdr->e_phnum > MAX_PROGRAM_HEADERS)
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': %u program headers of %u bytes", name,
				   ehdr->e_phnum, ehdr->e_phentsize);
	return 0;
}

/* Insert in ascending order; refuse what overlaps, wraps, or is not in the file. */
static int add_segment(struct fw_kernel *k, const Elf64_Phdr *p, unsigned index, struct error *err)
{
	const char *name = fw_kernel_name(k);
	unsigned at;

	if (!p->p_memsz)
		return 0;
	if (p->p_filesz > p->p_memsz || p->p_paddr + p->p_memsz < p->p_paddr)
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': segment %u: %llu bytes of file, %llu of memory at "
				   "0x%llx",
				   name, index, (unsigned long long)p->p_filesz,
				   (unsigned long long)p->p_memsz, (unsigned long long)p->p_paddr);
	if (!range_inside(p->p_offset, p->p_filesz, 0, k->file_size))
		return error_usage(err, -ENODATA,
				   "kernel '%s': truncated: segment %u is not all in the file",
				   name, index);
	if (k->num_segments == FW_MAX_SEGMENTS)
		return error_usage(err, -E2BIG, "kernel '%s': more than %u segments", name,
				   FW_MAX_SEGMENTS);
	for (at = k->num_segments; at && k->segment[at - 1].gpa > p->p_paddr; at--)
		k->segment[at] = k->segment[at - 1];
	k->segment[at] = (struct fw_segment){
		.gpa = p->p_paddr,
		.mem_size = p->p_memsz,
		.offset = p->p_offset,
		.file_size = p->p_filesz,
	};
	k->num_segments++;
	for (unsigned i = 1; i < k->num_segments; i++) {
		const struct fw_segment *a = &k->segment[i - 1], *b = &k->segment[i];

		if (b->gpa - a->gpa < a->mem_size)
			return error_usage(err, -ENOEXEC,
					   "kernel '%s': segments overlap at 0x%llx", name,
					   (unsigned long long)b->gpa);
	}
	return 0;
}

static bool in_segment(const struct fw_kernel *k, uint64_t gpa)
{
	for (unsigned i = 0; i < k->num_segments; i++)
		if (range_inside(gpa, 1, k->segment[i].gpa, k->segment[i].mem_size))
			return true;
	return false;
}

/* Linux has the physical address in e_entry already; others a virtual one. */
static uint64_t physical_entry(const struct fw_kernel *k, const Elf64_Phdr *phdr, unsigned num,
			       uint64_t entry)
{
	if (in_segment(k, entry))
		return entry;
	for (unsigned i = 0; i < num; i++)
		if (phdr[i].p_type == PT_LOAD && entry >= phdr[i].p_vaddr &&
		    entry - phdr[i].p_vaddr < phdr[i].p_memsz)
			return phdr[i].p_paddr + (entry - phdr[i].p_vaddr);
	return 0;
}

/* Look for the PVH entry among notes padded to @align bytes. */
static uint64_t find_pvh_note(const uint8_t *notes, uint64_t len, uint64_t align)
{
	uint64_t pos = 0;

	while (len - pos >= sizeof(Elf64_Nhdr)) {
		const uint8_t *n = notes + pos;
		uint64_t name_size = get_le32(n), desc_size = get_le32(n + 4);
		uint64_t desc = align_up(sizeof(Elf64_Nhdr) + name_size, align);

		/* 32-bit sizes in 64 bits: no sum here can wrap. */
		if (desc + desc_size > len - pos)
			return 0;
		if (get_le32(n + 8) == NOTE_PHYS32_ENTRY && name_size == 4 &&
		    !memcmp(n + sizeof(Elf64_Nhdr), "Xen", 4)) {
			if (desc_size == 4)
				return get_le32(n + desc);
			if (desc_size == 8)
				return get_le64(n + desc);
		}
		pos += MIN(align_up(desc + desc_size, align), len - pos);
	}
	return 0;
}

static int parse_notes(struct fw_kernel *k, const Elf64_Phdr *p, struct error *err)
{
	const char *name = fw_kernel_name(k);
	uint64_t entry;
	uint8_t *notes;
	int r;

	if (p->p_filesz > MAX_NOTE_BYTES)
		return error_usage(err, -ENOEXEC, "kernel '%s': %llu bytes of notes", name,
				   (unsigned long long)p->p_filesz);
	if (!p->p_filesz)
		return 0;
	notes = malloc(p->p_filesz);
	if (!notes)
		return error_set(err, -ENOMEM, "kernel '%s': notes: %m", name);
	r = fw_kernel_read(k, p->p_offset, notes, p->p_filesz, err);
	if (!r) {
		entry = find_pvh_note(notes, p->p_filesz, p->p_align == 8 ? 8 : 4);
		if (entry)
			k->pvh_entry = entry;
	}
	free(notes);
	return r;
}

int fw_elf_parse(struct fw_kernel *k, const uint8_t *head, uint64_t len, struct error *err)
{
	const char *name = fw_kernel_name(k);
	Elf64_Phdr phdr[MAX_PROGRAM_HEADERS];
	Elf64_Ehdr ehdr;
	uint64_t table;
	int r;

	k->kind = FW_KERNEL_ELF;
	k->cmdline_max = CMDLINE_MAX;
	k->initrd_addr_max = UINT64_MAX;
	k->initrd_above_4g = true;
	if (len < sizeof(ehdr))
		return error_usage(err, -ENODATA, "kernel '%s': truncated in its header", name);
	memcpy(&ehdr, head, sizeof(ehdr));
	r = check_header(k, &ehdr, err);
	if (r < 0)
		return r;
	table = ehdr.e_phnum * sizeof(phdr[0]);
	if (range_inside(ehdr.e_phoff, table, 0, len))
		memcpy(phdr, head + ehdr.e_phoff, table);
	else
		r = fw_kernel_read(k, ehdr.e_phoff, phdr, table, err);

	for (unsigned i = 0; i < ehdr.e_phnum && !r; i++) {
		if (phdr[i].p_type == PT_LOAD)
			r = add_segment(k, &phdr[i], i, err);
		else if (phdr[i].p_type == PT_NOTE && !k->pvh_entry)
			r = parse_notes(k, &phdr[i], err);
	}
	if (r < 0)
		return r;
	if (!k->num_segments)
		return error_usage(err, -ENOEXEC, "kernel '%s': nothing in it to load", name);
	k->elf_entry = physical_entry(k, phdr, ehdr.e_phnum, ehdr.e_entry);
	if (k->pvh_entry && (k->pvh_entry > UINT32_MAX || !in_segment(k, k->pvh_entry)))
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': its PVH entry 0x%llx is outside of its segments",
				   name, (unsigned long long)k->pvh_entry);
	if (!k->pvh_entry && !k->elf_entry)
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': its entry 0x%llx is outside of its segments", name,
				   (unsigned long long)ehdr.e_entry);
	return 0;
}

static int choose_entry(const struct fw_kernel *k, enum fw_protocol protocol,
			struct fw_start *start, struct error *err)
{
	bool pvh = protocol == FW_PROTOCOL_PVH || (protocol == FW_PROTOCOL_AUTO && k->pvh_entry);

	start->entry = pvh ? FW_ENTRY_PVH : FW_ENTRY_LINUX64;
	start->rip = pvh ? k->pvh_entry : k->elf_entry;
	if (!start->rip)
		return error_usage(err, -ENOEXEC, "kernel '%s': it has no %s entry",
				   fw_kernel_name(k), pvh ? "PVH" : "64-bit");
	/* The page tables it starts on reach up to there. */
	if (start->rip >= 4 * GiB)
		return error_usage(err, -ENOEXEC, "kernel '%s': its entry 0x%llx is above 4 GiB",
				   fw_kernel_name(k), (unsigned long long)start->rip);
	return 0;
}

/*
 * Put the file's part of @s at @dst. Its whole pages are mapped where they can
 * be: the page cache then holds the kernel once for all microVMs, and what is
 * never touched is never read. The partial pages at both ends are shared with
 * what is not this file.
 */
static int load_file_part(const struct fw_kernel *k, const struct fw_segment *s,
			  struct guest_mem *mem, uint8_t *dst, struct error *err)
{
	uint64_t first = align_up(s->gpa, PAGE_SIZE) - s->gpa;
	uint64_t last = align_down(s->gpa + s->file_size, PAGE_SIZE) - s->gpa;
	int r = -ENOTSUP;

	if (k->fd >= 0 && (s->offset ^ s->gpa) % PAGE_SIZE == 0 && s->file_size > MIN_MAP_BYTES)
		r = guest_mem_map_file(mem, s->gpa + first, last - first, k->fd, s->offset + first);
	if (r == -ENOTSUP || r == -ENOSPC)
		return fw_kernel_read(k, s->offset, dst, s->file_size, err);
	if (r < 0)
		return error_usage(err, r, "kernel '%s': cannot map: %m", fw_kernel_name(k));
	if (first)
		r = fw_kernel_read(k, s->offset, dst, first, err);
	if (!r && last < s->file_size)
		r = fw_kernel_read(k, s->offset + last, dst + last, s->file_size - last, err);
	return r;
}

static int load_segment(const struct fw_kernel *k, const struct fw_segment *s,
			struct guest_mem *mem, struct error *err)
{
	uint8_t *dst = guest_mem_ptr(mem, s->gpa, s->mem_size);

	if (dst)
		return load_file_part(k, s, mem, dst, err);
	return error_usage(err, -ENOMEM,
			   "kernel '%s': a segment of %llu KiB at 0x%llx does not fit into %llu "
			   "MiB of memory",
			   fw_kernel_name(k), (unsigned long long)((s->mem_size + KiB - 1) / KiB),
			   (unsigned long long)s->gpa,
			   (unsigned long long)(guest_mem_first_size(mem) / MiB));
}

/*
 * Segments that lie to one another in memory as they do in the file are loaded
 * as one, with whatever the file has between them: one mapping in place of two,
 * and no page that both share. Takes @i to the last one joined.
 */
#define MAX_GAP (2 * MiB)

static struct fw_segment join_segments(const struct fw_kernel *k, unsigned *i)
{
	struct fw_segment s = k->segment[*i];

	for (; *i + 1 < k->num_segments; ++*i) {
		const struct fw_segment *next = &k->segment[*i + 1];

		/* Zeros behind the file's part would not be zeros in the mapping. */
		if (s.mem_size != s.file_size || next->offset < s.offset + s.file_size ||
		    next->offset - s.offset != next->gpa - s.gpa ||
		    next->gpa - (s.gpa + s.mem_size) > MAX_GAP)
			break;
		s.file_size = next->offset + next->file_size - s.offset;
		s.mem_size = next->gpa + next->mem_size - s.gpa;
	}
	return s;
}

int fw_elf_load(const struct fw_kernel *k, struct guest_mem *mem, enum fw_protocol protocol,
		struct fw_extent *extent, struct fw_start *start, struct error *err)
{
	const struct fw_segment *first = &k->segment[0], *last = &k->segment[k->num_segments - 1];
	int r;

	r = choose_entry(k, protocol, start, err);
	if (r < 0)
		return r;
	if (first->gpa < FW_KERNEL_ADDR)
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': a segment at 0x%llx, below 1 MiB",
				   fw_kernel_name(k), (unsigned long long)first->gpa);
	for (unsigned i = 0; i < k->num_segments && !r; i++) {
		struct fw_segment s = join_segments(k, &i);

		r = load_segment(k, &s, mem, err);
	}
	extent->start = first->gpa;
	extent->end = last->gpa + last->mem_size;
	return r;
}
