/*
 * wisp snapshot: files and disks are this process's business, the guest is the monitor's. And
 * wisp snapshot merge, which asks nobody.
 */
#include "vmm/cli/cli_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_disks.h"
#include "vmm/control/control_client.h"
#include "vmm/saved/held_signals.h"
#include "vmm/saved/snapshot_chain.h"

struct snapshot_options {
	bool stop, diff, compress, json;
	char *run_dir, *output;
};

#define MEMBER(m) offsetof(struct snapshot_options, m)

const struct config_item snapshot_options[] = {
	{ "--stop", NULL, "End the microVM when the snapshot is safe on disk", CONFIG_FLAG,
	  MEMBER(stop) },
	{ "--diff", NULL,
	  "Save only the memory that changed since the last snapshot. The first one is complete, "
	  "and "
	  "from it on changes are watched",
	  CONFIG_FLAG, MEMBER(diff) },
	{ "--compress", NULL,
	  "Compress its memory (zstd); a restore unpacks what is touched. merge: that of the "
	  "complete one",
	  CONFIG_FLAG, MEMBER(compress) },
	{ "--output", "DIR", "merge: put the complete snapshot there (in place of the last DIR)",
	  CONFIG_STRING, MEMBER(output) },
	{ "--json", NULL, "Print what was written as one JSON object", CONFIG_FLAG, MEMBER(json) },
	{ "--run-dir", "DIR", "Where running microVMs have their directories", CONFIG_STRING,
	  MEMBER(run_dir) },
	{ 0 },
};

struct taking {
	const struct snapshot_options *options;
	struct snapshot_draft draft;
	int go[2]; /* a pipe: the monitor waits at its other end until the disks are seen to */
	struct cli_disks disks;
	json_t *manifest;
	bool was_paused; /* before it was asked for */
	json_t *runs;	 /* what the guest's end is to say, or NULL */
	struct held_signals signals;
	int signals_fd; /* one has come */
	struct control_extra extra;
	struct error err;
};

/* ---- while the guest is paused ---- */

static enum cli_disks_use use_of_disks(const struct snapshot_options *o)
{
	return o->stop ? CLI_DISKS_LAST_SNAPSHOT : CLI_DISKS_SNAPSHOT;
}

/* The copy of its memory is safe in the end, and knows of no write that may still be lost. */
static int sync_disk(const struct cli_disk *d, struct error *err)
{
	if (d->read_only || fsync(d->fd) == 0)
		return 0;
	return error_set(err, -errno, "disk '%s': cannot be made safe with the snapshot: %m",
			 d->path);
}

/*
 * A disk that the guest goes on to write is kept as it is now, and so is one that only the monitor
 * holds; others are only recognised.
 */
static int keep_disk(struct taking *t, const struct cli_disk *d)
{
	json_t *entry, *stamp = NULL;
	bool copied = false;
	char name[80] = "";
	int r;

	if (!cli_disk_is_copied(d, use_of_disks(t->options))) {
		r = sync_disk(d, &t->err);
		if (!r)
			r = snapshot_disk_stamp(d->fd, &stamp, &t->err);
	} else {
		snprintf(name, sizeof(name), SNAPSHOT_DISK "%s", d->id);
		r = snapshot_draft_disk(&t->draft, d->fd, d->path, name, &copied, &t->err);
	}
	if (r < 0)
		return r;
	if (copied)
		fprintf(stderr,
			"wisp: disk '%s': copied while the guest stood still, since its file "
			"system has no reflinks\n",
			d->path);
	entry = json_pack("{s:s, s:s, s:b}", "id", d->id, "path", d->path, "read_only",
			  d->read_only);
	if (stamp)
		json_object_set_new(entry, "stamp", stamp);
	else
		json_object_set_new(entry, "copy", json_string(name));
	json_array_append_new(json_object_get(t->manifest, "disks"), entry);
	return 0;
}

/* No more than that can be compressed. */
static int check_room(struct taking *t)
{
	json_t *machine = json_object_get(t->manifest, "machine");
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(machine, "memory_bytes"));

	if (!t->options->compress || packed_memory_fits(bytes))
		return 0;
	return error_usage(&t->err, -EFBIG, "--compress: not for more than 336 GiB of memory");
}

/*
 * What the monitor counts changes from must be where it was told, or they are worth nothing. The
 * guest stands still meanwhile, so that no more of it is read than says which it is.
 */
static int check_base(struct taking *t)
{
	json_t *base = json_object_get(t->manifest, "base");
	const char *path = json_string_value(json_object_get(base, "path"));
	const char *id = json_string_value(json_object_get(base, "id"));
	struct snapshot s;
	struct error why = { 0 };
	bool there;

	if (!base)
		return 0;
	there = snapshot_open_manifest(&s, path ? path : "", &why) == 0;
	if (there && (!s.id || !id || strcmp(s.id, id)))
		there = error_set(&why, -ESTALE, "'%s' is another one now", path) == 0;
	snapshot_close(&s);
	if (there)
		return 0;
	error_usage(&t->err, -ENOENT, "the snapshot that this one would build on is gone: %s",
		    why.msg);
	error_hint(&t->err,
		   "without --diff it becomes a complete one, and the next can build on that");
	return -ENOENT;
}

/* Until it builds on nothing: what cannot be had from there on is lost already. */
static int check_chain(struct taking *t, const char *latest)
{
	struct snapshot_chain *c = calloc(1, sizeof(*c));
	struct error why = { 0 };
	int r = 0;

	if (!c)
		return error_set(&t->err, -ENOMEM, "snapshot: %m");
	if (snapshot_chain_open(c, latest, &why) == 0)
		r = snapshot_chain_check_replaced(c, t->draft.path, &t->err);
	snapshot_chain_close(c);
	free(c);
	if (r < 0)
		error_hint(&t->err,
			   "take it under another name, or have '%s' need no other first: 'wisp "
			   "snapshot merge %s'",
			   latest, latest);
	return r;
}

/*
 * The guest's latest snapshot may build on what this one, which is complete, would replace. As
 * with a base it is looked at where it was said to be, and only if there is something to replace.
 */
static int check_replaced(struct taking *t)
{
	json_t *latest = json_object_get(t->manifest, "latest");
	const char *path = json_string_value(json_object_get(latest, "path"));
	int r = 0;

	if (path && access(t->draft.path, F_OK) == 0)
		r = check_chain(t, path);
	json_object_del(t->manifest, "latest");
	return r;
}

static void guest_is_paused(void *arg, const json_t *progress)
{
	struct taking *t = arg;
	int r;

	if (t->manifest)
		return;
	t->manifest = json_deep_copy(progress);
	json_object_set_new(t->manifest, "disks", json_array());
	r = check_room(t);
	if (!r)
		r = check_base(t);
	if (!r)
		r = check_replaced(t);
	for (unsigned i = 0; i < t->disks.num && !r; i++)
		r = keep_disk(t, &t->disks.disk[i]);
	/* Without a byte the monitor sees the end of the pipe, and lets the guest go on. */
	if (!r && write(t->go[1], "", 1) != 1)
		error_set(&t->err, -errno, "the monitor does not wait: %m");
	close(t->go[1]);
	t->go[1] = -1;
	/* A guest that will stand still until we say what becomes of it must hear that. */
	if (t->options->stop)
		t->extra.give_up_fd = -1;
}

/* ---- the whole ---- */

static int complete_manifest(struct taking *t, json_t *reply)
{
	char now[32];
	time_t seconds = time(NULL);
	struct utsname host = { 0 };
	struct tm utc;

	uname(&host);
	gmtime_r(&seconds, &utc);
	strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", &utc);
	json_object_del(reply, "ok");
	if (json_object_set_new(t->manifest, "time", json_string(now)) < 0 ||
	    json_object_set_new(t->manifest, "host_kernel", json_string(host.release)) < 0 ||
	    json_object_set(t->manifest, "taken", reply) < 0)
		return error_set(&t->err, -ENOMEM, "manifest: %m");
	return 0;
}

static int ask(struct taking *t, int sock, json_t **ret_reply)
{
	const int fds[] = { t->go[0], t->draft.state_fd, t->draft.memory_fd, t->draft.pages_fd };
	struct error err = { 0 };
	int r;

	/* Given up before it had our byte, the guest goes on without us. */
	t->extra = (struct control_extra){
		.progress = guest_is_paused,
		.arg = t,
		.give_up_fd = t->signals_fd,
	};
	r = control_ask_extra(sock,
			      json_pack("{s:s, s:b, s:b, s:s, s:I}", "do", "snapshot",
					"stay_paused", t->options->stop, "diff", t->options->diff,
					"id", t->draft.id, "generation",
					cli_disks_generation(&t->disks)),
			      fds, t->options->diff ? 4 : 3, ret_reply, &t->extra, &err);
	/* What went wrong here is the reason; what the monitor made of it is not. */
	if (r < 0 && !t->err.code) {
		t->err = err;
		error_prefix(&t->err, "snapshot '%s'", t->draft.path);
	}
	if (!r) {
		t->was_paused = json_is_true(json_object_get(*ret_reply, "was_paused"));
		t->runs = json_incref(json_object_get(*ret_reply, "runs"));
		json_object_del(*ret_reply, "was_paused");
		json_object_del(*ret_reply, "runs");
	}
	if (!r && !t->manifest)
		r = error_set(&t->err, -EBADMSG, "the monitor's answer makes no sense");
	if (!r && held_signals_came())
		r = error_set(&t->err, -EINTR, "snapshot '%s': given up", t->draft.path);
	return r;
}

/* The guest has gone on, unless it is to end. */
static int compress(struct taking *t, json_t *reply)
{
	uint64_t bytes = 0;
	int r = snapshot_draft_pack(&t->draft, &bytes, &t->err);

	if (!r)
		json_object_set_new(reply, "compressed_bytes", json_integer((json_int_t)bytes));
	return r;
}

/*
 * Its disks that are only named are those of the snapshot as long as it stands still, so a guest
 * that somebody else had go on meanwhile does not end; nor may it have ended by itself.
 */
static int end_guest(struct taking *t, int sock)
{
	json_t *request = json_pack("{s:s}", "do", "end"), *reply = NULL;
	int r;

	if (t->runs)
		json_object_set(request, "runs", t->runs);
	/* With its directory: one that is restored now may have its name. */
	r = control_end_machine(sock, request, 0, &reply, &t->err);
	if (!r && !reply)
		r = error_set(&t->err, -ESTALE, "the microVM ended before it was told to");
	json_decref(reply);
	if (r == -ESTALE)
		error_prefix(&t->err, "snapshot '%s' is not of the guest's end", t->draft.path);
	return r;
}

/*
 * With --stop the guest stands still until all is safe, and goes on when it will not be, unless it
 * stood still before. When the monitor itself could not save it (no @reply), that has seen to it.
 */
static int finish(struct taking *t, int sock, const json_t *reply, int r)
{
	struct error err = { 0 };

	if (!t->options->stop || !reply || (r < 0 && t->was_paused))
		return r;
	if (r < 0) {
		control_ask(sock, json_pack("{s:s}", "do", "resume"), NULL, 0, NULL, &err);
		return r;
	}
	return end_guest(t, sock);
}

/* It is safe, so the next one may build on it. If nobody says so that builds on an earlier one. */
static void tell_kept(const struct taking *t, int sock, const json_t *reply)
{
	struct error err = { 0 };
	char *path;

	if (t->options->stop || !json_is_true(json_object_get(reply, "tracked")))
		return;
	path = realpath(t->draft.path, NULL);
	if (path && control_ask(sock,
				json_pack("{s:s, s:s, s:s}", "do", "snapshot-kept", "id",
					  t->draft.id, "path", path),
				NULL, 0, NULL, &err) < 0)
		log_info("the next differential snapshot builds on an earlier one: %s", err.msg);
	free(path);
}

static void print(const struct snapshot_options *o, const char *id, const char *path,
		  json_t *reply)
{
	json_int_t pause = json_integer_value(json_object_get(reply, "pause_us"));
	json_int_t stored = json_integer_value(json_object_get(reply, "stored_bytes"));
	json_int_t packed = json_integer_value(json_object_get(reply, "compressed_bytes"));
	char in[32] = "";

	if (o->compress)
		snprintf(in, sizeof(in), " (%.1f compressed)", (double)packed / MiB);
	if (o->json) {
		json_object_set_new(reply, "path", json_string(path));
		control_print_json(reply, id);
	} else if (o->stop) {
		printf("snapshot '%s': %.1f MiB of memory%s, microVM ended\n", path,
		       (double)stored / MiB, in);
	} else {
		printf("snapshot '%s': %.1f MiB of %smemory%s, guest paused for %.1f ms\n", path,
		       (double)stored / MiB,
		       json_is_true(json_object_get(reply, "diff")) ? "changed " : "", in,
		       (double)pause / 1000);
	}
}

/* Nothing has been made, and nobody waits, before the signals are held back. */
static int begin(struct taking *t, int sock, const char *path)
{
	int r = cli_disks_get(&t->disks, sock, &t->err);

	if (!r)
		r = cli_disks_refuse(&t->disks, use_of_disks(t->options), &t->err);
	held_signals_begin(&t->signals);
	if (!r)
		r = snapshot_draft_begin(&t->draft, path, t->options->diff, &t->err);
	if (!r && pipe2(t->go, O_CLOEXEC) < 0)
		r = error_set(&t->err, -errno, "pipe: %m");
	if (!r && (t->signals_fd = held_signals_open(&t->signals)) < 0)
		r = error_set(&t->err, t->signals_fd, "signals: %m");
	return r;
}

static void end(struct taking *t)
{
	snapshot_draft_end(&t->draft);
	held_signals_end(&t->signals);
	cli_disks_done(&t->disks);
	for (unsigned i = 0; i < 2; i++)
		if (t->go[i] >= 0)
			close(t->go[i]);
	if (t->signals_fd >= 0)
		close(t->signals_fd);
	json_decref(t->manifest);
	json_decref(t->runs);
}

/* @ret_reply: what the monitor says of it; the caller's. */
static int take(const struct snapshot_options *o, const char *id, const char *path,
		json_t **ret_reply, struct error *err)
{
	struct taking t = {
		.options = o,
		.draft = { .dir_fd = -1, .state_fd = -1, .memory_fd = -1, .pages_fd = -1 },
		.go = { -1, -1 },
		.signals_fd = -1,
	};
	json_t *reply = NULL;
	int sock, r;

	sock = control_connect_awake(o->run_dir, id, err);
	if (sock < 0)
		return sock;
	r = begin(&t, sock, path);
	if (!r) {
		r = ask(&t, sock, &reply);
		if (!r && o->compress)
			r = compress(&t, reply);
		if (!r)
			r = complete_manifest(&t, reply);
		if (!r)
			r = snapshot_draft_commit(&t.draft, t.manifest, &t.err);
		if (!r)
			tell_kept(&t, sock, reply);
		r = finish(&t, sock, reply, r);
	}
	end(&t);
	close(sock);
	if (r < 0) {
		json_decref(reply);
		*err = t.err;
		return r;
	}
	*ret_reply = reply;
	return 0;
}

int snapshot_and_end(const char *run_dir, const char *id, const char *path, struct error *err)
{
	char *dir = run_dir ? strdup(run_dir) : NULL;
	const struct snapshot_options o = { .stop = true, .run_dir = dir };
	json_t *reply = NULL;
	int r = -ENOMEM;

	if (run_dir && !dir)
		error_set(err, r, "snapshot: %m");
	else
		r = take(&o, id, path, &reply, err);
	json_decref(reply);
	free(dir);
	return r;
}

/* ---- merge ---- */

/* Chains are short, and have all their snapshots named at most. */
#define MAX_ARGS (1 + SNAPSHOT_MAX_LINKS)

/* A name of a file may be anything but JSON. */
static int print_merged(const char *to, unsigned num, struct error *err)
{
	json_t *o = json_pack("{s:s, s:i}", "path", to, "merged", (int)num);

	if (!o)
		return error_set(err, -EILSEQ, "snapshot merge: '%s' is there, but no text", to);
	control_print_json(o, NULL);
	json_decref(o);
	return 0;
}

static int merge(const struct snapshot_options *o, const char *const *paths, int num,
		 struct error *err)
{
	struct snapshot_chain *c = calloc(1, sizeof(*c));
	const char *to = o->output ? o->output : paths[num - 1];
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "snapshot merge: %m");
	r = snapshot_chain_open(c, paths[0], err);
	for (int i = 1; i < num && !r; i++)
		r = snapshot_chain_append(c, paths[i], err);
	if (!r && c->num == 1 && !o->output && o->compress == snapshot_is_packed(&c->link[0]))
		r = error_usage(err, -EINVAL, "snapshot '%s': is complete already%s", paths[0],
				o->compress ? ", and compressed" : "");
	if (!r)
		r = snapshot_chain_merge(c, to, o->compress, err);
	if (!r && o->json)
		r = print_merged(to, c->num, err);
	else if (!r)
		printf("snapshot '%s': complete now, out of %u\n", to, c->num);
	snapshot_chain_close(c);
	free(c);
	return r;
}

/* ---- the verb ---- */

static int run(const struct snapshot_options *o, const char *const *args, int num,
	       struct error *err)
{
	json_t *reply = NULL;
	int r;

	if (num > 0 && !strcmp(args[0], "merge")) {
		if (num == 1 || o->stop || o->diff)
			return error_usage(
				err, -EINVAL,
				"snapshot merge: needs DIR..., and takes --output and --compress "
				"alone");
		return merge(o, args + 1, num - 1, err);
	}
	if (num != 2 || o->output)
		return error_usage(err, -EINVAL, "snapshot: needs ID and DIR, or merge and DIR...");
	if (!*args[1])
		return error_usage(err, -EINVAL, "snapshot: the name of DIR is empty");
	r = take(o, args[0], args[1], &reply, err);
	if (!r)
		print(o, args[0], args[1], reply);
	json_decref(reply);
	return r;
}

int snapshot_main(int argc, char **argv)
{
	struct snapshot_options o = { 0 };
	const char *args[MAX_ARGS];
	struct error err = { 0 };
	int r;

	r = config_parse_verb("snapshot", snapshot_options, &o, argc, argv, args, MAX_ARGS, &err);
	if (r >= 0)
		r = run(&o, args, r, &err);
	free(o.run_dir);
	free(o.output);
	if (r < 0) {
		error_print(&err);
		return error_status(&err);
	}
	return 0;
}
