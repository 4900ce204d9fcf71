/* Control groups of a jail, over directories that stand for the hierarchies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "helpers/jail_cgroup.h"

struct place {
	char root[64];
	char mounts[PATH_MAX];
	struct error err;
};

static const char *path_of(const struct place *p, const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", p->root, name);
	return path;
}

/* A file as the kernel makes them in a group; all groups are there before. */
static void put(const struct place *p, const char *name, const char *text)
{
	FILE *f = fopen(path_of(p, name), "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void expect(const struct place *p, const char *name, const char *text)
{
	FILE *f = fopen(path_of(p, name), "r");
	char found[200] = "";

	assert_non_null(f);
	found[fread(found, 1, sizeof(found) - 1, f)] = '\0';
	fclose(f);
	assert_string_equal(found, text);
}

static void expect_us(const struct place *p, const char *name)
{
	char pid[24];

	snprintf(pid, sizeof(pid), "%d", getpid());
	expect(p, name, pid);
}

static void make_group(const struct place *p, const char *name)
{
	assert_int_equal(mkdir(path_of(p, name), 0700), 0);
}

static int setup(void **state)
{
	static struct place p;
	char table[400];

	memset(&p, 0, sizeof(p));
	snprintf(p.root, sizeof(p.root), "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(p.root));
	snprintf(table, sizeof(table),
		 "proc /proc proc rw 0 0\n"
		 "cgroup %s/cpu cgroup rw,cpu,cpuacct 0 0\n"
		 "cgroup %s/cpuset cgroup rw,cpuset 0 0\n"
		 "cgroup2 %s/two cgroup2 rw,nsdelegate 0 0\n",
		 p.root, p.root, p.root);
	put(&p, "mounts", table);
	snprintf(p.mounts, sizeof(p.mounts), "%s", path_of(&p, "mounts"));
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;
	char command[100];

	snprintf(command, sizeof(command), "rm -rf '%s'", p->root);
	return system(command);
}

/* The hierarchy of version 2 with the groups "fc" and "fc/vm". */
static void make_two(const struct place *p)
{
	make_group(p, "two");
	put(p, "two/cgroup.controllers", "cpuset cpu memory\n");
	put(p, "two/cgroup.subtree_control", "");
	make_group(p, "two/fc");
	put(p, "two/fc/cgroup.subtree_control", "");
	put(p, "two/fc/cgroup.procs", "");
	make_group(p, "two/fc/vm");
	put(p, "two/fc/vm/cpu.max", "");
	put(p, "two/fc/vm/cgroup.procs", "");
}

static int join(struct place *p, struct jail j)
{
	j.id = "vm";
	while (j.cgroup[j.num_cgroups])
		j.num_cgroups++;
	return jail_join_cgroups(&j, p->mounts, "fc", &p->err);
}

static void groups_above_hand_controllers_on(void **state)
{
	struct place *p = *state;

	make_two(p);
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 2,
						.cgroup = { "cpu.max=1000 2000" } }),
			 0);
	expect(p, "two/cgroup.subtree_control", "+cpu");
	expect(p, "two/fc/cgroup.subtree_control", "+cpu");
	expect(p, "two/fc/vm/cpu.max", "1000 2000");
	expect_us(p, "two/fc/vm/cgroup.procs");
	expect(p, "two/fc/cgroup.procs", "");
}

static void controller_that_is_not_there_is_named(void **state)
{
	struct place *p = *state;

	make_two(p);
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 2, .cgroup = { "mem.max=1" } }),
			 -ENOENT);
	assert_string_equal(p->err.msg, "Controller mem is unavailable");
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 1, .cgroup = { "pids.max=1" } }),
			 -ENOENT);
	assert_string_equal(p->err.msg, "Controller pids is unavailable");
}

static void empty_values_come_from_above(void **state)
{
	struct place *p = *state;

	make_group(p, "cpuset");
	put(p, "cpuset/cpuset.mems", "0-1\n");
	make_group(p, "cpuset/a");
	put(p, "cpuset/a/cpuset.mems", "");
	make_group(p, "cpuset/a/b");
	put(p, "cpuset/a/b/cpuset.mems", "\n");
	make_group(p, "cpuset/a/b/vm");
	put(p, "cpuset/a/b/vm/cpuset.mems", "");
	put(p, "cpuset/a/b/vm/cgroup.procs", "");
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 1,
						.parent_cgroup = "a/b",
						.cgroup = { "cpuset.mems=0-0" } }),
			 0);
	expect(p, "cpuset/a/cpuset.mems", "0-1");
	expect(p, "cpuset/a/b/cpuset.mems", "0-1");
	expect(p, "cpuset/a/b/vm/cpuset.mems", "0-0");
	expect_us(p, "cpuset/a/b/vm/cgroup.procs");
}

static void values_that_are_there_stay(void **state)
{
	struct place *p = *state;

	make_group(p, "cpu");
	put(p, "cpu/cpu.shares", "1024\n");
	make_group(p, "cpu/fc");
	put(p, "cpu/fc/cpu.shares", "512\n");
	make_group(p, "cpu/fc/vm");
	put(p, "cpu/fc/vm/cpu.shares", "");
	put(p, "cpu/fc/vm/cgroup.procs", "");
	assert_int_equal(join(p,
			      (struct jail){ .cgroup_version = 1, .cgroup = { "cpu.shares=256" } }),
			 0);
	expect(p, "cpu/fc/cpu.shares", "512\n");
}

static void all_values_come_before_processes(void **state)
{
	struct place *p = *state;

	make_two(p);
	/* The second one cannot be written: its file is not there. */
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 2,
						.cgroup = { "cpu.max=1", "memory.max=2" } }),
			 -ENOENT);
	expect(p, "two/fc/vm/cpu.max", "1");
	expect(p, "two/fc/vm/cgroup.procs", "");
	assert_non_null(strstr(p->err.msg, "two/fc/vm/memory.max"));
}

static void parent_is_joined_without_values(void **state)
{
	struct place *p = *state;

	make_two(p);
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 2, .parent_cgroup = "none" }), 0);
	assert_int_equal(access(path_of(p, "two/none"), F_OK), -1);
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 1 }), 0);
	expect(p, "two/fc/cgroup.procs", "");
	assert_int_equal(join(p, (struct jail){ .cgroup_version = 2 }), 0);
	expect_us(p, "two/fc/cgroup.procs");
	expect(p, "two/cgroup.subtree_control", "");
}

static void settings_are_a_file_and_a_value(void **state)
{
	static const char *const bad[] = { "cpu.max", "cpu.max=", "cpumax=1",  ".max=1",
					   "",	      "../x=1",	  "cpu.a/b=1", "cpu.max=1=2" };
	struct place *p = *state;

	make_two(p);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(join(p, (struct jail){ .cgroup_version = 2,
							.cgroup = { "cpu.max=7", bad[i] } }),
				 -EINVAL);
	expect(p, "two/fc/vm/cpu.max", "");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(groups_above_hand_controllers_on), TEST(controller_that_is_not_there_is_named),
		TEST(empty_values_come_from_above),	TEST(values_that_are_there_stay),
		TEST(all_values_come_before_processes), TEST(parent_is_joined_without_values),
		TEST(settings_are_a_file_and_a_value),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
