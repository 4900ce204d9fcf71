/*
 * wisp-net: user networking for one interface of one microVM, started by wisp
 * with its end of a socketpair. All that it listens on is bound before it says
 * "ready", so a port that is taken is known before there is a guest.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <link.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "helpers/user_net.h"
#include "vmm/core/log.h"
#include "vmm/sandbox/sandbox.h"

#define MAX_FORWARDS 64
#define MAX_SEGMENTS 8

struct options {
	struct user_net_config net;
	int status_fd;
	const char *forward[MAX_FORWARDS];
	unsigned num_forwards;
	unsigned num_search;
	bool no_sandbox;
};

/* Where resolv.conf is, and where it may lead to. */
static const char *const name_servers[] = {
	"/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", NULL,
};

enum {
	OPT_FD = 1,
	OPT_STATUS_FD,
	OPT_NET,
	OPT_HOST,
	OPT_DNS,
	OPT_HOSTFWD,
	OPT_CONTROL_FD,
	OPT_SEARCH,
	OPT_RESTRICT,
	OPT_HOST_LOOPBACK,
	OPT_MTU,
	OPT_IPV6,
	OPT_NO_IPV6,
	OPT_NO_SANDBOX,
};

static const struct option long_options[] = {
	{ "fd", required_argument, NULL, OPT_FD },
	{ "status-fd", required_argument, NULL, OPT_STATUS_FD },
	{ "net", required_argument, NULL, OPT_NET },
	{ "host", required_argument, NULL, OPT_HOST },
	{ "dns", required_argument, NULL, OPT_DNS },
	{ "hostfwd", required_argument, NULL, OPT_HOSTFWD },
	{ "control-fd", required_argument, NULL, OPT_CONTROL_FD },
	{ "search", required_argument, NULL, OPT_SEARCH },
	{ "restrict", no_argument, NULL, OPT_RESTRICT },
	{ "host-loopback", no_argument, NULL, OPT_HOST_LOOPBACK },
	{ "mtu", required_argument, NULL, OPT_MTU },
	{ "ipv6", no_argument, NULL, OPT_IPV6 },
	{ "no-ipv6", no_argument, NULL, OPT_NO_IPV6 },
	{ "no-sandbox", no_argument, NULL, OPT_NO_SANDBOX },
	{ NULL, 0, NULL, 0 },
};

static int parse_number(const char *name, const char *text, unsigned min, unsigned max,
			unsigned *ret_v, struct error *err)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || v < min || v > max)
		return error_usage(err, -EINVAL, "--%s '%s': is not a number from %u to %u", name,
				   text, min, max);
	*ret_v = v;
	return 0;
}

static int parse_fd(const char *name, const char *text, int *ret_fd, struct error *err)
{
	unsigned v;
	int r = parse_number(name, text, 0, 65535, &v, err);

	if (!r)
		*ret_fd = v;
	return r;
}

static int parse_address(const char *name, const char *text, struct in_addr *ret_addr,
			 struct error *err)
{
	if (inet_pton(AF_INET, text, ret_addr) != 1)
		return error_usage(err, -EINVAL, "--%s '%s': is not an IPv4 address", name, text);
	return 0;
}

static struct in_addr address_at(struct in_addr network, uint32_t n)
{
	return (struct in_addr){ .s_addr = htonl(ntohl(network.s_addr) + n) };
}

/* "10.0.2.0/24"; router, name server and guest get the second, third and 15th address in it. */
static int parse_network(char *text, struct user_net_config *c, struct error *err)
{
	char *slash = strchr(text, '/');
	unsigned prefix;
	int r;

	if (!slash)
		return error_usage(err, -EINVAL, "--net '%s': is not ADDRESS/PREFIX", text);
	*slash = '\0';
	r = parse_address("net", text, &c->network, err);
	if (!r)
		r = parse_number("net", slash + 1, 8, 27, &prefix, err);
	if (r < 0)
		return r;
	c->mask.s_addr = htonl(~0u << (32 - prefix));
	c->network.s_addr &= c->mask.s_addr;
	c->host = address_at(c->network, 2);
	c->dns = address_at(c->network, 3);
	c->dhcp_start = address_at(c->network, 15);
	return 0;
}

static int parse_option(struct options *o, int option, char *value, struct error *err)
{
	switch (option) {
	case OPT_FD:
		return parse_fd("fd", value, &o->net.fd, err);
	case OPT_STATUS_FD:
		return parse_fd("status-fd", value, &o->status_fd, err);
	case OPT_NET:
		return parse_network(value, &o->net, err);
	case OPT_HOST:
		return parse_address("host", value, &o->net.host, err);
	case OPT_DNS:
		return parse_address("dns", value, &o->net.dns, err);
	case OPT_HOSTFWD:
		if (o->num_forwards == MAX_FORWARDS)
			return error_usage(err, -E2BIG, "--hostfwd: more than %u", MAX_FORWARDS);
		o->forward[o->num_forwards++] = value;
		return 0;
	case OPT_CONTROL_FD:
		return parse_fd("control-fd", value, &o->net.control_fd, err);
	case OPT_SEARCH:
		if (o->num_search == USER_NET_MAX_SEARCH)
			return error_usage(err, -E2BIG, "--search: more than %u",
					   USER_NET_MAX_SEARCH);
		o->net.search[o->num_search++] = value;
		return 0;
	case OPT_RESTRICT:
		o->net.restrict_out = true;
		return 0;
	case OPT_HOST_LOOPBACK:
		o->net.host_loopback = true;
		return 0;
	case OPT_MTU:
		return parse_number("mtu", value, USER_NET_MIN_MTU, USER_NET_MAX_MTU, &o->net.mtu,
				    err);
	case OPT_IPV6:
	case OPT_NO_IPV6:
		o->net.ipv6 = option == OPT_IPV6;
		return 0;
	case OPT_NO_SANDBOX:
		o->no_sandbox = true;
		return 0;
	default:
		return error_usage(err, -EINVAL, "wisp-net is started by wisp; see wisp(1), --net");
	}
}

static int parse_options(struct options *o, int argc, char **argv, struct error *err)
{
	char network[] = "10.0.2.0/24";
	int option, r;

	r = parse_network(network, &o->net, err);
	opterr = 0;
	while (!r && (option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		r = parse_option(o, option, optarg, err);
	if (!r && (o->net.fd < 0 || optind < argc))
		r = parse_option(o, '?', NULL, err);
	return r;
}

static int set_up(struct user_net **ret_net, const struct options *o, struct error *err)
{
	int r = user_net_create(ret_net, &o->net, err);

	for (unsigned i = 0; i < o->num_forwards && !r; i++)
		r = user_net_forward(*ret_net, o->forward[i], err);
	return r;
}

/*
 * Loading five libraries touches most of their pages, and running needs few of them. They stay
 * in the page cache; mapped, they would count as ours, and be the last to be given up.
 */
static int forget_pages(struct dl_phdr_info *object, size_t size, void *arg)
{
	struct iovec clean[MAX_SEGMENTS];
	unsigned n = 0;

	/* First all of them: the list itself lies in one, and reading on would bring it back. */
	for (unsigned i = 0; i < object->dlpi_phnum && n < MAX_SEGMENTS; i++) {
		const ElfW(Phdr) *p = &object->dlpi_phdr[i];
		uintptr_t start = align_down(object->dlpi_addr + p->p_vaddr, PAGE_SIZE);
		uintptr_t end = align_up(object->dlpi_addr + p->p_vaddr + p->p_memsz, PAGE_SIZE);

		/* What is never written is the file's; the rest has been relocated. */
		if (p->p_type == PT_LOAD && !(p->p_flags & PF_W))
			clean[n++] = (struct iovec){ (void *)start, end - start };
	}
	while (n-- > 0)
		madvise(clean[n].iov_base, clean[n].iov_len, MADV_DONTNEED);
	return 0;
}

/* One line to whoever started us: "ready", or what went wrong. */
static void report(int fd, const char *text)
{
	dprintf(fd, "%s\n", text);
	if (fd != STDERR_FILENO)
		close(fd);
}

int main(int argc, char **argv)
{
	struct options o = {
		.net = { .fd = -1, .control_fd = -1, .ipv6 = true, .mtu = 1500 },
		.status_fd = STDERR_FILENO,
	};
	struct user_net *un = NULL;
	struct error err = { 0 };
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	/* A peer that hangs up is an error of one connection, not of this process. */
	signal(SIGPIPE, SIG_IGN);
	/* One arena, and memory goes back when it is not used: there may be hundreds of us. */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_TRIM_THRESHOLD, 64 * 1024);

	r = parse_options(&o, argc, argv, &err);
	if (!r)
		r = set_up(&un, &o, &err);
	if (r < 0) {
		report(o.status_fd, err.msg);
		user_net_free(un);
		return error_status(&err);
	}
	if (o.status_fd != STDERR_FILENO)
		report(o.status_fd, "ready");
	if (!o.no_sandbox)
		sandbox_lock_helper(SANDBOX_THREAD_NET, name_servers);
	dl_iterate_phdr(forget_pages, NULL);
	r = user_net_run(un);
	user_net_free(un);
	return r < 0 ? 1 : 0;
}
