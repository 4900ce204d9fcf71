/* The server: requests in, replies out. */
#include "devices/fs_internal.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Descriptors that are for neither nodes nor handles. */
#define SPARE_FDS 32

/* The oldest dialect spoken: with the reply to INIT of today's length. Linux 4.20. */
#define OLDEST_MINOR 28
#define OUR_MINOR    38
#define MAX_PAGES    256
#define MAX_WRITE    (MAX_PAGES * PAGE_SIZE)

/*
 * Two that would save a request or two for each file and directory are not among them. To do
 * without OPEN (FUSE_NO_OPEN_SUPPORT), reads would have to come here: what moves data is the
 * descriptor that goes to the monitor with the reply. To do without OPENDIR
 * (FUSE_NO_OPENDIR_SUPPORT), each READDIR would open the directory and go to where the last one
 * ended. Some of the host's file systems only count that place (tmpfs before 6.6, overlays): it is
 * found by reading all before it, so that a guest's long listing takes time with the square of its
 * length; and what is removed meanwhile shifts it, so that "rm -r" misses files. A descriptor that
 * stays open has neither.
 */
#define FEATURES                                                                                   \
	((uint64_t)FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES |                       \
	 FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |     \
	 FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS)

/* ACLs go with a umask that is ours to take off, and a word on whose set-group-ID bit stays. */
#define ACL_FEATURES ((uint64_t)FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT)

/* ---- what operations use ---- */

const void *fs_take(struct fs_call *c, size_t len)
{
	const uint8_t *p = c->in;

	if (len > c->in_left)
		return NULL;
	c->in += len;
	c->in_left -= len;
	return p;
}

int fs_take_name(struct fs_call *c, const char **ret_name)
{
	const char *name = (const char *)c->in;
	size_t len = strnlen(name, c->in_left);

	if (len == c->in_left || !len || memchr(name, '/', len) || !strcmp(name, ".") ||
	    !strcmp(name, ".."))
		return -EINVAL;
	if (len > FS_NAME_MAX)
		return -ENAMETOOLONG;
	fs_take(c, len + 1);
	*ret_name = name;
	return 0;
}

void *fs_put(struct fs_call *c, size_t len)
{
	uint8_t *p = c->out + c->out_len;

	if (len > c->out_room - c->out_len)
		return NULL;
	c->out_len += len;
	memset(p, 0, len);
	return p;
}

/* ---- whose files they are ---- */

/* Of what we are permitted. */
static void set_privilege(unsigned cap, bool on)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];

	if (syscall(SYS_capget, &head, caps) < 0)
		return;
	if (on)
		caps[0].effective |= caps[0].permitted & (1u << cap);
	else
		caps[0].effective &= ~(1u << cap);
	syscall(SYS_capset, &head, caps);
}

void fs_become_caller(struct fs_call *c, uint32_t mask)
{
	if (c->s->features & FUSE_DONT_MASK)
		c->umask = umask(mask & 0777);
	if (!c->s->privileged)
		return;
	setfsgid(c->h->gid);
	setfsuid(c->h->uid);
	/*
	 * That took away what root may do with files. The guest's kernel has checked permissions
	 * by now: what is wanted from the caller is the name in the new file's owner field.
	 */
	set_privilege(CAP_DAC_OVERRIDE, true);
}

void fs_become_server(const struct fs_call *c)
{
	if (c->s->features & FUSE_DONT_MASK)
		umask(c->umask);
	if (!c->s->privileged)
		return;
	setfsuid(geteuid());
	setfsgid(getegid());
}

void fs_change_contents(const struct fs_call *c, bool begins)
{
	if (c->s->privileged)
		set_privilege(CAP_FSETID, !begins);
}

/* ---- requests about the connection itself ---- */

static int op_init(struct fs_call *c)
{
	const struct fuse_init_in *in = fs_take(c, offsetof(struct fuse_init_in, flags2));
	struct fuse_init_out *out = fs_put(c, sizeof(*out));
	struct fs_server *s = c->s;
	uint64_t wanted = FEATURES;

	if (!in || !out)
		return -EINVAL;
	out->major = FUSE_KERNEL_VERSION;
	out->minor = OUR_MINOR;
	/* A newer major asks again for ours; an older one, or minor, nobody has. */
	if (in->major > FUSE_KERNEL_VERSION)
		return 0;
	if (in->major < FUSE_KERNEL_VERSION || in->minor < OLDEST_MINOR)
		return -EPROTO;
	if (s->config.writeback)
		wanted |= FUSE_WRITEBACK_CACHE;
	if (s->config.acl && (in->flags & ACL_FEATURES) == ACL_FEATURES)
		wanted |= ACL_FEATURES;
	/* What a driver that starts anew knew before is gone with it. */
	fs_handles_clear(s);
	fs_nodes_clear(s);
	s->minor = in->minor;
	s->features = in->flags & wanted;
	s->writeback = s->features & FUSE_WRITEBACK_CACHE;
	out->max_readahead = in->max_readahead;
	out->flags = (uint32_t)s->features;
	out->max_background = UINT16_MAX;
	out->congestion_threshold = UINT16_MAX / 4 * 3;
	out->max_write = MAX_WRITE;
	out->time_gran = 1;
	out->max_pages = MAX_PAGES;
	return 0;
}

static int op_destroy(struct fs_call *c)
{
	fs_handles_clear(c->s);
	fs_nodes_clear(c->s);
	c->s->minor = 0;
	return 0;
}

static void forget_one(struct fs_server *s, uint64_t id, uint64_t count)
{
	struct fs_node *n = fs_node_find(s, id);

	if (n && n != s->root)
		fs_node_forget(s, n, count);
}

static int op_forget(struct fs_call *c)
{
	const struct fuse_forget_in *in = fs_take(c, sizeof(*in));

	if (in)
		forget_one(c->s, c->h->nodeid, in->nlookup);
	return 0;
}

static int op_batch_forget(struct fs_call *c)
{
	const struct fuse_batch_forget_in *in = fs_take(c, sizeof(*in));
	const struct fuse_forget_one *one;

	for (uint32_t i = 0; in && i < in->count && (one = fs_take(c, sizeof(*one))); i++)
		forget_one(c->s, one->nodeid, one->nlookup);
	return 0;
}

/* Nothing here takes long enough to be called off; and this asks for no reply. */
static int op_interrupt(struct fs_call *c)
{
	return 0;
}

/* ---- dispatch ---- */

#define CHANGES	 1u /* refused for a read-only tree */
#define NO_REPLY 2u
#define ANY_TIME 4u /* also before INIT */

struct op {
	int (*fn)(struct fs_call *c);
	unsigned flags;
};

static const struct op ops[] = {
	[FUSE_INIT] = { op_init, ANY_TIME },
	[FUSE_DESTROY] = { op_destroy },
	[FUSE_FORGET] = { op_forget, NO_REPLY },
	[FUSE_BATCH_FORGET] = { op_batch_forget, NO_REPLY },
	[FUSE_INTERRUPT] = { op_interrupt, NO_REPLY | ANY_TIME },
	[FUSE_LOOKUP] = { fs_op_lookup },
	[FUSE_GETATTR] = { fs_op_getattr },
	[FUSE_SETATTR] = { fs_op_setattr, CHANGES },
	[FUSE_READLINK] = { fs_op_readlink },
	[FUSE_SYMLINK] = { fs_op_symlink, CHANGES },
	[FUSE_MKNOD] = { fs_op_mknod, CHANGES },
	[FUSE_MKDIR] = { fs_op_mkdir, CHANGES },
	[FUSE_UNLINK] = { fs_op_unlink, CHANGES },
	[FUSE_RMDIR] = { fs_op_rmdir, CHANGES },
	[FUSE_RENAME] = { fs_op_rename, CHANGES },
	[FUSE_RENAME2] = { fs_op_rename2, CHANGES },
	[FUSE_LINK] = { fs_op_link, CHANGES },
	[FUSE_OPEN] = { fs_op_open }, /* checks what for */
	[FUSE_CREATE] = { fs_op_create, CHANGES },
	[FUSE_RELEASE] = { fs_op_release },
	[FUSE_STATFS] = { fs_op_statfs },
	[FUSE_SETXATTR] = { fs_op_setxattr, CHANGES },
	[FUSE_GETXATTR] = { fs_op_getxattr },
	[FUSE_LISTXATTR] = { fs_op_listxattr },
	[FUSE_REMOVEXATTR] = { fs_op_removexattr, CHANGES },
	[FUSE_OPENDIR] = { fs_op_opendir },
	[FUSE_READDIR] = { fs_op_readdir },
	[FUSE_READDIRPLUS] = { fs_op_readdirplus },
	[FUSE_RELEASEDIR] = { fs_op_releasedir },
	[FUSE_FSYNCDIR] = { fs_op_fsyncdir },
	[FUSE_LSEEK] = { fs_op_lseek },
	[FUSE_COPY_FILE_RANGE] = { fs_op_copy_file_range, CHANGES },
	[FUSE_SYNCFS] = { fs_op_syncfs },
};

static int run(struct fs_call *c)
{
	const struct fuse_in_header *h = c->h;
	const struct op *op = h->opcode < ARRAY_SIZE(ops) ? &ops[h->opcode] : NULL;

	/* Files are locked, flushed and polled in the guest, where all their users are. */
	if (!op || !op->fn)
		return -ENOSYS;
	if (!c->s->minor && !(op->flags & ANY_TIME))
		return -EIO;
	if (c->s->config.read_only && op->flags & CHANGES)
		return -EROFS;
	return op->fn(c);
}

static bool wants_reply(uint32_t opcode)
{
	return opcode >= ARRAY_SIZE(ops) || !(ops[opcode].flags & NO_REPLY);
}

size_t fs_server_handle(struct fs_server *s, const void *in, size_t len, void *out, size_t size,
			int *ret_fd)
{
	const struct fuse_in_header *h = in;
	struct fuse_out_header *head = out;
	struct fs_call c = { .s = s, .h = h, .fd = -1 };
	int r;

	*ret_fd = -1;
	if (len < sizeof(*h) || size < sizeof(*head))
		return 0;
	c.in = (const uint8_t *)in + sizeof(*h);
	c.in_left = len - sizeof(*h);
	c.out = (uint8_t *)out + sizeof(*head);
	c.out_room = MIN(size, (size_t)FS_MAX_MESSAGE) - sizeof(*head);
	r = h->len == len ? run(&c) : -EINVAL;
	fs_nodes_trim(s);
	if (!wants_reply(h->opcode))
		return 0;
	if (r < 0)
		c.out_len = 0;
	*head = (struct fuse_out_header){
		.len = sizeof(*head) + c.out_len,
		.error = r < 0 ? r : 0,
		.unique = h->unique,
	};
	if (r >= 0)
		*ret_fd = c.fd;
	return head->len;
}

/* ---- life ---- */

/* A third of what we may have open for nodes, as much for handles, the rest for all else. */
static unsigned share_of_fds(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < 4 * SPARE_FDS)
		return SPARE_FDS;
	return (MIN(limit.rlim_cur, (rlim_t)1 << 20) - SPARE_FDS) / 3;
}

int fs_server_create(struct fs_server **ret_s, const struct fs_server_config *config,
		     struct error *err)
{
	struct fs_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "shared directory: %m");
	s->config = *config;
	s->max_open = config->max_open ? config->max_open : share_of_fds();
	s->privileged = geteuid() == 0;
	r = fs_nodes_init(s);
	if (r < 0) {
		s->config.root_fd = -1;
		fs_server_free(s);
		return error_set(err, r, "shared directory: %m");
	}
	*ret_s = s;
	return 0;
}

void fs_server_free(struct fs_server *s)
{
	if (!s)
		return;
	fs_handles_clear(s);
	fs_nodes_done(s);
	free(s->buffer);
	free(s);
}
