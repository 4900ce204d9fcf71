/*
 * `wisp switch NAME`: a process that joins microVMs to one network, without
 * privilege (devices/net_switch.h). It runs in the foreground until a signal
 * ends it.
 */
#ifndef WISP_VMM_SWITCH_H
#define WISP_VMM_SWITCH_H

#include "vmm/config/config_parse.h"

extern const struct config_item switch_options[];

/* The arguments after "switch"; returns the exit status. */
int switch_main(int argc, char **argv);

/*
 * The path of the socket of the switch @name: RUNDIR/NAME.switch, or @name itself
 * when there is a slash in it. @run_dir: NULL for the default. With @create RUNDIR
 * is made when it is missing.
 */
int switch_path(char *buf, size_t size, const char *run_dir, const char *name, bool create,
		struct error *err);

#endif
