/* The options that describe devices: --disk, --net, --serial, --console. */
#include "vmm/config_parse.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MIN_MTU 1280 /* IPv6 needs it */
#define MAX_MTU 65520

/* ---- disks ---- */

#define DISK(m) offsetof(struct config_disk, m)

const struct config_item config_disk_keys[] = {
	{ "ro", "on|off", "Read-only (off)", CONFIG_FLAG, DISK(read_only) },
	{ "format", "auto|raw",
	  "Format of the image (auto: raw, but refused when it begins like a qcow2 image)",
	  CONFIG_CHOICE, DISK(format) },
	{ "direct", "on|off", "Go around the host's page cache with O_DIRECT (off)", CONFIG_FLAG,
	  DISK(direct) },
	{ "cache", "writeback|writethrough|unsafe",
	  "When writes are durable: at a flush, at once, never for sure (writeback)", CONFIG_CHOICE,
	  DISK(cache) },
	{ "queues", "N", "Request queues, 1 to 16 (1)", CONFIG_NUMBER, DISK(queues), 1,
	  CONFIG_MAX_QUEUES },
	{ "id", "ID", "Name of the device (disk0, disk1, ...)", CONFIG_STRING, DISK(id) },
	{ "serial", "TEXT", "Serial number that the guest reads, up to 20 bytes (the id)",
	  CONFIG_STRING, DISK(serial) },
	{ 0 },
};

static int set_disk_path(struct config_parse *p, const char *value, void *target)
{
	struct config_disk *d = target;

	if (!*value)
		return config_fail(p, "the path is empty");
	return config_set_string(p, value, &d->path);
}

int config_parse_disk(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	struct config_disk *d;

	if (c->num_disks == CONFIG_MAX_DISKS)
		return config_fail(p, "more than %d disks", CONFIG_MAX_DISKS);
	/* Counted at once, so that config_done() frees it when a key is wrong. */
	d = &c->disk[c->num_disks++];
	*d = (struct config_disk){ .queues = 1 };
	return config_set_keys(p, value, config_disk_keys, set_disk_path, d);
}

void config_disk_to_front(struct machine_config *c)
{
	struct config_disk last = c->disk[c->num_disks - 1];

	memmove(&c->disk[1], &c->disk[0], (c->num_disks - 1) * sizeof(last));
	c->disk[0] = last;
}

/* ---- networks ---- */

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
	if (text == end || n < 1 || n > UINT16_MAX)
		return config_fail(p, "port %.*s is out of range (1 to 65535)",
				   text == end ? 6 : (int)(end - text),
				   text == end ? "(none)" : text);
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

const struct config_item config_net_user_keys[] = {
	{ "hostfwd", "tcp|udp:[ADDRESS]:PORT-:PORT",
	  "Pass connections to a port of the host on to a port of the guest; IPv6 addresses are in "
	  "brackets, no address means 127.0.0.1. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_hostfwd },
	{ "restrict", "on|off", "Let the guest reach nothing but what forwards bring (off)",
	  CONFIG_FLAG, NET(restrict_out) },
	{ "host-loopback", "on|off",
	  "Let the guest reach the host's own 127.0.0.1 through its gateway (off)", CONFIG_FLAG,
	  NET(host_loopback) },
	{ "mac", "ADDRESS", "The guest's hardware address (02:77:69:73:70:00, ...:01, ...)",
	  CONFIG_CUSTOM, .parse = parse_mac },
	{ "mtu", "N", "Largest packet, 1280 to 65520 (1500)", CONFIG_CUSTOM, .parse = parse_mtu },
	{ "id", "ID", "Name of the device (net0, net1, ...)", CONFIG_STRING, NET(id) },
	{ 0 },
};

static int check_net_kind(struct config_parse *p, const char *value, void *target)
{
	unsigned kind;

	return config_set_choice(p, value, "user|none", &kind);
}

int config_parse_net(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	struct config_net *n;

	if (c->net_given && (!c->num_nets || !strcmp(value, "none")))
		return config_fail(p, "'none' cannot be combined with a network");
	c->net_given = true;
	if (!strcmp(value, "none"))
		return 0;
	if (c->num_nets == CONFIG_MAX_NETS)
		return config_fail(p, "more than %d networks", CONFIG_MAX_NETS);
	n = &c->net[c->num_nets++];
	*n = (struct config_net){ .kind = CONFIG_NET_USER, .queues = 1 };
	return config_set_keys(p, value, config_net_user_keys, check_net_kind, n);
}

/* ---- serial port and console ---- */

static int parse_char(struct config_parse *p, const char *value, struct config_char *end,
		      bool *ret_present)
{
	*ret_present = strcmp(value, "none") != 0;
	if (!strcmp(value, "none")) {
		end->kind = CHARDEV_NULL;
		return 0;
	}
	if (!strcmp(value, "stdio")) {
		end->kind = CHARDEV_STDIO;
		return 0;
	}
	if (!strncmp(value, "file=", 5)) {
		end->kind = CHARDEV_FILE;
		return config_set_string(p, value + 5, &end->path);
	}
	if (!strncmp(value, "socket=", 7)) {
		end->kind = CHARDEV_SOCKET;
		return config_set_string(p, value + 7, &end->path);
	}
	return config_fail(p, "unknown value '%s' (known: stdio, none, file=PATH, socket=PATH)",
			   value);
}

int config_parse_serial(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	return parse_char(p, value, &c->serial, &c->serial_present);
}

int config_parse_console(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	p->console_given = true;
	return parse_char(p, value, &c->console, &c->console_present);
}
