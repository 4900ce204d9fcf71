/* Seeds for fuzz_state: machines as they are saved, on both transports. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "vmm/machine/machine_state.h"

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

static void must(bool ok, const struct error *err)
{
	if (ok)
		return;
	error_print(err);
	exit(1);
}

static void save_machine(enum config_transport transport, struct state_writer *w)
{
	static const char *const args[] = { "--memory", "32M",	 "--cpus",   "2",
					    "--disk",	"/none", "--kernel", "/none" };
	struct fake_hv_params hv = { 0 };
	struct machine_params params = { 0 };
	struct machine_config config;
	struct machine_files files;
	static struct fake_elf elf;
	struct error err = { 0 };
	struct machine *m;
	bool paused = false;
	int pair[2];

	config_init(&config);
	machine_files_init(&files);
	must(config_parse_run(&config, ARRAY_SIZE(args), (char *const *)args, &err) == 0, &err);
	config.transport = transport;
	config.serial_present = true;
	config.console.kind = config.serial.kind = CHARDEV_NULL;
	fake_elf(&elf, true);
	must(fw_kernel_open(&files.kernel, "fake", fake_file(elf.image, sizeof(elf.image)), &err) ==
		     0,
	     &err);
	files.disk[0] = memfd_create("disk", MFD_CLOEXEC);
	must(ftruncate(files.disk[0], MiB) == 0 &&
		     socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0,
	     &err);
	files.net[0].socket = pair[0];
	params = (struct machine_params){
		.config = &config,
		.hv = fake_hv_create(&hv),
		.files = &files,
	};
	must(machine_create(&m, &params, &err) == 0, &err);
	machine_pause(m, set_flag, &paused);
	while (!paused)
		loop_run_once(machine_loop(m), UINT64_MAX);
	state_writer_init(w);
	must(machine_save(m, w, &err) == 0, &err);
	machine_free(m);
	config_done(&config);
	close(pair[1]);
}

static int save(const char *dir, enum config_transport transport)
{
	struct state_writer w;
	char path[4096];
	FILE *out;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dir, transport == CONFIG_PCI ? "pci" : "mmio");
	save_machine(transport, &w);
	out = fopen(path, "we");
	if (!out)
		return -errno;
	ok = fputc(transport == CONFIG_PCI ? 0 : 1, out) != EOF &&
	     fwrite(w.buf, w.len, 1, out) == 1;
	state_writer_done(&w);
	return fclose(out) == 0 && ok ? 0 : -EIO;
}

int main(int argc, char **argv)
{
	int r;

	if (argc != 2) {
		fputs("usage: seeds_state DIRECTORY\n", stderr);
		return 2;
	}
	r = save(argv[1], CONFIG_PCI);
	if (!r)
		r = save(argv[1], CONFIG_MMIO);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
	return r < 0;
}
