/*
 * A few threads that carry out operations which can only block: the epoll back
 * end's reads and writes of regular files, fsync, fallocate.
 *
 * Owned by one loop and called on its thread. Threads are started when there is
 * work and none is idle.
 */
#ifndef WISP_CORE_LOOP_WORKERS_H
#define WISP_CORE_LOOP_WORKERS_H

#include "vmm/core/loop.h"

struct loop_workers;

/* @wake_fd is signalled when a first result waits for loop_workers_reap(). NULL: no memory. */
struct loop_workers *loop_workers_create(int wake_fd, const struct loop_workers_params *params);

/* Finishes what is being carried out and forgets the rest. */
void loop_workers_free(struct loop_workers *w);

/* Carry out @op; its link is the workers' until it is reaped or cancelled. */
void loop_workers_submit(struct loop_workers *w, struct loop_op *op);

/* Take @op back. False when it was begun: it will be reaped. */
bool loop_workers_cancel(struct loop_workers *w, struct loop_op *op);

/* Pass all results to loop_complete(). */
void loop_workers_reap(struct loop_workers *w, struct loop *loop);

#endif
