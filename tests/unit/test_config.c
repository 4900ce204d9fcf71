#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/config/config.h"

#define MAX_ARGS 40

/* One configuration made from a command line's words. */
struct made {
	struct machine_config config;
	struct error err;
	int r;
};

/* Parse "a b c" split at spaces; a word may hold '~' for a space. */
static void make(struct made *m, const char *line)
{
	char *copy = strdup(line), *argv[MAX_ARGS], *save;
	int argc = 0;

	assert_non_null(copy);
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		assert_true(argc < MAX_ARGS);
		for (char *s = w; *s; s++)
			if (*s == '~')
				*s = ' ';
		argv[argc++] = w;
	}
	memset(&m->err, 0, sizeof(m->err));
	config_init(&m->config);
	m->r = config_parse_run(&m->config, argc, argv, &m->err);
	if (!m->r)
		m->r = config_validate(&m->config, &m->err);
	free(copy);
}

static void take(struct made *m, const char *line)
{
	make(m, line);
	if (m->r)
		fail_msg("'%s' was refused: %s", line, m->err.msg);
}

static void refuse(const char *line, const char *message)
{
	struct made m;

	make(&m, line);
	assert_true(m.r < 0);
	assert_string_equal(m.err.msg, message);
	assert_int_equal(error_status(&m.err), 2);
	config_done(&m.config);
}

static void expect_cmdline(const char *line, const char *want)
{
	struct made m;
	char *text;

	take(&m, line);
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
	static const char *const bad[] = { "",	   "M",	  "-1M",   "+1M", " 1M",  "1 M",
					   "1MM",  "1.M", ".5M",   "1,5", "0x10", "1e3",
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
	struct made m;
	const struct machine_config *c = &m.config;

	take(&m, "");
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
	struct made m;
	const struct machine_config *c = &m.config;

	take(&m, "--kernel k --initrd=i --boot pvh --cpus=4 --memory 2G --cpu x86-64-v3 "
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
	struct made m;

	take(&m, "--boot linux64 --cpu x86-64-v4 --loop io_uring --log-level error");
	assert_int_equal(m.config.protocol, FW_PROTOCOL_LINUX64);
	assert_int_equal(m.config.cpu, X86_CPU_V4);
	assert_int_equal(m.config.loop, LOOP_URING);
	assert_int_equal(m.config.log_level, LOG_ERROR);
	config_done(&m.config);
	take(&m, "--boot auto --cpu x86-64-v2 --loop auto --log-level trace --transport pci");
	assert_int_equal(m.config.protocol, FW_PROTOCOL_AUTO);
	assert_int_equal(m.config.cpu, X86_CPU_V2);
	assert_int_equal(m.config.loop, LOOP_AUTO);
	assert_int_equal(m.config.log_level, LOG_TRACE);
	assert_int_equal(m.config.transport, CONFIG_PCI);
	config_done(&m.config);
}

static void a_flag_takes_only_on_or_off_from_the_next_word(void **state)
{
	struct made m;

	take(&m, "--rng off --rtc on --test-device disk.img");
	assert_false(m.config.rng);
	assert_true(m.config.rtc && m.config.test_device);
	assert_string_equal(m.config.disk[0].path, "disk.img");
	config_done(&m.config);
}

static void files_are_persistent_memory_by_order_or_by_name(void **state)
{
	struct made m;

	take(&m, "--pmem a.img,ro --pmem b.img,id=cache --pmem c.img disk.img");
	assert_int_equal(m.config.num_pmems, 3);
	assert_string_equal(m.config.pmem[0].path, "a.img");
	assert_string_equal(m.config.pmem[0].id, "pmem0");
	assert_true(m.config.pmem[0].read_only);
	assert_string_equal(m.config.pmem[1].id, "cache");
	assert_false(m.config.pmem[1].read_only);
	assert_string_equal(m.config.pmem[2].id, "pmem2");
	config_done(&m.config);
	refuse("--pmem ,ro", "--pmem: the path is empty");
	refuse("--pmem a,size=1", "--pmem: unknown key 'size' (known: ro, id)");
	refuse("--pmem a,id=x --pmem b,id=x", "--pmem: id 'x' is given twice");
	refuse("--pmem a,id=disk0 d", "--pmem: id 'disk0' is given twice");
	refuse("--pmem a,id=../x",
	       "--pmem: id '../x' is not 1 to 32 letters, digits, '.', '_' or '-'");
	refuse("--pmem a --pmem b --pmem c --pmem d --pmem e --pmem f --pmem g --pmem h --pmem i",
	       "--pmem: more than 8 files");
}

/* ---- what a user gets wrong ---- */

static void numbers_out_of_range_name_the_range(void **state)
{
	refuse("--cpus 0", "--cpus: 0 is out of range (1 to 255)");
	refuse("--cpus 100000", "--cpus: 100000 is out of range (1 to 255)");
	refuse("--cpus 99999999999999999999999",
	       "--cpus: 99999999999999999999999 is out of range (1 to 255)");
	refuse("--cpus -1", "--cpus: '-1' is not a number");
	refuse("--cpus 2x", "--cpus: '2x' is not a number");
	refuse("--cpus=", "--cpus: '' is not a number");
	refuse("--timeout 0", "--timeout: 0 is out of range (1 to 31536000)");
	refuse("--disk a,queues=0", "--disk: queues: 0 is out of range (1 to 16)");
	refuse("--disk a,iops=0", "--disk: iops: 0 is out of range (1 to 1T)");
	refuse("--disk a,iops=1K", "--disk: iops: '1K' is not a number");
	refuse("--disk a,bps=fast", "--disk: bps: 'fast' is not a number");
	refuse("--disk a,bps=2T", "--disk: bps: 2T is out of range (1 to 1T)");
}

static void memory_has_limits(void **state)
{
	refuse("--memory 1M", "--memory: 1M is too little (at least 8M)");
	refuse("--memory 0", "--memory: 0 is too little (at least 8M)");
	refuse("--memory 100T", "--memory: 100T is too much (at most 64T)");
	refuse("--memory 99999999999999T", "--memory: 99999999999999T is too much (at most 64T)");
	refuse("--memory lots", "--memory: 'lots' is not a size such as 512M or 2G");
	refuse("--memory 8193K", "--memory: 8193K is not a multiple of 4K");
	refuse("--memory 9M --hugepages",
	       "--memory: 9M is not a multiple of 2M, as --hugepages needs");
}

static void unknown_words_name_the_known_ones(void **state)
{
	refuse("--frobnicate", "unknown option '--frobnicate'");
	refuse("--frobnicate=3", "unknown option '--frobnicate'");
	refuse("-c", "unknown option '-c'");
	refuse("--disk nbd://127.0.0.1/,direct",
	       "--disk 'nbd://127.0.0.1/': direct is for files");
	refuse("--disk nbd://1.2.3/",
	       "disk 'nbd://1.2.3/': '1.2.3' is neither an IP address nor a name");
	refuse("--disk a,foo=1",
	       "--disk: unknown key 'foo' (known: ro, format, backing, follow-backing, direct, "
	       "cache, queues, iops, bps, iops-burst, bps-burst, reconnect, id, serial, slot)");
	refuse("--disk a,",
	       "--disk: unknown key '' (known: ro, format, backing, follow-backing, direct, cache, "
	       "queues, iops, bps, iops-burst, bps-burst, reconnect, id, serial, slot)");
	refuse("--disk a,format=vmdk",
	       "--disk: format: unknown value 'vmdk' (known: auto, raw, qcow2)");
	refuse("--transport frob", "--transport: unknown value 'frob' (known: pci, mmio)");
	refuse("--transport pc", "--transport: unknown value 'pc' (known: pci, mmio)");
	refuse("--transport=", "--transport: unknown value '' (known: pci, mmio)");
	refuse("--net frob", "--net: unknown value 'frob' (known: user, tap, switch=NAME, none)");
	refuse("--net user,frob=1",
	       "--net: unknown key 'frob' (known: hostfwd, restrict, host-loopback, subnet, dns, "
	       "search, name, fd, queues, vlan, pps, bps, pps-burst, bps-burst, mac, mtu, service, "
	       "id, slot)");
	refuse("--serial tty",
	       "--serial: unknown value 'tty' (known: stdio, none, file=PATH, socket=PATH)");
	refuse("--sandbox maybe", "--sandbox: unknown value 'maybe' (known: off, on, strict)");
}

static void nothing_is_given_twice(void **state)
{
	refuse("--cpus 1 --cpus 2", "--cpus: given twice");
	refuse("--disk a,ro,ro", "--disk: key 'ro' is given twice");
	refuse("a.img b.img", "IMAGE: 'b.img' is one more: others are given by --disk");
	refuse("--disk a,id=x --disk b,id=x", "--disk: id 'x' is given twice");
	refuse("--disk a --disk a",
	       "--disk: 'a' is given twice; only read-only disks (ro) may share a file");
	refuse("--disk a,ro a",
	       "--disk: 'a' is given twice; only read-only disks (ro) may share a file");
	refuse("--net user,id=n --net user,id=n", "--net: id 'n' is given twice");
	refuse("--net user,mac=02:77:69:73:70:01 --net user",
	       "--net: mac 02:77:69:73:70:01 is given twice");
}

static void values_that_are_missing_or_too_many_are_named(void **state)
{
	refuse("--cpus", "--cpus: needs a value: N");
	refuse("--kernel=", "--kernel: is empty");
	refuse("--dry-run=yes", "--dry-run: takes no value");
	refuse("--disk a,format", "--disk: key 'format' needs a value: format=auto|raw|qcow2");
	refuse("--disk ,ro", "--disk: the path is empty");
	refuse("--serial file=", "--serial: is empty");
}

static void what_contradicts_itself_is_refused(void **state)
{
	refuse("--hugepages --memory-backend shared",
	       "--hugepages: cannot be combined with --memory-backend shared");
	refuse("--cmdline a --cmdline-only b", "--cmdline-only: cannot be combined with --cmdline");
	refuse("--cmdline-only a --cmdline b", "--cmdline: cannot be combined with --cmdline-only");
	refuse("--net none --net user", "--net: 'none' cannot be combined with a network");
	refuse("--net user --net none", "--net: 'none' cannot be combined with a network");
	refuse("--serial stdio --console stdio",
	       "--serial stdio and --console stdio: there is only one terminal");
}

static void names_are_fit_for_file_names(void **state)
{
	refuse("--name ../x", "--name: id '../x' is not 1 to 32 letters, digits, '.', '_' or '-'");
	refuse("--name a/b", "--name: id 'a/b' is not 1 to 32 letters, digits, '.', '_' or '-'");
	refuse("--disk a,id=-x", "--disk: id '-x' is not 1 to 32 letters, digits, '.', '_' or '-'");
	refuse("--disk a,serial=123456789012345678901",
	       "--disk: serial '123456789012345678901' is longer than 20 bytes");
}

/* ---- disks ---- */

static void disk_options_reach_the_disk(void **state)
{
	struct made m;
	const struct config_disk *d = m.config.disk;

	take(&m, "--disk a.img,ro,format=raw,direct=on,cache=unsafe,queues=4,id=root,serial=S1,"
		 "reconnect=0 --disk b.img,ro=off,cache=writethrough");
	assert_int_equal(m.config.num_disks, 2);
	assert_string_equal(d[0].path, "a.img");
	assert_true(d[0].read_only && d[0].direct);
	assert_int_equal(d[0].format, BLOCK_FORMAT_RAW);
	assert_int_equal(d[0].cache, BLOCK_CACHE_UNSAFE);
	assert_int_equal(d[0].queues, 4);
	assert_int_equal(d[0].reconnect_seconds, 0);
	assert_string_equal(d[0].id, "root");
	assert_string_equal(d[0].serial, "S1");
	assert_false(d[1].read_only);
	assert_int_equal(d[1].format, BLOCK_FORMAT_AUTO);
	assert_int_equal(d[1].cache, BLOCK_CACHE_WRITETHROUGH);
	assert_int_equal(d[1].queues, 0);
	assert_int_equal(d[1].reconnect_seconds, 30);
	assert_string_equal(d[1].id, "disk1");
	assert_string_equal(d[1].serial, "disk1");
	config_done(&m.config);

	take(&m, "--disk a,iops=500,bps=1.5M,iops-burst=50,bps-burst=64K");
	assert_int_equal(d[0].iops, 500);
	assert_int_equal(d[0].bps, 3 * MiB / 2);
	assert_int_equal(d[0].iops_burst, 50);
	assert_int_equal(d[0].bps_burst, 64 * KiB);
	config_done(&m.config);
}

static void a_doubled_comma_is_one_in_the_value(void **state)
{
	struct made m;

	take(&m, "--disk a,,b=1.img,serial=x,,y,ro --disk ,,,,");
	assert_string_equal(m.config.disk[0].path, "a,b=1.img");
	assert_string_equal(m.config.disk[0].serial, "x,y");
	assert_true(m.config.disk[0].read_only);
	assert_string_equal(m.config.disk[1].path, ",,");
	config_done(&m.config);
}

static void the_image_is_the_first_disk_wherever_it_stands(void **state)
{
	struct made m;

	take(&m, "--disk b.img --disk c.img --cpus 2 a.img,ro");
	assert_int_equal(m.config.num_disks, 3);
	assert_string_equal(m.config.disk[0].path, "a.img");
	assert_true(m.config.disk[0].read_only);
	assert_string_equal(m.config.disk[0].id, "disk0");
	assert_string_equal(m.config.disk[1].path, "b.img");
	assert_string_equal(m.config.disk[2].path, "c.img");
	config_done(&m.config);

	take(&m, "--cpus 2 -- --odd.img");
	assert_string_equal(m.config.disk[0].path, "--odd.img");
	config_done(&m.config);
}

static void disks_are_counted(void **state)
{
	char line[1024] = "";

	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		sprintf(line + strlen(line), "--disk=d%u ", i);
	strcat(line, "one-more");
	refuse(line, "IMAGE: more than 24 disks");
}

static void a_long_id_is_cut_to_make_a_serial_number(void **state)
{
	struct made m;

	take(&m, "--disk a,id=a-name-of-twenty-five-chr");
	assert_string_equal(m.config.disk[0].serial, "a-name-of-twenty-fiv");
	config_done(&m.config);
}

/* ---- networks ---- */

static void forwards_may_repeat_and_take_both_families(void **state)
{
	struct made m;
	const struct config_forward *f = m.config.net[0].forward;

	take(&m, "--net user,hostfwd=tcp::8080-:80,hostfwd=udp:0.0.0.0:53-:5353,"
		 "hostfwd=tcp:[0::1]:8080-:80,restrict,host-loopback=on,mtu=9000,"
		 "mac=52:54:00:aB:cd:ef,id=lan");
	assert_int_equal(m.config.num_nets, 1);
	assert_int_equal(m.config.net[0].num_forwards, 3);
	assert_false(f[0].udp);
	assert_string_equal(f[0].host_addr, "127.0.0.1");
	assert_int_equal(f[0].host_port, 8080);
	assert_int_equal(f[0].guest_port, 80);
	assert_true(f[1].udp);
	assert_string_equal(f[1].host_addr, "0.0.0.0");
	assert_int_equal(f[1].guest_port, 5353);
	assert_string_equal(f[2].host_addr, "::1");
	assert_true(m.config.net[0].restrict_out && m.config.net[0].host_loopback);
	assert_int_equal(m.config.net[0].mtu, 9000);
	assert_int_equal(m.config.net[0].mac[3], 0xab);
	assert_string_equal(m.config.net[0].id, "lan");
	config_done(&m.config);
}

static void forwards_that_make_no_sense_are_refused(void **state)
{
	refuse("--net user,hostfwd=tcp:127.0.0.1:0-:22",
	       "--net: hostfwd: port 0 is out of range (1 to 65535)");
	refuse("--net user,hostfwd=tcp:127.0.0.1:65536-:22",
	       "--net: hostfwd: port 65536 is out of range (1 to 65535)");
	refuse("--net user,hostfwd=tcp::99999999999999999999999-:22",
	       "--net: hostfwd: '99999999999999999999999' is not a port number");
	refuse("--net user,hostfwd=tcp::80-:",
	       "--net: hostfwd: a port number is missing (1 to 65535)");
	refuse("--net user,hostfwd=tcp:localhost:80-:80",
	       "--net: hostfwd: 'localhost' is not a numeric address");
	refuse("--net user,hostfwd=tcp:[::1:80-:80",
	       "--net: hostfwd: '[::1' is not a numeric address");
	refuse("--net user,hostfwd=tcp:[]:80-:80", "--net: hostfwd: '[]' is not a numeric address");
	refuse("--net user,hostfwd=tcp:80-:80",
	       "--net: hostfwd: 'tcp:80-:80' has no address; it may be empty, as in "
	       "tcp::8080-:80");
	refuse("--net user,hostfwd=sctp::80-:80",
	       "--net: hostfwd: 'sctp::80-:80' is not PROTOCOL:[ADDRESS]:PORT-:PORT with protocol "
	       "tcp or udp");
	refuse("--net user,hostfwd=tcp::80", "--net: hostfwd: 'tcp::80' is not "
					     "PROTOCOL:[ADDRESS]:PORT-:PORT with protocol tcp or "
					     "udp");
}

static void two_forwards_never_want_one_port(void **state)
{
	struct made m;

	refuse("--net user,hostfwd=tcp::80-:80,hostfwd=tcp::80-:81",
	       "--net: hostfwd: tcp port 80 of the host is given twice");
	refuse("--net user,hostfwd=tcp:0.0.0.0:80-:80 --net user,hostfwd=tcp:127.0.0.2:80-:81",
	       "--net: hostfwd: tcp port 80 of the host is given twice");
	refuse("--net user,hostfwd=udp:[::1]:53-:53,hostfwd=udp:[0:0::1]:53-:54",
	       "--net: hostfwd: udp port 53 of the host is given twice");
	take(&m, "--net user,hostfwd=tcp::80-:80,hostfwd=udp::80-:80,"
		 "hostfwd=tcp:127.0.0.2:80-:81,hostfwd=tcp:[::]:80-:80");
	config_done(&m.config);
}

static void addresses_of_interfaces_are_checked(void **state)
{
	refuse("--net user,mac=02:00:00:00:00",
	       "--net: mac: '02:00:00:00:00' is not six bytes such as 02:00:00:00:00:01");
	refuse("--net user,mac=02:00:00:00:00:0g",
	       "--net: mac: '02:00:00:00:00:0g' is not six bytes such as 02:00:00:00:00:01");
	refuse("--net user,mac=0:2:00:00:00:00:1",
	       "--net: mac: '0:2:00:00:00:00:1' is not six bytes such as 02:00:00:00:00:01");
	refuse("--net user,mac=01:00:00:00:00:01",
	       "--net: mac: '01:00:00:00:00:01' is a group address");
	refuse("--net user,mtu=100", "--net: mtu: 100 is out of range (1280 to 65520)");
}

static void no_network_means_none(void **state)
{
	struct made m;

	take(&m, "--net tap,name=tap0,queues=4,mtu=9000 --net tap,fd=7");
	assert_int_equal(m.config.net[0].kind, CONFIG_NET_TAP);
	assert_string_equal(m.config.net[0].tap_name, "tap0");
	assert_int_equal(m.config.net[0].queues, 4);
	assert_int_equal(m.config.net[0].mtu, 9000);
	assert_int_equal(m.config.net[1].tap_fd, 7);
	/* On a wire with others, every guest needs an address of its own. */
	assert_int_equal(m.config.net[0].mac[0], 2);
	assert_memory_not_equal(m.config.net[0].mac, m.config.net[1].mac, 6);
	config_done(&m.config);
	refuse("--net tap", "--net: tap needs either name=INTERFACE or fd=N");
	refuse("--net tap,name=t,fd=5", "--net: tap needs either name=INTERFACE or fd=N");
	refuse("--net tap,name=t,restrict", "--net: 'restrict' is no key of 'tap'");
	refuse("--net user,name=t", "--net: 'name' is no key of 'user'");
	refuse("--net tap,fd=5,queues=2", "--net: queues: a tap by descriptor has one");
	take(&m, "--net switch=lan,vlan=7 --net switch=./x,mtu=9000");
	assert_int_equal(m.config.net[0].kind, CONFIG_NET_SWITCH);
	assert_string_equal(m.config.net[0].switch_name, "lan");
	assert_int_equal(m.config.net[0].vlan, 7);
	assert_int_equal(m.config.net[1].vlan, 1);
	config_done(&m.config);
	refuse("--net switch",
	       "--net: unknown value 'switch' (known: user, tap, switch=NAME, none)");
	take(&m, "--net user,bps=10M,pps=1000,bps-burst=1M");
	assert_int_equal(m.config.net[0].bps, 10 * MiB);
	assert_int_equal(m.config.net[0].pps, 1000);
	assert_int_equal(m.config.net[0].bps_burst, MiB);
	config_done(&m.config);
	take(&m, "--net user,subnet=192.168.7.0/24,dns=192.168.7.9,search=a.test,search=b.test");
	assert_string_equal(m.config.net[0].subnet, "192.168.7.0/24");
	assert_string_equal(m.config.net[0].dns, "192.168.7.9");
	assert_int_equal(m.config.net[0].num_search, 2);
	config_done(&m.config);
	refuse("--net user,subnet=10.0.0.0",
	       "--net: subnet: '10.0.0.0' is not ADDRESS/PREFIX such as 10.0.2.0/24");
	refuse("--net user,subnet=10.0.0.0/30", "--net: subnet: 30 is out of range (8 to 27)");
	refuse("--net user,dns=::1", "--net: dns: '::1' is not an IPv4 address");
	refuse("--net tap,name=t,search=x", "--net: 'search' is no key of 'tap'");
	refuse("--net user,pps=1M", "--net: pps: '1M' is not a number");
	refuse("--net user,bps=0", "--net: bps: 0 is out of range (1 to 1T)");
	refuse("--net switch=lan,vlan=4095", "--net: vlan: 4095 is out of range (1 to 4094)");
	refuse("--net tap,name=t,vlan=2", "--net: 'vlan' is no key of 'tap'");
	refuse("--net tap,name=", "--net: name: is empty");

	take(&m, "--net none");
	assert_int_equal(m.config.num_nets, 0);
	assert_true(m.config.net_given);
	config_done(&m.config);
}

/* ---- consoles ---- */

static void serial_on_the_terminal_takes_the_consoles_place(void **state)
{
	struct made m;

	take(&m, "--serial stdio");
	assert_true(m.config.serial_present);
	assert_int_equal(m.config.serial.kind, CHARDEV_STDIO);
	assert_false(m.config.console_present);
	config_done(&m.config);

	take(&m, "--serial file=log --console socket=s");
	assert_int_equal(m.config.serial.kind, CHARDEV_FILE);
	assert_string_equal(m.config.serial.path, "log");
	assert_true(m.config.console_present);
	assert_int_equal(m.config.console.kind, CHARDEV_SOCKET);
	assert_string_equal(m.config.console.path, "s");
	config_done(&m.config);

	take(&m, "--serial none");
	assert_false(m.config.serial_present);
	assert_true(m.config.console_present);
	config_done(&m.config);

	take(&m, "--console none");
	assert_false(m.config.console_present);
	config_done(&m.config);
}

/* ---- the kernel's command line ---- */

/* What follows the consoles and ports in every default command line of a machine with PCI. */
#define REST " pci=noearly cryptomgr.notests"

static void cmdline_follows_the_machine(void **state)
{
	expect_cmdline("", "panic=-1 reboot=panic_warm quiet console=hvc0 8250.nr_uarts=0" REST);
	expect_cmdline("--serial stdio",
		       "panic=-1 reboot=panic_warm quiet console=ttyS0 8250.nr_uarts=1" REST);
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

static void what_was_unplugged_is_not_there(void **state)
{
	struct made m;

	take(&m, "--disk /a --unplugged disk0:1 --disk /b,id=b,slot=5 "
		 "--net tap,name=t,id=n,slot=6");
	assert_int_equal(m.config.num_disks, 1);
	assert_string_equal(m.config.disk[0].id, "b");
	assert_int_equal(m.config.disk[0].slot, 5);
	assert_int_equal(m.config.empty_slots, 1u << 1);
	/* The default network is there from the start, whatever was plugged in later. */
	assert_int_equal(m.config.num_nets, 2);
	assert_string_equal(m.config.net[0].id, "net0");
	assert_int_equal(m.config.net[1].slot, 6);
	config_done(&m.config);
	take(&m, "--net none --net tap,name=t,id=n,slot=6");
	assert_int_equal(m.config.num_nets, 1);
	config_done(&m.config);
	refuse("--unplugged x:1", "--unplugged: there is no disk or network 'x'");
	refuse("--unplugged net0:32",
	       "--unplugged: 'net0:32' is not an ID, ':' and a slot from 1 to 31");
	refuse("--disk /a,slot=0", "--disk: slot: 0 is out of range (1 to 31)");
}

static void balloon_may_have_a_size(void **state)
{
	struct made m;

	take(&m, "--balloon --memory 512M root.img");
	assert_true(m.config.balloon_present);
	assert_int_equal(m.config.balloon.bytes, 0);
	assert_true(m.config.balloon.deflate_on_oom && m.config.balloon.reporting);
	assert_int_equal(m.config.num_disks, 1);
	config_done(&m.config);
	take(&m, "--memory 512M --balloon 128M,reporting=off");
	assert_int_equal(m.config.balloon.bytes, 128 * MiB);
	assert_false(m.config.balloon.reporting);
	config_done(&m.config);
	take(&m, "--balloon hinting=on,reporting=off");
	assert_int_equal(m.config.balloon.bytes, 0);
	assert_true(m.config.balloon.hinting && !m.config.balloon.reporting);
	config_done(&m.config);
	take(&m, "--balloon root.img");
	assert_int_equal(m.config.num_disks, 1);
	config_done(&m.config);
	refuse("--balloon 1G", "--balloon: more than --memory");
	refuse("--balloon=x", "--balloon: 'x' is not a size such as 512M or 2G");
}

static void vsock_takes_a_path_and_a_context_id(void **state)
{
	struct made m;
	char line[160];

	take(&m, "--vsock path=/run/v.sock");
	assert_true(m.config.vsock_present);
	assert_string_equal(m.config.vsock.path, "/run/v.sock");
	assert_int_equal(m.config.vsock.cid, 3);
	config_done(&m.config);
	take(&m, "--vsock cid=99,path=a,,b");
	assert_string_equal(m.config.vsock.path, "a,b");
	assert_int_equal(m.config.vsock.cid, 99);
	config_done(&m.config);

	take(&m, "--vsock root.img");
	assert_true(m.config.vsock_present);
	assert_null(m.config.vsock.path);
	assert_int_equal(m.config.num_disks, 1);
	config_done(&m.config);
	refuse("--vsock path=a,cid=2", "--vsock: cid: 2 is out of range (3 to 4294967294)");
	refuse("--vsock=a", "--vsock: unknown key 'a' (known: cid, path)");
	/* A port's number must still fit behind it. */
	snprintf(line, sizeof(line), "--vsock path=%097d", 0);
	make(&m, line);
	assert_true(m.r < 0);
	config_done(&m.config);
	snprintf(line, sizeof(line), "--vsock path=%096d", 0);
	take(&m, line);
	config_done(&m.config);
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
	static const char *const bad[] = { "", "10ms", "-1s", "1s,keep=0", "1s,keep=101",
					   "25h", "1d", "every=", "99999999999999999999s",
					   "1s,keep=2,keep=3", "1s,every=2s" };

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
		cmocka_unit_test(files_are_persistent_memory_by_order_or_by_name),
		cmocka_unit_test(numbers_out_of_range_name_the_range),
		cmocka_unit_test(memory_has_limits),
		cmocka_unit_test(unknown_words_name_the_known_ones),
		cmocka_unit_test(nothing_is_given_twice),
		cmocka_unit_test(values_that_are_missing_or_too_many_are_named),
		cmocka_unit_test(what_contradicts_itself_is_refused),
		cmocka_unit_test(names_are_fit_for_file_names),
		cmocka_unit_test(disk_options_reach_the_disk),
		cmocka_unit_test(a_doubled_comma_is_one_in_the_value),
		cmocka_unit_test(the_image_is_the_first_disk_wherever_it_stands),
		cmocka_unit_test(disks_are_counted),
		cmocka_unit_test(a_long_id_is_cut_to_make_a_serial_number),
		cmocka_unit_test(forwards_may_repeat_and_take_both_families),
		cmocka_unit_test(forwards_that_make_no_sense_are_refused),
		cmocka_unit_test(two_forwards_never_want_one_port),
		cmocka_unit_test(addresses_of_interfaces_are_checked),
		cmocka_unit_test(no_network_means_none),
		cmocka_unit_test(serial_on_the_terminal_takes_the_consoles_place),
		cmocka_unit_test(cmdline_follows_the_machine),
		cmocka_unit_test(the_last_console_is_the_one_on_the_terminal),
		cmocka_unit_test(the_users_words_come_last_or_alone),
		cmocka_unit_test(what_was_unplugged_is_not_there),
		cmocka_unit_test(balloon_may_have_a_size),
		cmocka_unit_test(rewind_is_a_time_and_keys),
		cmocka_unit_test(rewind_refuses_memory_that_forks_cannot_share),
		cmocka_unit_test(vsock_takes_a_path_and_a_context_id),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
