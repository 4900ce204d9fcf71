/* What a microVM may take of the host: the options, admission, processors, cgroups' places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "vmm/fleet/resources.h"

/* The configuration of @option with @value; its status. */
static int parse(struct machine_config *c, const char *option, const char *value, struct error *err)
{
	char *argv[] = { (char *)"--kernel", (char *)"k", (char *)option, (char *)value };

	config_init(c);
	return config_parse_run(c, ARRAY_SIZE(argv), argv, err);
}

static void limits_are_read_in_their_units(void **state)
{
	struct machine_config c;
	struct error err = { 0 };

	assert_int_equal(parse(&c, "--cpu-max", "1.5", &err), 0);
	assert_int_equal(c.resources.cpu_percent, 150);
	assert_true(cgroup_wanted(&c.resources));
	config_done(&c);
	assert_int_equal(parse(&c, "--memory-max", "300", &err), 0);
	assert_int_equal(c.resources.memory_bytes, 300 * MiB);
	config_done(&c);
	assert_int_equal(parse(&c, "--io-max", "/dev/null,rbps=10M,wiops=5", &err), 0);
	assert_string_equal(c.resources.io_path, "/dev/null");
	assert_int_equal(c.resources.io_read_bytes, 10 * MiB);
	assert_int_equal(c.resources.io_writes, 5);
	assert_int_equal(c.resources.io_reads, 0);
	config_done(&c);
	assert_int_equal(parse(&c, "--pin", "0-2,7", &err), 0);
	assert_int_equal(CPU_COUNT(&c.resources.pin), 4);
	assert_false(cgroup_wanted(&c.resources));
	config_done(&c);
}

static void limits_that_are_none_are_refused(void **state)
{
	static const char *const bad[][2] = {
		{ "--cpu-max", "0" },
		{ "--cpu-max", "nan" },
		{ "--cpu-max", "-1" },
		{ "--cpu-max", "1e9" },
		{ "--cpu-max", "2x" },
		{ "--cpu-weight", "0" },
		{ "--cpu-weight", "10001" },
		{ "--memory-max", "10K" },
		{ "--memory-max", "x" },
		{ "--io-max", "/dev/null" },
		{ "--io-max", "/d,rbps=0" },
		{ "--io-max", "/d,x=1" },
		{ "--pin", "3-1" },
		{ "--pin", "1," },
		{ "--pin", "1024" },
		{ "--pin", "a" },
		{ "--pin", "1-" },
		{ "--pin", "-1" },
		{ "--pin", "99999999999999999999" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct machine_config c;
		struct error err = { 0 };

		if (parse(&c, bad[i][0], bad[i][1], &err) == 0)
			fail_msg("%s %s is taken", bad[i][0], bad[i][1]);
		assert_non_null(strstr(err.msg, bad[i][0]));
		assert_int_equal(error_status(&err), 2);
		config_done(&c);
	}
}

static void vcpus_take_the_processors_in_turn(void **state)
{
	struct config_resources r = { .pinned = true };

	CPU_SET(1, &r.pin);
	CPU_SET(5, &r.pin);
	CPU_SET(6, &r.pin);
	assert_int_equal(resources_vcpu_processor(&r, 0), 1);
	assert_int_equal(resources_vcpu_processor(&r, 2), 6);
	assert_int_equal(resources_vcpu_processor(&r, 3), 1);
	r.pinned = false;
	assert_int_equal(resources_vcpu_processor(&r, 0), -1);
}

static int fit(unsigned cpus, uint64_t memory, const struct fleet_sum *sum, struct error *err)
{
	/* Of 16G, 10G are not in use. */
	static const struct host_room room = { 8, 16 * GiB, 10 * GiB };
	struct machine_config c = { .cpus = cpus, .memory_bytes = memory };

	*err = (struct error){ 0 };
	return resources_fit(&c, sum, &room, err);
}

static void what_fits_is_admitted_and_the_rest_refused_with_figures(void **state)
{
	/* Of 6G that they are promised they hold 2G. */
	struct fleet_sum sum = {
		.machines = 3,
		.cpus = 5,
		.memory_bytes = 6 * GiB,
		.resident_bytes = 2 * GiB,
		.reserved_bytes = 4 * GiB,
	};
	struct error err;

	assert_int_equal(fit(3, 6 * GiB, &sum, &err), 0);
	assert_int_equal(fit(4, GiB, &sum, &err), -ENOSPC);
	assert_string_equal(err.msg, "--admit: no room for 4 CPUs: total 8, promised to 3 running "
				     "microVMs 5, free 3");
	/* What they have not taken yet is theirs all the same: 10G less 4G are free. */
	assert_int_equal(fit(1, 6 * GiB + MiB, &sum, &err), -ENOSPC);
	assert_string_equal(err.msg,
			    "--admit: no room for 6.0G of memory: total 16.0G, promised to 3 "
			    "running microVMs 6.0G, used 6.0G, free 6.0G");
	assert_int_equal(error_status(&err), 2);
	/* More promised than there is. */
	sum.memory_bytes = 100 * GiB;
	sum.reserved_bytes = 98 * GiB;
	sum.cpus = 100;
	assert_int_equal(fit(1, MiB, &sum, &err), -ENOSPC);
	/* One that does not tell may have been promised anything. */
	sum = (struct fleet_sum){ .machines = 1, .unresponsive = 1 };
	assert_int_equal(fit(1, MiB, &sum, &err), -EBUSY);
}

static void own_cgroup_is_found_where_version_2_is_mounted(void **state)
{
	static const char v2[] = "25 1 0:21 / /proc rw - proc proc rw\n"
				 "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
	static const char hybrid[] = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
				     "31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
	char path[64];

	assert_int_equal(cgroup_find(path, sizeof(path), "0::/user.slice/a.scope\n", v2), 0);
	assert_string_equal(path, "/sys/fs/cgroup/user.slice/a.scope");
	assert_int_equal(cgroup_find(path, sizeof(path), "0::/\n", v2), 0);
	assert_string_equal(path, "/sys/fs/cgroup");
	assert_int_equal(cgroup_find(path, sizeof(path), "3:cpu:/x\n0::/b\n", hybrid), 0);
	assert_string_equal(path, "/sys/fs/cgroup/unified/b");
	assert_int_equal(cgroup_find(path, sizeof(path), "3:cpu:/x\n", hybrid), -ENOENT);
	assert_int_equal(cgroup_find(path, sizeof(path), "0::/\n",
				     "30 25 0:26 / /sys rw - sysfs s\n"),
			 -ENOENT);
	assert_int_equal(cgroup_find(path, 10, "0::/b\n", v2), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits_are_read_in_their_units),
		cmocka_unit_test(limits_that_are_none_are_refused),
		cmocka_unit_test(vcpus_take_the_processors_in_turn),
		cmocka_unit_test(what_fits_is_admitted_and_the_rest_refused_with_figures),
		cmocka_unit_test(own_cgroup_is_found_where_version_2_is_mounted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
