/*
 * What the files of the fake hypervisor share: itself and its vCPUs. fake_hv.c has memory and
 * doorbells, fake_hv_irq.c interrupts, fake_hv_vcpu.c what runs the guest. For nobody else.
 */
#ifndef WISP_TESTS_FAKE_HV_PARTS_H
#define WISP_TESTS_FAKE_HV_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/fake_hv.h"
#include "vmm/hypervisor/x86_state.h"

#define MAX_SLOTS   64
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
	struct hv_ops ops; /* each file puts its own in */
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

static inline struct fake_hv *to_fake(struct hv *hv)
{
	return container_of(hv, struct fake_hv, hv);
}

/* @p, or the end where there is no memory. */
void *fake_hv_need(void *p);

/* 0, or what the test wants this call to return. Lock held. */
int fake_hv_failure(struct fake_hv *f, enum fake_hv_op op);

/* Let halted vCPUs look again. Lock held. */
void fake_hv_wake_vcpus(struct fake_hv *f);

/* Is @exit a write that a doorbell takes? Then it is rung, and the write done. */
bool fake_hv_ring_doorbell(struct fake_hv *f, const struct hv_exit *exit);

/* Deliver what irqfds have been signalled. Lock held. */
void fake_hv_consume_all(struct fake_hv *f);

/* Sleep until @extra_fd (-1: none) or an irqfd is signalled. False after @timeout_ms without. */
bool fake_hv_wait_signal(struct fake_hv *f, int extra_fd, int timeout_ms);

/* Put their operations into @ops. */
void fake_hv_irq_ops(struct hv_ops *ops);
void fake_hv_vcpu_ops(struct hv_ops *ops);

#endif
