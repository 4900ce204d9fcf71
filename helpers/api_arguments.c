/* What is configured, as arguments of `wisp run`. */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/core/guest_mem_later.h"

/* What Firecracker gives a kernel when nothing is said. */
#define DEFAULT_ARGS                                                                       \
	"reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd " \
	"swiotlb=noforce"

#define MAX_ARGUMENTS 256

struct arguments {
	char **argv;
	unsigned num;
	bool failed;
};

static const char *text_of(const json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}

static bool is_set(const json_t *o, const char *name)
{
	return json_is_true(json_object_get(o, name));
}

static void add(struct arguments *a, const char *fmt, ...) __printf(2, 3);

static void add(struct arguments *a, const char *fmt, ...)
{
	va_list ap;

	if (a->num + 1 >= MAX_ARGUMENTS) {
		a->failed = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&a->argv[a->num], fmt, ap) < 0) {
		a->argv[a->num] = NULL;
		a->failed = true;
	} else {
		a->num++;
	}
	va_end(ap);
}

/* A path in a device option: commas doubled. The caller frees it. */
static char *quoted(const char *path)
{
	char *text = malloc(2 * strlen(path) + 1), *to = text;

	if (!text)
		return NULL;
	for (; *path; path++) {
		if (*path == ',')
			*to++ = ',';
		*to++ = *path;
	}
	*to = '\0';
	return text;
}

bool api_bucket(const json_t *bucket, json_int_t *ret_rate, json_int_t *ret_burst)
{
	json_int_t tokens = json_integer_value(json_object_get(bucket, "size"));
	json_int_t ms = json_integer_value(json_object_get(bucket, "refill_time"));
	double rate;

	/* As in Firecracker a bucket of nothing, or one that is always full, limits nothing. */
	if (tokens <= 0 || ms <= 0)
		return false;
	rate = (double)tokens * 1000 / (double)ms;
	if (rate > (double)API_MAX_RATE)
		return false;
	*ret_rate = MAX((json_int_t)rate, 1);
	*ret_burst = MIN(tokens, API_MAX_RATE);
	return true;
}

/* A token bucket as keys of --disk: ",iops=N,iops-burst=N"; empty when it limits nothing. */
static void format_limit(char *buf, size_t size, const char *key, const json_t *bucket)
{
	json_int_t rate, burst;

	*buf = '\0';
	if (api_bucket(bucket, &rate, &burst))
		snprintf(buf, size, ",%s=%lld,%s-burst=%lld", key, (long long)rate, key,
			 (long long)burst);
}

char *api_disk_option(const char *id, const json_t *d)
{
	const json_t *limiter = json_object_get(d, "rate_limiter");
	char iops[100], bps[100], *option;
	char *path = quoted(text_of(d, "path_on_host"));

	format_limit(iops, sizeof(iops), "iops", json_object_get(limiter, "ops"));
	format_limit(bps, sizeof(bps), "bps", json_object_get(limiter, "bandwidth"));
	if (!path ||
	    asprintf(&option, "--disk=%s,format=raw,id=%s%s%s%s%s", path, id,
		     is_set(d, "is_read_only") ? ",ro" : "",
		     !strcmp(text_of(d, "cache_type"), "Unsafe") ? ",cache=unsafe" : "", iops,
		     bps) < 0)
		option = NULL;
	free(path);
	return option;
}

/* @option is taken over. */
static void add_option(struct arguments *a, char *option)
{
	if (option)
		add(a, "%s", option);
	else
		a->failed = true;
	free(option);
}

static void add_drive(struct arguments *a, const char *id, const json_t *d)
{
	add_option(a, api_disk_option(id, d));
}

/* The root device is the guest's first disk, in whatever order they came. */
static const json_t *add_drives(struct arguments *a, const struct api *api)
{
	const json_t *root = NULL;
	const char *id;
	json_t *d;

	json_object_foreach(api->drives, id, d)
	{
		if (!is_set(d, "is_root_device"))
			continue;
		add_drive(a, id, d);
		root = d;
	}
	json_object_foreach(api->drives, id, d) if (!is_set(d, "is_root_device"))
		add_drive(a, id, d);
	return root;
}

char *api_pmem_option(const char *id, const json_t *p)
{
	char *path = quoted(text_of(p, "path_on_host")), *option;

	if (!path || asprintf(&option, "--pmem=%s,id=%s%s", path, id,
			      is_set(p, "read_only") ? ",ro" : "") < 0)
		option = NULL;
	free(path);
	return option;
}

/* Which of them is the root device, as the guest will call it: "/dev/pmem0"; NULL: none. */
static const json_t *add_pmems(struct arguments *a, const struct api *api, char *name, size_t size)
{
	const json_t *root = NULL;
	unsigned number = 0;
	const char *id;
	json_t *p;

	json_object_foreach(api->pmems, id, p)
	{
		add_option(a, api_pmem_option(id, p));
		if (is_set(p, "root_device")) {
			snprintf(name, size, "/dev/pmem%u", number);
			root = p;
		}
		number++;
	}
	return root;
}

static void add_cmdline(struct arguments *a, const struct api *api, const json_t *root,
			const json_t *pmem_root, const char *pmem_name)
{
	const char *args = text_of(api->boot, "boot_args");
	const char *partuuid = root ? text_of(root, "partuuid") : NULL;
	char where[200] = "";

	if (partuuid)
		snprintf(where, sizeof(where), " root=PARTUUID=%.100s %s", partuuid,
			 is_set(root, "is_read_only") ? "ro" : "rw");
	else if (root)
		snprintf(where, sizeof(where), " root=/dev/vda %s",
			 is_set(root, "is_read_only") ? "ro" : "rw");
	else if (pmem_root)
		snprintf(where, sizeof(where), " root=%s %s", pmem_name,
			 is_set(pmem_root, "read_only") ? "ro" : "rw");
	/* An option's value is not empty; to a kernel a space is nothing. */
	if (args && !*args)
		args = " ";
	add(a, "--cmdline-only=%s%s%s", args ? args : DEFAULT_ARGS,
	    api->options.enable_pci ? "" : " pci=off", where);
}

char *api_net_option(const struct api *api, const char *id, const json_t *n)
{
	char mac[40] = "", mtu[20] = "", service[40] = "", *option;
	char *name = quoted(text_of(n, "host_dev_name"));

	if (text_of(n, "guest_mac"))
		snprintf(mac, sizeof(mac), ",mac=%s", text_of(n, "guest_mac"));
	if (json_is_integer(json_object_get(n, "mtu")))
		snprintf(mtu, sizeof(mtu), ",mtu=%d",
			 (int)json_integer_value(json_object_get(n, "mtu")));
	if (api_mmds_is_on(api, id))
		snprintf(service, sizeof(service), ",service=%s", api_mmds_address(api));
	if (!name || asprintf(&option, "--net=tap,name=%s,id=%s%s%s%s", name, id, mac, mtu,
			      service) < 0)
		option = NULL;
	free(name);
	return option;
}

static long long mib_of(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

/* Where there would be more slots than there may be, wisp chooses larger ones. */
static void add_memory(struct arguments *a, const json_t *memory)
{
	long long total = mib_of(memory, "total_size_mib"), slot = mib_of(memory, "slot_size_mib");
	long long block = mib_of(memory, "block_size_mib");

	if (total / slot <= GUEST_MEM_LATER_SLOTS)
		add(a, "--memory-hotplug=%lldM,block=%lldM,slot=%lldM", total, block, slot);
	else
		add(a, "--memory-hotplug=%lldM,block=%lldM", total, block);
}

static void add_nets(struct arguments *a, const struct api *api)
{
	const char *id;
	json_t *n;

	if (json_object_size(api->nets) == 0)
		add(a, "--net=none");
	json_object_foreach(api->nets, id, n)
	{
		add_option(a, api_net_option(api, id, n));
	}
}

/* "fc-" and our process id where the id would not do as a name, or is everybody's. */
void api_name(const struct api *api, char *name, size_t size)
{
	if (!strcmp(api->options.id, "anonymous-instance") || strlen(api->options.id) > 32 ||
	    *api->options.id == '-')
		snprintf(name, size, "fc-%d", getpid());
	else
		snprintf(name, size, "%s", api->options.id);
}

static void add_name(struct arguments *a, const struct api *api)
{
	char name[40];

	api_name(api, name, sizeof(name));
	add(a, API_NAME_OPTION "%s", name);
}

/*
 * Firecracker's static templates hide what some processors of a vendor have and others lack, so
 * that snapshots move among them. wisp's means for that are levels that many hosts share.
 */
static int add_cpu(struct arguments *a, const struct api *api, struct error *err)
{
	const char *template = text_of(api->machine, "cpu_template");
	unsigned leaf, vendor = 0, unused;
	bool amd;

	if (json_is_string(api->cpu_config))
		add(a, "--cpu-template=%s", json_string_value(api->cpu_config));
	else if (api->cpu_config)
		add(a, "--cpu-template=/proc/self/fd/%d", api->cpu_config_fd);
	if (!template)
		return 0;
	__get_cpuid(0, &leaf, &vendor, &unused, &unused);
	amd = vendor == signature_AMD_ebx;
	if (amd != !strcmp(template, "T2A"))
		return error_set(err, -EINVAL,
				 "Failed to get CPU template: CPU vendor mismatched between actual "
				 "CPU and CPU template");
	add(a, "--cpu=x86-64-v3");
	return 0;
}

/* Devices of which there is one at most. */
static void add_others(struct arguments *a, const struct api *api)
{
	if (api->balloon) {
		add(a, "--balloon=%lldM,deflate-on-oom=%s,reporting=%s%s",
		    (long long)json_integer_value(json_object_get(api->balloon, "amount_mib")),
		    is_set(api->balloon, "deflate_on_oom") ? "on" : "off",
		    is_set(api->balloon, "free_page_reporting") ? "on" : "off",
		    is_set(api->balloon, "free_page_hinting") ? ",hinting=on" : "");
	}
	if (api->memory)
		add_memory(a, api->memory);
	if (api->vsock) {
		char *path = quoted(text_of(api->vsock, "uds_path"));

		add(a, "--vsock=path=%s,cid=%d", path ? path : "",
		    (int)json_integer_value(json_object_get(api->vsock, "guest_cid")));
		free(path);
	}
}

char **api_arguments(const struct api *api, struct error *err)
{
	struct arguments a = { .argv = calloc(MAX_ARGUMENTS, sizeof(char *)) };
	const char *serial = text_of(api->serial, "serial_out_path");
	const json_t *root, *pmem_root;
	char pmem_name[32] = "";

	if (!a.argv) {
		error_set(err, -ENOMEM, "arguments: %m");
		return NULL;
	}
	add(&a, "wisp");
	add(&a, "run");
	add_name(&a, api);
	add(&a, "--kernel=%s", text_of(api->boot, "kernel_image_path"));
	if (text_of(api->boot, "initrd_path"))
		add(&a, "--initrd=%s", text_of(api->boot, "initrd_path"));
	if (add_cpu(&a, api, err) < 0) {
		api_arguments_free(a.argv);
		return NULL;
	}
	add(&a, "--cpus=%d", (int)json_integer_value(json_object_get(api->machine, "vcpu_count")));
	add(&a, "--memory=%lld",
	    (long long)json_integer_value(json_object_get(api->machine, "mem_size_mib")));
	if (!strcmp(text_of(api->machine, "huge_pages"), "2M"))
		add(&a, "--hugepages");
	add(&a, "--transport=%s", api->options.enable_pci ? "pci" : "mmio");
	add(&a, "--rng=%s", api->entropy ? "on" : "off");
	add(&a, "--console=none");
	if (serial)
		add(&a, "--serial=file=%s", serial);
	else
		add(&a, "--serial=stdio");
	root = add_drives(&a, api);
	pmem_root = add_pmems(&a, api, pmem_name, sizeof(pmem_name));
	add_cmdline(&a, api, root, pmem_root, pmem_name);
	add_nets(&a, api);
	add_others(&a, api);
	if (api->options.no_sandbox)
		add(&a, "--sandbox=off");
	if (a.failed) {
		api_arguments_free(a.argv);
		error_set(err, -E2BIG, "more devices than a microVM can have");
		return NULL;
	}
	return a.argv;
}

void api_arguments_free(char **argv)
{
	for (char **p = argv; p && *p; p++)
		free(*p);
	free(argv);
}
