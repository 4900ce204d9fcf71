#include "firmware/internal.h"

#include <errno.h>

static int put_cmdline(const struct fw_boot_config *config, struct guest_mem *mem,
		       struct error *err)
{
	size_t len = strlen(config->cmdline);
	uint64_t max = MIN((uint64_t)config->kernel->cmdline_max, FW_CMDLINE_MAX - 1);

	if (len > max)
		return error_usage(err, -E2BIG,
				   "kernel command line: %zu bytes, but the kernel takes %llu at "
				   "most",
				   len, (unsigned long long)max);
	return guest_mem_write(mem, FW_CMDLINE_ADDR, config->cmdline, len + 1);
}

int fw_boot_setup(struct guest_mem *mem, const struct fw_boot_config *config,
		  struct fw_start *start, struct error *err)
{
	const struct fw_kernel *k = config->kernel;
	struct fw_extent extent = { 0 };
	struct fw_initrd initrd;
	int r;

	*start = (struct fw_start){ 0 };
	if (guest_mem_low_end(mem) <= FW_KERNEL_ADDR)
		return error_usage(err, -ENOMEM, "memory: a kernel needs more than 1 MiB");
	if (k->kind == FW_KERNEL_BZIMAGE && config->protocol == FW_PROTOCOL_PVH)
		return error_usage(err, -EINVAL,
				   "kernel '%s': a bzImage is entered in 64-bit mode only; PVH "
				   "needs its vmlinux",
				   fw_kernel_name(k));
	r = put_cmdline(config, mem, err);
	if (r < 0)
		return r;
	if (k->kind == FW_KERNEL_BZIMAGE)
		r = fw_bzimage_load(k, mem, &extent, start, err);
	else
		r = fw_elf_load(k, mem, config->protocol, &extent, start, err);
	if (!r)
		r = fw_initrd_load(config, mem, &extent, start->entry, &initrd, err);
	if (!r)
		r = fw_acpi_build(mem, config->platform, err);
	if (r < 0)
		return r;

	if (start->entry == FW_ENTRY_PVH) {
		start->rbx = FW_PVH_INFO_ADDR;
		r = fw_pvh_params(config, mem, &initrd, FW_ACPI_ADDR);
	} else {
		start->rsi = FW_ZERO_PAGE_ADDR;
		start->rsp = FW_STACK_ADDR;
		start->cr3 = FW_PAGE_TABLE_ADDR;
		r = fw_linux_params(config, mem, &initrd, FW_ACPI_ADDR);
	}
	return r < 0 ? error_set(err, r, "boot parameters: %m") : 0;
}
