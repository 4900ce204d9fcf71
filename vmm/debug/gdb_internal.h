/* What gdb.c (connection), gdb_packet.c (commands), gdb_regs.c and gdb_stop.c share. */
#ifndef WISP_VMM_GDB_INTERNAL_H
#define WISP_VMM_GDB_INTERNAL_H

#include "vmm/core/loop.h"
#include "vmm/debug/gdb.h"
#include "vmm/machine/machine_internal.h"

#define GDB_PACKET_MAX	    4096u /* bytes of a packet, either way, before escapes */
#define GDB_MAX_BREAKPOINTS 1024u
#define GDB_SIGTRAP	    5
#define GDB_SIGINT	    2

/* An int3 in guest memory, with the byte it took the place of. */
struct gdb_breakpoint {
	uint64_t linear, gpa;
	uint8_t saved;
	bool lifted; /* while the machine is paused, @saved is in its place */
};

/* Why a vCPU stopped; written by its thread before it parks. */
struct gdb_stop {
	_Atomic bool happened;
	uint8_t vector;
	uint64_t pc, dr6;
};

enum gdb_state {
	GDB_RUNNING,  /* or nobody connected */
	GDB_STOPPING, /* waiting for the vCPUs; packets wait too */
	GDB_STOPPED,
};

struct gdb {
	struct machine *m;
	int listen_fd, fd; /* fd: the client, or -1 */
	char *where;	   /* listen_fd's address; NULL: unknown */
	struct loop_op listener, client; /* polls */
	struct loop_timer listen_again;
	enum gdb_state state;
	bool fresh; /* a client that has not seen the machine stopped yet */
	bool no_ack;
	bool stop_reply_due; /* the client waits to hear why it stopped */
	struct loop_task stop_task; /* posted by a vCPU that stopped */

	unsigned thread;      /* vCPU that g, m and the like are about */
	unsigned step_thread; /* of Hc; GDB_ALL_THREADS */
	unsigned reported;    /* vCPU of the last stop reply */
	struct hv_debug debug;
	struct gdb_breakpoint breakpoint[GDB_MAX_BREAKPOINTS];
	unsigned num_breakpoints;
	struct gdb_stop *stop; /* one per vCPU */
	bool *stepping;	       /* what each was told when it went on */

	char input[2 * GDB_PACKET_MAX];
	size_t input_len;
	char reply[2 * GDB_PACKET_MAX];
	size_t reply_len;
	bool physical; /* memory packets mean physical addresses */
};

#define GDB_ALL_THREADS (~0u)

/* How many vCPUs there are, and the @i-th, below that; gdb calls it thread @i + 1. */
static inline unsigned gdb_num_vcpus(const struct gdb *g)
{
	return g->m->vcpus.num;
}

/* See above. Borrowed from the machine. */
static inline struct vcpu *gdb_vcpu(struct gdb *g, unsigned i)
{
	return &g->m->vcpus.vcpu[i];
}

/* ---- gdb.c ---- */

/* Send the packet gathered in @reply, framed. */
void gdb_send(struct gdb *g);
/* Send and forget what is gathered: printf into the reply. */
void __printf(2, 3) gdb_say(struct gdb *g, const char *fmt, ...);
void gdb_add_hex(struct gdb *g, const void *bytes, size_t len);
/* Carry out what has been received whole, as far as the state lets. */
void gdb_packets(struct gdb *g);

/* ---- gdb_packet.c ---- */

/* Carry out one packet, checked and unescaped, @len bytes and a NUL. The machine is stopped. */
void gdb_packet(struct gdb *g, char *packet, size_t len);

/* ---- gdb_regs.c ---- */

#define GDB_MAX_REGISTER 16 /* bytes of the widest */

/* A vCPU's registers as read from and written to the hypervisor. */
struct gdb_registers {
	struct x86_vcpu_state state;
	struct kvm_fpu fpu;
};

/* Of vCPU @vcpu, on the loop while all are out of the guest. 0 or -errno. */
int gdb_registers_get(struct gdb *g, unsigned vcpu, struct gdb_registers *r);
int gdb_registers_set(struct gdb *g, unsigned vcpu, const struct gdb_registers *r);
/* How many the target description has: they are numbered from 0. */
unsigned gdb_num_registers(void);
/* Register @i of the target description, little-endian. Returns its bytes; 0: none such. */
size_t gdb_register_read(const struct gdb_registers *r, unsigned i, uint8_t *out);
/* -EINVAL for one that there is not, -EPERM for one that is not to be set. */
int gdb_register_write(struct gdb_registers *r, unsigned i, const uint8_t *in);
size_t gdb_register_bytes(unsigned i);
/* At most @len bytes of the target description from @offset on. Returns how many. */
size_t gdb_describe(char *out, size_t offset, size_t len, bool *ret_more);

/* ---- gdb_stop.c ---- */

/* Stop all vCPUs; gdb_stopped() follows. */
void gdb_stop(struct gdb *g);
void gdb_stop_posted(struct loop_task *task);
/* Nobody debugs any more: breakpoints out, guest on; now, or once it has stopped. */
void gdb_release(struct gdb *g);
enum gdb_how { GDB_STAY, GDB_GO, GDB_STEP };
/* Let vCPU @i go on, step or stay as how[i] says, then run. */
void gdb_resume(struct gdb *g, const enum gdb_how *how);
/* Why it stopped, into the reply: "T05..." */
void gdb_say_stop(struct gdb *g);

/* @type as in Z packets: 0 software, 1 hardware, 2 write, 3 read, 4 access. 0 or -errno. */
int gdb_break_insert(struct gdb *g, unsigned type, uint64_t linear, unsigned len);
int gdb_break_remove(struct gdb *g, unsigned type, uint64_t linear, unsigned len);
/* Show @buf, read from [linear, linear+len), as the guest's own bytes. */
void gdb_break_hide(const struct gdb *g, uint64_t linear, uint8_t *buf, size_t len);
/* [linear, linear+len) was written: put the int3s that lie there back. */
void gdb_break_refresh(struct gdb *g, uint64_t linear, size_t len);

#endif
