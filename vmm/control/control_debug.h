/* Verbs of the control socket that look into a machine: rows of control_verbs.c. */
#ifndef WISP_VMM_CONTROL_DEBUG_H
#define WISP_VMM_CONTROL_DEBUG_H

#include "vmm/control/control.h"

/*
 * {"do":"core"} with an empty regular file: an ELF core of this moment goes there
 * (vmm/debug/elf_core.h), written by a forked copy while the guest goes on.
 */
void control_verb_core(struct control_call *call);

/*
 * {"do":"gdb","hold":BOOL,"where":ADDRESS} with a listening socket: a debugging stub serves it from
 * now on (debug/gdb.h), and whoever asks for another one learns its address. With "hold" a guest
 * that is paused waits for the debugger instead.
 */
void control_verb_gdb(struct control_call *call);

#endif
