/*
 * A machine: memory, processors, devices and buses put together as a
 * configuration says, and its life from creation to its end.
 *
 * A machine belongs to the thread that created it, which also runs its loop.
 * It has no globals: several live in one process in the tests.
 */
#ifndef WISP_VMM_MACHINE_H
#define WISP_VMM_MACHINE_H

#include <stdio.h>

#include "vmm/config/config.h"
#include "vmm/core/error.h"
#include "vmm/core/hv.h"
#include "vmm/net_ends.h"

struct machine;
struct machine_image;
struct monitor_params;
struct sandbox;
struct vcpu;
struct x86_template;

enum machine_end_reason {
	MACHINE_END_NONE,
	MACHINE_END_POWEROFF,
	MACHINE_END_REBOOT,
	MACHINE_END_EXIT_PORT,	  /* the guest wrote a status */
	MACHINE_END_PANIC,
	MACHINE_END_TRIPLE_FAULT,
	MACHINE_END_INTERNAL,	  /* the hypervisor gave up */
	MACHINE_END_TIMEOUT,
	MACHINE_END_ASKED,	  /* Ctrl-A x */
	MACHINE_END_SIGNAL,	  /* SIGTERM and the like; status is 128 + signal */
	MACHINE_END_MIGRATED,	  /* the guest runs elsewhere */
	MACHINE_END_START_FAILED, /* it never ran; status is error_status() */
	MACHINE_END_HANG,	  /* somebody said so; the registers are the evidence */
};

/* Exit statuses of `wisp run`. */
#define MACHINE_STATUS_PANIC	    3
#define MACHINE_STATUS_TRIPLE_FAULT 4
#define MACHINE_STATUS_INTERNAL	    5
#define MACHINE_STATUS_TIMEOUT	    124
#define MACHINE_STATUS_HANG	    131 /* as by SIGQUIT */
#define MACHINE_STATUS_KILLED	    137 /* wisp kill: as by SIGKILL */
#define MACHINE_STATUS_STOPPED	    143 /* wisp stop, when its patience was over: as by SIGTERM */

/* How it ended: for run, test and the API alike. */
struct machine_end {
	enum machine_end_reason reason;
	int status;
	bool core_written;    /* the core file asked for is complete */
	bool metrics_written; /* and so are the counters */
	bool has_requested;   /* the next: of --memory-hotplug, what the guest was asked to have */
	uint64_t requested_bytes;
	char evidence[16384]; /* registers, instruction bytes, page walk; or empty */
	char message[sizeof(((struct error *)0)->msg)]; /* see machine_end_say() */
};

/* One word, stable, for --json and the API: "poweroff". Static; also of a reason that is none. */
const char *machine_end_name(enum machine_end_reason reason);

/*
 * Print why the machine could not begin or go on, and leave that in @end for those who only get a
 * report. Returns the exit status for it.
 */
int machine_end_say(struct machine_end *end, const struct error *err);

/*
 * What was said so, as it was printed, or "": into the @size bytes of @ret. The page may be shared
 * with a monitor in somebody else's hands: whatever is there, what comes out is printable.
 */
void machine_end_message(const struct machine_end *end, char *ret, size_t size);

#define MACHINE_MAX_PORTS 5

/* A port of the virtio console, for programs: /dev/virtio-ports/NAME. -1: no such end. */
struct machine_port {
	const char *name;
	int in, out; /* borrowed */
};

/* What a machine is made from beyond its configuration; descriptors become the machine's. */
struct machine_files {
	struct fw_kernel *kernel; /* checked, so that a bad one is refused early; NULL: none */
	int initrd;		  /* -1: none */
	struct x86_template *cpu_template; /* NULL: none */
	int disk[CONFIG_MAX_DISKS];
	struct block_chain beneath[CONFIG_MAX_DISKS]; /* backing files */
	int dialer[CONFIG_MAX_DISKS]; /* who connects to a disk's server again; -1: nobody */
	int pmem[CONFIG_MAX_PMEMS];
	int serial, console; /* of kind SOCKET: listening already; -1: bound by their paths */
	struct net_ends net[CONFIG_MAX_NETS];
	int vsock_listen; /* where programs on the host connect, and */
	int vsock_broker; /* who opens sockets for the guest's connections; -1: nobody */
	int share[CONFIG_MAX_SHARES]; /* sockets to the servers */
	int gdb; /* a listening socket; -1: nobody debugs */
	int serial_out; /* in place of where the configuration says; borrowed; -1: none */
	struct machine_port port[MACHINE_MAX_PORTS];
	unsigned num_ports;
};

/* All -1 and none: nothing to close. Closing leaves them so, but for what is borrowed. */
void machine_files_init(struct machine_files *files);
void machine_files_close(struct machine_files *files);

struct machine_params {
	const struct machine_config *config; /* borrowed for the machine's life */
	struct hv *hv;			     /* owned from a successful create on */
	const struct clock *clock;	     /* NULL: the host's */
	const struct x86_cpuid *host_cpuid; /* what guests may see; NULL: the hypervisor has none */
	struct machine_files *files;	     /* what is taken is set to -1 or NULL */
	struct sandbox *sandbox;	     /* locked before the start; NULL: none */
	bool layout_only; /* no back ends, a kernel if there is one, no start: for --dry-run */
	const struct machine_image *image;   /* a saved machine in place of a kernel, or NULL */
};

/*
 * Build everything; nothing runs yet. An image whose memory comes on demand is not loaded yet
 * either (machine_load()).
 */
int machine_create(struct machine **ret_m, const struct machine_params *params,
		   struct error *err);

/* Stop what runs, drain, free. Accepts NULL and half-built machines. */
void machine_free(struct machine *m);

/* End with MACHINE_END_TIMEOUT at @deadline_ns, on the machine's clock. On the loop. */
void machine_set_deadline(struct machine *m, uint64_t deadline_ns);

/*
 * The thread that makes others when the sandbox forbids it to this one, and sees to it that no
 * orphan stays (vmm/sandbox/maker.h). After sandbox_lock(), before what may wait.
 */
int machine_start_maker(struct machine *m, struct error *err);

/* Of a fresh machine: ask its guest for the memory that it was asked for in the life @before. */
void machine_ask_again(struct machine *m, const struct machine_end *before);

/* Start the vCPUs. */
int machine_start(struct machine *m, struct error *err);

/*
 * Run the loop until the machine has ended; @ret_end says how. vCPUs and queues are stopped then.
 */
void machine_run(struct machine *m, struct machine_end *ret_end);

/* The first reason given wins. @v: whose registers are the evidence, or NULL. Any thread. */
void machine_end(struct machine *m, enum machine_end_reason reason, int status, struct vcpu *v);

/*
 * End it as hung, with the registers of all vCPUs as evidence; where the configuration gives it
 * time for that, after its kernel has answered an NMI (Linux with unknown_nmi_panic: by a trace of
 * what it was doing). On the loop; a second time: at once.
 */
void machine_end_hung(struct machine *m);

/*
 * Pause: vCPUs out of the guest with pending I/O completed, then queues
 * drained and stopped; done(arg) on the loop. Resume undoes it; of one that runs it does nothing.
 * On the loop.
 * Several may wait for one pause; the later ones may find that an earlier one resumed it, and
 * whoever finds no memory to wait is told at once: done(), which may be NULL, asks
 * machine_is_paused().
 */
void machine_pause(struct machine *m, void (*done)(void *arg), void *arg);
void machine_resume(struct machine *m);
bool machine_is_paused(const struct machine *m);
/*
 * Hold a paused machine: whoever resumes it meanwhile has it resumed when the last one lets go. For
 * what needs more than one turn of the loop and must not see it change. On the loop.
 */
void machine_hold(struct machine *m);
void machine_release(struct machine *m);
/* Have fn(arg) called whenever that changed. For one; NULL: nobody any more. On the loop. */
void machine_watch(struct machine *m, void (*fn)(void *arg), void *arg);

/*
 * For the debugger: stop the vCPUs alone, fn(arg) on the loop once they did, and let those that
 * are not held run again. Queues go on. A pause in between is kept: what is both stopped and
 * paused runs when it is neither. On the loop.
 */
void machine_debug_stop(struct machine *m, void (*fn)(void *arg), void *arg);
void machine_debug_continue(struct machine *m);

/* Press the power button. Any thread. */
void machine_power_button(struct machine *m);

/* The terminal changed its size. On the loop. */
void machine_window_changed(struct machine *m);

/* Who runs it: what a clone of this process starts from. @params lives as long as the machine. */
void machine_set_monitor(struct machine *m, const struct monitor_params *params);

/* Its main loop, and its RAM; the machine's. Any thread. */
struct loop *machine_loop(struct machine *m);
struct guest_mem *machine_memory(struct machine *m);

/*
 * Which pages of RAM the guest has, a bit each in the order of a memory file, for free(); NULL when
 * that is all of them. 0 or -ENOMEM. On the loop.
 */
int machine_plugged_pages(struct machine *m, uint64_t **ret_pages);

/* Registers of vCPU @index; paused or not yet started. */
int machine_vcpu_state(struct machine *m, unsigned index, struct x86_vcpu_state *state);

/* Memory map, devices, addresses, interrupts. */
void machine_print(struct machine *m, FILE *out);

/* Counters as one JSON object. After the end, or from the loop. */
void machine_print_metrics(struct machine *m, FILE *out);

#endif
