/* What the API answers to changes of devices while the microVM runs, word for word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "helpers/api.h"

#define NOT_THERE "Failed perform action on device: Device not found"
#define HINT	  "Please verify the request arguments."
#define LIMITER	  "\"rate_limiter\":{}"
#define NO_FILE	  "\"path_on_host\":\"/nonexistent\""

struct request {
	const char *method, *path, *body, *fault; /* "": none */
};

static int make(void **state)
{
	struct api *api = calloc(1, sizeof(*api));

	assert_non_null(api);
	*api = (struct api){
		.log_fd = -1, .metrics_fd = -1, .child_fd = -1, .child_words = -1, .control = -1
	};
	api->options.id = "test";
	api->options.level = "Off";
	api->options.enable_pci = true;
	api->options.payload_limit = API_DEFAULT_PAYLOAD;
	assert_int_equal(api_resources_init(api), 0);
	json_object_set_new(api->drives, "d", json_pack("{s:s}", "drive_id", "d"));
	json_object_set_new(api->pmems, "r", json_pack("{s:s, s:b}", "id", "r", "root_device", 1));
	api->state = API_RUNNING;
	*state = api;
	return 0;
}

static int end(void **state)
{
	struct api *api = *state;

	api_resources_done(api);
	free(api);
	return 0;
}

static void expect_answers(struct api *api, const struct request *requests, size_t num)
{
	for (size_t i = 0; i < num; i++) {
		const struct request *r = &requests[i];
		struct api_answer answer = { 0 };
		const char *fault;

		api_handle(api, r->method, r->path, r->body, r->body ? strlen(r->body) : 0,
			   &answer);
		fault = json_string_value(json_object_get(answer.body, "fault_message")) ?: "";
		if (strcmp(fault, r->fault) != 0)
			fail_msg("%s %s %s: %s", r->method, r->path, r->body ?: "", fault);
		assert_int_equal(answer.status, *fault ? 400 : 204);
		json_decref(answer.body);
	}
}

/* The guest has found it by then, on whatever device. */
static void root_device_neither_comes_nor_goes(void **state)
{
	static const struct request requests[] = {
		{ "PUT", "/drives/n", "{\"drive_id\":\"n\"," NO_FILE ",\"is_root_device\":true}",
		  "Drive config error: A root block device already exists!" },
		{ "PUT", "/drives/n", "{\"drive_id\":\"n\",\"is_root_device\":true}",
		  "Drive config error: A root block device already exists!" },
		{ "PUT", "/pmem/n", "{\"id\":\"n\"," NO_FILE ",\"root_device\":true}",
		  "Pmem config error: Attempt to add pmem as a root device while the root device "
		  "defined as a block device" },
		{ "PUT", "/pmem/n", "{\"id\":\"n\"," NO_FILE "}",
		  "Pmem config error: Unable to create the virtio-pmem device: Error accessing "
		  "backing file: No such file or directory (os error 2)" },
		{ "PUT", "/pmem/r", "{\"id\":\"r\"," NO_FILE "}", "Device ID in use" },
		{ "DELETE", "/pmem/n", NULL, "Device not found" },
		{ "DELETE", "/pmem/r", NULL, "Cannot unplug root device" },
	};
	struct api *api = *state;

	expect_answers(api, requests, ARRAY_SIZE(requests));
	assert_int_equal(json_object_size(api->pmems), 1);
	assert_int_equal(json_object_size(api->drives), 1);
}

static void patch_of_no_device_says_so(void **state)
{
	static const struct request requests[] = {
		{ "PATCH", "/drives/n", "{\"drive_id\":\"n\"," LIMITER "}",
		  "Drive config error: Unable to patch the block device: " NOT_THERE " " HINT },
		{ "PATCH", "/drives/n", "{\"drive_id\":\"n\"," NO_FILE "}",
		  "Drive config error: Unable to patch the block device: " NOT_THERE " " HINT },
		{ "PATCH", "/drives/n", "{\"drive_id\":\"n\"}",
		  "Drive config error: Unable to patch the block device: " NOT_THERE " " HINT },
		{ "PATCH", "/network-interfaces/n", "{\"iface_id\":\"n\"}",
		  "Network config error: Unable to update the net device: " NOT_THERE },
		{ "PATCH", "/pmem/n", "{\"id\":\"n\"," LIMITER "}",
		  "Pmem config error: Unable to patch the pmem device: " NOT_THERE " " HINT },
		/* Of which nothing is asked. */
		{ "PATCH", "/pmem/n", "{\"id\":\"n\"}", "" },
		{ "PATCH", "/pmem/n", "{\"id\":\"n\",\"rate_limiter\":null}", "" },
	};

	expect_answers(*state, requests, ARRAY_SIZE(requests));
}

static void patch_of_a_drive_says_what_is_to_change(void **state)
{
	static const char refused[] = "Drive config error: Unable to patch the block device: "
				      "Block: Running method expected different backend. " HINT;
	const struct request requests[] = {
		{ "PATCH", "/drives/d", "{\"drive_id\":\"d\"}", refused },
		{ "PATCH", "/drives/d",
		  "{\"drive_id\":\"d\",\"path_on_host\":null,\"rate_limiter\":null}", refused },
	};

	expect_answers(*state, requests, ARRAY_SIZE(requests));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(root_device_neither_comes_nor_goes, make, end),
		cmocka_unit_test_setup_teardown(patch_of_no_device_says_so, make, end),
		cmocka_unit_test_setup_teardown(patch_of_a_drive_says_what_is_to_change, make, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
