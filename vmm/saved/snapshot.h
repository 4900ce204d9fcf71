/*
 * A snapshot on disk: a directory with `state` (sections, vmm/machine/machine_state.h),
 * `memory` (a sparse file as large as RAM), `manifest.json` (what a person or a
 * program wants to know without reading the other two), and copies of disks
 * that the guest went on to write. docs/snapshot.md describes it.
 *
 * A differential one also has `pages` (snapshot_pages.h): only these are in its `memory`, the
 * others are as in the snapshot that it builds on. Those that belong together are a chain,
 * vmm/saved/snapshot_chain.h. One that is compressed has `memory-zstd` and `memory-index` in place
 * of `memory` (vmm/saved/packed_memory.h), and is complete or differential.
 *
 * A directory is made under a temporary name and renamed when all of it is
 * durable: what has the name of a snapshot is whole. Runs with the user's rights, in
 * the process of the verb; the monitor only gets descriptors.
 */
#ifndef WISP_VMM_SNAPSHOT_H
#define WISP_VMM_SNAPSHOT_H

#include <jansson.h>

#include "vmm/config/config.h"
#include "vmm/core/state.h"
#include "vmm/saved/packed_memory.h"

#define SNAPSHOT_FORMAT 1

/* A differential one cannot be read without the others, so older versions must not try. */
#define SNAPSHOT_FORMAT_DIFF 2

/* Of one that is compressed, complete or differential, for the same reason. */
#define SNAPSHOT_FORMAT_PACKED 3

#define SNAPSHOT_MANIFEST "manifest.json"
#define SNAPSHOT_STATE	  "state"
#define SNAPSHOT_MEMORY	  "memory"
#define SNAPSHOT_FRAMES	  "memory-zstd"
#define SNAPSHOT_INDEX	  "memory-index"
#define SNAPSHOT_PAGES	  "pages"
#define SNAPSHOT_PREFETCH "prefetch" /* vmm/saved/working_set.h */
#define SNAPSHOT_LOG	  "log"	     /* of the boot, of a warm guest of `wisp test` */
#define SNAPSHOT_DISK	  "disk-"    /* a copy of a disk, with its ID behind that */

/* What tells one snapshot from all others, in text. */
#define SNAPSHOT_ID_SIZE 33

/* One that is being made. */
struct snapshot_draft {
	char *path;	 /* what it will be called */
	char *temporary; /* what it is called until then */
	char id[SNAPSHOT_ID_SIZE];
	int dir_fd;
	int state_fd, memory_fd;
	int pages_fd; /* of a differential one; else -1 */
	bool packed;
};

/*
 * An empty draft of @path, which is free or an earlier snapshot. A differential one (@diff)
 * replaces none: it may be what this one builds on.
 */
int snapshot_draft_begin(struct snapshot_draft *d, const char *path, bool diff, struct error *err);

/*
 * Keep the disk that @disk_fd is open on as it is at this moment under @name in the draft: by
 * reflink where the file system can, else by copying. @ret_copied says which. @path is for
 * messages. The guest stands still meanwhile, so nothing is waited for here that the commit can
 * wait for.
 */
int snapshot_draft_disk(struct snapshot_draft *d, int disk_fd, const char *path, const char *name,
			bool *ret_copied, struct error *err);

/*
 * Compress its memory, which is complete: from now on it has that in place of the memory file.
 * @ret_bytes says how many it takes. -errno with @err.
 */
int snapshot_draft_pack(struct snapshot_draft *d, uint64_t *ret_bytes, struct error *err);

/*
 * Make all of it durable, then give it its name; an earlier snapshot of that name goes, anything
 * else stays and is an error. @manifest gets the ID and the format; without a "base" in it the
 * snapshot is a complete one.
 */
int snapshot_draft_commit(struct snapshot_draft *d, json_t *manifest, struct error *err);

/* Remove what is left of it. Harmless after a commit. */
void snapshot_draft_end(struct snapshot_draft *d);

/*
 * Remove what is at @path, a snapshot or the rest of one; guests that run from it go on. Nothing
 * happens when there is none. -errno.
 */
int snapshot_remove(const char *path);

/* One that is there. */
struct snapshot {
	char *path; /* for messages */
	int dir_fd;
	int memory_fd;		     /* -1: it is packed */
	struct packed_memory packed; /* with an @fd of -1: it is not */
	uint8_t *buf;		     /* the state file */
	size_t len;
	struct state_set state;
	json_t *manifest;
	const char *id;	  /* NULL: of a version that gave none */
	const char *base; /* the ID of the one that it builds on, or NULL: it is complete */
	uint64_t *pages;  /* those of a differential one, a bit each; else NULL */
};

/*
 * As far as its manifest: what it is, and what it builds on. The other files are not looked at, nor
 * is there anything of them.
 */
int snapshot_open_manifest(struct snapshot *s, const char *path, struct error *err);

/* Open and check all but the memory's content and what the sections hold. */
int snapshot_open(struct snapshot *s, const char *path, struct error *err);
void snapshot_close(struct snapshot *s);

/*
 * One of its files, whole, for free(); @path is for messages, @name one of the words above. -ENOENT
 * with @err when there is none.
 */
int snapshot_read_file(const struct snapshot *s, const char *path, const char *name,
		       uint8_t **ret_buf, size_t *ret_len, struct error *err);

/* Is its memory compressed? Of one that snapshot_open() has opened. */
static inline bool snapshot_is_packed(const struct snapshot *s)
{
	return s->packed.fd >= 0;
}

/* How large RAM is by the files that have it. -errno with @err. */
int snapshot_memory_bytes(const struct snapshot *s, uint64_t *ret_bytes, struct error *err);

/*
 * Of a packed one: have its memory in a plain file without a name beside it, or in /var/tmp where
 * there can be none, as if it had always been so. -errno with @err; then nothing has changed.
 */
int snapshot_unpack(struct snapshot *s, struct error *err);

/*
 * The same with what snapshot_unpack() has made of @other, the same snapshot opened before: both
 * have one file. -ESTALE with @err when it is another snapshot by now.
 */
int snapshot_unpack_as(struct snapshot *s, const struct snapshot *other, struct error *err);

/* Is the memory file as large as RAM of @bytes? */
int snapshot_check_memory(const struct snapshot *s, uint64_t bytes, struct error *err);

/*
 * Are the disks of @c those that the snapshot was taken with? Those it has
 * copies of get private copies of them as descriptors in @disk_fds (else -1). Of
 * those with a bit in @given the user said so; with @allow_changed the stamps are not compared.
 */
int snapshot_disks(const struct snapshot *s, const struct machine_config *c, bool allow_changed,
		   uint32_t given, int *disk_fds, struct error *err);

/*
 * The copy @name of a disk, a regular file in the snapshot's directory, to be read. Returns its
 * descriptor or -errno.
 */
int snapshot_open_copy(const struct snapshot *s, const char *name, struct error *err);

/* What the manifest says of a disk's file, to recognise it by: size and modification time. */
int snapshot_disk_stamp(int disk_fd, json_t **ret_stamp, struct error *err);

/*
 * A file without a name, on the file system of @path (or where there is room), with what @disk_fd
 * has. -errno.
 */
int snapshot_private_disk(int disk_fd, const char *path, bool direct, bool *ret_copied);

/* An empty one. -errno. */
int snapshot_nameless_file(const char *path);

/*
 * All of file @from into @to, which is empty: by reflink where the file system can, else by copying
 * its data. -ENOTSUP when @from is no regular file, and other -errno.
 */
int snapshot_copy_file(int from, int to, bool *ret_copied);

#endif
