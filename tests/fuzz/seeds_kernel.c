/*
 * Writes the seeds of fuzz_kernel into the directory given: the made-up images
 * of the unit tests, cut to their headers where that keeps them valid, for each
 * protocol and size of memory.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/fake_kernel.h"

static int save(const char *dir, const char *name, uint8_t choice, const uint8_t *image, size_t len)
{
	char path[512];
	FILE *f;
	int r;

	snprintf(path, sizeof(path), "%s/%s-%u", dir, name, choice);
	f = fopen(path, "w");
	if (!f) {
		perror(path);
		return -1;
	}
	r = fputc(choice, f) == EOF || fwrite(image, 1, len, f) != len ? -1 : 0;
	return fclose(f) ? -1 : r;
}

/* A bzImage of 4 KiB of payload, an ELF of two small segments: mutations are fast then. */
static void shrink_bzimage(uint8_t *image)
{
	put_le32(image + 0x1f4, 4096 / 16);
	put_le32(image + 0x24c, 0x100);
	put_le64(image + 0x258, 0x200000);
	put_le32(image + 0x260, 0x10000);
}

static void shrink_elf(struct fake_elf *elf)
{
	for (unsigned i = 0; i < 2; i++) {
		Elf64_Phdr p = fake_elf_segment(elf, i);

		p.p_offset = 0x400 + i * 0x1000;
		p.p_filesz = 0xa00;
		p.p_memsz = 0xa00 + i * 0x1000;
		fake_elf_set_segment(elf, i, &p);
	}
}

int main(int argc, char **argv)
{
	static uint8_t bzimage[FAKE_BZIMAGE_SIZE];
	static struct fake_elf elf;
	int r = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		return 2;
	}
	fake_bzimage(bzimage);
	shrink_bzimage(bzimage);
	for (unsigned choice = 0; choice < 9 && !r; choice++) {
		r = save(argv[1], "bzimage", choice, bzimage, FAKE_BZIMAGE_SETUP + 4096);
		for (unsigned pvh = 0; pvh < 2 && !r; pvh++) {
			fake_elf(&elf, pvh);
			shrink_elf(&elf);
			r = save(argv[1], pvh ? "elf-pvh" : "elf", choice, elf.image, 0x2000);
		}
	}
	return r < 0;
}
