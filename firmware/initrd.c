/*
 * The initial RAM disk: as high in memory as the kernel can read it, so that
 * it is out of the way of whatever the kernel unpacks and allocates early.
 */
#include "firmware/internal.h"

#include <errno.h>
#include <sys/stat.h>

/*
 * The highest place for @size bytes in [from, to) that is page aligned and does
 * not touch the kernel. 0: there is none.
 */
static uint64_t highest_place(uint64_t from, uint64_t to, uint64_t size,
			      const struct fw_extent *kernel)
{
	uint64_t addr;

	if (to < from || to - from < size)
		return 0;
	addr = align_down(to - size, PAGE_SIZE);
	if (addr < kernel->end && kernel->start < addr + size) {
		if (kernel->start < from || kernel->start - from < size)
			return 0;
		addr = align_down(kernel->start - size, PAGE_SIZE);
	}
	return addr >= from ? addr : 0;
}

static uint64_t choose_place(const struct fw_kernel *k, const struct guest_mem *mem, uint64_t size,
			     const struct fw_extent *kernel, enum fw_entry entry)
{
	uint64_t limit = k->initrd_addr_max == UINT64_MAX ? UINT64_MAX : k->initrd_addr_max + 1;
	uint64_t addr;

	addr = highest_place(FW_KERNEL_ADDR, MIN(limit, guest_mem_low_end(mem)), size, kernel);
	/* Linux keeps 32 bits of the address that PVH's module list has. */
	if (!addr && k->initrd_above_4g && entry == FW_ENTRY_LINUX64)
		addr = highest_place(FW_HOLE_END, guest_mem_high_end(mem), size, kernel);
	return addr;
}

static int does_not_fit(const char *name, uint64_t size, const struct guest_mem *mem,
			struct error *err)
{
	error_usage(err, -ENOMEM,
		    "initrd '%s': %llu MiB do not fit beside the kernel in %llu MiB of memory",
		    name, (unsigned long long)((size + MiB - 1) / MiB),
		    (unsigned long long)(guest_mem_first_size(mem) / MiB));
	error_hint(err, "give the guest more with --memory");
	return -ENOMEM;
}

int fw_initrd_load(const struct fw_boot_config *config, struct guest_mem *mem,
		   const struct fw_extent *kernel, enum fw_entry entry, struct fw_initrd *initrd,
		   struct error *err)
{
	const char *name = config->initrd_path ? config->initrd_path : "(unnamed)";
	uint64_t size, addr;
	struct stat st;
	void *dst;
	int r;

	*initrd = (struct fw_initrd){ 0 };
	if (config->initrd_fd < 0)
		return 0;
	if (fstat(config->initrd_fd, &st) < 0)
		return error_usage(err, -errno, "initrd '%s': cannot stat: %m", name);
	if (!S_ISREG(st.st_mode))
		return error_usage(err, -EINVAL, "initrd '%s': not a regular file", name);
	size = st.st_size;
	if (!size)
		return error_usage(err, -ENODATA, "initrd '%s': empty", name);
	/* Both protocols have fields that end there, and no initrd is that large. */
	if (size > UINT32_MAX)
		return does_not_fit(name, size, mem, err);
	addr = choose_place(config->kernel, mem, size, kernel, entry);
	dst = addr ? guest_mem_ptr(mem, addr, size) : NULL;
	if (!dst)
		return does_not_fit(name, size, mem, err);
	r = fw_pread_full(config->initrd_fd, dst, size, 0);
	if (r == -ENODATA)
		return error_usage(err, r, "initrd '%s': the file shrank while it was read", name);
	if (r < 0)
		return error_usage(err, r, "initrd '%s': cannot read: %m", name);
	*initrd = (struct fw_initrd){ .addr = addr, .size = size };
	return 0;
}
