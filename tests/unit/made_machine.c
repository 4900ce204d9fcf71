#include "tests/unit/made_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "vmm/config/config_state.h"

#define PMEM_BYTES (3 * MiB)

int made_file(uint64_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	return fd;
}

static void configure(struct machine_config *c, const char *transport, const char *disk_id)
{
	char disk[64];
	const char *args[] = { "--memory",    "32M",
			       "--cpus",      "2",
			       "--transport", transport,
			       "--disk",      disk,
			       "--pmem",      "/nowhere/p.img,id=cache,ro",
			       "--serial",    "file=/dev/null",
			       "--console",   "none",
			       "--kernel",    "fake",
			       "--name",      "first" };
	struct error err = { 0 };

	snprintf(disk, sizeof(disk), "/nowhere/a.img,id=%s,ro", disk_id ? disk_id : "root");
	config_init(c);
	if (config_parse_run(c, ARRAY_SIZE(args), (char *const *)args, &err) < 0 ||
	    config_validate(c, &err) < 0)
		fail_msg("%s", err.msg);
}

static void open_files(struct made *m, struct machine_files *files)
{
	int pair[2];

	machine_files_init(files);
	files->disk[0] = made_file(m->host.disk_bytes ? m->host.disk_bytes : DISK_BYTES);
	for (unsigned i = 0; i < m->config.num_pmems; i++)
		files->pmem[i] = made_file(PMEM_BYTES);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	files->net[0].socket = pair[0];
	m->net_peer = pair[1];
}

static int create(struct made *m, const struct machine_image *image, struct error *err)
{
	struct machine_params params = { .config = &m->config, .clock = &m->clock, .image = image };
	struct fake_hv_params hv = {
		.tsc_khz = m->host.tsc_khz,
		.tsc_scales = m->host.tsc_scales,
	};
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

void made_free(struct made *m)
{
	machine_free(m->machine);
	config_done(&m->config);
	close(m->net_peer);
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

void made_pause(struct machine *m)
{
	bool paused = false;

	machine_pause(m, set_flag, &paused);
	while (!paused)
		loop_run_once(machine_loop(m), UINT64_MAX);
}

void made_save(struct machine *m, struct state_writer *w)
{
	struct error err = { 0 };

	state_writer_init(w);
	if (machine_save(m, w, &err) < 0)
		fail_msg("%s", err.msg);
}

int made_load_on(struct made *m, const uint8_t *buf, size_t len, const struct made_host *host,
		 struct error *err)
{
	struct machine_image image = {
		.memory_fd = -1,
		.same_identity = true,
		.changed_tsc = host->changed_tsc,
	};
	struct state_set set;
	int r;

	memset(m, 0, sizeof(*m));
	m->host = *host;
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
		image.memory_fd = made_file(m->config.memory_bytes);
		r = create(m, &image, err);
		close(image.memory_fd);
	}
	state_set_close(&set);
	return r;
}

int made_load(struct made *m, const uint8_t *buf, size_t len, struct error *err)
{
	const struct made_host host = { 0 };

	return made_load_on(m, buf, len, &host, err);
}

void made_first_on(struct made *m, const char *transport, const struct made_host *host)
{
	struct error err = { 0 };

	memset(m, 0, sizeof(*m));
	m->host = *host;
	configure(&m->config, transport, m->host.disk_id);
	if (create(m, NULL, &err) < 0)
		fail_msg("%s", err.msg);
	made_pause(m->machine);
}

void made_first(struct made *m, const char *transport)
{
	const struct made_host host = { 0 };

	made_first_on(m, transport, &host);
}

void made_restore_with(struct made *second, const struct state_writer *w, struct made *first,
		       uint64_t gpa, size_t size)
{
	int fd = made_file(32 * MiB);
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
