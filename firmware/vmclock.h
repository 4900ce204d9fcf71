/*
 * VMClock: a page by which a guest learns that its clock jumped or that it is another guest now,
 * without having to ask the hypervisor. What we tell is that alone: the clock's own part says that
 * it tells nothing.
 *
 * The layout is that of include/uapi/linux/vmclock-abi.h of Linux 6.13 and later; the generation
 * counter came after that. All little-endian.
 */
#ifndef WISP_FIRMWARE_VMCLOCK_H
#define WISP_FIRMWARE_VMCLOCK_H

#include <stdint.h>

#define VMCLOCK_MAGIC	0x4b4c4356u /* "VCLK" */
#define VMCLOCK_VERSION 1

#define VMCLOCK_COUNTER_INVALID 0xff /* no counter of the guest's is related to real time */
#define VMCLOCK_STATUS_UNKNOWN	0

#define VMCLOCK_FLAG_GENERATION	  (1ull << 8) /* @generation is there */
#define VMCLOCK_FLAG_NOTIFICATION (1ull << 9) /* every change is notified by ACPI */

struct vmclock {
	uint32_t magic;
	uint32_t size; /* of the region */
	uint16_t version;
	uint8_t counter_id;
	uint8_t time_type;
	uint32_t sequence; /* of what follows; odd while it changes */
	uint64_t disruption; /* another one when time jumped */
	uint64_t flags;
	uint8_t reserved[2];
	uint8_t status;
	uint8_t smearing;
	uint16_t tai_offset;
	uint8_t leap;
	uint8_t period_shift;
	uint64_t counter_value, period, period_error, period_max_error;
	uint64_t seconds, fraction, time_error, time_max_error;
	uint64_t generation; /* another one when the guest goes on from a saved state */
};

_Static_assert(sizeof(struct vmclock) == 112, "the layout is Linux's");

#endif
