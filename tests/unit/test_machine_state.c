/* A machine in sections, and another one made of them; and what enemies write instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "firmware/vmclock.h"
#include "virtio/virtio_devices.h"
#include "vmm/config/config_state.h"
#include "vmm/hypervisor/x86_state.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"

#define DISK_BYTES (1 * MiB)
#define PMEM_BYTES (3 * MiB)

struct made {
	struct machine *machine;
	struct machine_config config;
	struct clock clock;
	struct hv *hv;
	uint64_t disk_bytes; /* 0: DISK_BYTES */
	int net_peer;
};

static int memory_file(uint64_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	return fd;
}

static void configure(struct machine_config *c, const char *transport)
{
	const char *args[] = { "--memory",    "32M",
			       "--cpus",      "2",
			       "--transport", transport,
			       "--disk",      "/nowhere/a.img,id=root,ro",
			       "--pmem",      "/nowhere/p.img,id=cache,ro",
			       "--serial",    "file=/dev/null",
			       "--console",   "none",
			       "--kernel",    "fake",
			       "--name",      "first" };
	struct error err = { 0 };

	config_init(c);
	if (config_parse_run(c, ARRAY_SIZE(args), (char *const *)args, &err) < 0 ||
	    config_validate(c, &err) < 0)
		fail_msg("%s", err.msg);
}

static void open_files(struct made *m, struct machine_files *files)
{
	int pair[2];

	machine_files_init(files);
	files->disk[0] = memory_file(m->disk_bytes ? m->disk_bytes : DISK_BYTES);
	for (unsigned i = 0; i < m->config.num_pmems; i++)
		files->pmem[i] = memory_file(PMEM_BYTES);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	files->net[0].socket = pair[0];
	m->net_peer = pair[1];
}

static int create(struct made *m, const struct machine_image *image, struct error *err)
{
	struct machine_params params = { .config = &m->config, .clock = &m->clock, .image = image };
	struct fake_hv_params hv = { 0 };
	struct machine_files files;
	static struct fake_elf elf;
	int r;

	clock_init_virtual(&m->clock, NSEC_PER_SEC, 1700000000 * NSEC_PER_SEC);
	open_files(m, &files);
	if (!image) {
		fake_elf(&elf, true);
		assert_int_equal(fw_kernel_open(&files.kernel, "fake",
						fake_file(elf.image, sizeof(elf.image)), err),
				 0);
	}
	m->hv = params.hv = fake_hv_create(&hv);
	params.files = &files;
	r = machine_create(&m->machine, &params, err);
	if (r < 0) {
		m->hv->ops->free(m->hv);
		m->machine = NULL;
	}
	machine_files_close(&files);
	return r;
}

static void destroy(struct made *m)
{
	machine_free(m->machine);
	config_done(&m->config);
	close(m->net_peer);
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

static void pause_machine(struct machine *m)
{
	bool paused = false;

	machine_pause(m, set_flag, &paused);
	while (!paused)
		loop_run_once(machine_loop(m), UINT64_MAX);
}

static void save(struct machine *m, struct state_writer *w)
{
	struct error err = { 0 };

	state_writer_init(w);
	if (machine_save(m, w, &err) < 0)
		fail_msg("%s", err.msg);
}

/* Make a machine of what is in @buf; its memory is empty. */
static int load_with_disk(struct made *m, const uint8_t *buf, size_t len, uint64_t disk_bytes,
			  struct error *err)
{
	struct machine_image image = { .memory_fd = -1, .same_identity = true };
	struct state_set set;
	int r;

	memset(m, 0, sizeof(*m));
	m->disk_bytes = disk_bytes;
	m->net_peer = -1;
	config_init(&m->config);
	r = state_set_open(&set, buf, len, err);
	if (r < 0)
		return r;
	r = machine_check_state(&set, err);
	if (!r)
		r = config_load(&m->config, &set, err);
	if (!r)
		r = config_validate(&m->config, err);
	/* Huge memories are reserved, not touched; a test need not try. */
	if (!r && m->config.memory_bytes > 1 * GiB)
		r = -E2BIG;
	image.state = &set;
	if (!r) {
		image.memory_fd = memory_file(m->config.memory_bytes);
		r = create(m, &image, err);
		close(image.memory_fd);
	}
	state_set_close(&set);
	return r;
}

static int load(struct made *m, const uint8_t *buf, size_t len, struct error *err)
{
	return load_with_disk(m, buf, len, DISK_BYTES, err);
}

static void make_first(struct made *m, const char *transport)
{
	struct error err = { 0 };

	memset(m, 0, sizeof(*m));
	configure(&m->config, transport);
	if (create(m, NULL, &err) < 0)
		fail_msg("%s", err.msg);
	pause_machine(m->machine);
}

static void machine_made_of_a_saved_one_saves_the_same(const char *transport)
{
	struct made first, second;
	struct state_writer a, b;
	struct error err = { 0 };

	make_first(&first, transport);
	save(first.machine, &a);
	if (load(&second, a.buf, a.len, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(machine_is_paused(second.machine));
	assert_string_equal(second.config.disk[0].id, "root");
	assert_true(second.config.disk[0].read_only);
	assert_string_not_equal(second.config.name, "first");
	save(second.machine, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.buf, b.buf, a.len);
	state_writer_done(&a);
	state_writer_done(&b);
	destroy(&first);
	destroy(&second);
}

static void pci_machine_made_of_a_saved_one_saves_the_same(void **unused)
{
	machine_made_of_a_saved_one_saves_the_same("pci");
}

static void mmio_machine_made_of_a_saved_one_saves_the_same(void **unused)
{
	machine_made_of_a_saved_one_saves_the_same("mmio");
}

static void machine_that_runs_is_not_saved(void **unused)
{
	struct error err = { 0 };
	struct state_writer w;
	struct made m;

	make_first(&m, "pci");
	machine_resume(m.machine);
	state_writer_init(&w);
	assert_int_equal(machine_save(m.machine, &w, &err), -EBUSY);
	state_writer_done(&w);
	destroy(&m);
}

/* What the kernel says of the mapping at @at has the two-letter flag @flag. */
static bool mapping_has(const void *at, const char *flag)
{
	FILE *maps = fopen("/proc/self/smaps", "r");
	unsigned long first, end;
	bool here = false, has = false;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
			here = (uintptr_t)at >= first && (uintptr_t)at < end;
		else if (here && !strncmp(line, "VmFlags:", 8))
			has = strstr(line, flag) != NULL;
	}
	fclose(maps);
	return has;
}

static void memory_of_a_restored_guest_is_in_no_core_dump(void **unused)
{
	struct made first, second;
	struct state_writer w;
	struct error err = { 0 };

	make_first(&first, "pci");
	assert_true(mapping_has(machine_memory(first.machine)->map, " dd"));
	save(first.machine, &w);
	assert_int_equal(load(&second, w.buf, w.len, &err), 0);
	assert_true(mapping_has(machine_memory(second.machine)->map, " dd"));
	state_writer_done(&w);
	destroy(&first);
	destroy(&second);
}

/*
 * A machine made of @w, with @size bytes at @gpa as @first has them: what the rest of its memory
 * holds matters to nobody here.
 */
static void restore_with(struct made *second, const struct state_writer *w, struct made *first,
			 uint64_t gpa, size_t size)
{
	int fd = memory_file(32 * MiB);
	struct machine_image image = { .memory_fd = fd };
	uint8_t *buf = malloc(size);
	struct error err = { 0 };
	struct state_set set;

	assert_int_equal(guest_mem_read(machine_memory(first->machine), gpa, buf, size), 0);
	assert_int_equal(pwrite(fd, buf, size, gpa), size);
	assert_int_equal(state_set_open(&set, w->buf, w->len, &err), 0);
	memset(second, 0, sizeof(*second));
	config_init(&second->config);
	assert_int_equal(machine_check_state(&set, &err), 0);
	assert_int_equal(config_load(&second->config, &set, &err), 0);
	image.state = &set;
	assert_int_equal(create(second, &image, &err), 0);
	state_set_close(&set);
	free(buf);
	close(fd);
}

static void restored_machine_has_another_generation_and_its_event(void **unused)
{
	struct made first, second;
	uint8_t before[16], after[16];
	struct state_writer w;

	make_first(&first, "pci");
	save(first.machine, &w);
	guest_mem_read(machine_memory(first.machine), FW_VMGENID_ADDR, before, sizeof(before));
	restore_with(&second, &w, &first, FW_VMGENID_ADDR, sizeof(before));
	guest_mem_read(machine_memory(second.machine), FW_VMGENID_ADDR, after, sizeof(after));
	assert_memory_not_equal(before, after, sizeof(before));
	assert_true(fake_hv_wait_interrupts(second.hv, 9, 1, 60000));
	state_writer_done(&w);
	destroy(&first);
	destroy(&second);
}

/* ---- rate limits ---- */

/* The device called @id, which there is. */
static struct virtio_device *device(struct made *m, const char *id)
{
	for (unsigned i = 0; i < m->machine->num_virtio; i++)
		if (!strcmp(m->machine->virtio[i].dev->id, id))
			return m->machine->virtio[i].dev;
	fail_msg("no device '%s'", id);
	return NULL;
}

static void limits_changed_while_it_ran_come_along(void **unused)
{
	struct rate_limits disk = { .ops = { 10, 20, 30 }, .bytes = { 1 << 20, 0, 0 } }, got, other;
	struct rate_limits tx = { .bytes = { 5000, 100, 0 } }, flushes = { .ops = { 7, 1, 0 } };
	struct made first, second;
	struct error err = { 0 };
	struct state_writer w;

	make_first(&first, "pci");
	virtio_blk_limit(device(&first, "root"), &disk);
	virtio_net_limit(device(&first, "net0"), NULL, &tx);
	virtio_pmem_limit(device(&first, "cache"), &flushes);
	save(first.machine, &w);
	if (load(&second, w.buf, w.len, &err) < 0)
		fail_msg("%s", err.msg);
	virtio_blk_limits(device(&second, "root"), &got);
	disk.ops.once = 0; /* it was for the boot */
	assert_memory_equal(&got, &disk, sizeof(got));
	virtio_net_limits(device(&second, "net0"), &other, &got);
	assert_memory_equal(&got, &tx, sizeof(got));
	assert_int_equal(other.bytes.per_second, 0);
	virtio_pmem_limits(device(&second, "cache"), &got);
	assert_memory_equal(&got, &flushes, sizeof(got));
	virtio_rng_limits(device(&second, "rng0"), &got);
	assert_int_equal(got.ops.per_second, 0);
	state_writer_done(&w);
	destroy(&first);
	destroy(&second);
}

/* ---- VMClock ---- */

static struct vmclock vmclock_of(struct made *m)
{
	struct vmclock c;

	assert_int_equal(guest_mem_read(machine_memory(m->machine), FW_VMCLOCK_ADDR, &c, sizeof(c)),
			 0);
	return c;
}

/* What the guest is told of by the event that is pending now. */
static uint32_t events_of(struct made *m)
{
	uint8_t events[4];

	bus_read(m->machine->pio, POWER_GED_PORT, events, sizeof(events));
	return get_le32(events);
}

static void vmclock_is_there_from_the_start(void **unused)
{
	struct vmclock c;
	struct made m;

	make_first(&m, "pci");
	c = vmclock_of(&m);
	assert_memory_equal(&c.magic, "VCLK", 4);
	assert_int_equal(le32toh(c.size), PAGE_SIZE);
	assert_int_equal(le16toh(c.version), 1);
	assert_int_equal(c.counter_id, 0xff);
	assert_int_equal(c.status, 0);
	assert_int_equal(le64toh(c.flags), 0x300);
	assert_int_equal(c.sequence & 1, 0);
	assert_int_equal(events_of(&m), 0);
	destroy(&m);
}

static void vmclock_of_a_restored_guest_is_raised(void **unused)
{
	struct made first, second, third;
	struct vmclock a, b, c;
	struct state_writer w;

	make_first(&first, "pci");
	save(first.machine, &w);
	restore_with(&second, &w, &first, FW_VMCLOCK_ADDR, sizeof(a));
	restore_with(&third, &w, &first, FW_VMCLOCK_ADDR, sizeof(a));
	a = vmclock_of(&first);
	b = vmclock_of(&second);
	c = vmclock_of(&third);
	assert_true(le64toh(b.generation) > le64toh(a.generation));
	assert_true(le64toh(b.disruption) > le64toh(a.disruption));
	assert_int_equal(le32toh(b.sequence), le32toh(a.sequence) + 2);
	assert_int_equal(events_of(&second), GED_VMGENID | GED_VMCLOCK);
	/* Siblings are told apart, and nothing else is another one. */
	assert_true(b.generation != c.generation);
	b.generation = a.generation;
	b.disruption = a.disruption;
	b.sequence = a.sequence;
	assert_memory_equal(&a, &b, sizeof(a));
	state_writer_done(&w);
	destroy(&first);
	destroy(&second);
	destroy(&third);
}

static void guest_that_moved_is_no_other(void **unused)
{
	struct vmclock before, after;
	struct made m;

	make_first(&m, "pci");
	before = vmclock_of(&m);
	assert_int_equal(machine_time_jumped(m.machine), 0);
	after = vmclock_of(&m);
	assert_true(le64toh(after.disruption) > le64toh(before.disruption));
	assert_true(after.generation == before.generation);
	assert_int_equal(events_of(&m), GED_VMCLOCK);
	destroy(&m);
}

static void guest_of_a_version_without_vmclock_gets_none(void **unused)
{
	static const struct vmclock none;
	struct made first, second;
	struct vmclock c;
	struct state_writer w;

	make_first(&first, "pci");
	save(first.machine, &w);
	restore_with(&second, &w, &first, FW_VMGENID_ADDR, 16);
	c = vmclock_of(&second);
	assert_memory_equal(&c, &none, sizeof(c));
	assert_int_equal(events_of(&second), GED_VMGENID);
	state_writer_done(&w);
	destroy(&first);
	destroy(&second);
}

/* ---- what earlier versions wrote ---- */

static void golden_state_is_read(const char *name)
{
	struct error err = { 0 };
	uint8_t buf[64 * KiB];
	char path[80];
	struct made m;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "tests/golden/%s/state", name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		fail_msg("%s: %m", path);
	len = read(fd, buf, sizeof(buf));
	close(fd);
	assert_in_range(len, 1, sizeof(buf) - 1);
	if (load_with_disk(&m, buf, len, 64 * KiB, &err) < 0)
		fail_msg("%s: %s", path, err.msg);
	assert_true(machine_is_paused(m.machine));
	assert_string_equal(m.config.disk[0].id, "disk0");
	destroy(&m);
}

static void golden_state_with_pci_and_split_rings_is_read(void **unused)
{
	golden_state_is_read("format-1-pci-split");
}

static void golden_state_with_mmio_and_packed_rings_is_read(void **unused)
{
	golden_state_is_read("format-1-mmio-packed");
}

/* ---- hostile files ---- */

static void expect_refused(const uint8_t *buf, size_t len, const char *what)
{
	struct error err = { 0 };
	struct made m;

	if (load(&m, buf, len, &err) >= 0)
		fail_msg("accepted: %s", what);
	if (!strstr(err.msg, what))
		fail_msg("'%s' does not name '%s'", err.msg, what);
	destroy(&m);
}

/* All sections but those called @name, for more to be put after them. */
static void unsealed(const struct state_writer *from, const char *name, struct state_writer *to)
{
	struct error err = { 0 };
	struct state_reader r;
	size_t pos = 0;

	state_writer_init(to);
	while (state_next(from->buf, from->len, &pos, &r, &err) > 0) {
		if (!strcmp(r.name, name) || !strcmp(r.name, "end"))
			continue;
		state_begin(to, r.name, r.instance, r.version);
		state_put_bytes(to, r.p, r.len);
		state_end(to);
	}
}

/* The same, sealed anew. */
static void without(const struct state_writer *from, const char *name, struct state_writer *to)
{
	unsealed(from, name, to);
	state_seal(to);
}

static void missing_section_is_refused_by_name(void **unused)
{
	static const char *const names[] = { "machine",	      "machine/config", "machine/cpu",
					     "machine/power", "machine/rtc",	"machine/serial",
					     "machine/pci",   "root",		"net0",
					     "cache",	      "rng0",		"machine/vm",
					     "machine/vcpu" };
	struct state_writer whole, part;
	struct made m;

	make_first(&m, "pci");
	save(m.machine, &whole);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		without(&whole, names[i], &part);
		expect_refused(part.buf, part.len, names[i]);
		state_writer_done(&part);
	}
	state_writer_done(&whole);
	destroy(&m);
}

static void left_over_section_is_refused_by_name(void **unused)
{
	struct state_writer whole, more;
	struct made m;

	make_first(&m, "pci");
	save(m.machine, &whole);
	unsealed(&whole, "", &more);
	state_begin(&more, "disk7", 0, 1);
	state_end(&more);
	state_seal(&more);
	expect_refused(more.buf, more.len, "disk7");
	state_writer_done(&whole);
	state_writer_done(&more);
	destroy(&m);
}

/* A whole state with limits for @id, @times over. */
static void expect_limits_refused(const char *id, unsigned times)
{
	struct state_writer whole, more;
	struct made m;

	make_first(&m, "pci");
	save(m.machine, &whole);
	unsealed(&whole, "", &more);
	state_begin(&more, "machine/limits", 0, 1);
	for (unsigned i = 0; i < times; i++) {
		state_put_u8(&more, true);
		state_put_string(&more, id);
		for (unsigned k = 0; k < 4; k++)
			state_put_u64(&more, 1);
	}
	state_put_u8(&more, false);
	state_end(&more);
	state_seal(&more);
	expect_refused(more.buf, more.len, "machine/limits");
	state_writer_done(&whole);
	state_writer_done(&more);
	destroy(&m);
}

static void limits_of_no_device_are_refused(void **unused)
{
	expect_limits_refused("disk7", 1);
	expect_limits_refused("root", 100);
}

static void cut_off_file_is_refused_wherever_it_ends(void **unused)
{
	struct error err = { 0 };
	struct state_writer w;
	struct state_set set;
	struct made m;

	make_first(&m, "mmio");
	save(m.machine, &w);
	for (size_t len = 0; len < w.len; len += len < 4096 ? 1 : 97)
		assert_int_equal(state_set_open(&set, w.buf, len, &err), -EBADMSG);
	state_writer_done(&w);
	destroy(&m);
}

/*
 * Fields changed at random, checksums made good: refused or loaded, but nothing
 * breaks. Under the sanitizers this is what counts.
 */
static void machine_survives_whatever_is_in_its_sections(void **unused)
{
	static const char *const transports[] = { "pci", "mmio" };
	struct state_writer w, bad;
	unsigned refused = 0;
	struct made m, n;

	srand(4);
	for (unsigned t = 0; t < 2; t++) {
		make_first(&m, transports[t]);
		save(m.machine, &w);
		for (unsigned round = 0; round < 150; round++) {
			struct error err = { 0 };
			struct state_reader r;
			size_t pos = 0;
			unsigned n_sections = 0, target, i = 0;

			while (state_next(w.buf, w.len, &pos, &r, &err) > 0)
				n_sections++;
			target = rand() % (n_sections - 1);
			pos = 0;
			state_writer_init(&bad);
			while (state_next(w.buf, w.len, &pos, &r, &err) > 0 && i < n_sections - 1) {
				size_t start = bad.len + 80;

				state_begin(&bad, r.name, r.instance, r.version);
				state_put_bytes(&bad, r.p, r.len);
				if (i++ == target && r.len)
					for (unsigned k = 0; k < 1 + round % 3u; k++)
						bad.buf[start + rand() % r.len] = rand();
				state_end(&bad);
			}
			state_seal(&bad);
			if (load(&n, bad.buf, bad.len, &err) < 0)
				refused++;
			destroy(&n);
			state_writer_done(&bad);
		}
		state_writer_done(&w);
		destroy(&m);
	}
	assert_true(refused > 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pci_machine_made_of_a_saved_one_saves_the_same),
		cmocka_unit_test(mmio_machine_made_of_a_saved_one_saves_the_same),
		cmocka_unit_test(machine_that_runs_is_not_saved),
		cmocka_unit_test(memory_of_a_restored_guest_is_in_no_core_dump),
		cmocka_unit_test(restored_machine_has_another_generation_and_its_event),
		cmocka_unit_test(limits_changed_while_it_ran_come_along),
		cmocka_unit_test(vmclock_is_there_from_the_start),
		cmocka_unit_test(vmclock_of_a_restored_guest_is_raised),
		cmocka_unit_test(guest_that_moved_is_no_other),
		cmocka_unit_test(guest_of_a_version_without_vmclock_gets_none),
		cmocka_unit_test(golden_state_with_pci_and_split_rings_is_read),
		cmocka_unit_test(golden_state_with_mmio_and_packed_rings_is_read),
		cmocka_unit_test(missing_section_is_refused_by_name),
		cmocka_unit_test(left_over_section_is_refused_by_name),
		cmocka_unit_test(limits_of_no_device_are_refused),
		cmocka_unit_test(cut_off_file_is_refused_wherever_it_ends),
		cmocka_unit_test(machine_survives_whatever_is_in_its_sections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
