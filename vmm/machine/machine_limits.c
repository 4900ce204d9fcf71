/*
 * Rate limits of a machine's devices. Those of the configuration come back with it wherever a
 * guest is made of a saved one; those that were changed since, by a section of their own, which is
 * there only when there are such: a guest that was slowed down is so in a clone of it as well.
 */
#include <stdio.h>
#include <string.h>

#include "virtio/virtio_devices.h"
#include "vmm/machine/machine_internal.h"

/* To and from a network's guest; other devices have only the first. */
#define MAX_WAYS 2

/* Of a device, in what is saved. */
#define LIMITS_NAME 64

struct rate_limits machine_disk_limits(const struct config_disk *c)
{
	return (struct rate_limits){
		.ops = { .per_second = c->iops, .burst = c->iops_burst },
		.bytes = { .per_second = c->bps, .burst = c->bps_burst },
	};
}

struct rate_limits machine_net_limits(const struct config_net *c)
{
	return (struct rate_limits){
		.ops = { .per_second = c->pps, .burst = c->pps_burst },
		.bytes = { .per_second = c->bps, .burst = c->bps_burst },
	};
}

/* What @dev was given when it was made. */
static struct rate_limits configured(const struct machine *m, const struct virtio_device *dev)
{
	const struct machine_config *c = m->config;

	for (unsigned i = 0; i < c->num_disks; i++)
		if (dev->ops->id == VIRTIO_ID_BLOCK && !strcmp(c->disk[i].id, dev->id))
			return machine_disk_limits(&c->disk[i]);
	for (unsigned i = 0; i < c->num_nets; i++)
		if (dev->ops->id == VIRTIO_ID_NET && !strcmp(c->net[i].id, dev->id))
			return machine_net_limits(&c->net[i]);
	return (struct rate_limits){ 0 };
}

/* How many ways @dev has limits for, and what they are. */
static unsigned get_limits(struct virtio_device *dev, struct rate_limits l[MAX_WAYS])
{
	switch (dev->ops->id) {
	case VIRTIO_ID_BLOCK:
		virtio_blk_limits(dev, &l[0]);
		return 1;
	case VIRTIO_ID_RNG:
		virtio_rng_limits(dev, &l[0]);
		return 1;
	case VIRTIO_ID_PMEM:
		virtio_pmem_limits(dev, &l[0]);
		return 1;
	case VIRTIO_ID_NET:
		virtio_net_limits(dev, &l[0], &l[1]);
		return 2;
	default:
		return 0;
	}
}

static void set_limits(struct virtio_device *dev, const struct rate_limits l[MAX_WAYS])
{
	if (dev->ops->id == VIRTIO_ID_BLOCK)
		virtio_blk_limit(dev, &l[0]);
	else if (dev->ops->id == VIRTIO_ID_RNG)
		virtio_rng_limit(dev, &l[0]);
	else if (dev->ops->id == VIRTIO_ID_PMEM)
		virtio_pmem_limit(dev, &l[0]);
	else
		virtio_net_limit(dev, &l[0], &l[1]);
}

static bool same_rate(const struct rate *a, const struct rate *b)
{
	return a->per_second == b->per_second && a->burst == b->burst;
}

static bool changed(const struct machine *m, struct virtio_device *dev)
{
	struct rate_limits made = configured(m, dev), now[MAX_WAYS];
	unsigned num = get_limits(dev, now);

	for (unsigned i = 0; i < num; i++)
		if (!same_rate(&now[i].ops, &made.ops) || !same_rate(&now[i].bytes, &made.bytes))
			return true;
	return false;
}

/* What may go a single time is for the boot, which is over. */
static void put_rate(struct state_writer *w, const struct rate *rate)
{
	state_put_u64(w, rate->per_second);
	state_put_u64(w, rate->burst);
}

static void get_rate(struct state_reader *r, struct rate *rate)
{
	/* Any number is a rate. */
	rate->per_second = state_get_u64(r);
	rate->burst = state_get_u64(r);
}

bool machine_limits_changed(const struct machine *m)
{
	for (unsigned i = 0; i < m->num_virtio; i++)
		if (changed(m, m->virtio[i].dev))
			return true;
	return false;
}

/* Its ID, behind its kind when another device has the same: "x", or "1:x". */
static const char *name_of(const struct machine *m, const struct virtio_device *dev,
			   char name[LIMITS_NAME])
{
	uint32_t instance = machine_virtio_instance(m, dev);

	if (instance)
		snprintf(name, LIMITS_NAME, "%u:%s", instance, dev->id);
	else
		snprintf(name, LIMITS_NAME, "%s", dev->id);
	return name;
}

void machine_limits_save(const struct machine *m, struct state_writer *w)
{
	struct rate_limits l[MAX_WAYS];
	char name[LIMITS_NAME];

	for (unsigned i = 0; i < m->num_virtio; i++) {
		struct virtio_device *dev = m->virtio[i].dev;
		unsigned num = get_limits(dev, l);

		if (!changed(m, dev))
			continue;
		state_put_u8(w, true);
		state_put_string(w, name_of(m, dev, name));
		for (unsigned k = 0; k < num; k++) {
			put_rate(w, &l[k].ops);
			put_rate(w, &l[k].bytes);
		}
	}
	state_put_u8(w, false);
}

static struct virtio_device *find(const struct machine *m, const char *name)
{
	for (unsigned i = 0; i < m->num_virtio; i++) {
		struct virtio_device *dev = m->virtio[i].dev;
		char of_this[LIMITS_NAME];

		if (!strcmp(name_of(m, dev, of_this), name))
			return dev;
	}
	return NULL;
}

void machine_limits_load(struct machine *m, struct state_reader *r)
{
	/* More than there are devices would say the same one twice. */
	for (unsigned i = 0; state_get_bool(r) && !r->failed; i++) {
		struct rate_limits l[MAX_WAYS] = { 0 }, now[MAX_WAYS];
		struct virtio_device *dev;
		unsigned num;
		char name[LIMITS_NAME];

		state_get_string(r, name, sizeof(name));
		dev = r->failed ? NULL : find(m, name);
		num = dev ? get_limits(dev, now) : 0;
		if (!num || i >= m->num_virtio) {
			state_reader_fail(r, "limits of '%s'", name);
			return;
		}
		for (unsigned k = 0; k < num; k++) {
			get_rate(r, &l[k].ops);
			get_rate(r, &l[k].bytes);
		}
		if (!r->failed)
			set_limits(dev, l);
	}
}

bool machine_serial_is_limited(const struct machine *m)
{
	struct rate_limits l;

	if (!m->serial)
		return false;
	serial_limits(m->serial, &l);
	return l.ops.per_second || l.bytes.per_second;
}

void machine_serial_limits_save(const struct machine *m, struct state_writer *w)
{
	struct rate_limits l;

	serial_limits(m->serial, &l);
	put_rate(w, &l.ops);
	put_rate(w, &l.bytes);
}

void machine_serial_limits_load(struct machine *m, struct state_reader *r)
{
	struct rate_limits l = { 0 };

	get_rate(r, &l.ops);
	get_rate(r, &l.bytes);
	if (r->failed)
		return;
	if (m->serial)
		serial_limit(m->serial, &l);
	else
		state_reader_fail(r, "limits of a serial port that is not there");
}
