/* Memory on its way through the stream of a migration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/wire_pair.h"
#include "vmm/migrate/migrate_memory.h"
#include "vmm/migrate/migrate_wire.h"

#define LOW_BYTES  (4 * MiB + 3 * PAGE_SIZE)
#define HIGH_BYTES (1 * MiB)
#define HIGH_GPA   (4 * GiB)

struct moving {
	struct migrate_wire a, b;
	struct guest_mem *from, *to;
	struct hv *hv;
	struct migrate_memory memory;
	struct migrate_sink sink;
};

static struct guest_mem *create_memory(void)
{
	const struct guest_mem_range ranges[] = {
		{ .gpa = 0, .size = LOW_BYTES },
		{ .gpa = HIGH_GPA, .size = HIGH_BYTES },
	};
	struct guest_mem *mem;
	struct error err = { 0 };

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, ranges, 2, &err), 0);
	/* Pages, not huge ones: what is touched is what is there. */
	madvise(mem->map, mem->map_size, MADV_NOHUGEPAGE);
	return mem;
}

static void begin(struct moving *m, unsigned level)
{
	struct fake_hv_params hv = { 0 };
	struct error err = { 0 };

	wire_pair(&m->a, &m->b);
	m->a.patience_ms = m->b.patience_ms = 20;
	m->from = create_memory();
	m->to = create_memory();
	m->hv = fake_hv_create(&hv);
	for (unsigned i = 0; i < 2; i++) {
		struct guest_mem_range *r = &m->from->range[i];

		r->slot = i;
		assert_int_equal(m->hv->ops->mem_set(m->hv, i, r->gpa, r->size, r->host, 0), 0);
	}
	assert_int_equal(migrate_memory_start(&m->memory, m->from, m->hv, level, 1, &err), 0);
	assert_int_equal(migrate_sink_init(&m->sink, m->to, &err), 0);
}

static void end(struct moving *m)
{
	migrate_memory_stop(&m->memory);
	migrate_sink_done(&m->sink);
	guest_mem_free(m->from);
	guest_mem_free(m->to);
	m->hv->ops->free(m->hv);
	migrate_wire_done(&m->a);
	migrate_wire_done(&m->b);
}

/* Take in what was sent; returns how many records. */
static unsigned take_in(struct moving *m)
{
	struct migrate_record rec;
	struct error err = { 0 };
	unsigned num = 0;

	while (migrate_wire_receive(&m->b, &rec, 0, &err) == 0) {
		if (migrate_sink_take(&m->sink, &rec, &err) < 0)
			fail_msg("%s", err.msg);
		num++;
	}
	return num;
}

static int take_between(void *arg, struct error *err)
{
	take_in(arg);
	return 0;
}

/* One round; returns how many pages it was of. */
static uint64_t copy_round(struct moving *m)
{
	uint64_t before = m->memory.pages_sent;
	struct error err = { 0 };

	assert_int_equal(migrate_memory_send(&m->memory, &m->a, take_between, m, &err), 0);
	return m->memory.pages_sent - before;
}

static uint64_t collect(struct moving *m)
{
	struct error err = { 0 };
	uint64_t pages;

	assert_int_equal(migrate_memory_collect(&m->memory, &pages, &err), 0);
	return pages;
}

static void assert_same(struct moving *m)
{
	assert_memory_equal(m->from->map, m->to->map, m->from->map_size);
}

static void only_pages_that_hold_something_are_sent(void **state)
{
	struct moving m;

	begin(&m, 0);
	m.from->map[5 * PAGE_SIZE] = 1;
	m.from->map[LOW_BYTES - 1] = 2;
	m.from->map[LOW_BYTES + 7] = 3;
	m.from->map[9 * PAGE_SIZE] = 0; /* touched, and empty */
	assert_int_equal(copy_round(&m), 3);
	assert_same(&m);
	assert_int_equal(m.sink.pages_received, 3);
	end(&m);
}

static void what_changes_comes_again_whoever_wrote_it(void **state)
{
	struct moving m;

	begin(&m, 0);
	m.from->map[0] = 1;
	copy_round(&m);
	collect(&m);
	copy_round(&m);
	assert_int_equal(collect(&m), 0);
	/* The monitor, in both ranges; the guest. */
	assert_int_equal(guest_mem_write(m.from, 3 * PAGE_SIZE, "x", 1), 0);
	assert_int_equal(guest_mem_write(m.from, HIGH_GPA + 8 * PAGE_SIZE, "y", 1), 0);
	assert_int_equal(fake_hv_write(m.hv, 7 * PAGE_SIZE, "z", 1), 0);
	assert_int_equal(collect(&m), 3);
	assert_int_equal(copy_round(&m), 3);
	assert_same(&m);
	assert_int_equal(collect(&m), 0);
	end(&m);
}

static void pages_that_became_empty_are_emptied(void **state)
{
	struct moving m;

	begin(&m, 0);
	memset(m.from->map, 0xaa, 16 * PAGE_SIZE);
	copy_round(&m);
	collect(&m);
	copy_round(&m);
	assert_int_equal(guest_mem_discard(m.from, 4 * PAGE_SIZE, 2 * PAGE_SIZE), 0);
	assert_int_equal(collect(&m), 2);
	assert_int_equal(copy_round(&m), 0);
	assert_int_equal(m.memory.zero_pages, 2);
	assert_same(&m);
	end(&m);
}

static void compressed_pages_are_the_same_and_fewer_bytes(void **state)
{
	struct moving m;

	begin(&m, 1);
	memset(m.from->map, 0x55, 300 * PAGE_SIZE);
	for (unsigned i = 0; i < 4096; i++)
		m.from->map[400 * PAGE_SIZE + i] = rand();
	assert_int_equal(copy_round(&m), 301);
	assert_same(&m);
	assert_true(m.a.bytes_out < 20000);
	end(&m);
}

static void pages_are_written_where_they_are_to_be(void **state)
{
	const struct guest_mem_range ranges[] = {
		{ .gpa = 0, .size = LOW_BYTES },
		{ .gpa = HIGH_GPA, .size = HIGH_BYTES },
	};
	struct error err = { 0 };
	struct moving m;
	int huge;

	begin(&m, 0);
	guest_mem_free(m.to);
	assert_int_equal(guest_mem_create(&m.to, GUEST_MEM_SHARED, ranges, 2, &err), 0);
	m.sink.mem = m.to;
	assert_int_equal(migrate_memory_write_to(&m.memory, 0, &err), -EBADMSG);
	/* Of huge pages that nobody has set aside: to touch one would be our end. */
	huge = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
	if (huge >= 0) {
		assert_int_equal(ftruncate(huge, 2 * MiB), 0);
		assert_int_equal(fcntl(huge, F_ADD_SEALS, F_SEAL_SHRINK), 0);
		assert_int_equal(migrate_memory_write_to(&m.memory, huge, &err), -EBADMSG);
		assert_non_null(strstr(err.msg, "ordinary pages"));
		close(huge);
	}
	assert_int_equal(migrate_memory_write_to(&m.memory, m.to->fd, &err), 0);
	memset(m.from->map, 0xaa, 16 * PAGE_SIZE);
	m.from->map[LOW_BYTES + 7] = 3;
	assert_int_equal(copy_round(&m), 17);
	assert_same(&m);
	collect(&m);
	copy_round(&m);
	assert_int_equal(guest_mem_discard(m.from, 4 * PAGE_SIZE, 2 * PAGE_SIZE), 0);
	assert_int_equal(fake_hv_write(m.hv, 7 * PAGE_SIZE, "z", 1), 0);
	assert_int_equal(collect(&m), 3);
	assert_int_equal(copy_round(&m), 1);
	assert_same(&m);
	/* Nothing of it went over the stream. */
	assert_int_equal(m.a.bytes_out, 0);
	end(&m);
}

static uint64_t page_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt;
}

/* A page fault for each page would cost more than to send it. */
static void pages_are_written_many_at_once(void **state)
{
	struct error err = { 0 };
	struct moving m;
	uint64_t faults;

	begin(&m, 0);
	guest_mem_free(m.to);
	assert_int_equal(guest_mem_create(&m.to, GUEST_MEM_SHARED, m.from->range,
					  m.from->num_ranges, &err),
			 0);
	assert_int_equal(migrate_memory_write_to(&m.memory, m.to->fd, &err), 0);
	memset(m.from->map, 0xaa, LOW_BYTES);
	faults = page_faults();
	assert_int_equal(copy_round(&m), LOW_BYTES / PAGE_SIZE);
	assert_true(page_faults() - faults < LOW_BYTES / PAGE_SIZE / 4);
	assert_same(&m);
	end(&m);
}

/* What the other side hands over it may have closed to writers: an error, and no end of ours. */
static void memory_that_cannot_be_written_is_said_to_be_so(void **state)
{
	int fd = memfd_create("closed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct error err = { 0 };
	struct moving m;

	begin(&m, 0);
	assert_int_equal(ftruncate(fd, (off_t)m.from->map_size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
	assert_int_equal(migrate_memory_write_to(&m.memory, fd, &err), 0);
	memset(m.from->map, 0xaa, PAGE_SIZE);
	assert_int_equal(migrate_memory_send(&m.memory, &m.a, NULL, NULL, &err), -EPERM);
	assert_non_null(strstr(err.msg, "the other side's memory"));
	end(&m);
	close(fd);
}

static int take(struct moving *m, uint64_t page, uint64_t present, uint64_t zero, size_t len)
{
	static uint8_t payload[MIGRATE_MAX_WINDOW];
	struct migrate_record rec = {
		.type = MIGRATE_PAGES,
		.page = page,
		.len = len,
		.payload = payload,
	};
	struct error err = { 0 };

	put_le64(payload, present);
	put_le64(payload + 64, zero);
	return migrate_sink_take(&m->sink, &rec, &err);
}

static void pages_that_make_no_sense_are_refused(void **state)
{
	struct moving m;
	uint64_t total;

	begin(&m, 0);
	total = m.to->map_size / PAGE_SIZE;
	assert_int_equal(take(&m, 0, 1, 0, 128 + PAGE_SIZE), 0);
	assert_int_equal(take(&m, 0, 1, 1, 128 + PAGE_SIZE), -EBADMSG);
	assert_int_equal(take(&m, 0, 1, 0, 128), -EBADMSG);
	assert_int_equal(take(&m, 0, 0, 0, 128 + PAGE_SIZE), -EBADMSG);
	assert_int_equal(take(&m, 0, 0, 0, 127), -EBADMSG);
	assert_int_equal(take(&m, total, 1, 0, 128 + PAGE_SIZE), -EBADMSG);
	assert_int_equal(take(&m, UINT64_MAX, 1, 0, 128 + PAGE_SIZE), -EBADMSG);
	assert_int_equal(take(&m, total - 1, 1, 0, 128 + PAGE_SIZE), 0);
	assert_int_equal(take(&m, total - 1, 2, 0, 128 + PAGE_SIZE), -EBADMSG);
	assert_int_equal(take(&m, total - 1, 0, 2, 128), -EBADMSG);
	end(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_pages_that_hold_something_are_sent),
		cmocka_unit_test(what_changes_comes_again_whoever_wrote_it),
		cmocka_unit_test(pages_that_became_empty_are_emptied),
		cmocka_unit_test(compressed_pages_are_the_same_and_fewer_bytes),
		cmocka_unit_test(pages_are_written_where_they_are_to_be),
		cmocka_unit_test(pages_are_written_many_at_once),
		cmocka_unit_test(memory_that_cannot_be_written_is_said_to_be_so),
		cmocka_unit_test(pages_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
