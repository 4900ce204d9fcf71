/*
 * What the files of container images share: a stream of bytes, unpacked as it is
 * read (image_stream.c), the members of a tar archive in it (image_tar.c), a layer of them
 * put over a tree (image_layer.c), where the parts of an image are (image_source.c) and which
 * they are (image_manifest.c). All of it is somebody else's input, and runs in a process of its own
 * that can reach nothing but the cache (image.c).
 */
#ifndef WISP_VMM_IMAGE_INTERNAL_H
#define WISP_VMM_IMAGE_INTERNAL_H

#include <limits.h>
#include <nettle/sha2.h>
#include <sys/types.h>

#include "vmm/core/error.h"
#include "vmm/images/image.h"

/* What an image may come to, of all layers together: more than any has, less than fills a host. */
#define IMAGE_MAX_BYTES	  (64 * GiB)
#define IMAGE_MAX_HEADERS (8u << 20)

/* ---- bytes (image_stream.c) ---- */

#define IMAGE_HEX (2 * SHA256_DIGEST_SIZE + 1)

/* A SHA-256 in lower-case hexadecimal digits, and a NUL; @s is used up: ready for another. */
void image_digest_hex(struct sha256_ctx *s, char ret[IMAGE_HEX]);

/* Part of a file that holds something. */
struct image_blob {
	int fd;
	uint64_t offset, size;
};

struct image_stream;

/*
 * The bytes of @blob, whose descriptor stays the caller's; what gzip or zstd packed comes out
 * unpacked. @name is for messages, and outlives the stream.
 */
int image_stream_open(struct image_stream **ret_s, const struct image_blob *blob, const char *name,
		      struct error *err);
void image_stream_close(struct image_stream *s);
/* Beyond @max bytes in all, reading it is -EFBIG: what is packed small can be very large. */
void image_stream_limit(struct image_stream *s, uint64_t max);
bool image_stream_packed(const struct image_stream *s);
/* Up to @len bytes; fewer only at the end. -errno with @err. */
ssize_t image_stream_read(struct image_stream *s, void *buf, size_t len, struct error *err);
/* Past @len bytes, without reading them where nothing depends on them. */
int image_stream_skip(struct image_stream *s, uint64_t len, struct error *err);
/* How many bytes came out of it until now. */
uint64_t image_stream_position(const struct image_stream *s);
/* From now on, know the SHA-256 of what comes out; and read the rest and tell it. */
void image_stream_hash(struct image_stream *s);
int image_stream_digest(struct image_stream *s, char ret_hex[IMAGE_HEX], struct error *err);

/* ---- members (image_tar.c) ---- */

/* Of one member; file systems have less room for them. */
#define TAR_MAX_XATTRS (64 * KiB)

enum tar_kind {
	TAR_FILE,
	TAR_HARD_LINK,
	TAR_SYMLINK,
	TAR_DIRECTORY,
	TAR_FIFO,
	TAR_DEVICE, /* of either kind */
};

struct tar_member {
	enum tar_kind kind;
	char name[PATH_MAX]; /* as it is there: may be anything */
	char link[PATH_MAX];
	uint64_t size; /* of its data; 0 but for files */
	mode_t mode;   /* permissions */
	uint32_t uid, gid;
	int64_t mtime;
	size_t xattrs_len; /* extended attributes, for tar_next_xattr() */
	uint8_t xattrs[TAR_MAX_XATTRS];
};

/* An extended attribute; @name ends with a zero byte, @value has whatever bytes. */
struct tar_xattr {
	const char *name;
	const void *value;
	uint32_t len;
};

struct tar {
	struct image_stream *stream;
	uint64_t left;	  /* of this member's data */
	unsigned padding; /* behind it */
	uint32_t headers_left;
};

/* Beyond @max_headers, of members and about them, there is no next one. */
void tar_init(struct tar *t, struct image_stream *stream, uint32_t max_headers);
/* 1 with the next member, 0 at the end, or -errno with @err. */
int tar_next(struct tar *t, struct tar_member *ret, struct error *err);
/* Of the member's data; 0 at its end. */
ssize_t tar_read(struct tar *t, void *buf, size_t len, struct error *err);

/* The extended attribute of @m at *@at, which begins with 0; false when there is no more. */
bool tar_next_xattr(const struct tar_member *m, size_t *at, struct tar_xattr *ret);

/*
 * @name in the shape in which it is used: no slash at either end, no empty component and no ".".
 * The root is "". -EINVAL when there is ".." in it.
 */
int tar_clean_name(char *name);

/* ---- the tree (image_tree.c) ---- */

/* Metadata of directories, which are open to us until all layers are in. */
struct image_tree {
	int fd;	     /* its root */
	bool owners; /* we may give files away */
	struct image_dir *dir;
	size_t num_dirs, room_dirs;
	size_t notes_left;	      /* of memory, for what directories are to be like */
	unsigned skipped;	      /* devices */
	unsigned xattrs, xattrs_lost; /* that were kept, that could not be */
	uint64_t bytes_left;	      /* of what layers may have in all */
	uint32_t headers_left;
};

/* For the tree whose root is open as @fd, which stays the caller's. Done frees the notes alone. */
void image_tree_init(struct image_tree *t, int fd);
void image_tree_done(struct image_tree *t);
/* A descriptor of @name, whose links lead nowhere but into the tree, or -errno; the root is "". */
int image_tree_open(const struct image_tree *t, const char *name, int flags);
/* As an O_PATH one of the directory @name, made with all above it where it is missing. */
int image_tree_make(const struct image_tree *t, const char *name);
/*
 * Where we may not give files away all are ours: then bits that lend the owner's rights would
 * lend the wrong ones, and what we cannot read (@at_least) the guest could not either.
 */
mode_t image_tree_mode(const struct image_tree *t, mode_t mode, mode_t at_least);
/* Make the file @fd what @m says of its owner, mode and time. */
int image_tree_describe(const struct image_tree *t, int fd, const struct tar_member *m);
/* The directory @name, called @base in @dir_fd, is to be what @m says when all layers are in. */
int image_tree_note(struct image_tree *t, int dir_fd, const char *base, const char *name,
		    const struct tar_member *m);
/* When all are in. */
int image_tree_finish(struct image_tree *t, struct error *err);

/* ---- their extended attributes (image_xattr.c) ---- */

/*
 * Give the file or directory @fd, which is ours to write, the extended attributes of @m, and take
 * away those of a lower layer. What the file system does not take is counted, no error.
 */
void image_tree_set_xattrs(struct image_tree *t, int fd, const struct tar_member *m);

/* ---- trees that go (image_remove.c) ---- */

/* Remove @name in the directory @dir_fd, whatever it is and with all below. 0 if it is gone. */
int image_remove_tree(int dir_fd, const char *name);
/* Everything in the directory @dir_fd. */
int image_remove_below(int dir_fd);

/* ---- a layer over a tree (image_layer.c) ---- */

/*
 * Put the layer @blob over the tree, the lowest one first. @diff_id is the SHA-256, in hex, that it
 * has unpacked, else -EBADMSG: then the tree is good for nothing.
 */
int image_tree_add(struct image_tree *t, const struct image_blob *blob, const char *name,
		   const char *diff_id, bool lowest, struct error *err);

/* ---- where parts are (image_source.c) ---- */

struct image_source {
	const char *path; /* for messages */
	int fd;
	bool is_archive;
	struct image_entry *entry; /* of the archive */
	size_t num_entries, room_entries;
};

/*
 * @fd is a layout's directory or an archive, and the source's from now on; @path is what it is
 * called; what must be unpacked as a whole goes into the directory @spool_fd, without a name.
 */
int image_source_open(struct image_source *s, const char *path, int fd, int spool_fd,
		      struct error *err);
void image_source_close(struct image_source *s);
/* The part called @name, until image_source_put(); -ENOENT if there is none. */
int image_source_find(struct image_source *s, const char *name, struct image_blob *ret);
void image_source_put(struct image_source *s, struct image_blob *blob);

/* ---- which parts (image_manifest.c) ---- */

#define IMAGE_MAX_LAYERS 256

struct image_manifest {
	unsigned num_layers;
	char *layer[IMAGE_MAX_LAYERS];		   /* names in the source */
	char diff_id[IMAGE_MAX_LAYERS][IMAGE_HEX]; /* of each, unpacked */
};

/*
 * Of the image in @s, an OCI layout or what `docker save` writes: its layers, the lowest first.
 * -errno with @err, in which @s's path is named; @m is empty then. Done also of one that is zeroed.
 */
int image_manifest_read(struct image_manifest *m, struct image_source *s, struct error *err);
void image_manifest_done(struct image_manifest *m);

#endif
