/* Processors of a real KVM, saved in one VM and gone on with in another; skipped without /dev/kvm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/hypervisor/kvm_internal.h"
#include "vmm/hypervisor/x86_state.h"

#define MEMORY_BYTES (2 * MiB)
#define CODE_ADDR    0x1000

/* Real mode: count in BX, and say each number on port 0x10. */
static const uint8_t code[] = {
	0x43,	    /* inc bx */
	0x89, 0xd8, /* mov ax, bx */
	0xe7, 0x10, /* out 0x10, ax */
	0xeb, 0xf9, /* jmp to the start */
};

struct vm {
	struct hv *hv;
	struct hv_vcpu *vcpu[2];
};

static int kvm_fd = -1;
static struct kvm_host host;

static int open_kvm(void **state)
{
	struct error err = { 0 };

	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0)
		return 0;
	return kvm_host_query(kvm_fd, &host, &err);
}

static void need_kvm(void)
{
	if (kvm_fd < 0)
		skip();
}

#define OK(call)                                 \
	do {                                     \
		struct error err = { 0 };        \
		if ((call) < 0)                  \
			fail_msg("%s", err.msg); \
	} while (0)

static void create(struct vm *vm, uint8_t *memory)
{
	struct x86_cpuid cpuid;

	OK(kvm_create(&vm->hv, kvm_fd, &host, &err));
	assert_int_equal(vm->hv->ops->mem_set(vm->hv, 0, 0, MEMORY_BYTES, memory, 0), 0);
	for (unsigned i = 0; i < 2; i++) {
		OK(vm->hv->ops->vcpu_create(vm->hv, i, &vm->vcpu[i], &err));
		OK(x86_cpuid_make(&cpuid, &host.cpuid, X86_CPU_HOST, 2,
				  vm->hv->ops->tsc_khz(vm->vcpu[i]), &err));
		x86_cpuid_set_index(&cpuid, i);
		OK(vm->hv->ops->vcpu_setup(vm->vcpu[i], &cpuid, &err));
	}
}

static void destroy(struct vm *vm)
{
	for (unsigned i = 0; i < 2; i++)
		vm->hv->ops->vcpu_free(vm->vcpu[i]);
	vm->hv->ops->free(vm->hv);
}

static void start_counting(struct vm *vm)
{
	struct x86_vcpu_state state;

	assert_int_equal(vm->hv->ops->vcpu_get(vm->vcpu[0], &state), 0);
	state.sregs.cs.base = state.sregs.cs.selector = 0;
	state.regs.rip = CODE_ADDR;
	state.regs.rbx = 0;
	state.regs.rflags = X86_RFLAGS_FIXED;
	assert_int_equal(vm->hv->ops->vcpu_set(vm->vcpu[0], &state), 0);
}

static unsigned next_number(struct vm *vm)
{
	struct hv_exit exit;

	assert_int_equal(vm->hv->ops->vcpu_run(vm->vcpu[0], &exit), 0);
	assert_int_equal(exit.kind, HV_EXIT_PIO_WRITE);
	return get_le16(exit.data);
}

/* The last access reaches the registers at the next entry; no instruction may follow it. */
static void finish_access(struct vm *vm)
{
	struct hv_exit exit;

	vm->hv->ops->vcpu_kick(vm->vcpu[0]);
	assert_int_equal(vm->hv->ops->vcpu_run(vm->vcpu[0], &exit), 0);
	assert_int_equal(exit.kind, HV_EXIT_NONE);
	vm->hv->ops->vcpu_unkick(vm->vcpu[0]);
}

static void save(struct vm *vm, struct x86_saved_vm *shared, struct x86_saved_vcpu *vcpu)
{
	OK(vm->hv->ops->vm_save(vm->hv, shared, &err));
	for (unsigned i = 0; i < 2; i++)
		OK(vm->hv->ops->vcpu_save(vm->vcpu[i], &vcpu[i], &err));
}

static void load(struct vm *vm, const struct x86_saved_vm *shared,
		 const struct x86_saved_vcpu *vcpu)
{
	for (unsigned i = 0; i < 2; i++)
		OK(vm->hv->ops->vcpu_load(vm->vcpu[i], &vcpu[i], &err));
	OK(vm->hv->ops->vm_load(vm->hv, shared, &err));
}

/* Memory for the VMs of one test, with the counting guest in it, and room for two savings. */
struct bench {
	uint8_t *memory;
	struct x86_saved_vm shared;
	struct x86_saved_vcpu saved[2], again[2];
};

static struct bench *begin(void)
{
	struct bench *b;

	need_kvm();
	b = calloc(1, sizeof(*b));
	assert_non_null(b);
	b->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	assert_true(b->memory != MAP_FAILED);
	memcpy(b->memory + CODE_ADDR, code, sizeof(code));
	return b;
}

static void end(struct bench *b)
{
	munmap(b->memory, MEMORY_BYTES);
	free(b);
}

static const struct kvm_msr_entry *find_msr(const struct x86_saved_vcpu *v, uint32_t index)
{
	for (unsigned i = 0; i < v->num_msrs; i++)
		if (v->msr[i].index == index)
			return &v->msr[i];
	return NULL;
}

static void guest_goes_on_in_another_vm(void **state)
{
	struct bench *b = begin();
	struct x86_saved_vcpu *saved = b->saved, *again = b->again;
	struct x86_saved_vm shared_again;
	struct vm first, second;

	create(&first, b->memory);
	start_counting(&first);
	for (unsigned i = 1; i <= 5; i++)
		assert_int_equal(next_number(&first), i);
	finish_access(&first);
	save(&first, &b->shared, saved);
	destroy(&first);

	create(&second, b->memory);
	load(&second, &b->shared, saved);
	save(&second, &shared_again, again);
	for (unsigned i = 0; i < 2; i++) {
		assert_memory_equal(&saved[i].regs, &again[i].regs, sizeof(saved[i].regs));
		assert_memory_equal(&saved[i].events, &again[i].events, sizeof(saved[i].events));
		assert_memory_equal(saved[i].xsave, again[i].xsave, saved[i].xsave_bytes);
		assert_memory_equal(saved[i].lapic, again[i].lapic, sizeof(saved[i].lapic));
		assert_memory_equal(&saved[i].debug, &again[i].debug, sizeof(saved[i].debug));
		assert_memory_equal(&saved[i].xcrs, &again[i].xcrs, sizeof(saved[i].xcrs));
		assert_int_equal(saved[i].mp_state, again[i].mp_state);
		assert_int_equal(saved[i].num_msrs, again[i].num_msrs);
		for (unsigned k = 0; k < saved[i].num_msrs; k++) {
			const struct kvm_msr_entry *m = &saved[i].msr[k];
			const struct kvm_msr_entry *other = find_msr(&again[i], m->index);

			assert_non_null(other);
			if (other->data != m->data)
				fail_msg("MSR %#x: %#llx became %#llx", m->index, m->data,
					 other->data);
		}
		/* Time has not gone back, and not run away: a minute at any frequency. */
		assert_true(again[i].tsc >= saved[i].tsc);
		assert_true(again[i].tsc - saved[i].tsc < 60ull * 5000000000);
	}
	assert_memory_equal(&b->shared.ioapic, &shared_again.ioapic, sizeof(shared_again.ioapic));
	assert_memory_equal(b->shared.pic, shared_again.pic, sizeof(shared_again.pic));
	assert_true(shared_again.clock_ns >= b->shared.clock_ns);
	for (unsigned i = 6; i <= 10; i++)
		assert_int_equal(next_number(&second), i);
	destroy(&second);
	end(b);
}

static void processors_keep_the_distance_of_their_clocks(void **state)
{
	struct bench *b = begin();
	struct vm first, second;
	int64_t apart;

	create(&first, b->memory);
	save(&first, &b->shared, b->saved);
	b->saved[0].tsc = b->saved[1].tsc = 77000000000;
	create(&second, b->memory);
	load(&second, &b->shared, b->saved);
	save(&second, &b->shared, b->again);
	apart = b->again[1].tsc - b->again[0].tsc;
	/* Read one after the other where KVM tells no offsets: then a moment lies between. */
	assert_true(apart >= 0 && apart < 1000000000);
	assert_true(b->again[0].tsc >= 77000000000);
	destroy(&first);
	destroy(&second);
	end(b);
}

static void msr_that_kvm_does_not_save_is_not_set(void **state)
{
	struct bench *b = begin();
	struct error err = { 0 };
	struct vm vm;

	create(&vm, b->memory);
	save(&vm, &b->shared, b->saved);
	b->saved[0].msr[0].index = 0x12345678;
	assert_true(vm.hv->ops->vcpu_load(vm.vcpu[0], &b->saved[0], &err) < 0);
	assert_non_null(strstr(err.msg, "0x12345678"));
	destroy(&vm);
	end(b);
}

static bool read_msr(struct vm *vm, uint32_t index, uint64_t *ret)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head.nmsrs = 1, .entry.index = index };

	if (kvm_vcpu_ioctl(vm->vcpu[0], KVM_GET_MSRS, &one) != 1)
		return false;
	*ret = one.entry.data;
	return true;
}

/* Can anyone change some bit of it? It is as it was afterwards. */
static bool can_change(struct vm *vm, uint32_t index)
{
	const struct hv_ops *ops = vm->hv->ops;
	uint64_t before, after;
	bool can = false;

	if (!read_msr(vm, index, &before))
		return false;
	for (unsigned bit = 0; bit < 64 && !can; bit++) {
		uint64_t mask = 1ull << bit;

		if (ops->vcpu_change_msr(vm->vcpu[0], index, mask, ~before) < 0)
			continue;
		can = read_msr(vm, index, &after) && after == (before ^ mask);
		ops->vcpu_change_msr(vm->vcpu[0], index, mask, before);
	}
	return can;
}

/* TSC_AUX, OSVW and DE_CFG: not in KVM's list of what to save, by version and vendor. */
static void what_a_template_can_change_beside_kvms_list_is_saved(void **state)
{
	static const uint32_t indices[] = { 0xc0000103, 0xc0010140, 0xc0010141, 0xc0011029 };
	struct bench *b = begin();
	unsigned num = 0;
	struct vm vm;

	create(&vm, b->memory);
	save(&vm, &b->shared, b->saved);
	for (unsigned i = 0; i < ARRAY_SIZE(indices); i++) {
		if (!can_change(&vm, indices[i]))
			continue;
		num++;
		if (!find_msr(&b->saved[0], indices[i]))
			fail_msg("MSR %#x can be changed and is not saved", indices[i]);
	}
	destroy(&vm);
	end(b);
	if (num == 0)
		skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_goes_on_in_another_vm),
		cmocka_unit_test(processors_keep_the_distance_of_their_clocks),
		cmocka_unit_test(msr_that_kvm_does_not_save_is_not_set),
		cmocka_unit_test(what_a_template_can_change_beside_kvms_list_is_saved),
	};

	return cmocka_run_group_tests(tests, open_kvm, NULL);
}
