/* The fake hypervisor's interrupts: lines, messages, irqfds and where they lead. */
#include "tests/unit/fake_hv.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "tests/unit/fake_hv_parts.h"

/* ---- delivery; lock held ---- */

static void deliver_message(struct fake_hv *f, uint64_t addr, uint32_t data)
{
	unsigned i;

	for (i = 0; i < f->num_messages; i++)
		if (f->message[i].addr == addr && f->message[i].data == data)
			break;
	if (i == f->num_messages) {
		if (i == MAX_MESSAGES)
			abort();
		f->message[f->num_messages++] = (struct message){ .addr = addr, .data = data };
	}
	f->message[i].count++;
	f->delivered++;
	fake_hv_wake_vcpus(f);
}

static void deliver(struct fake_hv *f, uint32_t gsi)
{
	bool routed = !f->routes_set && gsi < NUM_PINS;

	for (unsigned i = 0; i < f->num_routes; i++) {
		const struct hv_route *r = &f->routes[i];

		if (r->gsi != gsi)
			continue;
		routed = true;
		if (r->kind == HV_ROUTE_MSI)
			deliver_message(f, r->msi_addr, r->msi_data);
	}
	if (routed && gsi < MAX_GSIS)
		f->interrupts[gsi]++;
	else
		f->lost++;
	f->delivered++;
	fake_hv_wake_vcpus(f);
}

/* As in KVM, several signals may be one interrupt. */
static void consume(struct fake_hv *f, const struct irqfd *i)
{
	struct pollfd p = { .fd = i->fd, .events = POLLIN };
	eventfd_t count;

	if (poll(&p, 1, 0) > 0 && eventfd_read(i->fd, &count) == 0)
		deliver(f, i->gsi);
}

void fake_hv_consume_all(struct fake_hv *f)
{
	for (unsigned i = 0; i < f->num_irqfds; i++)
		consume(f, &f->irqfd[i]);
}

static int fake_irqfd(struct hv *hv, int fd, uint32_t gsi, bool assign)
{
	struct fake_hv *f = to_fake(hv);
	int r;

	pthread_mutex_lock(&f->lock);
	r = fake_hv_failure(f, FAKE_HV_IRQFD);
	if (r)
		goto out;
	for (unsigned i = 0; i < f->num_irqfds; i++) {
		if (f->irqfd[i].fd != fd)
			continue;
		if (assign) {
			r = -EBUSY;
			goto out;
		}
		if (f->irqfd[i].gsi != gsi)
			continue;
		/* Signals up to here have reached KVM. */
		consume(f, &f->irqfd[i]);
		f->irqfd[i] = f->irqfd[--f->num_irqfds];
		goto out;
	}
	if (!assign)
		goto out; /* KVM does not mind either */
	if (f->num_irqfds == MAX_BOUND)
		abort();
	f->irqfd[f->num_irqfds] = (struct irqfd){ .fd = fd, .gsi = gsi };
	/* A count that is there is delivered at once, by the routes of now. */
	consume(f, &f->irqfd[f->num_irqfds++]);
	/* Halted vCPUs wait for this one too from now on. */
	fake_hv_wake_vcpus(f);
out:
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_irq_line(struct hv *hv, uint32_t gsi, bool level)
{
	struct fake_hv *f = to_fake(hv);

	if (gsi >= MAX_GSIS)
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	if (level && !f->level[gsi])
		deliver(f, gsi);
	f->level[gsi] = level;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int fake_routes_set(struct hv *hv, const struct hv_route *routes, unsigned num)
{
	struct fake_hv *f = to_fake(hv);
	int r;

	pthread_mutex_lock(&f->lock);
	r = fake_hv_failure(f, FAKE_HV_ROUTES_SET);
	if (!r) {
		/* What was signalled before goes by the old table. */
		fake_hv_consume_all(f);
		free(f->routes);
		f->routes = fake_hv_need(malloc((num + 1) * sizeof(*routes)));
		memcpy(f->routes, routes, num * sizeof(*routes));
		f->num_routes = num;
		f->routes_set = true;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_msi(struct hv *hv, uint64_t addr, uint32_t data)
{
	struct fake_hv *f = to_fake(hv);

	pthread_mutex_lock(&f->lock);
	deliver_message(f, addr, data);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

uint64_t fake_hv_interrupts(struct hv *hv, uint32_t gsi)
{
	struct fake_hv *f = to_fake(hv);
	uint64_t n;

	pthread_mutex_lock(&f->lock);
	fake_hv_consume_all(f);
	n = gsi < MAX_GSIS ? f->interrupts[gsi] : 0;
	pthread_mutex_unlock(&f->lock);
	return n;
}

uint64_t fake_hv_messages(struct hv *hv, uint64_t addr, uint32_t data)
{
	struct fake_hv *f = to_fake(hv);
	uint64_t n = 0;

	pthread_mutex_lock(&f->lock);
	fake_hv_consume_all(f);
	for (unsigned i = 0; i < f->num_messages; i++)
		if (f->message[i].addr == addr && f->message[i].data == data)
			n = f->message[i].count;
	pthread_mutex_unlock(&f->lock);
	return n;
}

uint64_t fake_hv_lost(struct hv *hv)
{
	struct fake_hv *f = to_fake(hv);
	uint64_t n;

	pthread_mutex_lock(&f->lock);
	fake_hv_consume_all(f);
	n = f->lost;
	pthread_mutex_unlock(&f->lock);
	return n;
}

bool fake_hv_level(struct hv *hv, uint32_t gsi)
{
	struct fake_hv *f = to_fake(hv);
	bool level;

	pthread_mutex_lock(&f->lock);
	level = f->level[gsi];
	pthread_mutex_unlock(&f->lock);
	return level;
}

bool fake_hv_wait_signal(struct fake_hv *f, int extra_fd, int timeout_ms)
{
	struct pollfd fds[MAX_BOUND + 1];
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->num_irqfds; i++)
		fds[n++] = (struct pollfd){ .fd = f->irqfd[i].fd, .events = POLLIN };
	pthread_mutex_unlock(&f->lock);
	if (extra_fd >= 0)
		fds[n++] = (struct pollfd){ .fd = extra_fd, .events = POLLIN };
	return poll(fds, n, timeout_ms) > 0;
}

bool fake_hv_wait_interrupts(struct hv *hv, uint32_t gsi, uint64_t count, int timeout_ms)
{
	/* In slices: a vCPU may consume the signal before we see it. */
	for (int waited = 0; fake_hv_interrupts(hv, gsi) < count; waited += 10) {
		if (waited >= timeout_ms)
			return false;
		fake_hv_wait_signal(to_fake(hv), -1, 10);
	}
	return true;
}

unsigned fake_hv_num_irqfds(struct hv *hv)
{
	struct fake_hv *f = to_fake(hv);
	unsigned n;

	pthread_mutex_lock(&f->lock);
	n = f->num_irqfds;
	pthread_mutex_unlock(&f->lock);
	return n;
}

const struct hv_route *fake_hv_routes(struct hv *hv, unsigned *ret_num)
{
	struct fake_hv *f = to_fake(hv);
	const struct hv_route *routes;

	pthread_mutex_lock(&f->lock);
	routes = f->routes;
	*ret_num = f->num_routes;
	pthread_mutex_unlock(&f->lock);
	return routes;
}

/* ---- its operations ---- */

void fake_hv_irq_ops(struct hv_ops *ops)
{
	ops->irqfd = fake_irqfd;
	ops->irq_line = fake_irq_line;
	ops->routes_set = fake_routes_set;
	ops->msi = fake_msi;
}
