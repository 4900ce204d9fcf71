/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vms MIB NUMBER : so many processes, forked from this one, each of which has a VM with MIB of the
 * memory they share, one processor that halts, and nothing else: what KVM itself takes for one.
 * Says "ready" when all have been at it for a while, and waits to be killed with all of them.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define ENTRY 0x1000

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void be_vm(void *memory, size_t bytes)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0), cpu;
	struct kvm_userspace_memory_region slot = {
		.memory_size = bytes,
		.userspace_addr = (unsigned long)memory,
	};
	struct kvm_regs regs = { .rip = ENTRY, .rflags = 2 };
	struct kvm_sregs sregs;

	if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 ||
	    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		die("vms: a VM");
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (cpu < 0 || ioctl(cpu, KVM_GET_SREGS, &sregs) < 0)
		die("vms: a processor");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(cpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(cpu, KVM_SET_REGS, &regs) < 0)
		die("vms: its registers");
	ioctl(cpu, KVM_RUN, 0);
	die("vms: it ran and ended");
}

int main(int argc, char **argv)
{
	size_t bytes = argc == 3 ? strtoul(argv[1], NULL, 10) << 20 : 0;
	unsigned number = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	unsigned char *memory;

	if (!bytes || !number) {
		fprintf(stderr, "usage: vms MIB NUMBER\n");
		return 2;
	}
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("vms: memory");
	memcpy(memory + ENTRY, "\xf4\xeb\xfd", 3); /* 1: hlt; jmp 1b */
	for (unsigned i = 0; i < number; i++)
		if (fork() == 0)
			be_vm(memory, bytes);
	sleep(3);
	puts("ready");
	fflush(stdout);
	pause();
}
