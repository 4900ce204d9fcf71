/*
 * All that a guest finds before its first instruction: the kernel image, the
 * initial RAM disk, boot parameters, the memory map, the command line, ACPI.
 *
 * Works on guest memory alone; no hypervisor, no threads. Kernel images and
 * the user's strings are untrusted: every field is checked against the file
 * and against memory before it is used.
 */
#ifndef WISP_FIRMWARE_H
#define WISP_FIRMWARE_H

#include "vmm/core/error.h"
#include "vmm/core/guest_mem.h"

/* Where things go in low memory; all below 1 MiB and out of the way of any kernel. */
#define FW_GDT_ADDR	   0x0500ull
#define FW_PVH_INFO_ADDR   0x6000ull /* hvm_start_info, module list, memory map */
#define FW_ZERO_PAGE_ADDR  0x7000ull
#define FW_STACK_ADDR	   0x8ff0ull
#define FW_PAGE_TABLE_ADDR 0x9000ull /* PML4, PDPT, 4 PDs: identity map of 4 GiB */
#define FW_CMDLINE_ADDR	   0x20000ull
#define FW_CMDLINE_MAX	   0x10000ull
#define FW_LOW_RAM_END	   0x9fc00ull /* end of conventional memory (EBDA) */
#define FW_VMGENID_ADDR	   0x9fc00ull /* 16 bytes in that reserved RAM, see ACPI */
#define FW_ACPI_ADDR	   0xe0000ull /* RSDP first; reserved in e820 */
#define FW_ACPI_SIZE	   0x1f000ull
#define FW_VMCLOCK_ADDR	   0xff000ull /* a page, firmware/vmclock.h; reserved in e820 too */
#define FW_KERNEL_ADDR	   0x100000ull

/* The 32-bit hole: RAM ends at 3 GiB at the latest and goes on at 4 GiB. */
#define FW_HOLE_START	   0xc0000000ull
#define FW_HOLE_END	   0x100000000ull
#define FW_VIRTIO_MMIO_ADDR 0xd0000000ull /* 4 KiB apart */
#define FW_ECAM_ADDR	   0xe8000000ull
#define FW_ECAM_SIZE	   0x00100000ull /* one bus */
#define FW_PCI_MMIO32_ADDR 0xc0000000ull
#define FW_PCI_MMIO32_SIZE 0x10000000ull
#define FW_IOAPIC_ADDR	   0xfec00000ull
#define FW_LAPIC_ADDR	   0xfee00000ull
#define FW_KVM_IDENTITY_ADDR 0xfeffc000ull
#define FW_KVM_TSS_ADDR	   0xfeffd000ull /* three pages */

enum fw_entry {
	FW_ENTRY_LINUX64, /* long mode, rsi = zero page (Documentation/x86/boot.rst) */
	FW_ENTRY_PVH,	  /* 32-bit protected mode, ebx = hvm_start_info */
	FW_ENTRY_RESET,	  /* real mode at the reset vector (external firmware) */
};

enum fw_protocol { FW_PROTOCOL_AUTO, FW_PROTOCOL_LINUX64, FW_PROTOCOL_PVH };

enum fw_kernel_kind { FW_KERNEL_BZIMAGE, FW_KERNEL_ELF };

/* A loadable part of an ELF image; checked against the file and against the other parts. */
struct fw_segment {
	uint64_t gpa, mem_size;
	uint64_t offset, file_size; /* the first @file_size bytes; the rest is zero */
};

#define FW_MAX_SEGMENTS 32

/* A kernel image, opened and its headers checked; nothing loaded yet. */
struct fw_kernel {
	enum fw_kernel_kind kind;
	int fd;		     /* owned; -1 when the image is in memory */
	const uint8_t *data; /* borrowed bytes in place of a file */
	uint64_t file_size;
	char *path;	     /* for messages; NULL when the image is in memory */

	/* bzImage */
	uint8_t setup_header[0x280 - 0x1f1]; /* from offset 0x1f1, zero past its end */
	uint32_t setup_bytes;	 /* real-mode part, in front of the payload */
	uint64_t payload_bytes;	 /* what is loaded */
	uint64_t pref_address;
	uint64_t init_size;	 /* memory it needs from its load address on until it is up */
	uint32_t kernel_alignment;
	bool relocatable;
	bool initrd_above_4g; /* XLF_CAN_BE_LOADED_ABOVE_4G */

	/* ELF */
	struct fw_segment segment[FW_MAX_SEGMENTS]; /* ascending, none overlaps another */
	unsigned num_segments;
	uint64_t elf_entry;	 /* physical, e_entry translated; 0 when in no segment */
	uint64_t pvh_entry;	 /* physical, 0 without the note */

	/* both */
	uint32_t cmdline_max;	 /* bytes without the terminating zero */
	uint64_t initrd_addr_max; /* last byte that the initrd may use */
};

/*
 * Open and check a kernel image. Refuses with the reason: not a kernel, truncated,
 * too old a boot protocol, no 64-bit entry, segments that overlap, wrap or lie
 * outside the file. @fd belongs to the kernel when this succeeds.
 */
int fw_kernel_open(struct fw_kernel **ret_kernel, const char *path, int fd, struct error *err);
/* The same checks over bytes in memory (tests and fuzzing); @data is borrowed. */
int fw_kernel_parse(struct fw_kernel *k, const uint8_t *data, uint64_t len, struct error *err);
void fw_kernel_free(struct fw_kernel *k);
/* Is it a kernel of Linux, or at least of its size, and not some small payload? */
bool fw_kernel_is_linux(const struct fw_kernel *k);

struct fw_mmio_device {
	uint64_t base;
	uint32_t size;
	uint32_t gsi;
};

#define FW_MAX_CPUS	    1024
#define FW_MAX_MMIO_DEVICES 32

/* What the tables and the memory map must describe. */
struct fw_platform {
	unsigned num_cpus;
	const uint32_t *apic_ids; /* of each CPU; NULL: 0, 1, 2, ... */
	bool serial;		  /* COM1 */
	bool rtc;		  /* clear: FADT says there is no CMOS RTC */
	bool pci;
	const uint32_t *intx_gsi; /* of INTA..INTD */
	uint64_t pci_mmio64_base, pci_mmio64_size;
	bool vmgenid, vmclock;
	const struct fw_mmio_device *mmio;
	unsigned num_mmio;
};

struct fw_boot_config {
	struct fw_kernel *kernel;
	enum fw_protocol protocol;
	int initrd_fd; /* -1: none */
	const char *initrd_path;
	const char *cmdline;
	const struct fw_platform *platform;
};

/* How the boot processor starts. */
struct fw_start {
	enum fw_entry entry;
	uint64_t rip;
	uint64_t rsi; /* zero page (LINUX64) */
	uint64_t rbx; /* hvm_start_info (PVH) */
	uint64_t rsp;
	uint64_t cr3; /* LINUX64 */
};

/*
 * Load kernel, initrd, command line, memory map and tables into @mem, which is
 * fresh: all zero, nothing of it running; fill @start.
 *
 * A bzImage is entered by the 64-bit boot protocol. An ELF image is entered
 * through PVH when it has the note, the one entry that every kind of kernel
 * means the same by (Linux gets from there to its 64-bit entry in a few
 * thousand instructions), else at e_entry in long mode. The page-aligned parts
 * of an ELF file are mapped over anonymous guest memory instead of being copied
 * (guest_mem_map_file()).
 *
 * Errors are the user's (kind USAGE): an initrd or kernel that does not fit, a
 * command line too long.
 */
int fw_boot_setup(struct guest_mem *mem, const struct fw_boot_config *config,
		  struct fw_start *start, struct error *err);

struct fw_e820 {
	uint64_t addr, size;
	uint32_t type; /* 1 RAM, 2 reserved, 3 ACPI */
};

/* The memory map given to the guest; returns the number of entries (at most @max). */
unsigned fw_memory_map(const struct guest_mem *mem, const struct fw_platform *platform,
		       struct fw_e820 *map, unsigned max);

/* Build the ACPI tables at FW_ACPI_ADDR of @mem: RSDP, XSDT, FADT, MADT, MCFG, DSDT. */
int fw_acpi_build(struct guest_mem *mem, const struct fw_platform *platform, struct error *err);

#endif
