/* The options that describe devices: --disk, --serial, --console. */
#include "vmm/config_parse.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

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
