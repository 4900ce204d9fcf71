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

/* --net ID=NAME,replug */
struct replug {
	char *id, *name;
	char *value; /* for wisp plug, once the kind of network is known */
};

struct clone_options {
	unsigned num;
	char *name, *run_dir;
	bool json;
	struct replug net[CONFIG_MAX_NETS];
	unsigned num_nets;
};

#define MEMBER(m) offsetof(struct clone_options, m)

static int parse_net(struct config_parse *p, const char *value, void *target)
{
	static const char word[] = ",replug";
	struct clone_options *o = target;
	const char *equals = strchr(value, '='), *end = strstr(value, word);
	struct replug *n = &o->net[o->num_nets];

	if (!equals || equals == value || !end || end[sizeof(word) - 1] || end <= equals + 1)
		return error_usage(p->err, -EINVAL,
				   "--net '%s': is not ID=NAME,replug (a clone's card has no cable "
				   "until another one is plugged in)",
				   value);
	if (o->num_nets == CONFIG_MAX_NETS)
		return error_usage(p->err, -EINVAL, "--net: more than %d", CONFIG_MAX_NETS);
	n->id = strndup(value, equals - value);
	n->name = strndup(equals + 1, end - equals - 1);
	o->num_nets++;
	return n->id && n->name ? 0 : error_set(p->err, -ENOMEM, "--net: %m");
}

const struct config_item clone_options[] = {
	{ "-n", "N", "How many (1)", CONFIG_NUMBER, MEMBER(num), 1, MAX_CLONES },
	{ "--name", "ID",
	  "They are called ID-1, ID-2, ..., as far as no microVM is called so yet (the "
	  "original's name)",
	  CONFIG_STRING, MEMBER(name) },
	{ "--net", "ID=NAME,replug",
	  "In place of this network of the guest's each gets another card, on the tap or switch "
	  "NAME, "
	  "whichever the guest's is on. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_net },
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

/* Before anything is cloned: such networks there must be, and one tap serves one clone. */
static int check_nets(void *arg, const struct machine_config *c, struct error *err)
{
	struct clone_options *o = arg;

	for (unsigned i = 0; i < o->num_nets; i++) {
		struct replug *n = &o->net[i];
		const struct config_net *net = NULL;

		for (unsigned k = 0; k < c->num_nets; k++)
			if (!strcmp(c->net[k].id, n->id))
				net = &c->net[k];
		if (!net || (net->kind != CONFIG_NET_TAP && net->kind != CONFIG_NET_SWITCH))
			return error_usage(
				err, -EINVAL,
				"--net: the guest has no network '%s' on a tap or a switch", n->id);
		if (net->kind == CONFIG_NET_TAP && o->num > 1)
			return error_usage(err, -EINVAL,
					   "--net: %u clones cannot share the tap '%s'", o->num,
					   n->name);
		if (asprintf(&n->value, "%s=%s,id=%s",
			     net->kind == CONFIG_NET_TAP ? "tap" : "switch", n->name, n->id) < 0) {
			n->value = NULL;
			return error_set(err, -ENOMEM, "--net: %m");
		}
	}
	return 0;
}

/* Clones run by now: one whose guest does not let go of its card is left as it is, and told of. */
static int replug_all(const struct clone_options *o, const json_t *names, struct error *err)
{
	size_t i;
	json_t *name;
	int r = 0;

	json_array_foreach(names, i, name)
	{
		for (unsigned n = 0; n < o->num_nets; n++) {
			struct error why = { 0 };

			if (control_replug_net(o->run_dir, json_string_value(name), o->net[n].id,
					       o->net[n].value, &why) >= 0)
				continue;
			if (!r)
				*err = why;
			else
				error_print(&why);
			r = why.code;
		}
	}
	return r;
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
	fflush(stdout);
	if (!r)
		r = replug_all(o, names, &c->err);
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
	c.check = check_nets;
	c.check_arg = &o;
	if (r == 0)
		r = error_usage(&c.err, -EINVAL, "clone: needs ID");
	if (r > 0)
		r = run(&c, &o, id);
	/* A clone that could not be made has said so itself. */
	if (r < 0 && c.err.code)
		error_print(&c.err);
	cli_fork_done(&c);
	for (unsigned i = 0; i < o.num_nets; i++) {
		free(o.net[i].id);
		free(o.net[i].name);
		free(o.net[i].value);
	}
	free(o.name);
	free(o.run_dir);
	return r < 0 ? error_status(&c.err) : 0;
}
