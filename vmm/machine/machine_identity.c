/*
 * Who a guest is, and how it is told that it is another one now: by the VM generation ID (a random
 * number in its memory) and by VMClock (a page of counters), each with an ACPI event.
 *
 * Both are in guest memory, so they are saved and sent with it. The guest may write there as well:
 * it deceives nobody but itself.
 *
 * What it is called, and random numbers for a kernel that knows neither of these, its agent reads
 * at a port of the socket device; a connection there that breaks says that there is news.
 */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#include "firmware/vmclock.h"
#include "vmm/control/agent_wire.h"
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

static size_t put_hex(char *text, size_t size, const char *key, const uint8_t *bytes, size_t num)
{
	size_t len = snprintf(text, size, "%s=", key);

	for (size_t i = 0; i < num; i++)
		len += snprintf(text + len, size - len, "%02x", bytes[i]);
	text[len++] = '\n';
	return len;
}

size_t machine_write_identity(void *ctx, char *text, size_t size)
{
	struct machine *m = ctx;
	uint8_t generation[16] = { 0 }, random[AGENT_RANDOM_BYTES];
	size_t len = snprintf(text, size, "id=%s\n", m->config->name);

	guest_mem_read(m->mem, FW_VMGENID_ADDR, generation, sizeof(generation));
	len += put_hex(text + len, size - len, "generation", generation, sizeof(generation));
	/* Without any it is to hear nothing, not less than it counts on. */
	if (get_random(random, sizeof(random)) < 0)
		return 0;
	len += put_hex(text + len, size - len, "random", random, sizeof(random));
	explicit_bzero(random, sizeof(random));
	return len;
}
