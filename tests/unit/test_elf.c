#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "firmware/firmware.h"
#include "tests/unit/fake_kernel.h"

#define NOTE_PHYS32_ENTRY 18

static int setup(void **state)
{
	*state = malloc(sizeof(struct fake_elf));
	if (!*state)
		return -1;
	fake_elf(*state, true);
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void expect_refused(const struct fake_elf *elf, const char *why)
{
	struct fw_kernel k;
	struct error err = { 0 };

	assert_true(fw_kernel_parse(&k, elf->image, sizeof(elf->image), &err) < 0);
	assert_int_equal(err.kind, ERROR_USAGE);
	if (!strstr(err.msg, why))
		fail_msg("'%s' does not say '%s'", err.msg, why);
}

static struct fw_kernel expect_accepted(const struct fake_elf *elf)
{
	struct error err = { 0 };
	struct fw_kernel k;

	if (fw_kernel_parse(&k, elf->image, sizeof(elf->image), &err) < 0)
		fail_msg("%s", err.msg);
	return k;
}

static void entries_and_segments_are_read(void **state)
{
	struct fw_kernel k = expect_accepted(*state);

	assert_int_equal(k.kind, FW_KERNEL_ELF);
	assert_false(fw_kernel_is_linux(&k));
	k.segment[1].file_size = 5 * MiB;
	assert_true(fw_kernel_is_linux(&k));
	assert_int_equal(k.num_segments, 2);
	assert_int_equal(k.segment[0].gpa, FAKE_ELF_TEXT_GPA);
	assert_int_equal(k.segment[1].mem_size, FAKE_ELF_DATA_MEM);
	assert_int_equal(k.elf_entry, FAKE_ELF_TEXT_GPA);
	assert_int_equal(k.pvh_entry, FAKE_ELF_PVH);
}

static void a_virtual_entry_is_translated(void **state)
{
	Elf64_Ehdr ehdr = fake_elf_header(*state);

	ehdr.e_entry = FAKE_ELF_TEXT_VADDR + 0x10;
	fake_elf_set_header(*state, &ehdr);
	assert_int_equal(expect_accepted(*state).elf_entry, FAKE_ELF_TEXT_GPA + 0x10);
}

static void an_entry_in_no_segment_is_refused(void **state)
{
	struct fake_elf *elf = *state;
	Elf64_Ehdr ehdr;

	fake_elf(elf, false);
	ehdr = fake_elf_header(elf);
	ehdr.e_entry = FAKE_ELF_TEXT_GPA + FAKE_ELF_TEXT_SIZE;
	fake_elf_set_header(elf, &ehdr);
	expect_refused(elf, "outside of its segments");
	/* With a PVH entry, the other is not needed. */
	fake_elf(elf, true);
	fake_elf_set_header(elf, &ehdr);
	assert_int_equal(expect_accepted(elf).elf_entry, 0);
}

static void segments_are_sorted(void **state)
{
	Elf64_Phdr text = fake_elf_segment(*state, 0), data = fake_elf_segment(*state, 1);
	struct fw_kernel k;

	fake_elf_set_segment(*state, 0, &data);
	fake_elf_set_segment(*state, 1, &text);
	k = expect_accepted(*state);
	assert_int_equal(k.segment[0].gpa, FAKE_ELF_TEXT_GPA);
	assert_int_equal(k.segment[1].gpa, FAKE_ELF_DATA_GPA);
}

static void overlapping_segments_are_refused(void **state)
{
	Elf64_Phdr data = fake_elf_segment(*state, 1);

	data.p_paddr = FAKE_ELF_TEXT_GPA + FAKE_ELF_TEXT_SIZE - 1;
	fake_elf_set_segment(*state, 1, &data);
	expect_refused(*state, "overlap");
	/* In front, reaching in by its zeros alone. */
	data.p_paddr = FAKE_ELF_TEXT_GPA - data.p_memsz + 1;
	fake_elf_set_segment(*state, 1, &data);
	expect_refused(*state, "overlap");
	data.p_paddr--;
	fake_elf_set_segment(*state, 1, &data);
	expect_accepted(*state);
}

static void wrapping_segments_are_refused(void **state)
{
	Elf64_Phdr data = fake_elf_segment(*state, 1), good = data;

	data.p_paddr = UINT64_MAX - 0x1000;
	fake_elf_set_segment(*state, 1, &data);
	expect_refused(*state, "segment 1");
	data = good;
	data.p_memsz = UINT64_MAX;
	fake_elf_set_segment(*state, 1, &data);
	expect_refused(*state, "segment 1");
	data = good;
	data.p_offset = UINT64_MAX - 0x1000;
	fake_elf_set_segment(*state, 1, &data);
	expect_refused(*state, "truncated");
}

static void more_file_than_memory_is_refused(void **state)
{
	Elf64_Phdr data = fake_elf_segment(*state, 1);

	data.p_memsz = data.p_filesz - 1;
	fake_elf_set_segment(*state, 1, &data);
	expect_refused(*state, "segment 1");
}

static void segments_beyond_the_file_are_refused(void **state)
{
	Elf64_Phdr data = fake_elf_segment(*state, 1);

	data.p_offset = FAKE_ELF_SIZE - data.p_filesz + 1;
	fake_elf_set_segment(*state, 1, &data);
	expect_refused(*state, "truncated");
}

static void other_elf_files_are_refused(void **state)
{
	const Elf64_Ehdr good = fake_elf_header(*state);
	Elf64_Ehdr ehdr = good;

	ehdr.e_ident[EI_CLASS] = ELFCLASS32;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "not an ELF file for x86-64");
	ehdr = good;
	ehdr.e_machine = EM_AARCH64;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "not an ELF file for x86-64");
	ehdr = good;
	ehdr.e_type = ET_REL;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "not an executable");
}

static void odd_program_header_tables_are_refused(void **state)
{
	const Elf64_Ehdr good = fake_elf_header(*state);
	Elf64_Ehdr ehdr = good;

	ehdr.e_phnum = 0;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "program headers");
	ehdr.e_phnum = UINT16_MAX;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "program headers");
	ehdr = good;
	ehdr.e_phentsize = 32;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "program headers");
	ehdr = good;
	ehdr.e_phoff = FAKE_ELF_SIZE - 100;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "truncated");
	ehdr.e_phoff = UINT64_MAX - 10;
	fake_elf_set_header(*state, &ehdr);
	expect_refused(*state, "truncated");
}

static void a_table_far_into_the_file_is_read(void **state)
{
	struct fake_elf *elf = *state;
	Elf64_Ehdr ehdr = fake_elf_header(elf);

	ehdr.e_phoff = FAKE_ELF_SIZE - 3 * sizeof(Elf64_Phdr);
	memcpy(elf->image + ehdr.e_phoff, elf->image + sizeof(Elf64_Ehdr), 3 * sizeof(Elf64_Phdr));
	memset(elf->image + sizeof(Elf64_Ehdr), 0, 3 * sizeof(Elf64_Phdr));
	fake_elf_set_header(elf, &ehdr);
	assert_int_equal(expect_accepted(elf).num_segments, 2);
}

static void a_file_without_segments_is_refused(void **state)
{
	Elf64_Phdr phdr = { .p_type = PT_NULL };

	fake_elf_set_segment(*state, 0, &phdr);
	fake_elf_set_segment(*state, 1, &phdr);
	expect_refused(*state, "nothing in it to load");
}

static void notes_of_both_paddings_and_widths_are_found(void **state)
{
	uint8_t desc[8];

	put_le64(desc, FAKE_ELF_TEXT_GPA + 0x20);
	for (uint64_t align = 4; align <= 8; align += 4) {
		for (unsigned width = 4; width <= 8; width += 4) {
			fake_elf_set_note(*state, align, "Xen", NOTE_PHYS32_ENTRY, desc, width);
			assert_int_equal(expect_accepted(*state).pvh_entry,
					 FAKE_ELF_TEXT_GPA + 0x20);
		}
	}
}

static void other_notes_are_not_an_entry(void **state)
{
	const uint8_t desc[8] = { 1 };

	fake_elf_set_note(*state, 4, "Xen", NOTE_PHYS32_ENTRY - 1, desc, 8);
	assert_int_equal(expect_accepted(*state).pvh_entry, 0);
	fake_elf_set_note(*state, 4, "GNU", NOTE_PHYS32_ENTRY, desc, 8);
	assert_int_equal(expect_accepted(*state).pvh_entry, 0);
	fake_elf_set_note(*state, 4, "Xen", NOTE_PHYS32_ENTRY, desc, 2);
	assert_int_equal(expect_accepted(*state).pvh_entry, 0);
}

static void notes_that_lie_about_their_size_end_the_search(void **state)
{
	struct fake_elf *elf = *state;
	uint8_t *note = elf->image + FAKE_ELF_NOTE_OFFSET;

	put_le32(note, UINT32_MAX);
	assert_int_equal(expect_accepted(elf).pvh_entry, 0);
	put_le32(note, 6);
	put_le32(note + 4, UINT32_MAX);
	assert_int_equal(expect_accepted(elf).pvh_entry, 0);
}

static void a_note_outside_of_the_file_is_refused(void **state)
{
	Elf64_Phdr note = fake_elf_segment(*state, 2);

	note.p_offset = FAKE_ELF_SIZE - 4;
	fake_elf_set_segment(*state, 2, &note);
	expect_refused(*state, "truncated");
	note.p_filesz = UINT64_MAX;
	fake_elf_set_segment(*state, 2, &note);
	expect_refused(*state, "notes");
}

static void a_pvh_entry_outside_of_the_segments_is_refused(void **state)
{
	uint8_t desc[8];

	put_le64(desc, 0x5000);
	fake_elf_set_note(*state, 4, "Xen", NOTE_PHYS32_ENTRY, desc, 4);
	expect_refused(*state, "PVH entry 0x5000");
	put_le64(desc, 1ull << 32 | FAKE_ELF_TEXT_GPA);
	fake_elf_set_note(*state, 4, "Xen", NOTE_PHYS32_ENTRY, desc, 8);
	expect_refused(*state, "PVH entry");
}

static void directories_and_pipes_are_refused(void **state)
{
	struct error err = { 0 };
	struct fw_kernel *k;
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	assert_int_equal(fw_kernel_open(&k, "some pipe", fd[0], &err), -EINVAL);
	assert_string_equal(err.msg, "kernel 'some pipe': not a regular file");
	/* Still ours: closing it works. */
	assert_int_equal(close(fd[0]), 0);
	close(fd[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(entries_and_segments_are_read),
		TEST(a_virtual_entry_is_translated),
		TEST(an_entry_in_no_segment_is_refused),
		TEST(segments_are_sorted),
		TEST(overlapping_segments_are_refused),
		TEST(wrapping_segments_are_refused),
		TEST(more_file_than_memory_is_refused),
		TEST(segments_beyond_the_file_are_refused),
		TEST(other_elf_files_are_refused),
		TEST(odd_program_header_tables_are_refused),
		TEST(a_table_far_into_the_file_is_read),
		TEST(a_file_without_segments_is_refused),
		TEST(notes_of_both_paddings_and_widths_are_found),
		TEST(other_notes_are_not_an_entry),
		TEST(notes_that_lie_about_their_size_end_the_search),
		TEST(a_note_outside_of_the_file_is_refused),
		TEST(a_pvh_entry_outside_of_the_segments_is_refused),
		TEST(directories_and_pipes_are_refused),
	};

	return cmocka_run_group_tests_name("elf", tests, NULL, NULL);
}
