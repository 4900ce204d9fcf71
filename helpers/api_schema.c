/* What each request's body may hold, and the check against it. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>

#include "helpers/api.h"

#define END          \
	{            \
		NULL \
	}
#define OPEN_END             \
	{                    \
		.open = true \
	}
#define REQUIRED(n, t)                                     \
	{                                                  \
		.name = (n), .type = (t), .required = true \
	}
#define OPTIONAL(n, t)                   \
	{                                \
		.name = (n), .type = (t) \
	}
/* As Firecracker has them that are no Option of anything. */
#define DEFAULT(n, t)                                      \
	{                                                  \
		.name = (n), .type = (t), .not_null = true \
	}
#define CHOICE(n, w)                                        \
	{                                                   \
		.name = (n), .type = API_ENUM, .words = (w) \
	}
#define DEFAULT_CHOICE(n, w)                                                  \
	{                                                                     \
		.name = (n), .type = API_ENUM, .words = (w), .not_null = true \
	}
#define PART(n, f)                                             \
	{                                                      \
		.name = (n), .type = API_OBJECT, .fields = (f) \
	}

static const struct api_field token_bucket[] = {
	REQUIRED("size", API_U64),
	OPTIONAL("one_time_burst", API_U64),
	REQUIRED("refill_time", API_U64),
	OPEN_END,
};

static const struct api_field rate_limiter[] = {
	PART("bandwidth", token_bucket),
	PART("ops", token_bucket),
	END,
};

const struct api_field api_boot_source[] = {
	REQUIRED("kernel_image_path", API_STRING),
	OPTIONAL("initrd_path", API_STRING),
	OPTIONAL("boot_args", API_STRING),
	END,
};

#define CPU_TEMPLATES "C3|T2|T2S|None|T2CL|T2A"
#define HUGE_PAGES    "None|Transparent|2M"

const struct api_field api_machine_config[] = {
	REQUIRED("vcpu_count", API_U8),
	REQUIRED("mem_size_mib", API_USIZE),
	DEFAULT("smt", API_BOOL),
	CHOICE("cpu_template", CPU_TEMPLATES),
	DEFAULT("track_dirty_pages", API_BOOL),
	DEFAULT_CHOICE("huge_pages", HUGE_PAGES),
	END,
};

const struct api_field api_machine_update[] = {
	OPTIONAL("vcpu_count", API_U8),
	OPTIONAL("mem_size_mib", API_USIZE),
	OPTIONAL("smt", API_BOOL),
	CHOICE("cpu_template", CPU_TEMPLATES),
	OPTIONAL("track_dirty_pages", API_BOOL),
	CHOICE("huge_pages", HUGE_PAGES),
	END,
};

const struct api_field api_drive[] = {
	REQUIRED("drive_id", API_STRING),     OPTIONAL("partuuid", API_STRING),
	REQUIRED("is_root_device", API_BOOL), DEFAULT_CHOICE("cache_type", "Unsafe|Writeback"),
	OPTIONAL("is_read_only", API_BOOL),   OPTIONAL("path_on_host", API_STRING),
	PART("rate_limiter", rate_limiter),   CHOICE("io_engine", "Sync|Async"),
	OPTIONAL("socket", API_STRING),	      END,
};

const struct api_field api_drive_update[] = {
	REQUIRED("drive_id", API_STRING),
	OPTIONAL("path_on_host", API_STRING),
	PART("rate_limiter", rate_limiter),
	END,
};

const struct api_field api_net[] = {
	REQUIRED("iface_id", API_STRING),
	REQUIRED("host_dev_name", API_STRING),
	OPTIONAL("guest_mac", API_MAC),
	OPTIONAL("mtu", API_U16),
	PART("rx_rate_limiter", rate_limiter),
	PART("tx_rate_limiter", rate_limiter),
	END,
};

const struct api_field api_net_update[] = {
	REQUIRED("iface_id", API_STRING),
	PART("rx_rate_limiter", rate_limiter),
	PART("tx_rate_limiter", rate_limiter),
	END,
};

const struct api_field api_vsock[] = {
	OPTIONAL("vsock_id", API_STRING),
	REQUIRED("guest_cid", API_U32),
	REQUIRED("uds_path", API_STRING),
	END,
};

const struct api_field api_entropy[] = { PART("rate_limiter", rate_limiter), END };

const struct api_field api_serial[] = {
	OPTIONAL("serial_out_path", API_PATH),
	PART("rate_limiter", token_bucket),
	END,
};

const struct api_field api_logger[] = {
	OPTIONAL("log_path", API_PATH),	  OPTIONAL("level", API_LEVEL),
	OPTIONAL("show_level", API_BOOL), OPTIONAL("show_log_origin", API_BOOL),
	OPTIONAL("module", API_STRING),	  END,
};

const struct api_field api_metrics[] = {
	REQUIRED("metrics_path", API_PATH),
	DEFAULT("emit_id", API_BOOL),
	OPTIONAL("properties", API_STRING_MAP),
	OPEN_END,
};

const struct api_field api_action[] = {
	{ "action_type", API_ENUM, true, "FlushMetrics|InstanceStart|SendCtrlAltDel" },
	END,
};

const struct api_field api_vm[] = { { "state", API_ENUM, true, "Paused|Resumed" }, END };

const struct api_field api_balloon[] = {
	REQUIRED("amount_mib", API_U32),
	REQUIRED("deflate_on_oom", API_BOOL),
	DEFAULT("stats_polling_interval_s", API_U16),
	DEFAULT("free_page_hinting", API_BOOL),
	DEFAULT("free_page_reporting", API_BOOL),
	END,
};

const struct api_field api_balloon_update[] = { REQUIRED("amount_mib", API_U32), END };
const struct api_field api_balloon_stats[] = { REQUIRED("stats_polling_interval_s", API_U16), END };
const struct api_field api_balloon_hinting[] = {
	DEFAULT("acknowledge_on_stop", API_BOOL),
	OPEN_END,
};

const struct api_field api_pmem[] = {
	REQUIRED("id", API_STRING),	    REQUIRED("path_on_host", API_STRING),
	DEFAULT("root_device", API_BOOL),  DEFAULT("read_only", API_BOOL),
	PART("rate_limiter", rate_limiter), END,
};

const struct api_field api_pmem_update[] = {
	REQUIRED("id", API_STRING),
	PART("rate_limiter", rate_limiter),
	END,
};

const struct api_field api_memory_hotplug[] = {
	REQUIRED("total_size_mib", API_U32),
	DEFAULT("slot_size_mib", API_U32),
	DEFAULT("block_size_mib", API_U32),
	END,
};

const struct api_field api_memory_update[] = { REQUIRED("requested_size_mib", API_U32), END };

const struct api_field api_mmds_config[] = {
	DEFAULT_CHOICE("version", "V1|V2"),
	REQUIRED("network_interfaces", API_STRINGS),
	OPTIONAL("ipv4_address", API_IPV4),
	DEFAULT("imds_compat", API_BOOL),
	END,
};

const struct api_field api_snapshot_create[] = {
	DEFAULT_CHOICE("snapshot_type", "Diff|Full"),
	REQUIRED("snapshot_path", API_PATH),
	REQUIRED("mem_file_path", API_PATH),
	END,
};

static const struct api_field memory_backend[] = {
	REQUIRED("backend_path", API_PATH),
	{ "backend_type", API_ENUM, true, "File|Uffd" },
	END,
};

static const struct api_field network_override[] = {
	REQUIRED("iface_id", API_STRING),
	REQUIRED("host_dev_name", API_STRING),
	OPEN_END,
};

static const struct api_field vsock_override[] = { REQUIRED("uds_path", API_STRING), OPEN_END };

const struct api_field api_snapshot_load[] = {
	REQUIRED("snapshot_path", API_PATH),
	OPTIONAL("mem_file_path", API_PATH),
	PART("mem_backend", memory_backend),
	DEFAULT("enable_diff_snapshots", API_BOOL),
	DEFAULT("track_dirty_pages", API_BOOL),
	DEFAULT("resume_vm", API_BOOL),
	{ "network_overrides", API_ARRAY, false, NULL, network_override, true },
	PART("vsock_override", vsock_override),
	DEFAULT("clock_realtime", API_BOOL),
	DEFAULT_CHOICE("huge_pages", "Snapshot|None|Transparent|2M"),
	END,
};

const struct api_field api_cpu_config[] = {
	DEFAULT("kvm_capabilities", API_STRINGS),
	DEFAULT("cpuid_modifiers", API_ARRAY),
	/* reg_modifiers and vcpu_features are another architecture's. */
	DEFAULT("msr_modifiers", API_ARRAY),
	END,
};

/* wisp's own. */
const struct api_field api_wisp_clone_body[] = {
	OPTIONAL("count", API_U16),
	OPTIONAL("name", API_STRING),
	END,
};

/* Any JSON at all: MMDS. */
const struct api_field api_anything[] = { END };

/* ---- the check ---- */

/* What @v is, as serde says it: `string "x"`, `integer `7``. */
static void describe(char *buf, size_t size, const json_t *v)
{
	size_t len;

	switch (json_typeof(v)) {
	case JSON_STRING:
		snprintf(buf, size, "string \"%.60s\"", json_string_value(v));
		break;
	case JSON_INTEGER:
		snprintf(buf, size, "integer `%lld`", (long long)json_integer_value(v));
		break;
	case JSON_REAL:
		len = snprintf(buf, size, "floating point `%g`", json_real_value(v));
		/* A whole number has its decimal point shown. */
		if (!strpbrk(strchr(buf, '`'), ".e"))
			snprintf(buf + len - 1, size - len + 1, ".0`");
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		snprintf(buf, size, "boolean `%s`", json_is_true(v) ? "true" : "false");
		break;
	case JSON_NULL:
		snprintf(buf, size, "null");
		break;
	case JSON_OBJECT:
		snprintf(buf, size, "map");
		break;
	case JSON_ARRAY:
		snprintf(buf, size, "sequence");
		break;
	}
}

static int wrong_type(const json_t *v, const char *expected, struct error *err)
{
	char what[100];

	describe(what, sizeof(what), v);
	return error_set(err, -EINVAL, "invalid type: %s, expected %s", what, expected);
}

static int check_integer(const json_t *v, enum api_type type, struct error *err)
{
	static const struct {
		const char *name;
		json_int_t max;
	} kind[] = {
		[API_U8] = { "u8", UINT8_MAX },
		[API_U16] = { "u16", UINT16_MAX },
		[API_U32] = { "u32", UINT32_MAX },
		[API_U64] = { "u64", INT64_MAX },
		[API_USIZE] = { "usize", INT64_MAX },
	};
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v))
		return wrong_type(v, kind[type].name, err);
	if (n < 0 || n > kind[type].max)
		return error_set(err, -EINVAL, "invalid value: integer `%lld`, expected %s",
				 (long long)n, kind[type].name);
	return 0;
}

/* "A|B|C" as "`A`, `B`, `C`", or for two "`A` or `B`". */
static void list_words(char *buf, size_t size, const char *words)
{
	bool two = strchr(words, '|') && strchr(words, '|') == strrchr(words, '|');
	size_t len = 0;

	if (strchr(words, '|') && !two)
		len = snprintf(buf, size, "one of ");
	while (*words && len < size) {
		size_t n = strcspn(words, "|");

		len += snprintf(buf + len, size - len, "`%.*s`%s", (int)n, words,
				!words[n] ? ""
				: two	  ? " or "
					  : ", ");
		words += n + (words[n] != '\0');
	}
}

static int check_word(const json_t *v, const char *words, struct error *err)
{
	const char *s = json_string_value(v);
	char known[200];
	size_t len;

	if (!s && !json_is_object(v))
		return error_set(err, -EINVAL, "expected value");
	if (!s)
		return wrong_type(v, "string or map", err);
	len = strlen(s);
	for (const char *w = words; w; w = strchr(w, '|') ? strchr(w, '|') + 1 : NULL)
		if (strcspn(w, "|") == len && !strncmp(w, s, len))
			return 0;
	list_words(known, sizeof(known), words);
	return error_set(err, -EINVAL, "unknown variant `%.60s`, expected %s", s, known);
}

static int check_strings(const json_t *v, struct error *err)
{
	const json_t *s;
	size_t i;

	if (!json_is_array(v))
		return wrong_type(v, "a sequence", err);
	json_array_foreach(v, i, s) if (!json_is_string(s)) return wrong_type(s, "a string", err);
	return 0;
}

static int check_string_map(json_t *v, struct error *err)
{
	const char *name;
	json_t *s;

	if (!json_is_object(v))
		return wrong_type(v, "a map", err);
	json_object_foreach(v, name, s)
	{
		if (!json_is_string(s))
			return wrong_type(s, "a string", err);
	}
	return 0;
}

static int check_string(const json_t *v, const struct api_field *f, struct error *err)
{
	const char *text = json_string_value(v);
	struct in_addr address;

	if (!text)
		return wrong_type(v,
				  f->type == API_PATH	? "path string"
				  : f->type == API_IPV4 ? "IPv4 address"
							: "a string",
				  err);
	/* Text with a NUL in it is no path and no name. */
	if (strlen(text) != json_string_length(v))
		return error_set(err, -EINVAL, "invalid value: `%s` holds a NUL", f->name);
	if (f->type == API_MAC && !api_is_mac(text))
		return error_set(err, -EINVAL, "The provided MAC address is invalid.");
	if (f->type == API_IPV4 && inet_pton(AF_INET, text, &address) != 1)
		return error_set(err, -EINVAL, "invalid IPv4 address syntax");
	if (f->type == API_LEVEL && !api_is_level(text))
		return error_set(err, -EINVAL, "Invalid LevelFilter");
	return 0;
}

static int check_array(const json_t *v, const struct api_field *fields, struct error *err)
{
	const json_t *o;
	size_t i;
	int r = 0;

	if (!json_is_array(v))
		return wrong_type(v, "a sequence", err);
	json_array_foreach(v, i, o) if (!r && fields) r = api_check(o, fields, err);
	return r;
}

static int check_value(const json_t *v, const struct api_field *f, struct error *err)
{
	/* What may be left out may be null, where nothing is what it is then. */
	if (json_is_null(v) && !f->required && !f->not_null)
		return 0;
	switch (f->type) {
	case API_STRING:
	case API_PATH:
	case API_MAC:
	case API_IPV4:
	case API_LEVEL:
		return check_string(v, f, err);
	case API_BOOL:
		return json_is_boolean(v) ? 0 : wrong_type(v, "a boolean", err);
	case API_U8:
	case API_U16:
	case API_U32:
	case API_U64:
	case API_USIZE:
		return check_integer(v, f->type, err);
	case API_STRINGS:
		return check_strings(v, err);
	case API_STRING_MAP:
		return check_string_map((json_t *)v, err);
	case API_ARRAY:
		return check_array(v, f->fields, err);
	case API_ENUM:
		return check_word(v, f->words, err);
	case API_OBJECT:
		break;
	}
	if (!json_is_object(v))
		return wrong_type(v, "a map", err);
	return f->fields ? api_check(v, f->fields, err) : 0;
}

static int unknown_field(const char *name, const struct api_field *fields, struct error *err)
{
	char words[400] = "", known[400];
	size_t len = 0;

	for (const struct api_field *f = fields; f->name && len < sizeof(words); f++)
		len += snprintf(words + len, sizeof(words) - len, "%s%s", len ? "|" : "", f->name);
	list_words(known, sizeof(known), words);
	return error_set(err, -EINVAL, "unknown field `%.40s`, expected %.250s", name, known);
}

int api_check(const json_t *body, const struct api_field *fields, struct error *err)
{
	const struct api_field *f;
	const char *name;
	const json_t *v;
	int r;

	if (fields == api_anything)
		return 0;
	if (!json_is_object(body))
		return wrong_type(body, "a map", err);
	json_object_foreach((json_t *)body, name, v)
	{
		for (f = fields; f->name && strcmp(f->name, name); f++)
			;
		r = f->name ? check_value(v, f, err)
		    : f->open ? 0
			      : unknown_field(name, fields, err);
		if (r < 0)
			return r;
	}
	for (f = fields; f->name; f++)
		if (f->required && !json_object_get(body, f->name))
			return error_set(err, -EINVAL, "missing field `%s`", f->name);
	return 0;
}

/* ---- addresses and levels ---- */

bool api_is_level(const char *text)
{
	static const char *const known[] = { "off",  "error", "warn", "warning",
					     "info", "debug", "trace" };

	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcasecmp(text, known[i]))
			return true;
	return false;
}

bool api_is_mac(const char *text)
{
	for (unsigned i = 0; i < 17; i++)
		if (i % 3 == 2 ? text[i] != ':'
			       : !strchr("0123456789abcdefABCDEF", text[i]) || !text[i])
			return false;
	return !text[17];
}

void api_lower_mac(json_t *net)
{
	const char *mac = json_string_value(json_object_get(net, "guest_mac"));
	char lower[18] = "";

	if (!mac || !api_is_mac(mac))
		return;
	for (unsigned i = 0; mac[i]; i++)
		lower[i] = (char)tolower((unsigned char)mac[i]);
	json_object_set_new(net, "guest_mac", json_string(lower));
}
