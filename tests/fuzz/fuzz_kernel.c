/*
 * Fuzz target (libFuzzer): kernel images are files that somebody gave the user.
 * Parse the bytes, and when they pass, load them into a small guest and hold
 * what comes out against what it must be. Input: one byte that chooses the
 * protocol and the memory, then the image.
 *
 * Memory is made once and its low 32 MiB are cleared for each run: what a
 * sanitizer looks for is access outside of the image and of guest memory.
 */
#include <stdlib.h>

#include "firmware/firmware.h"
#include "vmm/hypervisor/x86.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t sizes[] = { 2 * MiB, 32 * MiB, FW_HOLE_START + 8 * MiB };

static struct guest_mem *memory(unsigned choice)
{
	static struct guest_mem *made[ARRAY_SIZE(sizes)];
	uint64_t size = sizes[choice];
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = MIN(size, FW_HOLE_START) },
		{ .gpa = FW_HOLE_END, .size = size > FW_HOLE_START ? size - FW_HOLE_START : 0 },
	};

	if (!made[choice] &&
	    guest_mem_create(&made[choice], GUEST_MEM_ANON, ranges, ranges[1].size ? 2 : 1, NULL))
		abort();
	return made[choice];
}

/* An image that passed must have left a state that a processor accepts. */
static void check(struct guest_mem *mem, const struct fw_start *start)
{
	struct x86_vcpu_state state = { 0 };

	x86_boot_state(&state, start);
	if (!guest_mem_ptr(mem, start->rip, 1) || x86_boot_tables(mem, start) < 0 ||
	    x86_check_vmx(&state, 46, NULL) < 0 || x86_check_svm(&state, 46, NULL) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fw_platform platform = { .num_cpus = 1, .serial = true };
	struct fw_kernel kernel;
	struct fw_boot_config config = {
		.kernel = &kernel,
		.initrd_fd = -1,
		.cmdline = "quiet",
		.platform = &platform,
	};
	struct error err = { 0 };
	struct guest_mem *mem;
	struct fw_start start;

	if (!size || fw_kernel_parse(&kernel, data + 1, size - 1, &err) < 0)
		return 0;
	config.protocol = data[0] % 3;
	mem = memory(data[0] / 3 % ARRAY_SIZE(sizes));
	if (fw_boot_setup(mem, &config, &start, &err) == 0)
		check(mem, &start);
	for (unsigned i = 0; i < mem->num_ranges; i++)
		guest_mem_discard(mem, mem->range[i].gpa, MIN(mem->range[i].size, 32 * MiB));
	return 0;
}
