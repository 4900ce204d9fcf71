#include "vmm/hypervisor/hv_null.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/hypervisor/x86_state.h"

struct hv_vcpu {
	struct x86_vcpu_state state;
};

static void null_free(struct hv *hv)
{
	free(hv);
}

static int null_mem_set(struct hv *hv, unsigned slot, uint64_t gpa, uint64_t size, void *host,
			unsigned flags)
{
	return 0;
}

static int null_ioeventfd(struct hv *hv, const struct hv_ioeventfd *e, bool assign)
{
	return 0;
}

static int null_irqfd(struct hv *hv, int fd, uint32_t gsi, bool assign)
{
	return 0;
}

static int null_irq_line(struct hv *hv, uint32_t gsi, bool level)
{
	return 0;
}

static int null_routes_set(struct hv *hv, const struct hv_route *routes, unsigned num)
{
	return 0;
}

static int null_vcpu_create(struct hv *hv, unsigned index, struct hv_vcpu **ret_vcpu,
			    struct error *err)
{
	*ret_vcpu = calloc(1, sizeof(**ret_vcpu));
	return *ret_vcpu ? 0 : error_set(err, -ENOMEM, "vCPU %u: %m", index);
}

static void null_vcpu_free(struct hv_vcpu *vcpu)
{
	free(vcpu);
}

static int null_vcpu_get(struct hv_vcpu *vcpu, struct x86_vcpu_state *state)
{
	*state = vcpu->state;
	return 0;
}

static int null_vcpu_set(struct hv_vcpu *vcpu, const struct x86_vcpu_state *state)
{
	vcpu->state = *state;
	return 0;
}

static int null_vcpu_save(struct hv_vcpu *vcpu, struct x86_saved_vcpu *state, struct error *err)
{
	memset(state, 0, sizeof(*state));
	state->regs = vcpu->state;
	state->regs.regs.rflags |= X86_RFLAGS_FIXED;
	state->xsave_bytes = sizeof(struct kvm_xsave);
	return 0;
}

static int null_vcpu_load(struct hv_vcpu *vcpu, const struct x86_saved_vcpu *state,
			  struct error *err)
{
	vcpu->state = state->regs;
	return 0;
}

static int null_vm_save(struct hv *hv, struct x86_saved_vm *vm, struct error *err)
{
	memset(vm, 0, sizeof(*vm));
	return 0;
}

static int null_vm_load(struct hv *hv, const struct x86_saved_vm *vm, struct error *err)
{
	return 0;
}

static const struct hv_ops null_ops = {
	.free = null_free,
	.mem_set = null_mem_set,
	.ioeventfd = null_ioeventfd,
	.irqfd = null_irqfd,
	.irq_line = null_irq_line,
	.routes_set = null_routes_set,
	.vcpu_create = null_vcpu_create,
	.vcpu_free = null_vcpu_free,
	.vcpu_get = null_vcpu_get,
	.vcpu_set = null_vcpu_set,
	.vm_save = null_vm_save,
	.vcpu_save = null_vcpu_save,
	.vcpu_load = null_vcpu_load,
	.vm_load = null_vm_load,
};

int hv_null_create(struct hv **ret_hv)
{
	struct hv *hv = calloc(1, sizeof(*hv));

	if (!hv)
		return -ENOMEM;
	hv->ops = &null_ops;
	*ret_hv = hv;
	return 0;
}
