#include "vmm/core/irq.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NUM_PIC_PINS	16
#define MAX_SOURCES	64
#define FIRST_MSI_GSI	IRQ_NUM_PINS
/* KVM takes as many routes as there are GSIs, and the low pins have two each. */
#define MAX_MSIS	(IRQ_MAX_GSIS - FIRST_MSI_GSI - NUM_PIC_PINS)

/* One GSI for messages. */
struct msi_slot {
	struct irq_msi *owner; /* NULL: free */
	bool wanted;	       /* unmasked: belongs in the table */
	bool bind;	       /* bind its irqfd when the table is released */
	/* What the hypervisor's table has, if it has this GSI at all. */
	bool pushed;
	uint64_t pushed_addr;
	uint32_t pushed_data;
};

struct irq_table {
	struct hv *hv;
	pthread_mutex_t lock; /* for everything below and the fields of lines and vectors */
	struct msi_slot *slot; /* of FIRST_MSI_GSI and up */
	unsigned num_slots;
	unsigned held;
	uint64_t pushes; /* atomic */
	uint64_t asserted[IRQ_NUM_PINS]; /* sources of each level-triggered pin */
};

int irq_table_create(struct irq_table **ret_table, struct hv *hv)
{
	struct irq_table *table = calloc(1, sizeof(*table));

	if (!table)
		return -ENOMEM;
	table->hv = hv;
	pthread_mutex_init(&table->lock, NULL);
	*ret_table = table;
	return 0;
}

void irq_table_free(struct irq_table *table)
{
	if (!table)
		return;
	pthread_mutex_destroy(&table->lock);
	free(table->slot);
	free(table);
}

struct hv *irq_table_hv(struct irq_table *table)
{
	return table->hv;
}

uint64_t irq_table_pushes(const struct irq_table *table)
{
	return __atomic_load_n(&table->pushes, __ATOMIC_RELAXED);
}

/* ---- the table; lock held ---- */

static bool needs_push(const struct msi_slot *s)
{
	return s->wanted && (!s->pushed || s->pushed_addr != s->owner->addr ||
			     s->pushed_data != s->owner->data);
}

/* Pins as the hypervisor had them by default: each where its number says. */
static unsigned pin_routes(struct hv_route *routes)
{
	unsigned n = 0;

	for (unsigned i = 0; i < IRQ_NUM_PINS; i++) {
		if (i < NUM_PIC_PINS)
			routes[n++] = (struct hv_route){ .gsi = i, .kind = HV_ROUTE_PIC, .pin = i };
		routes[n++] = (struct hv_route){ .gsi = i, .kind = HV_ROUTE_IOAPIC, .pin = i };
	}
	return n;
}

static int push(struct irq_table *table)
{
	struct hv_route *routes;
	unsigned n;
	int r;

	routes = calloc(IRQ_NUM_PINS + NUM_PIC_PINS + table->num_slots, sizeof(*routes));
	if (!routes)
		return -ENOMEM;
	n = pin_routes(routes);
	for (unsigned i = 0; i < table->num_slots; i++) {
		const struct msi_slot *s = &table->slot[i];

		if (s->wanted)
			routes[n++] = (struct hv_route){
				.gsi = FIRST_MSI_GSI + i,
				.kind = HV_ROUTE_MSI,
				.msi_addr = s->owner->addr,
				.msi_data = s->owner->data,
			};
	}
	r = table->hv->ops->routes_set(table->hv, routes, n);
	free(routes);
	if (r < 0)
		return r;
	__atomic_fetch_add(&table->pushes, 1, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < table->num_slots; i++) {
		struct msi_slot *s = &table->slot[i];

		s->pushed = s->wanted;
		if (s->wanted) {
			s->pushed_addr = s->owner->addr;
			s->pushed_data = s->owner->data;
		}
	}
	return 0;
}

/*
 * Bind a vector that is routed. What was counted while it was masked is taken
 * out and written again: KVM delivers a count it finds but leaves it there, and
 * it would look pending once more after the next mask.
 */
static int bind_vector(struct irq_msi *msi)
{
	struct hv *hv = msi->table->hv;
	eventfd_t count;
	bool pending = eventfd_read(msi->fd, &count) == 0;
	int r = hv->ops->irqfd(hv, msi->fd, msi->gsi, true);

	if (!r)
		msi->assigned = true;
	if (pending)
		eventfd_write(msi->fd, 1);
	return r;
}

void irq_table_hold(struct irq_table *table)
{
	pthread_mutex_lock(&table->lock);
	table->held++;
	pthread_mutex_unlock(&table->lock);
}

/* Push if anything changed, then bind what waits for it. Returns the first failure. */
static int commit(struct irq_table *table)
{
	bool changed = false;
	int pushed = 0, ret = 0;

	for (unsigned i = 0; i < table->num_slots; i++)
		changed |= needs_push(&table->slot[i]);
	if (changed)
		ret = pushed = push(table);
	for (unsigned i = 0; i < table->num_slots; i++) {
		struct msi_slot *s = &table->slot[i];
		int r = pushed;

		if (!s->bind)
			continue;
		/* Only now: a count that is there is delivered at once, by the route. */
		if (!r)
			r = bind_vector(s->owner);
		s->wanted = r == 0;
		s->bind = false;
		ret = ret ? ret : r;
	}
	return ret;
}

int irq_table_release(struct irq_table *table)
{
	int r = 0;

	pthread_mutex_lock(&table->lock);
	if (--table->held == 0)
		r = commit(table);
	pthread_mutex_unlock(&table->lock);
	return r;
}

/* ---- edge-triggered lines ---- */

void irq_line_init(struct irq_line *line, struct irq_table *table, uint32_t gsi)
{
	line->table = table;
	line->gsi = gsi;
	line->fd = -1;
}

void irq_line_done(struct irq_line *line)
{
	if (!line->table || line->fd < 0)
		return;
	line->table->hv->ops->irqfd(line->table->hv, line->fd, line->gsi, false);
	close(line->fd);
	line->fd = -1;
}

static int open_line(struct irq_line *line)
{
	struct hv *hv = line->table->hv;
	int fd, r;

	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	r = hv->ops->irqfd(hv, fd, line->gsi, true);
	if (r < 0) {
		close(fd);
		return r;
	}
	/* Release: whoever sees it may write to it. */
	__atomic_store_n(&line->fd, fd, __ATOMIC_RELEASE);
	return 0;
}

int irq_line_open(struct irq_line *line)
{
	int r = 0;

	pthread_mutex_lock(&line->table->lock);
	if (line->fd < 0)
		r = open_line(line);
	pthread_mutex_unlock(&line->table->lock);
	return r;
}

void irq_line_raise(struct irq_line *line)
{
	struct hv *hv = line->table->hv;
	int fd = __atomic_load_n(&line->fd, __ATOMIC_ACQUIRE);

	if (fd < 0 && irq_line_open(line) == 0)
		fd = __atomic_load_n(&line->fd, __ATOMIC_ACQUIRE);
	if (fd >= 0) {
		eventfd_write(fd, 1);
		return;
	}
	/* Out of descriptors: the same edge, by hand. */
	hv->ops->irq_line(hv, line->gsi, true);
	hv->ops->irq_line(hv, line->gsi, false);
}

/* ---- level-triggered pins ---- */

int irq_level_set(struct irq_table *table, uint32_t gsi, unsigned source, bool asserted)
{
	uint64_t before, after;
	int r = 0;

	if (gsi >= IRQ_NUM_PINS || source >= MAX_SOURCES)
		return -EINVAL;
	/* The lock is held over the call: two changes must arrive in their order. */
	pthread_mutex_lock(&table->lock);
	before = table->asserted[gsi];
	after = asserted ? before | 1ull << source : before & ~(1ull << source);
	table->asserted[gsi] = after;
	if (!before != !after)
		r = table->hv->ops->irq_line(table->hv, gsi, after != 0);
	pthread_mutex_unlock(&table->lock);
	return MIN(r, 0);
}

/* ---- messages ---- */

void irq_msi_init(struct irq_msi *msi, struct irq_table *table)
{
	*msi = (struct irq_msi){ .table = table, .fd = -1 };
}

/* Lock held. */
static int open_vector(struct irq_msi *msi)
{
	int fd;

	if (msi->fd >= 0)
		return 0;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	__atomic_store_n(&msi->fd, fd, __ATOMIC_RELEASE);
	return 0;
}

/* A GSI for @msi; lock held. */
static int allocate(struct irq_msi *msi)
{
	struct irq_table *table = msi->table;
	unsigned i, num;
	struct msi_slot *grown;

	if (msi->gsi)
		return 0;
	for (i = 0; i < table->num_slots && table->slot[i].owner; i++)
		;
	if (i == table->num_slots) {
		if (i == MAX_MSIS)
			return -ENOSPC;
		num = i ? MIN(i * 2, (unsigned)MAX_MSIS) : 8;
		grown = realloc(table->slot, num * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		memset(grown + i, 0, (num - i) * sizeof(*grown));
		table->slot = grown;
		table->num_slots = num;
	}
	table->slot[i].owner = msi;
	msi->gsi = FIRST_MSI_GSI + i;
	return 0;
}

static struct msi_slot *slot_of(const struct irq_msi *msi)
{
	return &msi->table->slot[msi->gsi - FIRST_MSI_GSI];
}

static void mask(struct irq_msi *msi)
{
	struct hv *hv = msi->table->hv;

	if (!msi->gsi)
		return;
	/* Its route stays where it is until the next push: nothing leads there any more. */
	slot_of(msi)->wanted = slot_of(msi)->bind = false;
	if (msi->assigned)
		hv->ops->irqfd(hv, msi->fd, msi->gsi, false);
	msi->assigned = false;
}

void irq_msi_done(struct irq_msi *msi)
{
	struct irq_table *table = msi->table;

	if (!table)
		return;
	pthread_mutex_lock(&table->lock);
	mask(msi);
	if (msi->gsi)
		slot_of(msi)->owner = NULL;
	msi->gsi = 0;
	pthread_mutex_unlock(&table->lock);
	if (msi->fd >= 0)
		close(msi->fd);
	msi->fd = -1;
}

int irq_msi_open(struct irq_msi *msi)
{
	int r;

	pthread_mutex_lock(&msi->table->lock);
	r = open_vector(msi);
	pthread_mutex_unlock(&msi->table->lock);
	return r;
}

static int unmask(struct irq_msi *msi, uint64_t addr, uint32_t data)
{
	struct msi_slot *s;
	int r = open_vector(msi);

	if (!r)
		r = allocate(msi);
	if (r < 0)
		return r;
	s = slot_of(msi);
	msi->addr = addr;
	msi->data = data;
	s->wanted = true;
	s->bind = !msi->assigned;
	if (msi->table->held)
		return 0;
	r = commit(msi->table);
	if (r < 0)
		mask(msi);
	return r;
}

int irq_msi_unmask(struct irq_msi *msi, uint64_t addr, uint32_t data)
{
	int r;

	pthread_mutex_lock(&msi->table->lock);
	r = unmask(msi, addr, data);
	pthread_mutex_unlock(&msi->table->lock);
	return r;
}

void irq_msi_mask(struct irq_msi *msi)
{
	pthread_mutex_lock(&msi->table->lock);
	mask(msi);
	pthread_mutex_unlock(&msi->table->lock);
}

bool irq_msi_pending(const struct irq_msi *msi)
{
	struct pollfd p = { .events = POLLIN };
	bool masked;

	pthread_mutex_lock(&msi->table->lock);
	p.fd = msi->fd;
	masked = !msi->assigned;
	pthread_mutex_unlock(&msi->table->lock);
	return masked && p.fd >= 0 && poll(&p, 1, 0) > 0;
}
