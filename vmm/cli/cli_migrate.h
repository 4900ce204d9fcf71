/* The verbs that move a running microVM to another monitor: rows of cli_text.c. */
#ifndef WISP_VMM_CLI_MIGRATE_H
#define WISP_VMM_CLI_MIGRATE_H

#include <jansson.h>

#include "vmm/config/config_parse.h"

extern const struct config_item migrate_options[];
extern const struct config_item receive_options[];
extern const struct config_item upgrade_options[];

/* Rows of cli_text.c: the arguments behind the verb, its exit status (struct cli_verb). */
int migrate_main(int argc, char **argv);
int receive_main(int argc, char **argv);
int upgrade_main(int argc, char **argv);

/* Where the new monitor of `wisp upgrade` is found until it has the old one's name: behind that. */
#define UPGRADE_SUFFIX ".upgrade"

/* The guest that is to come for `wisp upgrade`. All borrowed, but for the descriptor. */
struct receive_in_place {
	const char *run_dir, *run_id, *source;
	int later_fd;
	enum sandbox_mode sandbox; /* as it is locked in now */
	bool core_sched;
};

/*
 * For `wisp upgrade`, both ends of it. Hand @id over to who is at the other end of @dest, on this
 * host, called @peer in words; @ret_report is the monitor's. And there: take the guest that comes
 * from @p->source, in the background, to be found as @p->run_id although that is not its name, but
 * the old one's with UPGRADE_SUFFIX; the exit status, in the foreground once it runs. It listens
 * nowhere yet (vmm/launch.h). Where it is to, as the old one does now, written to @p->later_fd,
 * which is closed then, each with a NUL behind it: "forward NET RULE", and "socket PATH" of
 * --vsock.
 */
int migrate_in_place(const char *run_dir, const char *id, const char *dest, const char *peer,
		     json_t **ret_report, struct error *err);
int receive_in_place(const struct receive_in_place *p);

/*
 * Settle what crashed migrations left, as far as it can be told from here; says each case in
 * words. @id: of this microVM alone; or NULL. Returns how many are left, or -errno.
 */
int migrate_recover(const char *run_dir, const char *id, struct error *err);

#endif
