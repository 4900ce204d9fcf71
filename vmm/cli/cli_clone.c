/* wisp clone: forks of a running microVM, which run at once. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_fork.h"
#include "vmm/cli/cli_snapshot.h"
#include "vmm/control/control_client.h"
#include "vmm/run_dir.h"

#define MAX_CLONES 1000

struct clone_options {
	unsigned num;
	char *name, *run_dir;
	bool json;
};

#define MEMBER(m) offsetof(struct clone_options, m)

const struct config_item clone_options[] = {
	{ "-n", "N", "How many (1)", CONFIG_NUMBER, MEMBER(num), 1, MAX_CLONES },
	{ "--name", "ID",
	  "They are called ID-1, ID-2, ..., as far as no microVM is called so yet (the "
	  "original's name)",
	  CONFIG_STRING, MEMBER(name) },
	{ "--json", NULL, "Print their names and the pause as one JSON object", CONFIG_FLAG,
	  MEMBER(json) },
	{ "--run-dir", "DIR", "Where running microVMs have their directories", CONFIG_STRING,
	  MEMBER(run_dir) },
	{ 0 },
};

static void print(const struct clone_options *o, const char *id, json_t *names,
		  json_t *reply)
{
	json_t *name;
	size_t i;

	if (o->json) {
		json_object_set(reply, "ids", names);
		control_print_json(reply, id);
		return;
	}
	json_array_foreach(names, i, name) {
		printf("%s\n", json_string_value(name));
	}
}

static const char *stem_of(const struct clone_options *o, const char *id)
{
	const char *slash = strrchr(id, '/');

	return o->name ? o->name : slash ? slash + 1 : id;
}

/* Before the guest stands still for them: is the longest name one that there can be? */
static int check_names(const struct clone_options *o, const char *id, struct error *err)
{
	char name[128];

	snprintf(name, sizeof(name), "%s-%u", stem_of(o, id), o->num);
	return config_check_name("clone", name, err);
}

static int clone_all(struct cli_fork *c, const struct clone_options *o, const char *id,
		     json_t *reply)
{
	const char *stem = stem_of(o, id);
	json_t *names = json_array();
	unsigned number = 0;
	char name[128];
	int r = 0;

	for (unsigned i = 0; i < o->num && !r; i++) {
		/* Earlier clones keep their names. */
		number = run_dir_free_number(o->run_dir, stem, number + 1);
		snprintf(name, sizeof(name), "%s-%u", stem, number);
		r = cli_fork_start(c, name);
		if (!r)
			json_array_append_new(names, json_string(name));
	}
	print(o, id, names, reply);
	json_decref(names);
	return r;
}

static int run(struct cli_fork *c, const struct clone_options *o, const char *id)
{
	json_t *reply = NULL;
	int sock = -1, r = check_names(o, id, &c->err);

	if (!r)
		r = sock = control_connect_awake(o->run_dir, id, &c->err);
	r = MIN(r, 0);

	/* The only one can have what was copied while the guest stood still. */
	c->only = o->num == 1;
	if (!r)
		r = cli_fork_take(c, sock, &reply);
	if (sock >= 0)
		close(sock);
	if (!r)
		r = clone_all(c, o, id, reply);
	json_decref(reply);
	return r;
}

int clone_main(int argc, char **argv)
{
	struct clone_options o = { .num = 1 };
	struct cli_fork c;
	const char *id;
	int r;

	cli_fork_init(&c, NULL);
	r = config_parse_verb("clone", clone_options, &o, argc, argv, &id, 1, &c.err);
	c.run_dir = o.run_dir;
	if (r == 0)
		r = error_usage(&c.err, -EINVAL, "clone: needs ID");
	if (r > 0)
		r = run(&c, &o, id);
	/* A clone that could not be made has said so itself. */
	if (r < 0 && c.err.code)
		error_print(&c.err);
	cli_fork_done(&c);
	free(o.name);
	free(o.run_dir);
	return r < 0 ? error_status(&c.err) : 0;
}
