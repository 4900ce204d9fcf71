/*
 * Fuzz target (libFuzzer): a saved machine that an enemy wrote. The input is a
 * state file; its checksums are made good first, as an enemy would. Whatever
 * is in it, it is refused with a reason or becomes a machine whose queues can
 * run, whose state can be saved again, and which can be freed.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/config/config_state.h"
#include "vmm/hypervisor/hv_null.h"
#include "vmm/machine/machine_state.h"

#define HEADER	    80u
#define AT_VERSION  4
#define AT_INSTANCE 8
#define AT_LENGTH   16
#define AT_NAME	    32
#define NAME_BYTES  48

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Write the sections of @data anew, with what a writer adds to them. */
static void repair(const uint8_t *data, size_t size, struct state_writer *w)
{
	bool sealed = false;

	state_writer_init(w);
	while (size >= HEADER && !sealed) {
		uint64_t len = MIN(get_le64(data + AT_LENGTH), (uint64_t)size - HEADER);
		char name[NAME_BYTES] = "";

		memcpy(name, data + AT_NAME, NAME_BYTES - 1);
		sealed = !strcmp(name, "end");
		if (!sealed) {
			state_begin(w, name, get_le32(data + AT_INSTANCE),
				    get_le32(data + AT_VERSION));
			state_put_bytes(w, data + HEADER, len);
			state_end(w);
		}
		data += HEADER + len;
		size -= HEADER + len;
	}
	state_seal(w);
}

static const char *const machine_args[] = { "--memory", "32M",	 "--cpus",   "2",
					    "--disk",	"/none", "--kernel", "/none" };

/* What the file says is parsed, and left: it names files of the host's. */
static void try_config(struct state_set *set)
{
	struct machine_config c;
	struct error err = { 0 };

	config_init(&c);
	if (config_load(&c, set, &err) == 0)
		config_validate(&c, &err);
	config_done(&c);
}

static int new_file(uint64_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, size) < 0)
		abort();
	return fd;
}

static void drained(void *arg)
{
	*(bool *)arg = true;
}

/* Let its queues run on memory of zeroes, then stop and save it. */
static void use(struct machine *m)
{
	struct state_writer w;
	struct error err = { 0 };
	bool paused = false;

	machine_resume(m);
	for (unsigned i = 0; i < 4; i++)
		loop_run_once(machine_loop(m), 0);
	machine_pause(m, drained, &paused);
	while (!paused)
		loop_run_once(machine_loop(m), UINT64_MAX);
	state_writer_init(&w);
	machine_save(m, &w, &err);
	state_writer_done(&w);
}

static void try_machine(struct state_set *set, enum config_transport transport)
{
	struct machine_image image = { .state = set };
	struct machine_params params = { .image = &image };
	struct machine_config config;
	struct machine_files files;
	struct error err = { 0 };
	struct machine *m = NULL;
	int pair[2];

	config_init(&config);
	machine_files_init(&files);
	if (config_parse_run(&config, ARRAY_SIZE(machine_args), (char *const *)machine_args, &err) <
		    0 ||
	    hv_null_create(&params.hv) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	config.transport = transport;
	config.serial_present = true;
	config.console.kind = config.serial.kind = CHARDEV_NULL;
	config.loop = LOOP_EPOLL;
	params.config = &config;
	params.files = &files;
	files.disk[0] = new_file(MiB);
	files.net[0].socket = pair[0];
	image.memory_fd = new_file(config.memory_bytes);
	if (machine_create(&m, &params, &err) == 0)
		use(m);
	else
		params.hv->ops->free(params.hv);
	machine_free(m);
	machine_files_close(&files);
	config_done(&config);
	close(image.memory_fd);
	close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = { 0 };
	struct state_set set;
	struct state_writer w;

	if (size < 1)
		return 0;
	log_setup(STDERR_FILENO, LOG_ERROR);
	/* As it is, for the reader of sections; then as good as its writer could make it. */
	if (state_set_open(&set, data + 1, size - 1, &err) == 0)
		state_set_close(&set);
	repair(data + 1, size - 1, &w);
	if (state_set_open(&set, w.buf, w.len, &err) == 0) {
		if (machine_check_state(&set, &err) == 0) {
			try_config(&set);
			try_machine(&set, data[0] & 1 ? CONFIG_MMIO : CONFIG_PCI);
		}
		state_set_close(&set);
	}
	state_writer_done(&w);
	return 0;
}
