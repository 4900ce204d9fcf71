/* Writes the seeds of fuzz_api into the directory given: a body for each request, and sessions. */
#include <string.h>

#include "helpers/api.h"
#include "tests/fuzz/fuzz_api.h"
#include "tests/fuzz/seed.h"

static const char *const bodies[] = {
	"{\"vcpu_count\":2,\"mem_size_mib\":128,\"smt\":false,\"track_dirty_pages\":true}",
	"{\"kernel_image_path\":\"/dev/null\",\"boot_args\":\"quiet\"}",
	"{\"drive_id\":\"id\",\"path_on_host\":\"/dev/"
	"null\",\"is_root_device\":true,\"is_read_only\":"
	"false,\"rate_limiter\":{\"bandwidth\":{\"size\":1,\"refill_time\":2}}}",
	"{\"iface_id\":\"id\",\"host_dev_name\":\"tap0\",\"guest_mac\":\"02:00:00:00:00:01\"}",
	"{\"guest_cid\":3,\"uds_path\":\"v\",\"vsock_id\":\"v\"}",
	"{\"amount_mib\":3,\"deflate_on_oom\":true,\"stats_polling_interval_s\":1}",
	"{\"version\":\"V2\",\"network_interfaces\":[\"id\"],\"ipv4_address\":\"169.254.169.254\"}",
	"{\"latest\":{\"a\":[1,2,{\"b\":null}]}}",
	"{\"state\":\"Paused\"}",
};

/* A part: what it is, "METHOD path" or an operation, and the rest of it. */
struct part {
	const char *request;
	const char *text;
	unsigned op; /* without a request */
};

#define LIMITER                                                                   \
	"{\"bandwidth\":{\"size\":1000,\"one_time_burst\":5,\"refill_time\":10}," \
	"\"ops\":{\"size\":10,\"refill_time\":100}}"
#define ALL_RIGHT "{\"ok\":true}"

#define RESOURCES                                                                            \
	"{\"machine\":{\"vcpu_count\":1,\"mem_size_mib\":1},\"drives\":{\"id\":{\"drive_id\":" \
	"\"id\",\"path_on_host\":\"/dev/null\",\"is_root_device\":true}},\"nets\":{\"id\":{"   \
	"\"iface_id\":\"id\",\"host_dev_name\":\"tap0\"}},\"pmems\":{},\"vsock\":{"            \
	"\"guest_cid\":3,\"uds_path\":\"v\"},\"entropy\":null,\"balloon\":null,\"memory\":null," \
	"\"serial\":null,\"mmds_config\":{\"version\":\"V2\",\"network_interfaces\":[\"id\"]," \
	"\"ipv4_address\":\"169.254.169.254\"}}"

/* Up to a microVM that runs. */
#define CONFIGURED                                                                               \
	{ "PUT machine-config",                                                                  \
	  "{\"vcpu_count\":2,\"mem_size_mib\":4,\"track_dirty_pages\":true}" },                  \
		{ "PUT boot-source",                                                             \
		  "{\"kernel_image_path\":\"/dev/null\",\"initrd_path\":\"/dev/null\"}" },       \
		{ "PUT drives/*",                                                                \
		  "{\"drive_id\":\"id\",\"path_on_host\":\"/dev/null\",\"is_root_device\":true," \
		  "\"partuuid\":\"p\",\"rate_limiter\":" LIMITER "}" },                          \
		{ "PUT network-interfaces/*",                                                    \
		  "{\"iface_id\":\"id\",\"host_dev_name\":\"tap0\",\"mtu\":1400,"                \
		  "\"rx_rate_limiter\":" LIMITER "}" },                                          \
		{ "PUT pmem/*", "{\"id\":\"id\",\"path_on_host\":\"/dev/null\"}" },              \
		{ "PUT balloon", "{\"amount_mib\":1,\"deflate_on_oom\":true,"                    \
				 "\"stats_polling_interval_s\":1,\"free_page_hinting\":true}" }, \
		{ "PUT vsock", "{\"guest_cid\":3,\"uds_path\":\"v\"}" },                         \
		{ "PUT entropy", "{\"rate_limiter\":" LIMITER "}" },                             \
		{ "PUT hotplug/memory", "{\"total_size_mib\":256}" },                            \
		{ "PUT serial", "{\"serial_out_path\":\"/dev/null\",\"rate_limiter\":{"          \
				"\"size\":10,\"refill_time\":100}}" },                           \
		{ "PUT mmds/config", "{\"version\":\"V2\",\"network_interfaces\":[\"id\"]}" },   \
		{ "PUT mmds", "{\"latest\":{\"a\":1,\"b\":{}}}" },                               \
		{ "PUT cpu-config", "{\"kvm_capabilities\":[],\"cpuid_modifiers\":[]}" },        \
		{ "PUT metrics", "{\"metrics_path\":\"memory\",\"emit_id\":true}" },             \
		{ "PUT logger", "{\"log_path\":\"log\",\"level\":\"Debug\","                     \
				"\"show_level\":true,\"show_log_origin\":true}" }

#define ANSWER(text)                       \
	{                                  \
		NULL, text, FUZZ_API_ANSWER \
	}
#define STARTED { "PUT actions", "{\"action_type\":\"InstanceStart\"}" }

static const struct part asked[] = {
	CONFIGURED,
	ANSWER(ALL_RIGHT),
	ANSWER(ALL_RIGHT),
	ANSWER(ALL_RIGHT),
	ANSWER(ALL_RIGHT),
	STARTED,
	ANSWER("{\"told\":1}"),
	ANSWER("{\"told\":2,\"target\":4096,\"actual\":0,\"statistics\":{\"free_memory\":1}}"),
	{ "GET balloon/statistics", "" },
	ANSWER("{\"hints\":{\"command\":1,\"answer\":2}}"),
	{ "GET balloon/hinting/status", "" },
	ANSWER("{\"plugged\":0,\"requested\":2097152}"),
	{ "GET hotplug/memory", "" },
	ANSWER("{\"error\":\"out of range\",\"errno\":34}"),
	{ "PATCH hotplug/memory", "{\"requested_size_mib\":3}" },
	{ 0 },
};

static const struct part updated[] = {
	CONFIGURED,
	STARTED,
	ANSWER(ALL_RIGHT),
	ANSWER(ALL_RIGHT),
	ANSWER(ALL_RIGHT),
	ANSWER(ALL_RIGHT),
	ANSWER(ALL_RIGHT),
	{ "PATCH drives/*", "{\"drive_id\":\"id\",\"rate_limiter\":" LIMITER "}" },
	{ "PATCH pmem/*", "{\"id\":\"id\",\"rate_limiter\":" LIMITER "}" },
	{ "PATCH network-interfaces/*", "{\"iface_id\":\"id\",\"tx_rate_limiter\":" LIMITER "}" },
	{ "PATCH balloon", "{\"amount_mib\":0}" },
	{ "PATCH balloon/statistics", "{\"stats_polling_interval_s\":2}" },
	{ "PATCH balloon/hinting/start", "{\"acknowledge_on_stop\":false}" },
	{ "PATCH mmds", "{\"latest\":{\"a\":null,\"b\":{\"c\":[]}}}" },
	{ "GET vm/config", "" },
	{ "PUT wisp/v1/clone", "{\"count\":2}" },
	{ NULL, "", FUZZ_API_PCI },
	{ "DELETE network-interfaces/*", "" },
	{ 0 },
};

static const struct part measured[] = {
	CONFIGURED,
	STARTED,
	ANSWER("{\"counters\":{\"exits\":{\"pio_read\":3},\"serial\":{\"dropped\":1},\"devices\":["
	       "{\"type\":\"virtio-blk\",\"id\":\"id\",\"counters\":{\"reads\":5},\"queues\":["
	       "{\"kicks\":2}]},{\"type\":\"virtio-net\",\"id\":\"id\",\"queues\":[{},{}]},"
	       "{\"type\":\"virtio-vsock\",\"id\":\"v\"},{\"type\":\"virtio-rng\",\"id\":\"r\"},"
	       "{\"type\":\"virtio-pmem\",\"id\":\"p\"},{\"type\":\"virtio-mem\",\"id\":\"m\"},"
	       "{\"type\":\"virtio-balloon\",\"id\":\"b\",\"counters\":{\"hints\":1}}]}}"),
	{ "PUT actions", "{\"action_type\":\"FlushMetrics\"}" },
	/* Counters beyond what there can be. */
	ANSWER("{\"counters\":{\"devices\":[{\"type\":\"virtio-blk\",\"id\":\"id\",\"counters\":{"
	       "\"reads\":9223372036854775807}},{\"type\":\"virtio-blk\",\"id\":\"two\","
	       "\"counters\":{\"reads\":9223372036854775807,\"writes\":-9}}]}}"),
	{ "PUT actions", "{\"action_type\":\"FlushMetrics\"}" },
	ANSWER("{\"counters\":{}}"),
	{ "GET wisp/v1/stat", "" },
	{ 0 },
};

/* A whole snapshot and one of what changed since. */
static const struct part saved[] = {
	{ "PUT machine-config",
	  "{\"vcpu_count\":1,\"mem_size_mib\":1,\"track_dirty_pages\":true}" },
	{ "PUT boot-source", "{\"kernel_image_path\":\"/dev/null\"}" },
	STARTED,
	ANSWER(ALL_RIGHT),
	{ "PATCH vm", "{\"state\":\"Paused\"}" },
	{ NULL, "sections", FUZZ_API_SECTIONS },
	ANSWER("{\"progress\":{}}"),
	ANSWER("{\"tracked\":true}"),
	ANSWER(ALL_RIGHT),
	{ "PUT snapshot/create", "{\"snapshot_path\":\"state\",\"mem_file_path\":\"memory\"}" },
	{ NULL, "0110", FUZZ_API_PAGES },
	ANSWER("{\"diff\":true}"),
	{ "PUT snapshot/create", "{\"snapshot_type\":\"Diff\",\"snapshot_path\":\"state\","
				 "\"mem_file_path\":\"memory\"}" },
	{ NULL, "", FUZZ_API_DESCRIBE },
	{ 0 },
};

static const struct part loaded[] = {
	{ NULL, RESOURCES, FUZZ_API_STATE },
	{ NULL, "", FUZZ_API_PCI },
	{ "PUT snapshot/load",
	  "{\"snapshot_path\":\"state\",\"mem_backend\":{\"backend_path\":\"memory\","
	  "\"backend_type\":\"File\"},\"network_overrides\":[{\"iface_id\":\"id\","
	  "\"host_dev_name\":\"tap1\"}],\"vsock_override\":{\"uds_path\":\"w\"},"
	  "\"track_dirty_pages\":true}" },
	{ "PUT network-interfaces/*", "{\"iface_id\":\"id\",\"host_dev_name\":\"tap0\"}" },
	{ "GET vm/config", "" },
	{ 0 },
};

/* Resources that no request would have made. */
static const struct part strange[] = {
	{ NULL,
	  "{\"machine\":{},\"drives\":{},\"nets\":{\"id\":{}},\"mmds_config\":{\"version\":\"\","
	  "\"ipv4_address\":\"\"}}",
	  FUZZ_API_STATE },
	{ NULL, "", FUZZ_API_PCI },
	{ "PUT snapshot/load",
	  "{\"snapshot_path\":\"state\",\"mem_file_path\":\"memory\",\"resume_vm\":true}" },
	{ "PUT network-interfaces/*", "{\"iface_id\":\"two\",\"host_dev_name\":\"tap0\"}" },
	{ 0 },
};

/* A machine of more memory than there can be, saved. */
static const struct part enormous[] = {
	{ NULL,
	  "{\"machine\":{\"vcpu_count\":1,\"mem_size_mib\":9223372036854775807},\"drives\":{},"
	  "\"nets\":{},\"memory\":{\"total_size_mib\":128}}",
	  FUZZ_API_STATE },
	{ "PUT snapshot/load", "{\"snapshot_path\":\"state\",\"mem_file_path\":\"memory\"}" },
	ANSWER(ALL_RIGHT),
	{ "PATCH vm", "{\"state\":\"Paused\"}" },
	{ "PUT snapshot/create", "{\"snapshot_path\":\"state\",\"mem_file_path\":\"memory\"}" },
	{ 0 },
};

static const struct part handled[] = {
	{ NULL, RESOURCES, FUZZ_API_STATE },
	{ "PUT snapshot/load",
	  "{\"snapshot_path\":\"state\",\"mem_backend\":{\"backend_path\":\"handler\","
	  "\"backend_type\":\"Uffd\"},\"huge_pages\":\"2M\",\"resume_vm\":true}" },
	{ 0 },
};

static const struct part configured[] = {
	{ NULL,
	  "{\"boot-source\":{\"kernel_image_path\":\"memory\"},\"machine-config\":{"
	  "\"vcpu_count\":1,\"mem_size_mib\":64},\"drives\":[{\"drive_id\":\"id\","
	  "\"path_on_host\":\"log\",\"is_root_device\":true}],\"network-interfaces\":[],"
	  "\"balloon\":null,\"logger\":{\"log_path\":\"log\"},\"cpu-config\":\"none\"}",
	  FUZZ_API_CONFIG },
	{ 0 },
};

static const struct {
	const char *name;
	const struct part *parts;
} sessions[] = {
	{ "asked", asked },   { "updated", updated }, { "measured", measured },
	{ "saved", saved },   { "loaded", loaded },   { "handled", handled },
	{ "strange", strange },
	{ "enormous", enormous },
	{ "configured", configured },
};

static unsigned num_endpoints(void)
{
	unsigned n = 0;

	while (api_endpoints[n].method)
		n++;
	return n;
}

/* The first byte of the part; 0: there is no such request. */
static unsigned first_byte(const struct part *p)
{
	char name[64];

	if (!p->request)
		return 1 + num_endpoints() + p->op;
	for (const struct api_endpoint *e = api_endpoints; e->method; e++) {
		snprintf(name, sizeof(name), "%s %s", e->method, e->path);
		if (!strcmp(name, p->request))
			return 1 + (e - api_endpoints);
	}
	fprintf(stderr, "seeds_api: no request '%s'\n", p->request);
	return 0;
}

static bool write_session(const char *dir, const char *name, const struct part *p)
{
	static char data[8192];
	size_t len = 0;

	for (; p->text; p++) {
		size_t n = strlen(p->text) + 1;
		unsigned first = first_byte(p);

		if (!first || len + 1 + n > sizeof(data))
			return false;
		data[len] = (char)first;
		memcpy(data + len + 1, p->text, n);
		len += 1 + n;
	}
	return seed_write(dir, name, data, len);
}

int main(int argc, char **argv)
{
	char data[1024], name[32];

	if (argc != 2)
		return 2;
	/* Every request with every body: most do not fit, and the refusal is of interest too. */
	for (unsigned request = 0; request < num_endpoints(); request++) {
		for (unsigned i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
			data[0] = (char)(1 + request);
			strcpy(data + 1, bodies[i]);
			snprintf(name, sizeof(name), "%u-%u", request, i);
			if (!seed_write(argv[1], name, data, 1 + strlen(bodies[i])))
				return 1;
		}
	}
	for (unsigned i = 0; i < sizeof(sessions) / sizeof(*sessions); i++) {
		if (!write_session(argv[1], sessions[i].name, sessions[i].parts))
			return 1;
	}
	return 0;
}
