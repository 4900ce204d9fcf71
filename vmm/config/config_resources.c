/* --cpu-max, --memory-max, --io-max, --pin: what a microVM may take of the host. */
#include "vmm/config/config_parse.h"

#include <errno.h>
#include <stdlib.h>

#define IO(m) offsetof(struct config_resources, m)

/* Beyond what any host has, and within what the kernel's files take. */
#define MAX_CPU_PERCENT 1000000
#define MAX_IO_RATE	(1ull << 50)

int config_parse_cpu_max(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	char *end;
	double cpus = strtod(value, &end);

	/* Compared so that no number at all is refused too. */
	if (*value < '0' || *value > '9' || *end ||
	    !(cpus >= 0.01 && cpus * 100 <= MAX_CPU_PERCENT))
		return config_fail(p, "'%s' is not a number of processors from 0.01 to 10000",
				   value);
	c->resources.cpu_percent = (unsigned)(cpus * 100 + 0.5);
	return 0;
}

int config_parse_memory_max(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	if (config_parse_size(value, MiB, &c->resources.memory_bytes) < 0 ||
	    c->resources.memory_bytes < MiB)
		return config_fail(p, "'%s' is not a size of 1M or more", value);
	return 0;
}

static int parse_rate(struct config_parse *p, const char *value, uint64_t *ret)
{
	if (config_parse_size(value, 1, ret) < 0 || *ret < 1 || *ret > MAX_IO_RATE)
		return config_fail(p, "'%s' is not a rate from 1 to 1024T", value);
	return 0;
}

#define RATE_PARSER(member)                                                                \
	static int parse_##member(struct config_parse *p, const char *value, void *target) \
	{                                                                                  \
		return parse_rate(p, value, &((struct config_resources *)target)->member); \
	}

RATE_PARSER(io_read_bytes)
RATE_PARSER(io_write_bytes)
RATE_PARSER(io_reads)
RATE_PARSER(io_writes)

const struct config_item config_io_max_keys[] = {
	{ "rbps", "SIZE", "Bytes read a second", CONFIG_CUSTOM, .parse = parse_io_read_bytes },
	{ "wbps", "SIZE", "Bytes written a second", CONFIG_CUSTOM, .parse = parse_io_write_bytes },
	{ "riops", "N", "Reads a second", CONFIG_CUSTOM, .parse = parse_io_reads },
	{ "wiops", "N", "Writes a second", CONFIG_CUSTOM, .parse = parse_io_writes },
	{ 0 },
};

static int io_path(struct config_parse *p, const char *value, void *target)
{
	struct config_resources *r = target;

	return config_set_string(p, value, &r->io_path);
}

int config_parse_io_max(struct config_parse *p, const char *value, void *target)
{
	struct config_resources *r = &((struct machine_config *)target)->resources;
	int ret = config_set_keys(p, value, config_io_max_keys, io_path, r);

	if (!ret && !r->io_read_bytes && !r->io_write_bytes && !r->io_reads && !r->io_writes)
		return config_fail(p, "no limit is given: rbps=, wbps=, riops=, wiops=");
	return ret;
}

int config_parse_pin(struct config_parse *p, const char *value, void *target)
{
	struct config_resources *r = &((struct machine_config *)target)->resources;
	const char *s = value;
	char *end;

	CPU_ZERO(&r->pin);
	do {
		unsigned long from, to;

		if (*s < '0' || *s > '9')
			break;
		from = to = strtoul(s, &end, 10);
		if (*end == '-' && end[1] >= '0' && end[1] <= '9')
			to = strtoul(end + 1, &end, 10);
		if (from > to || to >= CPU_SETSIZE)
			break;
		for (; from <= to; from++)
			CPU_SET(from, &r->pin);
		s = end;
		if (!*s) {
			r->pinned = true;
			return 0;
		}
	} while (*s++ == ',');
	return config_fail(p, "'%s' is not a list of processors such as 0-3,7 (up to %d)", value,
			   CPU_SETSIZE - 1);
}
