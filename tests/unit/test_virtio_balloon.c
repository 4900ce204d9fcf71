#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_driver.h"
#include "virtio/virtio_balloon.h"

enum { INFLATE, DEFLATE, STATS, REPORTING };

#define STATS_VQ (1ull << VIRTIO_BALLOON_F_STATS_VQ)
#define POISON	 (1ull << VIRTIO_BALLOON_F_PAGE_POISON)
#define REPORTS	 (1ull << VIRTIO_BALLOON_F_REPORTING)
#define HINTS	 (1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT)

/* Guest memory that no ring is in. */
#define FREE_GPA 0xa00000ull

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
};

static void begin(struct fixture *f, uint64_t features)
{
	struct virtio_balloon_params balloon = { .target_bytes = 1 * MiB,
						 .reporting = true,
						 .hinting = true };
	struct fake_driver_config config = { .features = features, .packed = true };
	struct virtio_params params;
	struct virtio_device *dev;

	fake_vm_init(&f->vm, LOOP_AUTO);
	params = fake_vm_params(&f->vm, "balloon0");
	assert_int_equal(virtio_balloon_create(&dev, &params, &balloon, NULL), 0);
	fake_driver_init(&f->d, &f->vm, dev, &config);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
}

static void touch(struct fixture *f, uint64_t gpa, uint64_t len)
{
	memset(fake_ptr(&f->vm, gpa, len), 0x5a, len);
}

/* Pages of [gpa, gpa+len) that the host holds. */
static unsigned resident(struct fixture *f, uint64_t gpa, uint64_t len)
{
	unsigned char pages[512];
	unsigned n = 0;

	assert_true(len >> PAGE_SHIFT <= sizeof(pages));
	assert_int_equal(mincore(fake_ptr(&f->vm, gpa, len), len, pages), 0);
	for (unsigned i = 0; i < len >> PAGE_SHIFT; i++)
		n += pages[i] & 1;
	return n;
}

static void give(struct fixture *f, unsigned queue, const uint32_t *pages, unsigned num)
{
	struct fake_buf buf = { fake_alloc(&f->vm, num * 4, 4), num * 4, false };

	memcpy(fake_ptr(&f->vm, buf.gpa, buf.len), pages, buf.len);
	assert_true(fake_add(&f->d, queue, &buf, 1) >= 0);
	fake_kick(&f->d, queue);
}

static bool needs_reset(struct fixture *f)
{
	fake_run(&f->vm);
	return fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static struct virtio_balloon_info info(struct fixture *f)
{
	struct virtio_balloon_info i;

	virtio_balloon_info(f->d.dev, &i);
	return i;
}

static void inflated_pages_leave_the_host_and_read_as_zero(void **state)
{
	uint32_t pages[64];
	struct fake_used used;
	struct fixture f;

	begin(&f, STATS_VQ);
	touch(&f, FREE_GPA, 64 * PAGE_SIZE);
	/* Half upwards, half downwards, one of them alone. */
	for (unsigned i = 0; i < 32; i++)
		pages[i] = (FREE_GPA >> PAGE_SHIFT) + i;
	for (unsigned i = 32; i < 63; i++)
		pages[i] = (FREE_GPA >> PAGE_SHIFT) + 32 + (62 - i);
	pages[63] = (FREE_GPA >> PAGE_SHIFT) + 63;
	give(&f, INFLATE, pages, 64);
	assert_true(fake_wait_used(&f.d, INFLATE, &used));
	assert_int_equal(used.len, 0);
	assert_int_equal(resident(&f, FREE_GPA, 64 * PAGE_SIZE), 0);
	assert_int_equal(*(uint8_t *)fake_ptr(&f.vm, FREE_GPA, 1), 0);
	assert_int_equal(info(&f).counters.inflated, 64);
	give(&f, DEFLATE, pages, 64);
	assert_true(fake_wait_used(&f.d, DEFLATE, &used));
	assert_int_equal(info(&f).counters.deflated, 64);
	end(&f);
}

static void pages_beside_those_given_are_untouched(void **state)
{
	uint32_t page = (FREE_GPA >> PAGE_SHIFT) + 1;
	struct fake_used used;
	struct fixture f;

	begin(&f, 0);
	touch(&f, FREE_GPA, 3 * PAGE_SIZE);
	give(&f, INFLATE, &page, 1);
	assert_true(fake_wait_used(&f.d, INFLATE, &used));
	assert_int_equal(resident(&f, FREE_GPA, 3 * PAGE_SIZE), 2);
	end(&f);
}

static void page_that_is_no_ram_fails_the_device(void **state)
{
	static const uint32_t bad[] = { FAKE_RAM_END >> PAGE_SHIFT, UINT32_MAX,
					FAKE_MMIO_BASE >> PAGE_SHIFT };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		uint32_t pages[2] = { FREE_GPA >> PAGE_SHIFT, bad[i] };
		struct fixture f;

		begin(&f, 0);
		give(&f, INFLATE, pages, 2);
		assert_true(needs_reset(&f));
		end(&f);
	}
}

/*
 * Locked in memory: the kernel refuses, and the guest does as if it had not asked. By its number,
 * for a sanitizer locks nothing.
 */
static void pages_that_the_host_keeps_are_no_fault_of_the_guests(void **state)
{
	uint32_t pages[2] = { FREE_GPA >> PAGE_SHIFT, (FREE_GPA >> PAGE_SHIFT) + 1 };
	struct fake_used used;
	struct fixture f;

	begin(&f, 0);
	touch(&f, FREE_GPA, 2 * PAGE_SIZE);
	if (syscall(SYS_mlock, fake_ptr(&f.vm, FREE_GPA, PAGE_SIZE), PAGE_SIZE) < 0) {
		end(&f);
		skip();
	}
	give(&f, INFLATE, pages, 2);
	assert_true(fake_wait_used(&f.d, INFLATE, &used));
	assert_false(needs_reset(&f));
	assert_int_equal(info(&f).counters.refused, 2);
	assert_int_equal(info(&f).counters.inflated, 0);
	end(&f);
}

static void more_pages_than_anyone_sends_fail_the_device(void **state)
{
	struct fixture f;
	struct fake_buf buf;

	begin(&f, 0);
	buf = (struct fake_buf){ fake_alloc(&f.vm, 0x10000, 4), 0x10000, false };
	fake_add(&f.d, INFLATE, &buf, 1);
	fake_kick(&f.d, INFLATE);
	assert_true(needs_reset(&f));
	end(&f);
}

static void target_is_shown_and_announced(void **state)
{
	struct virtio_balloon_config config;
	struct fixture f;

	begin(&f, 0);
	fake_config_read(&f.d, 0, &config, sizeof(config));
	assert_int_equal(config.num_pages, 256);
	fake_config_interrupts(&f.d);
	assert_int_equal(virtio_balloon_set_target(f.d.dev, 2 * MiB), 0);
	assert_int_equal(fake_config_interrupts(&f.d), 1);
	fake_config_read(&f.d, 0, &config, sizeof(config));
	assert_int_equal(config.num_pages, 512);
	assert_int_equal(virtio_balloon_set_target(f.d.dev, 1 * GiB), -ERANGE);
	assert_int_equal(info(&f).target_bytes, 2 * MiB);
	end(&f);
}

static void driver_writes_what_is_its_own(void **state)
{
	struct virtio_balloon_config config = { 7, 8, { 9 }, 10 };
	struct fixture f;

	begin(&f, 0);
	fake_config_write(&f.d, 0, &config, 4);
	fake_config_write(&f.d, 4, &config.actual, 4);
	fake_config_write(&f.d, 8, &config.free_page_hint_cmd_id, 4);
	fake_config_write(&f.d, 12, &config.poison_val, 4);
	fake_config_read(&f.d, 0, &config, sizeof(config));
	assert_int_equal(config.num_pages, 256);
	assert_int_equal(config.actual, 8);
	assert_int_equal(config.free_page_hint_cmd_id, 0);
	assert_int_equal(config.poison_val, 10);
	assert_int_equal(info(&f).actual_bytes, 8 * PAGE_SIZE);
	end(&f);
}

/* ---- free page reporting ---- */

static void report(struct fixture *f, unsigned queue, uint64_t gpa, uint32_t len)
{
	struct fake_buf buf = { gpa, len, true };
	struct fake_used used;

	assert_true(fake_add(&f->d, queue, &buf, 1) >= 0);
	fake_kick(&f->d, queue);
	assert_true(fake_wait_used(&f->d, queue, &used));
}

static void reported_pages_leave_the_host(void **state)
{
	struct fixture f;

	begin(&f, STATS_VQ | REPORTS);
	touch(&f, FREE_GPA, 256 * PAGE_SIZE);
	report(&f, REPORTING, FREE_GPA, 256 * PAGE_SIZE);
	assert_int_equal(resident(&f, FREE_GPA, 256 * PAGE_SIZE), 0);
	assert_int_equal(info(&f).counters.reported, 256);
	end(&f);
}

static void reporting_is_found_where_the_driver_counts_it(void **state)
{
	struct fixture f;

	/* Without statistics it is the third queue. */
	begin(&f, REPORTS);
	touch(&f, FREE_GPA, PAGE_SIZE);
	report(&f, STATS, FREE_GPA, PAGE_SIZE);
	assert_int_equal(resident(&f, FREE_GPA, PAGE_SIZE), 0);
	end(&f);
}

static void poisoned_free_pages_keep_their_poison(void **state)
{
	uint32_t poison = 0xaaaaaaaa;
	struct fixture f;

	begin(&f, STATS_VQ | REPORTS | POISON);
	fake_config_write(&f.d, 12, &poison, 4);
	touch(&f, FREE_GPA, PAGE_SIZE);
	report(&f, REPORTING, FREE_GPA, PAGE_SIZE);
	assert_int_equal(*(uint8_t *)fake_ptr(&f.vm, FREE_GPA, 1), 0x5a);
	/* Zero is what they are after it. */
	poison = 0;
	fake_config_write(&f.d, 12, &poison, 4);
	report(&f, REPORTING, FREE_GPA, PAGE_SIZE);
	assert_int_equal(resident(&f, FREE_GPA, PAGE_SIZE), 0);
	end(&f);
}

/* ---- free page hints: between statistics and reports ---- */

#define HINTING REPORTING

/* The driver says which run what comes is of. */
static void say(struct fixture *f, uint32_t command)
{
	struct fake_buf buf = { fake_alloc(&f->vm, 4, 4), 4, false };
	struct fake_used used;

	*(uint32_t *)fake_ptr(&f->vm, buf.gpa, 4) = htole32(command);
	assert_true(fake_add(&f->d, HINTING, &buf, 1) >= 0);
	fake_kick(&f->d, HINTING);
	assert_true(fake_wait_used(&f->d, HINTING, &used));
	assert_int_equal(used.len, 0);
}

/* The run that the driver sees it is asked for. */
static uint32_t command(struct fixture *f)
{
	struct virtio_balloon_config config;

	fake_config_read(&f->d, 0, &config, sizeof(config));
	return le32toh(config.free_page_hint_cmd_id);
}

static void hinted_pages_leave_the_host(void **state)
{
	struct fixture f;

	begin(&f, STATS_VQ | HINTS | REPORTS);
	assert_int_equal(command(&f), VIRTIO_BALLOON_CMD_ID_STOP);
	fake_config_interrupts(&f.d);
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), 0);
	assert_int_equal(fake_config_interrupts(&f.d), 1);
	assert_int_equal(command(&f), 2);
	assert_false(info(&f).hint_answered);
	touch(&f, FREE_GPA, 64 * PAGE_SIZE);
	say(&f, 2);
	report(&f, HINTING, FREE_GPA, 32 * PAGE_SIZE);
	assert_int_equal(resident(&f, FREE_GPA, 64 * PAGE_SIZE), 32);
	assert_int_equal(info(&f).counters.hinted, 32);
	assert_int_equal(info(&f).hint_answer, 2);
	/* It has told of all, and may have them again. */
	say(&f, VIRTIO_BALLOON_CMD_ID_STOP);
	assert_int_equal(command(&f), VIRTIO_BALLOON_CMD_ID_DONE);
	assert_true(fake_config_interrupts(&f.d));
	/* Reports are one queue on. */
	report(&f, REPORTING + 1, FREE_GPA, 64 * PAGE_SIZE);
	assert_int_equal(resident(&f, FREE_GPA, 64 * PAGE_SIZE), 0);
	end(&f);
}

static void hints_of_no_run_at_hand_change_nothing(void **state)
{
	struct fixture f;

	begin(&f, STATS_VQ | HINTS);
	touch(&f, FREE_GPA, PAGE_SIZE);
	report(&f, HINTING, FREE_GPA, PAGE_SIZE); /* nobody asked */
	say(&f, VIRTIO_BALLOON_CMD_ID_STOP);
	report(&f, HINTING, FREE_GPA, PAGE_SIZE); /* that is no run */
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), 0);
	report(&f, HINTING, FREE_GPA, PAGE_SIZE); /* not begun */
	say(&f, 7);
	report(&f, HINTING, FREE_GPA, PAGE_SIZE); /* of another */
	say(&f, 2);
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), 0);
	report(&f, HINTING, FREE_GPA, PAGE_SIZE); /* of an earlier one */
	assert_int_equal(virtio_balloon_stop_hints(f.d.dev), 0);
	say(&f, 3);
	report(&f, HINTING, FREE_GPA, PAGE_SIZE); /* too late */
	assert_int_equal(resident(&f, FREE_GPA, PAGE_SIZE), 1);
	assert_int_equal(info(&f).counters.hinted, 0);
	assert_false(needs_reset(&f));
	end(&f);
}

static void end_of_an_earlier_run_ends_no_later_one(void **state)
{
	struct fixture f;

	begin(&f, STATS_VQ | HINTS);
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), 0);
	say(&f, 2);
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), 0);
	say(&f, VIRTIO_BALLOON_CMD_ID_STOP);
	assert_int_equal(command(&f), 3);
	say(&f, 3);
	say(&f, VIRTIO_BALLOON_CMD_ID_STOP);
	assert_int_equal(command(&f), VIRTIO_BALLOON_CMD_ID_DONE);
	end(&f);
}

static void run_that_is_not_acknowledged_waits_for_its_stop(void **state)
{
	struct fixture f;

	begin(&f, STATS_VQ | HINTS);
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, false), 0);
	say(&f, 2);
	say(&f, VIRTIO_BALLOON_CMD_ID_STOP);
	assert_int_equal(command(&f), 2);
	assert_int_equal(virtio_balloon_stop_hints(f.d.dev), 0);
	assert_int_equal(command(&f), VIRTIO_BALLOON_CMD_ID_DONE);
	end(&f);
}

static void hinted_pages_keep_their_poison(void **state)
{
	uint32_t poison = 0xaaaaaaaa;
	struct fixture f;

	begin(&f, STATS_VQ | HINTS | POISON);
	fake_config_write(&f.d, 12, &poison, 4);
	touch(&f, FREE_GPA, PAGE_SIZE);
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), 0);
	say(&f, 2);
	report(&f, HINTING, FREE_GPA, PAGE_SIZE);
	assert_int_equal(resident(&f, FREE_GPA, PAGE_SIZE), 1);
	end(&f);
}

static void driver_without_hints_is_not_asked(void **state)
{
	struct fixture f;

	begin(&f, STATS_VQ);
	assert_true(virtio_balloon_has_hints(f.d.dev));
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), -ENOTCONN);
	assert_int_equal(virtio_balloon_stop_hints(f.d.dev), -ENOTCONN);
	end(&f);
}

/* The guest holds pages of a run that nobody knows of where it goes on. */
static void run_is_over_when_the_guest_goes_on_elsewhere(void **state)
{
	struct state_writer w;
	struct fixture f;

	begin(&f, STATS_VQ | HINTS);
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, false), 0);
	say(&f, 2);
	fake_section_begin(&w);
	f.d.dev->ops->save(f.d.dev, &w);
	assert_int_equal(fake_section_load(f.d.dev, &w), 0);
	fake_config_interrupts(&f.d);
	f.d.dev->ops->identity_changed(f.d.dev);
	assert_int_equal(fake_config_interrupts(&f.d), 1);
	assert_int_equal(command(&f), VIRTIO_BALLOON_CMD_ID_DONE);
	/* A number that the driver has had would be no news to it. */
	assert_int_equal(virtio_balloon_start_hints(f.d.dev, true), 0);
	assert_int_equal(command(&f), 3);
	end(&f);
}

/* ---- statistics ---- */

static void put_stats(struct fixture *f, uint64_t free_bytes)
{
	struct virtio_balloon_stat s[3] = {
		{ VIRTIO_BALLOON_S_MEMFREE, free_bytes },
		{ 999, 1 }, /* of a later version */
		{ VIRTIO_BALLOON_S_MEMTOT, 16 * MiB },
	};
	struct fake_buf buf = { fake_alloc(&f->vm, sizeof(s), 8), sizeof(s), false };

	memcpy(fake_ptr(&f->vm, buf.gpa, buf.len), s, sizeof(s));
	assert_true(fake_add(&f->d, STATS, &buf, 1) >= 0);
	fake_kick(&f->d, STATS);
	fake_run(&f->vm);
}

static void statistics_are_told_when_asked_for(void **state)
{
	struct fake_used used;
	struct fixture f;

	begin(&f, STATS_VQ);
	assert_int_equal(virtio_balloon_ask_stats(f.d.dev), -ENODATA);
	put_stats(&f, 1000);
	assert_false(fake_take_used(&f.d, STATS, &used));
	assert_int_equal(info(&f).known,
			 1 << VIRTIO_BALLOON_S_MEMFREE | 1 << VIRTIO_BALLOON_S_MEMTOT);
	assert_int_equal(info(&f).told, 1);
	assert_int_equal(virtio_balloon_ask_stats(f.d.dev), 0);
	assert_int_equal(virtio_balloon_ask_stats(f.d.dev), -ENODATA);
	assert_true(fake_wait_used(&f.d, STATS, &used));
	assert_int_equal(info(&f).told, 1);
	put_stats(&f, 2000);
	assert_int_equal(info(&f).told, 2);
	assert_int_equal(info(&f).stat[VIRTIO_BALLOON_S_MEMFREE], 2000);
	fake_reset(&f.d);
	assert_int_equal(info(&f).known, 0);
	end(&f);
}

static void second_statistics_buffer_returns_the_first(void **state)
{
	struct fake_used used;
	struct fixture f;

	begin(&f, STATS_VQ);
	put_stats(&f, 1);
	put_stats(&f, 2);
	assert_true(fake_wait_used(&f.d, STATS, &used));
	assert_false(fake_take_used(&f.d, STATS, &used));
	assert_int_equal(info(&f).stat[VIRTIO_BALLOON_S_MEMFREE], 2);
	end(&f);
}

/* ---- state ---- */

static void pause_gives_the_statistics_buffer_back_for_a_while(void **state)
{
	struct fake_used used;
	struct fixture f;

	begin(&f, STATS_VQ);
	put_stats(&f, 1);
	virtio_pause(f.d.dev, NULL, NULL);
	fake_run(&f.vm);
	assert_int_equal(f.d.dev->queue[STATS].inflight, 0);
	virtio_resume(f.d.dev);
	fake_run(&f.vm);
	assert_false(fake_take_used(&f.d, STATS, &used));
	assert_int_equal(virtio_balloon_ask_stats(f.d.dev), 0);
	assert_true(fake_wait_used(&f.d, STATS, &used));
	end(&f);
}

static void loaded_state_is_checked(void **state)
{
	struct state_writer w;
	struct fixture f;

	begin(&f, 0);
	fake_section_begin(&w);
	f.d.dev->ops->save(f.d.dev, &w);
	assert_int_equal(fake_section_load(f.d.dev, &w), 0);

	fake_section_begin(&w);
	state_put_u32(&w, UINT32_MAX); /* pages; there are fewer */
	state_put_u32(&w, 0);
	state_put_u32(&w, 0);
	assert_int_equal(fake_section_load(f.d.dev, &w), -EBADMSG);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inflated_pages_leave_the_host_and_read_as_zero),
		cmocka_unit_test(pages_beside_those_given_are_untouched),
		cmocka_unit_test(page_that_is_no_ram_fails_the_device),
		cmocka_unit_test(pages_that_the_host_keeps_are_no_fault_of_the_guests),
		cmocka_unit_test(more_pages_than_anyone_sends_fail_the_device),
		cmocka_unit_test(target_is_shown_and_announced),
		cmocka_unit_test(driver_writes_what_is_its_own),
		cmocka_unit_test(reported_pages_leave_the_host),
		cmocka_unit_test(reporting_is_found_where_the_driver_counts_it),
		cmocka_unit_test(poisoned_free_pages_keep_their_poison),
		cmocka_unit_test(hinted_pages_leave_the_host),
		cmocka_unit_test(hints_of_no_run_at_hand_change_nothing),
		cmocka_unit_test(end_of_an_earlier_run_ends_no_later_one),
		cmocka_unit_test(run_that_is_not_acknowledged_waits_for_its_stop),
		cmocka_unit_test(hinted_pages_keep_their_poison),
		cmocka_unit_test(driver_without_hints_is_not_asked),
		cmocka_unit_test(run_is_over_when_the_guest_goes_on_elsewhere),
		cmocka_unit_test(statistics_are_told_when_asked_for),
		cmocka_unit_test(second_statistics_buffer_returns_the_first),
		cmocka_unit_test(pause_gives_the_statistics_buffer_back_for_a_while),
		cmocka_unit_test(loaded_state_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
