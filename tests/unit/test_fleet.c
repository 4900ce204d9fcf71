/* What is known of microVMs from outside: sums, host figures, Prometheus' text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/fleet/fleet.h"
#include "vmm/fleet/prometheus.h"

#define STAT_TAIL                                                                                  \
	" S 1 1 1 0 -1 0 0 0 0 0 300 200 0 0 20 0 4 0 1 4096 25 18446744073709551615 0 0 0 0 0 0 " \
	"0 0 0 0 0 0 17 0 0 0 0 40 0 0 0 0 0 0 0 0 0\n"

static void stat_line_is_read_behind_a_name_of_any_kind(void **state)
{
	uint64_t tick_ns = NSEC_PER_SEC / sysconf(_SC_CLK_TCK);
	struct usage u = { 0 };

	assert_int_equal(usage_add_stat(&u, "42 (a) R (b)" STAT_TAIL), 0);
	assert_int_equal(u.cpu_ns, 500 * tick_ns);
	assert_int_equal(u.guest_ns, 40 * tick_ns);
	assert_int_equal(u.resident_bytes, 25 * sysconf(_SC_PAGESIZE));
	assert_int_equal(u.threads, 4);
	assert_int_equal(usage_add_stat(&u, "43 (b)" STAT_TAIL), 0);
	assert_int_equal(u.processes, 2);
	assert_int_equal(u.cpu_ns, 1000 * tick_ns);
}

static void line_that_is_none_is_refused(void **state)
{
	static const char *const bad[] = { "", "1", "1 (x)", "1 (x) S", "1 (x) S 1 2 3\n", ")" };
	struct usage u = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(usage_add_stat(&u, bad[i]), -EBADMSG);
	assert_int_equal(u.processes, 0);
}

static void tree_counts_children_too(void **state)
{
	struct usage u = { 0 };
	pid_t child = fork();

	if (child == 0)
		pause();
	assert_int_equal(usage_add_tree(&u, getpid()), 0);
	assert_int_equal(u.processes, 2);
	assert_true(u.resident_bytes > 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(usage_add_tree(&u, child), -ESRCH);
}

static void usage_of_an_orphan_leaves_its_reaper_out(void **state)
{
	struct usage own = { 0 }, family = { 0 };

	/* Init is another program; a parent of the same program counts with all below it. */
	assert_int_equal(usage_add_machine(&own, getpid(), 1), 0);
	assert_int_equal(own.processes, 1);
	assert_int_equal(usage_add_machine(&family, getpid(), getpid()), 0);
	assert_int_equal(family.processes, 1);
	assert_int_equal(usage_add_machine(&own, INT32_MAX, 1), -ESRCH);
}

static void host_figures_are_found_wherever_they_stand(void **state)
{
	struct host_room room;

	assert_int_equal(host_room_parse(&room, "MemTotal:  1000 kB\nMemFree: 1 kB\n"
						"MemAvailable:     10 kB\n"),
			 0);
	assert_int_equal(room.memory_bytes, 1000 * KiB);
	assert_int_equal(room.available_bytes, 10 * KiB);
	assert_int_equal(host_room_parse(&room, "MemTotal:  1000 kB\n"), -EBADMSG);
	assert_int_equal(host_room_read(&room), 0);
	assert_true(room.cpus >= 1 && room.available_bytes <= room.memory_bytes);
}

static void sizes_are_rounded_to_what_is_read_at_a_glance(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {
		{ 0, "0B" },
		{ 1023, "1023B" },
		{ 1024, "1.0K" },
		{ 1536 * KiB, "1.5M" },
		{ 256 * MiB, "256M" },
		{ 1024 * MiB - 1, "1.0G" },
		{ 100 * GiB, "100G" },
		{ 102399 * KiB, "100M" },
		{ UINT64_MAX, "16.0E" },
	};
	char buf[USAGE_SIZE_TEXT];

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_string_equal(usage_size_text(buf, sizes[i].bytes), sizes[i].text);
}

/* Two machines, one of which does not answer. */
static json_t *two_machines(void)
{
	json_t *all = json_loads(
		"[{\"id\":\"a\\\"\\\\\",\"state\":\"paused\",\"pid\":7,\"cpus\":2,\"uptime_ms\":"
		"1500,"
		"\"memory\":4096,\"used\":{\"cpu_ms\":250,\"resident\":1024},\"counters\":{"
		"\"exits\":{\"hlt\":3,\"total\":3},\"regions\":[{\"bus\":\"pio\","
		"\"name\":\"serial\",\"base\":1016,\"reads\":1,\"writes\":2}],\"devices\":[{"
		"\"id\":\"disk0\",\"type\":\"virtio-blk\",\"resets\":1,\"queues\":[{\"kicks\":5,"
		"\"in_bytes\":80}],\"counters\":{\"reads\":8}}]}},"
		"{\"id\":\"b\",\"state\":\"unresponsive\"}]",
		0, NULL);

	assert_non_null(all);
	return all;
}

static char *metrics_of(const json_t *all)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	prometheus_print(out, all);
	assert_int_equal(fclose(out), 0);
	return text;
}

static void prometheus_text_has_each_counter_with_its_labels(void **state)
{
	static const char *const lines[] = {
		"wisp_state{vm=\"a\\\"\\\\\",state=\"paused\"} 1\n",
		"wisp_state{vm=\"b\",state=\"unresponsive\"} 1\n",
		"wisp_uptime_seconds{vm=\"a\\\"\\\\\"} 1.500\n",
		"wisp_cpu_seconds_total{vm=\"a\\\"\\\\\"} 0.250\n",
		"wisp_resident_bytes{vm=\"a\\\"\\\\\"} 1024\n",
		"wisp_exits_total{vm=\"a\\\"\\\\\",reason=\"hlt\"} 3\n",
		",bus=\"pio\",region=\"serial\",base=\"0x3f8\"} 2\n",
		",device=\"disk0\",type=\"virtio-blk\"} 1\n",
		",device=\"disk0\",type=\"virtio-blk\",queue=\"0\"} 80\n",
		",device=\"disk0\",type=\"virtio-blk\",counter=\"reads\"} 8\n",
	};
	json_t *all = two_machines();
	char *text = metrics_of(all);

	for (unsigned i = 0; i < ARRAY_SIZE(lines); i++)
		if (!strstr(text, lines[i]))
			fail_msg("not said: %s", lines[i]);
	assert_null(strstr(text, "total\"}"));
	assert_null(strstr(text, "wisp_cpus{vm=\"b\""));
	free(text);
	json_decref(all);
}

/* Prometheus refuses a name that comes back after another one. */
static void samples_of_a_name_stand_together_under_its_type(void **state)
{
	json_t *all = two_machines();
	char *text = metrics_of(all), *save = NULL, name[64] = "";

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(line, "# TYPE ", 7))
			sscanf(line, "# TYPE %63s", name);
		else if (*line != '#')
			assert_memory_equal(line, name, strlen(name));
	}
	assert_true(*name);
	free(text);
	json_decref(all);
}

static void promises_and_use_are_summed(void **state)
{
	json_t *all = json_pack("[{s:s,s:s,s:i,s:i,s:{s:i}},{s:s,s:s,s:i,s:i,s:{s:i}},{s:s,s:s}]",
				"id", "a", "state", "running", "cpus", 2, "memory", 4096, "used",
				"resident", 1000, "id", "b", "state", "paused", "cpus", 1, "memory",
				4096, "used", "resident", 5000, "id", "c", "state", "unresponsive");
	struct fleet_sum sum;

	fleet_sum(all, &sum);
	assert_int_equal(sum.machines, 3);
	assert_int_equal(sum.unresponsive, 1);
	assert_int_equal(sum.cpus, 3);
	assert_int_equal(sum.memory_bytes, 8192);
	assert_int_equal(sum.resident_bytes, 6000);
	/* What one takes beyond its promise is not another's. */
	assert_int_equal(sum.reserved_bytes, 3096);
	json_decref(all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stat_line_is_read_behind_a_name_of_any_kind),
		cmocka_unit_test(line_that_is_none_is_refused),
		cmocka_unit_test(tree_counts_children_too),
		cmocka_unit_test(usage_of_an_orphan_leaves_its_reaper_out),
		cmocka_unit_test(host_figures_are_found_wherever_they_stand),
		cmocka_unit_test(sizes_are_rounded_to_what_is_read_at_a_glance),
		cmocka_unit_test(promises_and_use_are_summed),
		cmocka_unit_test(prometheus_text_has_each_counter_with_its_labels),
		cmocka_unit_test(samples_of_a_name_stand_together_under_its_type),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
