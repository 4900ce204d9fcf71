/*
 * Fuzz target (libFuzzer): a guest on real KVM whose code is the input. Each is the kernel of a new
 * machine in this process, with devices on either transport; it runs for some milliseconds, in
 * ring 0, with all memory and every device its own. What must hold: nothing that a sanitizer looks
 * for, every machine ends with a reason that can be told, and leaves no descriptor behind.
 *
 * Input: one byte of machine, then code, which begins at 1 MiB in 64-bit mode.
 */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "firmware/firmware.h"
#include "vmm/core/log.h"
#include "vmm/hypervisor/kvm.h"
#include "vmm/machine/machine.h"

#define MEMORY	   (16 * MiB)
#define DISK_BYTES (1 * MiB)
#define CODE_AT	   MiB
#define MAX_CODE   4096u
#define RUN_NS	   (10 * NSEC_PER_MSEC)

/* Of the first byte. */
#define MMIO	 1
#define PACKED	 2
#define NO_CLOCK 4

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer has no argument for what lasts from one input to the next. */
static int kvm_fd;
static struct kvm_host host;

struct run {
	struct machine_config config;
	struct machine_files files;
	int peer; /* the network's other end */
};

static int new_file(const void *data, size_t len, size_t size)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 || pwrite(fd, data, len, 0) != (ssize_t)len)
		abort();
	return fd;
}

/* An ELF kernel of one segment. */
static int new_kernel(const uint8_t *code, size_t len)
{
	struct {
		Elf64_Ehdr header;
		Elf64_Phdr segment;
		uint8_t code[MAX_CODE];
	} image = {
		.header = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				     EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = CODE_AT,
			.e_phoff = sizeof(image.header),
			.e_ehsize = sizeof(image.header),
			.e_phentsize = sizeof(image.segment),
			.e_phnum = 1,
		},
		.segment = {
			.p_type = PT_LOAD,
			.p_offset = sizeof(image.header) + sizeof(image.segment),
			.p_vaddr = CODE_AT,
			.p_paddr = CODE_AT,
			.p_filesz = MAX_CODE,
			.p_memsz = MAX_CODE,
		},
	};

	memcpy(image.code, code, len);
	return new_file(&image, sizeof(image), sizeof(image));
}

static void prepare(struct run *r, const uint8_t *data, size_t size)
{
	static char net[] = "user", disk[] = "disk";
	static char *argv[] = { (char *)"--net", net, (char *)"--disk", disk };
	int pair[2];

	config_init(&r->config);
	machine_files_init(&r->files);
	if (config_parse_run(&r->config, ARRAY_SIZE(argv), argv, NULL) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	r->config.memory_bytes = MEMORY;
	r->config.transport = data[0] & MMIO ? CONFIG_MMIO : CONFIG_PCI;
	r->config.virtio_packed = data[0] & PACKED;
	r->config.rtc = !(data[0] & NO_CLOCK);
	r->config.serial_present = true;
	r->config.serial.kind = CHARDEV_NULL;
	r->config.console_present = true;
	r->config.console.kind = CHARDEV_NULL;
	r->config.test_device = true;
	r->config.loop = LOOP_EPOLL;
	r->peer = pair[1];
	r->files.net[0].socket = pair[0];
	r->files.disk[0] = new_file("", 1, DISK_BYTES);
	if (fw_kernel_open(&r->files.kernel, "input", new_kernel(data + 1, size - 1), NULL) < 0)
		abort();
}

static void run(struct run *r)
{
	struct machine_params params = {
		.config = &r->config,
		.files = &r->files,
		.host_cpuid = &host.cpuid,
	};
	static struct machine_end end;
	struct error err = { 0 };
	struct machine *m;

	if (kvm_create(&params.hv, kvm_fd, &host, &err) < 0 ||
	    machine_create(&m, &params, &err) < 0 || machine_start(m, &err) < 0) {
		error_print(&err);
		abort();
	}
	machine_set_deadline(m, clock_monotonic_ns(NULL) + RUN_NS);
	end = (struct machine_end){ 0 };
	machine_run(m, &end);
	if (end.reason == MACHINE_END_NONE || !machine_end_name(end.reason))
		abort();
	machine_free(m);
}

/* The lowest free descriptor. */
static int next_descriptor(void)
{
	int fd = dup(kvm_fd);

	close(fd);
	return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err = { 0 };

	log_setup(-1, LOG_ERROR);
	kvm_fd = kvm_open(&err);
	if (kvm_fd >= 0 && kvm_host_query(kvm_fd, &host, &err) == 0)
		return 0;
	error_print(&err);
	fputs("fuzz_guest: skipped: it takes a KVM\n", stderr);
	exit(0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { 0 };
	int before = next_descriptor();

	if (size < 2 || size > 1 + MAX_CODE)
		return 0;
	prepare(&r, data, size);
	run(&r);
	machine_files_close(&r.files);
	close(r.peer);
	config_done(&r.config);
	if (next_descriptor() != before)
		abort();
	return 0;
}
