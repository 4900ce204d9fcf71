/*
 * Writes the seeds of fuzz_guest into the directory given: small guests in machine code, each of
 * which does one thing that makes exits, until its time is over.
 */
#include "tests/fuzz/seed.h"

#include <stdint.h>
#include <string.h>

#define CODE(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

static const struct {
	const char *name;
	const uint8_t *code;
	size_t len;
} guests[] = {
	/* mov dx, 0x3f8; mov al, 'A'; again: out dx, al; jmp again */
	{ "serial", CODE(0x66, 0xba, 0xf8, 0x03, 0xb0, 'A', 0xee, 0xeb, 0xfd) },
	/* mov dx, 0x501; mov al, 7; out dx, al; hlt */
	{ "exit", CODE(0x66, 0xba, 0x01, 0x05, 0xb0, 7, 0xee, 0xf4) },
	{ "triple-fault", CODE(0x0f, 0x0b) },
	{ "halt", CODE(0xfa, 0xf4, 0xeb, 0xfd) },
	{ "loop", CODE(0xeb, 0xfe) },
	/* mov edi, 0xd0000000; again: mov eax, [rdi]; mov [rdi], eax; add edi, 4; jmp again */
	{ "registers",
	  CODE(0xbf, 0, 0, 0, 0xd0, 0x8b, 0x07, 0x89, 0x07, 0x83, 0xc7, 4, 0xeb, 0xf7) },
	/* The same over PCI's configuration space, bytes: mov edi, 0xe8000000; ... inc edi */
	{ "ecam", CODE(0xbf, 0, 0, 0, 0xe8, 0x8a, 0x07, 0x88, 0x07, 0xff, 0xc7, 0xeb, 0xf8) },
	/* mov ebx, 0x80000000; again: mov dx, 0xcf8; mov eax, ebx; out dx, eax; mov dx, 0xcfc;
	 * in eax, dx; out dx, eax; add ebx, 4; jmp again */
	{ "pci", CODE(0xbb, 0, 0, 0, 0x80, 0x66, 0xba, 0xf8, 0x0c, 0x89, 0xd8, 0xef, 0x66, 0xba,
		      0xfc, 0x0c, 0xed, 0xef, 0x83, 0xc3, 4, 0xeb, 0xee) },
	/* mov esi, 0x100000; mov ecx, 256; mov dx, 0x3f8; rep outsb; jmp to the start */
	{ "string-out", CODE(0xbe, 0, 0, 0x10, 0, 0xb9, 0, 1, 0, 0, 0x66, 0xba, 0xf8, 0x03, 0xf3,
			     0x6e, 0xeb, 0xee) },
	/* mov edi, 0x200000; mov ecx, 256; mov dx, 0xcfc; rep insd; jmp to the start */
	{ "string-in", CODE(0xbf, 0, 0, 0x20, 0, 0xb9, 0, 1, 0, 0, 0x66, 0xba, 0xfc, 0x0c, 0xf3,
			    0x6d, 0xeb, 0xee) },
	/* mov esi, 0xd0000000; mov edi, 0xd0000100; mov ecx, 64; rep movsq */
	{ "string-move", CODE(0xbe, 0, 0, 0, 0xd0, 0xbf, 0, 1, 0, 0xd0, 0xb9, 64, 0, 0, 0, 0xf3,
			      0x48, 0xa5, 0xeb, 0xec) },
	/* mov rax, 0xffffffffff000; mov cr3, rax */
	{ "page-tables", CODE(0x48, 0xb8, 0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0x0f, 0x22,
			      0xd8, 0xeb, 0xfe) },
	/* mov ecx, 0x4b564d00; again: rdmsr; wrmsr; inc ecx; jmp again */
	{ "msr", CODE(0xb9, 0, 0x4d, 0x56, 0x4b, 0x0f, 0x32, 0x0f, 0x30, 0xff, 0xc1, 0xeb, 0xf8) },
	/* mov al, 0x0b; again: out 0x70, al; in al, 0x71; or al, 0x70; out 0x71, al; inc al; jmp */
	{ "clock", CODE(0xb0, 0x0b, 0xe6, 0x70, 0xe4, 0x71, 0x0c, 0x70, 0xe6, 0x71, 0xfe, 0xc0,
			0xeb, 0xf4) },
	/* mov dx, 0x505; mov al, 1; out dx, al: a panic */
	{ "panic", CODE(0x66, 0xba, 0x05, 0x05, 0xb0, 1, 0xee, 0xeb, 0xfe) },
};

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
		return 2;
	}
	for (unsigned i = 0; i < sizeof(guests) / sizeof(*guests); i++) {
		for (uint8_t machine = 0; machine < 4; machine++) {
			uint8_t seed[64] = { machine };
			char name[64];

			memcpy(seed + 1, guests[i].code, guests[i].len);
			snprintf(name, sizeof(name), "%s-%u", guests[i].name, machine);
			if (!seed_write(argv[1], name, seed, 1 + guests[i].len)) {
				perror(argv[1]);
				return 1;
			}
		}
	}
	return 0;
}
