/*
 * A forked copy of the monitor that writes for one client: a snapshot's memory, a core.
 *
 * It is worth nothing without those who asked for it, and its guest's memory and what it has
 * written take room until it ends. So it ends with either.
 */
#ifndef WISP_VMM_CONTROL_COPY_H
#define WISP_VMM_CONTROL_COPY_H

struct control_call;

/*
 * In the child of maker_fork(), first of all: from now on it is killed when the monitor ends, and
 * ends when @call's client hangs up, whatever it is in the middle of. Where there is no thread to
 * see the latter it goes on.
 */
void control_copy_begin(const struct control_call *call);

#endif
