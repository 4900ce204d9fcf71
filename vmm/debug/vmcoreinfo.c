#include "vmm/debug/vmcoreinfo.h"

#include <elf.h>
#include <stdlib.h>
#include <sys/mman.h>

#define NAME   "VMCOREINFO"
#define OFFSET "\nKERNELOFFSET="

bool vmcoreinfo_is_note(const uint8_t *page, size_t *ret_size)
{
	Elf64_Nhdr note;

	memcpy(&note, page, sizeof(note));
	if (note.n_namesz != sizeof(NAME) ||
	    note.n_descsz > PAGE_SIZE - NOTE_BYTES(sizeof(NAME), 0) ||
	    memcmp(page + sizeof(note), NAME, sizeof(NAME)) != 0 ||
	    memcmp(page + NOTE_BYTES(sizeof(NAME), 0), "OSRELEASE=", 10) != 0)
		return false;
	*ret_size = NOTE_BYTES(sizeof(NAME), note.n_descsz);
	return true;
}

bool vmcoreinfo_find(const struct guest_mem *mem, uint64_t *ret_gpa, size_t *ret_size)
{
	uint8_t resident[512];

	for (unsigned i = 0; i < mem->num_ranges; i++) {
		const struct guest_mem_range *r = &mem->range[i];

		for (uint64_t at = 0; at < r->size; at += PAGE_SIZE) {
			unsigned in_window = at / PAGE_SIZE % ARRAY_SIZE(resident);

			/* What is still to come is found by looking at it. */
			if (in_window == 0 &&
			    (!guest_mem_is_whole(mem) ||
			     mincore(r->host + at,
				     MIN(r->size - at, ARRAY_SIZE(resident) * PAGE_SIZE),
				     resident) < 0))
				memset(resident, 1, sizeof(resident));
			if (resident[in_window] & 1 && vmcoreinfo_is_note(r->host + at, ret_size)) {
				*ret_gpa = r->gpa + at;
				return true;
			}
		}
	}
	return false;
}

bool vmcoreinfo_kernel_offset(const struct guest_mem *mem, uint64_t *ret_offset)
{
	char text[PAGE_SIZE + 1], *p, *end;
	uint64_t gpa;
	size_t size;

	if (!vmcoreinfo_find(mem, &gpa, &size) || guest_mem_read(mem, gpa, text, size) < 0)
		return false;
	text[size] = '\0';
	/* Header and name have zero bytes in them. */
	p = strstr(text + NOTE_BYTES(sizeof(NAME), 0), OFFSET);
	if (!p)
		return false;
	*ret_offset = strtoull(p + sizeof(OFFSET) - 1, &end, 16);
	return *end == '\n';
}
