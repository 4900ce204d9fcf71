#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_mem.h>
#include <sys/mman.h>

#include "tests/unit/fake_driver.h"
#include "virtio/virtio_mem.h"

/* A region that no ring is in, of 100 blocks. */
#define GPA   0x900000ull
#define BLOCK 0x10000ull
#define NUM   100u

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
};

static struct virtio_device *create(struct fake_vm *vm)
{
	const struct virtio_mem_params mem = {
		.gpa = GPA, .region_bytes = NUM * BLOCK, .block_bytes = BLOCK,
		.requested_bytes = 10 * BLOCK, .turn_bytes = 2 * BLOCK,
	};
	struct virtio_params params;
	struct virtio_device *dev;

	fake_vm_init(vm, LOOP_AUTO);
	params = fake_vm_params(vm, "mem0");
	assert_int_equal(virtio_mem_create(&dev, &params, &mem, NULL), 0);
	return dev;
}

static void begin(struct fixture *f, const struct fake_driver_config *config)
{
	f->dev = create(&f->vm);
	fake_driver_init(&f->d, &f->vm, f->dev, config);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
}

/* Queue a request of @type; where its answer will be. */
static uint8_t *queue_it(struct fixture *f, uint16_t type, uint64_t addr, uint16_t num)
{
	struct fake_buf buf[2] = {
		{ fake_alloc(&f->vm, 24, 8), 24, false },
		{ fake_alloc(&f->vm, 10, 8), 10, true },
	};
	uint8_t *request = fake_ptr(&f->vm, buf[0].gpa, 24);

	put_le16(request, type);
	put_le64(request + 8, addr);
	put_le16(request + 16, num);
	assert_true(fake_add(&f->d, 0, buf, 2) >= 0);
	return fake_ptr(&f->vm, buf[1].gpa, 10);
}

/* And give it to the device. */
static uint8_t *send_it(struct fixture *f, uint16_t type, uint64_t addr, uint16_t num)
{
	uint8_t *answer = queue_it(f, type, addr, num);

	fake_kick(&f->d, 0);
	return answer;
}

/* The answer to @type of @num blocks from number @first on. */
static int ask_at(struct fixture *f, uint16_t type, uint64_t addr, uint16_t num)
{
	const uint8_t *answer = send_it(f, type, addr, num);
	struct fake_used used;

	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(used.len, 10);
	return get_le16(answer);
}

static int ask(struct fixture *f, uint16_t type, unsigned first, uint16_t num)
{
	return ask_at(f, type, GPA + first * BLOCK, num);
}

/* What the device says of the blocks. */
static int state_of(struct fixture *f, unsigned first, uint16_t num)
{
	const uint8_t *answer = send_it(f, VIRTIO_MEM_REQ_STATE, GPA + first * BLOCK, num);
	struct fake_used used;

	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(get_le16(answer), VIRTIO_MEM_RESP_ACK);
	return get_le16(answer + 8);
}

static struct virtio_mem_info info(const struct fixture *f)
{
	struct virtio_mem_info i;

	virtio_mem_info(f->dev, &i);
	return i;
}

static uint64_t plugged(const struct fixture *f)
{
	return info(f).plugged_bytes / BLOCK;
}

static unsigned resident(struct fixture *f, unsigned block)
{
	unsigned char pages[BLOCK >> PAGE_SHIFT];
	unsigned n = 0;

	assert_int_equal(mincore(fake_ptr(&f->vm, GPA + block * BLOCK, BLOCK), BLOCK, pages), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		n += pages[i] & 1;
	return n;
}

/* Pages of @num blocks from @first on that are told to have changed; forgets all that is told. */
static unsigned changed(struct fixture *f, unsigned first, unsigned num)
{
	const struct guest_mem_range *r = f->vm.mem->range;
	uint64_t at, words[NUM * (BLOCK >> PAGE_SHIFT) / 64 + 1];
	unsigned i = 0, n = 0;

	while (!range_inside(GPA, NUM * BLOCK, r[i].gpa, r[i].size))
		i++;
	assert_int_equal((GPA - r[i].gpa) / PAGE_SIZE % 64, 0);
	guest_mem_take_dirty(f->vm.mem, i, (GPA - r[i].gpa) / PAGE_SIZE / 64, ARRAY_SIZE(words),
			     words);
	for (unsigned k = 0; k < num * (BLOCK >> PAGE_SHIFT); k++) {
		at = first * (BLOCK >> PAGE_SHIFT) + k;
		n += words[at / 64] >> at % 64 & 1;
	}
	return n;
}

/* ---- promises ---- */

static void guest_plugs_what_it_was_asked_to(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct fixture f;

		begin(&f, &(struct fake_driver_config){ .transport = i & 1 ? FAKE_PCI : FAKE_MMIO,
							.packed = i & 2 });
		assert_true(info(&f).active);
		assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 0, 4), VIRTIO_MEM_RESP_ACK);
		assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 94, 6), VIRTIO_MEM_RESP_ACK);
		assert_int_equal(plugged(&f), 10);
		/* One more than that it may not have. */
		assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 50, 1), VIRTIO_MEM_RESP_NACK);
		assert_int_equal(plugged(&f), 10);
		assert_int_equal(state_of(&f, 0, 4), VIRTIO_MEM_STATE_PLUGGED);
		assert_int_equal(state_of(&f, 4, 90), VIRTIO_MEM_STATE_UNPLUGGED);
		assert_int_equal(state_of(&f, 3, 2), VIRTIO_MEM_STATE_MIXED);
		end(&f);
	}
}

static void what_is_unplugged_leaves_the_host_and_reads_as_zero(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .packed = true });
	assert_int_equal(guest_mem_track_dirty(f.vm.mem, true), 0);
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 1, 3), VIRTIO_MEM_RESP_ACK);
	memset(fake_ptr(&f.vm, GPA, 5 * BLOCK), 0x5a, 5 * BLOCK);
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_UNPLUG, 2, 2), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(resident(&f, 2) + resident(&f, 3), 0);
	assert_int_equal(resident(&f, 1), BLOCK >> PAGE_SHIFT);
	assert_int_equal(resident(&f, 4), BLOCK >> PAGE_SHIFT);
	/* Whoever saves or moves it hears that. */
	assert_int_equal(changed(&f, 2, 2), 2 * BLOCK >> PAGE_SHIFT);
	assert_int_equal(*(uint8_t *)fake_ptr(&f.vm, GPA + 2 * BLOCK, 1), 0);
	assert_int_equal(plugged(&f), 1);
	end(&f);
}

static void all_can_be_unplugged_at_once(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .packed = true });
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 0, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 62, 4), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 99, 1), VIRTIO_MEM_RESP_ACK);
	for (unsigned i = 0; i < NUM; i++)
		*(uint8_t *)fake_ptr(&f.vm, GPA + i * BLOCK, 1) = 1;
	assert_int_equal(ask_at(&f, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plugged(&f), 0);
	assert_int_equal(resident(&f, 0) + resident(&f, 62) + resident(&f, 65) + resident(&f, 99),
			 0);
	/* Nothing is there to be unplugged, and that is done. */
	assert_int_equal(ask_at(&f, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(info(&f).counters.unplug_alls, 2);
	end(&f);
}

/* Of ten requests that wait, two of a block each are carried out at a time. */
static void who_gives_much_back_lets_others_have_their_turn(void **state)
{
	uint64_t before, most = 0;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 0, 10), VIRTIO_MEM_RESP_ACK);
	for (unsigned i = 0; i < 10; i++)
		queue_it(&f, VIRTIO_MEM_REQ_UNPLUG, GPA + i * BLOCK, 1);
	fake_kick(&f.d, 0);
	while (plugged(&f)) {
		before = plugged(&f);
		loop_run_once(f.vm.loop, NSEC_PER_SEC);
		most = MAX(most, before - plugged(&f));
	}
	assert_int_equal(most, 2);
	end(&f);
}

static void which_pages_are_plugged_is_told(void **state)
{
	const uint64_t num = BLOCK >> PAGE_SHIFT;
	uint64_t pages[(NUM * 16 + 5) / 64 + 1] = { 0 };
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 1, 2), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 99, 1), VIRTIO_MEM_RESP_ACK);
	virtio_mem_mark_plugged(f.dev, pages, 5);
	for (uint64_t page = 0; page < NUM * num; page++) {
		uint64_t block = page / num;
		bool told = pages[(5 + page) / 64] >> (5 + page) % 64 & 1;

		assert_int_equal(told, block == 1 || block == 2 || block == 99);
	}
	end(&f);
}

static void request_for_what_is_not_so_is_an_error(void **state)
{
	static const struct {
		uint16_t type;
		uint64_t addr;
		uint16_t num;
	} bad[] = {
		{ VIRTIO_MEM_REQ_PLUG, GPA + 5 * BLOCK, 2 },   /* half of it is plugged */
		{ VIRTIO_MEM_REQ_UNPLUG, GPA + 5 * BLOCK, 2 }, /* and half is not */
		{ VIRTIO_MEM_REQ_UNPLUG, GPA + 9 * BLOCK, 1 },
		{ VIRTIO_MEM_REQ_PLUG, GPA, 0 },
		{ VIRTIO_MEM_REQ_PLUG, GPA + 1, 1 },
		{ VIRTIO_MEM_REQ_PLUG, GPA - BLOCK, 1 },
		{ VIRTIO_MEM_REQ_PLUG, GPA + (NUM - 1) * BLOCK, 2 },
		{ VIRTIO_MEM_REQ_UNPLUG, GPA + NUM * BLOCK, 1 },
		{ VIRTIO_MEM_REQ_STATE, GPA + NUM * BLOCK, 1 },
		{ VIRTIO_MEM_REQ_STATE, 0, 1 },
		{ VIRTIO_MEM_REQ_STATE, UINT64_MAX - BLOCK + 1 + GPA % BLOCK, UINT16_MAX },
		{ 4, GPA, 1 },
		{ UINT16_MAX, GPA, 1 },
	};
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .packed = true });
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 6, 3), VIRTIO_MEM_RESP_ACK);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(ask_at(&f, bad[i].type, bad[i].addr, bad[i].num),
				 VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(plugged(&f), 3);
	assert_false(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(info(&f).counters.plugs_refused, 5);
	assert_int_equal(info(&f).counters.unplugs_refused, 3);
	assert_int_equal(info(&f).counters.states_refused, 3);
	end(&f);
}

static void request_without_its_parts_fails_the_device(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct fixture f;
		struct fake_buf buf[2];

		begin(&f, &(struct fake_driver_config){ .packed = true });
		buf[0] = (struct fake_buf){ fake_alloc(&f.vm, 24, 8), i ? 23 : 24, false };
		buf[1] = (struct fake_buf){ fake_alloc(&f.vm, 16, 8), i ? 10 : 9, true };
		put_le16(fake_ptr(&f.vm, buf[0].gpa, 2), VIRTIO_MEM_REQ_UNPLUG_ALL);
		assert_true(fake_add(&f.d, 0, buf, 2) >= 0);
		fake_kick(&f.d, 0);
		fake_run(&f.vm);
		assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		end(&f);
	}
}

static void host_asks_and_the_driver_is_told(void **state)
{
	struct virtio_mem_config c;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .transport = FAKE_PCI, .packed = true });
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 0, 10), VIRTIO_MEM_RESP_ACK);
	fake_config_interrupts(&f.d);
	assert_int_equal(virtio_mem_request(f.dev, 12 * BLOCK), 0);
	assert_int_equal(fake_config_interrupts(&f.d), 1);
	fake_config_read(&f.d, 0, &c, sizeof(c));
	assert_int_equal(c.addr, GPA);
	assert_int_equal(c.block_size, BLOCK);
	assert_int_equal(c.region_size, NUM * BLOCK);
	assert_int_equal(c.usable_region_size, NUM * BLOCK);
	assert_int_equal(c.requested_size, 12 * BLOCK);
	assert_int_equal(c.plugged_size, 10 * BLOCK);
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 10, 2), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(virtio_mem_request(f.dev, BLOCK + 1), -EINVAL);
	assert_int_equal(virtio_mem_request(f.dev, (NUM + 1) * BLOCK), -ERANGE);
	/* Less is for the driver to reach, and until then there is no more. */
	assert_int_equal(virtio_mem_request(f.dev, 0), 0);
	assert_int_equal(plugged(&f), 12);
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 20, 1), VIRTIO_MEM_RESP_NACK);
	end(&f);
}

static void what_is_plugged_outlives_the_driver(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .packed = true });
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 0, 3), VIRTIO_MEM_RESP_ACK);
	fake_reset(&f.d);
	assert_false(info(&f).active);
	assert_int_equal(plugged(&f), 3);
	fake_driver_probe(&f.d);
	assert_int_equal(state_of(&f, 0, 3), VIRTIO_MEM_STATE_PLUGGED);
	end(&f);
}

/* ---- a saved device ---- */

struct state {
	struct state_writer w;
	struct state_reader r;
};

static void put_state(struct state *s, uint64_t gpa, uint64_t requested, uint64_t last)
{
	size_t pos = 0;

	state_writer_init(&s->w);
	state_begin(&s->w, "mem0", 0, 1);
	state_put_u64(&s->w, gpa);
	state_put_u64(&s->w, NUM * BLOCK);
	state_put_u64(&s->w, BLOCK);
	state_put_u64(&s->w, requested);
	state_put_u64(&s->w, 5);
	state_put_u64(&s->w, last);
	state_end(&s->w);
	state_seal(&s->w);
	assert_int_equal(state_next(s->w.buf, s->w.len, &pos, &s->r, NULL), 1);
}

static void loaded_state_is_checked(void **state)
{
	static const struct {
		uint64_t gpa, requested, last;
	} bad[] = {
		{ GPA + BLOCK, 0, 0 },
		{ GPA, (NUM + 1) * BLOCK, 0 },
		{ GPA, 1, 0 },
		{ GPA, 0, 1ull << (NUM - 64) },
		{ GPA, 0, 1ull << 63 },
	};
	struct fixture f;
	struct state s;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		put_state(&s, bad[i].gpa, bad[i].requested, bad[i].last);
		assert_int_equal(f.dev->ops->load(f.dev, &s.r), -EBADMSG);
		state_writer_done(&s.w);
	}
	put_state(&s, GPA, 20 * BLOCK, 1ull << (NUM - 65));
	assert_int_equal(f.dev->ops->load(f.dev, &s.r), 0);
	state_writer_done(&s.w);
	fake_driver_ok(&f.d);
	assert_int_equal(plugged(&f), 3);
	assert_int_equal(info(&f).requested_bytes, 20 * BLOCK);
	assert_int_equal(state_of(&f, 0, 1), VIRTIO_MEM_STATE_PLUGGED);
	assert_int_equal(state_of(&f, 1, 1), VIRTIO_MEM_STATE_UNPLUGGED);
	assert_int_equal(state_of(&f, NUM - 1, 1), VIRTIO_MEM_STATE_PLUGGED);
	end(&f);
}

static void what_was_plugged_is_saved(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct fixture f;
	size_t pos = 0;

	begin(&f, &(struct fake_driver_config){ .packed = true });
	assert_int_equal(ask(&f, VIRTIO_MEM_REQ_PLUG, 60, 9), VIRTIO_MEM_RESP_ACK);
	state_writer_init(&w);
	state_begin(&w, "mem0", 0, 1);
	f.dev->ops->save(f.dev, &w);
	state_end(&w);
	state_seal(&w);
	assert_int_equal(ask_at(&f, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(virtio_mem_request(f.dev, 0), 0);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(f.dev->ops->load(f.dev, &r), 0);
	assert_int_equal(info(&f).requested_bytes, 10 * BLOCK);
	assert_int_equal(plugged(&f), 9);
	assert_int_equal(state_of(&f, 60, 9), VIRTIO_MEM_STATE_PLUGGED);
	state_writer_done(&w);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_plugs_what_it_was_asked_to),
		cmocka_unit_test(what_is_unplugged_leaves_the_host_and_reads_as_zero),
		cmocka_unit_test(all_can_be_unplugged_at_once),
		cmocka_unit_test(who_gives_much_back_lets_others_have_their_turn),
		cmocka_unit_test(which_pages_are_plugged_is_told),
		cmocka_unit_test(request_for_what_is_not_so_is_an_error),
		cmocka_unit_test(request_without_its_parts_fails_the_device),
		cmocka_unit_test(host_asks_and_the_driver_is_told),
		cmocka_unit_test(what_is_plugged_outlives_the_driver),
		cmocka_unit_test(loaded_state_is_checked),
		cmocka_unit_test(what_was_plugged_is_saved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
