/* The options that describe devices: --disk, --serial, --console. */
#include "vmm/config/config_parse.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"

/* ---- disks ---- */

#define DISK(m) offsetof(struct config_disk, m)

#define DEFAULT_RECONNECT 30 /* seconds */
#define MAX_RECONNECT	  86400

#define MAX_RATE (1ull << 40) /* a terabyte a second: more is no limit */

static int parse_rate(struct config_parse *p, const char *value, void *target);

static int parse_backing(struct config_parse *p, const char *value, void *target)
{
	struct config_disk *d = target;
	int r;

	if (d->num_backing == ARRAY_SIZE(d->backing))
		return config_fail(p, "more than %zu backing files", ARRAY_SIZE(d->backing));
	r = config_set_string(p, value, &d->backing[d->num_backing]);
	if (!r)
		d->num_backing++;
	return r;
}

const struct config_item config_disk_keys[] = {
	{ "ro", "on|off", "Read-only (off)", CONFIG_FLAG, DISK(read_only) },
	{ "format", "auto|raw|qcow2",
	  "Format of the image (auto: qcow2 when it begins like one, else raw; a guest can then "
	  "not write such a beginning to a raw image)",
	  CONFIG_CHOICE, DISK(format) },
	{ "backing", "PATH",
	  "The backing file of a qcow2 image, in place of the one that it names, which is not "
	  "opened; may be repeated, from the image down",
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_backing },
	{ "follow-backing", "on|off",
	  "Open whatever files images name as their backing: only for images that you trust (off)",
	  CONFIG_FLAG, DISK(follow_backing) },
	{ "direct", "on|off", "Go around the host's page cache with O_DIRECT (off)", CONFIG_FLAG,
	  DISK(direct) },
	{ "cache", "writeback|writethrough|unsafe",
	  "When writes are durable: at a flush, at once, never for sure (writeback)", CONFIG_CHOICE,
	  DISK(cache) },
	{ "queues", "N",
	  "Request queues, 1 to 16, each with a thread of its own (one, on the main thread)",
	  CONFIG_NUMBER, DISK(queues), 1, CONFIG_MAX_QUEUES },
	{ "iops", "N", "At most so many requests a second (no limit)", CONFIG_CUSTOM, DISK(iops),
	  .parse = parse_rate },
	{ "bps", "SIZE", "At most so many bytes a second (no limit)", CONFIG_CUSTOM, DISK(bps),
	  .parse = parse_rate },
	{ "iops-burst", "N", "Requests that may go at once after a pause (iops / 4)",
	  CONFIG_CUSTOM, DISK(iops_burst), .parse = parse_rate },
	{ "bps-burst", "SIZE", "Bytes that may go at once after a pause (bps / 4)", CONFIG_CUSTOM,
	  DISK(bps_burst), .parse = parse_rate },
	{ "reconnect", "SECONDS",
	  "How long requests wait when the server of an NBD disk is gone, before they fail; a "
	  "pause waits too, an end does not (30)",
	  CONFIG_NUMBER, DISK(reconnect_seconds), 0, MAX_RECONNECT },
	{ "id", "ID", "Name of the device (disk0, disk1, ...)", CONFIG_STRING, DISK(id) },
	{ "serial", "TEXT", "Serial number that the guest reads, up to 20 bytes (the id)",
	  CONFIG_STRING, DISK(serial) },
	{ "slot", "N", "Which slot of the PCI bus it is in (the next one)", CONFIG_NUMBER,
	  DISK(slot), 1, CONFIG_MAX_SLOT },
	{ 0 },
};

static int set_disk_path(struct config_parse *p, const char *value, void *target)
{
	struct config_disk *d = target;

	if (!*value)
		return config_fail(p, "the path is empty");
	return config_set_string(p, value, &d->path);
}

/* Its four keys begin with an i or a b. */
static uint64_t *rate_of(struct config_disk *d, const char *key)
{
	bool burst = strstr(key, "-burst");

	if (key[0] == 'i')
		return burst ? &d->iops_burst : &d->iops;
	return burst ? &d->bps_burst : &d->bps;
}

/* A count of requests, or of bytes with a unit. */
static int parse_rate(struct config_parse *p, const char *value, void *target)
{
	bool digits = value && strspn(value, "0123456789") == strlen(value);
	bool is_size = p->key[0] == 'b';
	uint64_t n;
	int r = value && (digits || is_size) ? config_parse_size(value, 1, &n) : -EINVAL;

	if (r == -EINVAL)
		return config_fail(p, "'%s' is not a number%s", value ? value : "",
				   is_size ? " such as 1000 or 10M" : "");
	if (r < 0 || !n || n > MAX_RATE)
		return config_fail(p, "%s is out of range (1 to 1T)", value);
	*rate_of(target, p->key) = n;
	return 0;
}

int config_parse_disk(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	struct config_disk *d;

	if (c->num_disks == CONFIG_MAX_DISKS)
		return config_fail(p, "more than %d disks", CONFIG_MAX_DISKS);
	/* Counted at once, so that config_done() frees it when a key is wrong. */
	d = &c->disk[c->num_disks++];
	*d = (struct config_disk){ .reconnect_seconds = DEFAULT_RECONNECT };
	return config_set_keys(p, value, config_disk_keys, set_disk_path, d);
}

void config_disk_to_front(struct machine_config *c)
{
	struct config_disk last = c->disk[c->num_disks - 1];

	memmove(&c->disk[1], &c->disk[0], (c->num_disks - 1) * sizeof(last));
	c->disk[0] = last;
}

/* ---- persistent memory ---- */

#define PMEM(m) offsetof(struct config_pmem, m)

/* Zero is none, since RAM is there. */
static int parse_address(struct config_parse *p, const char *value, void *target)
{
	struct config_pmem *pmem = target;
	char *end = NULL;
	bool hex = value && !strncmp(value, "0x", 2) && isxdigit((unsigned char)value[2]);
	uint64_t gpa;

	errno = 0;
	gpa = hex ? strtoull(value, &end, 16) : 0;
	if (!hex || *end || errno || !gpa || gpa % VIRTIO_PMEM_ALIGN)
		return config_fail(p, "'%s' is not a multiple of 0x%llx, in hexadecimal",
				   value ? value : "", VIRTIO_PMEM_ALIGN);
	pmem->gpa = gpa;
	return 0;
}

const struct config_item config_pmem_keys[] = {
	{ "ro", "on|off", "Read-only (off)", CONFIG_FLAG, PMEM(read_only) },
	{ "id", "ID", "Name of the device (pmem0, pmem1, ...)", CONFIG_STRING, PMEM(id) },
	{ "address", "0xADDRESS",
	  "Where the guest has it in its memory, a multiple of 2M behind all others (the next one)",
	  CONFIG_CUSTOM, .parse = parse_address },
	{ "slot", "N", "Which slot of the PCI bus it is in (the next one)", CONFIG_NUMBER,
	  PMEM(slot), 1, CONFIG_MAX_SLOT },
	{ 0 },
};

static int set_pmem_path(struct config_parse *p, const char *value, void *target)
{
	struct config_pmem *pmem = target;

	if (!*value)
		return config_fail(p, "the path is empty");
	return config_set_string(p, value, &pmem->path);
}

int config_parse_pmem(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	if (c->num_pmems == CONFIG_MAX_PMEMS)
		return config_fail(p, "more than %d files", CONFIG_MAX_PMEMS);
	/* Counted at once, so that config_done() frees it when a key is wrong. */
	return config_set_keys(p, value, config_pmem_keys, set_pmem_path,
			       &c->pmem[c->num_pmems++]);
}

/* ---- shared directories ---- */

#define SHARE(m) offsetof(struct config_share, m)

const struct config_item config_share_keys[] = {
	{ "ro", "on|off", "Read-only (off)", CONFIG_FLAG, SHARE(read_only) },
	{ "cache", "auto|never|always",
	  "How long the guest may believe what it knows: a second, contents being checked at every "
	  "open; not at all; or for good, for trees that nobody else changes (auto)",
	  CONFIG_CHOICE, SHARE(cache) },
	{ "writeback", "on|off",
	  "Let the guest gather writes before it passes them on (off)", CONFIG_FLAG,
	  SHARE(writeback) },
	{ "xattr", "on|off", "Extended attributes (on)", CONFIG_SWITCH, SHARE(xattr) },
	{ "acl", "on|off",
	  "The guest goes by POSIX ACLs, not by modes alone; costs it a question for each file "
	  "that it comes to (off)", CONFIG_FLAG, SHARE(acl) },
	{ 0 },
};

static struct config_share *add_share(struct config_parse *p)
{
	struct machine_config *c = p->config;

	if (c->num_shares == CONFIG_MAX_SHARES) {
		config_fail(p, "more than %d shared directories", CONFIG_MAX_SHARES);
		return NULL;
	}
	c->share[c->num_shares] = (struct config_share){ .xattr = true };
	return &c->share[c->num_shares++];
}

static int set_share_path(struct config_parse *p, const char *value, void *target)
{
	struct config_share *s = target;
	const char *colon = strrchr(value, ':');
	int r;

	if (!colon || colon == value || !colon[1])
		return config_fail(p, "'%s' is not DIRECTORY:TAG", value);
	r = config_set_string(p, colon + 1, &s->tag);
	if (!r)
		r = config_set_string(p, value, &s->path);
	if (!r)
		s->path[colon - value] = '\0';
	return r;
}

int config_parse_share(struct config_parse *p, const char *value, void *target)
{
	struct config_share *s = add_share(p);

	return s ? config_set_keys(p, value, config_share_keys, set_share_path, s) : -EINVAL;
}

static int set_rootfs_path(struct config_parse *p, const char *value, void *target)
{
	struct config_share *s = target;
	int r = config_set_string(p, value, &s->path);

	return r < 0 ? r : config_set_string(p, "rootfs", &s->tag);
}

int config_parse_rootfs(struct config_parse *p, const char *value, void *target)
{
	struct config_share *s = add_share(p);

	if (!s)
		return -EINVAL;
	s->is_root = true;
	return config_set_keys(p, value, config_share_keys, set_rootfs_path, s);
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
