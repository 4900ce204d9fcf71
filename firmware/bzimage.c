/*
 * bzImage: the setup header of the Linux boot protocol (the kernel's
 * Documentation/arch/x86/boot.rst) and loading what follows it.
 */
#include "firmware/internal.h"

#include <errno.h>

/* Offsets in the file. */
#define SETUP_SECTS	 0x1f1
#define SYSSIZE		 0x1f4
#define BOOT_FLAG	 0x1fe
#define JUMP		 0x200
#define HEADER_MAGIC	 0x202
#define VERSION		 0x206
#define LOADFLAGS	 0x211
#define INITRD_ADDR_MAX	 0x22c
#define KERNEL_ALIGNMENT 0x230
#define RELOCATABLE	 0x234
#define XLOADFLAGS	 0x236
#define CMDLINE_SIZE	 0x238
#define PAYLOAD_OFFSET	 0x248
#define PAYLOAD_LENGTH	 0x24c
#define PREF_ADDRESS	 0x258
#define INIT_SIZE	 0x260
#define HEADER_END_2_12	 0x268 /* a version 2.12 header reaches at least here */

#define BOOT_FLAG_VALUE	   0xaa55
#define MIN_VERSION	   0x020c /* the first with xloadflags: Linux 3.8 */
#define LOADED_HIGH	   (1u << 0)
#define XLF_KERNEL_64	   (1u << 0)
#define XLF_ABOVE_4G	   (1u << 1)
#define SECTOR		   512u
#define ENTRY_64	   0x200 /* of the 64-bit entry, from where the payload was loaded */

bool fw_bzimage_probe(const uint8_t *head, uint64_t len)
{
	return len >= HEADER_MAGIC + 4 && get_le16(head + BOOT_FLAG) == BOOT_FLAG_VALUE &&
	       !memcmp(head + HEADER_MAGIC, "HdrS", 4);
}

/* The payload: as long as the header says, which the file must hold. */
static int parse_payload(struct fw_kernel *k, const uint8_t *head, struct error *err)
{
	uint32_t sects = head[SETUP_SECTS] ? head[SETUP_SECTS] : 4;
	uint64_t bytes = (uint64_t)get_le32(head + SYSSIZE) * 16;
	uint64_t offset = get_le32(head + PAYLOAD_OFFSET);
	uint64_t length = get_le32(head + PAYLOAD_LENGTH);
	uint64_t there;

	k->setup_bytes = (sects + 1) * SECTOR;
	there = k->file_size > k->setup_bytes ? k->file_size - k->setup_bytes : 0;
	/* The size is in units of 16 bytes, and older kernels do not pad the last. */
	if (there + 15 < bytes)
		return error_usage(err, -ENODATA,
				   "kernel '%s': truncated: %llu of %llu bytes are there",
				   fw_kernel_name(k), (unsigned long long)k->file_size,
				   (unsigned long long)(k->setup_bytes + bytes));
	k->payload_bytes = MIN(bytes, there);
	if (k->payload_bytes <= ENTRY_64 || !range_inside(offset, length, 0, bytes))
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': its header describes no compressed kernel inside",
				   fw_kernel_name(k));
	return 0;
}

int fw_bzimage_parse(struct fw_kernel *k, const uint8_t *head, uint64_t len, struct error *err)
{
	const char *name = fw_kernel_name(k);
	uint16_t version, xloadflags;
	uint64_t header_end;
	int r;

	k->kind = FW_KERNEL_BZIMAGE;
	if (len < HEADER_END_2_12)
		return error_usage(err, -ENODATA, "kernel '%s': truncated in its header", name);
	version = get_le16(head + VERSION);
	/* The short jump over the header ends where the header does. */
	header_end = JUMP + 2 + head[JUMP + 1];
	if (version < MIN_VERSION || header_end < HEADER_END_2_12)
		return error_usage(err, -ENOEXEC,
				   "kernel '%s': boot protocol %u.%02u, but 2.12 is the oldest "
				   "supported",
				   name, version >> 8, version & 0xff);
	xloadflags = get_le16(head + XLOADFLAGS);
	if (!(head[LOADFLAGS] & LOADED_HIGH) || !(xloadflags & XLF_KERNEL_64))
		return error_usage(err, -ENOEXEC, "kernel '%s': not a 64-bit kernel", name);
	r = parse_payload(k, head, err);
	if (r < 0)
		return r;

	k->pref_address = get_le64(head + PREF_ADDRESS);
	k->init_size = get_le32(head + INIT_SIZE);
	k->kernel_alignment = get_le32(head + KERNEL_ALIGNMENT);
	k->relocatable = head[RELOCATABLE];
	k->cmdline_max = get_le32(head + CMDLINE_SIZE);
	k->initrd_addr_max = get_le32(head + INITRD_ADDR_MAX);
	k->initrd_above_4g = xloadflags & XLF_ABOVE_4G;
	if (k->init_size < k->payload_bytes)
		k->init_size = k->payload_bytes;
	if (!is_power_of_two(k->kernel_alignment) || k->kernel_alignment < PAGE_SIZE)
		return error_usage(err, -ENOEXEC, "kernel '%s': an alignment of 0x%x bytes", name,
				   k->kernel_alignment);

	header_end = MIN(header_end, len);
	memcpy(k->setup_header, head + SETUP_SECTS,
	       MIN(header_end - SETUP_SECTS, (uint64_t)sizeof(k->setup_header)));
	return 0;
}

/*
 * Where to load: at the address the kernel prefers. A Linux kernel loaded
 * lower moves itself up to there, so where it does not fit, relocating it down
 * would end in a triple fault instead of a message. One that prefers the low
 * megabyte, which is ours, moves up.
 */
static int choose_address(const struct fw_kernel *k, struct guest_mem *mem, uint64_t *ret_addr,
			  struct error *err)
{
	const char *name = fw_kernel_name(k);
	uint64_t end = guest_mem_low_end(mem);
	uint64_t addr = k->pref_address;

	if (addr < FW_KERNEL_ADDR) {
		if (!k->relocatable)
			return error_usage(err, -ENOEXEC,
					   "kernel '%s': wants to run at 0x%llx, below 1 MiB", name,
					   (unsigned long long)addr);
		addr = align_up(FW_KERNEL_ADDR, k->kernel_alignment);
	}
	if (!range_inside(addr, k->init_size, 0, end)) {
		error_usage(err, -ENOMEM, "kernel '%s': does not fit into %llu MiB of memory", name,
			    (unsigned long long)(guest_mem_first_size(mem) / MiB));
		if (addr < FW_HOLE_START)
			error_hint(err, "it needs %llu MiB to start; see --memory",
				   (unsigned long long)((addr + k->init_size + MiB - 1) / MiB));
		return -ENOMEM;
	}
	*ret_addr = addr;
	return 0;
}

int fw_bzimage_load(const struct fw_kernel *k, struct guest_mem *mem, struct fw_extent *extent,
		    struct fw_start *start, struct error *err)
{
	uint64_t addr = 0;
	void *dst;
	int r;

	r = choose_address(k, mem, &addr, err);
	if (r < 0)
		return r;
	dst = guest_mem_ptr(mem, addr, k->payload_bytes);
	if (!dst)
		return error_usage(err, -EFAULT, "kernel '%s': no memory at 0x%llx",
				   fw_kernel_name(k), (unsigned long long)addr);
	r = fw_kernel_read(k, k->setup_bytes, dst, k->payload_bytes, err);
	if (r < 0)
		return r;
	extent->start = addr;
	extent->end = addr + k->init_size;
	start->entry = FW_ENTRY_LINUX64;
	start->rip = addr + ENTRY_64;
	return 0;
}
