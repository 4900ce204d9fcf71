/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does this /dev/kvm run ring-0 code on the processor?
 *
 * Runs a loop of 40,000 instructions in flat protected mode (real mode is interpreted by
 * healthy hosts too, on old Intel processors) and looks at the processor time it took. Hardware
 * needs well under a millisecond, even an emulated processor with SVM about one; a KVM that
 * interprets ring 0 takes ten or more, and fails on instructions that Linux needs.
 *
 * Prints the reason, as part of a sentence. Status 0: yes, 1: no, 2: cannot tell.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LOOPS	 20000
#define LIMIT_NS 3200000 /* 40,000 instructions in 3.2 ms: 12.5 million a second */

static const uint8_t code[] = {
	0xb9, LOOPS & 0xff, LOOPS >> 8, 0, 0, /* mov $LOOPS, %ecx */
	0x49,				      /* 1: dec %ecx */
	0x75, 0xfd,			      /* jnz 1b */
	0xf4,				      /* hlt */
};

static int64_t cpu_time_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int fail(const char *what)
{
	printf("/dev/kvm cannot be used: %s failed: %m\n", what);
	return 2;
}

int main(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = 0x1000 };
	struct kvm_regs regs = { .rflags = 2 };
	struct kvm_segment flat = { .limit = 0xffffffff, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_sregs sregs;
	struct kvm_run *run;
	int64_t best = INT64_MAX;
	int kvm, vm, vcpu, size;
	void *mem;

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		return fail("open");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return fail("KVM_CREATE_VM");
	/* Only Intel without "unrestricted guest" needs it; there it must come before vCPUs. */
	ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	mem = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return fail("mmap");
	memcpy(mem, code, sizeof(code));
	region.userspace_addr = (uintptr_t)mem;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return fail("KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || size < 0)
		return fail("KVM_CREATE_VCPU");
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return fail("KVM_GET_SREGS");
	flat.selector = 0x10;
	flat.type = 3;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
	flat.selector = 8;
	flat.type = 11;
	sregs.cs = flat;
	sregs.cr0 |= 1;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0)
		return fail("KVM_SET_SREGS");

	/* The first run pays for page faults, and a loaded machine for its neighbours. */
	for (int i = 0; i < 2 && best > LIMIT_NS; i++) {
		int64_t t = cpu_time_ns();

		if (ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
			return fail("KVM_SET_REGS");
		if (ioctl(vcpu, KVM_RUN, 0) < 0)
			return fail("KVM_RUN");
		if (run->exit_reason != KVM_EXIT_HLT) {
			printf("/dev/kvm cannot run ring-0 code (exit %u)\n", run->exit_reason);
			return 1;
		}
		t = cpu_time_ns() - t;
		if (t < best)
			best = t;
	}
	if (best > LIMIT_NS) {
		printf("this /dev/kvm interprets ring 0 (%.1f million instructions a second) and "
		       "cannot run Linux\n",
		       2.0 * LOOPS * 1e3 / best);
		return 1;
	}
	printf("/dev/kvm runs ring-0 code at speed (%.0f million instructions a second)\n",
	       2.0 * LOOPS * 1e3 / best);
	return 0;
}
