/* Many sections together: sealed by the writer, found by name by the reader. */
#include <errno.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vmm/core/state.h"

/*
 * The last section: u32 number of sections before it, u64 XXH3 of all their
 * bytes. A section has a checksum of its own; this one notices those that are
 * missing, and a file that ends too early at the end of a section.
 */
#define SEAL_NAME    "end"
#define SEAL_VERSION 1

/* More than any machine has; a file of millions of empty ones is refused early. */
#define MAX_SECTIONS 4096

struct state_entry {
	struct state_reader r;
	bool taken;
};

void state_seal(struct state_writer *w)
{
	uint64_t hash = w->failed ? 0 : XXH3_64bits(w->buf, w->len);
	struct state_reader r;
	struct error err = { 0 };
	uint32_t num = 0;
	size_t pos = 0;

	while (!w->failed && state_next(w->buf, w->len, &pos, &r, &err) > 0)
		num++;
	state_begin(w, SEAL_NAME, 0, SEAL_VERSION);
	state_put_u32(w, num);
	state_put_u64(w, hash);
	state_end(w);
}

static struct state_entry *find(const struct state_set *set, const char *name, uint32_t instance)
{
	for (unsigned i = 0; i < set->num; i++) {
		struct state_entry *e = &set->entry[i];

		if (e->r.instance == instance && !strcmp(e->r.name, name))
			return e;
	}
	return NULL;
}

static int add(struct state_set *set, const struct state_reader *r, struct error *err)
{
	struct state_entry *grown;

	if (find(set, r->name, r->instance))
		return error_set(err, -EBADMSG,
				 "saved state: section '%s', instance %u, is there twice", r->name,
				 r->instance);
	if (set->num == MAX_SECTIONS)
		return error_set(err, -EBADMSG, "saved state: more than %d sections", MAX_SECTIONS);
	if (!(set->num & (set->num - 1))) {
		grown = realloc(set->entry, MAX(set->num * 2, 16u) * sizeof(*grown));
		if (!grown)
			return error_set(err, -ENOMEM, "saved state: %m");
		set->entry = grown;
	}
	set->entry[set->num++] = (struct state_entry){ .r = *r };
	return 0;
}

/* Does the section @r, which begins at @pos of @buf, seal what is in front of it? */
static int check_seal(struct state_set *set, struct state_reader *r, const uint8_t *buf, size_t pos,
		      struct error *err)
{
	uint32_t num = state_get_u32(r);
	uint64_t hash = state_get_u64(r);

	if (r->version == SEAL_VERSION && !r->failed &&
	    (num != set->num || hash != XXH3_64bits(buf, pos)))
		state_reader_fail(r, "sections are missing or have been changed");
	return state_reader_end(r, err);
}

int state_set_open(struct state_set *set, const uint8_t *buf, size_t len, struct error *err)
{
	struct state_reader r;
	size_t pos = 0, start;
	bool sealed = false;
	int more;

	*set = (struct state_set){ 0 };
	do {
		start = pos;
		more = state_next(buf, len, &pos, &r, err);
		if (more > 0 && sealed)
			more = error_set(err, -EBADMSG, "saved state: it goes on behind its end");
		if (more > 0 && !strcmp(r.name, SEAL_NAME)) {
			int bad = check_seal(set, &r, buf, start, err);

			sealed = true;
			if (bad)
				more = bad;
		} else if (more > 0) {
			int bad = add(set, &r, err);

			if (bad)
				more = bad;
		}
	} while (more > 0);
	if (!more && !sealed)
		more = error_set(err, -EBADMSG, "saved state: it is cut off");
	if (more < 0)
		state_set_close(set);
	return more;
}

void state_set_close(struct state_set *set)
{
	free(set->entry);
	*set = (struct state_set){ 0 };
}

bool state_set_has(const struct state_set *set, const char *name, uint32_t instance)
{
	const struct state_entry *e = find(set, name, instance);

	return e && !e->taken;
}

int state_set_take(struct state_set *set, const char *name, uint32_t instance, uint32_t max_version,
		   struct state_reader *ret_r, struct error *err)
{
	struct state_entry *e = find(set, name, instance);

	if (!e || e->taken)
		return error_set(err, -EBADMSG,
				 "saved state: section '%s', instance %u, is missing", name,
				 instance);
	if (e->r.version < 1 || e->r.version > max_version)
		return error_set(err, -EBADMSG,
				 "saved state: section '%s' is of version %u, read are 1 to %u",
				 name, e->r.version, max_version);
	e->taken = true;
	*ret_r = e->r;
	return 0;
}

void state_set_again(struct state_set *set)
{
	for (unsigned i = 0; i < set->num; i++)
		set->entry[i].taken = false;
}

int state_set_finish(const struct state_set *set, struct error *err)
{
	for (unsigned i = 0; i < set->num; i++)
		if (!set->entry[i].taken)
			return error_set(err, -EBADMSG,
					 "saved state: nothing takes section '%s', instance %u",
					 set->entry[i].r.name, set->entry[i].r.instance);
	return 0;
}
