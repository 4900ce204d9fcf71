#include "vmm/disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/qcow2_image.h"

/* Exit statuses of `wisp disk check`. */
#define STATUS_ERRORS 1
#define STATUS_LEAKS  3

#define MEMBER(m) offsetof(struct disk_options, m)

const struct config_item disk_options[] = {
	{ "--format", "auto|raw|qcow2",
	  "Format of what is made (raw when its name ends in .raw, else qcow2), or of the image "
	  "given (found by looking)",
	  CONFIG_CHOICE, MEMBER(format) },
	{ "--source-format", "auto|raw|qcow2", "convert: format of what is read (found by looking)",
	  CONFIG_CHOICE, MEMBER(source_format) },
	{ "--backing", "PATH",
	  "create: what lies beneath, as the image will name it, relative to its own folder; "
	  "convert, resize: what may be opened beneath the source, or the image",
	  CONFIG_STRING, MEMBER(backing) },
	{ "--backing-format", "auto|raw|qcow2", "create: format of that (found by looking)",
	  CONFIG_CHOICE, MEMBER(backing_format) },
	{ "--follow-backing", "on|off", "convert, resize: open whatever files images name (off)",
	  CONFIG_FLAG, MEMBER(follow_backing) },
	{ "--cluster-size", "SIZE", "create, convert: of a qcow2 image, 512 to 2M (64K)",
	  CONFIG_STRING, MEMBER(cluster_size) },
	{ "--force", NULL, "create, convert: replace a file that exists", CONFIG_FLAG,
	  MEMBER(force) },
	{ "--repair", NULL, "check: make the refcounts true, which frees what has leaked",
	  CONFIG_FLAG, MEMBER(repair) },
	{ "--shrink", NULL, "resize: allow a smaller size, which cuts off the disk's end",
	  CONFIG_FLAG, MEMBER(shrink) },
	{ "--json", NULL, "info, check: print one JSON object", CONFIG_FLAG, MEMBER(json) },
	{ 0 },
};

/* ---- what they have in common ---- */

/* An image that was given, open and locked. */
struct image {
	int fd;
	bool qcow2;
	struct stat st;
	struct qcow2_header h;
	uint64_t size_bytes;
};

static int image_open(struct image *im, const char *path, int format, bool writable,
		      struct error *err)
{
	uint8_t head[4] = { 0 };
	struct block_file file = { .path = path };
	uint64_t bytes;
	int r;

	im->fd = file.fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	if (im->fd < 0)
		return error_usage(err, -errno, "'%s': cannot open: %m", path);
	if (fstat(im->fd, &im->st) < 0 || pread(im->fd, head, sizeof(head), 0) < 0)
		return error_usage(err, -errno, "'%s': cannot read: %m", path);
	r = block_file_lock(&file, !writable, err);
	if (r < 0)
		return r;
	im->size_bytes = lseek(im->fd, 0, SEEK_END);
	im->qcow2 = format == BLOCK_FORMAT_QCOW2 ||
		    (format == BLOCK_FORMAT_AUTO && get_be32(head) == QCOW2_MAGIC);
	if (!im->qcow2)
		return 0;
	r = qcow2_image_header(im->fd, &im->h, &bytes, err);
	if (r < 0)
		error_prefix(err, "'%s'", path);
	else
		im->size_bytes = im->h.size_bytes;
	return r;
}

static void image_close(struct image *im)
{
	if (im->fd >= 0)
		close(im->fd);
}

static int parse_size(const char *text, uint64_t *ret, struct error *err)
{
	int r = config_parse_size(text, 1, ret);

	if (!r && !*ret)
		return error_usage(err, -EINVAL, "size '%s': a disk has at least one sector", text);
	if (!r && *ret % BLOCK_SECTOR)
		return error_usage(err, -EINVAL, "size '%s' is not whole sectors of 512 bytes",
				   text);
	return r ? error_usage(err, r, "'%s' is not a size", text) : 0;
}

static int print_json(json_t *object)
{
	int r = object && json_dumpf(object, stdout, JSON_COMPACT) == 0 ? 0 : -ENOMEM;

	putchar('\n');
	json_decref(object);
	return r;
}

bool disk_new_is_raw(const struct disk_options *o, const char *path)
{
	const char *dot = strrchr(path, '.');

	if (o->format != BLOCK_FORMAT_AUTO)
		return o->format == BLOCK_FORMAT_RAW;
	return dot && !strcmp(dot, ".raw");
}

static const char *format_name(bool qcow2)
{
	return qcow2 ? "qcow2" : "raw";
}

/* ---- create ---- */

/* The path of what the image at @path names as @backing: relative to its own folder. */
static char *path_beneath(const char *path, const char *backing)
{
	const char *slash = strrchr(path, '/');
	char *whole;
	int r;

	if (*backing == '/' || !slash)
		r = asprintf(&whole, "%s", backing);
	else
		r = asprintf(&whole, "%.*s/%s", (int)(slash - path), path, backing);
	return r < 0 ? NULL : whole;
}

/* Is the image at @path the file @st, or does it lie on it? What cannot be opened is the end. */
static bool lies_on(const char *path, const struct stat *st)
{
	struct image im = { .fd = -1 };
	char *at = strdup(path), *next;
	bool found = false;

	for (unsigned depth = 0; at && depth <= BLOCK_MAX_CHAIN && !found; depth++) {
		next = NULL;
		if (!image_open(&im, at, BLOCK_FORMAT_AUTO, false, NULL)) {
			found = im.st.st_dev == st->st_dev && im.st.st_ino == st->st_ino;
			if (im.qcow2 && *im.h.backing)
				next = path_beneath(at, im.h.backing);
		}
		image_close(&im);
		free(at);
		at = next;
	}
	free(at);
	return found;
}

/* What is beneath a new image at @path: its format and size. */
static int look_beneath(const struct disk_options *o, const char *path, struct image *im,
			struct error *err)
{
	char *beneath = path_beneath(path, o->backing);
	struct stat st;
	int r;

	if (!beneath)
		return error_set(err, -ENOMEM, "%m");
	r = image_open(im, beneath, o->backing_format, false, err);
	image_close(im);
	/* With --force: the new image is empty, and all that it lies on would be gone. */
	if (!r && !lstat(path, &st) && lies_on(beneath, &st))
		r = error_usage(err, -EINVAL,
				"'%s': is what --backing '%s' lies on, and cannot be replaced "
				"by it",
				path, o->backing);
	free(beneath);
	return r;
}

static int create(const struct disk_options *o, const char **args, struct error *err)
{
	struct qcow2_create_params params = { .backing = o->backing };
	struct image beneath = { .fd = -1 };
	struct disk_new n = { .fd = -1 };
	bool raw = disk_new_is_raw(o, args[0]);
	int r = 0;

	if (!args[1] && !o->backing)
		return error_usage(err, -EINVAL, "disk create: needs PATH and SIZE");
	if (o->backing && raw)
		return error_usage(err, -EINVAL, "disk create: raw images have no --backing");
	if (o->cluster_size && raw)
		return error_usage(err, -EINVAL, "disk create: raw images have no --cluster-size");
	if (o->backing)
		r = look_beneath(o, args[0], &beneath, err);
	params.backing_format = format_name(beneath.qcow2);
	params.size_bytes = align_up(beneath.size_bytes, BLOCK_SECTOR);
	if (!r && args[1])
		r = parse_size(args[1], &params.size_bytes, err);
	params.cluster_size = o->cluster_bytes;
	if (!r)
		r = disk_new_open(&n, args[0], o->force, err);
	if (r < 0)
		return r;
	if (raw)
		r = ftruncate(n.fd, params.size_bytes) < 0 ? error_usage(err, -errno, "%m") : 0;
	else
		r = qcow2_image_create(n.fd, &params, err);
	if (r < 0)
		error_prefix(err, "'%s'", args[0]);
	else
		r = disk_new_commit(&n, err);
	disk_new_done(&n);
	return r;
}

/* ---- info ---- */

static bool has_marks(const struct qcow2_header *h)
{
	return h->incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT) ||
	       h->compatible & QCOW2_COMPAT_LAZY || qcow2_extended(h);
}

/* Exact, and as people say it. */
static void print_size(const char *what, uint64_t bytes)
{
	static const char units[] = "BKMGTPE";
	double size = (double)bytes;
	unsigned unit = 0;

	for (; size >= 1024; unit++)
		size /= 1024;
	printf("%-15s%llu", what, (unsigned long long)bytes);
	if (unit)
		printf(" (%.*f%c)", size < 10 && (uint64_t)size != size ? 1 : 0, size, units[unit]);
	putchar('\n');
}

static void info_text(const char *path, const struct image *im)
{
	printf("image:         %s\nformat:        %s\n", path, format_name(im->qcow2));
	print_size("disk size:", im->size_bytes);
	print_size("file size:", im->st.st_size);
	print_size("space used:", (uint64_t)im->st.st_blocks * 512);
	if (!im->qcow2)
		return;
	printf("version:       %u\ncluster size:  %llu\ncompression:   %s\nrefcount bits: %u\n",
	       im->h.version, (unsigned long long)qcow2_cluster_size(&im->h),
	       im->h.compression == QCOW2_ZSTD ? "zstd" : "zlib", 1u << im->h.refcount_order);
	printf("snapshots:     %u\nmarks:         %s%s%s%s%s\n", im->h.num_snapshots,
	       has_marks(&im->h) ? "" : "none",
	       im->h.incompatible & QCOW2_INCOMPAT_DIRTY ? "dirty " : "",
	       im->h.incompatible & QCOW2_INCOMPAT_CORRUPT ? "corrupt " : "",
	       qcow2_extended(&im->h) ? "extended-l2 " : "",
	       im->h.compatible & QCOW2_COMPAT_LAZY ? "lazy-refcounts" : "");
	if (*im->h.backing)
		printf("backing file:  %s (%s)\n", im->h.backing,
		       *im->h.backing_format ? im->h.backing_format : "format not said");
}

static int info_json(const char *path, const struct image *im)
{
	json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I}", "image", path, "format",
			      format_name(im->qcow2), "size", (json_int_t)im->size_bytes,
			      "file_size", (json_int_t)im->st.st_size, "space_used",
			      (json_int_t)im->st.st_blocks * 512);

	if (o && im->qcow2) {
		json_t *more = json_pack(
			"{s:i, s:I, s:s, s:i, s:i, s:b, s:b, s:b, s:b}", "version",
			(int)im->h.version, "cluster_size",
			(json_int_t)qcow2_cluster_size(&im->h), "compression",
			im->h.compression == QCOW2_ZSTD ? "zstd" : "zlib", "refcount_bits",
			1 << im->h.refcount_order, "snapshots", (int)im->h.num_snapshots, "dirty",
			!!(im->h.incompatible & QCOW2_INCOMPAT_DIRTY), "corrupt",
			!!(im->h.incompatible & QCOW2_INCOMPAT_CORRUPT), "extended_l2",
			qcow2_extended(&im->h), "lazy_refcounts",
			!!(im->h.compatible & QCOW2_COMPAT_LAZY));

		json_object_update(o, more);
		json_decref(more);
		if (*im->h.backing)
			json_object_set_new(o, "backing", json_string(im->h.backing));
		if (*im->h.backing_format)
			json_object_set_new(o, "backing_format",
					    json_string(im->h.backing_format));
	}
	return print_json(o);
}

static int info(const struct disk_options *o, const char **args, struct error *err)
{
	struct image im = { .fd = -1 };
	int r = image_open(&im, args[0], o->format, false, err);

	if (!r && o->json)
		r = info_json(args[0], &im);
	else if (!r)
		info_text(args[0], &im);
	image_close(&im);
	return r;
}

/* ---- check ---- */

static int check_report(const struct disk_options *o, const char *path, const struct qcow2_check *c)
{
	if (o->json)
		return print_json(json_pack(
			"{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "image", path, "clusters",
			(json_int_t)c->clusters, "allocated", (json_int_t)c->allocated,
			"compressed", (json_int_t)c->compressed, "leaks", (json_int_t)c->leaks,
			"errors", (json_int_t)c->errors, "mended", (json_int_t)c->mended,
			"end", (json_int_t)c->end_bytes, "first_error", c->first_error));
	printf("%s: %llu clusters, %llu of them data (%llu compressed)\n", path,
	       (unsigned long long)c->clusters, (unsigned long long)c->allocated,
	       (unsigned long long)c->compressed);
	if (c->errors)
		printf("%llu errors, the first: %s\n", (unsigned long long)c->errors,
		       c->first_error);
	if (c->leaks)
		printf("%llu clusters leaked: space is lost, and nothing else\n",
		       (unsigned long long)c->leaks);
	if (c->mended)
		printf("%llu mended\n", (unsigned long long)c->mended);
	if (!c->errors && !c->leaks)
		printf("sound\n");
	return 0;
}

/* The exit status, or -errno. */
static int check(const struct disk_options *o, const char **args, struct error *err)
{
	struct qcow2_check c = { 0 }, again;
	struct image im = { .fd = -1 };
	int r = image_open(&im, args[0], o->format, o->repair, err);

	if (!r && !im.qcow2)
		r = error_usage(err, -EINVAL, "'%s': a raw image has nothing to check", args[0]);
	if (!r) {
		r = qcow2_image_check(im.fd, o->repair, &c, err);
		/* What is left once it was mended is what counts. */
		if (!r && o->repair && c.mended && !qcow2_image_check(im.fd, false, &again, err)) {
			again.mended = c.mended;
			c = again;
		}
		if (r < 0)
			error_prefix(err, "'%s'", args[0]);
	}
	image_close(&im);
	if (r < 0 || check_report(o, args[0], &c) < 0)
		return r;
	return c.errors ? STATUS_ERRORS : c.leaks ? STATUS_LEAKS : 0;
}

/* ---- resize ---- */

static int resize(const struct disk_options *o, const char **args, struct error *err)
{
	struct image im = { .fd = -1 };
	uint64_t bytes;
	int r = parse_size(args[1], &bytes, err);

	if (!r)
		r = image_open(&im, args[0], o->format, true, err);
	if (!r && bytes < im.size_bytes && !o->shrink) {
		r = error_usage(err, -EINVAL, "'%s': has %llu bytes already", args[0],
				(unsigned long long)im.size_bytes);
		error_hint(err, "--shrink cuts off its end");
	}
	if (!r && !im.qcow2 && (ftruncate(im.fd, bytes) < 0 || fsync(im.fd) < 0))
		r = error_usage(err, -errno, "'%s': cannot be resized: %m", args[0]);
	if (!r && im.qcow2 && bytes < im.size_bytes)
		r = disk_zero_end(im.fd, args[0], o, bytes, err);
	if (!r && im.qcow2) {
		r = qcow2_image_resize(im.fd, bytes, err);
		if (r < 0)
			error_prefix(err, "'%s'", args[0]);
	}
	if (!r && im.qcow2 && *im.h.backing && bytes > im.size_bytes) {
		r = disk_hide_beneath(im.fd, args[0], o, im.size_bytes, err);
		/* As it was: nobody sees what is beneath, for want of a few zeroes. */
		if (r < 0)
			qcow2_image_resize(im.fd, im.size_bytes, NULL);
	}
	image_close(&im);
	return r;
}

/* ---- the verb ---- */

static int convert(const struct disk_options *o, const char **args, struct error *err)
{
	if (o->cluster_size && disk_new_is_raw(o, args[1]))
		return error_usage(err, -EINVAL, "disk convert: raw images have no --cluster-size");
	return disk_convert(o, args[0], args[1], err);
}

static const struct action {
	const char *name;
	const char *arguments;
	const char *options; /* those that mean something to it, each with a space behind it */
	int least, most; /* how many of them; those that are left out are NULL */
	int (*run)(const struct disk_options *o, const char **args, struct error *err);
} actions[] = {
	{ "create", "PATH and SIZE", "--format --backing --backing-format --cluster-size --force ",
	  1, 2, create },
	{ "info", "PATH", "--format --json ", 1, 1, info },
	{ "check", "PATH", "--format --repair --json ", 1, 1, check },
	{ "convert", "SOURCE and DEST",
	  "--format --source-format --backing --follow-backing --cluster-size --force ", 2, 2,
	  convert },
	{ "resize", "PATH and SIZE", "--format --backing --follow-backing --shrink ", 2, 2,
	  resize },
};

/* Was the option @item given? One that says what is so anyway does not count. */
static bool is_given(const struct config_item *item, const struct disk_options *o)
{
	const char *member = (const char *)o + item->offset;

	switch (item->kind) {
	case CONFIG_STRING:
		return *(char *const *)member;
	case CONFIG_CHOICE:
		return *(const int *)member != 0;
	default:
		return *(const bool *)member;
	}
}

static int check_options(const struct action *a, const struct disk_options *o, struct error *err)
{
	char name[32];

	for (const struct config_item *item = disk_options; item->name; item++) {
		snprintf(name, sizeof(name), "%s ", item->name);
		if (is_given(item, o) && !strstr(a->options, name))
			return error_usage(err, -EINVAL, "disk %s: %s is for other actions",
					   a->name, item->name);
	}
	return 0;
}

static int act(const struct action *a, struct disk_options *o, const char **args, int num,
	       struct error *err)
{
	int r = check_options(a, o, err);

	if (r < 0)
		return r;
	if (num < a->least)
		return error_usage(err, -EINVAL, "disk %s: needs %s", a->name, a->arguments);
	if (num > a->most)
		return error_usage(err, -EINVAL, "disk %s: '%s' is one too many", a->name,
				   args[a->most]);
	if (o->cluster_size)
		r = parse_size(o->cluster_size, &o->cluster_bytes, err);
	return r ? r : a->run(o, args, err);
}

static int run(struct disk_options *o, const char **words, int num, struct error *err)
{
	for (unsigned i = 0; num > 0 && i < ARRAY_SIZE(actions); i++) {
		if (!strcmp(words[0], actions[i].name))
			return act(&actions[i], o, words + 1, num - 1, err);
	}
	return error_usage(err, -EINVAL,
			   "disk: %s%s%s (known: create, info, check, convert, resize)",
			   num > 0 ? "unknown action '" : "needs an action",
			   num > 0 ? words[0] : "", num > 0 ? "'" : "");
}

int disk_main(int argc, char **argv)
{
	struct disk_options o = { 0 };
	struct error err = { 0 };
	const char *words[4] = { NULL };
	int r = config_parse_verb("disk", disk_options, &o, argc, argv, words, ARRAY_SIZE(words),
				  &err);

	if (r >= 0)
		r = run(&o, words, r, &err);
	free(o.backing);
	free(o.cluster_size);
	if (r < 0) {
		error_print(&err);
		return error_status(&err);
	}
	return fflush(stdout) ? 1 : r;
}
