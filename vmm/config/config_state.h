/*
 * A configuration as a section of a saved machine: the arguments it was made
 * of, and the directory they were given in. Loading parses and checks them as
 * any command line, so an option that exists is saved, whoever added it.
 */
#ifndef WISP_VMM_CONFIG_STATE_H
#define WISP_VMM_CONFIG_STATE_H

#include "vmm/config/config.h"
#include "vmm/core/state.h"

/* Would config_load() take it: are there not too many arguments, and none too long? Or -E2BIG. */
int config_check_saved(const struct machine_config *c, struct error *err);

/*
 * Append the section; paths of disks are those of now. config_check_saved() comes first: what is
 * too long is only found when it is read. A failure stays in @w.
 */
void config_save(const struct machine_config *c, struct state_writer *w);

/*
 * Into @c, which config_init() has prepared; not yet validated. Relative paths
 * become absolute ones. What belongs to the run and not to the machine (its
 * name, log, metrics, timeout) is as if it had not been given.
 */
int config_load(struct machine_config *c, struct state_set *state, struct error *err);

/* As above from the arguments themselves, which were given in the directory @dir. */
int config_load_args(struct machine_config *c, unsigned num, char *const *args, const char *dir,
		     struct error *err);

#endif
