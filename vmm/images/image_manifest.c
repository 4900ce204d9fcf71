/*
 * Which layers an image has: by the index and manifest of an OCI layout, or by what
 * `docker save` writes ("manifest.json"); newer ones write both, and the first is preferred.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "vmm/images/image_internal.h"

#define MAX_TEXT  (8 * MiB)
#define MAX_DEPTH 4 /* of indexes within indexes */

#define ARCHITECTURE "amd64"

/* The part @name as JSON, an object or array; NULL with @err. */
static json_t *read_json(struct image_source *s, const char *name, struct error *err)
{
	struct image_stream *stream = NULL;
	struct image_blob blob;
	json_error_t why;
	json_t *o = NULL;
	char *text = NULL;
	ssize_t n = 0;
	int r = image_source_find(s, name, &blob);

	if (r < 0) {
		error_set(err, r, "'%.100s': %m", name);
		return NULL;
	}
	if (blob.size > MAX_TEXT)
		r = error_set(err, -E2BIG, "'%.100s': more than 8 MiB", name);
	if (!r)
		r = image_stream_open(&stream, &blob, name, err);
	if (!r && !(text = malloc(MAX_TEXT)))
		r = error_set(err, -ENOMEM, "'%.100s': %m", name);
	if (!r)
		n = image_stream_read(stream, text, MAX_TEXT, err);
	if (!r && n >= 0) {
		o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
		if (!o)
			error_set(err, -EBADMSG, "'%.100s': %s", name, why.text);
	}
	image_stream_close(stream);
	image_source_put(s, &blob);
	free(text);
	return o;
}

/* "sha256:" and its digits, which are left in @ret. */
static int parse_digest(const char *text, char ret[IMAGE_HEX])
{
	const char *hex = text ? text + 7 : NULL;

	if (!text || strncmp(text, "sha256:", 7) != 0 || strlen(hex) != IMAGE_HEX - 1 ||
	    strspn(hex, "0123456789abcdef") != IMAGE_HEX - 1)
		return -EBADMSG;
	memcpy(ret, hex, IMAGE_HEX);
	return 0;
}

static const char *get_text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

/* ---- what both kinds have ---- */

static int add_layer(struct image_manifest *m, const char *name, struct error *err)
{
	if (m->num_layers == IMAGE_MAX_LAYERS)
		return error_set(err, -E2BIG, "more than %d layers", IMAGE_MAX_LAYERS);
	m->layer[m->num_layers] = strdup(name);
	if (!m->layer[m->num_layers])
		return error_set(err, -ENOMEM, "layers: %m");
	m->num_layers++;
	return 0;
}

/* The configuration @name says what the layers are, unpacked, and for which machines. */
static int read_config(struct image_manifest *m, struct image_source *s, const char *name,
		       struct error *err)
{
	json_t *o = read_json(s, name, err), *ids, *id;
	const char *arch, *os;
	size_t i;
	int r = 0;

	if (!o)
		return -EBADMSG;
	arch = get_text(o, "architecture");
	os = get_text(o, "os");
	ids = json_object_get(json_object_get(o, "rootfs"), "diff_ids");
	if (arch && strcmp(arch, ARCHITECTURE) != 0)
		r = error_set(err, -ENOTSUP, "it is for %.20s, not for " ARCHITECTURE, arch);
	else if (os && strcmp(os, "linux") != 0)
		r = error_set(err, -ENOTSUP, "it is for %.20s, not for linux", os);
	else if (json_array_size(ids) != m->num_layers)
		r = error_set(err, -EBADMSG, "%u layers, %zu digests of what they hold",
			      m->num_layers, json_array_size(ids));
	json_array_foreach(ids, i, id)
	{
		if (!r && parse_digest(json_string_value(id), m->diff_id[i]) < 0)
			r = error_set(err, -EBADMSG, "layer %zu has no SHA-256 digest", i);
	}
	json_decref(o);
	return r;
}

/* ---- an OCI layout ---- */

static int blob_name(const json_t *descriptor, char *buf, size_t size, struct error *err)
{
	const char *text = get_text(descriptor, "digest");
	char hex[IMAGE_HEX];

	if (parse_digest(text, hex) < 0)
		return error_set(err, -EBADMSG, "'%.80s' is no SHA-256 digest", text ? text : "");
	snprintf(buf, size, "blobs/sha256/%s", hex);
	return 0;
}

static int read_oci_manifest(struct image_manifest *m, struct image_source *s, const json_t *o,
			     struct error *err)
{
	json_t *layers = json_object_get(o, "layers"), *layer;
	char name[96];
	size_t i;
	int r = 0;

	json_array_foreach(layers, i, layer)
	{
		if (!r)
			r = blob_name(layer, name, sizeof(name), err);
		if (!r)
			r = add_layer(m, name, err);
	}
	if (!r)
		r = blob_name(json_object_get(o, "config"), name, sizeof(name), err);
	return r < 0 ? r : read_config(m, s, name, err);
}

/* An image for this machine, or one of unknown kind: signatures and the like say "unknown". */
static bool fits(const json_t *descriptor)
{
	const json_t *platform = json_object_get(descriptor, "platform");
	const char *arch = get_text(platform, "architecture"), *os = get_text(platform, "os");

	return (!arch || !strcmp(arch, ARCHITECTURE)) && (!os || !strcmp(os, "linux"));
}

static int read_oci_index(struct image_manifest *m, struct image_source *s, const json_t *index,
			  unsigned depth, struct error *err)
{
	json_t *list = json_object_get(index, "manifests"), *one, *chosen = NULL, *o;
	char name[96];
	size_t i;
	int r;

	if (depth == MAX_DEPTH)
		return error_set(err, -ELOOP, "indexes within indexes");
	json_array_foreach(list, i, one)
	{
		if (!fits(one))
			continue;
		if (chosen)
			return error_set(err, -EINVAL,
					 "several images for linux/" ARCHITECTURE " are in it");
		chosen = one;
	}
	if (!chosen)
		return error_set(err, -ENOENT, "no image for linux/" ARCHITECTURE " is in it");
	r = blob_name(chosen, name, sizeof(name), err);
	o = r < 0 ? NULL : read_json(s, name, err);
	if (!o)
		return r < 0 ? r : -EBADMSG;
	r = json_object_get(o, "manifests") ? read_oci_index(m, s, o, depth + 1, err) :
					      read_oci_manifest(m, s, o, err);
	json_decref(o);
	return r;
}

/* ---- what docker saves ---- */

static int read_docker(struct image_manifest *m, struct image_source *s, const json_t *list,
		       struct error *err)
{
	const json_t *image = json_array_get(list, 0);
	const char *config = get_text(image, "Config");
	json_t *layer;
	size_t i;
	int r = 0;

	if (json_array_size(list) != 1)
		return error_set(err, -EINVAL, "%zu images are in it, and not one",
				 json_array_size(list));
	json_array_foreach(json_object_get(image, "Layers"), i, layer)
	{
		const char *name = json_string_value(layer);

		if (!r)
			r = name ? add_layer(m, name, err) :
				   error_set(err, -EBADMSG, "layer %zu has no name", i);
	}
	if (!r && !config)
		r = error_set(err, -EBADMSG, "it has no configuration");
	return r < 0 ? r : read_config(m, s, config, err);
}

/* ---- either ---- */

int image_manifest_read(struct image_manifest *m, struct image_source *s, struct error *err)
{
	struct error docker = { 0 };
	json_t *o = read_json(s, "manifest.json", &docker);
	int r;

	*m = (struct image_manifest){ 0 };
	if (o) {
		r = read_docker(m, s, o, err);
	} else {
		o = read_json(s, "index.json", err);
		r = o ? read_oci_index(m, s, o, 0, err) : -EINVAL;
		if (!o)
			error_hint(err, "an OCI layout has it, an archive of 'docker save' has "
					"manifest.json; a plain tree is given as a directory");
	}
	json_decref(o);
	if (!r && !m->num_layers)
		r = error_set(err, -EBADMSG, "it has no layers");
	if (r < 0) {
		error_prefix(err, "image '%s'", s->path);
		image_manifest_done(m);
	}
	return r;
}

void image_manifest_done(struct image_manifest *m)
{
	for (unsigned i = 0; i < m->num_layers; i++)
		free(m->layer[i]);
	*m = (struct image_manifest){ 0 };
}
