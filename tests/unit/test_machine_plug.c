/* Devices that come and go in a machine over the fake hypervisor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "virtio/virtio_devices.h"
#include "vmm/config/config_parse.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_plug.h"

struct fixture {
	struct machine *m;
	struct machine_config config;
	struct clock clock;
	struct error err;
	int result; /* of the change; 1: not yet */
	int pair[2]; /* what a network is plugged into */
};

static enum fake_step halt(void *arg, unsigned vcpu, struct hv_exit *exit)
{
	return FAKE_STEP_HALT;
}

static int open_file(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 65536), 0);
	return fd;
}

/*
 * With the disks "a" and "b", of a command line that says so, and with @pmems the persistent
 * memories "p" and "q".
 */
static void create_with(struct fixture *x, enum config_transport transport, bool pmems)
{
	char *args[] = { "--net", "none", "--disk", "/a,id=a", "--disk", "/b,id=b", "--console",
			 "none", "--transport", transport == CONFIG_PCI ? "pci" : "mmio",
			 "--kernel", "fake", "--memory", "64M", "--pmem", "/p,id=p", "--pmem",
			 "/q,id=q,ro" };
	const int num_args = ARRAY_SIZE(args) - (pmems ? 0 : 4);
	struct fake_hv_params params = { .guest = halt };
	struct machine_params machine = { .config = &x->config, .clock = &x->clock };
	static struct fake_elf elf;
	struct machine_files files;

	memset(x, 0, sizeof(*x));
	config_init(&x->config);
	assert_int_equal(config_parse_run(&x->config, num_args, args, &x->err), 0);
	clock_init_virtual(&x->clock, NSEC_PER_SEC, 1700000000 * NSEC_PER_SEC);
	machine_files_init(&files);
	for (unsigned i = 0; i < 2; i++) {
		files.disk[i] = open_file();
		files.pmem[i] = open_file();
	}
	fake_elf(&elf, true);
	assert_int_equal(fw_kernel_open(&files.kernel, "fake",
					fake_file(elf.image, sizeof(elf.image)), &x->err),
			 0);
	machine.hv = fake_hv_create(&params);
	machine.files = &files;
	if (machine_create(&x->m, &machine, &x->err) < 0)
		fail_msg("%s", x->err.msg);
	machine_files_close(&files);
	assert_int_equal(machine_start(x->m, &x->err), 0);
}

static void create(struct fixture *x, enum config_transport transport)
{
	create_with(x, transport, false);
}

static void end(struct fixture *x)
{
	struct machine_end end;

	machine_end(x->m, MACHINE_END_ASKED, 0, NULL);
	machine_run(x->m, &end);
	machine_free(x->m);
	config_done(&x->config);
}

static void done(void *arg, int r, const struct error *err)
{
	struct fixture *x = arg;

	x->result = r;
	if (r < 0)
		x->err = *err;
}

static int await(struct fixture *x)
{
	while (x->result > 0)
		loop_run_once(x->m->loop, UINT64_MAX);
	return x->result;
}

static int plug(struct fixture *x, const char *value)
{
	struct machine_config config = { 0 };
	struct config_parse p = { .config = &config, .option = "--disk", .err = &x->err };
	struct machine_files files;
	struct machine_addition a = {
		.kind = CONFIG_DEVICE_DISK, .config = &config, .value = value, .files = &files,
	};

	machine_files_init(&files);
	assert_int_equal(config_parse_disk(&p, value, &config), 0);
	files.disk[0] = open_file();
	x->result = 1;
	machine_plug(x->m, &a, done, x);
	return await(x);
}

static int plug_net(struct fixture *x, const char *value)
{
	struct machine_config config = { 0 };
	struct config_parse p = { .config = &config, .option = "--net", .err = &x->err };
	struct machine_files files;
	struct machine_addition a = {
		.kind = CONFIG_DEVICE_NET, .config = &config, .value = value, .files = &files,
	};

	machine_files_init(&files);
	assert_int_equal(config_parse_net(&p, value, &config), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, x->pair), 0);
	files.net[0].socket = x->pair[0];
	x->result = 1;
	machine_plug(x->m, &a, done, x);
	await(x);
	close(x->pair[1]);
	return x->result;
}

static int plug_pmem(struct fixture *x, const char *value)
{
	struct machine_config config = { 0 };
	struct config_parse p = { .config = &config, .option = "--pmem", .err = &x->err };
	struct machine_files files;
	struct machine_addition a = {
		.kind = CONFIG_DEVICE_PMEM, .config = &config, .value = value, .files = &files,
	};

	machine_files_init(&files);
	assert_int_equal(config_parse_pmem(&p, value, &config), 0);
	if (*config.pmem[0].path != '/') {
		free(config.pmem[0].path);
		config.pmem[0].path = strdup("/there/f,1");
	}
	files.pmem[0] = open_file();
	x->result = 1;
	machine_plug(x->m, &a, done, x);
	return await(x);
}

static int unplug(struct fixture *x, const char *id)
{
	x->result = 1;
	machine_unplug(x->m, id, NSEC_PER_SEC, false, done, x);
	return await(x);
}

static struct virtio_device *device(const struct fixture *x, const char *id)
{
	for (unsigned i = 0; i < x->m->num_virtio; i++)
		if (!strcmp(x->m->virtio[i].dev->id, id))
			return x->m->virtio[i].dev;
	return NULL;
}

/* The disks, in order, of a machine that is made of what this one is described by. */
static void described(const struct fixture *x, const char *want)
{
	struct machine_config c;
	struct error err = { 0 };
	char text[200] = "";

	config_init(&c);
	if (config_parse_run(&c, (int)x->m->config->num_args, x->m->config->args, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(config_validate(&c, &err), 0);
	for (unsigned i = 0; i < c.num_disks; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s:%u ", c.disk[i].id,
			 c.disk[i].slot);
	for (unsigned i = 0; i < c.num_pmems; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s:%u@%llx ",
			 c.pmem[i].id, c.pmem[i].slot, (unsigned long long)c.pmem[i].gpa);
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "empty %x", c.empty_slots);
	assert_string_equal(text, want);
	config_done(&c);
}

/* ---- promises ---- */

static void a_disk_comes_and_goes(void **state)
{
	struct fixture x;

	create(&x, CONFIG_PCI);
	described(&x, "a:0 b:0 empty 0");
	assert_int_equal(plug(&x, "/c,id=c"), 0);
	assert_non_null(device(&x, "c"));
	assert_false(machine_is_paused(x.m));
	/* Behind a, b, and the source of random numbers. */
	described(&x, "a:0 b:0 c:4 empty 0");
	assert_int_equal(x.m->config->num_disks, 3);
	assert_int_equal(unplug(&x, "c"), 0);
	assert_null(device(&x, "c"));
	described(&x, "a:0 b:0 empty 0");
	end(&x);
}

static void those_of_the_start_leave_their_slots_empty(void **state)
{
	struct fixture x;

	create(&x, CONFIG_PCI);
	assert_int_equal(unplug(&x, "a"), 0);
	described(&x, "b:0 empty 2");
	/* The next one is in the first slot that is free, by a name that nobody has. */
	assert_int_equal(plug(&x, "/c"), 0);
	described(&x, "b:0 disk0:1 empty 2");
	assert_int_equal(plug(&x, "/d,id=a"), 0);
	assert_int_equal(unplug(&x, "a"), 0);
	assert_int_equal(unplug(&x, "b"), 0);
	described(&x, "disk0:1 empty 6");
	end(&x);
}

/* What is asked for by name and slot is written down once; and a path may look like anything. */
static void what_it_is_described_by_is_what_was_meant(void **state)
{
	struct fixture x;

	create(&x, CONFIG_PCI);
	assert_int_equal(plug(&x, "/c,id=c,slot=9"), 0);
	described(&x, "a:0 b:0 c:9 empty 0");
	assert_int_equal(plug(&x, "/d,,id=e,,slot=9"), 0);
	described(&x, "a:0 b:0 c:9 disk0:4 empty 0");
	/* It was opened by somebody in another directory. */
	assert_int_equal(plug_pmem(&x, "f,,1,ro"), 0);
	assert_string_equal(x.m->config->args[x.m->config->num_args - 1],
			    "/there/f,,1,ro,id=pmem0,address=0x500000000,slot=5");
	end(&x);
}

static void what_cannot_be_changes_nothing(void **state)
{
	struct fixture x;

	create(&x, CONFIG_PCI);
	assert_int_equal(plug(&x, "/c,id=a"), -EEXIST);
	assert_string_equal(x.err.msg, "there is a disk 'a' already");
	assert_int_equal(plug(&x, "/b,id=c"), -EEXIST);
	assert_string_equal(x.err.msg, "--disk: '/b' is given twice; only read-only disks (ro) may "
				       "share a file");
	assert_int_equal(plug(&x, "/c,slot=2"), -EBUSY);
	assert_string_equal(x.err.msg, "no such slot of the PCI bus is free");
	assert_int_equal(unplug(&x, "c"), -ENOENT);
	assert_int_equal(unplug(&x, "rng0"), -ENOENT);
	described(&x, "a:0 b:0 empty 0");
	assert_int_equal(x.m->config->num_disks, 2);
	end(&x);
	create(&x, CONFIG_MMIO);
	assert_int_equal(plug(&x, "/c,id=c"), -ENOTSUP);
	assert_int_equal(unplug(&x, "a"), -ENOTSUP);
	assert_string_equal(x.err.msg, "devices come and go on a PCI bus only");
	end(&x);
}

static void a_disk_and_a_network_may_have_one_name(void **state)
{
	struct error err = { 0 };
	struct fixture x;

	create(&x, CONFIG_PCI);
	assert_ptr_equal(machine_virtio_named(x.m, "a", &err), device(&x, "a"));
	assert_int_equal(plug_net(&x, "switch=s,id=a"), 0);
	assert_int_equal(plug_net(&x, "switch=s,id=a"), -EEXIST);
	assert_string_equal(x.err.msg, "there is a network 'a' already");
	assert_int_equal(unplug(&x, "a"), -EEXIST);
	assert_string_equal(x.err.msg, "'a' is the name of a disk and of a network: say disk:a or "
				       "net:a");
	assert_int_equal(unplug(&x, "pmem:a"), -ENOENT);
	assert_int_equal(unplug(&x, "rng:a"), -ENOENT);
	assert_int_equal(unplug(&x, "disk:"), -ENOENT);
	/* Each goes alone, and is gone alone in what the machine is described by. */
	assert_int_equal(unplug(&x, "net:a"), 0);
	assert_int_equal(x.m->config->num_nets, 0);
	described(&x, "a:0 b:0 empty 0");
	assert_int_equal(plug_net(&x, "switch=s,id=a"), 0);
	assert_int_equal(unplug(&x, "disk:a"), 0);
	assert_null(machine_virtio(x.m, VIRTIO_ID_BLOCK, "a"));
	assert_non_null(machine_virtio(x.m, VIRTIO_ID_NET, "a"));
	assert_int_equal(x.m->config->num_nets, 1);
	described(&x, "b:0 empty 2");
	/* Now there is no doubt. */
	assert_int_equal(unplug(&x, "a"), 0);
	described(&x, "b:0 empty 2");
	end(&x);
}

/* Where the guest has it; and what is in it comes and goes with it. */
static uint64_t area_of(const struct fixture *x, const char *id)
{
	struct virtio_pmem_area area;

	virtio_pmem_area(machine_virtio(x->m, VIRTIO_ID_PMEM, id), &area);
	return area.gpa;
}

static int touch(const struct fixture *x, uint64_t gpa)
{
	return fake_hv_write(x->m->hv, gpa, "word", 4);
}

static void persistent_memory_comes_and_goes(void **state)
{
	struct fixture x;
	uint64_t gpa, next;

	create(&x, CONFIG_PCI);
	assert_int_equal(plug_pmem(&x, "/p,id=p"), 0);
	gpa = area_of(&x, "p");
	assert_int_equal(touch(&x, gpa), 0);
	/* Another one lies behind it, and the next where the first of them was. */
	assert_int_equal(plug_pmem(&x, "/q,id=a,ro"), 0);
	next = area_of(&x, "a");
	assert_int_equal(next, gpa + VIRTIO_PMEM_ALIGN);
	assert_int_equal(touch(&x, next), -EPERM);
	assert_int_equal(unplug(&x, "a"), -EEXIST);
	assert_string_equal(x.err.msg, "'a' is the name of a disk and of persistent memory: say "
				       "disk:a or pmem:a");
	assert_int_equal(unplug(&x, "pmem:a"), 0);
	assert_int_equal(touch(&x, next), -EFAULT);
	assert_int_equal(touch(&x, gpa), 0);
	assert_int_equal(unplug(&x, "p"), 0);
	assert_int_equal(touch(&x, gpa), -EFAULT);
	assert_int_equal(plug_pmem(&x, "/p"), 0);
	assert_int_equal(area_of(&x, "pmem0"), gpa);
	described(&x, "a:0 b:0 pmem0:4@500000000 empty 0");
	assert_int_equal(plug_pmem(&x, "/r,id=pmem0"), -EEXIST);
	assert_string_equal(x.err.msg, "there is persistent memory 'pmem0' already");
	assert_int_equal(plug_pmem(&x, "/r,id=r,address=0x500000000"), -ERANGE);
	described(&x, "a:0 b:0 pmem0:4@500000000 empty 0");
	end(&x);
}

/* Also when another one of the start is not in front of it any more. */
static void persistent_memory_stays_where_it_is(void **state)
{
	char want[100];
	struct fixture x;
	uint64_t p, q;

	create_with(&x, CONFIG_PCI, true);
	p = area_of(&x, "p");
	q = area_of(&x, "q");
	assert_int_equal(q, p + VIRTIO_PMEM_ALIGN);
	assert_int_equal(unplug(&x, "p"), 0);
	assert_int_equal(touch(&x, p), -EFAULT);
	snprintf(want, sizeof(want), "a:0 b:0 q:0@%llx empty 8", (unsigned long long)q);
	described(&x, want);
	assert_int_equal(plug_pmem(&x, "/r,id=r"), 0);
	assert_int_equal(area_of(&x, "r"), q + VIRTIO_PMEM_ALIGN);
	/* Where nothing is behind it that is of the start. */
	assert_int_equal(unplug(&x, "q"), 0);
	snprintf(want, sizeof(want), "a:0 b:0 r:3@%llx empty 18",
		 (unsigned long long)(q + VIRTIO_PMEM_ALIGN));
	described(&x, want);
	end(&x);
}

static void a_driver_is_asked_and_waited_for(void **state)
{
	struct virtio_device *dev;
	struct fixture x;

	create(&x, CONFIG_PCI);
	dev = device(&x, "a");
	virtio_set_status(dev, VIRTIO_CONFIG_S_ACKNOWLEDGE, false);
	x.result = 1;
	machine_unplug(x.m, "a", NSEC_PER_SEC, false, done, &x);
	assert_int_equal(x.result, 1);
	/* What it was not asked for says nothing. */
	machine_ejected(x.m, 1u << 2);
	loop_run_once(x.m->loop, 0);
	assert_int_equal(x.result, 1);
	assert_non_null(device(&x, "b"));
	machine_ejected(x.m, 1u << 1);
	assert_int_equal(await(&x), 0);
	assert_null(device(&x, "a"));
	/* Whoever asks for one that is gone, or that nobody asked about. */
	machine_ejected(x.m, UINT32_MAX);
	loop_run_once(x.m->loop, 0);
	assert_non_null(device(&x, "b"));
	end(&x);
}

static void a_driver_that_holds_on_keeps_its_device(void **state)
{
	struct fixture x;

	create(&x, CONFIG_PCI);
	virtio_set_status(device(&x, "a"), VIRTIO_CONFIG_S_ACKNOWLEDGE, false);
	x.result = 1;
	machine_unplug(x.m, "a", NSEC_PER_SEC, false, done, &x);
	clock_advance(&x.clock, 2 * NSEC_PER_SEC);
	assert_int_equal(await(&x), -ETIMEDOUT);
	assert_string_equal(x.err.msg, "the guest does not let go of 'a'");
	assert_non_null(device(&x, "a"));
	x.result = 1;
	machine_unplug(x.m, "a", NSEC_PER_SEC, true, done, &x);
	clock_advance(&x.clock, 2 * NSEC_PER_SEC);
	assert_int_equal(await(&x), 0);
	assert_null(device(&x, "a"));
	/* Its end while one is still to go. */
	virtio_set_status(device(&x, "b"), VIRTIO_CONFIG_S_ACKNOWLEDGE, false);
	machine_unplug(x.m, "b", NSEC_PER_SEC, false, done, &x);
	end(&x);
}

static void a_machine_that_stands_still_does_so_afterwards(void **state)
{
	struct fixture x;

	create(&x, CONFIG_PCI);
	machine_pause(x.m, NULL, NULL);
	while (!machine_is_paused(x.m))
		loop_run_once(x.m->loop, UINT64_MAX);
	assert_int_equal(plug(&x, "/c,id=c"), 0);
	assert_true(machine_is_paused(x.m));
	assert_int_equal(unplug(&x, "a"), 0);
	assert_true(machine_is_paused(x.m));
	described(&x, "b:0 c:4 empty 2");
	machine_resume(x.m);
	assert_int_equal(unplug(&x, "c"), 0);
	end(&x);
}

/* Somebody who asks for the disk "a" as soon as its device is being freed. */
struct passer_by {
	struct loop_task task;
	struct loop_event event;
	int fd;
	struct fixture *x;
	unsigned calls;
	bool found;
};

static void stands_still(void *arg)
{
	struct passer_by *p = arg;

	/* A round later the device has been reset. */
	if (machine_is_paused(p->x->m))
		loop_post(p->x->m->loop, &p->task);
}

static void comes_in(struct loop_task *task)
{
	eventfd_write(container_of(task, struct passer_by, task)->fd, 1);
}

static void asks(struct loop_event *ev)
{
	struct passer_by *p = container_of(ev, struct passer_by, event);
	struct machine *m = p->x->m;
	struct error err = { 0 };

	p->calls++;
	p->found |= machine_virtio_named(m, "a", &err) != NULL;
	for (unsigned i = 0; i < m->config->num_disks; i++)
		p->found |= !strcmp(m->config->disk[i].id, "a") ||
			    fcntl(m->disk_fd[i], F_GETFD) < 0;
}

/* As a driver does it; then its doorbells are watched, which takes the loop to end. */
static void drive(struct virtio_device *dev)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	virtio_set_status(dev, status, true);
	virtio_set_features(dev, 1, 1);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	virtio_set_status(dev, status, true);
	dev->queue[0].size = 16;
	dev->queue[0].desc_gpa = 0x2800000;
	dev->queue[0].driver_gpa = 0x2801000;
	dev->queue[0].device_gpa = 0x2802000;
	dev->queue[0].ready = true;
	virtio_set_status(dev, status | VIRTIO_CONFIG_S_DRIVER_OK, true);
}

/* Freeing it runs the loop, and other requests with it. */
static void a_disk_that_is_being_freed_is_not_found(bool plugged)
{
	struct passer_by p = { .task.run = comes_in, .event.fired = asks };
	struct fixture x;

	create(&x, CONFIG_PCI);
	if (plugged) {
		assert_int_equal(unplug(&x, "a"), 0);
		assert_int_equal(plug(&x, "/c,id=a"), 0);
	}
	drive(device(&x, "a"));
	p.x = &x;
	p.fd = eventfd(0, EFD_CLOEXEC);
	loop_event_watch(x.m->loop, &p.event, p.fd);
	machine_watch(x.m, stands_still, &p);
	x.result = 1;
	machine_unplug(x.m, "a", 0, true, done, &x);
	assert_int_equal(await(&x), 0);
	assert_int_equal(p.calls, 1);
	assert_false(p.found);
	described(&x, "b:0 empty 2");
	machine_watch(x.m, NULL, NULL);
	loop_event_unwatch(&p.event);
	while (!loop_event_idle(&p.event))
		loop_run_once(x.m->loop, UINT64_MAX);
	close(p.fd);
	end(&x);
}

static void a_disk_that_goes_is_not_found_by_others(void **state)
{
	a_disk_that_is_being_freed_is_not_found(false);
	a_disk_that_is_being_freed_is_not_found(true);
}

static void what_failed_is_no_change(void **state)
{
	struct fixture x;

	create(&x, CONFIG_PCI);
	assert_false(machine_was_plugged(x.m));
	assert_int_equal(unplug(&x, "c"), -ENOENT);
	assert_int_equal(plug(&x, "/b,id=c"), -EEXIST);
	assert_false(machine_was_plugged(x.m));
	assert_int_equal(x.m->generation, 0);
	assert_int_equal(plug(&x, "/c,id=c"), 0);
	assert_true(machine_was_plugged(x.m));
	assert_int_equal(x.m->generation, 1);
	/* One that came and went is like none; one of the start that went is missing. */
	assert_int_equal(unplug(&x, "c"), 0);
	assert_false(machine_was_plugged(x.m));
	assert_int_equal(x.m->generation, 2);
	assert_int_equal(unplug(&x, "a"), 0);
	assert_true(machine_was_plugged(x.m));
	assert_int_equal(x.m->generation, 3);
	end(&x);
}

/*
 * As "stop" does. To tell KVM of a vCPU that it stood still waits until that has left the guest,
 * which one that runs may never do.
 */
static void machine_that_is_resumed_while_it_stands_still_for_a_device_goes_on_once(void **state)
{
	struct fixture x;
	uint64_t runs;

	create(&x, CONFIG_PCI);
	runs = x.m->runs;
	x.result = 1;
	machine_unplug(x.m, "a", 0, true, done, &x);
	while (!x.m->holds && x.result > 0)
		loop_run_once(x.m->loop, UINT64_MAX);
	assert_int_equal(x.m->holds, 1);
	machine_resume(x.m);
	assert_true(x.m->resume_due);
	assert_int_equal(await(&x), 0);
	assert_false(machine_is_paused(x.m));
	assert_int_equal(x.m->runs, runs + 1);
	machine_resume(x.m);
	assert_int_equal(x.m->runs, runs + 1);
	end(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			machine_that_is_resumed_while_it_stands_still_for_a_device_goes_on_once),
		cmocka_unit_test(a_disk_comes_and_goes),
		cmocka_unit_test(those_of_the_start_leave_their_slots_empty),
		cmocka_unit_test(what_it_is_described_by_is_what_was_meant),
		cmocka_unit_test(what_cannot_be_changes_nothing),
		cmocka_unit_test(a_disk_and_a_network_may_have_one_name),
		cmocka_unit_test(persistent_memory_comes_and_goes),
		cmocka_unit_test(persistent_memory_stays_where_it_is),
		cmocka_unit_test(a_driver_is_asked_and_waited_for),
		cmocka_unit_test(a_driver_that_holds_on_keeps_its_device),
		cmocka_unit_test(a_machine_that_stands_still_does_so_afterwards),
		cmocka_unit_test(a_disk_that_goes_is_not_found_by_others),
		cmocka_unit_test(what_failed_is_no_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
