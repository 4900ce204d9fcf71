#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/cli_saved.h"
#include "vmm/config/config_state.h"

/* A guest that was saved with two disks, a network of each kind and sockets. */
static void saved_guest(struct machine_config *c)
{
	static const enum config_net_kind kinds[] = { CONFIG_NET_TAP, CONFIG_NET_SWITCH,
						      CONFIG_NET_USER };
	static const char *const nets[] = { "net0", "net1", "net2" };
	static const char *const disks[] = { "disk0", "disk1" };

	config_init(c);
	for (unsigned i = 0; i < ARRAY_SIZE(disks); i++) {
		c->disk[i].id = strdup(disks[i]);
		c->disk[i].path = strdup("/was/there");
	}
	c->num_disks = ARRAY_SIZE(disks);
	for (unsigned i = 0; i < ARRAY_SIZE(nets); i++) {
		c->net[i].id = strdup(nets[i]);
		c->net[i].kind = kinds[i];
	}
	c->num_nets = ARRAY_SIZE(nets);
	c->net[0].tap_name = strdup("tap0");
	c->net[1].switch_name = strdup("lan");
	c->vsock.path = strdup("/was/vsock");
	c->vsock_present = true;
}

/* `wisp restore dir ARG...` on that guest; what fails is in @err. */
static int apply(struct machine_config *c, uint32_t *given, struct error *err,
		 const char *const *arg, unsigned num)
{
	struct saved_options o = { 0 };
	char *argv[16];
	const char *path;
	int r;

	assert_true(num + 1 < ARRAY_SIZE(argv));
	for (unsigned i = 0; i < num; i++)
		argv[i] = (char *)arg[i];
	argv[num] = "dir";
	argv[num + 1] = NULL;
	saved_guest(c);
	*err = (struct error){ 0 };
	*given = 0;
	r = config_parse_verb("restore", restore_options, &o, (int)num + 1, argv, &path, 1, err);
	if (r >= 0)
		r = saved_options_apply(c, &o, given, err);
	saved_options_done(&o);
	return r;
}

static void what_is_not_named_stays(void **state)
{
	struct machine_config c;
	struct error err;
	uint32_t given;

	assert_int_equal(apply(&c, &given, &err, NULL, 0), 0);
	assert_int_equal(given, 0);
	assert_string_equal(c.disk[0].path, "/was/there");
	assert_string_equal(c.net[0].tap_name, "tap0");
	assert_string_equal(c.net[1].switch_name, "lan");
	assert_string_equal(c.vsock.path, "/was/vsock");
	config_done(&c);
}

static void everything_may_be_elsewhere_now(void **state)
{
	const char *const arg[] = { "--net", "net0=tap7", "--net=net1=/run/office", "--disk",
				    "disk1=/now/here", "--vsock", "/now/vsock" };
	struct machine_config c;
	struct error err;
	uint32_t given;

	if (apply(&c, &given, &err, arg, ARRAY_SIZE(arg)) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(c.net[0].tap_name, "tap7");
	assert_string_equal(c.net[1].switch_name, "/run/office");
	assert_string_equal(c.disk[0].path, "/was/there");
	assert_string_equal(c.disk[1].path, "/now/here");
	assert_int_equal(given, 1 << 1);
	assert_string_equal(c.vsock.path, "/now/vsock");
	config_done(&c);
}

/* What was a descriptor of the other process's is a name here. */
static void a_tap_by_descriptor_gets_a_name(void **state)
{
	struct saved_options o = { .net = { { strdup("net0"), strdup("tap3") } }, .num_nets = 1 };
	struct error err = { 0 };
	struct machine_config c;
	uint32_t given = 0;

	saved_guest(&c);
	free(c.net[0].tap_name);
	c.net[0].tap_name = NULL;
	c.net[0].tap_fd_given = true;
	assert_int_equal(saved_options_apply(&c, &o, &given, &err), 0);
	assert_string_equal(c.net[0].tap_name, "tap3");
	assert_false(c.net[0].tap_fd_given);
	saved_options_done(&o);
	config_done(&c);
}

static void what_the_guest_does_not_have_is_refused(void **state)
{
	static const struct {
		const char *arg, *msg;
	} bad[] = {
		{ "--net=net9=tap0", "--net: the saved guest has no network 'net9'" },
		{ "--net=net2=tap0",
		  "--net: 'net2' is a user network, on no interface or switch" },
		{ "--disk=disk7=/x", "--disk: the saved guest has no disk 'disk7'" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct machine_config c;
		struct error err;
		uint32_t given;

		assert_true(apply(&c, &given, &err, &bad[i].arg, 1) < 0);
		assert_string_equal(err.msg, bad[i].msg);
		assert_int_equal(error_status(&err), 2);
		config_done(&c);
	}
}

/* Save @c and load it again, as a snapshot does. */
static int save_and_load(const struct machine_config *c, struct error *err)
{
	struct state_set set = { 0 };
	struct machine_config loaded;
	struct state_writer w;
	int r;

	config_init(&loaded);
	state_writer_init(&w);
	config_save(c, &w);
	state_seal(&w);
	r = state_set_open(&set, w.buf, w.len, err);
	if (!r)
		r = config_load(&loaded, &set, err);
	config_done(&loaded);
	state_set_close(&set);
	state_writer_done(&w);
	return r;
}

/* What can be saved can be loaded, and what cannot is said while there still is a guest. */
static void saved_is_what_can_be_loaded(void **state)
{
	static const size_t lengths[] = { 4095, 4096 };

	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct machine_config c;
		struct error err = { 0 };

		config_init(&c);
		c.args_dir = strdup("/");
		c.args = calloc(3, sizeof(*c.args));
		c.num_args = 2;
		c.args[0] = strdup("--kernel");
		c.args[1] = calloc(1, lengths[i] + 1);
		memset(c.args[1], 'k', lengths[i]);
		assert_int_equal(config_check_saved(&c, &err), i ? -E2BIG : 0);
		assert_int_equal(save_and_load(&c, &err) < 0, i);
		config_done(&c);
	}
}

static void too_many_arguments_are_not_saved(void **state)
{
	struct machine_config c;
	struct error err = { 0 };

	config_init(&c);
	c.num_args = 1025;
	c.args = calloc(c.num_args + 1, sizeof(*c.args));
	for (unsigned i = 0; i < c.num_args; i++)
		c.args[i] = strdup("--no-hotplug");
	assert_int_equal(config_check_saved(&c, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "1025 arguments"));
	assert_true(save_and_load(&c, &err) < 0);
	config_done(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_named_stays),
		cmocka_unit_test(everything_may_be_elsewhere_now),
		cmocka_unit_test(a_tap_by_descriptor_gets_a_name),
		cmocka_unit_test(what_the_guest_does_not_have_is_refused),
		cmocka_unit_test(saved_is_what_can_be_loaded),
		cmocka_unit_test(too_many_arguments_are_not_saved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
