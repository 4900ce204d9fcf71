/* Command lines: sizes, defaults, what a user gets wrong, and what the kernel is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/config_line.h"

static void expect_cmdline(const char *line, const char *want)
{
	struct line m;
	char *text;

	line_take(&m, line);
	text = config_cmdline(&m.config);
	assert_string_equal(text, want);
	free(text);
	config_done(&m.config);
}

/* ---- sizes ---- */

static void size_is_a_number_with_a_letter(void **state)
{
	static const struct {
		const char *text;
		uint64_t unit, bytes;
	} good[] = {
		{ "512M", 1, 512 * MiB }, { "1.5G", 1, 1536 * MiB },
		{ "2g", 1, 2 * GiB },	  { "256", MiB, 256 * MiB },
		{ "256", 1, 256 },	  { "0", MiB, 0 },
		{ "4k", 1, 4096 },	  { "0.5", MiB, 512 * KiB },
		{ "16T", 1, 16 * TiB },	  { "18446744073709551615", 1, UINT64_MAX },
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t bytes = 1;

		assert_int_equal(config_parse_size(good[i].text, good[i].unit, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void size_refuses_what_is_none(void **state)
{
	static const char *const bad[] = { "",	   "M",	  "-1M",   "+1M",	   " 1M",  "1 M",
					   "1MM",  "1.M", ".5M",   "1,5",	   "0x10", "1e3",
					   "1MiB", "1P",  "1.2.3", "1.0000000001G" };
	uint64_t bytes = 7;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(config_parse_size(bad[i], MiB, &bytes), -EINVAL);
	assert_int_equal(bytes, 7);
}

static void size_never_wraps(void **state)
{
	static const char *const big[] = { "18446744073709551616", "99999999999999999999999",
					   "16777216T", "18446744073709551615K",
					   "16777215.999999T" };
	uint64_t bytes = 7;

	for (size_t i = 0; i < 4; i++)
		assert_int_equal(config_parse_size(big[i], 1, &bytes), -ERANGE);
	assert_int_equal(bytes, 7);
	assert_int_equal(config_parse_size(big[4], 1, &bytes), 0);
}

static void size_text_is_exact(void **state)
{
	char buf[24];

	assert_string_equal(config_size_text(buf, sizeof(buf), 256 * MiB), "256M");
	assert_string_equal(config_size_text(buf, sizeof(buf), 1536 * MiB), "1536M");
	assert_string_equal(config_size_text(buf, sizeof(buf), 1000), "1000");
	assert_string_equal(config_size_text(buf, sizeof(buf), 0), "0");
	assert_string_equal(config_size_text(buf, sizeof(buf), 4096 * TiB), "4096T");
	assert_string_equal(config_size_text(buf, sizeof(buf), UINT64_MAX), "18446744073709551615");
}

/* ---- defaults ---- */

static void without_options_there_is_one_cpu_a_network_and_a_console(void **state)
{
	struct line m;
	const struct machine_config *c = &m.config;

	line_take(&m, "");
	assert_int_equal(c->cpus, 1);
	assert_int_equal(c->memory_bytes, 256 * MiB);
	assert_int_equal(c->num_disks, 0);
	assert_int_equal(c->num_nets, 1);
	assert_int_equal(c->net[0].kind, CONFIG_NET_USER);
	assert_string_equal(c->net[0].id, "net0");
	assert_int_equal(c->net[0].mac[0] & 3, 2); /* one station, locally administered */
	assert_true(c->console_present);
	assert_int_equal(c->console.kind, CHARDEV_STDIO);
	assert_false(c->serial_present);
	assert_true(c->rng && c->virtio_packed);
	assert_int_equal(c->sandbox, SANDBOX_ON);
	assert_false(c->rtc || c->test_device || c->reboot_resets || c->dry_run || c->json);
	assert_non_null(c->name);
	config_done(&m.config);
	config_done(&m.config);
}

static void every_simple_option_reaches_its_member(void **state)
{
	struct line m;
	const struct machine_config *c = &m.config;

	line_take(&m, "--kernel k --initrd=i --boot pvh --cpus=4 --memory 2G --cpu x86-64-v3 "
		      "--memory-backend shared --transport mmio --rng off --rtc --packed off "
		      "--loop epoll --reboot=reset --test-device --timeout 7 --name a.b-c_1 "
		      "--sandbox off --dry-run --json --metrics m --log-level debug --log-file l");
	assert_string_equal(c->kernel, "k");
	assert_string_equal(c->initrd, "i");
	assert_int_equal(c->protocol, FW_PROTOCOL_PVH);
	assert_int_equal(c->cpus, 4);
	assert_int_equal(c->memory_bytes, 2 * GiB);
	assert_int_equal(c->cpu, X86_CPU_V3);
	assert_int_equal(c->memory_backing, GUEST_MEM_SHARED);
	assert_int_equal(c->transport, CONFIG_MMIO);
	assert_false(c->rng || c->virtio_packed || c->sandbox);
	assert_true(c->rtc && c->reboot_resets && c->test_device && c->dry_run && c->json);
	assert_int_equal(c->loop, LOOP_EPOLL);
	assert_int_equal(c->timeout_seconds, 7);
	assert_string_equal(c->name, "a.b-c_1");
	assert_string_equal(c->metrics_file, "m");
	assert_int_equal(c->log_level, LOG_DEBUG);
	assert_string_equal(c->log_file, "l");
	config_done(&m.config);
}

static void choices_are_in_their_enums_order(void **state)
{
	struct line m;

	line_take(&m, "--boot linux64 --cpu x86-64-v4 --loop io_uring --log-level error");
	assert_int_equal(m.config.protocol, FW_PROTOCOL_LINUX64);
	assert_int_equal(m.config.cpu, X86_CPU_V4);
	assert_int_equal(m.config.loop, LOOP_URING);
	assert_int_equal(m.config.log_level, LOG_ERROR);
	config_done(&m.config);
	line_take(&m, "--boot auto --cpu x86-64-v2 --loop auto --log-level trace --transport pci");
	assert_int_equal(m.config.protocol, FW_PROTOCOL_AUTO);
	assert_int_equal(m.config.cpu, X86_CPU_V2);
	assert_int_equal(m.config.loop, LOOP_AUTO);
	assert_int_equal(m.config.log_level, LOG_TRACE);
	assert_int_equal(m.config.transport, CONFIG_PCI);
	config_done(&m.config);
}

static void a_flag_takes_only_on_or_off_from_the_next_word(void **state)
{
	struct line m;

	line_take(&m, "--rng off --rtc on --test-device disk.img");
	assert_false(m.config.rng);
	assert_true(m.config.rtc && m.config.test_device);
	assert_string_equal(m.config.disk[0].path, "disk.img");
	config_done(&m.config);
}

/* ---- what a user gets wrong ---- */

static void numbers_out_of_range_name_the_range(void **state)
{
	line_refuse("--cpus 0", "--cpus: 0 is out of range (1 to 255)");
	line_refuse("--cpus 100000", "--cpus: 100000 is out of range (1 to 255)");
	line_refuse("--cpus 99999999999999999999999",
		    "--cpus: 99999999999999999999999 is out of range (1 to 255)");
	line_refuse("--cpus -1", "--cpus: '-1' is not a number");
	line_refuse("--cpus 2x", "--cpus: '2x' is not a number");
	line_refuse("--cpus=", "--cpus: '' is not a number");
	line_refuse("--timeout 0", "--timeout: 0 is out of range (1 to 31536000)");
	line_refuse("--disk a,queues=0", "--disk: queues: 0 is out of range (1 to 16)");
	line_refuse("--disk a,iops=0", "--disk: iops: 0 is out of range (1 to 1T)");
	line_refuse("--disk a,iops=1K", "--disk: iops: '1K' is not a number");
	line_refuse("--disk a,bps=fast", "--disk: bps: 'fast' is not a number such as 1000 or 10M");
	line_refuse("--disk a,bps=2T", "--disk: bps: 2T is out of range (1 to 1T)");
}

static void memory_has_limits(void **state)
{
	line_refuse("--memory 1M", "--memory: 1M is too little (at least 8M)");
	line_refuse("--memory 0", "--memory: 0 is too little (at least 8M)");
	line_refuse("--memory 100T", "--memory: 100T is too much (at most 64T)");
	line_refuse("--memory 99999999999999T",
		    "--memory: 99999999999999T is too much (at most 64T)");
	line_refuse("--memory lots", "--memory: 'lots' is not a size such as 512M or 2G");
	line_refuse("--memory 8193K", "--memory: 8193K is not a multiple of 4K");
	line_refuse("--memory 9M --hugepages",
		    "--memory: 9M is not a multiple of 2M, as --hugepages needs");
}

static void unknown_words_name_the_known_ones(void **state)
{
	line_refuse("--frobnicate", "unknown option '--frobnicate'");
	line_refuse("--frobnicate=3", "unknown option '--frobnicate'");
	line_refuse("-c", "unknown option '-c'");
	line_refuse("--memroy", "unknown option '--memroy': did you mean --memory?");
	line_refuse("--memroy=1G", "unknown option '--memroy': did you mean --memory?");
	line_refuse("-cpus", "unknown option '-cpus': did you mean --cpus?");
	line_refuse("--disk nbd://127.0.0.1/,direct",
		    "--disk 'nbd://127.0.0.1/': direct is for files");
	line_refuse("--disk nbd://1.2.3/",
		    "disk 'nbd://1.2.3/': '1.2.3' is neither an IP address nor a name");
	line_refuse(
		"--disk a,foo=1",
		"--disk: unknown key 'foo' (known: ro, format, backing, follow-backing, direct, "
		"cache, queues, iops, bps, iops-burst, bps-burst, reconnect, id, serial, slot)");
	line_refuse("--disk a,",
		    "--disk: unknown key '' (known: ro, format, backing, follow-backing, direct, "
		    "cache, "
		    "queues, iops, bps, iops-burst, bps-burst, reconnect, id, serial, slot)");
	line_refuse("--disk a,format=vmdk",
		    "--disk: format: unknown value 'vmdk' (known: auto, raw, qcow2)");
	line_refuse("--transport frob", "--transport: unknown value 'frob' (known: pci, mmio)");
	line_refuse("--transport pc", "--transport: unknown value 'pc' (known: pci, mmio)");
	line_refuse("--transport=", "--transport: unknown value '' (known: pci, mmio)");
	line_refuse("--net frob",
		    "--net: unknown value 'frob' (known: user, tap, switch=NAME, none)");
	line_refuse(
		"--net user,frob=1",
		"--net: unknown key 'frob' (known: hostfwd, restrict, host-loopback, subnet, dns, "
		"search, name, fd, queues, vhost, vlan, pps, bps, pps-burst, bps-burst, mac, mtu, "
		"service, "
		"id, slot)");
	line_refuse("--serial tty",
		    "--serial: unknown value 'tty' (known: stdio, none, file=PATH, socket=PATH)");
	line_refuse("--sandbox maybe", "--sandbox: unknown value 'maybe' (known: off, on, strict)");
}

static void nothing_is_given_twice(void **state)
{
	line_refuse("--cpus 1 --cpus 2", "--cpus: given twice");
	line_refuse("--disk a,ro,ro", "--disk: key 'ro' is given twice");
	line_refuse("a.img b.img", "IMAGE: 'b.img' is one more: others are given by --disk");
	line_refuse("--disk a,id=x --disk b,id=x", "--disk: id 'x' is given twice");
	line_refuse("--disk a --disk a",
		    "--disk: 'a' is given twice; only read-only disks (ro) may share a file");
	line_refuse("--disk a,ro a",
		    "--disk: 'a' is given twice; only read-only disks (ro) may share a file");
	line_refuse("--name a.switch", "--name: 'a.switch' ends in '.switch', as no microVM can");
	line_refuse("--disk a,slot=3 --disk b,slot=3", "--disk: slot 3 is given twice");
	line_refuse("--disk a,slot=3 --net tap,name=t,slot=3", "--net: slot 3 is given twice");
	line_refuse("--net user,id=n --net user,id=n", "--net: id 'n' is given twice");
	line_refuse("--net user,mac=02:77:69:73:70:01 --net user",
		    "--net: mac 02:77:69:73:70:01 is given twice");
}

static void values_that_are_missing_or_too_many_are_named(void **state)
{
	line_refuse("--cpus", "--cpus: needs a value: N");
	line_refuse("--kernel=", "--kernel: is empty");
	line_refuse("--dry-run=yes", "--dry-run: takes no value");
	line_refuse("--disk a,format", "--disk: key 'format' needs a value: format=auto|raw|qcow2");
	line_refuse("--disk ,ro", "--disk: the path is empty");
	line_refuse("--serial file=", "--serial: is empty");
}

static void what_contradicts_itself_is_refused(void **state)
{
	line_refuse("--hugepages --memory-backend shared",
		    "--hugepages: cannot be combined with --memory-backend shared");
	line_refuse("--cmdline a --cmdline-only b",
		    "--cmdline-only: cannot be combined with --cmdline");
	line_refuse("--cmdline-only a --cmdline b",
		    "--cmdline: cannot be combined with --cmdline-only");
	line_refuse("--net none --net user", "--net: 'none' cannot be combined with a network");
	line_refuse("--net user --net none", "--net: 'none' cannot be combined with a network");
	line_refuse("--serial stdio --console stdio",
		    "--serial stdio and --console stdio: there is only one terminal");
}

static void names_are_fit_for_file_names(void **state)
{
	line_refuse("--name ../x",
		    "--name: id '../x' is not 1 to 32 letters, digits, '.', '_' or '-'");
	line_refuse("--name a/b",
		    "--name: id 'a/b' is not 1 to 32 letters, digits, '.', '_' or '-'");
	line_refuse("--disk a,id=-x",
		    "--disk: id '-x' is not 1 to 32 letters, digits, '.', '_' or '-'");
	line_refuse("--disk a,serial=123456789012345678901",
		    "--disk: serial '123456789012345678901' is longer than 20 bytes");
}

/* ---- the kernel's command line ---- */

/* What follows the consoles and ports in every default command line of a machine with PCI. */
#define REST " pci=noearly cryptomgr.notests"

static void cmdline_follows_the_machine(void **state)
{
	expect_cmdline("", "panic=-1 reboot=panic_warm quiet console=hvc0 8250.nr_uarts=0" REST);
	expect_cmdline("--serial stdio",
		       "panic=-1 reboot=panic_warm quiet console=ttyS0 8250.nr_uarts=1" REST);
	expect_cmdline("--memory-hotplug 1G",
		       "panic=-1 reboot=panic_warm quiet console=hvc0 8250.nr_uarts=0" REST
		       " memhp_default_state=online_movable");
	expect_cmdline("--transport mmio --console none --log-level debug",
		       "panic=-1 reboot=panic_warm 8250.nr_uarts=0 pci=off cryptomgr.notests");
	expect_cmdline("disk.img", "panic=-1 reboot=panic_warm quiet console=hvc0 "
				   "8250.nr_uarts=0" REST " root=/dev/vda rw");
	expect_cmdline("disk.img,ro", "panic=-1 reboot=panic_warm quiet console=hvc0 "
				      "8250.nr_uarts=0" REST " root=/dev/vda ro");
}

static void the_last_console_is_the_one_on_the_terminal(void **state)
{
	expect_cmdline("--serial file=log", "panic=-1 reboot=panic_warm quiet console=ttyS0 "
					    "console=hvc0 8250.nr_uarts=1" REST);
	expect_cmdline("--serial stdio --console file=log",
		       "panic=-1 reboot=panic_warm quiet console=hvc0 console=ttyS0 "
		       "8250.nr_uarts=1" REST);
}

static void the_users_words_come_last_or_alone(void **state)
{
	expect_cmdline("--cmdline a=1~b",
		       "panic=-1 reboot=panic_warm quiet console=hvc0 8250.nr_uarts=0" REST
		       " a=1 b");
	expect_cmdline("--cmdline=", "panic=-1 reboot=panic_warm quiet console=hvc0 "
				     "8250.nr_uarts=0" REST);
	expect_cmdline("--cmdline-only a=1~b", "a=1 b");
}

static void rewind_is_a_time_and_keys(void **state)
{
	static const struct {
		const char *value;
		unsigned every_ms, keep, hold;
	} good[] = {
		{ "every=1s,keep=10", 1000, 10, 600 },
		{ "500ms", 500, 10, 600 },
		{ "2m,hold=0,keep=100", 120000, 100, 0 },
		{ "3", 3000, 10, 600 },
	};
	static const char *const bad[] = { "",
					   "10ms",
					   "-1s",
					   "1s,keep=0",
					   "1s,keep=101",
					   "25h",
					   "1d",
					   "every=",
					   "99999999999999999999s",
					   "1s,keep=2,keep=3",
					   "1s,every=2s" };

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		struct machine_config c;
		struct error err = { 0 };
		const char *args[] = { "--rewind", good[i].value };

		config_init(&c);
		assert_int_equal(config_parse_run(&c, 2, (char *const *)args, &err), 0);
		assert_int_equal(c.rewind.every_ms, good[i].every_ms);
		assert_int_equal(c.rewind.keep, good[i].keep);
		assert_int_equal(c.rewind.hold_seconds, good[i].hold);
		config_done(&c);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct machine_config c;
		struct error err = { 0 };
		const char *args[] = { "--rewind", bad[i] };

		config_init(&c);
		assert_int_not_equal(config_parse_run(&c, 2, (char *const *)args, &err), 0);
		assert_non_null(strstr(err.msg, "--rewind"));
		config_done(&c);
	}
}

static void rewind_refuses_memory_that_forks_cannot_share(void **state)
{
	const char *args[] = { "--rewind", "1s", "--memory-backend", "shared", "--name", "a" };
	struct machine_config c;
	struct error err = { 0 };

	config_init(&c);
	assert_int_equal(config_parse_run(&c, 6, (char *const *)args, &err), 0);
	assert_int_equal(config_validate(&c, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "--rewind"));
	config_done(&c);
}

#define NOT_UTF8 \
	" is not UTF-8: what a microVM is asked and says is JSON, which has no other text"

/* Latin-1, a sequence that is cut off, a surrogate, and what is longer than need be. */
static void text_that_json_cannot_say_is_refused_by_name(void **state)
{
	struct line m;

	line_refuse("caf\xe9.img", "the argument 'caf\\xe9.img'" NOT_UTF8);
	line_refuse("--kernel \xe2\x82", "the argument '\\xe2\\x82'" NOT_UTF8);
	line_refuse("--disk a,id=\xed\xa0\x80", "the argument 'a,id=\\xed\\xa0\\x80'" NOT_UTF8);
	line_refuse("--disk=\xc0\xaf", "the argument '--disk=\\xc0\\xaf'" NOT_UTF8);
	line_take(&m, "--disk caf\xc3\xa9.img --kernel \xf0\x9f\x90\xa7");
	config_done(&m.config);
}

/* Which no argument of this command line says. */
static void places_that_json_cannot_say_are_refused_too(void **state)
{
	struct error err = { 0 };
	struct line m;

	line_take(&m, "--disk a.img");
	free(m.config.disk[0].path);
	m.config.disk[0].path = strdup("/b\xff.img");
	assert_int_equal(config_validate(&m.config, &err), -EILSEQ);
	assert_non_null(strstr(err.msg, "'/b\\xff.img' is not UTF-8"));
	config_done(&m.config);
	line_take(&m, "--disk a.img");
	free(m.config.args_dir);
	m.config.args_dir = strdup("/home/andr\xe9");
	assert_int_equal(config_validate(&m.config, &err), -EILSEQ);
	assert_non_null(strstr(err.msg, "the directory '/home/andr\\xe9' is not UTF-8"));
	config_done(&m.config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(size_is_a_number_with_a_letter),
		cmocka_unit_test(size_refuses_what_is_none),
		cmocka_unit_test(size_never_wraps),
		cmocka_unit_test(size_text_is_exact),
		cmocka_unit_test(without_options_there_is_one_cpu_a_network_and_a_console),
		cmocka_unit_test(every_simple_option_reaches_its_member),
		cmocka_unit_test(choices_are_in_their_enums_order),
		cmocka_unit_test(a_flag_takes_only_on_or_off_from_the_next_word),
		cmocka_unit_test(numbers_out_of_range_name_the_range),
		cmocka_unit_test(memory_has_limits),
		cmocka_unit_test(unknown_words_name_the_known_ones),
		cmocka_unit_test(nothing_is_given_twice),
		cmocka_unit_test(text_that_json_cannot_say_is_refused_by_name),
		cmocka_unit_test(places_that_json_cannot_say_are_refused_too),
		cmocka_unit_test(values_that_are_missing_or_too_many_are_named),
		cmocka_unit_test(what_contradicts_itself_is_refused),
		cmocka_unit_test(names_are_fit_for_file_names),
		cmocka_unit_test(cmdline_follows_the_machine),
		cmocka_unit_test(the_last_console_is_the_one_on_the_terminal),
		cmocka_unit_test(the_users_words_come_last_or_alone),
		cmocka_unit_test(rewind_is_a_time_and_keys),
		cmocka_unit_test(rewind_refuses_memory_that_forks_cannot_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
