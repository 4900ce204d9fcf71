/* The verbs core and gdb. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/control/control_client.h"
#include "vmm/control/late_file.h"
#include "vmm/debug/gdb.h"
#include "vmm/run_dir.h"

struct gdb_options {
	char *run_dir;
	char *listen;
};

#define RUN_DIR_ITEM(options)                                                                      \
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",        \
	  CONFIG_STRING, offsetof(struct options, run_dir) }

const struct config_item cli_gdb_options[] = {
	RUN_DIR_ITEM(gdb_options),
	{ "--listen", "tcp:PORT|unix:PATH",
	  "Where gdb is to connect (gdb.sock in the run directory)",
	  CONFIG_STRING, offsetof(struct gdb_options, listen) },
	{ 0 },
};

int core_main(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct late_file file = { .fd = -1 };
	const char *names[2];
	struct error err = { 0 };
	int sock = -1;
	int r = config_parse_verb("core", control_plain_options, &o, argc, argv, names, 2, &err);

	if (r >= 0 && r != 2)
		r = error_usage(&err, -EINVAL, "core: which microVM, and into which file?");
	if (r >= 0)
		r = sock = control_connect_awake(o.run_dir, names[0], &err);
	if (r >= 0)
		r = late_file_open(&file, "core", names[1], &err);
	if (r >= 0) {
		r = control_ask(sock, json_pack("{s:s}", "do", "core"), &file.fd, 1, NULL, &err);
		/* The monitor knows a descriptor only. */
		if (r < 0)
			error_prefix(&err, "'%s'", names[1]);
	}
	if (r >= 0)
		r = late_file_keep(&file, &err);
	late_file_close(&file);
	if (sock >= 0)
		close(sock);
	control_options_done(&o);
	if (r < 0) {
		error_print(&err);
		return error_status(&err);
	}
	return 0;
}

/*
 * With the address for whoever asks for a second stub, from whatever working directory. One that is
 * not UTF-8 cannot be passed on.
 */
static json_t *gdb_request(const char *where)
{
	char cwd[PATH_MAX];
	json_t *known;

	if (!strncmp(where, "unix:", 5) && where[5] != '/' && getcwd(cwd, sizeof(cwd)))
		known = json_sprintf("unix:%s/%s", cwd, where + 5);
	else
		known = json_string(where);
	return json_pack("{s:s, s:o*}", "do", "gdb", "where", known);
}

int gdb_main(int argc, char **argv)
{
	struct gdb_options o = { 0 };
	struct error err = { 0 };
	char root[PATH_MAX], where[PATH_MAX + 64];
	const char *id;
	int fd = -1, sock = -1;
	int r = config_parse_verb("gdb", cli_gdb_options, &o, argc, argv, &id, 1, &err);

	if (r == 0)
		r = error_usage(&err, -EINVAL, "gdb: which microVM? ('wisp ls' lists them)");
	if (r > 0)
		sock = control_connect_awake(o.run_dir, id, &err);
	if (sock < 0) {
		r = MIN(r, sock);
	} else if (o.listen) {
		snprintf(where, sizeof(where), "%s", o.listen);
	} else if (strchr(id, '/')) {
		snprintf(where, sizeof(where), "unix:%s/gdb.sock", id);
	} else {
		r = run_dir_root(root, sizeof(root), o.run_dir, false, &err);
		snprintf(where, sizeof(where), "unix:%s/%s/gdb.sock", root, id);
	}
	if (r >= 0)
		r = fd = gdb_listen(where, &err);
	if (r == -EADDRINUSE && !o.listen)
		error_hint(&err, "gdb can debug it already: target remote %s",
			   gdb_target_name(where));
	if (r >= 0) {
		r = control_ask(sock, gdb_request(where), &fd, 1, NULL, &err);
		close(fd);
		if (r < 0)
			gdb_unlisten(where);
	}
	if (r >= 0)
		printf("target remote %s\n", gdb_target_name(where));
	if (sock >= 0)
		close(sock);
	free(o.run_dir);
	free(o.listen);
	if (r < 0) {
		error_print(&err);
		return error_status(&err);
	}
	return 0;
}
