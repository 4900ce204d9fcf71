/*
 * Nodes: which file a number of the guest's stands for.
 *
 * A node remembers where its file was last seen and what it is. A descriptor
 * is opened when one is needed and closed when there are too many; the
 * next use then walks down again from the nearest ancestor that is open, by names,
 * and compares. Only a file whose last known name the guest has removed
 * keeps its descriptor, for it could not be found again.
 */
#include "devices/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define NO_PLACE      UINT32_MAX
#define MAX_NODES     (1u << 21)
#define MIN_PINNED    8u /* files without a name that may be held, however few may be open */
#define FIRST_NODES   64u
#define FIRST_HASH    64u
#define STATX_MASK    (STATX_BASIC_STATS | STATX_BTIME)
#define STATX_AT      (AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_AS_STAT)

#ifndef CGROUP2_SUPER_MAGIC
#define CGROUP2_SUPER_MAGIC 0x63677270
#endif
#define CONFIGFS_MAGIC	 0x62656570
#define FUSECTL_MAGIC	 0x65735543
#define MQUEUE_MAGIC	 0x19800202

int fs_open_beneath(int dir_fd, const char *name, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (unsigned)flags | O_NOFOLLOW | O_CLOEXEC,
		.mode = flags & O_CREAT ? mode & 07777 : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	int fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

const char *fs_fd_path(char *buf, int fd)
{
	snprintf(buf, FS_FD_PATH, "/proc/self/fd/%d", fd);
	return buf;
}

/* ---- identity ---- */

static struct fs_identity identity_of(const struct statx *stx)
{
	return (struct fs_identity){
		.dev = makedev(stx->stx_dev_major, stx->stx_dev_minor),
		.ino = stx->stx_ino,
		.btime_ns = stx->stx_mask & STATX_BTIME ?
				    stx->stx_btime.tv_sec * NSEC_PER_SEC + stx->stx_btime.tv_nsec :
				    0,
		.type = stx->stx_mode & S_IFMT,
	};
}

static bool same_file(const struct fs_identity *a, const struct fs_identity *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->btime_ns == b->btime_ns &&
	       a->type == b->type;
}

bool fs_node_is(const struct fs_node *n, const struct statx *stx)
{
	struct fs_identity is = identity_of(stx);

	return same_file(&n->is, &is);
}

int fs_stat_fd(int fd, struct statx *ret_stx)
{
	return statx(fd, "", AT_EMPTY_PATH | STATX_AT, STATX_MASK, ret_stx) < 0 ? -errno : 0;
}

/* ---- by number ---- */

static int grow(struct fs_server *s)
{
	uint32_t room = s->room_nodes ? s->room_nodes * 2 : FIRST_NODES;
	void *p;

	if (room > MAX_NODES)
		return -ENFILE;
	p = reallocarray(s->node, room, sizeof(s->node[0]));
	if (!p)
		return -ENOMEM;
	s->node = p;
	p = reallocarray(s->generation, room, sizeof(s->generation[0]));
	if (!p)
		return -ENOMEM;
	s->generation = p;
	p = reallocarray(s->next_free_node, room, sizeof(s->next_free_node[0]));
	if (!p)
		return -ENOMEM;
	s->next_free_node = p;
	for (uint32_t i = s->room_nodes; i < room; i++)
		s->generation[i] = 0;
	s->room_nodes = room;
	return 0;
}

static int take_place(struct fs_server *s, uint32_t *ret_place)
{
	int r;

	if (s->free_node != NO_PLACE) {
		*ret_place = s->free_node;
		s->free_node = s->next_free_node[*ret_place];
		return 0;
	}
	if (s->num_nodes == s->room_nodes) {
		r = grow(s);
		if (r < 0)
			return r;
	}
	*ret_place = s->num_nodes++;
	return 0;
}

static uint32_t place_of(uint64_t id)
{
	return (uint32_t)id - 1;
}

struct fs_node *fs_node_by_place(struct fs_server *s, uint64_t id)
{
	uint32_t place = place_of(id);

	if (place >= s->num_nodes || !s->node[place] || s->node[place]->id != id)
		return NULL;
	return s->node[place];
}

struct fs_node *fs_node_find(struct fs_server *s, uint64_t id)
{
	struct fs_node *n = fs_node_by_place(s, id);

	/* One that only its children still need is nothing that the guest knows. */
	return n && (n->lookups || n == s->root) ? n : NULL;
}

/* ---- by identity ---- */

static uint32_t hash_of(const struct fs_identity *is)
{
	return ((is->ino ^ is->dev << 40) * 0x9e3779b97f4a7c15ull) >> 32;
}

static int grow_hash(struct fs_server *s)
{
	uint32_t size = s->hash_size ? s->hash_size * 2 : FIRST_HASH;
	struct fs_node **hash = calloc(size, sizeof(hash[0]));

	if (!hash)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->hash_size; i++) {
		struct fs_node *n = s->hash[i], *next;

		for (; n; n = next) {
			struct fs_node **to = &hash[hash_of(&n->is) & (size - 1)];

			next = n->hash_next;
			n->hash_next = *to;
			*to = n;
		}
	}
	free(s->hash);
	s->hash = hash;
	s->hash_size = size;
	return 0;
}

static void hash_add(struct fs_server *s, struct fs_node *n)
{
	struct fs_node **to;

	/* Without memory for a larger one the chains get longer. */
	if (s->hash_count >= s->hash_size)
		(void)grow_hash(s);
	to = &s->hash[hash_of(&n->is) & (s->hash_size - 1)];
	n->hash_next = *to;
	*to = n;
	n->hashed = true;
	s->hash_count++;
}

static void hash_remove(struct fs_server *s, struct fs_node *n)
{
	struct fs_node **at;

	if (!n->hashed)
		return;
	for (at = &s->hash[hash_of(&n->is) & (s->hash_size - 1)]; *at != n; at = &(*at)->hash_next)
		;
	*at = n->hash_next;
	n->hashed = false;
	s->hash_count--;
}

/* The node that @stx describes, if the guest knows it. */
static struct fs_node *node_known(struct fs_server *s, const struct statx *stx)
{
	struct fs_identity is = identity_of(stx);
	struct fs_node *n;

	for (n = s->hash[hash_of(&is) & (s->hash_size - 1)]; n; n = n->hash_next) {
		if (n->is.ino != is.ino || n->is.dev != is.dev)
			continue;
		if (same_file(&n->is, &is))
			return n;
		/* The number was used again: the old file is gone, and nobody finds it here. */
		hash_remove(s, n);
		return NULL;
	}
	return NULL;
}

/* ---- descriptors ---- */

static void node_close(struct fs_server *s, struct fs_node *n)
{
	if (n->fd < 0)
		return;
	close(n->fd);
	n->fd = -1;
	list_del(&n->link);
	s->num_open--;
}

/* @fd is the node's from now on. What cannot be found again is not in the list of what to close. */
static void node_opened(struct fs_server *s, struct fs_node *n, int fd)
{
	n->fd = fd;
	s->num_open++;
	if (n->name)
		list_add_tail(&s->open, &n->link);
}

void fs_nodes_trim(struct fs_server *s)
{
	while (s->num_open > s->max_open && !list_empty(&s->open))
		node_close(s, list_entry(s->open.next, struct fs_node, link));
}

/* Down from @top, which is open, along the walk to the node @n. */
static int walk_down(struct fs_node *top, struct fs_node *n)
{
	struct fs_node *at = top;
	int fd = top->fd;

	while (at != n) {
		struct fs_node *child = at->walk;
		struct statx stx;
		int next = fs_open_beneath(fd, child->name, O_PATH, 0);
		int r = next < 0 ? next : fs_stat_fd(next, &stx);

		if (fd != top->fd)
			close(fd);
		if (!r && !fs_node_is(child, &stx))
			r = -ESTALE;
		if (r < 0) {
			if (next >= 0)
				close(next);
			return r == -ENOENT || r == -ENOTDIR ? -ESTALE : r;
		}
		fd = next;
		at = child;
	}
	return fd;
}

int fs_node_fd(struct fs_server *s, struct fs_node *n)
{
	struct fs_node *top = n;
	int fd;

	if (n->fd >= 0) {
		if (!list_empty(&n->link)) {
			list_del(&n->link);
			list_add_tail(&s->open, &n->link);
		}
		return n->fd;
	}
	while (top->fd < 0) {
		if (!top->parent)
			return -ESTALE;
		top->parent->walk = top;
		top = top->parent;
	}
	fd = walk_down(top, n);
	if (fd >= 0)
		node_opened(s, n, fd);
	return fd;
}

/* What @name in the directory @dir is; follows nothing. */
static int stat_name(struct fs_server *s, struct fs_node *dir, const char *name,
		     struct statx *ret_stx)
{
	int fd = fs_node_fd(s, dir);

	if (fd < 0)
		return fd;
	return statx(fd, name, STATX_AT, STATX_MASK, ret_stx) < 0 ? -errno : 0;
}

int fs_node_stat(struct fs_server *s, struct fs_node *n, struct statx *ret_stx)
{
	int r;

	/* A look costs less than a descriptor. */
	if (n->fd >= 0)
		return fs_stat_fd(n->fd, ret_stx);
	if (!n->parent)
		return -ESTALE;
	r = stat_name(s, n->parent, n->name, ret_stx);
	if (r == -ENOENT || r == -ENOTDIR || (!r && !fs_node_is(n, ret_stx)))
		return -ESTALE;
	return r;
}

/* ---- the file systems below the root ---- */

/* Those by which one acts on the host's kernel or sees other processes. */
static bool is_kernel_interface(int fd)
{
	static const uint32_t types[] = {
		PROC_SUPER_MAGIC, SYSFS_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC,
		CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, BPF_FS_MAGIC, PSTOREFS_MAGIC,
		EFIVARFS_MAGIC, DEVPTS_SUPER_MAGIC, SELINUX_MAGIC, SMACK_MAGIC, BINFMTFS_MAGIC,
		CONFIGFS_MAGIC, FUSECTL_MAGIC, MQUEUE_MAGIC, NSFS_MAGIC,
	};
	struct statfs st;

	if (fstatfs(fd, &st) < 0)
		return true; /* better one too many */
	for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
		if ((uint32_t)st.f_type == types[i])
			return true;
	return false;
}

/* Which of them @stx, which is @name in @dir_fd, is on. */
static int find_dev(struct fs_server *s, int dir_fd, const char *name, const struct statx *stx)
{
	uint64_t dev = makedev(stx->stx_dev_major, stx->stx_dev_minor);
	unsigned i;
	int fd;

	for (i = 0; i < s->num_devs; i++)
		if (s->dev[i].dev == dev)
			break;
	if (i < s->num_devs && s->dev[i].checked)
		return i;
	if (i == FS_MAX_DEVS)
		return -EXDEV;
	fd = fs_open_beneath(dir_fd, name, O_PATH, 0);
	if (fd < 0)
		return fd;
	s->dev[i] = (struct fs_dev){
		.dev = dev,
		.hollow = is_kernel_interface(fd),
		.checked = true,
	};
	close(fd);
	if (i == s->num_devs)
		s->num_devs++;
	return i;
}

bool fs_node_hollow(struct fs_server *s, struct fs_node *n)
{
	struct fs_dev *d = &s->dev[n->dev_index];
	int fd;

	if (d->checked)
		return d->hollow;
	/* One of a saved state, whose word is not enough. */
	fd = fs_node_fd(s, n);
	if (fd < 0)
		return true;
	d->hollow = is_kernel_interface(fd);
	d->checked = true;
	return d->hollow;
}

/* ---- life ---- */

static int node_create(struct fs_server *s, const struct statx *stx, unsigned dev_index,
		       struct fs_node **ret_n)
{
	struct fs_node *n = calloc(1, sizeof(*n));
	uint32_t place;
	int r;

	if (!n)
		return -ENOMEM;
	r = take_place(s, &place);
	if (r < 0) {
		free(n);
		return r;
	}
	n->id = (uint64_t)s->generation[place] << 32 | (place + 1);
	n->fd = -1;
	n->is = identity_of(stx);
	n->dev_index = dev_index;
	list_init(&n->link);
	s->node[place] = n;
	hash_add(s, n);
	*ret_n = n;
	return 0;
}

int fs_node_restore(struct fs_server *s, uint64_t id, const struct fs_identity *is,
		    unsigned dev_index, uint64_t lookups, struct fs_node **ret_n)
{
	uint32_t place = place_of(id);
	struct fs_node *n;
	int r;

	if (place >= MAX_NODES || (place < s->num_nodes && s->node[place]))
		return -EINVAL;
	while (place >= s->room_nodes) {
		r = grow(s);
		if (r < 0)
			return r;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	/* Places in between stay free for good: a list of them would have to be in order. */
	while (s->num_nodes <= place)
		s->node[s->num_nodes++] = NULL;
	s->generation[place] = id >> 32;
	n->id = id;
	n->fd = -1;
	n->is = *is;
	n->dev_index = dev_index;
	n->lookups = lookups;
	list_init(&n->link);
	s->node[place] = n;
	hash_add(s, n);
	*ret_n = n;
	return 0;
}

/* Free @n, and ancestors that were only there for it. */
static void node_release(struct fs_server *s, struct fs_node *n)
{
	while (n && n != s->root && !n->lookups && !n->children) {
		struct fs_node *parent = n->parent;
		uint32_t place = place_of(n->id);

		node_close(s, n);
		hash_remove(s, n);
		s->node[place] = NULL;
		s->generation[place]++;
		s->next_free_node[place] = s->free_node;
		s->free_node = place;
		free(n->name);
		free(n);
		if (parent)
			parent->children--;
		n = parent;
	}
}

void fs_node_forget(struct fs_server *s, struct fs_node *n, uint64_t count)
{
	n->lookups -= MIN(count, n->lookups);
	node_release(s, n);
}

int fs_node_place(struct fs_server *s, struct fs_node *n, struct fs_node *dir, const char *name)
{
	struct fs_node *old = n->parent;
	char *copy = NULL;

	if (n == s->root || (dir && dir == old && !strcmp(n->name, name)))
		return 0;
	/* A host that moves directories about must not make a circle of what we remember. */
	for (struct fs_node *up = dir; up; up = up->parent)
		if (up == n)
			return -ELOOP;
	if (dir) {
		copy = strdup(name);
		if (!copy)
			return -ENOMEM;
		dir->children++;
	}
	free(n->name);
	n->name = copy;
	n->parent = dir;
	if (n->fd >= 0) {
		list_del(&n->link);
		if (copy)
			list_add_tail(&s->open, &n->link);
	}
	if (old) {
		old->children--;
		node_release(s, old);
	}
	return 0;
}

int fs_node_lookup(struct fs_server *s, struct fs_node *dir, const char *name,
		   struct fs_node **ret_n, struct statx *ret_stx)
{
	struct statx own, *stx = &own;
	struct fs_node *n;
	int r, dev;

	if (ret_stx)
		stx = ret_stx;
	if (fs_node_hollow(s, dir))
		return -ENOENT;
	r = stat_name(s, dir, name, stx);
	if (r < 0)
		return r;
	n = node_known(s, stx);
	if (!n) {
		dev = find_dev(s, dir->fd, name, stx);
		if (dev < 0)
			return dev;
		/* Of the kernel's interfaces there is the directory, and nothing else. */
		if (s->dev[dev].hollow && !S_ISDIR(stx->stx_mode))
			return -ENOENT;
		r = node_create(s, stx, dev, &n);
		if (r < 0)
			return r;
	}
	n->lookups++;
	r = fs_node_place(s, n, dir, name);
	if (r < 0) {
		fs_node_forget(s, n, 1);
		return r;
	}
	*ret_n = n;
	return 0;
}

struct fs_node *fs_node_before_removal(struct fs_server *s, struct fs_node *dir, const char *name)
{
	struct statx stx;
	struct fs_node *n;

	if (stat_name(s, dir, name, &stx) < 0)
		return NULL;
	n = node_known(s, &stx);
	/* Without room for more the file is stale afterwards, for a guest that went too far. */
	if (n && n->lookups && s->num_open < 2 * s->max_open + MIN_PINNED)
		(void)fs_node_fd(s, n);
	return n;
}

void fs_node_removed(struct fs_server *s, struct fs_node *n, const struct fs_node *dir,
		     const char *name)
{
	if (n && n->parent == dir && !strcmp(n->name, name))
		(void)fs_node_place(s, n, NULL, NULL);
}

void fs_nodes_clear(struct fs_server *s)
{
	/* Every node holds its parent, so one round from each leaf up takes all. */
	for (uint32_t i = 0; i < s->num_nodes; i++) {
		struct fs_node *n = s->node[i];

		if (!n || n == s->root)
			continue;
		n->lookups = 0;
		node_release(s, n);
	}
	/* All places behind the root's; their generations go on. */
	s->num_nodes = MIN(s->num_nodes, 1u);
	s->free_node = NO_PLACE;
}

int fs_nodes_init(struct fs_server *s)
{
	struct fs_node *n = NULL;
	struct statx stx;
	int r;

	list_init(&s->open);
	s->free_node = NO_PLACE;
	r = grow_hash(s);
	if (!r)
		r = fs_stat_fd(s->config.root_fd, &stx);
	if (!r && !S_ISDIR(stx.stx_mode))
		r = -ENOTDIR;
	if (!r)
		r = node_create(s, &stx, 0, &n);
	if (r < 0 || !n)
		return r;
	s->dev[0] = (struct fs_dev){
		.dev = n->is.dev,
		.hollow = is_kernel_interface(s->config.root_fd),
		.checked = true,
	};
	s->num_devs = 1;
	s->root = n;
	node_opened(s, n, s->config.root_fd);
	return 0;
}

void fs_nodes_done(struct fs_server *s)
{
	if (s->root) {
		fs_nodes_clear(s);
		node_close(s, s->root);
		free(s->root);
	}
	free(s->node);
	free(s->generation);
	free(s->next_free_node);
	free(s->hash);
}
