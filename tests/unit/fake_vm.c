#include "tests/unit/fake_vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* The guest: one access when there is one to do, else nothing. */
static enum fake_step guest_step(void *arg, unsigned vcpu, struct hv_exit *exit)
{
	struct fake_vm *vm = arg;

	if (!vm->access.due)
		return FAKE_STEP_HALT;
	vm->access.due = false;
	if (vm->access.write)
		return fake_mmio_write(exit, vm->access.addr, vm->access.len, vm->access.value);
	return fake_mmio_read(exit, vm->access.addr, vm->access.len);
}

void fake_vm_init(struct fake_vm *vm, enum loop_backend backend)
{
	static const uint32_t intx_gsi[4] = { 16, 17, 18, 19 };
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = FAKE_RAM_SPLIT },
		{ .gpa = FAKE_RAM_SPLIT, .size = FAKE_RAM_END - FAKE_RAM_SPLIT },
	};
	struct loop_params params = {
		.backend = backend, .clock = &vm->clock, .name = "test", .may_wait = true
	};
	const struct fake_hv_params hv = { .guest = guest_step, .arg = vm, .never_wait = true };
	struct pci_bus_params pci = {
		.ecam_base = FAKE_ECAM_BASE,
		.ecam_size = 1 * MiB,
		.mmio32_base = FAKE_MMIO32,
		.mmio32_size = 16 * MiB,
		.mmio64_base = FAKE_MMIO64,
		.mmio64_size = 1 * GiB,
		.intx_gsi = intx_gsi,
	};

	memset(vm, 0, sizeof(*vm));
	vm->hv = fake_hv_create(&hv);
	assert_int_equal(vm->hv->ops->vcpu_create(vm->hv, 0, &vm->vcpu, NULL), 0);
	vm->next_alloc = PAGE_SIZE;
	clock_init_virtual(&vm->clock, NSEC_PER_SEC, NSEC_PER_SEC);
	assert_int_equal(guest_mem_create(&vm->mem, GUEST_MEM_ANON, ranges, 2, NULL), 0);
	assert_int_equal(loop_create(&vm->loop, &params, NULL), 0);
	assert_int_equal(bus_create(&vm->mmio, "mmio"), 0);
	assert_int_equal(bus_create(&vm->pio, "pio"), 0);
	assert_int_equal(irq_table_create(&vm->irqs, vm->hv), 0);
	pci.mmio = vm->mmio;
	pci.pio = vm->pio;
	pci.irqs = vm->irqs;
	assert_int_equal(pci_bus_create(&vm->pci, &pci, NULL), 0);
}

void fake_vm_done(struct fake_vm *vm)
{
	pci_bus_free(vm->pci);
	irq_table_free(vm->irqs);
	bus_free(vm->mmio);
	bus_free(vm->pio);
	vm->hv->ops->vcpu_free(vm->vcpu);
	vm->hv->ops->free(vm->hv);
	loop_free(vm->loop);
	guest_mem_free(vm->mem);
}

struct virtio_params fake_vm_params(struct fake_vm *vm, const char *id)
{
	return (struct virtio_params){ .id = id, .mem = vm->mem, .loop = vm->loop };
}

uint64_t fake_alloc(struct fake_vm *vm, uint64_t size, uint64_t align)
{
	uint64_t gpa = align_up(vm->next_alloc, align);

	/* Rings and tables do not lie across the two ranges; a test that wants that chooses. */
	if (gpa < FAKE_RAM_SPLIT && gpa + size > FAKE_RAM_SPLIT)
		gpa = FAKE_RAM_SPLIT;
	vm->next_alloc = gpa + size;
	memset(fake_ptr(vm, gpa, size), 0, size);
	return gpa;
}

void *fake_ptr(struct fake_vm *vm, uint64_t gpa, uint64_t len)
{
	void *p = guest_mem_ptr(vm->mem, gpa, len);

	assert_non_null(p);
	return p;
}

void fake_run(struct fake_vm *vm)
{
	while (loop_run_once(vm->loop, 0))
		;
}

/* Run the guest to its next exit; a doorbell makes none. */
static bool guest_exit(struct fake_vm *vm, struct hv_exit *exit)
{
	assert_int_equal(vm->hv->ops->vcpu_run(vm->vcpu, exit), 0);
	return exit->kind != HV_EXIT_NONE;
}

void fake_write(struct fake_vm *vm, uint64_t addr, uint64_t value, unsigned len)
{
	struct hv_exit exit;

	vm->access.due = vm->access.write = true;
	vm->access.addr = addr;
	vm->access.value = value;
	vm->access.len = len;
	if (guest_exit(vm, &exit))
		bus_write(vm->mmio, exit.addr, exit.data, exit.size);
}

uint64_t fake_read(struct fake_vm *vm, uint64_t addr, unsigned len)
{
	struct hv_exit exit;
	uint8_t data[8] = { 0 };

	vm->access.due = true;
	vm->access.write = false;
	vm->access.addr = addr;
	vm->access.len = len;
	assert_true(guest_exit(vm, &exit));
	memset(data, 0xff, len);
	bus_read(vm->mmio, exit.addr, data, exit.size);
	return get_le64(data);
}
