/*
 * Who a guest is, and how it is told that it is another one now: by the VM generation ID (a random
 * number in its memory) and by VMClock (a page of counters), each with an ACPI event.
 *
 * Both are in guest memory, so they are saved and sent with it. The guest may write there as well:
 * it deceives nobody but itself.
 */
#include <endian.h>
#include <errno.h>
#include <sys/random.h>

#include "firmware/vmclock.h"
#include "vmm/core/platform.h"
#include "vmm/machine/machine_internal.h"

static int get_random(void *buf, size_t len)
{
	ssize_t n = getrandom(buf, len, 0);

	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

static int write_generation_id(struct machine *m)
{
	uint8_t id[16];
	int r = get_random(id, sizeof(id));

	return r ? r : guest_mem_write(m->mem, FW_VMGENID_ADDR, id, sizeof(id));
}

/* Higher than it was, and another one for each of several guests that had the same. */
static int raise(uint64_t *counter)
{
	uint32_t step = 0;
	int r = get_random(&step, sizeof(step));

	*counter = htole64(le64toh(*counter) + 1 + step);
	return r;
}

/* Of a guest that was saved by a version that had no such page, nothing. */
static int change_vmclock(struct machine *m, bool another)
{
	struct vmclock c;
	int r = guest_mem_read(m->mem, FW_VMCLOCK_ADDR, &c, sizeof(c));

	if (r < 0 || le32toh(c.magic) != VMCLOCK_MAGIC)
		return 0;
	r = raise(&c.disruption);
	if (!r && another)
		r = raise(&c.generation);
	/* The next even number at once: no processor of the guest runs and could see an odd one. */
	c.sequence = htole32((le32toh(c.sequence) | 1) + 1);
	if (!r)
		r = guest_mem_write(m->mem, FW_VMCLOCK_ADDR, &c, sizeof(c));
	if (!r)
		power_ged_raise(m->power, GED_VMCLOCK);
	return r;
}

int machine_first_identity(struct machine *m)
{
	const struct vmclock c = {
		.magic = htole32(VMCLOCK_MAGIC),
		.size = htole32(PAGE_SIZE),
		.version = htole16(VMCLOCK_VERSION),
		.counter_id = VMCLOCK_COUNTER_INVALID,
		.flags = htole64(VMCLOCK_FLAG_GENERATION | VMCLOCK_FLAG_NOTIFICATION),
		.status = VMCLOCK_STATUS_UNKNOWN,
	};
	int r = write_generation_id(m);

	return r ? r : guest_mem_write(m->mem, FW_VMCLOCK_ADDR, &c, sizeof(c));
}

int machine_new_identity(struct machine *m)
{
	int r = write_generation_id(m);

	if (r < 0)
		return r;
	power_ged_raise(m->power, GED_VMGENID);
	return change_vmclock(m, true);
}

int machine_time_jumped(struct machine *m)
{
	return change_vmclock(m, false);
}
