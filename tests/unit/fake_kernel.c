#include "tests/unit/fake_kernel.h"

#include <sys/mman.h>
#include <unistd.h>

#define NOTE_PHYS32_ENTRY 18
#define NOTE_MAX	  128

uint8_t fake_byte(uint64_t offset)
{
	return offset * 7 + (offset >> 8) + 1;
}

void fake_bzimage(uint8_t *image)
{
	memset(image, 0, FAKE_BZIMAGE_SETUP);
	for (uint64_t i = 0; i < FAKE_BZIMAGE_PAYLOAD; i++)
		image[FAKE_BZIMAGE_SETUP + i] = fake_byte(i);
	image[0x1f1] = FAKE_BZIMAGE_SETUP / 512 - 1;
	put_le32(image + 0x1f4, FAKE_BZIMAGE_PAYLOAD / 16);
	put_le16(image + 0x1fe, 0xaa55);
	image[0x200] = 0xeb; /* jump to the end of the header */
	image[0x201] = 0x26c - 0x202;
	memcpy(image + 0x202, "HdrS", 4);
	put_le16(image + 0x206, 0x020f);
	image[0x211] = 1; /* LOADED_HIGH */
	put_le32(image + 0x22c, 0x7fffffff);
	put_le32(image + 0x230, 0x200000);
	image[0x234] = 1;
	put_le16(image + 0x236, 0x3);
	put_le32(image + 0x238, 2047);
	put_le32(image + 0x248, 0x400);
	put_le32(image + 0x24c, 0x1000);
	put_le64(image + 0x258, FAKE_BZIMAGE_PREF);
	put_le32(image + 0x260, FAKE_BZIMAGE_INIT);
}

void fake_elf_set_header(struct fake_elf *elf, const Elf64_Ehdr *ehdr)
{
	memcpy(elf->image, ehdr, sizeof(*ehdr));
}

Elf64_Ehdr fake_elf_header(const struct fake_elf *elf)
{
	Elf64_Ehdr ehdr;

	memcpy(&ehdr, elf->image, sizeof(ehdr));
	return ehdr;
}

void fake_elf_set_segment(struct fake_elf *elf, unsigned index, const Elf64_Phdr *phdr)
{
	memcpy(elf->image + sizeof(Elf64_Ehdr) + index * sizeof(*phdr), phdr, sizeof(*phdr));
}

Elf64_Phdr fake_elf_segment(const struct fake_elf *elf, unsigned index)
{
	Elf64_Phdr phdr;

	memcpy(&phdr, elf->image + sizeof(Elf64_Ehdr) + index * sizeof(phdr), sizeof(phdr));
	return phdr;
}

/* Append a note; returns where the next one goes. */
static uint8_t *put_note(uint8_t *p, uint64_t align, const char *name, uint32_t type,
			 const void *desc, uint32_t desc_size)
{
	uint32_t name_size = strlen(name) + 1;
	uint64_t desc_at = align_up(12 + name_size, align);

	put_le32(p, name_size);
	put_le32(p + 4, desc_size);
	put_le32(p + 8, type);
	memcpy(p + 12, name, name_size);
	memcpy(p + desc_at, desc, desc_size);
	return p + align_up(desc_at + desc_size, align);
}

void fake_elf_set_note(struct fake_elf *elf, uint64_t align, const char *name, uint32_t type,
		       const void *desc, uint32_t desc_size)
{
	uint8_t *start = elf->image + FAKE_ELF_NOTE_OFFSET, *p = start;
	Elf64_Phdr note = fake_elf_segment(elf, 2);

	memset(start, 0, NOTE_MAX);
	/* One in front, with sizes that need padding, to be skipped. */
	p = put_note(p, align, "Linux", 0x101, "6.1.0", 6);
	p = put_note(p, align, name, type, desc, desc_size);
	note.p_filesz = note.p_memsz = p - start;
	note.p_align = align;
	fake_elf_set_segment(elf, 2, &note);
}

void fake_elf(struct fake_elf *elf, bool pvh)
{
	const Elf64_Ehdr ehdr = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = FAKE_ELF_TEXT_GPA,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
	};
	const Elf64_Phdr text = {
		.p_type = PT_LOAD,
		.p_offset = FAKE_ELF_TEXT_OFFSET,
		.p_vaddr = FAKE_ELF_TEXT_VADDR,
		.p_paddr = FAKE_ELF_TEXT_GPA,
		.p_filesz = FAKE_ELF_TEXT_SIZE,
		.p_memsz = FAKE_ELF_TEXT_SIZE,
	};
	const Elf64_Phdr data = {
		.p_type = PT_LOAD,
		.p_offset = FAKE_ELF_DATA_OFFSET,
		.p_vaddr = FAKE_ELF_TEXT_VADDR + 0x200800,
		.p_paddr = FAKE_ELF_DATA_GPA,
		.p_filesz = FAKE_ELF_DATA_SIZE,
		.p_memsz = FAKE_ELF_DATA_MEM,
	};
	const Elf64_Phdr note = { .p_type = PT_NOTE, .p_offset = FAKE_ELF_NOTE_OFFSET };
	uint8_t entry[4];

	for (uint64_t i = 0; i < FAKE_ELF_SIZE; i++)
		elf->image[i] = fake_byte(i);
	fake_elf_set_header(elf, &ehdr);
	fake_elf_set_segment(elf, 0, &text);
	fake_elf_set_segment(elf, 1, &data);
	fake_elf_set_segment(elf, 2, &note);
	if (pvh) {
		put_le32(entry, FAKE_ELF_PVH);
		fake_elf_set_note(elf, 4, "Xen", NOTE_PHYS32_ENTRY, entry, sizeof(entry));
	}
}

int fake_file(const void *data, uint64_t len)
{
	int fd = memfd_create("fake", MFD_CLOEXEC);

	if (fd >= 0 && len && pwrite(fd, data, len, 0) != (ssize_t)len) {
		close(fd);
		return -1;
	}
	return fd;
}
