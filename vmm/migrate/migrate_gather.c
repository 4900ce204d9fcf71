#include "vmm/migrate/migrate_gather.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "vmm/core/log.h"

/* Who is not to be trusted was turned away, which is no failure. */
static int accept_next(struct migrate_gather *g, struct error *err)
{
	int fd = migrate_listener_accept(&g->listener, err);

	if (fd == -EPROTO) {
		log_warn("%s; waiting for another one", err->msg);
		return 0;
	}
	if (fd < 0)
		return fd;
	g->fd[g->num++] = fd;
	return 0;
}

/* Wait for who connects, and for @fd unless it is -1; 1: that is ready. */
static int accept_or(struct migrate_gather *g, int fd, struct error *err)
{
	struct pollfd p[2] = {
		{ .fd = fd, .events = POLLIN },
		{ .fd = g->num < ARRAY_SIZE(g->fd) ? g->listener.fd : -1, .events = POLLIN },
	};
	int n;

	do
		n = poll(p, 2, (int)g->patience_ms);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_set(err, -errno, "migration: its connections: %m");
	if (n == 0)
		return error_set(err, -ETIMEDOUT,
				 "migration: the other side does not answer (%u ms)",
				 g->patience_ms);
	if (p[0].revents)
		return 1;
	return accept_next(g, err);
}

int migrate_gather_until(struct migrate_gather *g, int fd, struct error *err)
{
	int r;

	do
		r = accept_or(g, fd, err);
	while (r == 0);
	return r < 0 ? r : 0;
}

/* Hear which stream @w is; an error: it is none of ours. */
static int introduce(struct migrate_wire *w, const uint8_t *uuid, unsigned num, unsigned wait_ms,
		     unsigned *ret_index, struct error *err)
{
	struct migrate_record rec;
	int r;

	w->patience_ms = wait_ms;
	w->accepts = 1u << MIGRATE_STREAM;
	r = migrate_wire_expect_greeting(w, (int)wait_ms, err);
	if (!r)
		r = migrate_wire_expect(w, MIGRATE_STREAM, &rec, (int)wait_ms, err);
	if (r < 0)
		return r;
	if (rec.len != MIGRATE_UUID_BYTES || memcmp(rec.payload, uuid, MIGRATE_UUID_BYTES) != 0 ||
	    rec.page < 1 || rec.page > num)
		return error_set(err, -EBADMSG, "migration: a connection for another guest");
	*ret_index = rec.page - 1;
	return 0;
}

/* The next of those who have connected: a stream, or turned away. */
static bool take_next(struct migrate_gather *g, const uint8_t *uuid, unsigned num,
		      struct migrate_wire *wires)
{
	struct error why = { 0 };
	struct migrate_wire w;
	unsigned patience_ms, index = 0;
	int fd = g->fd[0];
	int r = migrate_wire_init(&w, fd, fd, &why);

	g->num--;
	memmove(g->fd, g->fd + 1, g->num * sizeof(*g->fd));
	patience_ms = w.patience_ms;
	if (!r)
		r = introduce(&w, uuid, num, g->patience_ms, &index, &why);
	if (!r && wires[index].in >= 0)
		r = error_set(&why, -EBADMSG, "migration: a stream that is there already");
	if (r < 0) {
		log_warn("%s; turned away", why.msg);
		migrate_wire_done(&w);
		return false;
	}
	w.patience_ms = patience_ms;
	wires[index] = w;
	return true;
}

int migrate_gather_streams(struct migrate_gather *g, const uint8_t *uuid, unsigned num,
			   struct migrate_wire *wires, struct error *err)
{
	unsigned found = 0;
	int r = 0;

	for (unsigned i = 0; i < num; i++)
		wires[i] = (struct migrate_wire){ .in = -1, .out = -1, .fd = -1 };
	if (num && g->listener.fd < 0)
		return error_set(err, -EBADMSG, "migration: streams where there is one pipe");
	while (found < num && !r) {
		if (g->num)
			found += take_next(g, uuid, num, wires);
		else
			r = accept_or(g, -1, err);
	}
	return r;
}

void migrate_gather_done(struct migrate_gather *g)
{
	for (unsigned i = 0; i < g->num; i++)
		close(g->fd[i]);
	g->num = 0;
	migrate_listener_close(&g->listener);
}
