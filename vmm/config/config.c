#include "vmm/config/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

#include "devices/nbd.h"
#include "devices/vsock_broker.h"

#include "vmm/config/config_parse.h"
#include "vmm/debug/gdb.h"

#define HUGE_PAGE (2 * MiB)

#define ID_BYTES CONFIG_NAME_BYTES

void config_init(struct machine_config *c)
{
	*c = (struct machine_config){
		.cpus = 1,
		.memory_bytes = 256 * MiB,
		.memory_backing = GUEST_MEM_ANON,
		.cpu = X86_CPU_HOST,
		.transport = CONFIG_PCI,
		.console = { .kind = CHARDEV_STDIO },
		.console_present = true,
		.rng = true,
		.loop = LOOP_AUTO,
		.virtio_packed = true,
		.sandbox = SANDBOX_ON,
		.log_level = LOG_WARN,
	};
}

void config_free_disk(struct config_disk *d)
{
	free(d->path);
	free(d->id);
	free(d->serial);
	for (unsigned k = 0; k < d->num_backing; k++)
		free(d->backing[k]);
}

void config_free_pmem(struct config_pmem *p)
{
	free(p->path);
	free(p->id);
}

void config_free_net(struct config_net *n)
{
	free(n->id);
	free(n->tap_name);
	free(n->switch_name);
	free(n->subnet);
	free(n->dns);
	for (unsigned k = 0; k < n->num_search; k++)
		free(n->search[k]);
	for (unsigned k = 0; k < n->num_forwards; k++)
		free(n->forward[k].host_addr);
}

void config_done(struct machine_config *c)
{
	for (unsigned i = 0; i < c->num_args; i++)
		free(c->args[i]);
	free(c->args);
	free(c->args_dir);
	free(c->name);
	free(c->kernel);
	free(c->initrd);
	free(c->cmdline);
	free(c->firmware);
	free(c->cpu_template);
	free(c->serial.path);
	free(c->console.path);
	free(c->run_dir);
	free(c->gdb);
	free(c->core_file);
	free(c->log_file);
	free(c->metrics_file);
	free(c->resources.io_path);
	free(c->vsock.path);
	for (unsigned i = 0; i < c->num_disks; i++)
		config_free_disk(&c->disk[i]);
	for (unsigned i = 0; i < c->num_pmems; i++)
		config_free_pmem(&c->pmem[i]);
	for (unsigned i = 0; i < c->num_shares; i++) {
		free(c->share[i].path);
		free(c->share[i].tag);
		free(c->share[i].id);
	}
	for (unsigned i = 0; i < c->num_nets; i++)
		config_free_net(&c->net[i]);
	memset(c, 0, sizeof(*c));
}

/* ---- sizes ---- */

static const char size_letters[] = "KMGT";

/* The multiplier that @suffix names, 0 when it names none. */
static uint64_t size_multiplier(const char *suffix, uint64_t unit)
{
	const char *letter;

	if (!*suffix)
		return unit;
	letter = strchr(size_letters, toupper((unsigned char)*suffix));
	if (!letter || suffix[1])
		return 0;
	return 1ull << (10 * (letter - size_letters + 1));
}

int config_parse_size(const char *text, uint64_t unit, uint64_t *ret_bytes)
{
	uint64_t whole = 0, part = 0, scale = 1, multiplier, bytes;
	const char *p = text;
	bool too_big = false;

	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	for (; isdigit((unsigned char)*p); p++)
		too_big |= __builtin_mul_overflow(whole, 10, &whole) ||
			   __builtin_add_overflow(whole, *p - '0', &whole);
	if (*p == '.') {
		if (!isdigit((unsigned char)*++p))
			return -EINVAL;
		/* Six digits are more than anyone means, and cannot overflow below. */
		for (; isdigit((unsigned char)*p); p++) {
			if (scale == 1000000)
				return -EINVAL;
			part = part * 10 + (*p - '0');
			scale *= 10;
		}
	}
	multiplier = size_multiplier(p, unit);
	if (!multiplier)
		return -EINVAL;
	if (too_big || __builtin_mul_overflow(whole, multiplier, &bytes) ||
	    __builtin_add_overflow(bytes, multiplier * part / scale, &bytes))
		return -ERANGE;
	*ret_bytes = bytes;
	return 0;
}

const char *config_size_text(char *buf, size_t len, uint64_t bytes)
{
	unsigned power = 0;

	while (bytes && bytes % 1024 == 0 && size_letters[power]) {
		bytes /= 1024;
		power++;
	}
	snprintf(buf, len, "%" PRIu64 "%.1s", bytes, power ? &size_letters[power - 1] : "");
	return buf;
}

/* ---- the whole against itself ---- */

static int check_memory(const struct machine_config *c, struct error *err)
{
	char size[24], limit[24];

	config_size_text(size, sizeof(size), c->memory_bytes);
	if (c->memory_bytes < CONFIG_MIN_MEMORY)
		return error_usage(err, -ERANGE, "--memory: %s is too little (at least %s)", size,
				   config_size_text(limit, sizeof(limit), CONFIG_MIN_MEMORY));
	if (c->memory_bytes > CONFIG_MAX_MEMORY)
		return error_usage(err, -ERANGE, "--memory: %s is too much (at most %s)", size,
				   config_size_text(limit, sizeof(limit), CONFIG_MAX_MEMORY));
	if (c->memory_bytes % PAGE_SIZE)
		return error_usage(err, -EINVAL, "--memory: %s is not a multiple of 4K", size);
	if (c->memory_backing == GUEST_MEM_HUGETLB && c->memory_bytes % HUGE_PAGE)
		return error_usage(err, -EINVAL,
				   "--memory: %s is not a multiple of 2M, as --hugepages needs",
				   size);
	return 0;
}

static bool is_id(const char *id)
{
	size_t len = strlen(id);

	/* A leading dot or dash would read as a hidden file or an option. */
	return len >= 1 && len <= ID_BYTES && isalnum((unsigned char)*id) &&
	       strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
		       len;
}

int config_check_name(const char *what, const char *name, struct error *err)
{
	if (is_id(name))
		return 0;
	return error_usage(err, -EINVAL,
			   "%s: id '%.*s'%s is not 1 to %d letters, digits, '.', '_' or '-'",
			   what, 2 * ID_BYTES, name, strlen(name) > 2 * ID_BYTES ? "..." : "",
			   ID_BYTES);
}

static int check_id(const char *option, const char *id, struct error *err)
{
	return id ? config_check_name(option, id, err) : 0;
}

/* Beside the directories of microVMs there are sockets of other things, by names that end so. */
static int check_machine_name(const char *name, struct error *err)
{
	const char *dot = name ? strrchr(name, '.') : NULL;

	if (dot && (!strcmp(dot, ".switch") || !strcmp(dot, ".rewind")))
		return error_usage(err, -EINVAL, "--name: '%s' ends in '%s', as no microVM can",
				   name, dot);
	return check_id("--name", name, err);
}

/* A server has a format, a page cache and backing files of its own. */
static int check_remote_disk(const struct config_disk *d, struct error *err)
{
	const char *key = d->direct			     ? "direct" :
			  d->num_backing		     ? "backing" :
			  d->follow_backing		     ? "follow-backing" :
			  d->format == BLOCK_FORMAT_QCOW2 ? "format=qcow2" :
							       NULL;

	if (key)
		return error_usage(err, -EINVAL, "--disk '%s': %s is for files", d->path, key);
	return nbd_check_uri(d->path, err);
}

static int check_disk(const struct machine_config *c, unsigned i, struct error *err)
{
	const struct config_disk *d = &c->disk[i];
	int r = check_id("--disk", d->id, err);

	/* A saved machine's may be elsewhere than its arguments say. */
	if (!r)
		r = config_check_text("--disk:", d->path, err);
	if (r < 0)
		return r;
	if (d->serial && strlen(d->serial) > CONFIG_DISK_SERIAL)
		return error_usage(err, -EINVAL, "--disk: serial '%s' is longer than %d bytes",
				   d->serial, CONFIG_DISK_SERIAL);
	if (nbd_is_uri(d->path)) {
		r = check_remote_disk(d, err);
		if (r < 0)
			return r;
	}
	for (unsigned k = 0; k < i; k++) {
		const struct config_disk *other = &c->disk[k];

		if (d->id && other->id && !strcmp(d->id, other->id))
			return error_usage(err, -EEXIST, "--disk: id '%s' is given twice", d->id);
		if (!strcmp(d->path, other->path) && !(d->read_only && other->read_only))
			return error_usage(err, -EEXIST,
					   "--disk: '%s' is given twice; only read-only disks "
					   "(ro) may share a file",
					   d->path);
	}
	return 0;
}

static int check_pmem(const struct machine_config *c, unsigned i, struct error *err)
{
	const struct config_pmem *p = &c->pmem[i];
	int r = check_id("--pmem", p->id, err);

	if (r < 0)
		return r;
	for (unsigned k = 0; k < i; k++)
		if (p->id && c->pmem[k].id && !strcmp(p->id, c->pmem[k].id))
			return error_usage(err, -EEXIST, "--pmem: id '%s' is given twice", p->id);
	return 0;
}

static bool is_any_address(const char *addr)
{
	struct in6_addr a6;
	struct in_addr a4;

	if (inet_pton(AF_INET, addr, &a4) == 1)
		return a4.s_addr == INADDR_ANY;
	return inet_pton(AF_INET6, addr, &a6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&a6);
}

/* Would listening for the one keep the other from listening? */
static bool forwards_collide(const struct config_forward *a, const struct config_forward *b)
{
	bool same_family = !strchr(a->host_addr, ':') == !strchr(b->host_addr, ':');

	return a->udp == b->udp && a->host_port == b->host_port && same_family &&
	       (!strcmp(a->host_addr, b->host_addr) || is_any_address(a->host_addr) ||
		is_any_address(b->host_addr));
}

/* Is forward @f of network @n the same as one before it? */
static bool forward_repeated(const struct machine_config *c, unsigned n, unsigned f)
{
	for (unsigned i = 0; i <= n; i++)
		for (unsigned k = 0; k < (i < n ? c->net[i].num_forwards : f); k++)
			if (forwards_collide(&c->net[i].forward[k], &c->net[n].forward[f]))
				return true;
	return false;
}

static int check_net(const struct machine_config *c, unsigned i, struct error *err)
{
	const struct config_net *n = &c->net[i];
	int r = check_id("--net", n->id, err);

	if (r < 0)
		return r;
	for (unsigned k = 0; k < i; k++) {
		if (n->id && c->net[k].id && !strcmp(n->id, c->net[k].id))
			return error_usage(err, -EEXIST, "--net: id '%s' is given twice", n->id);
		if (!memcmp(n->mac, c->net[k].mac, sizeof(n->mac)))
			return error_usage(
				err, -EEXIST,
				"--net: mac %02x:%02x:%02x:%02x:%02x:%02x is given twice",
				n->mac[0], n->mac[1], n->mac[2], n->mac[3], n->mac[4], n->mac[5]);
	}
	for (unsigned k = 0; k < n->num_forwards; k++)
		if (forward_repeated(c, i, k))
			return error_usage(err, -EEXIST,
					   "--net: hostfwd: %s port %u of the host is given twice",
					   n->forward[k].udp ? "udp" : "tcp",
					   n->forward[k].host_port);
	return 0;
}

static int check_vsock(const struct machine_config *c, struct error *err)
{
	const size_t max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - VSOCK_SUFFIX_BYTES - 1;

	if (c->vsock.path && strlen(c->vsock.path) > max)
		return error_usage(err, -ENAMETOOLONG,
				   "--vsock: path '%s' is longer than %zu bytes", c->vsock.path,
				   max);
	return 0;
}

static int check_share(const struct machine_config *c, unsigned i, struct error *err)
{
	const struct config_share *s = &c->share[i];

	if (strlen(s->tag) > CONFIG_SHARE_TAG)
		return error_usage(err, -EINVAL, "--share: tag '%s' is longer than %d bytes",
				   s->tag, CONFIG_SHARE_TAG);
	if (s->acl && !s->xattr)
		return error_usage(err, -EINVAL,
				   "%s '%s': acl needs xattr=on: ACLs are such attributes",
				   s->is_root ? "--rootfs" : "--share", s->path);
	for (unsigned k = 0; k < i; k++)
		if (!strcmp(s->tag, c->share[k].tag))
			return error_usage(err, -EEXIST, "--share: tag '%s' is given twice",
					   s->tag);
	return 0;
}

/* Moments are forks: what a clone cannot have, they cannot either. */
static int check_rewind(const struct machine_config *c, struct error *err)
{
	if (!c->rewind.every_ms)
		return 0;
	if (c->memory_backing != GUEST_MEM_ANON)
		return error_usage(err, -ENOTSUP,
				   "--rewind: memory of --hugepages or --memory-backend shared "
				   "cannot be shared copy-on-write");
	if (c->num_pmems)
		return error_usage(err, -ENOTSUP,
				   "--rewind: persistent memory (--pmem) is no part of a moment");
	return 0;
}

/* Slots of the PCI bus that were asked for; the others are chosen when the devices are made. */
static int check_slots(struct machine_config *c, struct error *err)
{
	uint32_t taken = 0;

	for (enum config_device kind = 0; kind < CONFIG_DEVICES; kind++) {
		for (unsigned i = 0; i < config_num_devices(c, kind); i++) {
			unsigned slot = *config_device_slot(c, kind, i);

			if (slot && taken & 1u << slot)
				return error_usage(err, -EEXIST, "%s: slot %u is given twice",
						   config_device_kinds[kind].option, slot);
			taken |= 1u << slot;
		}
	}
	return 0;
}

int config_validate(struct machine_config *c, struct error *err)
{
	int r;

	if (c->cpus < 1 || c->cpus > CONFIG_MAX_CPUS)
		return error_usage(err, -ERANGE, "--cpus: %u is out of range (1 to %d)", c->cpus,
				   CONFIG_MAX_CPUS);
	if (c->cpu_template && c->cpu != X86_CPU_HOST)
		return error_usage(err, -EINVAL,
				   "--cpu-template changes what the host offers: --cpu %s cannot "
				   "go with it",
				   x86_cpu_model_name(c->cpu));
	r = check_memory(c, err);
	if (!r && c->args_dir)
		r = config_check_text("the directory", c->args_dir, err);
	if (!r && c->hotplug.bytes)
		r = config_check_hotplug(c, err);
	if (!r)
		r = check_machine_name(c->name, err);
	for (unsigned i = 0; i < c->num_disks && !r; i++)
		r = check_disk(c, i, err);
	for (unsigned i = 0; i < c->num_nets && !r; i++)
		r = check_net(c, i, err);
	if (!r)
		r = check_slots(c, err);
	for (unsigned i = 0; i < c->num_pmems && !r; i++)
		r = check_pmem(c, i, err);
	if (!r)
		r = check_vsock(c, err);
	for (unsigned i = 0; i < c->num_shares && !r; i++)
		r = check_share(c, i, err);
	if (!r && c->balloon.bytes > c->memory_bytes)
		r = error_usage(err, -ERANGE, "--balloon: more than --memory");
	if (!r)
		r = check_rewind(c, err);
	if (r < 0)
		return r;
	if ((c->uid || c->gid) && c->sandbox == SANDBOX_OFF)
		return error_usage(err, -EINVAL,
				   "--uid, --gid: the sandbox would set them, and it is off");
	if (c->gdb)
		r = gdb_check_where(c->gdb, err);
	else if (c->wait_gdb)
		r = error_usage(err, -EINVAL, "--wait-gdb: without --gdb no debugger can come");
	if (r < 0)
		return r;
	if (c->serial_present && c->console_present && c->serial.kind == CHARDEV_STDIO &&
	    c->console.kind == CHARDEV_STDIO)
		return error_usage(
			err, -EBUSY,
			"--serial stdio and --console stdio: there is only one terminal");
	return 0;
}
