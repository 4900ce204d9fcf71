#include "vmm/machine/machine_plug.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"
#include "vmm/config/config_parse.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate.h"

/* A device that was added; its strings are in @config, which the machine's copy borrows. */
struct addition {
	struct machine_config config;
	char *value; /* with its slot, and all that was made up */
	char *id;
	enum config_device kind;
	bool named, placed, addressed; /* by who asked: its id, its slot, where its memory is */
	struct addition *next;
};

/* One of the start that is gone: "disk:ID:SLOT", say. */
struct removal {
	char *value;
	struct removal *next;
};

/* What is under way. */
struct change {
	struct machine *m;
	struct addition *addition; /* that comes; or that went, until its device is freed */
	struct machine_files files;
	char id[VIRTIO_MAX_NAME + 1]; /* of the one that is to go */
	enum config_device kind; /* which it is */
	uint32_t slots; /* its slot's bit */
	bool force, was_paused;
	struct loop_timer patience;
	struct loop_task drop; /* behind the device's reset */
	machine_plugged_fn *done;
	void *arg;
};

struct machine_plugging {
	const struct machine_config *base; /* of the start */
	struct machine_config config;	   /* of now: the machine's */
	struct addition *additions;	   /* in their order */
	struct removal *removals;
	struct change *change; /* NULL: none is under way */
};

/* ---- the configuration ---- */

static struct machine_plugging *plugging(struct machine *m)
{
	struct machine_plugging *p = m->plugging;

	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->base = m->config;
	p->config = *m->config;
	m->plugging = p;
	m->config = &p->config;
	return p;
}

/* How many arguments there are in front of a "--", behind which there are no options. */
static unsigned num_options(const struct machine_config *c)
{
	const struct config_item *item;
	const char *value;
	unsigned i = 0;

	while (i < c->num_args && strcmp(c->args[i], "--"))
		i += MAX(1, config_split_option(config_run_options, c->args + i,
						(int)(c->num_args - i), &item, &value));
	return MIN(i, c->num_args);
}

/* The command line by which a saved machine finds the devices of now. */
static int describe(struct machine_plugging *p)
{
	const struct machine_config *base = p->base;
	unsigned num = base->num_args, options = num_options(base);
	char **args;

	for (const struct removal *r = p->removals; r; r = r->next)
		num += 2;
	for (const struct addition *a = p->additions; a; a = a->next)
		num += 2;
	args = calloc(num + 1, sizeof(*args));
	if (!args)
		return -ENOMEM;
	memcpy(args, base->args, options * sizeof(*args));
	num = options;
	for (const struct removal *r = p->removals; r; r = r->next) {
		args[num++] = "--unplugged";
		args[num++] = r->value;
	}
	for (const struct addition *a = p->additions; a; a = a->next) {
		args[num++] = (char *)config_device_kinds[a->kind].option;
		args[num++] = a->value;
	}
	for (unsigned i = options; i < base->num_args; i++)
		args[num++] = base->args[i];
	if (p->config.args != base->args)
		free(p->config.args);
	p->config.args = args;
	p->config.num_args = num;
	return 0;
}

static void free_addition(struct addition *a)
{
	if (!a)
		return;
	config_done(&a->config);
	free(a->value);
	free(a->id);
	free(a);
}

bool machine_was_plugged(const struct machine *m)
{
	const struct machine_plugging *p = m->plugging;

	return p && (p->change || p->additions || p->removals);
}

/* ---- what can be done, and its end ---- */

static int check(struct machine *m, struct error *err)
{
	if (!m->pci)
		return error_set(err, -ENOTSUP, "devices come and go on a PCI bus only");
	if (m->plugging && m->plugging->change)
		return error_set(err, -EBUSY, "another device is coming or going");
	if (m->holds || migrate_is_under_way(m) || m->arriving || m->winding_down)
		return error_set(err, -EBUSY, "the microVM is being saved or moved");
	if (m->point)
		return error_set(err, -EBUSY,
				 "the microVM has a moment to go back to, with the devices of "
				 "then");
	return plugging(m) ? 0 : error_set(err, -ENOMEM, "no memory");
}

static void finish(struct change *c, int r, const struct error *err)
{
	struct machine *m = c->m;

	loop_timer_cancel(m->loop, &c->patience);
	m->plugging->change = NULL;
	machine_files_close(&c->files);
	c->done(c->arg, r, err);
	free_addition(c->addition);
	free(c);
}

/* After the machine stood still for a change. */
static void go_on(struct change *c)
{
	machine_release(c->m);
	if (!c->was_paused)
		machine_resume(c->m);
}

static struct change *begin(struct machine *m, machine_plugged_fn *done, void *arg)
{
	struct error err = { 0 };
	struct change *c = calloc(1, sizeof(*c));
	int r = c ? check(m, &err) : error_set(&err, -ENOMEM, "no memory");

	if (!c || r) {
		done(arg, r, &err);
		free(c);
		return NULL;
	}
	c->m = m;
	c->done = done;
	c->arg = arg;
	machine_files_init(&c->files);
	m->plugging->change = c;
	return c;
}

/* Nobody finds it any more: what frees it runs the loop, and requests come in meanwhile. */
static struct machine_virtio take_device(struct machine *m, unsigned i)
{
	struct machine_virtio v = m->virtio[i];

	m->num_virtio--;
	memmove(&m->virtio[i], &m->virtio[i + 1], (m->num_virtio - i) * sizeof(v));
	return v;
}

static void free_device(struct machine *m, const struct machine_virtio *v)
{
	machine_unmap_pmem(m, v->dev);
	virtio_pci_free(v->pci);
	virtio_free(v->dev);
}

/* ---- one that comes ---- */

static bool is_taken(const struct machine *m, const char *id)
{
	for (unsigned i = 0; i < m->num_virtio; i++)
		if (!strcmp(m->virtio[i].dev->id, id))
			return true;
	return false;
}

/* "disk2": a name that nobody has. */
static char *free_name(const struct machine *m, const char *stem)
{
	char *name;

	for (unsigned i = 0; asprintf(&name, "%s%u", stem, i) >= 0; i++) {
		if (!is_taken(m, name))
			return name;
		free(name);
	}
	return NULL;
}

/* What the user left open, but for where it is. */
static int complete(struct machine *m, struct addition *a)
{
	struct config_disk *d = a->kind == CONFIG_DEVICE_DISK ? &a->config.disk[0] : NULL;
	struct config_net *n = a->kind == CONFIG_DEVICE_NET ? &a->config.net[0] : NULL;
	char **id = config_device_id(&a->config, a->kind, 0);

	a->named = *id;
	if (!*id)
		*id = free_name(m, config_device_kinds[a->kind].word);
	a->id = *id ? strdup(*id) : NULL;
	if (d && !d->serial && a->id)
		d->serial = strndup(a->id, CONFIG_DISK_SERIAL);
	if (n && !n->mac_given)
		config_net_default_mac(n, m->config->num_nets);
	return a->id && (!d || d->serial) ? 0 : -ENOMEM;
}

/*
 * The option's value with all that another process would otherwise make up; and a path was named by
 * somebody in whatever directory.
 */
static int write_down(struct addition *a, const char *value)
{
	const struct machine_config *c = &a->config;
	const char *path = a->kind == CONFIG_DEVICE_DISK ? c->disk[0].path : c->pmem[0].path;
	const uint8_t *mac = c->net[0].mac;
	char address[40] = "", slot[20] = "";
	char *whole = path ? config_replace_first(value, path) : strdup(value);
	int r;

	if (!whole)
		return -ENOMEM;
	if (!a->placed)
		snprintf(slot, sizeof(slot), ",slot=%u",
			 *config_device_slot(&a->config, a->kind, 0));
	if (c->num_nets && !c->net[0].mac_given)
		snprintf(address, sizeof(address), ",mac=%02x:%02x:%02x:%02x:%02x:%02x", mac[0],
			 mac[1], mac[2], mac[3], mac[4], mac[5]);
	if (c->num_pmems && !a->addressed)
		snprintf(address, sizeof(address), ",address=0x%" PRIx64, c->pmem[0].gpa);
	r = asprintf(&a->value, "%s%s%s%s%s", whole, a->named ? "" : ",id=",
		     a->named ? "" : a->id, address, slot);
	free(whole);
	if (r < 0)
		a->value = NULL;
	return r < 0 ? -ENOMEM : 0;
}

/* Into the machine's configuration, if it goes together with what is there. */
static int enter(struct machine *m, struct addition *a, struct error *err)
{
	struct machine_config *c = &m->plugging->config;
	unsigned last = config_num_devices(c, a->kind);
	int r;

	if (last == config_device_kinds[a->kind].max)
		return error_set(err, -ENOSPC, "no more devices of this kind");
	if (machine_virtio(m, machine_virtio_id(a->kind), a->id))
		return error_usage(err, -EEXIST, "there is %s '%s' already",
				   config_device_kinds[a->kind].name, a->id);
	if (a->kind == CONFIG_DEVICE_DISK)
		c->disk[c->num_disks++] = a->config.disk[0];
	else if (a->kind == CONFIG_DEVICE_NET)
		c->net[c->num_nets++] = a->config.net[0];
	else
		c->pmem[c->num_pmems++] = a->config.pmem[0];
	r = config_validate(c, err);
	if (r < 0)
		config_drop_device(c, a->kind, last);
	return r;
}

static int make_device(struct machine *m, struct change *change, struct error *err)
{
	struct machine_config *c = &m->plugging->config;
	enum config_device kind = change->addition->kind;
	unsigned before = m->num_virtio, last = config_num_devices(c, kind) - 1;
	struct machine_files *f = &change->files;
	int r;

	if (kind == CONFIG_DEVICE_DISK) {
		/* Where the configuration says that it is. */
		if (last) {
			f->disk[last] = f->disk[0];
			f->disk[0] = -1;
		}
		r = machine_add_disk(m, last, f, err);
	} else if (kind == CONFIG_DEVICE_NET) {
		r = machine_add_net(m, &c->net[last], &f->net[0], err);
	} else {
		r = machine_add_pmem(m, &c->pmem[last], &f->pmem[0], err);
	}
	if (!r)
		return 0;
	config_drop_device(c, kind, last);
	if (m->num_virtio > before) {
		const struct machine_virtio half = take_device(m, before);

		free_device(m, &half);
	}
	return r;
}

/* Where it is: on the bus, and in memory. */
static int place(struct machine *m, struct addition *a, struct error *err)
{
	unsigned *slot = config_device_slot(&a->config, a->kind, 0);
	struct config_pmem *p = &a->config.pmem[0];
	int r = *slot ? (int)*slot : pci_bus_free_slot(m->pci, 0);

	a->placed = *slot;
	a->addressed = p->gpa;
	if (a->kind == CONFIG_DEVICE_PMEM && !p->gpa)
		p->gpa = machine_pmem_end(m);
	if (r > 0 && pci_bus_device(m->pci, r))
		r = -EBUSY;
	if (r < 0)
		return error_set(err, r, "no such slot of the PCI bus is free");
	*slot = r;
	return 0;
}

/* The last step: it is as still as the others, and goes on with them. */
static void added(struct virtio_device *dev, void *arg)
{
	struct change *c = arg;
	struct machine *m = c->m;
	struct addition *a = c->addition, **last = &m->plugging->additions;
	uint32_t slot = 1u << m->virtio[machine_virtio_index(m, dev->ops->id, dev->id)].slot;

	while (*last)
		last = &(*last)->next;
	*last = a;
	/* It has the device also when nobody else can be told for want of memory. */
	if (describe(m->plugging) < 0)
		log_warn("'%s' is not in what the next snapshot says of devices: no memory", a->id);
	c->addition = NULL;
	m->generation++;
	go_on(c);
	power_pci_hotplug(m->power, slot, 0);
	finish(c, 0, NULL);
}

static void add(void *arg)
{
	struct change *c = arg;
	struct machine *m = c->m;
	struct error err = { 0 };
	const char *value = c->addition->value;
	int r = machine_check_paused(m, &err);

	machine_hold(m);
	c->addition->value = NULL;
	if (!r && complete(m, c->addition) < 0)
		r = error_set(&err, -ENOMEM, "no memory");
	if (!r)
		r = place(m, c->addition, &err);
	if (!r && write_down(c->addition, value) < 0)
		r = error_set(&err, -ENOMEM, "no memory");
	free((char *)value);
	if (!r)
		r = enter(m, c->addition, &err);
	if (!r)
		r = make_device(m, c, &err);
	if (r < 0) {
		go_on(c);
		finish(c, r, &err);
		return;
	}
	virtio_pause(m->virtio[m->num_virtio - 1].dev, added, c);
}

void machine_plug(struct machine *m, const struct machine_addition *a, machine_plugged_fn *done,
		  void *arg)
{
	struct addition *own = calloc(1, sizeof(*own));
	char *value = strdup(a->value);
	struct change *c = own && value ? begin(m, done, arg) : NULL;
	struct error err = { 0 };

	if (!own || !value) {
		error_set(&err, -ENOMEM, "no memory");
		done(arg, -ENOMEM, &err);
	}
	if (!c) {
		config_done(a->config);
		machine_files_close(a->files);
		free(own);
		free(value);
		return;
	}
	own->config = *a->config;
	own->kind = a->kind;
	own->value = value;
	c->addition = own;
	c->files = *a->files;
	c->was_paused = machine_is_paused(m);
	memset(a->config, 0, sizeof(*a->config));
	machine_files_init(a->files);
	if (c->was_paused)
		add(c);
	else
		machine_pause(m, add, c);
}

/* ---- one that goes ---- */

/* One of the start, as --unplugged has it. What is behind persistent memory stays there. */
static int describe_gone(const struct change *change, const struct virtio_device *dev, char **ret)
{
	const char *word = config_device_kinds[change->kind].word;
	unsigned slot = __builtin_ctz(change->slots);
	struct virtio_pmem_area area;

	if (change->kind != CONFIG_DEVICE_PMEM)
		return asprintf(ret, "%s:%s:%u", word, change->id, slot);
	virtio_pmem_area(dev, &area);
	return asprintf(ret, "%s:%s:%u:%" PRIx64, word, change->id, slot, area.gpa + area.size);
}

/*
 * Out of the configuration: of the start, or of those that came later, which the change then has:
 * the device may still look at its strings.
 */
static int forget(struct machine *m, struct change *change, const struct virtio_device *dev)
{
	struct machine_plugging *p = m->plugging;
	struct machine_config *c = &p->config;
	enum config_device kind = change->kind;
	const char *id = change->id;
	struct removal *gone;

	for (unsigned i = 0; i < config_num_devices(c, kind); i++) {
		if (strcmp(*config_device_id(c, kind, i), id) != 0)
			continue;
		config_drop_device(c, kind, i);
		if (kind == CONFIG_DEVICE_DISK)
			memmove(&m->disk_fd[i], &m->disk_fd[i + 1],
				(c->num_disks - i) * sizeof(m->disk_fd[0]));
	}
	for (struct addition **a = &p->additions; *a; a = &(*a)->next) {
		struct addition *one = *a;

		if (kind != one->kind || strcmp(one->id, id))
			continue;
		*a = one->next;
		change->addition = one;
		return describe(p);
	}
	gone = calloc(1, sizeof(*gone));
	if (!gone || describe_gone(change, dev, &gone->value) < 0) {
		free(gone);
		return -ENOMEM;
	}
	c->empty_slots |= change->slots;
	gone->next = p->removals;
	p->removals = gone;
	return describe(p);
}

/* The machine stands still, and the device has been reset. */
static void drop(struct loop_task *task)
{
	struct change *c = container_of(task, struct change, drop);
	struct machine *m = c->m;
	int i = machine_virtio_index(m, machine_virtio_id(c->kind), c->id);
	const struct machine_virtio gone = take_device(m, i);

	m->generation++;
	if (forget(m, c, gone.dev) < 0)
		log_warn("'%s' is still in what the next snapshot says of devices: no memory",
			 c->id);
	free_device(m, &gone);
	go_on(c);
	finish(c, 0, NULL);
}

static void reset_and_drop(void *arg)
{
	struct change *c = arg;
	struct machine *m = c->m;
	struct error err = { 0 };
	int i = machine_virtio_index(m, machine_virtio_id(c->kind), c->id);
	int r = machine_check_paused(m, &err);

	if (r < 0) {
		finish(c, r, &err);
		return;
	}
	machine_hold(m);
	/* Out of the guest's sight, so that nothing starts it again. */
	pci_bus_unplug(virtio_pci_function(m->virtio[i].pci));
	virtio_set_status(m->virtio[i].dev, 0, true);
	c->drop.run = drop;
	loop_post(m->loop, &c->drop);
}

static void take_away(struct change *c)
{
	loop_timer_cancel(c->m->loop, &c->patience);
	c->was_paused = machine_is_paused(c->m);
	if (c->was_paused)
		reset_and_drop(c);
	else
		machine_pause(c->m, reset_and_drop, c);
}

static void out_of_patience(struct loop_timer *t)
{
	struct change *c = container_of(t, struct change, patience);
	struct error err = { 0 };

	if (c->force && !c->m->holds) {
		take_away(c);
		return;
	}
	error_set(&err, -ETIMEDOUT, "the guest does not let go of '%s'", c->id);
	finish(c, -ETIMEDOUT, &err);
}

/* The guest's answer, as far as anybody asked for it. */
void machine_eject_seen(struct loop_task *task)
{
	struct machine *m = container_of(task, struct machine, eject_task);
	uint32_t slots = atomic_exchange(&m->ejected, 0);
	struct change *c = m->plugging ? m->plugging->change : NULL;

	if (c && (c->slots & slots) && c->patience.armed && !m->holds)
		take_away(c);
}

void machine_ejected(void *machine, uint32_t slots)
{
	struct machine *m = machine;

	atomic_fetch_or(&m->ejected, slots);
	loop_post(m->loop, &m->eject_task);
}

void machine_unplug(struct machine *m, const char *name, uint64_t patience_ns, bool force,
		    machine_plugged_fn *done, void *arg)
{
	struct change *c = begin(m, done, arg);
	struct error err = { 0 };
	struct virtio_device *dev = c ? machine_virtio_named(m, name, &err) : NULL;

	if (!c)
		return;
	if (!dev) {
		finish(c, err.code, &err);
		return;
	}
	snprintf(c->id, sizeof(c->id), "%s", dev->id);
	c->kind = machine_device_kind(dev);
	c->slots = 1u << m->virtio[machine_virtio_index(m, dev->ops->id, c->id)].slot;
	c->force = force;
	if (!virtio_get_status(dev) || (force && !patience_ns)) {
		take_away(c);
		return;
	}
	c->patience.expired = out_of_patience;
	loop_timer_set(m->loop, &c->patience, clock_monotonic_ns(m->clock) + patience_ns);
	power_pci_hotplug(m->power, 0, c->slots);
}

/* ---- the end ---- */

static void tell_nobody(void *arg, int r, const struct error *err)
{
}

void machine_plug_forget(struct machine *m)
{
	struct change *c = m->plugging ? m->plugging->change : NULL;

	if (!c)
		return;
	loop_timer_cancel(m->loop, &c->patience);
	c->done = tell_nobody;
}

void machine_free_plugging(struct machine *m)
{
	struct machine_plugging *p = m->plugging;

	if (m->loop)
		loop_unpost(m->loop, &m->eject_task);
	if (!p)
		return;
	if (p->change) {
		loop_unpost(m->loop, &p->change->drop);
		loop_timer_cancel(m->loop, &p->change->patience);
		machine_files_close(&p->change->files);
		free_addition(p->change->addition);
		free(p->change);
	}
	while (p->additions) {
		struct addition *a = p->additions;

		p->additions = a->next;
		free_addition(a);
	}
	while (p->removals) {
		struct removal *r = p->removals;

		p->removals = r->next;
		free(r->value);
		free(r);
	}
	if (p->config.args != p->base->args)
		free(p->config.args);
	m->config = p->base;
	m->plugging = NULL;
	free(p);
}
