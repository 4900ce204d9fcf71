#include "vmm/migrate/migrate_door.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/migrate/migrate_journal.h"

/* Who has connected asks at once: others wait meanwhile. */
#define REQUEST_MS 2000

/* No descriptor or memory is left: that passes. */
#define AGAIN_MS 100

#define MAX_REQUEST 1024

/* As control_verb_migrate_resume()'s: in, out, and one that the client holds. */
#define RESUME_FDS 3

static json_t *refusal(int r, const char *why)
{
	return json_pack("{s:s, s:i}", "error", why, "errno", -r);
}

static json_t *resume(struct migrate_fill *f, int *fds, unsigned num)
{
	struct error err = { 0 };
	int r;

	if (num != RESUME_FDS)
		return refusal(-EBADF, "the request came without its descriptors");
	r = migrate_fill_resume(f, fds[0], fds[1], &err);
	/* They are gone, whatever came of it. */
	fds[0] = fds[1] = -1;
	return r < 0 ? refusal(r, err.msg) : json_pack("{s:b}", "ok", true);
}

static json_t *status(struct migrate_fill *f)
{
	struct migrate_fill_report report = migrate_fill_report(f);
	char uuid[MIGRATE_UUID_TEXT];

	if (report.state != MIGRATE_FILL_COMMITTED && report.state != MIGRATE_FILL_RUNNING)
		return refusal(-EAGAIN, "its control socket knows");
	migrate_uuid_print(f->uuid, uuid);
	return json_pack("{s:b, s:s, s:s, s:I, s:I, s:b}", "ok", true, "role", "none", "arrival",
			 uuid, "missing_pages", (json_int_t)report.missing, "wanted_pages",
			 (json_int_t)report.wanted, "cut_off", report.is_cut);
}

static json_t *carry_out(struct migrate_fill *f, const char *text, size_t len, int *fds,
			 unsigned num)
{
	json_t *request = json_loadb(text, len, 0, NULL), *reply;
	const char *verb = json_string_value(json_object_get(request, "do"));

	if (!f)
		reply = refusal(-EAGAIN, "as far as is known here its guest was not handed over "
					 "yet: 'wisp migrate --recover' comes first");
	else if (verb && !strcmp(verb, "migrate-resume"))
		reply = resume(f, fds, num);
	else if (verb && !strcmp(verb, "migrate-status"))
		reply = status(f);
	else
		reply = refusal(-ENOSYS, "that is asked at its control socket");
	json_decref(request);
	return reply;
}

/* Somebody has connected: one request, and its answer. */
static void talk(struct migrate_door *d, int sock)
{
	struct pollfd p[] = { { sock, POLLIN, 0 }, { d->stop_fd, POLLIN, 0 } };
	char text[MAX_REQUEST], *answer;
	int fds[RESUME_FDS];
	unsigned num = 0;
	json_t *reply;
	ssize_t n;

	if (poll(p, 2, REQUEST_MS) <= 0 || p[1].revents)
		return;
	n = control_receive(sock, text, sizeof(text), fds, RESUME_FDS, &num, MSG_DONTWAIT);
	if (n > 0) {
		reply = carry_out(atomic_load(&d->fill), text, n, fds, num);
		answer = json_dumps(reply, JSON_COMPACT);
		json_decref(reply);
		if (answer)
			control_send(sock, answer, strlen(answer), NULL, 0, MSG_DONTWAIT);
		free(answer);
	}
	for (unsigned i = 0; i < num; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* As control.c's: the directory keeps others out, and where it does not this does. */
static bool is_welcome(const struct migrate_door *d, int sock)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == d->user || peer.uid == 0);
}

static void *serve(void *arg)
{
	struct migrate_door *d = arg;
	struct pollfd p[] = { { d->stop_fd, POLLIN, 0 }, { d->listener, POLLIN, 0 } };

	prctl(PR_SET_NAME, "migrate door");
	if (d->sandbox && sandbox_filter(d->sandbox, SANDBOX_THREAD_MAIN) < 0)
		return NULL;
	control_seed_hash_tables();
	for (;;) {
		int sock;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[0].revents)
			return NULL;
		if (!p[1].revents)
			continue;
		/* Nobody else accepts. */
		sock = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);
		if (sock < 0) {
			poll(p, 1, AGAIN_MS);
			continue;
		}
		if (is_welcome(d, sock))
			talk(d, sock);
		close(sock);
	}
}

int migrate_door_open(struct migrate_door *d, struct sandbox *sandbox, struct error *err)
{
	int r;

	if (d->listener <= 0)
		return 0;
	d->sandbox = sandbox;
	d->user = geteuid();
	d->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->stop_fd < 0)
		return error_set(err, -errno, "migration: a thread that is asked: %m");
	r = pthread_create(&d->thread, NULL, serve, d);
	d->threaded = r == 0;
	if (r)
		close(d->stop_fd);
	return r ? error_set(err, -r, "migration: a thread that is asked: %m") : 0;
}

void migrate_door_answer(struct migrate_door *d, struct migrate_fill *fill)
{
	atomic_store(&d->fill, fill);
}

void migrate_door_close(struct migrate_door *d)
{
	if (d->threaded) {
		eventfd_write(d->stop_fd, 1);
		pthread_join(d->thread, NULL);
		close(d->stop_fd);
	}
	d->threaded = false;
	if (d->listener > 0)
		close(d->listener);
	d->listener = 0;
}
