#include "helpers/user_net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libslirp.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "devices/net.h"
#include "devices/net_offload.h"
#include "helpers/guest_filter.h"
#include "helpers/guest_link.h"
#include "vmm/core/clock.h"
#include "vmm/core/log.h"

/* How long a request for a change may take to come once somebody has connected. */
#define REQUEST_WAIT_MS 100

/* libslirp asks to be called at least that often, also when it has nothing to do then. */
#define IDLE_MS	   1000u
#define IDLE_TURNS 5

#define MAX_TIMERS 4

#define BACKLOG 128

/*
 * How long nobody is asked in when there is no descriptor for whoever comes: they wait in the
 * backlog, and looking at them would only tell again and again that they are there.
 */
#define CROWDED_MS 100

struct timer {
	SlirpTimerId id;
	void *arg;
	int64_t deadline_ms; /* INT64_MAX: not armed */
	bool used;
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* A forward. */
struct rule {
	union address host, guest;
	int len, flags;
	char text[132]; /* for people: "tcp 127.0.0.1:80" */
	char given[128];
};

struct user_net {
	struct user_net_config config;
	Slirp *slirp;
	struct rule *rule; /* those there are now */
	unsigned num_rules;
	int fd, control_fd;
	struct guest_link *guest;
	unsigned idle;	/* turns without any event */
	bool crowded;	/* out of descriptors: listening sockets are left out for a turn */
	int *listening; /* libslirp's sockets for forwards */
	unsigned num_listening;
	struct guest_filter filter;
	struct timer timer[MAX_TIMERS];
	struct pollfd *polls; /* [0] is the guest's side */
	unsigned num_polls, max_polls;
	struct log_limit limit;
};

/* ---- what libslirp calls ---- */

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
	struct user_net *un = opaque;

	guest_filter_learn(&un->filter, buf, len);
	guest_link_send(un->guest, buf, len);
	return len;
}

static void guest_error(const char *msg, void *opaque)
{
	struct user_net *un = opaque;

	log_limited(&un->limit, LOG_DEBUG, "user network: %s", msg);
}

static int64_t clock_ns(void *opaque)
{
	return clock_monotonic_ns(NULL);
}

static void *timer_new(SlirpTimerId id, void *arg, void *opaque)
{
	struct user_net *un = opaque;

	for (unsigned i = 0; i < MAX_TIMERS; i++) {
		struct timer *t = &un->timer[i];

		if (t->used)
			continue;
		*t = (struct timer){ id, arg, INT64_MAX, true };
		return t;
	}
	return NULL;
}

static void timer_free(void *timer, void *opaque)
{
	struct timer *t = timer;

	if (t)
		t->used = false;
}

static void timer_mod(void *timer, int64_t deadline_ms, void *opaque)
{
	struct timer *t = timer;

	if (t)
		t->deadline_ms = deadline_ms;
}

/* The set of descriptors is made anew each turn, by one thread: nothing to do. */
static void poll_fd(int fd, void *opaque)
{
}

static void notify(void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = send_packet,
	.guest_error = guest_error,
	.clock_get_ns = clock_ns,
	.timer_new_opaque = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = poll_fd,
	.unregister_poll_fd = poll_fd,
	.notify = notify,
};

/* ---- timers ---- */

static void run_timers(struct user_net *un)
{
	int64_t now = clock_ns(un) / (int64_t)NSEC_PER_MSEC;

	for (unsigned i = 0; i < MAX_TIMERS; i++) {
		struct timer *t = &un->timer[i];

		if (!t->used || t->deadline_ms > now)
			continue;
		t->deadline_ms = INT64_MAX;
		slirp_handle_timer(un->slirp, t->id, t->arg);
	}
}

/* How long to wait at most, when libslirp wants to be called after @wanted ms. -1: for ever. */
static int timeout_ms(const struct user_net *un, uint32_t wanted)
{
	int64_t left = wanted, now = clock_ns((void *)un) / (int64_t)NSEC_PER_MSEC;

	/*
	 * It says IDLE_MS when no connection needs it; after some turns nothing is queued either.
	 */
	if (wanted >= IDLE_MS && un->idle >= IDLE_TURNS)
		left = INT64_MAX;
	for (unsigned i = 0; i < MAX_TIMERS; i++) {
		const struct timer *t = &un->timer[i];

		if (t->used && t->deadline_ms != INT64_MAX)
			left = MIN(left, t->deadline_ms - now);
	}
	if (un->crowded)
		left = MIN(left, (int64_t)CROWDED_MS);
	if (left == INT64_MAX)
		return -1;
	return left > 0 ? (int)MIN(left, (int64_t)INT_MAX) : 0;
}

/* ---- descriptors ---- */

static int add_fd(struct user_net *un, int fd, short events)
{
	if (un->num_polls == un->max_polls) {
		unsigned max = MAX(un->max_polls * 2, 16u);
		struct pollfd *grown = realloc(un->polls, max * sizeof(*grown));

		/* The descriptor has no turn this time. */
		if (!grown)
			return -1;
		un->polls = grown;
		un->max_polls = max;
	}
	un->polls[un->num_polls] = (struct pollfd){ .fd = fd, .events = events };
	return un->num_polls++;
}

static const struct {
	int slirp;
	short poll;
} event_names[] = {
	{ SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
	{ SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

static bool is_listening(const struct user_net *un, int fd)
{
	for (unsigned i = 0; i < un->num_listening; i++) {
		if (un->listening[i] == fd)
			return true;
	}
	return false;
}

/* Would accept() have a descriptor? */
static bool has_descriptor(const struct user_net *un)
{
	int fd = fcntl(un->fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static int add_poll(int fd, int wanted, void *opaque)
{
	struct user_net *un = opaque;
	short events = 0;

	if (un->crowded && is_listening(un, fd))
		return -1;
	for (unsigned i = 0; i < ARRAY_SIZE(event_names); i++) {
		if (wanted & event_names[i].slirp)
			events |= event_names[i].poll;
	}
	return add_fd(un, fd, events);
}

static int get_revents(int index, void *opaque)
{
	struct user_net *un = opaque;
	int events = 0;

	if (index < 0)
		return 0;
	/* Not told, libslirp does not try: its accept() would fail, in every turn from now on. */
	if (un->polls[index].revents && is_listening(un, un->polls[index].fd) &&
	    !has_descriptor(un)) {
		un->crowded = true;
		return 0;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(event_names); i++) {
		if (un->polls[index].revents & event_names[i].poll)
			events |= event_names[i].slirp;
	}
	return events;
}

/* ---- the guest's frames ---- */

static void take_frame(void *arg, const struct virtio_net_hdr_v1 *hdr, uint8_t *frame, size_t len)
{
	uint8_t refusal[GUEST_FILTER_REFUSAL_MAX];
	struct user_net *un = arg;

	/*
	 * A TCP segment longer than the MTU needs no cutting: libslirp ends every
	 * connection itself and takes segments of any length.
	 */
	if (len < NET_ETH_HDR || net_fill_checksum(frame, len, hdr) < 0) {
		guest_error("a frame that its header does not describe", un);
		return;
	}
	if (!guest_filter_allows(&un->filter, frame, len)) {
		guest_error("a frame to this host's loopback", un);
		len = guest_filter_refusal(frame, len, refusal);
		if (len)
			guest_link_send(un->guest, refusal, len);
		return;
	}
	slirp_input(un->slirp, frame, len);
}

/*
 * An add_poll of its own: what listens gets room for more than libslirp's one connection, and is
 * remembered.
 */
static int note_listening(int fd, int wanted, void *opaque)
{
	struct user_net *un = opaque;
	socklen_t len = sizeof(int);
	int listens = 0, *grown;

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 || !listens)
		return -1;
	listen(fd, BACKLOG);
	grown = realloc(un->listening, (un->num_listening + 1) * sizeof(*grown));
	if (grown) {
		un->listening = grown;
		un->listening[un->num_listening++] = fd;
	}
	return -1;
}

/* After each change of the forwards. */
static void find_listening(struct user_net *un)
{
	uint32_t unused = UINT32_MAX;

	un->num_listening = 0;
	slirp_pollfds_fill(un->slirp, &unused, note_listening, un);
}

/* ---- forwards ---- */

static int parse_port(const char *text, uint16_t *ret_port)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || !v || v > UINT16_MAX)
		return -EINVAL;
	*ret_port = v;
	return 0;
}

/* "ADDR" or "[ADDR]" and the two ports, as addresses of one family. Returns their length. */
static int make_addresses(char *text, uint16_t port, uint16_t guest_port, union address *host,
			  union address *guest)
{
	size_t len = strlen(text);

	memset(host, 0, sizeof(*host));
	memset(guest, 0, sizeof(*guest));
	if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
		text[len - 1] = '\0';
		if (inet_pton(AF_INET6, text + 1, &host->v6.sin6_addr) != 1)
			return -EINVAL;
		host->v6.sin6_family = guest->v6.sin6_family = AF_INET6;
		host->v6.sin6_port = htons(port);
		guest->v6.sin6_port = htons(guest_port);
		return sizeof(host->v6);
	}
	if (inet_pton(AF_INET, text, &host->v4.sin_addr) != 1)
		return -EINVAL;
	host->v4.sin_family = guest->v4.sin_family = AF_INET;
	host->v4.sin_port = htons(port);
	guest->v4.sin_port = htons(guest_port);
	return sizeof(host->v4);
}

/* "tcp:ADDR:PORT-:GUESTPORT" */
static int parse_rule(struct rule *rule, const char *given, struct error *err)
{
	char text[128], *addr, *port, *guest_port;
	uint16_t p, gp;

	rule->flags = SLIRP_HOSTFWD_V6ONLY;
	snprintf(text, sizeof(text), "%s", given);
	snprintf(rule->given, sizeof(rule->given), "%s", given);
	addr = strchr(text, ':');
	guest_port = strstr(text, "-:");
	if (!addr || !guest_port || guest_port < addr)
		goto malformed;
	*addr++ = '\0';
	*guest_port = '\0';
	guest_port += 2;
	port = strrchr(addr, ':');
	if (!port)
		goto malformed;
	snprintf(rule->text, sizeof(rule->text), "%s %s", text, addr);
	*port++ = '\0';
	if (parse_port(port, &p) < 0 || parse_port(guest_port, &gp) < 0)
		goto malformed;
	if (strcmp(text, "udp") == 0)
		rule->flags |= SLIRP_HOSTFWD_UDP;
	else if (strcmp(text, "tcp") != 0)
		goto malformed;
	rule->len = make_addresses(addr, p, gp, &rule->host, &rule->guest);
	if (rule->len < 0)
		goto malformed;
	return 0;
malformed:
	return error_usage(err, -EINVAL, "forward '%s' is not (tcp|udp):ADDR:PORT-:GUESTPORT",
			   given);
}

/* The guest's address stays zero: the one that DHCP gives, or that it shows by IPv6. */
static int listen_by(struct user_net *un, const struct rule *rule)
{
	return slirp_add_hostxfwd(un->slirp, &rule->host.any, rule->len, &rule->guest.any,
				  rule->len, rule->flags) < 0 ? -errno : 0;
}

int user_net_forward(struct user_net *un, const char *given, struct error *err)
{
	struct rule rule = { 0 }, *grown;
	int r = parse_rule(&rule, given, err);

	if (r < 0)
		return r;
	grown = reallocarray(un->rule, un->num_rules + 1, sizeof(*grown));
	if (!grown)
		return error_set(err, -ENOMEM, "cannot forward %s: %m", rule.text);
	un->rule = grown;
	r = listen_by(un, &rule);
	if (r < 0)
		return error_usage(err, r, "cannot forward %s: %m", rule.text);
	un->rule[un->num_rules++] = rule;
	return 0;
}

/* No new connections by the forward @given; those there are stay. */
static int unforward(struct user_net *un, const char *given, struct error *err)
{
	struct rule rule = { 0 };
	int r = parse_rule(&rule, given, err);

	if (r < 0)
		return r;
	if (slirp_remove_hostxfwd(un->slirp, &rule.host.any, rule.len, rule.flags) < 0)
		return error_usage(err, -ENOENT, "there is no forward of %s", rule.text);
	for (unsigned i = 0; i < un->num_rules; i++) {
		if (strcmp(un->rule[i].text, rule.text))
			continue;
		un->rule[i] = un->rule[--un->num_rules];
		break;
	}
	return 0;
}

/* ---- changes while it runs ---- */

/* "ok", and all as they were given, each behind a newline; the caller's to free. Or NULL. */
static char *list_rules(const struct user_net *un)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	fputs("ok", f);
	for (unsigned i = 0; i < un->num_rules; i++)
		fprintf(f, "\n%s", un->rule[i].given);
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

/* One request of whoever may connect: our own user, by the directory's mode. */
static void take_request(struct user_net *un)
{
	int fd = accept4(un->control_fd, NULL, NULL, SOCK_CLOEXEC);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct error err = { 0 };
	char text[160], *rules = NULL;
	const char *answer;
	ssize_t n;
	int r = 0;

	if (fd < 0) {
		/* Whoever came is still there, unless it was only that. */
		un->crowded = errno != EAGAIN && errno != ECONNABORTED && errno != EINTR;
		return;
	}
	/* It speaks at once; the guest does not wait long for one that does not. */
	n = poll(&p, 1, REQUEST_WAIT_MS) > 0 ? recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT) : 0;
	text[MAX(n, 0)] = '\0';
	if (strncmp(text, "add ", 4) == 0)
		r = user_net_forward(un, text + 4, &err);
	else if (strncmp(text, "remove ", 7) == 0)
		r = unforward(un, text + 7, &err);
	else if (strcmp(text, "list") != 0)
		r = error_usage(&err, -EINVAL, "not a request");
	else if (!(rules = list_rules(un)))
		r = error_set(&err, -ENOMEM, "its forwards: %m");
	answer = r < 0 ? err.msg : rules ? rules : "ok";
	/* One that is gone again has had its way all the same. */
	if (send(fd, answer, strlen(answer), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("a request came from somebody who did not wait");
	free(rules);
	close(fd);
	find_listening(un);
}

/* libslirp, as the configuration says, and what its guest may reach. NULL: it refuses. */
static Slirp *new_slirp(struct user_net *un)
{
	const struct user_net_config *config = &un->config;
	SlirpConfig sc = {
		.version = 4,
		.restricted = config->restrict_out,
		.in_enabled = true,
		.vnetwork = config->network,
		.vnetmask = config->mask,
		.vhost = config->host,
		.vnameserver = config->dns,
		.vdhcp_start = config->dhcp_start,
		.vdnssearch = config->search[0] ? (const char **)config->search : NULL,
		.in6_enabled = config->ipv6,
		.vprefix_len = 64,
		.if_mtu = config->mtu,
		.if_mru = config->mtu,
		/* The filter does it; this would also drop the answers to forwarded UDP. */
		.disable_host_loopback = false,
	};

	inet_pton(AF_INET6, "fec0::", &sc.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &sc.vhost6);
	inet_pton(AF_INET6, "fec0::3", &sc.vnameserver6);
	un->filter = (struct guest_filter){
		.host = config->host,
		.prefix6 = sc.vprefix_addr6,
		.dns = config->dns,
		.dns6 = sc.vnameserver6,
		.host_loopback = config->host_loopback,
	};
	return slirp_new(&sc, &callbacks, un);
}

/*
 * The guest went back to an earlier moment. libslirp cannot drop its connections, so another one
 * takes its place; who is connected sees an end or a reset, and the guest, which may think that it
 * still is, gets a reset.
 */
static void start_again(void *arg)
{
	struct user_net *un = arg;

	slirp_cleanup(un->slirp);
	un->slirp = new_slirp(un);
	if (!un->slirp) {
		/* It was made like this before: there is no memory. */
		log_error("user network: libslirp does not start again");
		exit(1);
	}
	for (unsigned i = 0; i < un->num_rules; i++)
		if (listen_by(un, &un->rule[i]) < 0)
			log_error("cannot forward %s any more: %m", un->rule[i].text);
	find_listening(un);
}

int user_net_run(struct user_net *un)
{
	guest_link_on_forget(un->guest, start_again, un);
	find_listening(un);
	while (!guest_link_ended(un->guest)) {
		uint32_t wanted = UINT32_MAX;
		int n, control = -1;

		un->num_polls = 0;
		if (add_fd(un, un->fd, POLLIN) < 0)
			return -ENOMEM;
		if (un->control_fd >= 0 && !un->crowded)
			control = add_fd(un, un->control_fd, POLLIN);
		slirp_pollfds_fill(un->slirp, &wanted, add_poll, un);
		n = poll(un->polls, un->num_polls, timeout_ms(un, wanted));
		if (n < 0 && errno != EINTR)
			return -errno;
		un->crowded = false;
		un->idle = n > 0 ? 0 : un->idle + 1;
		slirp_pollfds_poll(un->slirp, n < 0, get_revents, un);
		if (n > 0 && un->polls[0].revents)
			guest_link_receive(un->guest, take_frame, un);
		/* Not kept waiting for somebody who asks slowly. */
		guest_link_flush(un->guest);
		if (n > 0 && control >= 0 && un->polls[control].revents)
			take_request(un);
		run_timers(un);
		guest_link_flush(un->guest);
	}
	return 0;
}

/* ---- life ---- */

int user_net_create(struct user_net **ret_net, const struct user_net_config *config,
		    struct error *err)
{
	int buffer = 1 * MiB;
	struct user_net *un = calloc(1, sizeof(*un));

	if (un)
		un->guest = guest_link_create(config->fd);
	if (!un || !un->guest) {
		user_net_free(un);
		return error_set(err, -ENOMEM, "user network: %m");
	}
	un->config = *config;
	un->fd = config->fd;
	un->control_fd = config->control_fd;
	if (un->control_fd >= 0 && fcntl(un->control_fd, F_GETFD) < 0)
		un->control_fd = -1;
	/* As much as the host allows; a burst of frames should not have to wait. */
	setsockopt(un->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	un->slirp = new_slirp(un);
	if (!un->slirp) {
		user_net_free(un);
		return error_set(err, -EINVAL, "user network: libslirp refuses the configuration");
	}
	*ret_net = un;
	return 0;
}

void user_net_free(struct user_net *un)
{
	if (!un)
		return;
	if (un->slirp)
		slirp_cleanup(un->slirp);
	free(un->rule);
	free(un->listening);
	guest_link_free(un->guest);
	free(un->polls);
	free(un);
}
