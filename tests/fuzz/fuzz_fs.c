/*
 * Fuzz target (libFuzzer): the server of a shared directory, and requests that a hostile guest
 * puts together. Numbers of nodes and handles are filled in from what the server answered, or
 * nothing would get past them. What must hold: nothing that a sanitizer looks for; answers have the
 * length they claim; and what lies beside the directory is neither changed nor read.
 */
#include "tests/fuzz/fuzz_fs.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "devices/fs_internal.h"

#define MAX_KNOWN 32u
#define SECRET	  "what lies beside the directory"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct guest {
	struct fs_server *s;
	uint64_t node[MAX_KNOWN], handle[MAX_KNOWN];
	unsigned num_nodes, num_handles;
	uint64_t in[8192 / 8], out[16384 / 8];
};

/* A directory of our own, with the shared one and a secret in it. */
static char base[64];

static const char *path(char *buf, const char *name)
{
	snprintf(buf, 128, "%s/%s", base, name);
	return buf;
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
	(void)remove(name);
	return 0;
}

static void clean_up(void)
{
	nftw(base, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}

static void put_secret(void)
{
	char name[128];
	int fd = open(path(name, "secret"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, SECRET, strlen(SECRET)) != (ssize_t)strlen(SECRET))
		abort();
	close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const struct rlimit small = { 1 * MiB, 1 * MiB };

	/* In memory, where there is such a place. */
	snprintf(base, sizeof(base), "%s/wisp-fuzz-fs.XXXXXX",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(base))
		abort();
	atexit(clean_up);
	put_secret();
	/* A file may not fill the memory of the host. */
	setrlimit(RLIMIT_FSIZE, &small);
	return 0;
}

static uint64_t some_node(const struct guest *g, unsigned n)
{
	return n < g->num_nodes ? g->node[n] : n;
}

/* What the guest learns from an answer. */
static void learn(struct guest *g, uint32_t opcode)
{
	const struct fuse_out_header *head = (const struct fuse_out_header *)g->out;
	const void *body = head + 1;
	size_t len = head->len - sizeof(*head), entry = sizeof(struct fuse_entry_out);
	bool named = opcode == FUSE_LOOKUP || opcode == FUSE_CREATE || opcode == FUSE_MKDIR ||
		     opcode == FUSE_SYMLINK || opcode == FUSE_MKNOD || opcode == FUSE_LINK;

	if (head->error)
		return;
	if (named && len >= entry && g->num_nodes < MAX_KNOWN)
		g->node[g->num_nodes++] = ((const struct fuse_entry_out *)body)->nodeid;
	if (opcode == FUSE_CREATE && len >= entry)
		body = (const uint8_t *)body + entry;
	else if (opcode != FUSE_OPEN && opcode != FUSE_OPENDIR)
		return;
	if (len >= sizeof(struct fuse_open_out) && g->num_handles < MAX_KNOWN)
		g->handle[g->num_handles++] = ((const struct fuse_open_out *)body)->fh;
}

static void ask(struct guest *g, const struct fuzz_request *q, const uint8_t *body)
{
	struct fuse_in_header *head = (struct fuse_in_header *)g->in;
	const struct fuse_out_header *answer = (const struct fuse_out_header *)g->out;
	uint64_t first = q->first < FUZZ_FIRST_HANDLE
				 ? some_node(g, q->first - FUZZ_FIRST_NODE)
				 : g->handle[(q->first - FUZZ_FIRST_HANDLE) % MAX_KNOWN];
	int fd;
	size_t n;

	*head = (struct fuse_in_header){
		.len = sizeof(*head) + q->len,
		.opcode = q->opcode,
		.unique = 7,
		.nodeid = some_node(g, q->node),
		.uid = getuid(),
		.gid = getgid(),
	};
	memcpy(head + 1, body, q->len);
	if (q->first != FUZZ_FIRST_AS_IT_IS && q->len >= sizeof(first))
		memcpy(head + 1, &first, sizeof(first));
	n = fs_server_handle(g->s, g->in, head->len, g->out, sizeof(g->out), &fd);
	if (!n)
		return;
	if (n != answer->len || n < sizeof(*answer) || n > sizeof(g->out) || answer->unique != 7 ||
	    answer->error > 0 || (fd >= 0 && answer->error))
		abort();
	if (memmem(g->out, n, SECRET, strlen(SECRET)))
		abort(); /* out of the directory */
	learn(g, q->opcode);
}

/*
 * The server is saved and loaded, as it is or, when there is a @body, with that in place of what
 * it knows. What cannot be found again ends it with a reason, and it is empty then.
 */
static void reload(struct guest *g, const uint8_t *body, size_t len)
{
	struct error err = { 0 };
	struct state_writer w;

	state_writer_init(&w);
	if (len) {
		state_begin(&w, "fs", 0, 1);
		state_put_bytes(&w, body, len);
		state_end(&w);
	} else {
		fs_server_save(g->s, &w);
	}
	if (w.failed || (fs_server_load(g->s, w.buf, w.len, &err) < 0 && !err.msg[0]))
		abort();
	state_writer_done(&w);
}

static void check_secret(void)
{
	char name[128], now[64] = "";
	int fd = open(path(name, "secret"), O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, now, sizeof(now)) != (ssize_t)strlen(SECRET) ||
	    memcmp(now, SECRET, strlen(SECRET)) != 0)
		abort();
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fs_server_config config = { .max_open = 16, .acl = true };
	struct guest g = { .node = { FUSE_ROOT_ID }, .num_nodes = 1 };
	struct fuse_init_in init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.flags = ~0u,
	};
	struct fuzz_request q = { .opcode = FUSE_INIT, .len = sizeof(init) };
	char dir[128];

	/* Not before libFuzzer has set it its way. */
	signal(SIGXFSZ, SIG_IGN);
	path(dir, "shared");
	if (mkdir(dir, 0700) < 0)
		return 0;
	config.root_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (config.root_fd < 0 || fs_server_create(&g.s, &config, NULL) < 0)
		abort();
	ask(&g, &q, (const uint8_t *)&init);
	while (size > sizeof(q)) {
		memcpy(&q, data, sizeof(q));
		data += sizeof(q);
		size -= sizeof(q);
		q.len = MIN((size_t)q.len, size);
		if (q.opcode == FUZZ_RELOAD)
			reload(&g, data, q.len);
		else
			ask(&g, &q, data);
		data += q.len;
		size -= q.len;
	}
	check_secret();
	fs_server_free(g.s);
	nftw(dir, remove_one, 32, FTW_DEPTH | FTW_PHYS);
	return 0;
}
