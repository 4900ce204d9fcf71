#include "tests/unit/fake_hv.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/hypervisor/x86_state.h"

#define MAX_SLOTS   32
#define MAX_BOUND   256 /* ioeventfds, and irqfds */
#define MAX_GSIS    4096
#define MAX_VCPUS   256
#define NUM_PINS    24
#define MAX_MESSAGES 1024 /* different ones */

struct slot {
	uint64_t gpa, size;
	uint8_t *host;
	unsigned flags;
	uint64_t *dirty; /* with HV_MEM_LOG_DIRTY */
};

struct irqfd {
	int fd;
	uint32_t gsi;
};

struct message {
	uint64_t addr;
	uint32_t data;
	uint64_t count;
};

struct fake_hv {
	struct hv hv;
	struct fake_hv_params params;
	pthread_mutex_t lock; /* for all below */
	struct slot slot[MAX_SLOTS];
	struct hv_ioeventfd doorbell[MAX_BOUND];
	unsigned num_doorbells;
	struct irqfd irqfd[MAX_BOUND];
	unsigned num_irqfds;
	struct hv_route *routes;
	unsigned num_routes;
	bool routes_set;
	bool level[MAX_GSIS];
	uint64_t interrupts[MAX_GSIS];
	struct message message[MAX_MESSAGES];
	unsigned num_messages;
	uint64_t lost;
	uint64_t delivered; /* of all GSIs and messages */
	struct hv_vcpu *vcpu[MAX_VCPUS];
	struct x86_saved_vm *saved_vm; /* what was loaded, or NULL */
	struct {
		unsigned skip;
		int r;
	} fail[FAKE_HV_NUM_OPS];
};

struct hv_vcpu {
	struct fake_hv *f;
	unsigned index;
	int wake_fd; /* ends a halt: a kick, an interrupt, a new irqfd */
	_Atomic bool kicked;
	uint64_t seen; /* interrupts delivered before its last step */
	struct x86_vcpu_state state;
	struct x86_saved_vcpu *saved; /* what was loaded, or NULL */
	struct hv_debug debug;
	/* The device's answer goes here, and moves to @result when the vCPU is entered again. */
	uint8_t data[FAKE_HV_DATA];
	uint8_t result[FAKE_HV_DATA];
};

static struct fake_hv *to_fake(struct hv *hv)
{
	return container_of(hv, struct fake_hv, hv);
}

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

/* 0, or what the test wants this call to return. Lock held. */
static int failure(struct fake_hv *f, enum fake_hv_op op)
{
	int r = f->fail[op].r;

	if (!r)
		return 0;
	if (f->fail[op].skip) {
		f->fail[op].skip--;
		return 0;
	}
	f->fail[op].r = 0;
	return r;
}

void fake_hv_fail(struct hv *hv, enum fake_hv_op op, unsigned skip, int r)
{
	struct fake_hv *f = to_fake(hv);

	pthread_mutex_lock(&f->lock);
	f->fail[op].skip = skip;
	f->fail[op].r = r;
	pthread_mutex_unlock(&f->lock);
}

static void wake_vcpus(struct fake_hv *f)
{
	for (unsigned i = 0; i < MAX_VCPUS; i++)
		if (f->vcpu[i])
			eventfd_write(f->vcpu[i]->wake_fd, 1);
}

/* ---- interrupts; lock held ---- */

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
	wake_vcpus(f);
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
	wake_vcpus(f);
}

/* As in KVM, several signals may be one interrupt. */
static void consume(struct fake_hv *f, const struct irqfd *i)
{
	struct pollfd p = { .fd = i->fd, .events = POLLIN };
	eventfd_t count;

	if (poll(&p, 1, 0) > 0 && eventfd_read(i->fd, &count) == 0)
		deliver(f, i->gsi);
}

static void consume_all(struct fake_hv *f)
{
	for (unsigned i = 0; i < f->num_irqfds; i++)
		consume(f, &f->irqfd[i]);
}

static int fake_irqfd(struct hv *hv, int fd, uint32_t gsi, bool assign)
{
	struct fake_hv *f = to_fake(hv);
	int r;

	pthread_mutex_lock(&f->lock);
	r = failure(f, FAKE_HV_IRQFD);
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
	wake_vcpus(f);
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
	r = failure(f, FAKE_HV_ROUTES_SET);
	if (!r) {
		/* What was signalled before goes by the old table. */
		consume_all(f);
		free(f->routes);
		f->routes = need(malloc((num + 1) * sizeof(*routes)));
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
	consume_all(f);
	n = gsi < MAX_GSIS ? f->interrupts[gsi] : 0;
	pthread_mutex_unlock(&f->lock);
	return n;
}

uint64_t fake_hv_messages(struct hv *hv, uint64_t addr, uint32_t data)
{
	struct fake_hv *f = to_fake(hv);
	uint64_t n = 0;

	pthread_mutex_lock(&f->lock);
	consume_all(f);
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
	consume_all(f);
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

/* Sleep until @extra_fd or an irqfd is signalled. */
static bool wait_signal(struct fake_hv *f, int extra_fd, int timeout_ms)
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
		wait_signal(to_fake(hv), -1, 10);
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

/* ---- doorbells ---- */

static bool same_doorbell(const struct hv_ioeventfd *a, const struct hv_ioeventfd *b)
{
	return a->addr == b->addr && a->pio == b->pio && a->len == b->len &&
	       a->match == b->match && (!a->match || a->value == b->value);
}

static int fake_ioeventfd(struct hv *hv, const struct hv_ioeventfd *e, bool assign)
{
	struct fake_hv *f = to_fake(hv);
	int r;

	pthread_mutex_lock(&f->lock);
	r = failure(f, FAKE_HV_IOEVENTFD);
	if (r)
		goto out;
	for (unsigned i = 0; i < f->num_doorbells; i++) {
		if (!same_doorbell(&f->doorbell[i], e))
			continue;
		if (assign)
			r = -EEXIST;
		else
			f->doorbell[i] = f->doorbell[--f->num_doorbells];
		goto out;
	}
	if (!assign) {
		r = -ENOENT;
	} else {
		if (f->num_doorbells == MAX_BOUND)
			abort();
		f->doorbell[f->num_doorbells++] = *e;
	}
out:
	pthread_mutex_unlock(&f->lock);
	return r;
}

static bool doorbell_matches(const struct hv_ioeventfd *e, bool pio, uint64_t addr, unsigned len,
			     uint64_t value)
{
	return e->pio == pio && e->addr == addr && (!e->len || e->len == len) &&
	       (!e->match || e->value == value);
}

/* True when the write was a doorbell's, and is done. */
static bool ring_doorbell(struct fake_hv *f, const struct hv_exit *exit)
{
	bool rung = false;
	uint64_t value = 0;

	if ((exit->kind != HV_EXIT_PIO_WRITE && exit->kind != HV_EXIT_MMIO_WRITE) ||
	    exit->count != 1)
		return false;
	memcpy(&value, exit->data, MIN(exit->size, 8u));
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->num_doorbells && !rung; i++) {
		rung = doorbell_matches(&f->doorbell[i], exit->kind == HV_EXIT_PIO_WRITE,
					exit->addr, exit->size, value);
		if (rung)
			eventfd_write(f->doorbell[i].fd, 1);
	}
	pthread_mutex_unlock(&f->lock);
	return rung;
}

bool fake_hv_has_ioeventfd(struct hv *hv, bool pio, uint64_t addr, uint64_t value)
{
	struct fake_hv *f = to_fake(hv);
	bool found = false;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->num_doorbells; i++)
		found |= doorbell_matches(&f->doorbell[i], pio, addr, f->doorbell[i].len, value);
	pthread_mutex_unlock(&f->lock);
	return found;
}

unsigned fake_hv_num_ioeventfds(struct hv *hv)
{
	struct fake_hv *f = to_fake(hv);
	unsigned n;

	pthread_mutex_lock(&f->lock);
	n = f->num_doorbells;
	pthread_mutex_unlock(&f->lock);
	return n;
}

/* ---- memory ---- */

static uint64_t bitmap_words(const struct slot *s)
{
	return ((s->size >> PAGE_SHIFT) + 63) / 64;
}

static int fake_mem_set(struct hv *hv, unsigned slot, uint64_t gpa, uint64_t size, void *host,
			unsigned flags)
{
	struct fake_hv *f = to_fake(hv);
	struct slot *s;
	int r;

	if (slot >= MAX_SLOTS || (gpa | size | (uintptr_t)host) & (PAGE_SIZE - 1))
		return -EINVAL;
	s = &f->slot[slot];
	pthread_mutex_lock(&f->lock);
	r = failure(f, FAKE_HV_MEM_SET);
	for (unsigned i = 0; i < MAX_SLOTS && !r; i++)
		if (i != slot && size && f->slot[i].size &&
		    ranges_overlap(gpa, size, f->slot[i].gpa, f->slot[i].size))
			r = -EEXIST;
	if (!r) {
		free(s->dirty);
		*s = (struct slot){ .gpa = gpa, .size = size, .host = host, .flags = flags };
		if (size && flags & HV_MEM_LOG_DIRTY)
			s->dirty = need(calloc(bitmap_words(s), sizeof(uint64_t)));
		if (s->dirty && f->params.log_begins_full)
			memset(s->dirty, 0xff, bitmap_words(s) * sizeof(uint64_t));
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_dirty_get(struct hv *hv, unsigned slot, uint64_t *bitmap)
{
	struct fake_hv *f = to_fake(hv);
	int r;

	if (slot >= MAX_SLOTS)
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	r = failure(f, FAKE_HV_DIRTY_GET);
	if (!r && !f->slot[slot].dirty)
		r = -ENOENT;
	if (!r)
		memcpy(bitmap, f->slot[slot].dirty, bitmap_words(&f->slot[slot]) * 8);
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_dirty_clear(struct hv *hv, unsigned slot, uint64_t first_page, uint32_t num_pages,
			    const uint64_t *bitmap)
{
	struct fake_hv *f = to_fake(hv);
	struct slot *s;
	int r = 0;

	if (slot >= MAX_SLOTS)
		return -EINVAL;
	s = &f->slot[slot];
	pthread_mutex_lock(&f->lock);
	if (!s->dirty)
		r = -ENOENT;
	else if (first_page % 64 || !range_inside(first_page, num_pages, 0, s->size >> PAGE_SHIFT))
		r = -EINVAL;
	/* Bit 0 of @bitmap is @first_page. */
	for (uint32_t i = 0; i < num_pages && !r; i++)
		if (bitmap[i / 64] >> (i % 64) & 1)
			s->dirty[(first_page + i) / 64] &= ~(1ull << (i % 64));
	pthread_mutex_unlock(&f->lock);
	return r;
}

static struct slot *find_slot(struct fake_hv *f, uint64_t gpa, size_t len)
{
	for (unsigned i = 0; i < MAX_SLOTS; i++)
		if (f->slot[i].size && range_inside(gpa, len, f->slot[i].gpa, f->slot[i].size))
			return &f->slot[i];
	return NULL;
}

int fake_hv_read(struct hv *hv, uint64_t gpa, void *dst, size_t len)
{
	struct fake_hv *f = to_fake(hv);
	const struct slot *s;

	pthread_mutex_lock(&f->lock);
	s = find_slot(f, gpa, len);
	if (s)
		memcpy(dst, s->host + (gpa - s->gpa), len);
	pthread_mutex_unlock(&f->lock);
	return s ? 0 : -EFAULT;
}

int fake_hv_write(struct hv *hv, uint64_t gpa, const void *src, size_t len)
{
	struct fake_hv *f = to_fake(hv);
	struct slot *s;
	int r = 0;

	pthread_mutex_lock(&f->lock);
	s = find_slot(f, gpa, len);
	if (!s) {
		r = -EFAULT;
	} else if (s->flags & HV_MEM_READ_ONLY) {
		r = -EPERM;
	} else if (len) {
		uint64_t first = (gpa - s->gpa) >> PAGE_SHIFT;
		uint64_t last = (gpa - s->gpa + len - 1) >> PAGE_SHIFT;

		memcpy(s->host + (gpa - s->gpa), src, len);
		for (uint64_t page = first; s->dirty && page <= last; page++)
			s->dirty[page / 64] |= 1ull << (page % 64);
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

/* ---- vCPUs ---- */

static int fake_vcpu_create(struct hv *hv, unsigned index, struct hv_vcpu **ret_vcpu,
			    struct error *err)
{
	struct fake_hv *f = to_fake(hv);
	struct hv_vcpu *v;
	int r;

	if (index >= MAX_VCPUS)
		return error_set(err, -EINVAL, "vCPU %u: %m", index);
	pthread_mutex_lock(&f->lock);
	r = failure(f, FAKE_HV_VCPU_CREATE);
	if (!r && f->vcpu[index])
		r = -EEXIST;
	if (r) {
		pthread_mutex_unlock(&f->lock);
		return error_set(err, r, "vCPU %u: %m", index);
	}
	v = need(calloc(1, sizeof(*v)));
	v->f = f;
	v->index = index;
	v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->wake_fd < 0)
		abort();
	/* Of the state after reset, what a boot state keeps. */
	v->state.sregs.apic_base = 0xfee00800 | (index ? 0 : 0x100);
	v->state.sregs.cr0 = X86_CR0_ET | X86_CR0_CD | X86_CR0_NW;
	v->state.regs.rflags = 2;
	f->vcpu[index] = v;
	pthread_mutex_unlock(&f->lock);
	*ret_vcpu = v;
	return 0;
}

static void fake_vcpu_free(struct hv_vcpu *v)
{
	if (!v)
		return;
	pthread_mutex_lock(&v->f->lock);
	v->f->vcpu[v->index] = NULL;
	pthread_mutex_unlock(&v->f->lock);
	close(v->wake_fd);
	free(v->saved);
	free(v);
}

static void halt(struct hv_vcpu *v)
{
	struct fake_hv *f = v->f;
	eventfd_t count;
	bool news;

	/* Forget old wakeups, then look: what comes after the look wakes us. */
	eventfd_read(v->wake_fd, &count);
	if (atomic_load(&v->kicked))
		return;
	pthread_mutex_lock(&f->lock);
	consume_all(f);
	news = f->delivered != v->seen;
	pthread_mutex_unlock(&f->lock);
	if (!news)
		wait_signal(f, v->wake_fd, -1);
}

static enum fake_step step(struct hv_vcpu *v, struct hv_exit *exit)
{
	enum fake_step s;

	memset(exit, 0, sizeof(*exit));
	if (!v->f->params.guest)
		return FAKE_STEP_HALT;
	pthread_mutex_lock(&v->f->lock);
	consume_all(v->f);
	v->seen = v->f->delivered;
	pthread_mutex_unlock(&v->f->lock);
	memcpy(v->data, v->result, sizeof(v->data));
	exit->data = v->data;
	s = v->f->params.guest(v->f->params.arg, v->index, exit);
	if (!exit->count)
		exit->count = 1;
	return s;
}

static int fake_vcpu_run(struct hv_vcpu *v, struct hv_exit *exit)
{
	struct fake_hv *f = v->f;
	int r;

	pthread_mutex_lock(&f->lock);
	r = failure(f, FAKE_HV_VCPU_RUN);
	pthread_mutex_unlock(&f->lock);
	if (r)
		return r;

	/* As KVM does, the access before is completed first, kicked or not. */
	memcpy(v->result, v->data, sizeof(v->result));
	while (!atomic_load(&v->kicked)) {
		switch (step(v, exit)) {
		case FAKE_STEP_EXIT:
			if (!ring_doorbell(f, exit))
				return 0;
			break;
		case FAKE_STEP_GO_ON:
			break;
		case FAKE_STEP_HALT:
			if (f->params.never_wait) {
				memset(exit, 0, sizeof(*exit));
				return 0;
			}
			halt(v);
			break;
		}
	}
	memset(exit, 0, sizeof(*exit));
	return 0;
}

static void fake_vcpu_kick(struct hv_vcpu *v)
{
	atomic_store(&v->kicked, true);
	eventfd_write(v->wake_fd, 1);
}

static void fake_vcpu_unkick(struct hv_vcpu *v)
{
	atomic_store(&v->kicked, false);
}

static int fake_vcpu_get(struct hv_vcpu *v, struct x86_vcpu_state *state)
{
	*state = v->state;
	return 0;
}

/* A processor that has done nothing but what vcpu_set() said. */
static int fake_vcpu_save(struct hv_vcpu *v, struct x86_saved_vcpu *state, struct error *err)
{
	if (v->saved) {
		*state = *v->saved;
	} else {
		memset(state, 0, sizeof(*state));
		state->tsc = 1000;
		state->xsave_bytes = 4096;
		state->lapic[0x20] = v->index;
		state->num_msrs = 1;
		state->msr[0].index = 0x277;
		state->msr[0].data = 0x0007040600070406 + v->index;
	}
	state->regs = v->state;
	state->regs.regs.rflags |= X86_RFLAGS_FIXED;
	return 0;
}

static int fake_vcpu_load(struct hv_vcpu *v, const struct x86_saved_vcpu *state, struct error *err)
{
	if (!v->saved)
		v->saved = need(malloc(sizeof(*v->saved)));
	*v->saved = *state;
	v->state = state->regs;
	return 0;
}

static int fake_vm_save(struct hv *hv, struct x86_saved_vm *vm, struct error *err)
{
	struct fake_hv *f = to_fake(hv);

	memset(vm, 0, sizeof(*vm));
	if (f->saved_vm)
		*vm = *f->saved_vm;
	return 0;
}

static int fake_vm_load(struct hv *hv, const struct x86_saved_vm *vm, struct error *err)
{
	struct fake_hv *f = to_fake(hv);

	if (!f->saved_vm)
		f->saved_vm = need(malloc(sizeof(*f->saved_vm)));
	*f->saved_vm = *vm;
	return 0;
}

static int fake_vcpu_setup(struct hv_vcpu *v, const struct x86_cpuid *cpuid, struct error *err)
{
	return 0;
}

static int fake_vcpu_set(struct hv_vcpu *v, const struct x86_vcpu_state *state)
{
	v->state = *state;
	return 0;
}

static int fake_vcpu_debug(struct hv_vcpu *v, const struct hv_debug *debug)
{
	v->debug = *debug;
	return 0;
}

const struct hv_debug *fake_hv_debug(struct hv *hv, unsigned vcpu)
{
	return &to_fake(hv)->vcpu[vcpu]->debug;
}

/* ---- guests' helpers ---- */

static enum fake_step make_access(struct hv_exit *exit, enum hv_exit_kind kind, uint64_t addr,
				  unsigned size, uint64_t value)
{
	exit->kind = kind;
	exit->addr = addr;
	exit->size = size;
	exit->count = 1;
	memcpy(exit->data, &value, sizeof(value));
	return FAKE_STEP_EXIT;
}

enum fake_step fake_pio_read(struct hv_exit *exit, uint16_t port, unsigned size)
{
	return make_access(exit, HV_EXIT_PIO_READ, port, size, 0);
}

enum fake_step fake_pio_write(struct hv_exit *exit, uint16_t port, unsigned size, uint64_t value)
{
	return make_access(exit, HV_EXIT_PIO_WRITE, port, size, value);
}

enum fake_step fake_mmio_read(struct hv_exit *exit, uint64_t addr, unsigned size)
{
	return make_access(exit, HV_EXIT_MMIO_READ, addr, size, 0);
}

enum fake_step fake_mmio_write(struct hv_exit *exit, uint64_t addr, unsigned size, uint64_t value)
{
	return make_access(exit, HV_EXIT_MMIO_WRITE, addr, size, value);
}

uint64_t fake_result(const struct hv_exit *exit, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, exit->data, MIN(size, 8u));
	return v;
}

/* ---- life ---- */

static void fake_free(struct hv *hv)
{
	struct fake_hv *f = to_fake(hv);

	if (!hv)
		return;
	for (unsigned i = 0; i < MAX_SLOTS; i++)
		free(f->slot[i].dirty);
	free(f->routes);
	free(f->saved_vm);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static const struct hv_ops fake_ops = {
	.free = fake_free,
	.mem_set = fake_mem_set,
	.dirty_get = fake_dirty_get,
	.dirty_clear = fake_dirty_clear,
	.ioeventfd = fake_ioeventfd,
	.irqfd = fake_irqfd,
	.irq_line = fake_irq_line,
	.routes_set = fake_routes_set,
	.msi = fake_msi,
	.vcpu_create = fake_vcpu_create,
	.vcpu_free = fake_vcpu_free,
	.vcpu_run = fake_vcpu_run,
	.vcpu_kick = fake_vcpu_kick,
	.vcpu_unkick = fake_vcpu_unkick,
	.vcpu_get = fake_vcpu_get,
	.vcpu_set = fake_vcpu_set,
	.vcpu_setup = fake_vcpu_setup,
	.vm_save = fake_vm_save,
	.vcpu_save = fake_vcpu_save,
	.vcpu_load = fake_vcpu_load,
	.vm_load = fake_vm_load,
	.vcpu_debug = fake_vcpu_debug,
};

struct hv *fake_hv_create(const struct fake_hv_params *params)
{
	struct fake_hv *f = need(calloc(1, sizeof(*f)));

	f->hv.ops = &fake_ops;
	if (params)
		f->params = *params;
	pthread_mutex_init(&f->lock, NULL);
	return &f->hv;
}
