/* A machine in sections, and another one made of them; and what enemies write instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/made_machine.h"
#include "virtio/virtio_devices.h"
#include "vmm/hypervisor/x86_state.h"

static void machine_made_of_a_saved_one_saves_the_same(const char *transport)
{
	struct made first, second;
	struct state_writer a, b;
	struct error err = { 0 };

	made_first(&first, transport);
	made_save(first.machine, &a);
	if (made_load(&second, a.buf, a.len, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(machine_is_paused(second.machine));
	assert_string_equal(second.config.disk[0].id, "root");
	assert_true(second.config.disk[0].read_only);
	assert_string_not_equal(second.config.name, "first");
	made_save(second.machine, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.buf, b.buf, a.len);
	state_writer_done(&a);
	state_writer_done(&b);
	made_free(&first);
	made_free(&second);
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

	made_first(&m, "pci");
	machine_resume(m.machine);
	state_writer_init(&w);
	assert_int_equal(machine_save(m.machine, &w, &err), -EBUSY);
	state_writer_done(&w);
	made_free(&m);
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

	made_first(&first, "pci");
	assert_true(mapping_has(machine_memory(first.machine)->map, " dd"));
	made_save(first.machine, &w);
	assert_int_equal(made_load(&second, w.buf, w.len, &err), 0);
	assert_true(mapping_has(machine_memory(second.machine)->map, " dd"));
	state_writer_done(&w);
	made_free(&first);
	made_free(&second);
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
	struct rate_limits sent = { .bytes = { 300, 90, 0 } };
	struct made first, second;
	struct error err = { 0 };
	struct state_writer w;

	made_first(&first, "pci");
	virtio_blk_limit(device(&first, "root"), &disk);
	virtio_net_limit(device(&first, "net0"), NULL, &tx);
	virtio_pmem_limit(device(&first, "cache"), &flushes);
	serial_limit(first.machine->serial, &sent);
	made_save(first.machine, &w);
	if (made_load(&second, w.buf, w.len, &err) < 0)
		fail_msg("%s", err.msg);
	virtio_blk_limits(device(&second, "root"), &got);
	disk.ops.once = 0; /* it was for the boot */
	assert_memory_equal(&got, &disk, sizeof(got));
	virtio_net_limits(device(&second, "net0"), &other, &got);
	assert_memory_equal(&got, &tx, sizeof(got));
	assert_int_equal(other.bytes.per_second, 0);
	virtio_pmem_limits(device(&second, "cache"), &got);
	assert_memory_equal(&got, &flushes, sizeof(got));
	serial_limits(second.machine->serial, &got);
	assert_memory_equal(&got, &sent, sizeof(got));
	virtio_rng_limits(device(&second, "rng0"), &got);
	assert_int_equal(got.ops.per_second, 0);
	state_writer_done(&w);
	made_free(&first);
	made_free(&second);
}

/* ---- what earlier versions wrote ---- */

/* A disk called @id, as a device of another kind is, with limits of its own. */
static void devices_of_one_name_are_told_apart(const char *id, const char *transport)
{
	const struct made_host host = { .disk_id = id };
	struct rate_limits limits = { .ops = { 10, 20, 0 } }, tx = { .bytes = { 5000, 100, 0 } };
	struct rate_limits got, other;
	struct made first, second;
	struct error err = { 0 };
	struct state_writer a, b;

	made_first_on(&first, transport, &host);
	virtio_blk_limit(machine_virtio(first.machine, VIRTIO_ID_BLOCK, id), &limits);
	virtio_net_limit(machine_virtio(first.machine, VIRTIO_ID_NET, "net0"), NULL, &tx);
	made_save(first.machine, &a);
	if (made_load(&second, a.buf, a.len, &err) < 0)
		fail_msg("%s", err.msg);
	virtio_blk_limits(machine_virtio(second.machine, VIRTIO_ID_BLOCK, id), &got);
	assert_memory_equal(&got, &limits, sizeof(got));
	virtio_net_limits(machine_virtio(second.machine, VIRTIO_ID_NET, "net0"), &other, &got);
	assert_memory_equal(&got, &tx, sizeof(got));
	made_save(second.machine, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.buf, b.buf, a.len);
	state_writer_done(&a);
	state_writer_done(&b);
	made_free(&first);
	made_free(&second);
}

static void a_disk_called_as_another_device_is_saved(void **unused)
{
	devices_of_one_name_are_told_apart("net0", "pci");
	devices_of_one_name_are_told_apart("net0", "mmio");
	devices_of_one_name_are_told_apart("rng0", "pci");
	/* As long as one may be. */
	devices_of_one_name_are_told_apart("abcdefghijklmnopqrstuvwxyz012345", "pci");
	devices_of_one_name_are_told_apart("cache", "pci"); /* as the persistent memory */
}

static void golden_state_is_read(const char *name)
{
	const struct made_host host = { .disk_bytes = 64 * KiB };
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
	if (made_load_on(&m, buf, len, &host, &err) < 0)
		fail_msg("%s: %s", path, err.msg);
	assert_true(machine_is_paused(m.machine));
	assert_string_equal(m.config.disk[0].id, "disk0");
	made_free(&m);
}

static void golden_state_with_pci_and_split_rings_is_read(void **unused)
{
	golden_state_is_read("format-1-pci-split");
}

static void golden_state_with_mmio_and_packed_rings_is_read(void **unused)
{
	golden_state_is_read("format-1-mmio-packed");
}

static void golden_state_with_a_vmclock_is_read(void **unused)
{
	golden_state_is_read("format-3-pci-vmclock");
}

/* ---- hostile files ---- */

static void expect_refused(const uint8_t *buf, size_t len, const char *what)
{
	struct error err = { 0 };
	struct made m;

	if (made_load(&m, buf, len, &err) >= 0)
		fail_msg("accepted: %s", what);
	if (!strstr(err.msg, what))
		fail_msg("'%s' does not name '%s'", err.msg, what);
	made_free(&m);
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

	made_first(&m, "pci");
	made_save(m.machine, &whole);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		without(&whole, names[i], &part);
		expect_refused(part.buf, part.len, names[i]);
		state_writer_done(&part);
	}
	state_writer_done(&whole);
	made_free(&m);
}

static void left_over_section_is_refused_by_name(void **unused)
{
	struct state_writer whole, more;
	struct made m;

	made_first(&m, "pci");
	made_save(m.machine, &whole);
	unsealed(&whole, "", &more);
	state_begin(&more, "disk7", 0, 1);
	state_end(&more);
	state_seal(&more);
	expect_refused(more.buf, more.len, "disk7");
	state_writer_done(&whole);
	state_writer_done(&more);
	made_free(&m);
}

/* A whole state with limits for @id, @times over. */
static void expect_limits_refused(const char *id, unsigned times)
{
	struct state_writer whole, more;
	struct made m;

	made_first(&m, "pci");
	made_save(m.machine, &whole);
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
	made_free(&m);
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

	made_first(&m, "mmio");
	made_save(m.machine, &w);
	for (size_t len = 0; len < w.len; len += len < 4096 ? 1 : 97)
		assert_int_equal(state_set_open(&set, w.buf, len, &err), -EBADMSG);
	state_writer_done(&w);
	made_free(&m);
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
		made_first(&m, transports[t]);
		made_save(m.machine, &w);
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
			if (made_load(&n, bad.buf, bad.len, &err) < 0)
				refused++;
			made_free(&n);
			state_writer_done(&bad);
		}
		state_writer_done(&w);
		made_free(&m);
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
		cmocka_unit_test(limits_changed_while_it_ran_come_along),
		cmocka_unit_test(a_disk_called_as_another_device_is_saved),
		cmocka_unit_test(golden_state_with_pci_and_split_rings_is_read),
		cmocka_unit_test(golden_state_with_mmio_and_packed_rings_is_read),
		cmocka_unit_test(golden_state_with_a_vmclock_is_read),
		cmocka_unit_test(missing_section_is_refused_by_name),
		cmocka_unit_test(left_over_section_is_refused_by_name),
		cmocka_unit_test(limits_of_no_device_are_refused),
		cmocka_unit_test(cut_off_file_is_refused_wherever_it_ends),
		cmocka_unit_test(machine_survives_whatever_is_in_its_sections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
