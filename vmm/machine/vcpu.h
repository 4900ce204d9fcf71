/*
 * A vCPU: one thread that enters the guest and serves its exits.
 *
 * The thread takes port and memory accesses to the machine's buses and
 * everything else to the machine. Other threads only ask: vcpus_want() and the
 * kick behind it.
 */
#ifndef WISP_VMM_VCPU_H
#define WISP_VMM_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/core/hv.h"
#include "vmm/core/loop.h"
#include "vmm/sandbox/sandbox.h"

struct machine;
struct vcpu_set;

struct vcpu {
	struct vcpu_set *set;
	unsigned index;
	struct hv_vcpu *hv;
	pthread_t thread;
	bool started;
	_Atomic bool held; /* stays out of the guest though the others run; for the debugger */
	bool io_pending; /* the last exit completes at the next entry */
	struct hv_exit failed_exit; /* what ended the machine, for the report */
	_Atomic uint64_t exits[HV_EXIT_NUM_KINDS];
};

enum vcpu_want { VCPU_RUN, VCPU_PAUSE, VCPU_QUIT };

/* All vCPUs of a machine. Controlled from the loop's thread. */
struct vcpu_set {
	struct machine *machine;
	struct hv *hv;
	struct loop *loop;
	struct sandbox *sandbox; /* NULL: threads are not filtered */
	const struct config_resources *resources; /* of the configuration it started with */
	struct vcpu *vcpu;
	unsigned num;

	_Atomic enum vcpu_want want;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned running, alive; /* threads neither parked nor over; not over. Under lock */

	struct loop_task settled; /* posted by the last one to park or quit */
	void (*on_settled)(void *arg);
	void *on_settled_arg;
};

/* Create @num vCPUs in order; their threads do not run yet. */
int vcpu_set_init(struct vcpu_set *set, struct machine *machine, struct hv *hv, struct loop *loop,
		  unsigned num, struct error *err);
void vcpu_set_done(struct vcpu_set *set);

/*
 * Start the threads, wanting @want. With a sandbox each loads the filter of vCPU threads and then
 * the caller that of the main thread; before that none enters the guest.
 */
int vcpu_set_start(struct vcpu_set *set, enum vcpu_want want, struct error *err);

/*
 * After a start that wants PAUSE: wait until each thread has taken its filter, can be interrupted
 * and stands by. -EAGAIN, kind START, when one cannot: then the guest is not to be run.
 */
int vcpu_set_await_parked(struct vcpu_set *set, struct error *err);

/*
 * Ask all to run, to leave the guest with pending I/O completed, or to end.
 * PAUSE and QUIT: fn(arg) on the loop once the last one did. A vCPU that waits
 * for the loop is served first, so the loop must go on running meanwhile.
 */
void vcpu_set_want(struct vcpu_set *set, enum vcpu_want want, void (*fn)(void *arg), void *arg);

/*
 * Keep all out of the guest for a while though they are to run, or no more; nobody is told when
 * they are. The debugger's holds are undone by it. On the loop.
 */
void vcpu_set_hold(struct vcpu_set *set, bool hold);

/* After QUIT settled. */
void vcpu_set_join(struct vcpu_set *set);

/* Sum over all vCPUs. Any thread. */
uint64_t vcpu_set_exits(const struct vcpu_set *set, enum hv_exit_kind kind);

/* One word, stable, for counters: "mmio_write". Static. */
const char *hv_exit_name(enum hv_exit_kind kind);

#endif
