#include "vmm/core/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct bus {
	const char *name;
	pthread_rwlock_t lock;
	struct bus_region *region; /* ascending, without overlap; under lock */
	unsigned num, cap;
	uint64_t unknown; /* atomic */
};

int bus_create(struct bus **ret_bus, const char *name)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	bus->name = name;
	pthread_rwlock_init(&bus->lock, NULL);
	*ret_bus = bus;
	return 0;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	pthread_rwlock_destroy(&bus->lock);
	free(bus->region);
	free(bus);
}

/* Index of the first region that ends above @addr; num when there is none. Lock held. */
static unsigned first_above(const struct bus *bus, uint64_t addr)
{
	unsigned low = 0, high = bus->num;

	while (low < high) {
		unsigned mid = low + (high - low) / 2;
		const struct bus_region *r = &bus->region[mid];

		if (r->base + (r->size - 1) < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int insert(struct bus *bus, const struct bus_region *region, struct error *err)
{
	unsigned at = first_above(bus, region->base);

	if (at < bus->num && bus->region[at].base <= region->base + (region->size - 1))
		return error_set(err, -EEXIST, "%s: '%s' at 0x%llx overlaps '%s' at 0x%llx",
				 bus->name, region->name, (unsigned long long)region->base,
				 bus->region[at].name, (unsigned long long)bus->region[at].base);
	if (bus->num == bus->cap) {
		unsigned cap = bus->cap ? bus->cap * 2 : 16;
		struct bus_region *grown = realloc(bus->region, cap * sizeof(*grown));

		if (!grown)
			return error_set(err, -ENOMEM, "%s: '%s': %m", bus->name, region->name);
		bus->region = grown;
		bus->cap = cap;
	}
	memmove(&bus->region[at + 1], &bus->region[at], (bus->num - at) * sizeof(*region));
	bus->region[at] = *region;
	bus->num++;
	return 0;
}

int bus_add(struct bus *bus, const struct bus_region *region, struct error *err)
{
	int r;

	if (!region->size || region->base + (region->size - 1) < region->base)
		return error_set(err, -EINVAL, "%s: '%s' at 0x%llx is empty or wraps", bus->name,
				 region->name, (unsigned long long)region->base);
	pthread_rwlock_wrlock(&bus->lock);
	r = insert(bus, region, err);
	pthread_rwlock_unlock(&bus->lock);
	return r;
}

int bus_remove(struct bus *bus, uint64_t base, const void *opaque)
{
	int r = -ENOENT;
	unsigned at;

	pthread_rwlock_wrlock(&bus->lock);
	at = first_above(bus, base);
	if (at < bus->num && bus->region[at].base == base && bus->region[at].opaque == opaque) {
		bus->num--;
		memmove(&bus->region[at], &bus->region[at + 1],
			(bus->num - at) * sizeof(bus->region[0]));
		r = 0;
	}
	pthread_rwlock_unlock(&bus->lock);
	return r;
}

static bool valid_length(unsigned len)
{
	return len == 1 || len == 2 || len == 4 || len == 8;
}

/*
 * Copy out the region that answers the whole access, and count it. A guest can
 * split an access at a page boundary into three bytes: devices are not asked to
 * cope with that.
 */
static bool find(struct bus *bus, uint64_t addr, unsigned len, bool write,
		 struct bus_region *ret_region)
{
	bool found = false;
	unsigned at;

	pthread_rwlock_rdlock(&bus->lock);
	at = first_above(bus, addr);
	if (at < bus->num && valid_length(len) &&
	    range_inside(addr, len, bus->region[at].base, bus->region[at].size)) {
		struct bus_region *r = &bus->region[at];

		/* Other readers count at the same time. */
		__atomic_fetch_add(write ? &r->writes : &r->reads, 1, __ATOMIC_RELAXED);
		ret_region->base = r->base;
		ret_region->ops = r->ops;
		ret_region->opaque = r->opaque;
		found = true;
	}
	pthread_rwlock_unlock(&bus->lock);
	if (!found)
		__atomic_fetch_add(&bus->unknown, 1, __ATOMIC_RELAXED);
	return found;
}

bool bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len)
{
	struct bus_region region;

	memset(data, 0xff, len);
	if (!find(bus, addr, len, false, &region))
		return false;
	if (region.ops->read)
		region.ops->read(region.opaque, addr - region.base, data, len);
	return true;
}

bool bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len)
{
	struct bus_region region;

	if (!find(bus, addr, len, true, &region))
		return false;
	if (region.ops->write)
		region.ops->write(region.opaque, addr - region.base, data, len);
	return true;
}

uint64_t bus_unknown(const struct bus *bus)
{
	return __atomic_load_n(&bus->unknown, __ATOMIC_RELAXED);
}

void bus_for_each(struct bus *bus, void (*fn)(const struct bus_region *region, void *arg),
		  void *arg)
{
	pthread_rwlock_rdlock(&bus->lock);
	for (unsigned i = 0; i < bus->num; i++) {
		const struct bus_region *r = &bus->region[i];
		struct bus_region copy = *r;

		copy.reads = __atomic_load_n(&r->reads, __ATOMIC_RELAXED);
		copy.writes = __atomic_load_n(&r->writes, __ATOMIC_RELAXED);
		fn(&copy, arg);
	}
	pthread_rwlock_unlock(&bus->lock);
}
