/* The machine's insides, for the files that make it up: machine*.c and vcpu.c. */
#ifndef WISP_VMM_MACHINE_INTERNAL_H
#define WISP_VMM_MACHINE_INTERNAL_H

#include <errno.h>

#include "devices/chardev.h"
#include "devices/pci.h"
#include "devices/power.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "virtio/virtio.h"
#include "virtio/virtio_mmio.h"
#include "virtio/virtio_pci.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vcpu.h"

/*
 * Disks, networks, shared directories, persistent memory, and one each: console, sockets, balloon,
 * random numbers, memory that is plugged.
 */
#define MACHINE_MAX_VIRTIO \
	(CONFIG_MAX_DISKS + CONFIG_MAX_NETS + CONFIG_MAX_SHARES + CONFIG_MAX_PMEMS + 5)

/* One virtio device with the transport it is behind. */
struct machine_virtio {
	struct virtio_device *dev;
	struct virtio_pci *pci;
	struct virtio_mmio *mmio;
	unsigned slot; /* PCI */
	uint64_t base; /* MMIO */
	uint32_t gsi;  /* MMIO */
	bool drained;
};

struct machine {
	const struct machine_config *config;
	const struct clock *clock;
	struct hv *hv;
	struct loop *loop;
	struct machine_loop *loops; /* of queues with threads of their own */
	struct guest_mem *mem;
	struct bus *pio, *mmio;
	struct irq_table *irqs;

	struct pci_bus *pci;
	struct chardev *serial_char, *console_char;
	struct chardev *port_char[MACHINE_MAX_PORTS];
	unsigned num_ports;
	struct virtio_device *console; /* NULL: there is none */
	struct serial *serial;
	struct rtc *rtc;
	struct power *power;
	struct machine_virtio virtio[MACHINE_MAX_VIRTIO];
	unsigned num_virtio;
	struct virtio_device *vsock, *balloon, *hotplug; /* one of these, or NULL */
	uint64_t hotplug_gpa; /* where its memory is */

	/* Persistent memory, by the hypervisor's slot behind those of RAM; NULL: it is free */
	const struct virtio_device *pmem[CONFIG_MAX_PMEMS];
	int disk_fd[CONFIG_MAX_DISKS]; /* borrowed from the blocks, for copies of disks */
	uint64_t tsc_khz; /* of the guest's TSC; 0: nobody says */
	struct x86_cpuid *cpuid; /* as the boot processor was told, or NULL */
	const struct monitor_params *monitor; /* NULL in tests */
	struct fw_platform platform;
	struct fw_mmio_device mmio_device[MACHINE_MAX_VIRTIO];
	struct vcpu_set vcpus;
	struct maker *maker; /* NULL: no filter is in the main thread's way */

	struct gdb *gdb; /* NULL: nobody debugs */
	void (*debug_fn)(void *arg); /* waits for the vCPUs to stop; or NULL */
	void *debug_arg;
	bool debug_stopped;

	struct loop_timer timeout;
	_Atomic bool hung; /* somebody said so, and @end.evidence is written */
	struct loop_timer stop; /* when a guest that was asked to power off is made to */
	unsigned undrained; /* devices that a pause or the end still waits for */
	bool pausing, paused;
	bool winding_down; /* the end is being carried out: nothing stops or goes on any more */
	void (*changed_fn)(void *arg); /* it was paused, or goes on; or NULL */
	void *changed_arg;
	struct machine_pauser *pausers; /* who waits for a pause that is under way */
	unsigned holds;	 /* who needs it to stay paused for now */
	bool resume_due; /* it was resumed meanwhile */
	/* How often it went on, or a disk got another size: is it still what was saved? */
	uint64_t runs;

	struct machine_plugging *plugging; /* NULL: nobody asked for a device to come or go */
	uint64_t generation;		   /* of its devices: how many came and went */
	_Atomic uint32_t ejected;	   /* PCI slots that the guest has let go of */
	struct loop_task eject_task;

	/* Live forks that others are made of (vmm/saved/clone.h), and what they cost. */
	struct {
		unsigned alive;
		uint64_t taken, pause_ns, fork_ns; /* of all */
	} forks;
	struct snapshot_track *track; /* what changed since the last snapshot; NULL: nobody asked */
	struct reset_point *point;    /* what it can go back to; NULL: its start, or none */
	struct migrate_source *migration; /* the one at hand, or the last; NULL: none */
	const struct migrate_arrival *arrival; /* it came from elsewhere; NULL: it did not */
	struct migrate_fill *fill; /* some of its memory is still to come; NULL: none is */
	bool may_wait;	     /* params of its loops: disks may have their threads wait */
	bool arriving;	     /* another machine is to hand its guest over to this one */
	bool arrives_paused; /* and does not want it to run */
	bool commit_by_hand; /* it may have done so: somebody has to tell */

	_Atomic bool ending; /* the first to set it writes @end */
	_Atomic bool ended;  /* @end is complete */
	struct machine_end end;
};

/*
 * For what machine_pause() calls: 0, or -EBUSY with @err where the machine is not paused after all.
 */
static inline int machine_check_paused(const struct machine *m, struct error *err)
{
	return m->paused ? 0 :
			   error_set(err, -EBUSY,
				     "the guest was resumed meanwhile, or there was no memory to "
				     "wait for its pause");
}

/* machine_devices.c: everything the guest can see but processors and memory. */
int machine_add_devices(struct machine *m, struct machine_files *files, bool layout_only,
			struct error *err);
void machine_free_devices(struct machine *m);
/* One of them, in addition: number @number of the configuration. */
int machine_add_disk(struct machine *m, unsigned number, struct machine_files *files,
		     struct error *err);
int machine_add_net(struct machine *m, const struct config_net *c, struct net_ends *ends,
		    struct error *err);
int machine_add_pmem(struct machine *m, const struct config_pmem *c, int *fd, struct error *err);
/* Behind all persistent memory that there is. */
uint64_t machine_pmem_end(const struct machine *m);
/* The guest has @dev no longer, which is about to be freed. The vCPUs stand still. */
void machine_unmap_pmem(struct machine *m, const struct virtio_device *dev);

/*
 * machine_names.c: the device of @kind (VIRTIO_ID_*) that is called @id; NULL, or -ENOENT for where
 * it is in m->virtio: there is none. Any thread, while devices neither come nor go.
 */
struct virtio_device *machine_virtio(const struct machine *m, unsigned kind, const char *id);
int machine_virtio_index(const struct machine *m, unsigned kind, const char *id);
/* VIRTIO_ID_* of a device of @kind, and the other way round: CONFIG_DEVICES for any other. */
unsigned machine_virtio_id(enum config_device kind);
enum config_device machine_device_kind(const struct virtio_device *dev);
/*
 * The device that a person calls @name: by its ID alone, or, since one of each kind may have the
 * same, as disk:ID, net:ID or pmem:ID. NULL with @err: there is none (-ENOENT), or two (-EEXIST).
 */
struct virtio_device *machine_virtio_named(const struct machine *m, const char *name,
					   struct error *err);
/*
 * Which instance of the section by its ID @dev is saved as: 0, or its kind when another device has
 * the same ID. So it depends on which devices there are, which whoever loads it has as well.
 */
uint32_t machine_virtio_instance(const struct machine *m, const struct virtio_device *dev);

/* machine_plug.c: the guest has let go of PCI slots (a vCPU thread). Free what it keeps. */
void machine_ejected(void *machine, uint32_t slots);
void machine_eject_seen(struct loop_task *task);
/* Are there others than at the start, or is one coming or going? Not for requests that failed. */
bool machine_was_plugged(const struct machine *m);
void machine_free_plugging(struct machine *m);

/*
 * machine_pause.c: have the queues drained, and those who wait for a pause told. Forget those: they
 * learn of the end. Let the devices go on, the vCPUs not yet.
 */
void machine_drain(struct machine *m);
void machine_free_pausers(struct machine *m);
void machine_resume_devices(struct machine *m);

/* machine.c: tell every vCPU what it is, and remember it. */
int machine_set_cpuid(struct machine *m, const struct x86_cpuid *cpuid, struct error *err);

/*
 * machine_identity.c: write down who a guest is that has not run yet; tell one that does not run
 * that it is another one from now on; or only that its time jumped. -errno.
 */
int machine_first_identity(struct machine *m);
int machine_new_identity(struct machine *m);
int machine_time_jumped(struct machine *m);

/* virtio_vsock_notice.write of the machine @ctx: who the guest is, for its agent (agent_wire.h). */
size_t machine_write_identity(void *ctx, char *text, size_t size);

/*
 * machine_settle.c: have all images of disks that the guest may write be in their files, as
 * block_settle() does; m is paused, is held so, and its devices do not change. True: s->done() is
 * called on the machine's loop, with what went wrong in s->err. False: there is nothing to await.
 */
struct machine_settling {
	void (*done)(struct machine_settling *s);
	struct error err;

	unsigned pending;
	struct machine_settling_disk {
		struct block_settling block;
		struct machine_settling *all;
		const char *id;
	} disk[CONFIG_MAX_DISKS];
};
bool machine_settle_disks(struct machine *m, struct machine_settling *s);

/*
 * machine_loops.c: one more loop for @queue of @device, with a thread that runs it from the
 * machine's start until machine_free_loops(); until then it is the caller's thread's.
 */
int machine_add_loop(struct machine *m, const char *device, unsigned queue,
		     struct loop **ret_loop, struct error *err);
/* machine_devices.c: what is to outlive a machine whose guest reboots, into its end. */
void machine_note_requests(struct machine *m);

/*
 * machine_loops.c: a thread for each that has none yet, with all signals blocked; -errno with @err,
 * and those that were started run on. Free ends the threads, waits for them, and frees the loops:
 * nothing of theirs may be outstanding (loop_free()). On the machine's thread.
 */
int machine_start_loops(struct machine *m, struct error *err);
void machine_free_loops(struct machine *m);
/* In the child of a fork: let go of all loops, the main one too, see loop_abandon(). */
void machine_abandon_loops(struct machine *m);

/*
 * machine_limits.c: the rates that a configuration gives a device, and those that were changed
 * since, as a section's fields. On the loop; paused, or not yet started.
 */
struct rate_limits machine_disk_limits(const struct config_disk *c);
struct rate_limits machine_net_limits(const struct config_net *c);
bool machine_limits_changed(const struct machine *m);
void machine_limits_save(const struct machine *m, struct state_writer *w);
void machine_limits_load(struct machine *m, struct state_reader *r);
/* The serial port's, which no configuration gives it. */
bool machine_serial_is_limited(const struct machine *m);
void machine_serial_limits_save(const struct machine *m, struct state_writer *w);
void machine_serial_limits_load(struct machine *m, struct state_reader *r);

/* machine_dump.c: registers, instruction bytes and a page walk of RIP, as text. */
void machine_dump_vcpu(struct machine *m, struct vcpu *v, char *text, size_t size);

#endif
