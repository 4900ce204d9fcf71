/*
 * The controlling terminal in raw mode, and back on every way out.
 *
 * Process-wide by nature: one terminal. terminal_restore() is async-signal-safe
 * and may be called twice; the parent process calls it when the monitor died.
 */
#ifndef WISP_DEVICES_TERMINAL_H
#define WISP_DEVICES_TERMINAL_H

#include "vmm/core/error.h"

/*
 * Is the standard stream @fd (0 to 2) a terminal? Once learned it is not asked again: a child of
 * this process knows what its parent found out. terminal_save() learns too.
 */
bool terminal_is(int fd);
void terminal_learn(int fd);

/* Remember the settings of @fd (a no-op when it is no terminal or we are in the background). */
void terminal_save(int fd);

/* Raw mode: no echo, no signals, no output processing but what the guest sends. */
int terminal_raw(void);
void terminal_restore(void);

/* Does the terminal @fd serve another process group now? Reading from it would then stop us. */
bool terminal_is_background(int fd);

#endif
