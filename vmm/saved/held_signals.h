/*
 * SIGINT, SIGTERM and SIGHUP of a verb that has something to put right before it ends: files
 * without their name yet, or a guest that stands still until it hears what becomes of it. They are
 * held back, asked for where the work is long, and act afterwards as they would have before.
 *
 * Nothing is kept but in the struct: whether one has come is the kernel's to know. One thread.
 */
#ifndef WISP_VMM_HELD_SIGNALS_H
#define WISP_VMM_HELD_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

struct held_signals {
	sigset_t held, before;
};

/* Those that are ignored stay it, and are never said to have come. */
void held_signals_begin(struct held_signals *h);

/* A descriptor for the caller to close, readable once one has come; or -errno. */
int held_signals_open(const struct held_signals *h);

/* Has one come? In any process that holds some back, whoever had it do so. */
bool held_signals_came(void);

/* One that has come acts now: the process may end in here. */
void held_signals_end(const struct held_signals *h);

#endif
