/*
 * A machine's configuration: plain data, complete and valid before anything is
 * created, never changed afterwards. Whatever fills it, it passes the same
 * config_validate().
 *
 * Strings belong to the configuration and are freed by config_done(). It is
 * zero-initialised by config_init(), which sets the defaults. No threads.
 */
#ifndef WISP_VMM_CONFIG_H
#define WISP_VMM_CONFIG_H

#include <sched.h>

#include <netinet/in.h>

#include "devices/block.h"
#include "devices/chardev.h"
#include "devices/fs.h"
#include "firmware/firmware.h"
#include "vmm/core/error.h"
#include "vmm/core/log.h"
#include "vmm/core/loop.h"
#include "vmm/hypervisor/x86.h"
#include "vmm/sandbox/sandbox.h"

#define CONFIG_MAX_CPUS	   255
#define CONFIG_MIN_MEMORY  (8 * MiB)
#define CONFIG_MAX_MEMORY  (64 * TiB) /* what 46 bits of physical address reach */
#define CONFIG_MAX_DISKS   24
#define CONFIG_MAX_NETS	   16
#define CONFIG_MAX_SLOT	   31 /* of the PCI bus */
#define CONFIG_MAX_FORWARDS 16
#define CONFIG_MAX_SEARCH  4
#define CONFIG_MAX_PMEMS   8
#define CONFIG_MAX_SHARES  8
#define CONFIG_SHARE_TAG   36 /* bytes (virtio 1.2, 5.11.4) */
#define CONFIG_MAX_QUEUES  16 /* of one disk or network interface */
#define CONFIG_DISK_SERIAL 20 /* bytes in virtio-blk's answer to "get id" (virtio 1.2, 5.2.6) */

enum config_transport { CONFIG_PCI, CONFIG_MMIO };

struct config_disk {
	char *path;
	char *id;     /* "disk0" by default */
	char *serial; /* what the guest's get-id sees; the id by default */
	int format;   /* BLOCK_FORMAT_* */
	int cache;    /* BLOCK_CACHE_* */
	bool read_only;
	bool direct;
	unsigned queues; /* each with a thread of its own; 0: one, on the machine's loop */
	uint64_t iops, bps; /* 0: no limit */
	uint64_t iops_burst, bps_burst; /* 0: a quarter of a second's worth */
	char *backing[BLOCK_MAX_CHAIN]; /* files that may lie beneath, from the top down */
	unsigned num_backing;
	bool follow_backing; /* beyond these, what images name */
	unsigned reconnect_seconds; /* how long requests wait for a server that is gone */
	unsigned slot;		    /* of the PCI bus; 0: the next one */
};

/* A file of the host's as memory of the guest's, over virtio-pmem. */
struct config_pmem {
	char *path;
	char *id; /* "pmem0" */
	bool read_only;
	uint64_t gpa;  /* where the guest has it; 0: behind the one before */
	unsigned slot; /* of the PCI bus; 0: the next one */
};

enum config_net_kind { CONFIG_NET_USER, CONFIG_NET_TAP, CONFIG_NET_SWITCH };

struct config_forward {
	bool udp;
	char *host_addr; /* numeric IPv4 or IPv6; "127.0.0.1" by default */
	uint16_t host_port;
	uint16_t guest_port;
};

struct config_net {
	enum config_net_kind kind;
	char *id;      /* "net0" */
	uint8_t mac[6];
	bool mac_given;
	uint16_t mtu;  /* 0: default */
	char *tap_name; /* or the tap on a descriptor that we inherited: */
	bool tap_fd_given;
	int tap_fd;
	unsigned tap_offloads; /* see net_tap_adopt() */
	bool vhost; /* the host's kernel serves its rings */
	char *switch_name;
	unsigned vlan;
	uint64_t pps, bps;	       /* each way; 0: no limit */
	uint64_t pps_burst, bps_burst; /* 0: a quarter of a second's worth */
	unsigned queues;
	char *subnet, *dns; /* numeric; NULL: wisp-net's own */
	char *search[CONFIG_MAX_SEARCH];
	unsigned num_search;
	struct in_addr service; /* an address that a service of the host has; 0: none */
	bool restrict_out;
	bool host_loopback;
	struct config_forward forward[CONFIG_MAX_FORWARDS];
	unsigned num_forwards;
	unsigned slot; /* of the PCI bus; 0: the next one */
};

/* A directory of the host's, over virtio-fs. */
struct config_share {
	char *path;
	char *tag; /* what the guest mounts it by */
	char *id;  /* "share0" */
	enum fs_cache cache;
	bool read_only;
	bool writeback;
	bool xattr;
	bool acl; /* only with xattr */
	bool is_root; /* --rootfs: the guest's root file system */
	bool is_image; /* it was a container image: fs_server_config.kept_xattr */
};

/* Where a serial port or console ends on the host. */
struct config_char {
	enum chardev_kind kind;
	char *path;
};

struct config_vsock {
	unsigned cid;
	char *path;
};

struct config_balloon {
	uint64_t bytes; /* to begin with */
	bool deflate_on_oom, reporting, hinting;
};

/* Memory that the guest can be asked to plug and to unplug (virtio/virtio_mem.h). */
struct config_hotplug {
	uint64_t bytes;		  /* at most; 0: there is no such memory */
	uint64_t block_bytes;	  /* comes and goes at once */
	uint64_t requested_bytes; /* to begin with */
	uint64_t slot_bytes;	  /* comes into and leaves the guest's reach at once; 0: as usual */
};

/* The size of a slot: what was asked for, or the smallest that is not too many of them. */
uint64_t config_hotplug_slot(const struct config_hotplug *h);

/* Moments of the guest that are kept, to go back to (vmm/cli/cli_rewind.h). */
#define CONFIG_MAX_MOMENTS   100
#define CONFIG_MIN_REWIND_MS 100

struct config_rewind {
	unsigned every_ms; /* 0: none */
	unsigned keep;
	unsigned hold_seconds; /* after the guest's end, unless that was in good order */
};

/* What the microVM may take of the host (vmm/fleet/resources.h); 0: as much as there is. */
struct config_resources {
	unsigned cpu_weight;   /* against others, 1 to 10000; 100 is the host's default */
	unsigned cpu_percent;  /* processor time: 150 is one and a half processors */
	uint64_t memory_bytes; /* RAM, the monitor and helpers together */
	char *io_path;	       /* on, or of, the disk whose use is limited */
	uint64_t io_read_bytes, io_write_bytes, io_reads, io_writes; /* a second */
	bool pinned;
	cpu_set_t pin; /* where it runs */
	bool admit;    /* only if the host has room beside what others are promised */
};

struct machine_config {
	char **args; /* what all this was made of, for a saved machine (config_state.h) */
	unsigned num_args;
	char *args_dir; /* the directory they were given in; NULL: there is none any more */
	char *name; /* the microVM's id; made up when not given */
	char *kernel, *initrd;
	char *cmdline;	    /* what the user adds, or with cmdline_only the whole */
	bool cmdline_only;
	enum fw_protocol protocol; /* --boot auto|linux64|pvh, for ELF kernels */
	char *firmware;

	unsigned cpus;
	uint64_t memory_bytes; /* from the start */
	struct config_hotplug hotplug;
	enum guest_mem_backing memory_backing; /* ANON, SHARED or HUGETLB */
	enum x86_cpu_model cpu;
	char *cpu_template; /* a file, vmm/hypervisor/x86_template.h; NULL: none */

	enum config_transport transport;
	struct config_disk disk[CONFIG_MAX_DISKS];
	unsigned num_disks;
	struct config_pmem pmem[CONFIG_MAX_PMEMS];
	unsigned num_pmems;
	struct config_net net[CONFIG_MAX_NETS];
	unsigned num_nets;
	bool net_given; /* --net none leaves num_nets 0 */
	uint32_t empty_slots; /* of the PCI bus: what was there at the start is unplugged now */
	struct config_vsock vsock;
	bool vsock_present;
	struct config_share share[CONFIG_MAX_SHARES];
	unsigned num_shares;
	struct config_balloon balloon;
	bool balloon_present;
	struct config_rewind rewind;

	struct config_char serial;  /* where the UART ends */
	struct config_char console; /* virtio-console port 0; default: STDIO */
	bool serial_present;	    /* a UART exists; default: none */
	bool console_present;	    /* a virtio-console exists; default: unless serial is STDIO */
	bool rtc;		    /* FADT shows a CMOS RTC; default: KVM's clock is enough */
	bool rng;
	bool test_device;	    /* port 0xf4 */
	bool reboot_resets;	    /* --reboot=reset (restart the guest) instead of exit */

	enum loop_backend loop;	    /* --loop auto|io_uring|epoll */
	bool virtio_packed;	    /* offer the packed ring (on) */
	char *core_file;	    /* an ELF core of a guest that failed; NULL: none */
	char *gdb;		    /* where the debugging stub listens (debug/gdb.h); NULL: none */
	bool wait_gdb;
	bool start_paused; /* a restored guest stands still at first */
	unsigned timeout_seconds;   /* 0: none */
	bool detach;
	enum sandbox_mode sandbox;
	bool core_sched;   /* no core is shared with anybody else, vmm/sandbox/core_sched.h */
	unsigned uid, gid; /* whom the monitor becomes when root starts it; 0: nobody */
	bool dry_run;
	bool json;
	unsigned last_words_seconds; /* of a kernel that hangs, to an NMI; 0: it is not asked */
	bool silent; /* whoever started it reports how it ended */
	bool idle_ports; /* its ports were not used yet: it may be saved, and gets others then */
	char *run_dir;
	unsigned ready_fd; /* gets a byte when the guest runs; 0: none */
	enum log_level log_level;
	char *log_file;
	char *metrics_file;
	struct config_resources resources;
};

/* What a machine is when no option says otherwise; allocates nothing. */
void config_init(struct machine_config *c);
/* Free what is in it; the struct itself is the caller's. Harmless when repeated. */
void config_done(struct machine_config *c);

/* Kinds of devices that may come and go while a guest runs. An ID is one among those of a kind. */
enum config_device { CONFIG_DEVICE_DISK, CONFIG_DEVICE_NET, CONFIG_DEVICE_PMEM };
#define CONFIG_DEVICES 3

extern const struct config_device_kind {
	const char *option; /* "--disk" */
	const char *word;   /* in front of an ID: "disk" */
	const char *name;   /* for people, with its article: "a disk" */
	unsigned max;	    /* of them in one machine */
} config_device_kinds[CONFIG_DEVICES];

/* "disk", "network", "persistent memory" */
const char *config_device_name(enum config_device kind);
unsigned config_num_devices(const struct machine_config *c, enum config_device kind);
/* Number @i of those of @kind: its ID and its slot, to be read and to be set. */
char **config_device_id(struct machine_config *c, enum config_device kind, unsigned i);
unsigned *config_device_slot(struct machine_config *c, enum config_device kind, unsigned i);
/* Take it out, with nothing freed. */
void config_drop_device(struct machine_config *c, enum config_device kind, unsigned i);

/* What a device's options are made of. */
void config_free_disk(struct config_disk *d);
void config_free_net(struct config_net *n);
void config_free_pmem(struct config_pmem *p);

/*
 * Parse the arguments of `wisp run` (without "wisp" and "run"): @argc strings
 * in @argv. Fills in what was left open: the default network, ids, addresses.
 * Errors name the option, the key, what was given and what is allowed; nothing
 * is opened or created. `--help` is the caller's business.
 */
int config_parse_run(struct machine_config *c, int argc, char *const *argv, struct error *err);

/* All that the guest can have: as much as a file of its memory is long. */
static inline uint64_t config_memory_total(const struct machine_config *c)
{
	return c->memory_bytes + c->hotplug.bytes;
}

/* Check the whole against itself (not against the host): ranges, duplicates, combinations. */
int config_validate(struct machine_config *c, struct error *err);

#define CONFIG_NAME_BYTES 32 /* of a microVM's name at most */

/*
 * Is @name one that a microVM can have? A directory is called so. @what says in the error (kind
 * USAGE) where it came from.
 */
int config_check_name(const char *what, const char *name, struct error *err);

/*
 * The command line the kernel gets: the sensible default for this machine plus
 * the user's, for the caller to free; NULL without memory.
 */
char *config_cmdline(const struct machine_config *c);

/*
 * A size in bytes: "512M", "1.5G" (powers of 1024), or a bare number times @unit.
 * -EINVAL when it is no size, -ERANGE when it does not fit 64 bits.
 */
int config_parse_size(const char *text, uint64_t unit, uint64_t *ret_bytes);

/* The shortest text that means exactly @bytes ("256M", "1000"), into @buf of 24 bytes or more. */
const char *config_size_text(char *buf, size_t len, uint64_t bytes);

#endif
