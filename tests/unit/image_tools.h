/*
 * What tests of container images share: a small writer of archives, and a tree that
 * layers are put over. One thread, cmocka.
 */
#ifndef WISP_TESTS_IMAGE_TOOLS_H
#define WISP_TESTS_IMAGE_TOOLS_H

#include "vmm/images/image_internal.h"

/* ---- archives ---- */

struct archive {
	uint8_t *data;
	size_t len;
};

/* Bytes, and zeros up to the next block. */
void archive_append(struct archive *a, const void *data, size_t len);
/* A header of the kind @type alone; data of @size bytes is to follow. */
void archive_put_size(struct archive *a, char type, const char *name, const char *link, mode_t mode,
		      size_t size);
/* A member without data. */
void archive_put(struct archive *a, char type, const char *name, const char *link);
void archive_put_text(struct archive *a, const char *name, const char *text);
/* A record about the member that follows. */
void archive_put_pax(struct archive *a, const char *key, const char *value);
void archive_put_pax_bytes(struct archive *a, const char *key, const void *value, size_t len);
void archive_digest(const struct archive *a, char hex[IMAGE_HEX]);

/* A file without a name that holds @len bytes. */
struct image_blob blob_of(const void *data, size_t len);
/* How many bytes it came to, of @room. */
size_t pack_gzip(const void *data, size_t len, void *to, size_t room);

/* ---- trees ---- */

struct tree_fixture {
	char dir[32];
	struct image_tree tree;
	unsigned layers;
	struct error err; /* of the last layer */
	char path[PATH_MAX + 64];
};

void tree_setup(struct tree_fixture *f);
void tree_teardown(struct tree_fixture *f);
/* Put one more layer over it; @a is used up. */
int tree_add(struct tree_fixture *f, struct archive *a);
/* Where @name is, until the next call. */
const char *tree_path(struct tree_fixture *f, const char *name);
bool tree_has(struct tree_fixture *f, const char *name);
void assert_tree_text(struct tree_fixture *f, const char *name, const char *text);

#endif
