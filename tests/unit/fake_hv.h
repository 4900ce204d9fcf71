/*
 * A hypervisor without a processor: struct hv_ops over plain memory, so that
 * machines and devices are tested with no KVM.
 *
 * What KVM would do by itself is done: a guest write that matches an ioeventfd
 * signals it and does not exit; a write to an irqfd is consumed and becomes an
 * interrupt of its GSI, delivered by the routes of that moment; levels of lines
 * are kept; guest writes set bits of the dirty log. Everything is recorded and
 * can be asked for.
 *
 * The guest is a function of the test's. vcpu_run() calls it for what the vCPU
 * does next, on the thread that runs the vCPU; with vCPU threads several run at
 * once. Nothing here reads a clock or starts a thread: a test that calls
 * vcpu_run() and loop_run_once() itself, in an order of its own, is
 * deterministic, also with two machines in one process.
 *
 * All functions may be called from any thread. Allocation failures abort.
 */
#ifndef WISP_TESTS_FAKE_HV_H
#define WISP_TESTS_FAKE_HV_H

#include "vmm/core/hv.h"

/* What a guest did, as its step() returns it. */
enum fake_step {
	FAKE_STEP_EXIT, /* an access or exit that @exit describes */
	FAKE_STEP_GO_ON, /* nothing that anybody outside sees; call again */
	FAKE_STEP_HALT, /* wait for an interrupt or a kick, then call again; may wake for nothing */
};

/*
 * The next step of @vcpu. A guest that waits looks whether what it waits for is
 * there and halts if not: all that comes after the call began wakes it.
 *
 * On entry exit->data points to a buffer of FAKE_HV_DATA bytes which holds the result of the access
 * before (what was read); the rest of @exit is zero. For an access the guest fills in kind, addr,
 * size, count (0 is taken as 1), and data before a write, leaving exit->data where it is.
 * fake_pio_read() and its like do that.
 */
typedef enum fake_step (*fake_guest_fn)(void *arg, unsigned vcpu, struct hv_exit *exit);

#define FAKE_HV_DATA 64u

struct fake_hv_params {
	fake_guest_fn guest; /* NULL: vCPUs halt for ever */
	void *arg;
	/* FAKE_STEP_HALT makes vcpu_run() return HV_EXIT_NONE at once and not wait. */
	bool never_wait;
	/* A log of dirty pages begins with all of them in it, up to the end of its last word. */
	bool log_begins_full;
	uint64_t tsc_khz; /* the guest's TSC's rate; 0: nobody says */
	bool tsc_scales;  /* and it can be made another */
};

/* Freed by hv->ops->free(), which the machine does that owns it. */
struct hv *fake_hv_create(const struct fake_hv_params *params);

/* ---- for guests ---- */

/* Fill in @exit; @value is for writes. Each returns FAKE_STEP_EXIT. */
enum fake_step fake_pio_read(struct hv_exit *exit, uint16_t port, unsigned size);
enum fake_step fake_pio_write(struct hv_exit *exit, uint16_t port, unsigned size, uint64_t value);
enum fake_step fake_mmio_read(struct hv_exit *exit, uint64_t addr, unsigned size);
enum fake_step fake_mmio_write(struct hv_exit *exit, uint64_t addr, unsigned size, uint64_t value);

/* What the access before has read, @size bytes of it. */
uint64_t fake_result(const struct hv_exit *exit, unsigned size);

/*
 * Guest memory as the guest sees it: through the slots. -EFAULT where there is
 * none or at its end, -EPERM for a write to a read-only one. Writes mark dirty.
 */
int fake_hv_read(struct hv *hv, uint64_t gpa, void *dst, size_t len);
int fake_hv_write(struct hv *hv, uint64_t gpa, const void *src, size_t len);

/* ---- for tests ---- */

/*
 * Interrupts delivered so far: on @gsi in all, by a message in all, and how many
 * were lost because their GSI led nowhere. Pending irqfds are consumed first.
 */
uint64_t fake_hv_interrupts(struct hv *hv, uint32_t gsi);
uint64_t fake_hv_messages(struct hv *hv, uint64_t addr, uint32_t data);
uint64_t fake_hv_lost(struct hv *hv);

/* What the debugger asked of @vcpu last. For its own thread, or while it is out of the guest. */
const struct hv_debug *fake_hv_debug(struct hv *hv, unsigned vcpu);

/* Wait until @gsi has had @count interrupts. False after @timeout_ms without. */
bool fake_hv_wait_interrupts(struct hv *hv, uint32_t gsi, uint64_t count, int timeout_ms);

/* The level of a line. */
bool fake_hv_level(struct hv *hv, uint32_t gsi);

/* Is there a doorbell at @addr (for @value, when it matches a value)? */
bool fake_hv_has_ioeventfd(struct hv *hv, bool pio, uint64_t addr, uint64_t value);
unsigned fake_hv_num_irqfds(struct hv *hv);
unsigned fake_hv_num_ioeventfds(struct hv *hv);

/* The table as it was set last; NULL and 0 before. Valid until the next change. */
const struct hv_route *fake_hv_routes(struct hv *hv, unsigned *ret_num);

/* What can be made to fail once. */
enum fake_hv_op {
	FAKE_HV_MEM_SET,
	FAKE_HV_IOEVENTFD,
	FAKE_HV_IRQFD,
	FAKE_HV_ROUTES_SET,
	FAKE_HV_DIRTY_GET,
	FAKE_HV_VCPU_CREATE,
	FAKE_HV_VCPU_RUN,
	FAKE_HV_NUM_OPS,
};

/* Let the call after @skip more of @op return @r. */
void fake_hv_fail(struct hv *hv, enum fake_hv_op op, unsigned skip, int r);

#endif
