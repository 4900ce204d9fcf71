/*
 * The verbs that look after running microVMs: ls, stat, pause, resume, stop,
 * kill, console. Their option tables, for vmm/cli/cli_text.c, and what others need to
 * write a verb of that kind.
 */
#ifndef WISP_VMM_CLI_CONTROL_H
#define WISP_VMM_CLI_CONTROL_H

#include <jansson.h>

#include "vmm/config/config_parse.h"

extern const struct config_item control_plain_options[];  /* --run-dir */
extern const struct config_item control_report_options[]; /* and --json */
extern const struct config_item control_stat_options[]; /* and --prometheus */
extern const struct config_item control_stop_options[];
extern const struct config_item control_top_options[]; /* of helpers/wisp-top.c */
extern const struct config_item change_options[]; /* cli_change.c */
extern const struct config_item plug_options[], unplug_options[]; /* cli_plug.c */

/* What those options fill. */
struct control_options {
	char *run_dir;
	bool json, prometheus;
	unsigned timeout_seconds, delay_seconds;
	bool once;
};

/* Free what the options allocated; harmless when none did. */
void control_options_done(struct control_options *o);

/*
 * Take the network @net of the running microVM @id away, with the guest's consent, and plug @value
 * (as --net of `wisp plug` has it) in its place: the guest sees a new card, with a MAC of its own.
 * -errno with @err, which names the microVM; the network may be gone then.
 */
int control_replug_net(const char *run_dir, const char *id, const char *net, const char *value,
		       struct error *err);

/*
 * What a verb says with --json: one object on one line of stdout. @o, which stays the
 * caller's, without the "ok" of a reply, behind the "id" of the microVM it is about; NULL: about
 * none, or @o has it.
 */
void control_print_json(json_t *o, const char *id);

/*
 * Parse the arguments of @verb, which takes one microVM, and connect to it as
 * control_connect_awake() does. A socket, or -errno.
 */
int control_open(const char *verb, const struct config_item *options, struct control_options *o,
		 int argc, char *const *argv, const char **ret_id, struct error *err);

#define CONTROL_FORCE_CHILD (-1)

/*
 * Ask for the end by @request ("stop", "kill") and return after it; with @force also that of a
 * monitor that does not answer: it is that process, or (CONTROL_FORCE_CHILD) a child of who
 * listens. @ret_reply, which may be NULL, says how it ended, or becomes NULL when nobody was left
 * to say so.
 */
int control_end_machine(int sock, json_t *request, pid_t force, json_t **ret_reply,
			struct error *err);

#endif
