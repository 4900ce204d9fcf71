#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>

#include "tests/sim/world.h"

#define POISON	  0xdb
#define NO_STATUS 0x7f

static void *at(struct world *w, uint64_t gpa, uint64_t len)
{
	return fake_ptr(&w->host[w->here].vm, gpa, len);
}

void guest_setup(struct world *w, struct guest_driver *g)
{
	struct fake_vm *vm = &w->host[w->here].vm;

	for (unsigned i = 0; i < WORLD_REQUESTS; i++) {
		struct request *r = &g->request[i];

		r->header = fake_alloc(vm, 16, 16);
		r->data = fake_alloc(vm, 2ul * WORLD_DATA, 16);
		r->status = fake_alloc(vm, 1, 1);
	}
}

void guest_probe(struct world *w, struct guest_driver *g)
{
	w->trace("%s: probe", g->d.dev->id);
	/* Without a doorbell of its own, a kick is an exit. */
	if (chance_percent(&w->chance, 10))
		fake_hv_fail(g->d.vm->hv, FAKE_HV_IOEVENTFD, 0, -ENOSPC);
	fake_driver_probe(&g->d);
}

unsigned guest_in_flight(const struct guest_driver *g)
{
	unsigned n = 0;

	for (unsigned i = 0; i < WORLD_REQUESTS; i++)
		n += g->request[i].busy;
	return n;
}

static struct request *idle_request(struct guest_driver *g)
{
	for (unsigned i = 0; i < WORLD_REQUESTS; i++) {
		if (!g->request[i].busy)
			return &g->request[i];
	}
	return NULL;
}

/* ---- requests ---- */

static void fill(void *data, uint64_t value, unsigned len)
{
	for (unsigned i = 0; i < len; i += sizeof(value))
		memcpy((uint8_t *)data + i, &value, sizeof(value));
}

static bool plan_disk(struct world *w, struct request *r)
{
	static const uint32_t types[] = {
		[REQUEST_READ] = VIRTIO_BLK_T_IN,
		[REQUEST_WRITE] = VIRTIO_BLK_T_OUT,
		[REQUEST_FLUSH] = VIRTIO_BLK_T_FLUSH,
	};
	struct virtio_blk_outhdr h = { 0 };

	r->kind = chance_percent(&w->chance, 8) ? REQUEST_FLUSH :
		  chance_percent(&w->chance, 50) ? REQUEST_READ : REQUEST_WRITE;
	r->num = r->kind == REQUEST_FLUSH ? 0 : 1 + chance_below(&w->chance, 4);
	r->first = chance_below(&w->chance, DISK_SECTORS - r->num);
	if (r->num && !disk_model_begin(&w->model, r->first, r->num, r->kind == REQUEST_WRITE))
		return false;
	h.type = htole32(types[r->kind]);
	h.sector = htole64(r->kind == REQUEST_FLUSH ? 0 : r->first);
	memcpy(at(w, r->header, 16), &h, sizeof(h));
	return true;
}

void guest_add(struct world *w, struct guest_driver *g)
{
	struct request *r = idle_request(g);
	struct fake_buf bufs[4];
	unsigned n = 0, half;
	int id;

	if (!r)
		return;
	r->queue = chance_below(&w->chance, g->d.num_queues);
	r->kind = REQUEST_ECHO;
	r->num = 1;
	if (g->is_disk && !plan_disk(w, r))
		return;
	r->poisoned = false;
	r->value = ++w->next_value;
	fill(at(w, r->data, WORLD_DATA), r->value, WORLD_DATA);
	*(uint8_t *)at(w, r->status, 1) = NO_STATUS;
	if (g->is_disk) {
		half = r->num / 2 * DISK_SECTOR;
		bufs[n++] = (struct fake_buf){ r->header, 16, false };
		if (half)
			bufs[n++] = (struct fake_buf){ r->data, half, r->kind == REQUEST_READ };
		if (r->num)
			bufs[n++] = (struct fake_buf){ r->data + half, r->num * DISK_SECTOR - half,
						       r->kind == REQUEST_READ };
		bufs[n++] = (struct fake_buf){ r->status, 1, true };
	} else {
		memset(at(w, r->data + WORLD_DATA, 64), 0, 64);
		bufs[n++] = (struct fake_buf){ r->data, 64, false };
		bufs[n++] = (struct fake_buf){ r->data + WORLD_DATA, 64, true };
	}
	id = fake_add(&g->d, r->queue, bufs, n);
	if (id < 0) {
		/* The ring is full: not this time. */
		if (g->is_disk)
			disk_model_cancel(&w->model, r->first, r->num, r->kind == REQUEST_WRITE);
		return;
	}
	r->id = (unsigned)id;
	r->busy = true;
	g->owes_kick[r->queue] = true;
	w->requests++;
	w->trace("%s: request %u.%u kind %u sectors %u+%u value %llu", g->d.dev->id, r->queue,
		 r->id, r->kind, r->first, r->num, (unsigned long long)r->value);
}

void guest_kick(struct world *w, struct guest_driver *g, unsigned queue)
{
	g->owes_kick[queue] = false;
	w->trace("%s: kick %u%s", g->d.dev->id, queue,
		 fake_kick(&g->d, queue) ? "" : " not wanted");
}

/* A chain that leads nowhere: the device must refuse it and everything after it. */
void guest_break(struct world *w, struct guest_driver *g)
{
	struct fake_buf nowhere = { FAKE_RAM_END - 1, 4096, false };
	unsigned queue = chance_below(&w->chance, g->d.num_queues);

	if (g->broken || fake_add(&g->d, queue, &nowhere, 1) < 0)
		return;
	w->trace("%s: a bad chain on %u", g->d.dev->id, queue);
	g->owes_kick[queue] = g->broken = true;
}

/* ---- completions ---- */

static void finished(struct world *w, struct guest_driver *g, struct request *r, uint32_t len)
{
	uint8_t status = *(uint8_t *)at(w, r->status, 1);
	uint64_t echo;

	r->busy = false;
	w->trace("%s: request %u.%u is back: %u bytes, status %u", g->d.dev->id, r->queue, r->id,
		 len, status);
	switch (r->kind) {
	case REQUEST_ECHO:
		memcpy(&echo, at(w, r->data + WORLD_DATA, 64), sizeof(echo));
		if (len != 64 || echo != r->value)
			w->wrong("%s: echo of %llu is %llu, %u bytes", g->d.dev->id,
				 (unsigned long long)r->value, (unsigned long long)echo, len);
		break;
	case REQUEST_WRITE:
		disk_model_end_write(&w->model, r->first, r->num, r->value,
				     status == VIRTIO_BLK_S_OK);
		break;
	case REQUEST_READ:
		if (!disk_model_end_read(&w->model, r->first, r->num,
					 status == VIRTIO_BLK_S_OK ?
						 at(w, r->data, (uint64_t)r->num * DISK_SECTOR) :
						 NULL))
			w->wrong("%s: sectors %u+%u hold what nobody wrote", g->d.dev->id, r->first,
				 r->num);
		break;
	case REQUEST_FLUSH:
		break;
	}
	if (r->kind != REQUEST_ECHO && status != VIRTIO_BLK_S_OK &&
	    (status != VIRTIO_BLK_S_IOERR || !w->sim.faults))
		w->wrong("%s: status %u", g->d.dev->id, status);
}

static void take_all(struct world *w, struct guest_driver *g, unsigned queue)
{
	struct fake_used used;

	while (fake_take_used(&g->d, queue, &used)) {
		struct request *r = NULL;

		for (unsigned i = 0; i < WORLD_REQUESTS; i++) {
			struct request *c = &g->request[i];

			if (c->busy && c->queue == queue && c->id == used.id)
				r = c;
		}
		/* fake_take_used() has seen to it that the chain was in flight. */
		if (r)
			finished(w, g, r, used.len);
		else if (!g->broken)
			w->wrong("%s: %u.%u came back and was not asked for", g->d.dev->id, queue,
				 used.id);
	}
}

void guest_interrupts(struct world *w, struct guest_driver *g)
{
	bool shared = !g->d.pci || g->d.config.intx;

	for (unsigned i = 0; i < g->d.num_queues; i++) {
		if (!fake_take_interrupt(&g->d, i))
			continue;
		for (unsigned k = 0; k < g->d.num_queues; k++)
			g->interrupted[k] |= shared || k == i;
	}
}

void guest_look(struct world *w, struct guest_driver *g)
{
	guest_interrupts(w, g);
	for (unsigned i = 0; i < g->d.num_queues; i++) {
		if (!g->interrupted[i])
			continue;
		w->trace("%s: interrupt %u", g->d.dev->id, i);
		g->interrupted[i] = false;
		take_all(w, g, i);
	}
}

/* ---- ways to have fewer interrupts ---- */

void guest_hint(struct world *w, struct guest_driver *g, unsigned queue, bool on)
{
	w->trace("%s: interrupts %u %s", g->d.dev->id, queue, on ? "on" : "off");
	g->hint_off[queue] = !on;
	if (!on) {
		fake_interrupts_off(&g->d, queue);
		return;
	}
	/* What came before the device read the hint came without an interrupt. */
	fake_interrupts_on(&g->d, queue);
	take_all(w, g, queue);
}

void guest_mask(struct world *w, struct guest_driver *g, unsigned queue, bool mask)
{
	if (!g->d.pci || g->d.config.intx)
		return;
	w->trace("%s: vector %u %s", g->d.dev->id, queue + 1, mask ? "masked" : "unmasked");
	g->masked[queue] = mask;
	fake_write(g->d.vm,
		   g->d.msix_table + (queue + 1) * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL,
		   mask, 4);
}

/* ---- reset ---- */

static void poison(struct world *w, uint64_t gpa, uint64_t len)
{
	memset(at(w, gpa, len), POISON, len);
}

static void retire_ring(struct world *w, uint64_t gpa, uint64_t len)
{
	if (w->num_old == WORLD_RINGS)
		return;
	poison(w, gpa, len);
	w->old_ring[w->num_old++] = (struct area){ gpa, len };
}

/* The driver has its memory back, and puts it to another use. */
static void forget_all(struct world *w, struct guest_driver *g)
{
	for (unsigned i = 0; i < g->d.num_queues; i++) {
		const struct fake_queue *q = &g->d.queue[i];

		retire_ring(w, q->desc, q->size * 16ull);
		retire_ring(w, q->driver, 6 + 2ull * q->size);
		retire_ring(w, q->device, 6 + 8ull * q->size);
		g->owes_kick[i] = g->interrupted[i] = g->hint_off[i] = false;
	}
	for (unsigned i = 0; i < WORLD_REQUESTS; i++) {
		struct request *r = &g->request[i];

		if (r->busy && r->kind == REQUEST_WRITE)
			disk_model_end_write(&w->model, r->first, r->num, r->value, false);
		else if (r->busy && r->kind == REQUEST_READ)
			disk_model_end_read(&w->model, r->first, r->num, NULL);
		r->busy = false;
		poison(w, r->header, 16);
		poison(w, r->data, 2ul * WORLD_DATA);
		poison(w, r->status, 1);
		r->poisoned = true;
	}
	g->resetting = g->broken = false;
	w->resets++;
}

void guest_reset(struct world *w, struct guest_driver *g)
{
	w->trace("%s: reset", g->d.dev->id);
	fake_set_status(&g->d, 0);
	g->resetting = true;
}

bool guest_poll_reset(struct world *w, struct guest_driver *g)
{
	if (fake_status(&g->d))
		return false;
	w->trace("%s: reset is acknowledged", g->d.dev->id);
	forget_all(w, g);
	return true;
}

static void check_area(struct world *w, uint64_t gpa, uint64_t len, const char *what)
{
	const uint8_t *p = at(w, gpa, len);

	for (uint64_t i = 0; i < len; i++) {
		if (p[i] != POISON)
			w->wrong("%s at 0x%llx was written after the reset", what,
				 (unsigned long long)(gpa + i));
	}
}

static void check_request(struct world *w, const struct request *r)
{
	if (!r->poisoned)
		return;
	check_area(w, r->header, 16, "a header");
	check_area(w, r->data, 2ul * WORLD_DATA, "a buffer");
	check_area(w, r->status, 1, "a status");
}

void world_check_poison(struct world *w)
{
	for (unsigned i = 0; i < w->num_old; i++)
		check_area(w, w->old_ring[i].gpa, w->old_ring[i].len, "a ring");
	for (unsigned i = 0; i < WORLD_REQUESTS; i++) {
		check_request(w, &w->disk.request[i]);
		check_request(w, &w->echo.request[i]);
	}
}
