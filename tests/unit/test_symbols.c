/* Names for a kernel's addresses, and where they are looked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/guest_mem.h"
#include "vmm/debug/symbols.h"
#include "vmm/testing/test_internal.h"
#include "vmm/debug/vmcoreinfo.h"

static const char map[] = "0000000000000000 D __per_cpu_start\n"
			  "ffffffff81000000 T _text\n"
			  "ffffffff81000000 T startup_64\n"
			  "ffffffff81000100 t do_idle\n"
			  "ffffffff81000050 W weak\n"
			  "ffffffff81000080 d some_data\n"
			  "no line of a map\n"
			  "ffffffff81000200 T last\n";

struct fixture {
	char dir[32], path[128];
};

static void setup(struct fixture *f)
{
	strcpy(f->dir, "/tmp/wisp-symbols.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
}

static const char *write_file(struct fixture *f, const char *name, const void *data, size_t len)
{
	FILE *out;

	snprintf(f->path, sizeof(f->path), "%s/%s", f->dir, name);
	out = fopen(f->path, "w");
	assert_non_null(out);
	assert_int_equal(fwrite(data, 1, len, out), len);
	fclose(out);
	return f->path;
}

static void teardown(struct fixture *f)
{
	static const char *const names[] = { "System.map", "System.map-1.2", "vmlinux", "bzImage" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(f->path, sizeof(f->path), "%s/%s", f->dir, names[i]);
		unlink(f->path);
	}
	assert_int_equal(rmdir(f->dir), 0);
}

static void assert_name(const struct symbols *s, uint64_t address, const char *name)
{
	char buf[100] = "";

	assert_int_equal(symbols_name(s, address, buf, sizeof(buf)), name != NULL);
	assert_string_equal(buf, name ? name : "");
}

static void map_names_what_is_within_its_functions(void **state)
{
	struct symbols *s;
	struct fixture f;

	setup(&f);
	assert_int_equal(symbols_load(&s, write_file(&f, "System.map", map, strlen(map)), NULL), 0);
	assert_name(s, 0xffffffff80ffffff, NULL);
	assert_name(s, 0xffffffff8100004f, "_text+0x4f/0x50");
	/* Data is no place to be. */
	assert_name(s, 0xffffffff81000090, "weak+0x40/0xb0");
	assert_name(s, 0xffffffff81000100, "do_idle+0x0/0x100");
	assert_name(s, 0xffffffff81000210, "last+0x10/0x1000");
	assert_name(s, 0xffffffff81002000, NULL);
	assert_name(s, 0, NULL);
	symbols_free(s);
	teardown(&f);
}

/* A kernel of a header, three sections, and symbols with their names. */
struct kernel {
	Elf64_Ehdr head;
	Elf64_Shdr section[4];
	Elf64_Sym symbol[4];
	char names[32];
};

static struct kernel make_kernel(void)
{
	return (struct kernel){
		.head = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB },
			.e_shoff = offsetof(struct kernel, section),
			.e_shentsize = sizeof(Elf64_Shdr),
			.e_shnum = 4,
		},
		.section = {
			[1] = { .sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC | SHF_EXECINSTR },
			[2] = {
				.sh_type = SHT_SYMTAB,
				.sh_link = 3,
				.sh_offset = offsetof(struct kernel, symbol),
				.sh_size = 4 * sizeof(Elf64_Sym),
			},
			[3] = {
				.sh_type = SHT_STRTAB,
				.sh_offset = offsetof(struct kernel, names),
				.sh_size = 32,
			},
		},
		.symbol = {
			{ .st_name = 1, .st_shndx = 1, .st_value = 0x1100,
			  .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC) },
			{ .st_name = 7, .st_shndx = 1, .st_value = 0x1000,
			  .st_info = ELF64_ST_INFO(STB_LOCAL, STT_NOTYPE) },
			{ .st_name = 7, .st_shndx = 3, .st_value = 0x1050,
			  .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT) },
			{ .st_name = 99, .st_shndx = 1, .st_value = 0x1060,
			  .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC) },
		},
		.names = "\0after\0first",
	};
}

static void vmlinux_names_its_code(void **state)
{
	struct kernel k = make_kernel();
	struct symbols *s;
	struct fixture f;

	setup(&f);
	assert_int_equal(symbols_load(&s, write_file(&f, "vmlinux", &k, sizeof(k)), NULL), 0);
	assert_name(s, 0x1070, "first+0x70/0x100");
	assert_name(s, 0x1101, "after+0x1/0x1000");
	symbols_free(s);
	teardown(&f);
}

/* Whatever single byte of it is wrong, nothing worse comes of it than a name or none. */
static void damaged_vmlinux_does_no_harm(void **state)
{
	struct kernel k = make_kernel();
	struct fixture f;

	setup(&f);
	for (size_t i = SELFMAG; i < sizeof(k); i++) {
		struct kernel bad = k;
		struct symbols *s = NULL;
		char buf[100];

		((uint8_t *)&bad)[i] ^= 0xff;
		if (!symbols_load(&s, write_file(&f, "vmlinux", &bad, sizeof(bad)), NULL)) {
			symbols_name(s, 0x1070, buf, sizeof(buf));
			symbols_free(s);
		}
	}
	for (size_t len = SELFMAG; len < sizeof(k); len += 8) {
		struct symbols *s = NULL;

		assert_true(symbols_load(&s, write_file(&f, "vmlinux", &k, len), NULL) < 0);
	}
	teardown(&f);
}

static void file_without_names_of_code_is_refused(void **state)
{
	static const char stub[] = "ffffffffffffffff B The real System.map is elsewhere\n";
	struct error err = { 0 };
	struct symbols *s;
	struct fixture f;

	setup(&f);
	assert_int_equal(symbols_load(&s, write_file(&f, "System.map", stub, strlen(stub)), &err),
			 -ENODATA);
	assert_non_null(strstr(err.msg, "System.map"));
	assert_int_equal(symbols_load(&s, write_file(&f, "System.map", "", 0), NULL), -ENODATA);
	assert_int_equal(symbols_load(&s, "/nowhere", NULL), -ENOENT);
	/* Nobody writes to this one, and the others have no end. */
	snprintf(f.path, sizeof(f.path), "%s/System.map", f.dir);
	assert_int_equal(unlink(f.path), 0);
	assert_int_equal(mkfifo(f.path, 0600), 0);
	assert_int_equal(symbols_load(&s, f.path, NULL), -EINVAL);
	assert_int_equal(symbols_load(&s, "/dev/zero", NULL), -EINVAL);
	assert_int_equal(symbols_load(&s, f.dir, NULL), -EISDIR);
	/* Too large for what it says it is; holes cost nothing. */
	unlink(f.path);
	assert_int_equal(truncate(write_file(&f, "System.map", "f", 1), 300 << 20), 0);
	assert_int_equal(symbols_load(&s, f.path, NULL), -E2BIG);
	teardown(&f);
}

/* ---- after a test ---- */

static void hang_has_names_where_the_kernel_is_known_to_be(void **state)
{
	struct test_config *t = calloc(1, sizeof(*t));
	struct test_job *j = calloc(1, sizeof(*j));
	char image[128], *text;
	struct fixture f;

	setup(&f);
	j->end = calloc(1, sizeof(*j->end));
	j->config = t;
	snprintf(image, sizeof(image), "%s", write_file(&f, "bzImage", "not ELF", 7));
	j->machine.kernel = image;
	strcpy(j->release, "1.2");
	write_file(&f, "System.map-1.2", map, strlen(map));
	strcpy(j->end->evidence, "vCPU 0: stopped\n  rip ffffffff83000110  rsp ffffc90000003e58\n"
				 "  stack: ffffffff83000210 ffffffff83000110\n");
	/* It may be anywhere. */
	assert_null(test_symbolise(j));
	strcat(j->end->evidence, "kernel offset 0x2000000\n");
	text = test_symbolise(j);
	assert_string_equal(text, "  ffffffff83000110 do_idle+0x10/0x100\n"
				  "  ffffffff83000210 last+0x10/0x1000\n");
	free(text);
	/* Its own word in the log will do as well, or that it stays where it is. */
	strcpy(j->end->evidence, "  rip ffffffff82000110\n");
	strcpy(j->log.tail, "Kernel Offset: 0x1000000 from 0xffffffff81000000\n");
	text = test_symbolise(j);
	assert_string_equal(text, "  ffffffff82000110 do_idle+0x10/0x100\n");
	free(text);
	strcpy(j->log.tail, "RIP: 0010:0xffffffff81000055\nKernel Offset: disabled\n");
	text = test_symbolise(j);
	assert_string_equal(text, "  ffffffff81000055 weak+0x5/0xb0\n");
	free(text);
	/* Those that are named come before those that are found. */
	t->symbols = "/nowhere";
	assert_null(test_symbolise(j));
	free(j->end);
	free(j);
	free(t);
	teardown(&f);
}

static void vmcoreinfo_says_where_the_kernel_is(void **state)
{
	static const char text[] = "OSRELEASE=1.2\nPAGESIZE=4096\nKERNELOFFSET=1c00000\nX=1\n";
	Elf64_Nhdr note = { .n_namesz = 11, .n_descsz = sizeof(text) - 1 };
	struct guest_mem_range range = { .size = 1 * MiB };
	struct guest_mem *mem;
	uint64_t offset, gpa;
	size_t len;
	uint8_t *page;

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, NULL), 0);
	page = mem->range[0].host + 5 * PAGE_SIZE;
	assert_false(vmcoreinfo_kernel_offset(mem, &offset));
	memcpy(page, &note, sizeof(note));
	memcpy(page + sizeof(note), "VMCOREINFO", 11);
	memcpy(page + NOTE_BYTES(11, 0), text, sizeof(text) - 1);
	assert_true(vmcoreinfo_find(mem, &gpa, &len));
	assert_int_equal(gpa, 5 * PAGE_SIZE);
	assert_true(vmcoreinfo_kernel_offset(mem, &offset));
	assert_int_equal(offset, 0x1c00000);
	/* Longer than its page. */
	note.n_descsz = PAGE_SIZE;
	memcpy(page, &note, sizeof(note));
	assert_false(vmcoreinfo_find(mem, &gpa, &len));
	guest_mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(map_names_what_is_within_its_functions),
		cmocka_unit_test(vmlinux_names_its_code),
		cmocka_unit_test(damaged_vmlinux_does_no_harm),
		cmocka_unit_test(file_without_names_of_code_is_refused),
		cmocka_unit_test(hang_has_names_where_the_kernel_is_known_to_be),
		cmocka_unit_test(vmcoreinfo_says_where_the_kernel_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
