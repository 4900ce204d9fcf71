/* A command line's devices: disks, networks, consoles and the others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/config_line.h"

/* ---- disks ---- */

static void disk_options_reach_the_disk(void **state)
{
	struct line m;
	const struct config_disk *d = m.config.disk;

	line_take(&m,
		  "--disk a.img,ro,format=raw,direct=on,cache=unsafe,queues=4,id=root,serial=S1,"
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

	line_take(&m, "--disk a,iops=500,bps=1.5M,iops-burst=50,bps-burst=64K");
	assert_int_equal(d[0].iops, 500);
	assert_int_equal(d[0].bps, 3 * MiB / 2);
	assert_int_equal(d[0].iops_burst, 50);
	assert_int_equal(d[0].bps_burst, 64 * KiB);
	config_done(&m.config);
}

static void a_doubled_comma_is_one_in_the_value(void **state)
{
	struct line m;

	line_take(&m, "--disk a,,b=1.img,serial=x,,y,ro --disk ,,,,");
	assert_string_equal(m.config.disk[0].path, "a,b=1.img");
	assert_string_equal(m.config.disk[0].serial, "x,y");
	assert_true(m.config.disk[0].read_only);
	assert_string_equal(m.config.disk[1].path, ",,");
	config_done(&m.config);
}

static void the_image_is_the_first_disk_wherever_it_stands(void **state)
{
	struct line m;

	line_take(&m, "--disk b.img --disk c.img --cpus 2 a.img,ro");
	assert_int_equal(m.config.num_disks, 3);
	assert_string_equal(m.config.disk[0].path, "a.img");
	assert_true(m.config.disk[0].read_only);
	assert_string_equal(m.config.disk[0].id, "disk0");
	assert_string_equal(m.config.disk[1].path, "b.img");
	assert_string_equal(m.config.disk[2].path, "c.img");
	config_done(&m.config);

	line_take(&m, "--cpus 2 -- --odd.img");
	assert_string_equal(m.config.disk[0].path, "--odd.img");
	config_done(&m.config);
}

static void disks_are_counted(void **state)
{
	char line[1024] = "";

	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		sprintf(line + strlen(line), "--disk=d%u ", i);
	strcat(line, "one-more");
	line_refuse(line, "IMAGE: more than 24 disks");
}

static void a_long_id_is_cut_to_make_a_serial_number(void **state)
{
	struct line m;

	line_take(&m, "--disk a,id=a-name-of-twenty-five-chr");
	assert_string_equal(m.config.disk[0].serial, "a-name-of-twenty-fiv");
	config_done(&m.config);
}

/* ---- networks ---- */

static void networks_are_counted(void **state)
{
	char line[400] = "";
	struct line m;

	for (unsigned i = 0; i < CONFIG_MAX_NETS; i++)
		strcat(line, "--net user ");
	line_take(&m, line);
	assert_int_equal(m.config.num_nets, CONFIG_MAX_NETS);
	config_done(&m.config);
	strcat(line, "--net user");
	line_refuse(line, "--net: more than 16 networks");
}

static void forwards_may_repeat_and_take_both_families(void **state)
{
	struct line m;
	const struct config_forward *f = m.config.net[0].forward;

	line_take(&m, "--net user,hostfwd=tcp::8080-:80,hostfwd=udp:0.0.0.0:53-:5353,"
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
	line_refuse("--net user,hostfwd=tcp:127.0.0.1:0-:22",
		    "--net: hostfwd: port 0 is out of range (1 to 65535)");
	line_refuse("--net user,hostfwd=tcp:127.0.0.1:65536-:22",
		    "--net: hostfwd: port 65536 is out of range (1 to 65535)");
	line_refuse("--net user,hostfwd=tcp::99999999999999999999999-:22",
		    "--net: hostfwd: '99999999999999999999999' is not a port number");
	line_refuse("--net user,hostfwd=tcp::80-:",
		    "--net: hostfwd: a port number is missing (1 to 65535)");
	line_refuse("--net user,hostfwd=tcp:localhost:80-:80",
		    "--net: hostfwd: 'localhost' is not a numeric address");
	line_refuse("--net user,hostfwd=tcp:[::1:80-:80",
		    "--net: hostfwd: '[::1' is not a numeric address");
	line_refuse("--net user,hostfwd=tcp:[]:80-:80",
		    "--net: hostfwd: '[]' is not a numeric address");
	line_refuse("--net user,hostfwd=tcp:80-:80",
		    "--net: hostfwd: 'tcp:80-:80' has no address; it may be empty, as in "
		    "tcp::8080-:80");
	line_refuse(
		"--net user,hostfwd=sctp::80-:80",
		"--net: hostfwd: 'sctp::80-:80' is not PROTOCOL:[ADDRESS]:PORT-:PORT with protocol "
		"tcp or udp");
	line_refuse("--net user,hostfwd=tcp::80",
		    "--net: hostfwd: 'tcp::80' is not "
		    "PROTOCOL:[ADDRESS]:PORT-:PORT with protocol tcp or "
		    "udp");
}

static void two_forwards_never_want_one_port(void **state)
{
	struct line m;

	line_refuse("--net user,hostfwd=tcp::80-:80,hostfwd=tcp::80-:81",
		    "--net: hostfwd: tcp port 80 of the host is given twice");
	line_refuse("--net user,hostfwd=tcp:0.0.0.0:80-:80 --net user,hostfwd=tcp:127.0.0.2:80-:81",
		    "--net: hostfwd: tcp port 80 of the host is given twice");
	line_refuse("--net user,hostfwd=udp:[::1]:53-:53,hostfwd=udp:[0:0::1]:53-:54",
		    "--net: hostfwd: udp port 53 of the host is given twice");
	line_take(&m, "--net user,hostfwd=tcp::80-:80,hostfwd=udp::80-:80,"
		      "hostfwd=tcp:127.0.0.2:80-:81,hostfwd=tcp:[::]:80-:80");
	config_done(&m.config);
}

static void addresses_of_interfaces_are_checked(void **state)
{
	line_refuse("--net user,mac=02:00:00:00:00",
		    "--net: mac: '02:00:00:00:00' is not six bytes such as 02:00:00:00:00:01");
	line_refuse("--net user,mac=02:00:00:00:00:0g",
		    "--net: mac: '02:00:00:00:00:0g' is not six bytes such as 02:00:00:00:00:01");
	line_refuse("--net user,mac=0:2:00:00:00:00:1",
		    "--net: mac: '0:2:00:00:00:00:1' is not six bytes such as 02:00:00:00:00:01");
	line_refuse("--net user,mac=01:00:00:00:00:01",
		    "--net: mac: '01:00:00:00:00:01' is a group address");
	line_refuse("--net user,mac=00:00:00:00:00:00",
		    "--net: mac: '00:00:00:00:00:00' is no address: a guest would make up its own");
	line_refuse("--net user,mtu=100", "--net: mtu: 100 is out of range (1280 to 65520)");
}

static void no_network_means_none(void **state)
{
	struct line m;

	line_take(&m, "--net tap,name=tap0,queues=4,mtu=9000 --net tap,fd=7");
	assert_int_equal(m.config.net[0].kind, CONFIG_NET_TAP);
	assert_string_equal(m.config.net[0].tap_name, "tap0");
	assert_int_equal(m.config.net[0].queues, 4);
	assert_int_equal(m.config.net[0].mtu, 9000);
	assert_int_equal(m.config.net[1].tap_fd, 7);
	/* On a wire with others, every guest needs an address of its own. */
	assert_int_equal(m.config.net[0].mac[0], 2);
	assert_memory_not_equal(m.config.net[0].mac, m.config.net[1].mac, 6);
	config_done(&m.config);
	line_refuse("--net tap", "--net: tap needs either name=INTERFACE or fd=N");
	line_refuse("--net tap,name=t,fd=5", "--net: tap needs either name=INTERFACE or fd=N");
	line_refuse("--net tap,name=t,restrict", "--net: 'restrict' is no key of 'tap'");
	line_refuse("--net user,name=t", "--net: 'name' is no key of 'user'");
	line_refuse("--net tap,fd=5,queues=2", "--net: queues: a tap by descriptor has one");
	line_take(&m, "--net tap,name=t,vhost=on --net tap,name=u");
	assert_true(m.config.net[0].vhost && !m.config.net[1].vhost);
	config_done(&m.config);
	line_refuse("--net user,vhost=on", "--net: 'vhost' is no key of 'user'");
	line_refuse("--net tap,name=t,vhost=on,bps=1M",
		    "--net: vhost: the host's kernel knows no limits (pps, bps)");
	line_refuse("--net tap,name=t,vhost=on,pps=1",
		    "--net: vhost: the host's kernel knows no limits (pps, bps)");
	line_refuse("--net tap,name=t,vhost=on,service=169.254.169.254",
		    "--net: vhost: the host's kernel leaves nothing to a service");
	line_take(&m, "--net switch=lan,vlan=7 --net switch=./x,mtu=9000");
	assert_int_equal(m.config.net[0].kind, CONFIG_NET_SWITCH);
	assert_string_equal(m.config.net[0].switch_name, "lan");
	assert_int_equal(m.config.net[0].vlan, 7);
	assert_int_equal(m.config.net[1].vlan, 1);
	config_done(&m.config);
	line_refuse("--net switch",
		    "--net: unknown value 'switch' (known: user, tap, switch=NAME, none)");
	line_take(&m, "--net user,bps=10M,pps=1000,bps-burst=1M");
	assert_int_equal(m.config.net[0].bps, 10 * MiB);
	assert_int_equal(m.config.net[0].pps, 1000);
	assert_int_equal(m.config.net[0].bps_burst, MiB);
	config_done(&m.config);
	line_take(&m,
		  "--net user,subnet=192.168.7.0/24,dns=192.168.7.9,search=a.test,search=b.test");
	assert_string_equal(m.config.net[0].subnet, "192.168.7.0/24");
	assert_string_equal(m.config.net[0].dns, "192.168.7.9");
	assert_int_equal(m.config.net[0].num_search, 2);
	config_done(&m.config);
	line_refuse("--net user,subnet=10.0.0.0",
		    "--net: subnet: '10.0.0.0' is not ADDRESS/PREFIX such as 10.0.2.0/24");
	line_refuse("--net user,subnet=10.0.0.0/30", "--net: subnet: 30 is out of range (8 to 27)");
	line_refuse("--net user,dns=::1", "--net: dns: '::1' is not an IPv4 address");
	line_refuse("--net tap,name=t,search=x", "--net: 'search' is no key of 'tap'");
	line_refuse("--net user,pps=1M", "--net: pps: '1M' is not a number");
	line_refuse("--net user,bps=0", "--net: bps: 0 is out of range (1 to 1T)");
	line_refuse("--net switch=lan,vlan=4095", "--net: vlan: 4095 is out of range (1 to 4094)");
	line_refuse("--net tap,name=t,vlan=2", "--net: 'vlan' is no key of 'tap'");
	line_refuse("--net tap,name=", "--net: name: is empty");

	line_take(&m, "--net none");
	assert_int_equal(m.config.num_nets, 0);
	assert_true(m.config.net_given);
	config_done(&m.config);
}

static void shares_go_by_acls_only_with_attributes(void **state)
{
	struct line m;

	line_take(&m, "--share /tmp:t --share /tmp:u,acl --rootfs /tmp,acl=on");
	assert_false(m.config.share[0].acl);
	assert_true(m.config.share[0].xattr);
	assert_true(m.config.share[1].acl);
	assert_true(m.config.share[2].acl);
	config_done(&m.config);
	line_refuse("--share /tmp:t,xattr=off,acl",
		    "--share '/tmp': acl needs xattr=on: ACLs are such attributes");
	line_refuse("--rootfs /tmp,acl,xattr=off",
		    "--rootfs '/tmp': acl needs xattr=on: ACLs are such attributes");
}

/* ---- consoles ---- */

static void serial_on_the_terminal_takes_the_consoles_place(void **state)
{
	struct line m;

	line_take(&m, "--serial stdio");
	assert_true(m.config.serial_present);
	assert_int_equal(m.config.serial.kind, CHARDEV_STDIO);
	assert_false(m.config.console_present);
	config_done(&m.config);

	line_take(&m, "--serial file=log --console socket=s");
	assert_int_equal(m.config.serial.kind, CHARDEV_FILE);
	assert_string_equal(m.config.serial.path, "log");
	assert_true(m.config.console_present);
	assert_int_equal(m.config.console.kind, CHARDEV_SOCKET);
	assert_string_equal(m.config.console.path, "s");
	config_done(&m.config);

	line_take(&m, "--serial none");
	assert_false(m.config.serial_present);
	assert_true(m.config.console_present);
	config_done(&m.config);

	line_take(&m, "--console none");
	assert_false(m.config.console_present);
	config_done(&m.config);
}

/* ---- the others ---- */

static void files_are_persistent_memory_by_order_or_by_name(void **state)
{
	static const char *const no_addresses[] = {
		"", "0", "4096", "0x0", "0x1000", "0x", "0x-200000", "0x200000z",
		"0x10000000000200000",
	};
	char option[100], why[200];
	struct line m;

	line_take(&m, "--pmem a.img,ro --pmem b.img,id=cache --pmem c.img disk.img");
	assert_int_equal(m.config.num_pmems, 3);
	assert_string_equal(m.config.pmem[0].path, "a.img");
	assert_string_equal(m.config.pmem[0].id, "pmem0");
	assert_true(m.config.pmem[0].read_only);
	assert_string_equal(m.config.pmem[1].id, "cache");
	assert_false(m.config.pmem[1].read_only);
	assert_string_equal(m.config.pmem[2].id, "pmem2");
	config_done(&m.config);
	line_refuse("--pmem ,ro", "--pmem: the path is empty");
	line_refuse("--pmem a,size=1", "--pmem: unknown key 'size' (known: ro, id, address, slot)");
	line_take(&m, "--pmem a.img,address=0x40200000,slot=7");
	assert_int_equal(m.config.pmem[0].gpa, 0x40200000);
	assert_int_equal(m.config.pmem[0].slot, 7);
	config_done(&m.config);
	for (unsigned i = 0; i < ARRAY_SIZE(no_addresses); i++) {
		snprintf(option, sizeof(option), "--pmem a,address=%s", no_addresses[i]);
		snprintf(why, sizeof(why),
			 "--pmem: address: '%s' is not a multiple of 0x200000, in hexadecimal",
			 no_addresses[i]);
		line_refuse(option, why);
	}
	line_refuse("--pmem a,slot=3 --disk b,slot=3", "--pmem: slot 3 is given twice");
	line_refuse("--pmem a,id=x --pmem b,id=x", "--pmem: id 'x' is given twice");
	line_refuse("--pmem a,id=../x",
		    "--pmem: id '../x' is not 1 to 32 letters, digits, '.', '_' or '-'");
	line_refuse(
		"--pmem a --pmem b --pmem c --pmem d --pmem e --pmem f --pmem g --pmem h --pmem i",
		"--pmem: more than 8 files");
}

static void what_was_unplugged_is_not_there(void **state)
{
	struct line m;

	line_take(&m, "--disk /a --unplugged disk0:1 --disk /b,id=b,slot=5 "
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
	line_take(&m, "--net none --net tap,name=t,id=n,slot=6");
	assert_int_equal(m.config.num_nets, 1);
	config_done(&m.config);
	line_refuse("--net none --net tap,name=t,,slot=6",
		    "--net: 'none' cannot be combined with a network");
	line_refuse("--net none --net tap,slot=6",
		    "--net: tap needs either name=INTERFACE or fd=N");
	/* Where one of each has the name. */
	line_take(&m, "--disk /a,id=x --net tap,name=t,id=x --unplugged net:x:2");
	assert_int_equal(m.config.num_disks, 1);
	assert_int_equal(m.config.num_nets, 0);
	config_done(&m.config);
	line_take(&m, "--disk /a,id=x --net tap,name=t,id=x --unplugged disk:x:2");
	assert_int_equal(m.config.num_disks, 0);
	assert_int_equal(m.config.num_nets, 1);
	config_done(&m.config);
	line_take(&m, "--disk /a,id=net --net none --unplugged net:1");
	assert_int_equal(m.config.num_disks, 0);
	config_done(&m.config);
	/* Behind persistent memory that went, there may be more. */
	line_take(&m, "--pmem /a --pmem /b --pmem /c --unplugged pmem:pmem0:2:40600000 "
		      "--unplugged pmem:pmem1:3:40800000");
	assert_int_equal(m.config.num_pmems, 1);
	assert_string_equal(m.config.pmem[0].id, "pmem2");
	assert_int_equal(m.config.pmem[0].gpa, 0x40800000);
	assert_int_equal(m.config.empty_slots, 1u << 2 | 1u << 3);
	config_done(&m.config);
	line_take(&m, "--pmem /a --pmem /b --unplugged pmem1:3");
	assert_int_equal(m.config.num_pmems, 1);
	config_done(&m.config);
	line_refuse("--pmem /a --unplugged pmem:pmem0:2:40600001",
		    "--unplugged: 'pmem:pmem0:2:40600001' does not end at a multiple of 2M");
	line_refuse("--pmem /a --unplugged pmem:pmem0:2:x",
		    "--unplugged: 'pmem:pmem0:2:x' is not an ID, ':' and a slot from 1 to 31");
	line_refuse("--disk /a --unplugged disk:disk0:2:4",
		    "--unplugged: 'disk:disk0:2:4' is not an ID, ':' and a slot from 1 to 31");
	line_refuse("--unplugged pmem:x:1", "--unplugged: there is no persistent memory 'x'");
	line_refuse("--disk /a,id=x --unplugged net:x:1", "--unplugged: there is no network 'x'");
	line_refuse("--unplugged disk:net0:1", "--unplugged: there is no disk 'net0'");
	line_refuse("--unplugged net::1",
		    "--unplugged: 'net::1' is not an ID, ':' and a slot from 1 to 31");
	line_refuse("--unplugged x:1",
		    "--unplugged: there is no disk, network or persistent memory 'x'");
	line_refuse("--unplugged net0:32",
		    "--unplugged: 'net0:32' is not an ID, ':' and a slot from 1 to 31");
	line_refuse("--disk /a,slot=0", "--disk: slot: 0 is out of range (1 to 31)");
}

static void memory_that_comes_later_has_its_rules(void **state)
{
	struct line m;

	line_take(&m, "--memory 1G --memory-hotplug 2G,block=128M,requested=256M");
	assert_int_equal(m.config.memory_bytes, 1 * GiB);
	assert_int_equal(m.config.hotplug.bytes, 2 * GiB);
	assert_int_equal(m.config.hotplug.block_bytes, 128 * MiB);
	assert_int_equal(m.config.hotplug.requested_bytes, 256 * MiB);
	assert_int_equal(config_memory_total(&m.config), 3 * GiB);
	config_done(&m.config);
	line_take(&m, "--memory-hotplug 64M");
	assert_int_equal(m.config.hotplug.block_bytes, 2 * MiB);
	assert_int_equal(m.config.hotplug.requested_bytes, 0);
	config_done(&m.config);
	line_refuse("--memory-hotplug 0", "--memory-hotplug: 0 is too little");
	line_refuse("--memory-hotplug much",
		    "--memory-hotplug: 'much' is not a size such as 512M or 2G");
	line_refuse("--memory-hotplug 3M", "--memory-hotplug: 3M is not a multiple of a block, 2M");
	line_refuse("--memory-hotplug 1G,block=1M",
		    "--memory-hotplug: block: 1M is no power of two from 2M on");
	line_refuse("--memory-hotplug 1G,block=6M",
		    "--memory-hotplug: block: 6M is no power of two from 2M on");
	line_refuse("--memory-hotplug 1G,block=8M,requested=4M",
		    "--memory-hotplug: requested: not a multiple of a block, 8M, up to 1G");
	line_refuse("--memory-hotplug 1G,requested=2G",
		    "--memory-hotplug: requested: not a multiple of a block, 2M, up to 1G");
	line_refuse("--memory-hotplug 64T",
		    "--memory-hotplug: 64T is too much: with --memory it is more than 64T");
	line_refuse("--memory 8196K --memory-hotplug 64M",
		    "--memory-hotplug: --memory is then a multiple of 2M");
	line_refuse("--memory-hotplug 64M --hugepages",
		    "--memory-hotplug: not with --hugepages, whose pages the host would set aside "
		    "at the start");
}

static void balloon_may_have_a_size(void **state)
{
	struct line m;

	line_take(&m, "--balloon --memory 512M root.img");
	assert_true(m.config.balloon_present);
	assert_int_equal(m.config.balloon.bytes, 0);
	assert_true(m.config.balloon.deflate_on_oom && m.config.balloon.reporting);
	assert_int_equal(m.config.num_disks, 1);
	config_done(&m.config);
	line_take(&m, "--memory 512M --balloon 128M,reporting=off");
	assert_int_equal(m.config.balloon.bytes, 128 * MiB);
	assert_false(m.config.balloon.reporting);
	config_done(&m.config);
	line_take(&m, "--balloon hinting=on,reporting=off");
	assert_int_equal(m.config.balloon.bytes, 0);
	assert_true(m.config.balloon.hinting && !m.config.balloon.reporting);
	config_done(&m.config);
	line_take(&m, "--balloon root.img");
	assert_int_equal(m.config.num_disks, 1);
	config_done(&m.config);
	line_refuse("--balloon 1G", "--balloon: more than --memory");
	line_refuse("--balloon=x", "--balloon: 'x' is not a size such as 512M or 2G");
}

static void vsock_takes_a_path_and_a_context_id(void **state)
{
	struct line m;
	char line[160];

	line_take(&m, "--vsock path=/run/v.sock");
	assert_true(m.config.vsock_present);
	assert_string_equal(m.config.vsock.path, "/run/v.sock");
	assert_int_equal(m.config.vsock.cid, 3);
	config_done(&m.config);
	line_take(&m, "--vsock cid=99,path=a,,b");
	assert_string_equal(m.config.vsock.path, "a,b");
	assert_int_equal(m.config.vsock.cid, 99);
	config_done(&m.config);

	line_take(&m, "--vsock root.img");
	assert_true(m.config.vsock_present);
	assert_null(m.config.vsock.path);
	assert_int_equal(m.config.num_disks, 1);
	config_done(&m.config);
	line_refuse("--vsock path=a,cid=2", "--vsock: cid: 2 is out of range (3 to 4294967294)");
	line_refuse("--vsock=a", "--vsock: unknown key 'a' (known: cid, path)");
	/* A port's number must still fit behind it. */
	snprintf(line, sizeof(line), "--vsock path=%097d", 0);
	line_parse(&m, line);
	assert_true(m.r < 0);
	config_done(&m.config);
	snprintf(line, sizeof(line), "--vsock path=%096d", 0);
	line_take(&m, line);
	config_done(&m.config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shares_go_by_acls_only_with_attributes),
		cmocka_unit_test(files_are_persistent_memory_by_order_or_by_name),
		cmocka_unit_test(disk_options_reach_the_disk),
		cmocka_unit_test(a_doubled_comma_is_one_in_the_value),
		cmocka_unit_test(the_image_is_the_first_disk_wherever_it_stands),
		cmocka_unit_test(disks_are_counted),
		cmocka_unit_test(networks_are_counted),
		cmocka_unit_test(a_long_id_is_cut_to_make_a_serial_number),
		cmocka_unit_test(forwards_may_repeat_and_take_both_families),
		cmocka_unit_test(forwards_that_make_no_sense_are_refused),
		cmocka_unit_test(two_forwards_never_want_one_port),
		cmocka_unit_test(addresses_of_interfaces_are_checked),
		cmocka_unit_test(no_network_means_none),
		cmocka_unit_test(serial_on_the_terminal_takes_the_consoles_place),
		cmocka_unit_test(what_was_unplugged_is_not_there),
		cmocka_unit_test(memory_that_comes_later_has_its_rules),
		cmocka_unit_test(balloon_may_have_a_size),
		cmocka_unit_test(vsock_takes_a_path_and_a_context_id),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
