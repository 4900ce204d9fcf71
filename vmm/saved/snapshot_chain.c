#include "vmm/saved/snapshot_chain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- following it ---- */

/* Whether @s is the one with @id; and closed when it is not. */
static bool is_base(struct snapshot *s, const char *path, const char *id, struct error *err)
{
	if (snapshot_open(s, path, err) == 0) {
		if (s->id && !strcmp(s->id, id))
			return true;
		*err = (struct error){ 0 };
		error_usage(err, -ESTALE, "it is another one now");
	}
	snapshot_close(s);
	return false;
}

/* The name of @base in the directory that @path is in, for free(). */
static char *beside(const char *path, const char *base)
{
	const char *slash = strrchr(path, '/'), *name = strrchr(base, '/');
	char *there;

	if (asprintf(&there, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path,
		     name ? name + 1 : base) < 0)
		return NULL;
	return there;
}

/* Open what @s, at @path, builds on; @ret_path is for free(). */
static int open_base(struct snapshot *base, const struct snapshot *s, const char *path,
		     char **ret_path, struct error *err)
{
	json_t *entry = json_object_get(s->manifest, "base");
	const char *was = json_string_value(json_object_get(entry, "path"));
	char *there[] = { strdup(was ? was : ""), beside(path, was ? was : "") };
	struct error why = { 0 };
	int r = there[0] && there[1] ? -ENOENT : -ENOMEM;

	*ret_path = NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(there) && r == -ENOENT; i++) {
		struct error first = why;

		why = (struct error){ 0 };
		if (is_base(base, there[i], s->base, &why)) {
			*ret_path = there[i];
			there[i] = NULL;
			r = 0;
		} else if (i > 0) {
			/* What is wrong with where it should be says more. */
			why = first;
		}
	}
	free(there[0]);
	free(there[1]);
	if (r < 0) {
		error_usage(err, r, "snapshot '%s': builds on '%s', which cannot be had: %s", path,
			    was ? was : "?", r == -ENOMEM ? "no memory" : why.msg);
		error_hint(err,
			   "with all that belongs together in one directory it is found there; "
			   "'wisp snapshot merge BASE... %s' names it wherever it is",
			   path);
	}
	return r;
}

static int check_size(const struct snapshot *a, const struct snapshot *b, const char *path,
		      struct error *err)
{
	uint64_t one, other;
	int r = snapshot_memory_bytes(a, &one, err);

	if (!r)
		r = snapshot_memory_bytes(b, &other, err);
	if (r < 0 || one == other)
		return r;
	return error_usage(err, -EBADMSG,
			   "snapshot '%s': RAM of another size than in the one that it builds on",
			   path);
}

static void reverse(struct snapshot_chain *c)
{
	for (unsigned i = 0; i < c->num / 2; i++) {
		struct snapshot s = c->link[i];

		c->link[i] = c->link[c->num - 1 - i];
		c->link[c->num - 1 - i] = s;
	}
}

int snapshot_chain_open(struct snapshot_chain *c, const char *path, struct error *err)
{
	char *at = NULL, *next;
	int r;

	*c = (struct snapshot_chain){ .num = 1 };
	/* From the newest to the oldest first. */
	r = snapshot_open(&c->link[0], path, err);
	while (!r && c->link[c->num - 1].base) {
		const struct snapshot *s = &c->link[c->num - 1];

		if (c->num == SNAPSHOT_MAX_LINKS) {
			r = error_usage(err, -E2BIG, "snapshot '%s': more than %d build on another",
					path, SNAPSHOT_MAX_LINKS);
			break;
		}
		r = open_base(&c->link[c->num], s, at ? at : path, &next, err);
		if (r < 0)
			break;
		r = check_size(&c->link[c->num++], s, at ? at : path, err);
		free(at);
		at = next;
	}
	free(at);
	reverse(c);
	return r;
}

int snapshot_chain_append(struct snapshot_chain *c, const char *path, struct error *err)
{
	const struct snapshot *last = snapshot_chain_last(c);
	struct snapshot *s = &c->link[c->num];
	int r;

	if (c->num == SNAPSHOT_MAX_LINKS)
		return error_usage(err, -E2BIG, "more than %d snapshots", SNAPSHOT_MAX_LINKS);
	c->num++;
	r = snapshot_open(s, path, err);
	if (r < 0)
		return r;
	if (!s->base || !last->id || strcmp(s->base, last->id))
		return error_usage(err, -ESTALE,
				   "snapshot '%s': does not build on the one named before it%s",
				   path, s->base ? "" : ": it is complete");
	return check_size(last, s, path, err);
}

bool snapshot_chain_is_packed(const struct snapshot_chain *c)
{
	for (unsigned i = 0; i < c->num; i++)
		if (snapshot_is_packed(&c->link[i]))
			return true;
	return false;
}

/* There may be others between it and the newest one, which would lose what they build on. */
int snapshot_chain_check_replaced(const struct snapshot_chain *c, const char *path,
				  struct error *err)
{
	struct stat there, link;

	if (stat(path, &there) < 0)
		return 0;
	for (unsigned i = 0; i + 1 < c->num; i++)
		if (fstat(c->link[i].dir_fd, &link) == 0 && link.st_dev == there.st_dev &&
		    link.st_ino == there.st_ino)
			return error_usage(err, -EEXIST,
					   "snapshot '%s': others build on it, so it cannot be "
					   "replaced",
					   path);
	return 0;
}

void snapshot_chain_close(struct snapshot_chain *c)
{
	for (unsigned i = 0; i < c->num; i++)
		snapshot_close(&c->link[i]);
	c->num = 0;
}
