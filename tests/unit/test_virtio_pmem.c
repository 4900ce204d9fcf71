#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_pmem.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

#define GPA    0x500000000ull
#define FAILED UINT32_MAX

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
	struct virtio_pmem_area area;
	int fd; /* a second descriptor of the file: what a program on the host sees */
};

static int new_file(uint64_t bytes)
{
	int fd = memfd_create("pmem", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

static void begin_with(struct fixture *f, const struct fake_driver_config *config, uint64_t bytes,
		       enum loop_backend backend)
{
	struct virtio_params params;

	fake_vm_init(&f->vm, backend);
	params = fake_vm_params(&f->vm, "pmem0");
	f->fd = new_file(bytes);
	assert_int_equal(virtio_pmem_create(&f->dev, &params, dup(f->fd), GPA, false, NULL), 0);
	virtio_pmem_area(f->dev, &f->area);
	fake_driver_init(&f->d, &f->vm, f->dev, config);
}

static void begin(struct fixture *f, const struct fake_driver_config *config)
{
	begin_with(f, config, 4 * MiB, LOOP_AUTO);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	close(f->fd);
}

/* Queue a request of @type; where its answer will be. */
static uint32_t *ask(struct fixture *f, uint32_t type)
{
	struct fake_buf buf[2] = {
		{ fake_alloc(&f->vm, 4, 4), 4, false },
		{ fake_alloc(&f->vm, 4, 4), 4, true },
	};
	uint32_t *answer = fake_ptr(&f->vm, buf[1].gpa, 4);

	put_le32(fake_ptr(&f->vm, buf[0].gpa, 4), type);
	*answer = 0xdeadbeef;
	assert_true(fake_add(&f->d, 0, buf, 2) >= 0);
	return answer;
}

/* ---- requests ---- */

static void flush_answers(enum loop_backend backend, const struct fake_driver_config *config)
{
	struct fake_used used;
	struct fixture f;
	uint32_t *answer;

	begin_with(&f, config, 4 * MiB, backend);
	answer = ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.len, 4);
	assert_int_equal(get_le32(answer), 0);
	assert_int_equal(fake_counter(f.dev, "flushes"), 1);
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	end(&f);
}

static void flush_is_answered_on_every_ring_and_loop(void **state)
{
	static const enum loop_backend backends[] = { LOOP_AUTO, LOOP_EPOLL };

	for (unsigned i = 0; i < ARRAY_SIZE(backends); i++)
		for (unsigned bits = 0; bits < 8; bits++)
			flush_answers(backends[i], &(struct fake_driver_config){
							   .transport = bits & 1,
							   .packed = bits & 2,
							   .event_idx = bits & 4,
						   });
}

static void requests_at_once_share_a_flush(void **state)
{
	struct rate_limits limits = { .ops = { .per_second = 1, .burst = 1 } };
	uint32_t *answer[8];
	struct fake_used used;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	/* Only one may go: what is answered was answered by that one. */
	virtio_pmem_limit(f.dev, &limits);
	for (unsigned i = 0; i < ARRAY_SIZE(answer); i++)
		answer[i] = ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
	fake_kick(&f.d, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(answer); i++) {
		assert_true(fake_wait_used(&f.d, 0, &used));
		assert_int_equal(get_le32(answer[i]), 0);
	}
	assert_int_equal(fake_counter(f.dev, "throttled"), 0);
	end(&f);
}

static void unknown_request_fails_and_the_next_is_served(void **state)
{
	struct fake_used used;
	struct fixture f;
	uint32_t *bad, *good;

	begin(&f, &(struct fake_driver_config){ .event_idx = true });
	bad = ask(&f, 7);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(get_le32(bad), FAILED);
	good = ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
	assert_true(fake_kick(&f.d, 0));
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(get_le32(good), 0);
	assert_int_equal(fake_counter(f.dev, "failed"), 1);
	end(&f);
}

static void request_without_its_parts_is_returned_unanswered(void **state)
{
	struct fake_buf in, out, small[2];
	struct fake_used used;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	out = (struct fake_buf){ fake_alloc(&f.vm, 4, 4), 4, false };
	in = (struct fake_buf){ fake_alloc(&f.vm, 4, 4), 4, true };
	small[0] = out;
	small[1] = (struct fake_buf){ in.gpa, 2, true };
	fake_add(&f.d, 0, &out, 1);
	fake_add(&f.d, 0, small, 2);
	fake_add(&f.d, 0, &in, 1);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.len, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.len, 2);
	/* That one has a place for an answer: it hears that there was no request. */
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.len, 4);
	assert_int_equal(get_le32(fake_ptr(&f.vm, in.gpa, 4)), FAILED);
	assert_int_equal(fake_counter(f.dev, "failed"), 3);
	end(&f);
}

static void request_in_single_bytes_is_understood(void **state)
{
	struct fake_buf buf[8];
	struct fake_used used;
	struct fixture f;
	uint8_t answer[4] = { 0 };

	begin(&f, &(struct fake_driver_config){ .indirect = true });
	for (unsigned i = 0; i < 8; i++) {
		buf[i] = (struct fake_buf){ fake_alloc(&f.vm, 1, 1), 1, i >= 4 };
		*(uint8_t *)fake_ptr(&f.vm, buf[i].gpa, 1) = i >= 4 ? 0xee : 0;
	}
	fake_add(&f.d, 0, buf, 8);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	for (unsigned i = 0; i < 4; i++)
		answer[i] = *(uint8_t *)fake_ptr(&f.vm, buf[4 + i].gpa, 1);
	assert_int_equal(get_le32(answer), 0);
	end(&f);
}

static void buffer_inside_the_file_is_refused(void **state)
{
	struct fake_buf buf[2];
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	buf[0] = (struct fake_buf){ fake_alloc(&f.vm, 4, 4), 4, false };
	buf[1] = (struct fake_buf){ GPA, 4, true };
	fake_add(&f.d, 0, buf, 2);
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	assert_int_equal(f.dev->stats.failures, 1);
	end(&f);
}

static void a_rate_limit_holds_and_can_be_lifted(void **state)
{
	struct rate_limits limits = { .ops = { .per_second = 2, .burst = 1 } };
	struct fake_used used;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	virtio_pmem_limit(f.dev, &limits);
	ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
	fake_kick(&f.d, 0);
	assert_int_equal(fake_take_all(&f.d, 0), 0);
	assert_true(fake_counter(f.dev, "throttled") >= 1);
	/* Its time comes by the machine's clock alone. */
	clock_advance(&f.vm.clock, NSEC_PER_SEC);
	assert_true(fake_wait_used(&f.d, 0, &used));
	virtio_pmem_limit(f.dev, &(struct rate_limits){ 0 });
	for (unsigned i = 0; i < 5; i++) {
		ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
		fake_kick(&f.d, 0);
		assert_true(fake_wait_used(&f.d, 0, &used));
	}
	end(&f);
}

static void pause_waits_for_the_flush_under_way(void **state)
{
	struct fake_used used;
	struct fixture f;
	uint32_t *answer;

	begin(&f, &(struct fake_driver_config){ .packed = true });
	answer = ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
	fake_kick(&f.d, 0);
	fake_pause(&f.d);
	/* Either it had begun, and is answered, or it begins after the pause. */
	virtio_resume(f.dev);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(get_le32(answer), 0);
	end(&f);
}

static void failing_flush_is_told(void **state)
{
	struct virtio_params params;
	struct fake_used used;
	struct fixture f;
	uint32_t *answer;
	int fd = new_file(2 * MiB), device;

	fake_vm_init(&f.vm, LOOP_AUTO);
	params = fake_vm_params(&f.vm, "pmem0");
	assert_int_equal(virtio_pmem_create(&f.dev, &params, fd, GPA, false, NULL), 0);
	/* What takes its place cannot be synced: as a disk that fails. */
	device = eventfd(0, EFD_CLOEXEC);
	assert_true(dup2(device, fd) == fd);
	f.fd = device;
	fake_driver_init(&f.d, &f.vm, f.dev, &(struct fake_driver_config){ 0 });
	answer = ask(&f, VIRTIO_PMEM_REQ_TYPE_FLUSH);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(get_le32(answer), FAILED);
	assert_int_equal(fake_counter(f.dev, "failed"), 1);
	end(&f);
}

/* ---- the area ---- */

static void area_is_the_file(void **state)
{
	char text[6] = "";
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .transport = FAKE_PCI });
	assert_int_equal(f.area.gpa, GPA);
	assert_int_equal(f.area.size, 4 * MiB);
	assert_int_equal((uintptr_t)f.area.host % VIRTIO_PMEM_ALIGN, 0);
	memcpy(f.area.host + 3 * MiB, "hello", 6);
	assert_int_equal(pread(f.fd, text, 6, 3 * MiB), 6);
	assert_string_equal(text, "hello");
	assert_int_equal(pwrite(f.fd, "there", 6, MiB), 6);
	assert_string_equal((char *)f.area.host + MiB, "there");
	end(&f);
}

static void odd_end_is_filled_up_with_zeroes(void **state)
{
	struct fixture f;
	char byte;

	begin_with(&f, &(struct fake_driver_config){ 0 }, 2 * MiB + 5000, LOOP_AUTO);
	assert_int_equal(f.area.size, 4 * MiB);
	for (uint64_t at = 2 * MiB; at < 4 * MiB; at += PAGE_SIZE / 2)
		assert_int_equal(f.area.host[at], 0);
	f.area.host[2 * MiB + 4999] = 1;
	f.area.host[2 * MiB + 5000] = 2;
	f.area.host[4 * MiB - 1] = 3;
	assert_int_equal(lseek(f.fd, 0, SEEK_END), 2 * MiB + 5000);
	assert_int_equal(pread(f.fd, &byte, 1, 2 * MiB + 4999), 1);
	assert_int_equal(byte, 1);
	end(&f);
}

static void driver_reads_where_it_is(void **state)
{
	struct fixture f;
	uint8_t config[16];

	begin_with(&f, &(struct fake_driver_config){ 0 }, 5 * MiB, LOOP_AUTO);
	virtio_config_read(f.dev, 0, config, sizeof(config));
	assert_int_equal(get_le64(config), GPA);
	assert_int_equal(get_le64(config + 8), 6 * MiB);
	end(&f);
}

static void refused(int fd, int error, const char *why)
{
	struct virtio_device *dev = NULL;
	struct virtio_params params;
	struct error err = { 0 };
	struct fake_vm vm;

	fake_vm_init(&vm, LOOP_AUTO);
	params = fake_vm_params(&vm, "pmem0");
	assert_int_equal(virtio_pmem_create(&dev, &params, fd, GPA, false, &err), error);
	assert_non_null(strstr(err.msg, why));
	/* It stays the caller's. */
	assert_int_equal(close(fd), 0);
	fake_vm_done(&vm);
}

static void only_files_with_contents_are_taken(void **state)
{
	refused(new_file(0), -EINVAL, "empty");
	refused(open("/dev/null", O_RDWR), -EINVAL, "no regular file");
	refused(open("/proc/self/exe", O_RDONLY), -EACCES, "cannot be mapped");
}

/* ---- saved ---- */

static void save(struct fixture *f, struct state_writer *w)
{
	bool done = false;

	virtio_pause(f->dev, fake_drained, &done);
	fake_run(&f->vm);
	assert_true(done);
	state_writer_init(w);
	state_begin(w, "pmem0", 0, 1);
	virtio_save(f->dev, w);
	state_end(w);
	state_seal(w);
	assert_int_equal(w->failed, 0);
}

/* What loading @w into a device over a file of @bytes says. */
static int load(const struct state_writer *w, uint64_t bytes, struct error *err)
{
	struct virtio_params params;
	struct virtio_device *dev;
	struct state_reader r;
	struct state_set set;
	struct fake_vm vm;
	int ret;

	fake_vm_init(&vm, LOOP_AUTO);
	params = fake_vm_params(&vm, "pmem0");
	assert_int_equal(virtio_pmem_create(&dev, &params, new_file(bytes), GPA, false, NULL), 0);
	assert_int_equal(state_set_open(&set, w->buf, w->len, err), 0);
	assert_int_equal(state_set_take(&set, "pmem0", 0, 1, &r, err), 0);
	virtio_load(dev, &r);
	ret = state_reader_end(&r, err);
	state_set_close(&set);
	virtio_free(dev);
	fake_vm_done(&vm);
	return ret;
}

static void saved_device_wants_a_file_of_the_same_size(void **state)
{
	struct error err = { 0 };
	struct state_writer w;
	struct fixture f;

	begin_with(&f, &(struct fake_driver_config){ .no_driver_ok = true }, 3 * MiB, LOOP_AUTO);
	save(&f, &w);
	assert_int_equal(load(&w, 3 * MiB, &err), 0);
	/* The area would have the same size. */
	assert_int_equal(load(&w, 3 * MiB + 1, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "its file has 3145729"));
	state_writer_done(&w);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flush_is_answered_on_every_ring_and_loop),
		cmocka_unit_test(requests_at_once_share_a_flush),
		cmocka_unit_test(unknown_request_fails_and_the_next_is_served),
		cmocka_unit_test(request_without_its_parts_is_returned_unanswered),
		cmocka_unit_test(request_in_single_bytes_is_understood),
		cmocka_unit_test(buffer_inside_the_file_is_refused),
		cmocka_unit_test(a_rate_limit_holds_and_can_be_lifted),
		cmocka_unit_test(pause_waits_for_the_flush_under_way),
		cmocka_unit_test(failing_flush_is_told),
		cmocka_unit_test(area_is_the_file),
		cmocka_unit_test(odd_end_is_filled_up_with_zeroes),
		cmocka_unit_test(driver_reads_where_it_is),
		cmocka_unit_test(only_files_with_contents_are_taken),
		cmocka_unit_test(saved_device_wants_a_file_of_the_same_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
