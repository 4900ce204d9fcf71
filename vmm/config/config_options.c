/* The options of `wisp run`: the one list of them. */
#include "vmm/config/config_parse.h"

#include <errno.h>

#define MEMBER(m) offsetof(struct machine_config, m)

/* A year; a timer that is set for longer is a mistake. */
#define MAX_TIMEOUT 31536000

static int parse_cmdline_only(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	if (c->cmdline)
		return config_fail(p, "cannot be combined with --cmdline");
	c->cmdline_only = true;
	return config_set_string(p, value, &c->cmdline);
}

static int parse_cmdline(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	if (c->cmdline_only)
		return config_fail(p, "cannot be combined with --cmdline-only");
	if (!*value)
		return 0; /* scripts pass what they have */
	return config_set_string(p, value, &c->cmdline);
}

static int parse_memory(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	int r = config_parse_size(value, MiB, &c->memory_bytes);

	/* Other limits are config_validate()'s; this one has no number to show there. */
	if (r == -ERANGE)
		return config_fail(p, "%s is too much (at most 64T)", value);
	if (r < 0)
		return config_fail(p, "'%s' is not a size such as 512M or 2G", value);
	return 0;
}

static int parse_hugepages(struct config_parse *p, const char *value, void *target)
{
	p->hugepages = true;
	return 0;
}

static int parse_reboot(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	unsigned reset;
	int r = config_set_choice(p, value, "exit|reset", &reset);

	if (!r)
		c->reboot_resets = reset;
	return r;
}

/* Options from a file are in their places before anything is parsed (vmm/config/config_file.h). */
static int parse_file(struct config_parse *p, const char *value, void *target)
{
	return config_fail(p, "is for the command line of 'wisp run' alone");
}

const struct config_item config_run_options[] = {
	{ "--kernel", "PATH",
	  "Kernel to boot: a bzImage, or an ELF vmlinux with a PVH or 64-bit entry "
	  "(the default guest's)",
	  CONFIG_STRING, MEMBER(kernel) },
	{ "--initrd", "PATH", "Initial RAM disk (the default guest's, with its kernel)",
	  CONFIG_STRING, MEMBER(initrd) },
	{ "--cmdline", "STRING", "Words added to the default kernel command line", CONFIG_CUSTOM,
	  .parse = parse_cmdline },
	{ "--cmdline-only", "STRING", "The whole kernel command line, in place of the default one",
	  CONFIG_CUSTOM, .parse = parse_cmdline_only },
	{ "--boot", "auto|linux64|pvh",
	  "How an ELF kernel is entered (auto: by PVH when it has that entry)", CONFIG_CHOICE,
	  MEMBER(protocol) },
	{ "--cpus", "N", "Virtual processors, 1 to 255 (1)", CONFIG_NUMBER, MEMBER(cpus), 1,
	  CONFIG_MAX_CPUS },
	{ "--memory", "SIZE", "RAM, 8M to 64T; a bare number is MiB (256M)", CONFIG_CUSTOM,
	  .parse = parse_memory },
	{ "--cpu", "host|x86-64-v2|x86-64-v3|x86-64-v4",
	  "The processor that the guest sees: all that the host offers, or a level that many "
	  "hosts share (host)",
	  CONFIG_CHOICE, MEMBER(cpu) },
	{ "--cpu-template", "FILE",
	  "Change single bits of the processor that the guest sees (CPUID, MSRs), as FILE says: a "
	  "custom CPU template of Firecracker's, in JSON",
	  CONFIG_STRING, MEMBER(cpu_template) },
	{ "--hugepages", NULL, "Take RAM from the host's reserved huge pages (hugetlbfs)",
	  CONFIG_CUSTOM, .parse = parse_hugepages },
	{ "--memory-backend", "anon|shared",
	  "RAM private to the monitor, with transparent huge pages, or shareable with other "
	  "processes (anon)",
	  CONFIG_CHOICE, MEMBER(memory_backing) },
	{ "--disk", "PATH|URI[,KEY=VALUE]...",
	  "A disk; the first is the guest's /dev/vda. nbd://HOST[:PORT]/EXPORT and "
	  "nbd+unix:///EXPORT?socket=PATH are disks of an NBD server; nbds in place of nbd is TLS "
	  "and wants tls-certificates=DIR in the query, with ca-cert.pem in DIR and, for servers "
	  "that ask, client-cert.pem and client-key.pem. May be repeated",
	  CONFIG_CUSTOM,
	  .repeat = true, .parse = config_parse_disk, .keys = config_disk_keys },
	{ "--pmem", "PATH[,KEY=VALUE]...",
	  "A file as memory of the guest's: its /dev/pmem0. It is mapped and not copied, so guests "
	  "share one copy of a read-only file, and a file system on it needs no page cache "
	  "(mount -o dax). Best a multiple of 2 MiB: what is added to get there is not kept. May "
	  "be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = config_parse_pmem, .keys = config_pmem_keys },
	{ "--net", "user|tap|switch=NAME[,KEY=VALUE]...|none",
	  "A network interface: user is NAT without root, with DHCP and DNS; tap is an interface "
	  "of the host; switch joins the guests of `wisp switch NAME` (user). May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = config_parse_net, .keys = config_net_keys },
	{ "--unplugged", "[disk:|net:|pmem:]ID:SLOT[:NEXT]",
	  "Without the first disk, network or persistent memory called ID, whose PCI slot stays "
	  "empty: as 'wisp unplug' leaves it. NEXT, in hexadecimal, is where the guest has the "
	  "persistent memory that came behind it. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = config_parse_unplugged },
	{ "--vsock", "[KEY=VALUE,...]",
	  "Stream sockets between host and guest; wisp exec and wisp cp use them", CONFIG_CUSTOM,
	  .optional = true, .parse = config_parse_vsock, .keys = config_vsock_keys },
	{ "--share", "DIR:TAG[,KEY=VALUE]...",
	  "A directory of the host's, which the guest mounts by its tag: 'mount -t virtiofs TAG "
	  "/mnt'. Files have the owners they have on the host. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = config_parse_share, .keys = config_share_keys },
	{ "--rootfs", "DIR[,KEY=VALUE]...",
	  "A directory as the guest's root file system, over virtio-fs: for kernels that have its "
	  "driver built in, or an initial RAM disk that loads it (tag: rootfs). Or a container "
	  "image, as for `wisp test --root`, read-only",
	  CONFIG_CUSTOM, .parse = config_parse_rootfs, .keys = config_share_keys },
	{ "--balloon", "[SIZE][,KEY=VALUE]...",
	  "A memory balloon, of SIZE to begin with (0); also, the guest tells of its free pages, "
	  "which go back to the host",
	  CONFIG_CUSTOM, .optional = true, .parse = config_parse_balloon,
	  .keys = config_balloon_keys },
	{ "--memory-hotplug", "SIZE[,KEY=VALUE]...",
	  "Memory beside --memory, up to SIZE, that the guest can be asked to take and to give "
	  "back while it runs: 'wisp memory'",
	  CONFIG_CUSTOM, .parse = config_parse_hotplug, .keys = config_hotplug_keys },
	{ "--rewind", "[every=]TIME[,KEY=VALUE]...",
	  "Keep a moment of the guest every so often (500ms, 1s, 2m), for 'wisp rewind', also when "
	  "it has panicked",
	  CONFIG_CUSTOM, .parse = config_parse_rewind, .keys = config_rewind_keys },
	{ "--transport", "pci|mmio", "How the guest finds its virtio devices (pci)", CONFIG_CHOICE,
	  MEMBER(transport) },
	{ "--console", "stdio|none|file=PATH|socket=PATH",
	  "Where the virtio console hvc0 ends (stdio, unless --serial stdio is given)",
	  CONFIG_CUSTOM, .parse = config_parse_console },
	{ "--serial", "stdio|none|file=PATH|socket=PATH",
	  "Where the serial port ttyS0 ends; the guest has none without this option", CONFIG_CUSTOM,
	  .parse = config_parse_serial },
	{ "--rng", "on|off", "A virtio random number generator (on)", CONFIG_FLAG, MEMBER(rng) },
	{ "--rtc", "on|off",
	  "Tell the guest of a CMOS clock; Linux takes the time from KVM without it (off)",
	  CONFIG_FLAG, MEMBER(rtc) },
	{ "--packed", "on|off", "Offer the packed virtqueue layout (on)", CONFIG_SWITCH,
	  MEMBER(virtio_packed) },
	{ "--loop", "auto|io_uring|epoll",
	  "What drives I/O (auto: io_uring where the host allows it)", CONFIG_CHOICE,
	  MEMBER(loop) },
	{ "--reboot", "exit|reset",
	  "When the guest reboots: end with status 0, or start it again (exit)", CONFIG_CUSTOM,
	  .parse = parse_reboot },
	{ "--test-device", "on|off",
	  "Port 0xf4: writing v ends the microVM with status (v<<1)|1 (off)", CONFIG_FLAG,
	  MEMBER(test_device) },
	{ "--timeout", "SECONDS", "End the microVM with status 124 after so long", CONFIG_NUMBER,
	  MEMBER(timeout_seconds), 1, MAX_TIMEOUT },
	{ "--name", "ID", "Name of the microVM (vm and the process id)", CONFIG_STRING,
	  MEMBER(name) },
	{ "--gdb", "tcp:PORT|unix:PATH",
	  "Serve gdb's remote protocol there; tcp:ADDRESS:PORT listens elsewhere than on 127.0.0.1",
	  CONFIG_STRING, MEMBER(gdb) },
	{ "--core", "FILE",
	  "Write an ELF core of the guest to FILE when it panics, ends in a triple fault, hangs "
	  "(SIGQUIT says so) or stops the hypervisor",
	  CONFIG_STRING, MEMBER(core_file) },
	{ "--wait-gdb", NULL, "Do not start the guest before a debugger lets it go on", CONFIG_FLAG,
	  MEMBER(wait_gdb) },
	{ "--detach", NULL,
	  "Run in the background: print the name and return once the guest runs. 'wisp console' "
	  "has its terminal; what wisp itself says is in RUNDIR/ID/log, which goes when it ends "
	  "(--log-file stays)",
	  CONFIG_FLAG, MEMBER(detach) },
	{ "--run-dir", "DIR",
	  "Where running microVMs have their directories ($XDG_RUNTIME_DIR/wisp, else "
	  "/run/user/UID/wisp, else /tmp/wisp-UID)",
	  CONFIG_STRING, MEMBER(run_dir) },
	{ "--ready-fd", "N", "Write one byte to this descriptor when the guest runs, and close it",
	  CONFIG_NUMBER, MEMBER(ready_fd), 3, 1023 },
	{ "--sandbox", "off|on|strict",
	  "Lock the monitor in before the guest runs: namespaces, an empty root, Landlock, no "
	  "privileges, few system calls (on). strict: refuse to run where the host lacks one",
	  CONFIG_CHOICE, MEMBER(sandbox) },
	{ "--core-sched", NULL,
	  "While it runs on a core, the core's other hardware threads run nothing but this microVM",
	  CONFIG_FLAG, MEMBER(core_sched) },
	{ "--uid", "N", "Started by root: the user that the monitor becomes", CONFIG_NUMBER,
	  MEMBER(uid), 1, UINT32_MAX - 1 },
	{ "--gid", "N", "Started by root: the group that the monitor becomes", CONFIG_NUMBER,
	  MEMBER(gid), 1, UINT32_MAX - 1 },
	{ "--cpu-weight", "N",
	  "Share of busy processors against others, 1 to 10000 (the host's: 100)", CONFIG_NUMBER,
	  MEMBER(resources.cpu_weight), 1, 10000 },
	{ "--cpu-max", "CPUS", "Processor time at most: 0.5, or 2 for two processors' worth",
	  CONFIG_CUSTOM, .parse = config_parse_cpu_max },
	{ "--memory-max", "SIZE",
	  "Memory of the host at most, of all processes of the microVM together; one that needs "
	  "more is killed",
	  CONFIG_CUSTOM, .parse = config_parse_memory_max },
	{ "--io-max", "PATH,KEY=VALUE...",
	  "Limits for the host's disk that PATH is, or is on. Like the three above by a cgroup "
	  "(version 2) that must be ours to divide; 'wisp doctor' says whether one is",
	  CONFIG_CUSTOM, .parse = config_parse_io_max, .keys = config_io_max_keys },
	{ "--pin", "LIST",
	  "Run on these processors of the host, as 0-3,7; virtual processors on one each, in order",
	  CONFIG_CUSTOM, .parse = config_parse_pin },
	{ "--admit", NULL,
	  "Refuse to start what the host has no room for, beside what running microVMs are "
	  "promised",
	  CONFIG_FLAG, MEMBER(resources.admit) },
	{ "--config-file", "FILE",
	  "Read options from a JSON file: one that --save-config wrote, or Firecracker's. What the "
	  "command line says goes before it",
	  CONFIG_CUSTOM, .parse = parse_file },
	{ "--save-config", "FILE",
	  "Write all options but --dry-run to FILE, for --config-file; with --dry-run the guest is "
	  "not started",
	  CONFIG_CUSTOM, .parse = parse_file },
	{ "--dry-run", NULL,
	  "Print the machine as it would be built (memory map, devices, interrupts) and stop",
	  CONFIG_FLAG, MEMBER(dry_run) },
	{ "--json", NULL,
	  "At the end, print how it ended as one JSON object on standard output; its message is "
	  "why it could not begin or go on, or null",
	  CONFIG_FLAG, MEMBER(json) },
	{ "--metrics", "FILE", "Write counters (exits, device I/O) as JSON to FILE at the end",
	  CONFIG_STRING, MEMBER(metrics_file) },
	{ "--log-level", "error|warn|info|debug|trace",
	  "How much to log; from debug on the guest kernel is not quiet either (warn)",
	  CONFIG_CHOICE, MEMBER(log_level) },
	{ "--log-file", "FILE", "Append the log to FILE (standard error)", CONFIG_STRING,
	  MEMBER(log_file) },
	{ 0 },
};

_Static_assert(ARRAY_SIZE(config_run_options) - 1 <= 64, "which were given is told by 64 bits");
