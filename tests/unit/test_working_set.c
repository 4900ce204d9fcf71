/* What a restored guest touched: found, written down, and there from the start the next time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/saved/working_set.h"

#define PAGES 1024u

/* RAM mapped from a file that is full of something. */
static struct guest_mem *restore(int fd)
{
	const struct guest_mem_range range = { .size = PAGES * PAGE_SIZE };
	struct guest_mem *mem;
	struct error err = { 0 };

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, &err), 0);
	assert_int_equal(guest_mem_load(mem, fd, &err), 0);
	return mem;
}

static int memory_file(void)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);
	char page[PAGE_SIZE];

	memset(page, 0xa5, sizeof(page));
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(pwrite(fd, page, sizeof(page), i * PAGE_SIZE), sizeof(page));
	return fd;
}

static bool has(const uint64_t *pages, unsigned i)
{
	return pages[i / 64] >> i % 64 & 1;
}

/* Touch page 500 and write page 700 of a restored guest, and record that. */
static void record(int memory_fd, uint8_t *buf, size_t size, size_t *ret_len)
{
	int map = working_set_open_map(), out = memfd_create("record", MFD_CLOEXEC);
	struct guest_mem *mem = restore(memory_fd);
	ssize_t n;

	if (map < 0)
		skip();
	assert_int_equal(((volatile uint8_t *)mem->map)[500 * PAGE_SIZE], 0xa5);
	mem->map[700 * PAGE_SIZE] = 1;
	assert_int_equal(working_set_record(mem, map, out), 0);
	n = pread(out, buf, size, 0);
	assert_true(n > 0);
	*ret_len = n;
	close(map);
	close(out);
	guest_mem_free(mem);
}

static void touched_and_written_pages_are_recorded(void **state)
{
	int fd = memory_file();
	struct working_set set;
	struct error err = { 0 };
	uint8_t buf[4096];
	size_t len;

	record(fd, buf, sizeof(buf), &len);
	assert_int_equal(working_set_read(&set, buf, len, PAGES, &err), 0);
	assert_true(has(set.touched, 500));
	assert_false(has(set.written, 500));
	assert_true(has(set.touched, 700));
	assert_true(has(set.written, 700));
	/* The kernel maps some pages around one that is read, but not so many. */
	assert_false(has(set.touched, 100));
	working_set_done(&set);
	close(fd);
}

static void recorded_pages_are_there_from_the_start(void **state)
{
	int fd = memory_file(), map;
	struct guest_mem *mem;
	struct working_set set;
	struct error err = { 0 };
	uint8_t buf[4096];
	uint64_t entry;
	size_t len;

	record(fd, buf, sizeof(buf), &len);
	assert_int_equal(working_set_read(&set, buf, len, PAGES, &err), 0);
	mem = restore(fd);
	if (madvise(mem->map, PAGE_SIZE, 22 /* MADV_POPULATE_READ */) < 0)
		skip();
	working_set_bring_in(&set, mem);
	map = working_set_open_map();
	for (unsigned i = 500; i <= 700; i += 200) {
		off_t at = (off_t)(((uintptr_t)mem->map >> PAGE_SHIFT) + i) * 8;

		assert_int_equal(pread(map, &entry, sizeof(entry), at), sizeof(entry));
		assert_true(entry >> 63);
		/* Bit 61: still the file's. */
		assert_int_equal(entry >> 61 & 1, i == 500);
	}
	/* The bytes are as they were saved. */
	assert_int_equal(mem->map[700 * PAGE_SIZE], 0xa5);
	close(map);
	guest_mem_free(mem);
	working_set_done(&set);
	close(fd);
}

static void record_of_another_size_is_refused(void **state)
{
	int fd = memory_file();
	struct working_set set;
	struct error err = { 0 };
	uint8_t buf[4096];
	size_t len;

	record(fd, buf, sizeof(buf), &len);
	assert_int_equal(working_set_read(&set, buf, len, PAGES * 2, &err), -EBADMSG);
	buf[len / 2] ^= 1;
	assert_int_equal(working_set_read(&set, buf, len, PAGES, &err), -EBADMSG);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(touched_and_written_pages_are_recorded),
		cmocka_unit_test(recorded_pages_are_there_from_the_start),
		cmocka_unit_test(record_of_another_size_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
