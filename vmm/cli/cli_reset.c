/* wisp reset: back to an earlier moment, in the same process. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_disks.h"
#include "vmm/cli/cli_snapshot.h"
#include "vmm/control/control_client.h"
#include "vmm/saved/snapshot.h"

struct reset_options {
	bool set, identical, json;
	unsigned clock; /* 0: continue, 1: realtime */
	json_t *keep;	/* [[ADDRESS,BYTES],...], or NULL */
	char *run_dir;
};

#define MEMBER(m) offsetof(struct reset_options, m)

/* "0x100000+64K" */
static int parse_keep(struct config_parse *p, const char *value, void *target)
{
	struct reset_options *o = target;
	uint64_t bytes;
	char *end;
	unsigned long long gpa;

	errno = 0;
	gpa = strtoull(value, &end, 0);
	if (*value < '0' || *value > '9' || errno || *end != '+' || gpa > INT64_MAX ||
	    config_parse_size(end + 1, 1, &bytes) < 0 || !bytes || bytes > INT64_MAX)
		return config_fail(p, "'%s' is not ADDRESS+SIZE, such as 0x100000+64K", value);
	if (!o->keep)
		o->keep = json_array();
	json_array_append_new(o->keep, json_pack("[I, I]", (json_int_t)gpa, (json_int_t)bytes));
	return 0;
}

const struct config_item reset_options[] = {
	{ "--set", NULL, "Make the present moment the one to go back to", CONFIG_FLAG,
	  MEMBER(set) },
	{ "--keep", "ADDRESS+SIZE",
	  "Leave that part of the guest's memory as it is, in whole pages (0x100000+64K)",
	  CONFIG_CUSTOM, .parse = parse_keep, .repeat = true },
	{ "--identical", NULL,
	  "The guest is not told that it is another one: same generation ID, same everything",
	  CONFIG_FLAG, MEMBER(identical) },
	{ "--clock", "continue|realtime",
	  "The guest's clocks go on from where they stood then, or catch up with the host's "
	  "(continue)",
	  CONFIG_CHOICE, MEMBER(clock) },
	{ "--json", NULL, "Print one JSON object: pages, runs, us", CONFIG_FLAG, MEMBER(json) },
	{ "--run-dir", "DIR", "Where running microVMs have their directories", CONFIG_STRING,
	  MEMBER(run_dir) },
	{ 0 },
};

/* Where the monitor puts what memory holds now. It maps that, so it must never become shorter. */
static int create_file(struct error *err)
{
	int fd = memfd_create("reset-point", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0)
		return fd;
	error_set(err, -errno, "memory for the point: %m");
	if (fd >= 0)
		close(fd);
	return err->code;
}

/* What a --set takes along: the file of memory, and one for each disk that the guest may write. */
struct files {
	int fd[1 + CONFIG_MAX_DISKS];
	unsigned num;
};

static int open_files(struct files *f, const struct cli_disks *disks, struct error *err)
{
	int r = create_file(err);

	if (r >= 0)
		f->fd[f->num++] = r;
	for (unsigned i = 0; i < disks->num && r >= 0; i++) {
		const struct cli_disk *d = &disks->disk[i];

		if (d->read_only)
			continue;
		r = snapshot_nameless_file(d->path);
		if (r < 0)
			error_set(err, r, "disk '%s': a file for what is written to it: %m",
				  d->path);
		else
			f->fd[f->num++] = r;
	}
	return MIN(r, 0);
}

/* It matters to who wants to keep what the guest writes. */
static void say_what_goes(const struct cli_disks *disks)
{
	for (unsigned i = 0; i < disks->num; i++)
		if (!disks->disk[i].read_only)
			fprintf(stderr,
				"wisp: disk '%s' stays as it is now: what the guest writes to it "
				"from here on is gone at its end\n", disks->disk[i].path);
}

static int ask(const struct reset_options *o, int sock, json_t **ret_reply, struct error *err)
{
	json_t *request =
		json_pack("{s:s, s:b, s:b, s:b, s:O*}", "do", "reset", "set", o->set, "identical",
			  o->identical, "realtime", o->clock == 1, "keep", o->keep);
	struct cli_disks disks = { 0 };
	struct files f = { .num = 0 };
	int r = o->set ? cli_disks_get(&disks, sock, err) : 0;

	if (!r && o->set)
		r = open_files(&f, &disks, err);
	if (!r)
		r = control_ask(sock, request, f.fd, f.num, ret_reply, err);
	else
		json_decref(request);
	if (!r && o->set)
		say_what_goes(&disks);
	while (f.num > 0)
		close(f.fd[--f.num]);
	cli_disks_done(&disks);
	return r;
}

static json_int_t number(const json_t *reply, const char *name)
{
	return json_integer_value(json_object_get(reply, name));
}

static void print_reply(const struct reset_options *o, const char *id, json_t *reply)
{
	if (o->json) {
		control_print_json(reply, id);
	} else if (o->set) {
		printf("%" JSON_INTEGER_FORMAT " pages are kept\n", number(reply, "pages"));
	} else {
		printf("%" JSON_INTEGER_FORMAT " pages went back in %.3f ms\n",
		       number(reply, "pages"), (double)number(reply, "us") / 1000);
	}
}

int reset_main(int argc, char **argv)
{
	struct reset_options o = { 0 };
	struct error err = { 0 };
	json_t *reply = NULL;
	const char *id;
	int sock = -1, r;

	r = config_parse_verb("reset", reset_options, &o, argc, argv, &id, 1, &err);
	if (r == 0)
		r = error_usage(&err, -EINVAL, "reset: needs ID");
	if (r > 0 && o.set && (o.keep || o.identical || o.clock))
		r = error_usage(&err, -EINVAL,
				"reset: --keep, --identical and --clock say how to go back, not "
				"how to --set");
	if (r > 0)
		sock = r = control_connect_awake(o.run_dir, id, &err);
	if (r >= 0)
		r = ask(&o, sock, &reply, &err);
	if (r >= 0)
		print_reply(&o, id, reply);
	else
		error_print(&err);
	if (sock >= 0)
		close(sock);
	json_decref(reply);
	json_decref(o.keep);
	free(o.run_dir);
	return r < 0 ? error_status(&err) : 0;
}
