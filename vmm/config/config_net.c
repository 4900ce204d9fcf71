/* --net: networks, their kinds and keys. */
#include "vmm/config/config_parse.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "devices/net_switch.h"

#define MIN_MTU 1280 /* IPv6 needs it */
#define MAX_MTU 65520

#define MAX_RATE TiB /* a second: what is more is a mistake */

#define NET(m) offsetof(struct config_net, m)

/* A port number from the start of @text to @end. */
static int parse_port(struct config_parse *p, const char *text, const char *end, uint16_t *ret)
{
	unsigned long n = 0;

	for (const char *s = text; s < end; s++) {
		if (!isdigit((unsigned char)*s) || n > UINT16_MAX)
			return config_fail(p, "'%.*s' is not a port number", (int)(end - text),
					   text);
		n = n * 10 + (*s - '0');
	}
	if (text == end)
		return config_fail(p, "a port number is missing (1 to 65535)");
	if (n < 1 || n > UINT16_MAX)
		return config_fail(p, "port %.*s is out of range (1 to 65535)", (int)(end - text),
				   text);
	*ret = n;
	return 0;
}

/*
 * The address up to @end, an IPv4 one or an IPv6 one in brackets; none means
 * the host alone. Kept as text, in its canonical form, so that equal ones compare equal.
 */
static int parse_host_addr(struct config_parse *p, const char *text, const char *end, char **ret)
{
	char addr[INET6_ADDRSTRLEN + 2] = "127.0.0.1";
	uint8_t binary[sizeof(struct in6_addr)];
	size_t len = end - text;
	int family = AF_INET;

	if (len >= sizeof(addr))
		return config_fail(p, "'%.*s' is not a numeric address", (int)len, text);
	if (len) {
		memcpy(addr, text, len);
		addr[len] = '\0';
	}
	if (addr[0] == '[' && addr[len - 1] == ']') {
		family = AF_INET6;
		memmove(addr, addr + 1, len - 2);
		addr[len - 2] = '\0';
	}
	if (inet_pton(family, addr, binary) != 1)
		return config_fail(p, "'%.*s' is not a numeric address", (int)len, text);
	inet_ntop(family, binary, addr, sizeof(addr));
	return config_set_string(p, addr, ret);
}

/* tcp:ADDR:PORT-:GPORT */
static int parse_hostfwd(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	struct config_forward *f;
	const char *addr = value + 4, *port, *guest;
	bool udp = !strncmp(value, "udp:", 4);
	int r;

	if (n->num_forwards == CONFIG_MAX_FORWARDS)
		return config_fail(p, "more than %d forwards", CONFIG_MAX_FORWARDS);
	guest = strstr(value, "-:");
	if ((!udp && strncmp(value, "tcp:", 4)) || !guest)
		return config_fail(p,
				   "'%s' is not PROTOCOL:[ADDRESS]:PORT-:PORT with protocol tcp "
				   "or udp",
				   value);
	/* The last colon in front of the dash: an IPv6 address has more of them. */
	port = memrchr(value, ':', guest - value);
	if (port < addr)
		return config_fail(p, "'%s' has no address; it may be empty, as in tcp::8080-:80",
				   value);
	f = &n->forward[n->num_forwards];
	*f = (struct config_forward){ .udp = udp };
	r = parse_port(p, port + 1, guest, &f->host_port);
	if (!r)
		r = parse_port(p, guest + 2, guest + strlen(guest), &f->guest_port);
	if (!r)
		r = parse_host_addr(p, addr, port, &f->host_addr);
	if (!r)
		n->num_forwards++;
	return r;
}

int config_parse_forward(const char *option, const char *value, struct config_forward *ret,
			 struct error *err)
{
	struct config_parse p = { .option = option, .err = err };
	struct config_net n = { 0 };
	int r = parse_hostfwd(&p, value, &n);

	if (!r)
		*ret = n.forward[0];
	return r;
}

static int parse_mac(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	uint8_t mac[6];
	int end = 0;

	if (strlen(value) != 17 || strspn(value, "0123456789abcdefABCDEF:") != 17 ||
	    sscanf(value, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2],
		   &mac[3], &mac[4], &mac[5], &end) != 6 ||
	    end != 17)
		return config_fail(p, "'%s' is not six bytes such as 02:00:00:00:00:01", value);
	if (!memcmp(mac, (uint8_t[6]){ 0 }, sizeof(mac)))
		return config_fail(p, "'%s' is no address: a guest would make up its own", value);
	if (mac[0] & 1)
		return config_fail(p, "'%s' is a group address", value);
	memcpy(n->mac, mac, sizeof(mac));
	n->mac_given = true;
	return 0;
}

static int parse_mtu(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	unsigned mtu;
	int r = config_set_number(p, value, MIN_MTU, MAX_MTU, &mtu);

	if (!r)
		n->mtu = mtu;
	return r;
}

/* What kinds of network a key belongs to. */
enum { USER = 1 << CONFIG_NET_USER, TAP = 1 << CONFIG_NET_TAP, SWITCH = 1 << CONFIG_NET_SWITCH };

/* ADDRESS/PREFIX: the router, the name server and the guest have addresses in it. */
static int parse_subnet(struct config_parse *p, const char *value, void *target)
{
	const char *slash = strchr(value, '/');
	char addr[INET_ADDRSTRLEN] = "";
	struct config_net *n = target;
	struct in_addr binary;
	unsigned prefix;

	if (slash && (size_t)(slash - value) < sizeof(addr))
		memcpy(addr, value, slash - value);
	if (inet_pton(AF_INET, addr, &binary) != 1)
		return config_fail(p, "'%s' is not ADDRESS/PREFIX such as 10.0.2.0/24", value);
	if (config_set_number(p, slash + 1, 8, 27, &prefix) < 0)
		return -EINVAL;
	return config_set_string(p, value, &n->subnet);
}

static int parse_dns(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	struct in_addr binary;

	if (inet_pton(AF_INET, value, &binary) != 1)
		return config_fail(p, "'%s' is not an IPv4 address", value);
	return config_set_string(p, value, &n->dns);
}

static int parse_search(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	int r;

	if (n->num_search == CONFIG_MAX_SEARCH)
		return config_fail(p, "more than %d domains", CONFIG_MAX_SEARCH);
	if (!isalnum((unsigned char)*value) || strlen(value) > 253 ||
	    strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") !=
		    strlen(value))
		return config_fail(p, "'%s' is not a domain", value);
	r = config_set_string(p, value, &n->search[n->num_search]);
	if (!r)
		n->num_search++;
	return r;
}

static int set_tap_name(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;

	return config_set_string(p, value, &n->tap_name);
}

static int parse_fd(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	unsigned fd;
	int r = config_set_number(p, value, 3, INT_MAX, &fd);

	if (!r) {
		n->tap_fd = fd;
		n->tap_fd_given = true;
	}
	return r;
}

/* A count of frames, or of bytes with a unit. */
static int parse_rate(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	bool is_size = p->key[0] == 'b', burst = strstr(p->key, "-burst");
	bool digits = value && strspn(value, "0123456789") == strlen(value);
	uint64_t *rate = is_size ? &n->bps : &n->pps, v;
	int r = value && (digits || is_size) ? config_parse_size(value, 1, &v) : -EINVAL;

	if (burst)
		rate = is_size ? &n->bps_burst : &n->pps_burst;
	if (r == -EINVAL)
		return config_fail(p, "'%s' is not a number%s", value ? value : "",
				   is_size ? " such as 1000 or 10M" : "");
	if (r < 0 || !v || v > MAX_RATE)
		return config_fail(p, "%s is out of range (1 to 1T)", value);
	*rate = v;
	return 0;
}

static int parse_service(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;

	if (inet_pton(AF_INET, value, &n->service) != 1 || !n->service.s_addr)
		return config_fail(p, "'%s' is not an IPv4 address", value);
	return 0;
}

const struct config_item config_net_keys[] = {
	{ "hostfwd", "tcp|udp:[ADDRESS]:PORT-:PORT",
	  "user: Pass connections to a port of the host on to a port of the guest; IPv6 addresses "
	  "are in brackets, no address means 127.0.0.1. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_hostfwd },
	{ "restrict", "on|off", "user: Let the guest reach nothing but what forwards bring (off)",
	  CONFIG_FLAG, NET(restrict_out) },
	{ "host-loopback", "on|off",
	  "user: Let the guest reach the host's own 127.0.0.1 through its gateway (off)",
	  CONFIG_FLAG, NET(host_loopback) },
	{ "subnet", "ADDRESS/PREFIX",
	  "user: The guest's network; host, name server and guest are 2, 3 and 15 in it "
	  "(10.0.2.0/24)",
	  CONFIG_CUSTOM, .parse = parse_subnet },
	{ "dns", "ADDRESS",
	  "user: The name server that the guest is told of (one in its network, which asks the "
	  "host's)",
	  CONFIG_CUSTOM, .parse = parse_dns },
	{ "search", "DOMAIN", "user: A domain in which names are looked up. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_search },
	{ "name", "INTERFACE",
	  "tap: An interface that exists and is ours: ip tuntap add dev tap0 mode tap user $USER",
	  CONFIG_CUSTOM, .parse = set_tap_name },
	{ "fd", "N", "tap: An open descriptor of it instead, inherited from who starts wisp",
	  CONFIG_CUSTOM, .parse = parse_fd },
	{ "queues", "N",
	  "tap: Pairs of queues, 1 to 16; more than one need a tap made with multi_queue (1)",
	  CONFIG_NUMBER, NET(queues), 1, NET_MAX_PAIRS },
	{ "vhost", "on|off",
	  "tap: Leave moving frames to the host's kernel, through /dev/vhost-net; without rate "
	  "limits, frame counters and packed rings (off)",
	  CONFIG_FLAG, NET(vhost) },
	{ "vlan", "N", "switch: Which of its networks, 1 to 4094 (1)", CONFIG_NUMBER, NET(vlan), 1,
	  NET_SWITCH_MAX_VLAN },
	{ "pps", "N", "At most so many frames a second, each way (no limit)", CONFIG_CUSTOM,
	  .parse = parse_rate },
	{ "bps", "SIZE", "At most so many bytes a second, each way (no limit)", CONFIG_CUSTOM,
	  .parse = parse_rate },
	{ "pps-burst", "N", "Frames that may go at once after a pause (a quarter of pps)",
	  CONFIG_CUSTOM, .parse = parse_rate },
	{ "bps-burst", "SIZE", "Bytes that may go at once after a pause (a quarter of bps)",
	  CONFIG_CUSTOM, .parse = parse_rate },
	{ "mac", "ADDRESS",
	  "The guest's hardware address (user: 02:77:69:73:70:00, ...:01, ...; else a random one)",
	  CONFIG_CUSTOM, .parse = parse_mac },
	{ "mtu", "N", "Largest packet, 1280 to 65520 (1500, or what the tap has)", CONFIG_CUSTOM,
	  .parse = parse_mtu },
	{ "service", "ADDRESS",
	  "Leave what goes to this IPv4 address to a service of the host's, as 'wisp api' has one "
	  "for instance metadata",
	  CONFIG_CUSTOM, .parse = parse_service },
	{ "id", "ID", "Name of the device (net0, net1, ...)", CONFIG_STRING, NET(id) },
	{ "slot", "N", "Which slot of the PCI bus it is in (the next one)", CONFIG_NUMBER,
	  NET(slot), 1, CONFIG_MAX_SLOT },
	{ 0 },
};

static int parse_net_kind(struct config_parse *p, const char *value, void *target)
{
	struct config_net *n = target;
	unsigned kind;
	int r;

	if (!strncmp(value, "switch=", 7) && value[7]) {
		n->kind = CONFIG_NET_SWITCH;
		return config_set_string(p, value + 7, &n->switch_name);
	}
	r = config_set_choice(p, value, "user|tap|switch=NAME|none", &kind);
	if (!r && kind > CONFIG_NET_TAP)
		return config_fail(p, "'none' has no keys");
	if (!r)
		n->kind = kind;
	return r;
}

/* Was each key given to a kind of network that has it? */
static int check_keys(struct config_parse *p, const struct config_net *n)
{
	static const char *const kinds[] = { "user", "tap", "switch" };
	const struct {
		const char *key;
		bool given;
		unsigned kinds;
	} keys[] = {
		{ "hostfwd", n->num_forwards, USER },
		{ "restrict", n->restrict_out, USER },
		{ "host-loopback", n->host_loopback, USER },
		{ "subnet", n->subnet, USER },
		{ "dns", n->dns, USER },
		{ "search", n->num_search, USER },
		{ "name", n->tap_name, TAP },
		{ "fd", n->tap_fd_given, TAP },
		{ "queues", n->queues != 1, TAP },
		{ "vhost", n->vhost, TAP },
		{ "vlan", n->vlan != NET_SWITCH_DEFAULT_VLAN, SWITCH },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].given && !(keys[i].kinds & 1u << n->kind))
			return config_fail(p, "'%s' is no key of '%s'", keys[i].key,
					   kinds[n->kind]);
	if (n->kind == CONFIG_NET_TAP && !n->tap_name == !n->tap_fd_given)
		return config_fail(p, "tap needs either name=INTERFACE or fd=N");
	if (n->tap_fd_given && n->queues != 1)
		return config_fail(p, "queues: a tap by descriptor has one");
	if (n->service.s_addr && n->queues != 1)
		return config_fail(p, "queues: with a service there is one");
	if (n->vhost && (n->pps || n->bps))
		return config_fail(p, "vhost: the host's kernel knows no limits (pps, bps)");
	if (n->vhost && n->service.s_addr)
		return config_fail(p, "vhost: the host's kernel leaves nothing to a service");
	return 0;
}

/* "Locally administered": 02. */
void config_net_default_mac(struct config_net *n, unsigned index)
{
	const uint8_t fixed[6] = { 0x02, 'w', 'i', 's', 'p', index };

	memcpy(n->mac, fixed, sizeof(fixed));
	/* A user network has no other guest; elsewhere each needs one of its own. */
	if (n->kind != CONFIG_NET_USER && getrandom(n->mac + 2, 4, GRND_NONBLOCK) < 0)
		log_debug("no random address: %m");
}

/* May this one stand beside those that were given so far? */
static int check_none(struct config_parse *p, struct machine_config *c, bool none, bool later)
{
	/* One that was plugged in later says nothing of those at the start. */
	if (later)
		return 0;
	if (c->net_given && (!c->num_nets || none))
		return config_fail(p, "'none' cannot be combined with a network");
	c->net_given = true;
	return 0;
}

int config_parse_net(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	bool none = !strcmp(value, "none");
	struct config_net *n = &c->net[c->num_nets];
	int r;

	if (none)
		return check_none(p, c, true, false);
	if (c->num_nets == CONFIG_MAX_NETS)
		return config_fail(p, "more than %d networks", CONFIG_MAX_NETS);
	*n = (struct config_net){
		.kind = CONFIG_NET_USER,
		.queues = 1,
		.vlan = NET_SWITCH_DEFAULT_VLAN,
	};
	r = config_set_keys(p, value, config_net_keys, parse_net_kind, n);
	if (!r)
		r = check_keys(p, n);
	if (!r)
		r = check_none(p, c, false, n->slot);
	/* What was set of it is freed with the rest, also when it is wrong. */
	c->num_nets++;
	return r;
}
