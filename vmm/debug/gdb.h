/*
 * A debugging stub: gdb's remote serial protocol over a socket, one client at a
 * time, all vCPUs as threads of one process ("all-stop"). gdb's manual, appendix E.
 *
 * Lives on the machine's loop; gdb_debug_exit() alone is called by vCPUs. While
 * a client has the machine stopped its vCPUs are out of the guest and its queues
 * go on. Nothing of it exists without --gdb or `wisp gdb`.
 */
#ifndef WISP_VMM_GDB_H
#define WISP_VMM_GDB_H

#include "vmm/core/error.h"
#include "vmm/core/hv.h"

struct gdb;
struct machine;
struct vcpu;

/*
 * Make a socket that listens where @where says: "tcp:PORT" (on 127.0.0.1),
 * "tcp:ADDR:PORT" (numeric) or "unix:PATH". A descriptor, or -errno with @err.
 */
int gdb_listen(const char *where, struct error *err);

/* Remove the name that gdb_listen() gave a UNIX socket. */
void gdb_unlisten(const char *where);

/* Is @where of that shape? For validation, before anything is opened. */
int gdb_check_where(const char *where, struct error *err);

/*
 * Serve clients of the listening socket @fd, which becomes the stub's. It is at @where, as for
 * gdb_listen(); NULL: nobody knows. Returns 0 or -errno with @err; @fd is the caller's then.
 */
int gdb_create(struct gdb **ret_gdb, struct machine *m, int fd, const char *where,
	       struct error *err);

/* What gdb is to be told as its target, the stub's to the end of its life; NULL: nobody knows. */
const char *gdb_target(const struct gdb *gdb);

/* gdb's name for what listens at @where, a part of it: "unix:" is ours. */
const char *gdb_target_name(const char *where);

/* The machine's vCPUs have not run yet and will not until a client lets them. Before they start. */
void gdb_hold(struct gdb *gdb);

/*
 * The machine is paused: its memory is as if nobody had put breakpoints into it, for whoever saves,
 * copies or sends it. Before it goes on: they are in it again. On the loop. Accept NULL.
 */
void gdb_lift_breakpoints(struct gdb *gdb);
void gdb_lay_breakpoints(struct gdb *gdb);

/* Tell the client, if there is one, that the machine has ended. Accepts NULL. */
void gdb_ended(struct gdb *gdb, int status);

/* After the loop is gone, which may still watch its sockets. Accepts NULL. */
void gdb_free(struct gdb *gdb);

/* @v left the guest with HV_EXIT_DEBUG. On @v's thread. */
void gdb_debug_exit(struct gdb *gdb, struct vcpu *v, const struct hv_exit *exit);

#endif
