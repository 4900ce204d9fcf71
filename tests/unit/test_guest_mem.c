#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/core/guest_mem.h"

/* Two adjacent ranges, as 2 MiB at 0 and 4 MiB right after it, and one far away. */
static const struct guest_mem_range layout[] = {
	{ .gpa = 0, .size = 2 * MiB },
	{ .gpa = 2 * MiB, .size = 4 * MiB },
	{ .gpa = 4 * GiB, .size = 2 * MiB },
};

static struct guest_mem *create(enum guest_mem_backing backing)
{
	struct guest_mem *mem = NULL;
	struct error err = { 0 };

	if (guest_mem_create(&mem, backing, layout, ARRAY_SIZE(layout), &err) < 0)
		fail_msg("%s", err.msg);
	return mem;
}

static void ptr_is_null_unless_all_is_ram(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);

	assert_ptr_equal(guest_mem_ptr(mem, 0, 2 * MiB), mem->map);
	assert_ptr_equal(guest_mem_ptr(mem, 4 * GiB, 1), mem->map + 6 * MiB);
	assert_null(guest_mem_ptr(mem, 2 * MiB - 1, 2)); /* two ranges */
	assert_null(guest_mem_ptr(mem, 6 * MiB - 1, 2));
	assert_null(guest_mem_ptr(mem, 4 * GiB + 2 * MiB, 1));
	assert_null(guest_mem_ptr(mem, UINT64_MAX, 2));
	assert_null(guest_mem_ptr(mem, 0x1000, UINT64_MAX - 0xfff));
	mem->range[0].read_only = true;
	assert_null(guest_mem_ptr(mem, 0, 1));
	guest_mem_free(mem);
}

static void layout_is_backed_by_one_aligned_mapping(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);

	assert_int_equal((uintptr_t)mem->map % (2 * MiB), 0);
	assert_int_equal(guest_mem_size(mem), 8 * MiB);
	assert_int_equal(guest_mem_low_end(mem), 6 * MiB);
	assert_int_equal(guest_mem_high_end(mem), 4 * GiB + 2 * MiB);
	guest_mem_free(mem);
}

/* It is memory as all other, but nobody takes it for what the guest begins with. */
static void memory_that_comes_later_is_behind_the_rest(void **state)
{
	const struct guest_mem_range with_later[] = {
		layout[0],
		layout[2],
		{ .gpa = 6 * GiB, .size = 4 * MiB, .is_later = true },
	};
	struct guest_mem *mem = NULL;

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, with_later, 3, NULL), 0);
	assert_true(mem->range[2].is_later);
	assert_int_equal(guest_mem_high_end(mem), 4 * GiB + 2 * MiB);
	assert_int_equal(guest_mem_size(mem), 8 * MiB);
	assert_int_equal(guest_mem_first_size(mem), 4 * MiB);
	assert_int_equal(guest_mem_write(mem, 6 * GiB + 1, "x", 1), 0);
	assert_int_equal(mem->map[4 * MiB + 1], 'x');
	assert_int_equal(guest_mem_discard(mem, 6 * GiB, 2 * MiB), 0);
	assert_int_equal(mem->map[4 * MiB + 1], 0);
	guest_mem_free(mem);
}

static void copies_cross_ranges_but_not_holes(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);
	char in[8] = "abcdefg", out[8] = "";

	assert_int_equal(guest_mem_write(mem, 2 * MiB - 3, in, 8), 0);
	assert_int_equal(guest_mem_read(mem, 2 * MiB - 3, out, 8), 0);
	assert_string_equal(out, in);
	assert_int_equal(guest_mem_write(mem, 6 * MiB - 3, "xxxxxxx", 8), -EFAULT);
	assert_int_equal(guest_mem_read(mem, 6 * MiB - 3, out, 3), 0);
	assert_memory_equal(out, "\0\0\0", 3); /* nothing was copied */
	assert_int_equal(guest_mem_read(mem, UINT64_MAX - 3, out, 8), -EFAULT);
	guest_mem_free(mem);
}

static void iov_tells_holes_from_lack_of_room(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);
	struct iovec iov[2];

	assert_int_equal(guest_mem_iov(mem, MiB, 2 * MiB, true, iov, 2), 2);
	assert_ptr_equal(iov[1].iov_base, mem->map + 2 * MiB);
	assert_int_equal(iov[0].iov_len + iov[1].iov_len, 2 * MiB);
	assert_int_equal(guest_mem_iov(mem, MiB, 2 * MiB, true, iov, 1), -E2BIG);
	assert_int_equal(guest_mem_iov(mem, 5 * MiB, 2 * MiB, true, iov, 2), -EFAULT);
	assert_int_equal(guest_mem_iov(mem, 5 * MiB, UINT64_MAX, true, iov, 2), -EFAULT);
	assert_int_equal(guest_mem_iov(mem, 5 * MiB, 0, true, iov, 0), 0);
	mem->range[1].read_only = true;
	assert_int_equal(guest_mem_iov(mem, MiB, 2 * MiB, true, iov, 2), -EFAULT);
	assert_int_equal(guest_mem_iov(mem, MiB, 2 * MiB, false, iov, 2), 2);
	assert_int_equal(guest_mem_write(mem, 2 * MiB, "x", 1), -EFAULT);
	guest_mem_free(mem);
}

static void create_refuses_bad_layouts(void **state)
{
	const struct guest_mem_range overlap[] = { { .gpa = 0, .size = 0x2000 },
						   { .gpa = 0x1000, .size = 0x1000 } };
	const struct guest_mem_range odd[] = { { .gpa = 0, .size = 0x1001 } };
	const struct guest_mem_range wraps[] = { { .gpa = 0x1000, .size = -0x1000ull } };
	const struct guest_mem_range huge[] = { { .gpa = 0, .size = 1ull << 62 } };
	struct guest_mem *mem = NULL;
	struct error err = { 0 };

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, overlap, 2, NULL), -EINVAL);
	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, odd, 1, NULL), -EINVAL);
	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, wraps, 1, NULL), -EINVAL);
	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, huge, 1, &err), -ENOMEM);
	assert_int_equal(error_status(&err), 2);
	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_HUGETLB, odd, 1, NULL), -EINVAL);
	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_FILE, layout, 3, NULL), -EINVAL);
	assert_null(mem);
}

static bool is_dirty(const struct guest_mem_range *r, unsigned page)
{
	return r->dirty[page / 64] >> (page % 64) & 1;
}

static void dirty_marks_exactly_the_pages_written(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);
	unsigned count = 0;

	guest_mem_mark_dirty(mem, 0, 1); /* not tracked: no-op */
	assert_int_equal(guest_mem_track_dirty(mem, true), 0);
	assert_int_equal(guest_mem_write(mem, 2 * MiB - 1, "ab", 2), 0);
	guest_mem_mark_dirty(mem, 0x5fff, 0x1002);
	guest_mem_mark_dirty_host(mem, mem->map + 6 * MiB + 0x3000, 1);
	guest_mem_mark_dirty(mem, 0x8000, 0);
	guest_mem_mark_dirty(mem, 100 * GiB, 5);
	assert_true(is_dirty(&mem->range[0], 511));
	assert_true(is_dirty(&mem->range[1], 0));
	assert_true(is_dirty(&mem->range[0], 5));
	assert_true(is_dirty(&mem->range[0], 6));
	assert_true(is_dirty(&mem->range[0], 7));
	assert_true(is_dirty(&mem->range[2], 3));
	for (unsigned i = 0; i < 3; i++)
		for (unsigned p = 0; p < mem->range[i].size / PAGE_SIZE; p++)
			count += is_dirty(&mem->range[i], p);
	assert_int_equal(count, 6);
	guest_mem_free(mem);
}

/* Fill, discard from the middle of page 1 to the middle of page 4 across ranges, look. */
static void check_discard(struct guest_mem *mem)
{
	uint64_t start = 2 * MiB - 3 * PAGE_SIZE + 100, len = 5 * PAGE_SIZE;

	assert_int_equal(guest_mem_track_dirty(mem, true), 0);
	memset(mem->map, 0xaa, 6 * MiB);
	assert_int_equal(guest_mem_discard(mem, start, len), 0);
	for (uint64_t a = 2 * MiB - 4 * PAGE_SIZE; a < 2 * MiB + 4 * PAGE_SIZE; a++) {
		bool dropped = a >= 2 * MiB - 2 * PAGE_SIZE && a < 2 * MiB + 2 * PAGE_SIZE;

		assert_int_equal(mem->map[a], dropped ? 0 : 0xaa);
	}
	assert_true(is_dirty(&mem->range[0], 511));
	assert_false(is_dirty(&mem->range[0], 509));
	assert_int_equal(guest_mem_discard(mem, 5 * MiB, 2 * MiB), -EFAULT);
	assert_int_equal(mem->map[5 * MiB], 0xaa);
}

static void discard_zeroes_whole_pages_of_private_memory(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);

	check_discard(mem);
	guest_mem_free(mem);
}

static void discard_punches_shared_memory(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_SHARED);
	uint8_t *other = mmap(NULL, 8 * MiB, PROT_READ, MAP_SHARED, mem->fd, 0);

	assert_ptr_not_equal(other, MAP_FAILED);
	check_discard(mem);
	assert_int_equal(other[2 * MiB], 0);
	assert_int_equal(other[0], 0xaa);
	assert_true(ftruncate(mem->fd, 0) < 0); /* sealed */
	munmap(other, 8 * MiB);
	guest_mem_free(mem);
}

static void discard_of_huge_pages_leaves_partial_ones_alone(void **state)
{
	struct guest_mem *mem = NULL;
	struct error err = { 0 };
	int r = guest_mem_create(&mem, GUEST_MEM_HUGETLB, layout, ARRAY_SIZE(layout), &err);

	if (r < 0) {
		/* No huge pages on this host: then the message says how to get some. */
		assert_int_equal(error_status(&err), 2);
		assert_non_null(strstr(err.hint, "nr_hugepages"));
		skip();
	}
	memset(mem->map, 0xaa, 8 * MiB);
	assert_int_equal(guest_mem_discard(mem, MiB, 4 * MiB), 0);
	assert_int_equal(mem->map[2 * MiB - 1], 0xaa);
	assert_int_equal(mem->map[2 * MiB], 0);
	assert_int_equal(mem->map[4 * MiB], 0xaa);
	guest_mem_free(mem);
}

static int patterned_file(uint64_t size)
{
	uint8_t page[PAGE_SIZE];
	int fd = memfd_create("test", 0);

	memset(page, 0xbb, sizeof(page));
	for (uint64_t at = 0; at < size; at += sizeof(page))
		assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	return fd;
}

static void discard_does_not_bring_back_a_mapped_file(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);
	int fd = patterned_file(3 * MiB);

	memset(mem->map, 0xaa, 6 * MiB);
	/* 3 MiB from 1 MiB + one page, first page of the file left out. */
	assert_int_equal(guest_mem_map_file(mem, 2 * MiB, 3 * MiB - PAGE_SIZE, fd, PAGE_SIZE), 0);
	close(fd);
	assert_int_equal(mem->map[2 * MiB], 0xbb);
	assert_int_equal(mem->map[5 * MiB - PAGE_SIZE], 0xaa);

	/* A single page, then all around and over it. */
	assert_int_equal(guest_mem_discard(mem, 2 * MiB + PAGE_SIZE, PAGE_SIZE), 0);
	assert_int_equal(mem->map[2 * MiB + PAGE_SIZE - 1], 0xbb);
	assert_int_equal(mem->map[2 * MiB + PAGE_SIZE], 0);
	assert_int_equal(mem->map[2 * MiB + 2 * PAGE_SIZE], 0xbb);
	assert_int_equal(guest_mem_discard(mem, MiB, 5 * MiB), 0);
	for (uint64_t a = MiB; a < 6 * MiB; a++)
		if (mem->map[a])
			fail_msg("byte at 0x%llx", (unsigned long long)a);
	assert_int_equal(mem->map[MiB - 1], 0xaa);
	mem->map[3 * MiB] = 1; /* still writable */
	guest_mem_free(mem);
}

static void map_file_refuses_what_it_cannot_do(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);
	struct guest_mem *shared = create(GUEST_MEM_SHARED);
	int fd = patterned_file(PAGE_SIZE);

	assert_int_equal(guest_mem_map_file(mem, 8 * MiB, PAGE_SIZE, fd, 0), -EFAULT);
	assert_int_equal(guest_mem_map_file(mem, 1, PAGE_SIZE, fd, 0), -EINVAL);
	assert_int_equal(guest_mem_map_file(mem, 0, 0, fd, 0), -EINVAL);
	assert_int_equal(guest_mem_map_file(shared, 0, PAGE_SIZE, fd, 0), -ENOTSUP);
	for (unsigned i = 0; i < GUEST_MEM_MAX_OVERLAYS; i++)
		assert_int_equal(guest_mem_map_file(mem, i * PAGE_SIZE, PAGE_SIZE, fd, 0), 0);
	assert_int_equal(guest_mem_map_file(mem, MiB, PAGE_SIZE, fd, 0), -ENOSPC);
	close(fd);
	guest_mem_free(shared);
	guest_mem_free(mem);
}

/* ---- to a file and back ---- */

static void put(struct guest_mem *mem, uint64_t gpa, const char *text)
{
	assert_int_equal(guest_mem_write(mem, gpa, text, strlen(text) + 1), 0);
}

static void expect_text(struct guest_mem *mem, uint64_t gpa, const char *text)
{
	char there[32];

	assert_int_equal(guest_mem_read(mem, gpa, there, sizeof(there)), 0);
	assert_string_equal(there, text);
}

static int save_to_file(struct guest_mem *mem, struct guest_mem_saved *saved)
{
	int fd = memfd_create("saved", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(guest_mem_save(mem, fd, saved), 0);
	return fd;
}

static void saved_memory_comes_back(enum guest_mem_backing backing)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON), *again = create(backing);
	struct guest_mem_saved saved;
	struct error err = { 0 };
	int fd;

	put(mem, 0x1000, "low");
	put(mem, 6 * MiB - PAGE_SIZE, "the last page of the first two");
	put(mem, 4 * GiB, "high");
	fd = save_to_file(mem, &saved);
	assert_int_equal(saved.size, 8 * MiB);
	assert_int_equal(saved.pages, 3);
	assert_int_equal(guest_mem_load(again, fd, &err), 0);
	close(fd);
	expect_text(again, 0x1000, "low");
	expect_text(again, 6 * MiB - PAGE_SIZE, "the last page of the first two");
	expect_text(again, 4 * GiB, "high");
	expect_text(again, 0x2000, "");
	guest_mem_free(mem);
	guest_mem_free(again);
}

static void saved_memory_comes_back_as_a_mapping(void **state)
{
	saved_memory_comes_back(GUEST_MEM_ANON);
}

static void saved_memory_comes_back_as_a_copy(void **state)
{
	saved_memory_comes_back(GUEST_MEM_SHARED);
}

static void memory_that_was_loaded_is_saved_with_what_nobody_touched(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON), *again = create(GUEST_MEM_ANON);
	struct guest_mem *third = create(GUEST_MEM_ANON);
	struct guest_mem_saved saved;
	struct error err = { 0 };
	int fd;

	put(mem, 0x1000, "old");
	put(mem, 3 * MiB, "also old");
	put(mem, 5 * MiB, "dropped");
	fd = save_to_file(mem, &saved);
	assert_int_equal(guest_mem_load(again, fd, &err), 0);
	close(fd);
	put(again, 0x1000, "new");
	assert_int_equal(guest_mem_discard(again, 5 * MiB, PAGE_SIZE), 0);
	fd = save_to_file(again, &saved);
	assert_int_equal(saved.pages, 2);
	assert_int_equal(guest_mem_load(third, fd, &err), 0);
	close(fd);
	expect_text(third, 0x1000, "new");
	expect_text(third, 3 * MiB, "also old");
	expect_text(third, 5 * MiB, "");
	guest_mem_free(mem);
	guest_mem_free(again);
	guest_mem_free(third);
}

static void kernel_mapped_over_memory_is_saved_too(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON), *again = create(GUEST_MEM_ANON);
	int kernel = memfd_create("kernel", MFD_CLOEXEC), fd;
	struct guest_mem_saved saved;
	struct error err = { 0 };

	assert_int_equal(pwrite(kernel, "kernel", 7, PAGE_SIZE), 7);
	assert_int_equal(ftruncate(kernel, 2 * PAGE_SIZE), 0);
	assert_int_equal(guest_mem_map_file(mem, 1 * MiB, 2 * PAGE_SIZE, kernel, 0), 0);
	close(kernel);
	fd = save_to_file(mem, &saved);
	assert_int_equal(saved.pages, 1);
	assert_int_equal(guest_mem_load(again, fd, &err), 0);
	close(fd);
	expect_text(again, 1 * MiB + PAGE_SIZE, "kernel");
	guest_mem_free(mem);
	guest_mem_free(again);
}

/* Pages 1 (not zero), 2 (zero) and the last one, over memory that has something in each. */
static void some_pages_are_saved_and_laid_over_others(void **state)
{
	uint64_t pages[8 * MiB / PAGE_SIZE / 64] = { 0 };
	struct guest_mem *mem = create(GUEST_MEM_ANON), *again = create(GUEST_MEM_ANON);
	int fd = memfd_create("some", MFD_CLOEXEC);
	const unsigned last = 8 * MiB / PAGE_SIZE - 1;
	struct guest_mem_saved saved;

	pages[0] = 1 << 1 | 1 << 2;
	pages[last / 64] |= 1ull << last % 64;
	put(mem, 0, "not saved");
	put(mem, 1 * PAGE_SIZE, "new");
	put(mem, 4 * GiB + 2 * MiB - PAGE_SIZE, "new end");
	assert_int_equal(guest_mem_save_pages(mem, fd, pages, false, &saved), 0);
	assert_int_equal(saved.size, 8 * MiB);
	assert_int_equal(saved.pages, 2);
	assert_int_equal(lseek(fd, 0, SEEK_DATA), PAGE_SIZE);
	put(again, 0, "old");
	put(again, 1 * PAGE_SIZE, "old");
	put(again, 2 * PAGE_SIZE, "old");
	put(again, 3 * PAGE_SIZE, "old");
	assert_int_equal(guest_mem_load_pages(again, fd, pages), 0);
	close(fd);
	expect_text(again, 0, "old");
	expect_text(again, 1 * PAGE_SIZE, "new");
	expect_text(again, 2 * PAGE_SIZE, "");
	expect_text(again, 3 * PAGE_SIZE, "old");
	expect_text(again, 4 * GiB + 2 * MiB - PAGE_SIZE, "new end");
	guest_mem_free(mem);
	guest_mem_free(again);
}

static void pages_of_zeros_are_data_where_holes_have_a_meaning(void **state)
{
	uint64_t pages[8 * MiB / PAGE_SIZE / 64] = { 0 };
	struct guest_mem *mem = create(GUEST_MEM_ANON);
	int fd = memfd_create("some", MFD_CLOEXEC);
	struct guest_mem_saved saved;

	pages[0] = 1 << 5;
	assert_int_equal(guest_mem_save_pages(mem, fd, pages, true, &saved), 0);
	assert_int_equal(saved.pages, 1);
	assert_int_equal(lseek(fd, 0, SEEK_DATA), 5 * PAGE_SIZE);
	assert_int_equal(lseek(fd, 5 * PAGE_SIZE, SEEK_HOLE), 6 * PAGE_SIZE);
	close(fd);
	guest_mem_free(mem);
}

static void memory_file_of_another_size_is_refused(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_ANON);
	int fd = memfd_create("short", MFD_CLOEXEC);
	struct error err = { 0 };

	assert_int_equal(ftruncate(fd, 8 * MiB - PAGE_SIZE), 0);
	assert_int_equal(guest_mem_load(mem, fd, &err), -EBADMSG);
	close(fd);
	guest_mem_free(mem);
}

static void memory_of_another_process_is_shared_with_it(void **state)
{
	struct guest_mem *theirs = create(GUEST_MEM_SHARED), *ours;
	struct error err = { 0 };

	theirs->map[5 * MiB] = 7;
	assert_int_equal(guest_mem_adopt(&ours, theirs->fd, layout, ARRAY_SIZE(layout), &err), 0);
	assert_int_equal(ours->map[5 * MiB], 7);
	assert_int_equal(guest_mem_write(ours, 4 * GiB, "x", 1), 0);
	/* It outlives them. */
	assert_int_equal(theirs->map[6 * MiB], 'x');
	guest_mem_free(theirs);
	assert_int_equal(ours->map[6 * MiB], 'x');
	assert_int_equal(ours->backing, GUEST_MEM_SHARED);
	guest_mem_free(ours);
}

/* In the place of the C library's: this host, and what others on it have on swap. */
static bool others_are_on_swap;

int sysinfo(struct sysinfo *info)
{
	int r = (int)syscall(SYS_sysinfo, info);

	info->totalswap = 1000;
	info->freeswap = others_are_on_swap ? 900 : 1000;
	return r;
}

static uint64_t blocks_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* To look at a hole of shared memory would fill it, of a region for later say, with zeroes. */
static void holes_of_shared_memory_stay_whatever_is_on_swap(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_SHARED);
	int fd = memfd_create("saved", MFD_CLOEXEC);
	struct guest_mem_saved saved;
	bool wanted[16];

	put(mem, layout[2].gpa + 3 * PAGE_SIZE, "there");
	others_are_on_swap = true;
	guest_mem_populated(mem, 6 * MiB, ARRAY_SIZE(wanted), wanted);
	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++)
		assert_int_equal(wanted[i], i == 3);
	assert_int_equal(guest_mem_save(mem, fd, &saved), 0);
	others_are_on_swap = false;
	assert_int_equal(saved.pages, 1);
	assert_int_equal(blocks_of(mem->fd), PAGE_SIZE);
	assert_int_equal(blocks_of(fd), PAGE_SIZE);
	guest_mem_free(mem);
	close(fd);
}

static void memory_that_could_fail_under_us_is_not_adopted(void **state)
{
	struct guest_mem *mem = create(GUEST_MEM_SHARED), *ours;
	int loose = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct error err = { 0 };

	assert_int_equal(ftruncate(loose, 8 * MiB), 0);
	assert_int_equal(guest_mem_adopt(&ours, loose, layout, 3, &err), -EBADMSG);
	assert_int_equal(guest_mem_adopt(&ours, mem->fd, layout, 2, &err), -EBADMSG);
	assert_int_equal(guest_mem_adopt(&ours, STDIN_FILENO, layout, 3, &err), -EBADMSG);
	close(loose);
	guest_mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ptr_is_null_unless_all_is_ram),
		cmocka_unit_test(layout_is_backed_by_one_aligned_mapping),
		cmocka_unit_test(memory_that_comes_later_is_behind_the_rest),
		cmocka_unit_test(copies_cross_ranges_but_not_holes),
		cmocka_unit_test(iov_tells_holes_from_lack_of_room),
		cmocka_unit_test(create_refuses_bad_layouts),
		cmocka_unit_test(dirty_marks_exactly_the_pages_written),
		cmocka_unit_test(discard_zeroes_whole_pages_of_private_memory),
		cmocka_unit_test(discard_punches_shared_memory),
		cmocka_unit_test(discard_of_huge_pages_leaves_partial_ones_alone),
		cmocka_unit_test(discard_does_not_bring_back_a_mapped_file),
		cmocka_unit_test(map_file_refuses_what_it_cannot_do),
		cmocka_unit_test(saved_memory_comes_back_as_a_mapping),
		cmocka_unit_test(saved_memory_comes_back_as_a_copy),
		cmocka_unit_test(memory_that_was_loaded_is_saved_with_what_nobody_touched),
		cmocka_unit_test(kernel_mapped_over_memory_is_saved_too),
		cmocka_unit_test(some_pages_are_saved_and_laid_over_others),
		cmocka_unit_test(pages_of_zeros_are_data_where_holes_have_a_meaning),
		cmocka_unit_test(memory_file_of_another_size_is_refused),
		cmocka_unit_test(memory_of_another_process_is_shared_with_it),
		cmocka_unit_test(holes_of_shared_memory_stay_whatever_is_on_swap),
		cmocka_unit_test(memory_that_could_fail_under_us_is_not_adopted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
