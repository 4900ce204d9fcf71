/* wisp snapshot: files and disks are this process's business, the guest is the monitor's. */
#include "vmm/cli_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli_disks.h"
#include "vmm/control_client.h"
#include "vmm/snapshot.h"

struct snapshot_options {
	bool stop, json;
	char *run_dir;
};

#define MEMBER(m) offsetof(struct snapshot_options, m)

const struct config_item snapshot_options[] = {
	{ "--stop", NULL, "End the microVM when the snapshot is safe on disk", CONFIG_FLAG,
	  MEMBER(stop) },
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
	struct error err;
};

/* ---- while the guest is paused ---- */

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

	if (d->read_only || (t->options->stop && !d->nameless)) {
		r = snapshot_disk_stamp(d->fd, &stamp, &t->err);
	} else {
		snprintf(name, sizeof(name), "disk-%s", d->id);
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

static void guest_is_paused(void *arg, const json_t *progress)
{
	struct taking *t = arg;
	int r = 0;

	if (t->manifest)
		return;
	t->manifest = json_deep_copy(progress);
	json_object_set_new(t->manifest, "disks", json_array());
	for (unsigned i = 0; i < t->disks.num && !r; i++)
		r = keep_disk(t, &t->disks.disk[i]);
	/* Without a byte the monitor sees the end of the pipe, and lets the guest go on. */
	if (!r && write(t->go[1], "", 1) != 1)
		error_set(&t->err, -errno, "the monitor does not wait: %m");
	close(t->go[1]);
	t->go[1] = -1;
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
	if (json_object_set_new(t->manifest, "format", json_integer(SNAPSHOT_FORMAT)) < 0 ||
	    json_object_set_new(t->manifest, "time", json_string(now)) < 0 ||
	    json_object_set_new(t->manifest, "host_kernel", json_string(host.release)) < 0 ||
	    json_object_set(t->manifest, "taken", reply) < 0)
		return error_set(&t->err, -ENOMEM, "manifest: %m");
	return 0;
}

static int ask(struct taking *t, int sock, json_t **ret_reply)
{
	struct control_extra extra = { .progress = guest_is_paused, .arg = t };
	const int fds[] = { t->go[0], t->draft.state_fd, t->draft.memory_fd };
	struct error err = { 0 };
	int r;

	r = control_ask_extra(sock,
			      json_pack("{s:s, s:b}", "do", "snapshot", "stay_paused",
					t->options->stop),
			      fds, ARRAY_SIZE(fds), ret_reply, &extra, &err);
	/* What went wrong here is the reason; what the monitor made of it is not. */
	if (r < 0 && !t->err.code)
		t->err = err;
	if (!r && !t->manifest)
		r = error_set(&t->err, -EBADMSG, "the monitor's answer makes no sense");
	return r;
}

/* With --stop the guest stands still until all is safe, and goes on when it will not be. */
static int finish(struct taking *t, int sock, int r)
{
	struct error err = { 0 };
	int end;

	if (!t->options->stop)
		return r;
	end = control_ask(sock, json_pack("{s:s}", "do", r < 0 ? "resume" : "end"), NULL, 0, NULL,
			  &err);
	if (end < 0 && r == 0) {
		t->err = err;
		return end;
	}
	return r;
}

static void print(const struct snapshot_options *o, const char *path, json_t *reply)
{
	json_int_t pause = json_integer_value(json_object_get(reply, "pause_us"));
	json_int_t stored = json_integer_value(json_object_get(reply, "stored_bytes"));

	if (o->json) {
		json_object_set_new(reply, "path", json_string(path));
		json_dumpf(reply, stdout, 0);
		printf("\n");
	} else if (o->stop) {
		printf("snapshot '%s': %.1f MiB of memory, microVM ended\n", path,
		       (double)stored / MiB);
	} else {
		printf("snapshot '%s': %.1f MiB of memory, guest paused for %.1f ms\n", path,
		       (double)stored / MiB, (double)pause / 1000);
	}
}

static int take(const struct snapshot_options *o, const char *id, const char *path,
		struct error *err)
{
	struct taking t = { .options = o, .go = { -1, -1 } };
	json_t *reply = NULL;
	int sock, r;

	sock = control_connect_in(o->run_dir, id, err);
	if (sock < 0)
		return sock;
	r = snapshot_draft_begin(&t.draft, path, &t.err);
	if (!r)
		r = cli_disks_get(&t.disks, sock, &t.err);
	if (!r)
		r = cli_disks_refuse(&t.disks, false, &t.err);
	if (!r && pipe2(t.go, O_CLOEXEC) < 0)
		r = error_set(&t.err, -errno, "pipe: %m");
	if (!r) {
		r = ask(&t, sock, &reply);
		if (!r)
			r = complete_manifest(&t, reply);
		if (!r)
			r = snapshot_draft_commit(&t.draft, t.manifest, &t.err);
		r = finish(&t, sock, r);
	}
	if (!r)
		print(o, path, reply);
	else
		*err = t.err;
	snapshot_draft_end(&t.draft);
	cli_disks_done(&t.disks);
	for (unsigned i = 0; i < 2; i++)
		if (t.go[i] >= 0)
			close(t.go[i]);
	close(sock);
	json_decref(reply);
	json_decref(t.manifest);
	return r;
}

int snapshot_main(int argc, char **argv)
{
	struct snapshot_options o = { 0 };
	const char *args[2];
	struct error err = { 0 };
	int r;

	r = config_parse_verb("snapshot", snapshot_options, &o, argc, argv, args, 2, &err);
	if (r >= 0 && r < 2)
		r = error_usage(&err, -EINVAL, "snapshot: needs ID and DIR");
	if (r >= 0)
		r = take(&o, args[0], args[1], &err);
	free(o.run_dir);
	if (r < 0) {
		error_print(&err);
		return error_status(&err);
	}
	return 0;
}
