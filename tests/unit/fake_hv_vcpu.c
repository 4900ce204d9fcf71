/* The fake hypervisor's vCPUs, and how a guest says what it does. */
#include "tests/unit/fake_hv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/unit/fake_hv_parts.h"

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
	r = fake_hv_failure(f, FAKE_HV_VCPU_CREATE);
	if (!r && f->vcpu[index])
		r = -EEXIST;
	if (r) {
		pthread_mutex_unlock(&f->lock);
		return error_set(err, r, "vCPU %u: %m", index);
	}
	v = fake_hv_need(calloc(1, sizeof(*v)));
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
	fake_hv_consume_all(f);
	news = f->delivered != v->seen;
	pthread_mutex_unlock(&f->lock);
	if (!news)
		fake_hv_wait_signal(f, v->wake_fd, -1);
}

static enum fake_step step(struct hv_vcpu *v, struct hv_exit *exit)
{
	enum fake_step s;

	memset(exit, 0, sizeof(*exit));
	if (!v->f->params.guest)
		return FAKE_STEP_HALT;
	pthread_mutex_lock(&v->f->lock);
	fake_hv_consume_all(v->f);
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
	r = fake_hv_failure(f, FAKE_HV_VCPU_RUN);
	pthread_mutex_unlock(&f->lock);
	if (r)
		return r;

	/* As KVM does, the access before is completed first, kicked or not. */
	memcpy(v->result, v->data, sizeof(v->result));
	while (!atomic_load(&v->kicked)) {
		switch (step(v, exit)) {
		case FAKE_STEP_EXIT:
			if (!fake_hv_ring_doorbell(f, exit))
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
		v->saved = fake_hv_need(malloc(sizeof(*v->saved)));
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
		f->saved_vm = fake_hv_need(malloc(sizeof(*f->saved_vm)));
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

/* ---- its operations ---- */

static uint64_t fake_tsc_khz(struct hv_vcpu *v)
{
	return v->f->params.tsc_khz;
}

static int fake_tsc_set_khz(struct hv_vcpu *v, uint64_t khz)
{
	if (!v->f->params.tsc_scales)
		return -ENOTSUP;
	v->f->params.tsc_khz = khz;
	return 0;
}

void fake_hv_vcpu_ops(struct hv_ops *ops)
{
	ops->vcpu_create = fake_vcpu_create;
	ops->vcpu_free = fake_vcpu_free;
	ops->vcpu_run = fake_vcpu_run;
	ops->vcpu_kick = fake_vcpu_kick;
	ops->vcpu_unkick = fake_vcpu_unkick;
	ops->vcpu_get = fake_vcpu_get;
	ops->vcpu_save = fake_vcpu_save;
	ops->vcpu_load = fake_vcpu_load;
	ops->vm_save = fake_vm_save;
	ops->vm_load = fake_vm_load;
	ops->tsc_khz = fake_tsc_khz;
	ops->tsc_set_khz = fake_tsc_set_khz;
	ops->vcpu_setup = fake_vcpu_setup;
	ops->vcpu_set = fake_vcpu_set;
	ops->vcpu_debug = fake_vcpu_debug;
}
