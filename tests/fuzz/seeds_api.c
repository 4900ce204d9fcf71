/* Writes the seeds of fuzz_api into the directory given: a body for each request that has one. */
#include <string.h>

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

int main(int argc, char **argv)
{
	char data[1024], name[32];

	if (argc != 2)
		return 2;
	/* Every request with every body: most do not fit, and the refusal is of interest too. */
	for (unsigned request = 0; request < 48; request++) {
		for (unsigned i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
			data[0] = (char)request;
			strcpy(data + 1, bodies[i]);
			snprintf(name, sizeof(name), "%u-%u", request, i);
			if (!seed_write(argv[1], name, data, 1 + strlen(bodies[i])))
				return 1;
		}
	}
	return 0;
}
