/* Firecracker's API without HTTP and without a microVM: what is sent, what is answered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "helpers/api.h"
#include "helpers/api_snapshot_file.h"
#include "vmm/core/io.h"

struct talk {
	struct api api;
	int log[2];
	struct api_answer answer;
};

static int setup(void **state)
{
	struct talk *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	assert_int_equal(pipe(t->log), 0);
	t->api = (struct api){ .log_fd = t->log[1],
			       .metrics_fd = -1,
			       .child_fd = -1,
			       .child_words = -1,
			       .control = -1 };
	t->api.options.id = "test";
	t->api.options.level = "Debug";
	t->api.options.mmds_limit = t->api.options.payload_limit = API_DEFAULT_PAYLOAD;
	assert_int_equal(api_resources_init(&t->api), 0);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct talk *t = *state;

	json_decref(t->answer.body);
	api_resources_done(&t->api);
	close(t->log[0]);
	close(t->log[1]);
	free(t);
	return 0;
}

/* Send it; the fault message, or "". */
static const char *send_it(struct talk *t, const char *method, const char *path, const char *body)
{
	json_decref(t->answer.body);
	t->answer = (struct api_answer){ 0 };
	api_handle(&t->api, method, path, body, body ? strlen(body) : 0, &t->answer);
	return json_string_value(json_object_get(t->answer.body, "fault_message")) ?: "";
}

static void expect_taken(struct talk *t, const char *method, const char *path, const char *body)
{
	assert_string_equal(send_it(t, method, path, body), "");
	assert_int_equal(t->answer.status, 204);
}

static void expect_fault(struct talk *t, const char *path, const char *body, const char *fault)
{
	const char *said = send_it(t, "PUT", path, body);

	assert_int_equal(t->answer.status, 400);
	if (!strstr(said, fault))
		fail_msg("said: %s", said);
}

/* In the place of running `wisp`: what it was asked to do, which succeeds. */
static char commands[400];

int __wrap_api_run_wisp(char *const *argv, char *text, size_t size);
int __wrap_api_run_wisp(char *const *argv, char *text, size_t size)
{
	for (; *argv; argv++)
		snprintf(commands + strlen(commands), sizeof(commands) - strlen(commands), "%s ",
			 *argv);
	snprintf(text, size, "%s", "");
	return 0;
}

/* In the place of the host's: all taps are there. */
bool __wrap_api_tap_works(const char *name, char *why, size_t size);
bool __wrap_api_tap_works(const char *name, char *why, size_t size)
{
	snprintf(why, size, "%s", name);
	return true;
}

static json_int_t memory_of(struct talk *t)
{
	send_it(t, "GET", "/machine-config", NULL);
	return json_integer_value(json_object_get(t->answer.body, "mem_size_mib"));
}

static void numbers_may_be_larger_than_ours(void **state)
{
	struct talk *t = *state;

	expect_taken(t, "PATCH", "/machine-config", "{\"mem_size_mib\":18446744073709551615}");
	assert_int_equal(memory_of(t), INT64_MAX);
	expect_taken(t, "PATCH", "/machine-config", "{\"mem_size_mib\":4096}");
	assert_int_equal(memory_of(t), 4096);
	expect_fault(t, "/machine-config",
		     "{\"vcpu_count\":1,\"mem_size_mib\":18446744073709551616}",
		     "invalid type: floating point");
	/* Below zero there is one bit less. */
	expect_fault(t, "/machine-config",
		     "{\"vcpu_count\":-9223372036854775808,\"mem_size_mib\":99999999999999999999}",
		     "invalid value: integer `-9223372036854775808`, expected u8");
	expect_fault(t, "/machine-config", "{\"vcpu_count\":-9223372036854775809}",
		     "invalid type: floating point `-9.22337e+18`, expected u8");
	/* What stands in quotes is no number, whatever hides the quote that ends it. */
	expect_fault(t, "/machine-config",
		     "{\"\\\"99999999999999999999\":1,\"mem_size_mib\":18446744073709551615}",
		     "unknown field `\"99999999999999999999`");
}

/* The one at the end is what makes the others be looked at; metadata may hold anything. */
static void large_number_leaves_those_beside_it_alone(void **state)
{
	static const double values[] = {
		0.12345678901234567890123, -1.2345678901234567891, 1e-10,
		1.0e+00000000000000000002, 18446744073709551616.0,
	};
	struct talk *t = *state;
	json_t *list;

	expect_taken(t, "PUT", "/mmds",
		     "{\"a\":[0.12345678901234567890123,-1.2345678901234567891,1e-10,"
		     "1.0e+00000000000000000002,18446744073709551616],"
		     "\"\\\\\":18446744073709551615}");
	list = json_object_get(t->api.mmds, "a");
	assert_int_equal(json_array_size(list), ARRAY_SIZE(values));
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
		assert_true(json_real_value(json_array_get(list, i)) == values[i]);
	/* The key is a backslash, and the quote after it ends it. */
	assert_int_equal(json_integer_value(json_object_get(t->api.mmds, "\\")), INT64_MAX);
	/* No number at all stays what it is, and as short. */
	expect_fault(t, "/mmds", "[18446744073709551616,99999999999999999999-]",
		     "An error occurred when deserializing");
	expect_fault(t, "/mmds", "[18446744073709551616,\"\\",
		     "An error occurred when deserializing");
}

/* Else a value like the "--" of a command line would be taken for the next option. */
static void arguments_are_one_word_each(void **state)
{
	struct talk *t = *state;
	struct error err = { 0 };
	bool seen = false;
	char **argv;

	expect_taken(t, "PUT", "/boot-source",
		     "{\"kernel_image_path\":\"/dev/null\",\"initrd_path\":\"/dev/null\","
		     "\"boot_args\":\"--x -- y\"}");
	expect_taken(t, "PUT", "/drives/a",
		     "{\"drive_id\":\"a\",\"path_on_host\":\"/dev/null\","
		     "\"is_root_device\":false,\"is_read_only\":true}");
	expect_taken(t, "PUT", "/network-interfaces/b",
		     "{\"iface_id\":\"b\",\"host_dev_name\":\"--t1\"}");
	expect_taken(t, "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"--v\"}");
	expect_taken(t, "PUT", "/serial", "{\"serial_out_path\":\"--s\"}");
	argv = api_arguments(&t->api, &err);
	assert_non_null(argv);
	for (char **word = argv + 2; *word; word++) {
		assert_memory_equal(*word, "--", 2);
		assert_non_null(strchr(*word, '='));
		seen |= !strcmp(*word, "--cmdline-only=--x -- y pci=off");
	}
	assert_true(seen);
	api_arguments_free(argv);
}

/* Is @word among the arguments? */
static bool has_argument(struct talk *t, const char *word)
{
	struct error err = { 0 };
	char **argv = api_arguments(&t->api, &err);
	bool found = false;

	assert_non_null(argv);
	for (char **a = argv; *a; a++)
		found |= !strcmp(*a, word);
	api_arguments_free(argv);
	return found;
}

static void persistent_memory_may_be_the_root_device(void **state)
{
	struct talk *t = *state;

	expect_taken(t, "PUT", "/boot-source",
		     "{\"kernel_image_path\":\"/dev/null\",\"boot_args\":\"quiet\"}");
	expect_taken(t, "PUT", "/pmem/a",
		     "{\"id\":\"a\",\"path_on_host\":\"/proc/self/exe\",\"read_only\":true}");
	assert_true(has_argument(t, "--cmdline-only=quiet pci=off"));
	expect_taken(t, "PUT", "/pmem/b",
		     "{\"id\":\"b\",\"path_on_host\":\"/proc/self/exe\",\"read_only\":true,"
		     "\"root_device\":true}");
	assert_true(has_argument(t, "--pmem=/proc/self/exe,id=a,ro"));
	assert_true(has_argument(t, "--pmem=/proc/self/exe,id=b,ro"));
	assert_true(has_argument(t, "--cmdline-only=quiet pci=off root=/dev/pmem1 ro"));
	/* There is one root device, of whatever kind. */
	expect_fault(t, "/pmem/a",
		       "{\"id\":\"a\",\"path_on_host\":\"/proc/self/exe\",\"read_only\":true,"
		       "\"root_device\":true}",
		       "Pmem config error: A root pmem device already exist");
	expect_fault(t, "/drives/d",
		       "{\"drive_id\":\"d\",\"path_on_host\":\"/dev/null\","
		       "\"is_root_device\":true}",
		       "the root device defined as a pmem device");
	expect_taken(t, "PUT", "/pmem/b",
		     "{\"id\":\"b\",\"path_on_host\":\"/proc/self/exe\",\"read_only\":true}");
	expect_taken(t, "PUT", "/drives/d",
		     "{\"drive_id\":\"d\",\"path_on_host\":\"/dev/null\","
		     "\"is_root_device\":true}");
	expect_fault(t, "/pmem/b",
		       "{\"id\":\"b\",\"path_on_host\":\"/proc/self/exe\",\"read_only\":true,"
		       "\"root_device\":true}",
		       "the root device defined as a block device");
}

/* The second interface is refused because of its name, and the first one is gone by then. */
static void network_that_cannot_be_replaced_is_gone(void **state)
{
	struct talk *t = *state;

	expect_taken(t, "PUT", "/network-interfaces/a",
		     "{\"iface_id\":\"a\",\"host_dev_name\":\"t0\","
		     "\"guest_mac\":\"06:00:00:00:00:01\"}");
	expect_taken(t, "PUT", "/network-interfaces/b",
		     "{\"iface_id\":\"b\",\"host_dev_name\":\"t1\"}");
	expect_fault(t, "/network-interfaces/c",
		     "{\"iface_id\":\"c\",\"host_dev_name\":\"t2\","
		     "\"guest_mac\":\"06:00:00:00:00:01\"}",
		     "The MAC address is already in use: 06:00:00:00:00:01");
	expect_fault(t, "/network-interfaces/a", "{\"iface_id\":\"a\",\"host_dev_name\":\"t1\"}",
		     "Could not create the network device");
	expect_taken(t, "PUT", "/network-interfaces/c",
		     "{\"iface_id\":\"c\",\"host_dev_name\":\"t2\","
		     "\"guest_mac\":\"06:00:00:00:00:01\"}");
}

static void what_is_deprecated_is_said(void **state)
{
	struct talk *t = *state;

	expect_taken(t, "PATCH", "/machine-config", "{\"cpu_template\":\"None\"}");
	assert_string_equal(t->answer.deprecated,
			    "PATCH /machine-config: cpu_template field is deprecated.");
	expect_taken(t, "PATCH", "/machine-config", "{\"vcpu_count\":2}");
	assert_null(t->answer.deprecated);
}

static void log_quotes_what_clients_send(void **state)
{
	struct talk *t = *state;
	char log[4096];
	ssize_t n;

	send_it(t, "PUT", "/machine-config", "{\"a\":\n1}");
	send_it(t, "PUT", "/mmds", "{\"secret\":1}");
	n = read(t->log[0], log, sizeof(log) - 1);
	assert_true(n > 0);
	log[n] = '\0';
	assert_non_null(strstr(log, "The API server received a Put request on \"/machine-config\" "
				    "with body \"{\\\"a\\\":\\n1}\".\n"));
	assert_non_null(strstr(log, "Received Error. Status code: 400 Bad Request. Message: "));
	assert_non_null(strstr(log, "Total previous API call duration: "));
	assert_null(strstr(log, "secret"));
}

static void quoted_text_fits_its_buffer(void **state)
{
	char buf[8];

	assert_string_equal(api_quote(buf, sizeof(buf), "ab", 2), "\"ab\"");
	assert_string_equal(api_quote(buf, sizeof(buf), "abcdefghi", 9), "\"abcd\"");
	assert_string_equal(api_quote(buf, sizeof(buf), "\"\"\"\"\"\"", 6), "\"\\\"\\\"\"");
	assert_string_equal(api_quote(buf, sizeof(buf), "", 0), "\"\"");
}

static void metadata_without_contents_is_an_empty_object(void **state)
{
	struct talk *t = *state;

	send_it(t, "GET", "/mmds", NULL);
	assert_int_equal(t->answer.status, 200);
	assert_true(json_is_object(t->answer.body));
}

/* Whoever answers for the monitor has nothing against any of these. */
static json_t *limits_after(struct talk *t, const char *update)
{
	static const char yes[] = "{}";
	char body[200], request[400] = "";
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(send(pair[1], yes, strlen(yes), 0), strlen(yes));
	t->api.control = pair[0];
	snprintf(body, sizeof(body), "{\"drive_id\":\"d\",\"rate_limiter\":%s}", update);
	expect_taken(t, "PATCH", "/drives/d", body);
	assert_true(recv(pair[1], request, sizeof(request) - 1, MSG_DONTWAIT) > 0);
	close(pair[0]);
	close(pair[1]);
	t->api.control = -1;
	return json_loads(request, 0, NULL);
}

static void bucket_that_is_null_stays(void **state)
{
	struct talk *t = *state;
	json_t *request;

	expect_taken(t, "PUT", "/drives/d",
		     "{\"drive_id\":\"d\",\"path_on_host\":\"/dev/null\",\"is_root_device\":false,"
		     "\"rate_limiter\":{\"bandwidth\":{\"size\":5000,\"refill_time\":1000}}}");
	t->api.state = API_RUNNING;
	request = limits_after(t, "{\"bandwidth\":null,\"ops\":{\"size\":7,\"refill_time\":1000}}");
	assert_int_equal(json_integer_value(json_object_get(request, "bytes")), 5000);
	assert_int_equal(json_integer_value(json_object_get(request, "ops")), 7);
	json_decref(request);
	/* One of nothing is how a limit is lifted. */
	request = limits_after(t, "{\"bandwidth\":{\"size\":0,\"refill_time\":0},\"ops\":null}");
	assert_null(json_object_get(request, "bytes"));
	assert_int_equal(json_integer_value(json_object_get(request, "ops")), 7);
	json_decref(request);
}

static void id_ends_at_a_slash(void **state)
{
	static const char drive[] = "{\"drive_id\":\"d\",\"path_on_host\":\"/dev/null\","
				    "\"is_root_device\":false}";
	struct talk *t = *state;

	expect_taken(t, "PUT", "/drives/d/", drive);
	expect_taken(t, "PUT", "/drives/d//x", drive);
	expect_taken(t, "PUT", "//drives/d", drive);
	assert_int_equal(json_object_size(t->api.drives), 1);
	assert_non_null(json_object_get(t->api.drives, "d"));
	expect_fault(t, "/drives/e/", drive, "The id from the path does not match");
	expect_fault(t, "/drives//d", drive, "The ID cannot be empty.");
	expect_fault(t, "/drives/d-e/x", drive, "API Resource IDs can only contain");
	t->api.state = API_RUNNING;
	t->api.options.enable_pci = true;
	commands[0] = '\0';
	expect_taken(t, "DELETE", "/drives/d/", NULL);
	assert_non_null(strstr(commands, "disk:d "));
	assert_int_equal(json_object_size(t->api.drives), 0);
}

static void target_is_a_path_or_a_url(void **state)
{
	static const char source[] = "{\"vcpu_count\":1,\"mem_size_mib\":16}";
	struct talk *t = *state;

	expect_taken(t, "PUT", "http://localhost/machine-config", source);
	expect_taken(t, "PUT", "http://[::1]:80//machine-config/", source);
	expect_fault(t, "/machine-config?x=/y", source,
		     "Invalid request method and/or path: PUT machine-config?x=.");
	expect_fault(t, "http://machine-config", source,
		     "Invalid request method and/or path: PUT .");
	expect_fault(t, "machine-config", source, "Invalid request method and/or path: PUT .");
}

static void what_is_behind_a_path_matters_where_it_does(void **state)
{
	static const char source[] = "{\"vcpu_count\":2,\"mem_size_mib\":16}";
	struct talk *t = *state;

	expect_taken(t, "PUT", "/machine-config/x//y", source);
	expect_fault(t, "/machine-configs", source, "method and/or path: PUT machine-configs.");
	expect_fault(t, "/mmds/x/y", "{}", "Unrecognized PUT request path `x`.");
	expect_fault(t, "/snapshot/", "{}", "Missing snapshot operation type.");
	expect_fault(t, "/snapshot/x", "{}", "method and/or path: PUT /snapshot/x.");
	assert_string_equal(send_it(t, "PATCH", "/balloon/hinting/x", NULL),
			    "Unrecognized PATCH request path `/hinting/x`.");
	assert_string_equal(send_it(t, "PATCH", "/balloon/statistics", NULL),
			    "Empty PATCH request.");
}

static void configuration_is_shown_as_firecracker_has_it(void **state)
{
	static const char data[] = "{\"drive_id\":\"data\",\"path_on_host\":\"/dev/null\","
				   "\"is_root_device\":false}";
	static const char root[] = "{\"drive_id\":\"root\",\"path_on_host\":\"/dev/null\","
				   "\"is_root_device\":true}";
	struct talk *t = *state;
	const char *mac;
	json_t *drives;

	expect_taken(t, "PUT", "/drives/data", data);
	expect_taken(t, "PUT", "/drives/root", root);
	expect_taken(t, "PUT", "/network-interfaces/n",
		     "{\"iface_id\":\"n\",\"host_dev_name\":\"t0\","
		     "\"guest_mac\":\"AA:FC:00:00:00:0A\"}");
	expect_fault(t, "/network-interfaces/m",
		     "{\"iface_id\":\"m\",\"host_dev_name\":\"t1\","
		     "\"guest_mac\":\"aa:fc:00:00:00:0a\"}",
		     "The MAC address is already in use: aa:fc:00:00:00:0a");
	expect_taken(t, "PUT", "/vsock",
		     "{\"vsock_id\":\"v\",\"guest_cid\":3,\"uds_path\":\"/tmp/none\"}");
	send_it(t, "GET", "/vm/config", NULL);
	drives = json_object_get(t->answer.body, "drives");
	assert_int_equal(json_array_size(drives), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(drives, 0),
							      "drive_id")),
			    "root");
	mac = json_string_value(json_object_get(
		json_array_get(json_object_get(t->answer.body, "network-interfaces"), 0),
		"guest_mac"));
	assert_string_equal(mac, "aa:fc:00:00:00:0a");
	assert_null(json_object_get(json_object_get(t->answer.body, "vsock"), "vsock_id"));
}

static void vsock_is_where_a_socket_can_be(void **state)
{
	static const char cannot[] = "Cannot create backend for vsock device: Error binding to the "
				     "host-side Unix socket: ";
	char dir[] = "/tmp/wisp-test-XXXXXX", path[60], body[120], said[160];
	struct talk *t = *state;
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/v", dir);
	snprintf(body, sizeof(body), "{\"guest_cid\":3,\"uds_path\":\"%s\"}", path);
	expect_taken(t, "PUT", "/vsock", body);
	assert_int_equal(access(path, F_OK), -1);
	fd = io_listen(path, SOCK_STREAM, 0, 1);
	assert_true(fd >= 0);
	snprintf(said, sizeof(said), "%sAddress already in use (os error 98)", cannot);
	expect_fault(t, "/vsock", body, said);
	/* The one that it was to replace is gone, as in Firecracker. */
	assert_null(t->api.vsock);
	/* Whose it was is gone. */
	close(fd);
	expect_taken(t, "PUT", "/vsock", body);
	fd = creat(path, 0600);
	assert_true(fd >= 0);
	close(fd);
	expect_fault(t, "/vsock", body, said);
	unlink(path);
	rmdir(dir);
	snprintf(said, sizeof(said), "%sNo such file or directory (os error 2)", cannot);
	expect_fault(t, "/vsock", body, said);
}

/* What has a default may be left out, and is not null; what may be nothing is either. */
static void null_is_no_default(void **state)
{
	struct talk *t = *state;

	expect_fault(t, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":16,\"smt\":null}",
		     "invalid type: null, expected a boolean");
	expect_fault(t, "/drives/d",
		     "{\"drive_id\":\"d\",\"path_on_host\":\"/dev/null\","
		     "\"is_root_device\":false,\"cache_type\":null}",
		     "expected value at line 1");
	expect_taken(t, "PUT", "/drives/d",
		     "{\"drive_id\":\"d\",\"path_on_host\":\"/dev/null\",\"is_root_device\":"
		     "false,\"is_read_only\":null,\"io_engine\":null,\"rate_limiter\":{\"ops\":"
		     "{\"size\":1,\"refill_time\":1,\"other\":1}}}");
}

static void update_of_nothing_is_empty(void **state)
{
	static const char nothing[] = "{\"smt\":null,\"vcpu_count\":null}";
	struct talk *t = *state;

	assert_string_equal(send_it(t, "PATCH", "/machine-config", nothing),
			    "Empty PATCH request.");
	assert_int_equal(t->answer.status, 400);
	expect_taken(t, "PATCH", "/machine-config", "{\"smt\":null,\"vcpu_count\":2}");
}

static void metadata_is_not_logged(void **state)
{
	static const char *const paths[] = { "/mmds", "/mmds/", "//mmds", "//mmds/" };
	struct talk *t = *state;
	char log[8000] = "";

	for (unsigned i = 0; i < ARRAY_SIZE(paths); i++)
		expect_taken(t, "PUT", paths[i], "{\"key\":\"secret\"}");
	expect_taken(t, "PATCH", "/mmds/x", "{\"other\":\"secret\"}");
	expect_fault(t, "//mmds//", "{\"key\":\"secret\"}", "Unrecognized PUT request path ``.");
	expect_taken(t, "PATCH", "/machine-config", "{\"mem_size_mib\":4096}");
	assert_true(read(t->log[0], log, sizeof(log) - 1) > 0);
	assert_null(strstr(log, "secret"));
	assert_non_null(strstr(log, "mem_size_mib"));
}

static void cpu_template_is_logged_for_who_wants_it(void **state)
{
	static const char template[] = "{\"kvm_capabilities\":[\"!121\"]}";
	struct talk *t = *state;
	char log[8000] = "";

	t->api.options.level = "Info";
	expect_taken(t, "PUT", "/cpu-config", template);
	assert_true(read(t->log[0], log, sizeof(log) - 1) > 0);
	assert_non_null(strstr(log, "request on \"/cpu-config\". To view the CPU template received "
				    "by the API, configure log-level to DEBUG.\n"));
	assert_null(strstr(log, "!121"));
	t->api.options.level = "Debug";
	expect_taken(t, "PUT", "/cpu-config", template);
	memset(log, 0, sizeof(log));
	assert_true(read(t->log[0], log, sizeof(log) - 1) > 0);
	assert_non_null(strstr(log, "\"/cpu-config\" with body \"{"));
	assert_non_null(strstr(log, "!121"));
}

/* There is no control socket to set it over. */
static void device_that_cannot_be_limited_goes_again(void **state)
{
	struct talk *t = *state;

	t->api.state = API_RUNNING;
	t->api.options.enable_pci = true;
	commands[0] = '\0';
	expect_fault(t, "/drives/d",
		     "{\"drive_id\":\"d\",\"path_on_host\":\"/dev/null\",\"is_root_device\":false,"
		     "\"rate_limiter\":{\"ops\":{\"size\":10,\"refill_time\":100}}}",
		     "Unable to create the virtio block device");
	assert_non_null(strstr(commands, "plug --disk=/dev/null,"));
	assert_non_null(strstr(commands, "wisp unplug --force --timeout=0 -- test disk:d "));
	assert_null(json_object_get(t->api.drives, "d"));
	commands[0] = '\0';
	expect_fault(t, "/network-interfaces/n",
		     "{\"iface_id\":\"n\",\"host_dev_name\":\"tap0\","
		     "\"tx_rate_limiter\":{\"ops\":{\"size\":10,\"refill_time\":100}}}",
		     "Could not create the network device");
	assert_non_null(strstr(commands, "plug --net=tap,name=tap0"));
	assert_non_null(strstr(commands, "wisp unplug --force --timeout=0 -- test net:n "));
	assert_null(json_object_get(t->api.nets, "n"));
}

/* Ask to load a snapshot's file with these resources, and no state. */
static const char *load_resources(struct talk *t, const char *resources)
{
	struct api_snapshot_header h = { .magic = API_SNAPSHOT_MAGIC,
					 .version = API_SNAPSHOT_VERSION,
					 .resources = htole32(strlen(resources)) };
	int fd = memfd_create("state", 0);
	char body[200];
	const char *said;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, &h, sizeof(h)), sizeof(h));
	assert_int_equal(write(fd, resources, strlen(resources)), strlen(resources));
	snprintf(body, sizeof(body),
		 "{\"snapshot_path\":\"/proc/self/fd/%d\",\"mem_file_path\":\"/dev/null\"}", fd);
	said = send_it(t, "PUT", "/snapshot/load", body);
	assert_int_equal(t->answer.status, 400);
	close(fd);
	return said;
}

/* An enemy may have written it. */
static void snapshot_has_resources_that_a_request_could_have_made(void **state)
{
	static const char machine[] = "\"machine\":{\"vcpu_count\":1,\"mem_size_mib\":64}";
	static const char *const bad[] = {
		"{\"machine\":{},\"drives\":{},\"nets\":{}}",
		"{%s,\"drives\":[],\"nets\":{}}",
		"{%s,\"boot\":{\"kernel_image_path\":7},\"drives\":{},\"nets\":{}}",
		"{%s,\"drives\":{\"d\":{\"drive_id\":\"d\",\"is_root_device\":true}},\"nets\":{}}",
		"{%s,\"drives\":{},\"nets\":{\"n\":{}}}",
		"{%s,\"drives\":{},\"nets\":{\"n\":{\"iface_id\":\"n\",\"host_dev_name\":7}}}",
		"{%s,\"drives\":{},\"nets\":{},\"pmems\":{\"p\":7}}",
		"{%s,\"drives\":{},\"nets\":{},\"vsock\":{\"guest_cid\":3}}",
		"{%s,\"drives\":{},\"nets\":{},\"memory\":{\"total_size_mib\":\"many\"}}",
		"{%s,\"drives\":{},\"nets\":{},\"mmds_config\":{\"version\":\"V2\","
		"\"ipv4_address\":\"169.254.169.254\",\"network_interfaces\":[7]}}",
		"{%s,\"drives\":{},\"nets\":{},\"mmds_config\":{\"version\":\"V2\","
		"\"network_interfaces\":[]}}",
	};
	static const char good[] =
		"{%s,\"drives\":{\"d\":{\"drive_id\":\"d\",\"is_root_device\":true,"
		"\"path_on_host\":\"/dev/null\",\"rate_limiter\":null}},\"nets\":{\"n\":{"
		"\"iface_id\":\"n\",\"host_dev_name\":\"tap0\",\"mtu\":null}},\"pmems\":{},"
		"\"vsock\":null,\"mmds_config\":{\"version\":\"V2\",\"ipv4_address\":"
		"\"169.254.169.254\",\"network_interfaces\":[\"n\"],\"imds_compat\":false}}";
	struct talk *t = *state;
	char text[600];
	const char *said;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(text, sizeof(text), bad[i], machine);
		said = load_resources(t, text);
		if (!strstr(said, "Invalid snapshot state"))
			fail_msg("%s: %s", text, said);
	}
	snprintf(text, sizeof(text), good, machine);
#pragma GCC diagnostic pop
	/* There is no program to go on with. */
	said = load_resources(t, text);
	if (!strstr(said, "is not where its helper is"))
		fail_msg("said: %s", said);
}

static void warning_is_not_why_a_start_failed(void **state)
{
	static const struct {
		const char *said, *why;
	} cases[] = {
		{ "wisp: disk 'a': in use\nmore\n", "disk 'a': in use" },
		{ "wisp: warn: tap 'a' is down\nwisp: disk 'a': in use\n", "disk 'a': in use" },
		{ "wisp: warn: one\nwisp: warn: two\nwisp: it\n", "it" },
		{ "wisp: warn: all there is\n", "warn: all there is" },
		{ "wisp: warn: cut off", "warn: cut off" },
		{ "from elsewhere", "from elsewhere" },
		{ "", "" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[80];

		snprintf(text, sizeof(text), "%s", cases[i].said);
		api_say_why(text);
		assert_string_equal(text, cases[i].why);
	}
}

static void log_line_has_level_and_origin_when_asked_for(void **state)
{
	struct talk *t = *state;
	char line[400] = "";

	t->api.options.show_level = t->api.options.show_origin = true;
	api_log_at(&t->api, "helpers/some.c", 12, "Warn", "text");
	assert_true(read(t->log[0], line, sizeof(line) - 1) > 0);
	assert_non_null(strstr(line, " [test:main:WARN:helpers/some.c:12] text\n"));
	/* Not to name a level is to name the default. */
	expect_taken(t, "PUT", "/logger", "{\"level\":\"DEBUG\"}");
	assert_true(api_logs(&t->api, "Debug"));
	expect_taken(t, "PUT", "/logger", "{\"show_level\":true}");
	assert_false(api_logs(&t->api, "Debug"));
	assert_true(api_logs(&t->api, "Info"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(numbers_may_be_larger_than_ours, setup, teardown),
		cmocka_unit_test_setup_teardown(large_number_leaves_those_beside_it_alone, setup,
						teardown),
		cmocka_unit_test_setup_teardown(arguments_are_one_word_each, setup, teardown),
		cmocka_unit_test_setup_teardown(persistent_memory_may_be_the_root_device, setup,
						teardown),
		cmocka_unit_test_setup_teardown(network_that_cannot_be_replaced_is_gone, setup,
						teardown),
		cmocka_unit_test_setup_teardown(what_is_deprecated_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(log_quotes_what_clients_send, setup, teardown),
		cmocka_unit_test(quoted_text_fits_its_buffer),
		cmocka_unit_test(warning_is_not_why_a_start_failed),
		cmocka_unit_test_setup_teardown(log_line_has_level_and_origin_when_asked_for, setup,
						teardown),
		cmocka_unit_test_setup_teardown(metadata_without_contents_is_an_empty_object, setup,
						teardown),
		cmocka_unit_test_setup_teardown(bucket_that_is_null_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(id_ends_at_a_slash, setup, teardown),
		cmocka_unit_test_setup_teardown(target_is_a_path_or_a_url, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_behind_a_path_matters_where_it_does, setup,
						teardown),
		cmocka_unit_test_setup_teardown(configuration_is_shown_as_firecracker_has_it, setup,
						teardown),
		cmocka_unit_test_setup_teardown(cpu_template_is_logged_for_who_wants_it, setup,
						teardown),
		cmocka_unit_test_setup_teardown(vsock_is_where_a_socket_can_be, setup, teardown),
		cmocka_unit_test_setup_teardown(null_is_no_default, setup, teardown),
		cmocka_unit_test_setup_teardown(update_of_nothing_is_empty, setup, teardown),
		cmocka_unit_test_setup_teardown(metadata_is_not_logged, setup, teardown),
		cmocka_unit_test_setup_teardown(device_that_cannot_be_limited_goes_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			snapshot_has_resources_that_a_request_could_have_made, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
