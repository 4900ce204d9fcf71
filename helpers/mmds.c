/* The process with the metadata: frames of guests on one side, new contents on the other. */
#include "helpers/mmds.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "devices/net.h"
#include "vmm/sandbox/sandbox.h"

#define FRAMES_A_TURN 64
#define MAX_CONTENTS  (64u << 20)

struct link {
	int fd;
	struct mmds_tcp *tcp;
};

struct server {
	struct mmds_store store;
	struct link link[MMDS_MAX_LINKS];
	unsigned num_links;
	int contents_fd;
	uint8_t frame[NET_VNET_HDR + NET_MAX_FRAME];
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- in the process ---- */

static void send_frame(void *arg, const void *frame, size_t len)
{
	static const uint8_t plain[NET_VNET_HDR];
	const struct link *l = arg;
	struct iovec iov[] = { { (void *)plain, sizeof(plain) }, { (void *)frame, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	/* One that does not go is sent again later, as on any link. */
	if (sendmsg(l->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

/* False: the microVM has gone. */
static bool take_frames(struct server *s, struct link *l)
{
	for (unsigned i = 0; i < FRAMES_A_TURN; i++) {
		ssize_t n = recv(l->fd, s->frame, sizeof(s->frame), MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (n == 0)
			return false;
		if ((size_t)n > NET_VNET_HDR)
			mmds_tcp_input(l->tcp, s->frame + NET_VNET_HDR, n - NET_VNET_HDR, now_ms());
	}
	return true;
}

static bool read_all(int fd, void *to, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, to, len, MSG_WAITALL);

		if (n <= 0)
			return false;
		to = (uint8_t *)to + n;
		len -= n;
	}
	return true;
}

/* Its length, then the text. False: nobody will send any more. */
static bool take_contents(struct server *s)
{
	json_t *contents;
	uint32_t len;
	char *text;

	if (!read_all(s->contents_fd, &len, sizeof(len)) || len > MAX_CONTENTS)
		return false;
	text = malloc(len + 1);
	if (!text || !read_all(s->contents_fd, text, len)) {
		free(text);
		return false;
	}
	contents = json_loadb(text, len, JSON_DECODE_ANY, NULL);
	free(text);
	if (contents) {
		json_decref(s->store.contents);
		s->store.contents = contents;
	}
	return true;
}

static int timeout_of(struct server *s)
{
	uint64_t next = UINT64_MAX, now = now_ms();

	for (unsigned i = 0; i < s->num_links; i++)
		next = MIN(next, mmds_tcp_tick(s->link[i].tcp, now));
	return next == UINT64_MAX ? -1 : next <= now ? 0 : (int)MIN(next - now, 60000ull);
}

static void serve(struct server *s)
{
	struct pollfd p[1 + MMDS_MAX_LINKS];

	for (;;) {
		p[0] = (struct pollfd){ .fd = s->contents_fd, .events = POLLIN };
		for (unsigned i = 0; i < s->num_links; i++)
			p[1 + i] = (struct pollfd){ .fd = s->link[i].fd, .events = POLLIN };
		if (poll(p, 1 + s->num_links, timeout_of(s)) < 0)
			continue;
		/* New contents first: who has put them may read them at once. */
		if (p[0].revents && !take_contents(s))
			return;
		for (unsigned i = 0; i < s->num_links; i++) {
			if (p[1 + i].revents && !take_frames(s, &s->link[i])) {
				close(s->link[i].fd);
				s->link[i].fd = -1;
			}
		}
	}
}

static int run(const struct mmds_config *config, struct mmds_counters *counters, const int *links,
	       int contents_fd)
{
	struct server *s = calloc(1, sizeof(*s));

	if (!s || !mmds_store_init(&s->store, counters))
		return 1;
	s->store.needs_token = config->needs_token;
	s->store.always_text = config->always_text;
	s->contents_fd = contents_fd;
	for (unsigned i = 0; i < config->num_links; i++) {
		struct link *l = &s->link[s->num_links++];

		l->fd = links[i];
		l->tcp = mmds_tcp_create(&s->store, config->address, send_frame, l);
		if (!l->tcp)
			return 1;
	}
	if (!config->no_sandbox)
		sandbox_lock_helper(SANDBOX_THREAD_NET, (const char *const[]){ NULL });
	serve(s);
	return 0;
}

/* ---- in the API's process ---- */

/* What the child must not keep: everything but its sockets and standard error. */
static void close_others(const int *keep, unsigned num)
{
	int from = STDERR_FILENO + 1;

	/* @keep is in order: it was opened in order. */
	for (unsigned i = 0; i < num; i++) {
		if (from < keep[i])
			close_range(from, keep[i] - 1, 0);
		from = keep[i] + 1;
	}
	close_range(from, ~0u, 0);
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void become_server(const struct mmds_config *config, struct mmds_counters *counters,
			  const int *links, int contents_fd)
{
	int keep[1 + MMDS_MAX_LINKS];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "wisp-mmds");
	keep[0] = contents_fd;
	memcpy(keep + 1, links, config->num_links * sizeof(int));
	qsort(keep, 1 + config->num_links, sizeof(int), compare);
	close_others(keep, 1 + config->num_links);
	_exit(run(config, counters, links, contents_fd));
}

int mmds_start(struct mmds *m, const struct mmds_config *config, int *ret_links, struct error *err)
{
	int pair[MMDS_MAX_LINKS + 1][2], theirs[MMDS_MAX_LINKS];
	unsigned num = 0;
	int r = 0;

	m->counters = mmap(NULL, sizeof(*m->counters), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m->counters == MAP_FAILED) {
		m->counters = NULL;
		return error_set(err, -errno, "metadata service: %m");
	}
	while (num <= config->num_links && !r) {
		int type = num < config->num_links ? SOCK_SEQPACKET : SOCK_STREAM;

		if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair[num]) < 0)
			r = error_set(err, -errno, "metadata service: %m");
		else
			num++;
	}
	for (unsigned i = 0; i < config->num_links && !r; i++)
		theirs[i] = pair[i][1];
	m->pid = r ? -1 : fork();
	if (m->pid == 0)
		become_server(config, m->counters, theirs, pair[config->num_links][1]);
	if (!r && m->pid < 0)
		r = error_set(err, -errno, "metadata service: cannot fork: %m");
	for (unsigned i = 0; i < num; i++) {
		close(pair[i][1]);
		if (r < 0)
			close(pair[i][0]);
		else if (i < config->num_links)
			ret_links[i] = pair[i][0];
		else
			m->contents_fd = pair[i][0];
	}
	if (r < 0) {
		m->pid = 0;
		munmap(m->counters, sizeof(*m->counters));
		m->counters = NULL;
	}
	return r;
}

int mmds_put(struct mmds *m, const json_t *contents)
{
	char *text = json_dumps(contents, JSON_COMPACT | JSON_ENCODE_ANY);
	uint32_t len = text ? strlen(text) : 0;
	struct iovec iov[] = { { &len, sizeof(len) }, { text, len } };
	size_t done = 0, total = sizeof(len) + len;
	int r = text ? 0 : -ENOMEM;

	while (done < total && !r) {
		struct iovec left[2] = { iov[0], iov[1] };
		struct msghdr msg = { .msg_iov = left, .msg_iovlen = 2 };
		size_t skip = MIN(done, sizeof(len));
		ssize_t n;

		left[0] = (struct iovec){ (uint8_t *)&len + skip, sizeof(len) - skip };
		skip = done - skip;
		left[1] = (struct iovec){ text + skip, len - skip };
		n = sendmsg(m->contents_fd, &msg, MSG_NOSIGNAL);
		if (n > 0)
			done += n;
		else if (n < 0 && errno != EINTR)
			r = -errno;
	}
	free(text);
	return r;
}

void mmds_stop(struct mmds *m)
{
	if (m->pid <= 0)
		return;
	close(m->contents_fd);
	while (waitpid(m->pid, NULL, 0) < 0 && errno == EINTR)
		;
	m->pid = 0;
}
