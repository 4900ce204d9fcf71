/* A machine that goes back to an earlier moment of its own: memory, sections, what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "firmware/firmware.h"
#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "virtio/virtio_devices.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/saved/reset_devices.h"
#include "vmm/saved/reset_point.h"
#include "vmm/saved/snapshot_track.h"

/* Where neither the kernel nor what it finds is. */
#define FREE_GPA (24 * MiB)

struct made {
	struct machine *machine;
	struct machine_config config;
	struct clock clock;
	struct hv *hv;
};

static int sealed_memfd(int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void pause_machine(struct machine *m)
{
	machine_pause(m, NULL, NULL);
	while (!machine_is_paused(m))
		loop_run_once(machine_loop(m), UINT64_MAX);
}

/* A paused machine over a fake hypervisor, with @num more options and values. */
static void make_with(struct made *m, const char *transport, const char *const *more, unsigned num)
{
	const char *args[24] = { "--memory",  "32M",   "--cpus",      "2",
				 "--net",     "none",  "--serial",    "file=/dev/null",
				 "--console", "none",  "--kernel",    "fake",
				 "--name",    "first", "--transport", transport };
	const unsigned before = 16;
	struct fake_hv_params hv = { 0 };
	struct machine_params params = { .config = &m->config, .clock = &m->clock };
	struct machine_files files;
	struct error err = { 0 };
	static struct fake_elf elf;

	assert_true(before + num <= ARRAY_SIZE(args));
	if (num)
		memcpy(args + before, more, num * sizeof(*more));
	memset(m, 0, sizeof(*m));
	config_init(&m->config);
	if (config_parse_run(&m->config, (int)(before + num), (char *const *)args, &err) < 0 ||
	    config_validate(&m->config, &err) < 0)
		fail_msg("%s", err.msg);
	clock_init_virtual(&m->clock, NSEC_PER_SEC, 1700000000 * NSEC_PER_SEC);
	machine_files_init(&files);
	for (unsigned i = 0; i < m->config.num_disks; i++) {
		files.disk[i] = memfd_create("disk", MFD_CLOEXEC);
		assert_int_equal(ftruncate(files.disk[i], 1 * MiB), 0);
	}
	fake_elf(&elf, true);
	assert_int_equal(fw_kernel_open(&files.kernel, "fake",
					fake_file(elf.image, sizeof(elf.image)), &err),
			 0);
	m->hv = params.hv = fake_hv_create(&hv);
	params.files = &files;
	if (machine_create(&m->machine, &params, &err) < 0)
		fail_msg("%s", err.msg);
	machine_files_close(&files);
	pause_machine(m->machine);
}

static void make(struct made *m, const char *transport, const char *more, const char *value)
{
	make_with(m, transport, (const char *[]){ more, value }, more ? 2 : 0);
}

static void make_with_disks(struct made *m)
{
	static const char *const disks[] = { "--disk", "/nowhere/a.img,id=root,format=raw",
					     "--disk", "/nowhere/b.img,id=more,format=raw" };

	make_with(m, "pci", disks, ARRAY_SIZE(disks));
}

static void destroy(struct made *m)
{
	machine_free(m->machine);
	config_done(&m->config);
}

static int set_point(struct made *m, struct error *err)
{
	int fd = sealed_memfd(F_SEAL_SHRINK), disk[CONFIG_MAX_DISKS], r;
	unsigned num = reset_devices_files(&m->config);
	uint64_t pages;

	for (unsigned i = 0; i < num; i++)
		disk[i] = memfd_create("overlay", MFD_CLOEXEC);
	r = reset_point_set(m->machine, fd, disk, &pages, err);
	for (unsigned i = 0; i < num; i++)
		if (disk[i] >= 0)
			close(disk[i]);
	close(fd);
	return r;
}

static struct reset_result go_back(struct made *m, const struct reset_params *params)
{
	struct reset_result result = { 0 };
	struct error err = { 0 };
	struct reset_point *p = reset_point_of(m->machine, &err);

	if (!p || reset_point_go_back(p, params, &result, &err) < 0)
		fail_msg("%s", err.msg);
	return result;
}

static void save(struct machine *m, struct state_writer *w)
{
	struct error err = { 0 };

	state_writer_init(w);
	if (machine_save(m, w, &err) < 0)
		fail_msg("%s", err.msg);
}

static uint64_t value_at(struct made *m, uint64_t gpa)
{
	uint64_t v;

	assert_int_equal(guest_mem_read(m->machine->mem, gpa, &v, sizeof(v)), 0);
	return v;
}

static void guest_writes(struct made *m, uint64_t gpa, uint64_t v)
{
	assert_int_equal(fake_hv_write(m->hv, gpa, &v, sizeof(v)), 0);
}

/* Registers of devices that a guest changes: an index of the clock, a driver's status. */
static void change_devices(struct made *m)
{
	struct machine_virtio *v = &m->machine->virtio[0];
	uint64_t base =
		v->pci ? pci_bar_addr(virtio_pci_function(v->pci), 0) + 0x14 : v->base + 0x70;
	uint8_t index = 0x0d, status[4] = { 1 };

	bus_write(m->machine->pio, 0x70, &index, 1);
	bus_write(m->machine->mmio, base, status, v->pci ? 1 : 4);
	assert_int_equal(virtio_get_status(v->dev), 1);
}

static void machine_that_went_back_is_as_it_was(const char *transport)
{
	const struct reset_params identical = { .identical = true };
	struct state_writer before, after;
	struct error err = { 0 };
	struct made m;

	make(&m, transport, NULL, NULL);
	guest_writes(&m, FREE_GPA, 1);
	assert_int_equal(set_point(&m, &err), 0);
	save(m.machine, &before);
	for (unsigned round = 0; round < 3; round++) {
		machine_resume(m.machine);
		guest_writes(&m, FREE_GPA, 2 + round);
		guest_writes(&m, FREE_GPA + 5 * PAGE_SIZE, 3);
		change_devices(&m);
		pause_machine(m.machine);
		assert_int_equal(go_back(&m, &identical).pages, 2);
		assert_int_equal(value_at(&m, FREE_GPA), 1);
		assert_int_equal(value_at(&m, FREE_GPA + 5 * PAGE_SIZE), 0);
		save(m.machine, &after);
		assert_int_equal(before.len, after.len);
		assert_memory_equal(before.buf, after.buf, before.len);
		state_writer_done(&after);
	}
	state_writer_done(&before);
	destroy(&m);
}

static void pci_machine_that_went_back_is_as_it_was(void **unused)
{
	machine_that_went_back_is_as_it_was("pci");
}

static void mmio_machine_that_went_back_is_as_it_was(void **unused)
{
	machine_that_went_back_is_as_it_was("mmio");
}

static void what_the_monitor_wrote_goes_back_too(void **unused)
{
	const struct reset_params identical = { .identical = true };
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	assert_int_equal(set_point(&m, &err), 0);
	assert_int_equal(guest_mem_write(m.machine->mem, FREE_GPA, "monitor", 8), 0);
	assert_int_equal(go_back(&m, &identical).pages, 1);
	assert_int_equal(value_at(&m, FREE_GPA), 0);
	destroy(&m);
}

static void guest_is_another_one_unless_it_is_to_be_identical(void **unused)
{
	const struct reset_params identical = { .identical = true }, another = { 0 };
	uint64_t first, second;
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	first = value_at(&m, FW_VMGENID_ADDR);
	assert_int_equal(set_point(&m, &err), 0);
	go_back(&m, &another);
	second = value_at(&m, FW_VMGENID_ADDR);
	assert_int_not_equal(first, second);
	go_back(&m, &another);
	assert_int_not_equal(second, value_at(&m, FW_VMGENID_ADDR));
	go_back(&m, &identical);
	assert_int_equal(first, value_at(&m, FW_VMGENID_ADDR));
	destroy(&m);
}

static void what_is_kept_stays_until_it_is_not(void **unused)
{
	const struct reset_kept range = { .gpa = FREE_GPA, .size = PAGE_SIZE };
	const struct reset_params keeping = { .identical = true, .kept = &range, .num_kept = 1 };
	const struct reset_params identical = { .identical = true };
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	assert_int_equal(set_point(&m, &err), 0);
	guest_writes(&m, FREE_GPA, 1);
	guest_writes(&m, FREE_GPA + PAGE_SIZE, 1);
	assert_int_equal(go_back(&m, &keeping).pages, 1);
	assert_int_equal(value_at(&m, FREE_GPA), 1);
	assert_int_equal(value_at(&m, FREE_GPA + PAGE_SIZE), 0);
	assert_int_equal(go_back(&m, &identical).pages, 1);
	assert_int_equal(value_at(&m, FREE_GPA), 0);
	destroy(&m);
}

static void only_whole_pages_of_memory_can_be_kept(void **unused)
{
	const struct reset_kept bad[] = {
		{ .gpa = FREE_GPA + 1, .size = PAGE_SIZE },
		{ .gpa = FREE_GPA, .size = 100 },
		{ .gpa = 32 * MiB, .size = PAGE_SIZE },
		{ .gpa = 0, .size = UINT64_MAX - PAGE_SIZE + 1 },
		{ .gpa = FREE_GPA, .size = 0 },
	};
	struct reset_result result;
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	assert_int_equal(set_point(&m, &err), 0);
	guest_writes(&m, FREE_GPA, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct reset_params params = { .kept = &bad[i], .num_kept = 1 };

		assert_int_equal(reset_point_go_back(m.machine->point, &params, &result, &err),
				 -EINVAL);
		/* It is refused before anything went back. */
		assert_int_equal(value_at(&m, FREE_GPA), 1);
		assert_false(m.machine->ending);
	}
	destroy(&m);
}

static void log_that_cannot_be_read_costs_nothing_but_time(void **unused)
{
	const struct reset_params identical = { .identical = true };
	struct reset_result result;
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	assert_int_equal(set_point(&m, &err), 0);
	guest_writes(&m, FREE_GPA, 1);
	fake_hv_fail(m.hv, FAKE_HV_DIRTY_GET, 0, -ENOMEM);
	assert_int_equal(reset_point_go_back(m.machine->point, &identical, &result, &err), -ENOMEM);
	assert_int_equal(value_at(&m, FREE_GPA), 1);
	assert_false(m.machine->ending);
	/* What the log had said may be lost, so that everything goes back. */
	assert_int_equal(go_back(&m, &identical).pages, m.machine->mem->map_size >> PAGE_SHIFT);
	assert_int_equal(value_at(&m, FREE_GPA), 0);
	destroy(&m);
}

static void what_was_discarded_comes_back(void **unused)
{
	const struct reset_params identical = { .identical = true };
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	/* The middle of three huge pages is mapped over, the rest of them zeroed. */
	for (uint64_t at = 0; at < 6 * MiB; at += PAGE_SIZE)
		guest_writes(&m, 16 * MiB + at, at + 1);
	assert_int_equal(set_point(&m, &err), 0);
	assert_int_equal(guest_mem_discard(m.machine->mem, 17 * MiB, 4 * MiB), 0);
	assert_int_equal(value_at(&m, 18 * MiB), 0);
	assert_int_equal(go_back(&m, &identical).pages, 4 * MiB / PAGE_SIZE);
	for (uint64_t at = 0; at < 6 * MiB; at += PAGE_SIZE)
		assert_int_equal(value_at(&m, 16 * MiB + at), at + 1);
	destroy(&m);
}

static void a_later_point_takes_the_place_of_an_earlier_one(void **unused)
{
	const struct reset_params identical = { .identical = true };
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	for (uint64_t i = 1; i < 4; i++) {
		guest_writes(&m, FREE_GPA, i);
		assert_int_equal(set_point(&m, &err), 0);
		guest_writes(&m, FREE_GPA, 100);
		go_back(&m, &identical);
		assert_int_equal(value_at(&m, FREE_GPA), i);
	}
	destroy(&m);
}

static void logs_that_somebody_else_read_bring_all_pages_back(void **unused)
{
	const struct reset_params identical = { .identical = true };
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	guest_writes(&m, FREE_GPA, 1);
	assert_int_equal(set_point(&m, &err), 0);
	guest_writes(&m, FREE_GPA, 2);
	/* As a differential snapshot begins. */
	reset_point_lose_logs(m.machine->point);
	assert_int_equal(snapshot_track_create(&m.machine->track, m.machine->mem, m.machine->hv,
					       &err),
			 0);
	assert_int_equal(go_back(&m, &identical).pages, 32 * MiB / PAGE_SIZE);
	assert_null(m.machine->track);
	assert_int_equal(value_at(&m, FREE_GPA), 1);
	/* From here on they are its own again. */
	guest_writes(&m, FREE_GPA, 3);
	assert_int_equal(go_back(&m, &identical).pages, 1);
	assert_int_equal(value_at(&m, FREE_GPA), 1);
	destroy(&m);
}

static void machine_without_a_point_goes_nowhere(void **unused)
{
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", NULL, NULL);
	assert_null(reset_point_of(m.machine, &err));
	assert_int_equal(err.code, -ENOENT);
	destroy(&m);
}

static void expect_refused(const char *option, const char *value, const char *why)
{
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", option, value);
	assert_int_equal(set_point(&m, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, why));
	assert_null(m.machine->point);
	destroy(&m);
}

static void what_cannot_be_taken_back_is_refused(void **unused)
{
	expect_refused("--memory-backend", "shared", "--memory-backend shared");
}

static void over(struct block_req *req, int res)
{
	assert_int_equal(res, 0);
	req->done = NULL;
}

/* The first bytes of the only disk, read or written. */
static uint64_t disk_io(struct made *m, enum block_op op, uint64_t value)
{
	struct block *b = NULL;
	uint64_t sector[BLOCK_SECTOR / sizeof(uint64_t)] = { value };
	const struct iovec iov = { sector, sizeof(sector) };
	struct block_req req = { .op = op, .len = sizeof(sector), .iov = &iov, .iovcnt = 1,
				 .done = over };

	for (unsigned i = 0; i < m->machine->num_virtio; i++)
		if (!strcmp(m->machine->virtio[i].dev->id, "root"))
			b = virtio_blk_image(m->machine->virtio[i].dev);
	assert_non_null(b);
	block_submit(b, &req);
	while (req.done)
		loop_run_once(machine_loop(m->machine), NSEC_PER_SEC);
	return sector[0];
}

static void disks_go_back_with_the_machine(void **unused)
{
	const struct reset_params another = { 0 };
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", "--disk", "/nowhere/a.img,id=root,format=raw");
	assert_null(reset_devices_forbid_copy(m.machine));
	for (uint64_t point = 1; point < 4; point++) {
		disk_io(&m, BLOCK_WRITE, point);
		assert_int_equal(set_point(&m, &err), 0);
		for (uint64_t i = 0; i < 2; i++) {
			disk_io(&m, BLOCK_WRITE, 100 + i);
			assert_int_equal(disk_io(&m, BLOCK_READ, 0), 100 + i);
			go_back(&m, &another);
			assert_int_equal(disk_io(&m, BLOCK_READ, 0), point);
		}
	}
	/* Its files alone do not say what it holds. */
	assert_non_null(reset_devices_forbid_copy(m.machine));
	destroy(&m);
}

static void point_without_a_file_for_a_disk_is_none(void **unused)
{
	int fd = sealed_memfd(F_SEAL_SHRINK), none = -1;
	struct error err = { 0 };
	uint64_t pages;
	struct made m;

	make(&m, "pci", "--disk", "/nowhere/a.img,id=root,format=raw");
	assert_int_equal(reset_point_set(m.machine, fd, &none, &pages, &err), -EBADF);
	assert_non_null(strstr(err.msg, "disk 'root'"));
	assert_null(m.machine->point);
	close(fd);
	destroy(&m);
}

/* What @m's guest writes to its disk is in the file. */
static void expect_disk_itself(struct made *m, uint64_t value)
{
	uint64_t there = 0;

	assert_null(reset_devices_forbid_copy(m->machine));
	disk_io(m, BLOCK_WRITE, value);
	assert_int_equal(disk_io(m, BLOCK_READ, 0), value);
	assert_int_equal(pread(m->machine->disk_fd[0], &there, sizeof(there), 0), sizeof(there));
	assert_int_equal(there, value);
}

/* It goes on, and what it writes is its user's, who was told that there is no point. */
static void what_failed_keeps_nothing_apart_from_the_disks(void **unused)
{
	int open_end = sealed_memfd(0), fd = sealed_memfd(F_SEAL_SHRINK), disk[2];
	struct error err = { 0 };
	uint64_t pages;
	struct made m;

	make_with_disks(&m);
	disk[0] = memfd_create("overlay", MFD_CLOEXEC);
	disk[1] = -1;
	assert_int_equal(reset_point_set(m.machine, fd, disk, &pages, &err), -EBADF);
	expect_disk_itself(&m, 1);
	for (unsigned i = 0; i < 2; i++)
		disk[i] = memfd_create("overlay", MFD_CLOEXEC);
	assert_int_equal(reset_point_set(m.machine, open_end, disk, &pages, &err), -EBADMSG);
	expect_disk_itself(&m, 2);
	/* What has a point already is another matter: its overlay may have been written to. */
	assert_int_equal(set_point(&m, &err), 0);
	disk_io(&m, BLOCK_WRITE, 3);
	assert_int_equal(reset_point_set(m.machine, open_end, disk, &pages, &err), -EBADMSG);
	assert_int_equal(disk_io(&m, BLOCK_READ, 0), 3);
	assert_non_null(reset_devices_forbid_copy(m.machine));
	close(open_end);
	close(fd);
	destroy(&m);
}

static void read_only_disk_is_no_obstacle(void **unused)
{
	struct error err = { 0 };
	struct made m;

	make(&m, "pci", "--disk", "/nowhere/a.img,id=root,ro");
	assert_int_equal(set_point(&m, &err), 0);
	destroy(&m);
}

/* Whoever made the file could end the monitor by making it shorter. */
static void file_that_could_shrink_is_refused(void **unused)
{
	struct error err = { 0 };
	int fd = sealed_memfd(0);
	uint64_t pages;
	struct made m;

	make(&m, "pci", NULL, NULL);
	guest_writes(&m, FREE_GPA, 1);
	assert_int_equal(reset_point_set(m.machine, fd, NULL, &pages, &err), -EBADMSG);
	assert_null(m.machine->point);
	assert_int_equal(value_at(&m, FREE_GPA), 1);
	close(fd);
	destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pci_machine_that_went_back_is_as_it_was),
		cmocka_unit_test(mmio_machine_that_went_back_is_as_it_was),
		cmocka_unit_test(what_the_monitor_wrote_goes_back_too),
		cmocka_unit_test(guest_is_another_one_unless_it_is_to_be_identical),
		cmocka_unit_test(what_is_kept_stays_until_it_is_not),
		cmocka_unit_test(only_whole_pages_of_memory_can_be_kept),
		cmocka_unit_test(log_that_cannot_be_read_costs_nothing_but_time),
		cmocka_unit_test(what_was_discarded_comes_back),
		cmocka_unit_test(a_later_point_takes_the_place_of_an_earlier_one),
		cmocka_unit_test(logs_that_somebody_else_read_bring_all_pages_back),
		cmocka_unit_test(machine_without_a_point_goes_nowhere),
		cmocka_unit_test(what_cannot_be_taken_back_is_refused),
		cmocka_unit_test(disks_go_back_with_the_machine),
		cmocka_unit_test(point_without_a_file_for_a_disk_is_none),
		cmocka_unit_test(what_failed_keeps_nothing_apart_from_the_disks),
		cmocka_unit_test(read_only_disk_is_no_obstacle),
		cmocka_unit_test(file_that_could_shrink_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
