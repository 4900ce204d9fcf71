/* What can be asked of a running machine: the table, and verbs of a few lines. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"
#include "virtio/virtio_mem.h"
#include "vmm/control/control.h"
#include "vmm/control/control_debug.h"
#include "vmm/control/control_guest.h"
#include "vmm/control/control_migrate.h"
#include "vmm/control/control_reset.h"
#include "vmm/control/control_snapshot.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_fill.h"

/* How long the guest may take to power off before it is made to, in seconds; and at most. */
#define STOP_TIMEOUT	 30
#define MAX_STOP_TIMEOUT 86400

static const char *state_name(struct machine *m)
{
	if (m->arriving)
		return "arriving";
	if (migrate_is_away(m))
		return "handed over";
	if (migrate_fill_report(m->fill).is_cut)
		return "cut off";
	return machine_is_paused(m) ? "paused" : "running";
}

/* What the guest has been promised: it may be asked to have more than at the start. */
static uint64_t promised_memory(struct machine *m)
{
	struct virtio_mem_info info = { 0 };

	if (m->hotplug)
		virtio_mem_info(m->hotplug, &info);
	/* What it has plugged stays its own until it gives it back. */
	return m->config->memory_bytes + MAX(info.requested_bytes, info.plugged_bytes);
}

/* {"do":"info"}: what `wisp ls` shows of it. */
static void verb_info(struct control_call *call)
{
	struct machine *m = control_machine(call);
	const struct machine_config *c = m->config;

	control_reply(call,
		      json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:s*, s:i, s:i, s:s, s:b}",
				"id", c->name, "state", state_name(m), "pid", control_pid(call),
				"parent", control_parent(call), "cpus", c->cpus, "memory",
				(json_int_t)promised_memory(m), "uptime_ms",
				(json_int_t)(control_uptime_ns(call) / NSEC_PER_MSEC), "kernel",
				c->kernel, "disks", c->num_disks, "nets", c->num_nets, "sandbox",
				sandbox_mode_name(c->sandbox), "core_sched", c->core_sched));
}

/* {"do":"stat"}: the counters of --metrics, and the state. */
static void verb_stat(struct control_call *call)
{
	struct machine *m = control_machine(call);
	json_t *counters = NULL;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (out) {
		machine_print_metrics(m, out);
		if (fclose(out) == 0)
			counters = json_loadb(text, len, 0, NULL);
	}
	free(text);
	if (!counters) {
		control_fail(call, -ENOMEM, "counters: no memory");
		return;
	}
	json_object_del(counters, "end");
	control_reply(call, json_pack("{s:s, s:s, s:I, s:o}", "id", m->config->name, "state",
				      state_name(m), "uptime_ms",
				      (json_int_t)(control_uptime_ns(call) / NSEC_PER_MSEC),
				      "counters", counters));
}

static void now_paused(void *arg)
{
	struct error err = { 0 };

	if (machine_check_paused(control_machine(arg), &err) < 0)
		control_fail_error(arg, &err);
	else
		control_reply(arg, json_pack("{s:s}", "state", "paused"));
}

/* {"do":"pause"}: answered when the vCPUs are out and the queues drained. */
static void verb_pause(struct control_call *call)
{
	struct machine *m = control_machine(call);

	control_keep_for_all(call);
	if (machine_is_paused(m))
		now_paused(call);
	else
		machine_pause(m, now_paused, call);
}

/* {"do":"resume"} */
static void verb_resume(struct control_call *call)
{
	struct machine *m = control_machine(call);

	control_keep_for_all(call);
	if (machine_is_paused(m))
		machine_resume(m);
	control_reply(call, json_pack("{s:s}", "state", "running"));
}

static void stop_forced(struct loop_timer *t)
{
	struct machine *m = container_of(t, struct machine, stop);

	if (migrate_puts_off(m, t))
		return;
	log_info("the guest did not power off when asked to");
	machine_end(m, MACHINE_END_SIGNAL, MACHINE_STATUS_STOPPED, NULL);
}

/* {"do":"stop","timeout":SECONDS}: the power button, then the end; answered by the end. */
static void verb_stop(struct control_call *call)
{
	struct machine *m = control_machine(call);
	uint64_t seconds;

	if (control_arg_number(call, "timeout", STOP_TIMEOUT, MAX_STOP_TIMEOUT, &seconds) < 0)
		return;
	control_reply_at_end(call);
	if (machine_is_paused(m))
		machine_resume(m);
	machine_power_button(m);
	m->stop.expired = stop_forced;
	loop_timer_set(m->loop, &m->stop,
		       clock_monotonic_ns(m->clock) + seconds * NSEC_PER_SEC);
}

/* {"do":"power-button"}: asks, and waits for nothing. */
static void verb_power_button(struct control_call *call)
{
	machine_power_button(control_machine(call));
	control_reply(call, NULL);
}

static void limit_serial(struct control_call *call, const struct rate_limits *limits)
{
	struct serial *s = control_machine(call)->serial;

	if (!s) {
		control_fail(call, -ENODEV, "there is no serial port");
		return;
	}
	serial_limit(s, limits);
	control_reply(call, NULL);
}

/*
 * {"do":"limit","id":"disk0","ops":N,"ops-burst":N,"ops-once":N,"bytes":N,...}: a disk's rates,
 * from now on; what is left out has no limit. With "way":"rx" or "tx" those of a network, to the
 * guest or from it; with "entropy":true those of the entropy device, which has one ID only; with
 * "pmem":true those of the flushes of a persistent memory; with "serial":true that of what is sent
 * on the serial port, without an ID.
 */
static void verb_limit(struct control_call *call)
{
	struct rate_limits limits = { 0 };
	struct virtio_device *dev;
	const char *id, *way;
	bool entropy, pmem, serial;

	if (control_arg_string(call, "id", "", &id) < 0 ||
	    control_arg_bool(call, "serial", false, &serial) < 0 ||
	    control_arg_bool(call, "entropy", false, &entropy) < 0 ||
	    control_arg_bool(call, "pmem", false, &pmem) < 0 ||
	    control_arg_string(call, "way", NULL, &way) < 0 ||
	    control_arg_number(call, "ops", 0, CONTROL_MAX_RATE, &limits.ops.per_second) < 0 ||
	    control_arg_number(call, "ops-burst", 0, CONTROL_MAX_RATE, &limits.ops.burst) < 0 ||
	    control_arg_number(call, "ops-once", 0, CONTROL_MAX_RATE, &limits.ops.once) < 0 ||
	    control_arg_number(call, "bytes", 0, CONTROL_MAX_RATE, &limits.bytes.per_second) < 0 ||
	    control_arg_number(call, "bytes-burst", 0, CONTROL_MAX_RATE, &limits.bytes.burst) < 0 ||
	    control_arg_number(call, "bytes-once", 0, CONTROL_MAX_RATE, &limits.bytes.once) < 0)
		return;
	if (serial) {
		limit_serial(call, &limits);
		return;
	}
	dev = machine_virtio(control_machine(call),
			     entropy ? VIRTIO_ID_RNG
			     : pmem  ? VIRTIO_ID_PMEM
			     : way   ? VIRTIO_ID_NET
				     : VIRTIO_ID_BLOCK,
			     id);
	if (!dev) {
		control_fail(call, -ENODEV, "there is no %s '%.40s'",
			     entropy ? "entropy device"
			     : pmem  ? "persistent memory"
			     : way   ? "network"
				     : "disk",
			     id);
		return;
	}
	if (entropy)
		virtio_rng_limit(dev, &limits);
	else if (pmem)
		virtio_pmem_limit(dev, &limits);
	else if (!way)
		virtio_blk_limit(dev, &limits);
	else if (!strcmp(way, "rx"))
		virtio_net_limit(dev, &limits, NULL);
	else
		virtio_net_limit(dev, NULL, &limits);
	control_reply(call, NULL);
}

/* {"do":"events"}: told what state it is in, whenever that changes, and its end. */
static void verb_events(struct control_call *call)
{
	control_reply_events(call);
}

/* {"do":"kill"}: the end, without asking the guest. */
static void verb_kill(struct control_call *call)
{
	control_reply_at_end(call);
	machine_end(control_machine(call), MACHINE_END_SIGNAL, MACHINE_STATUS_KILLED, NULL);
}

const struct control_verb control_verbs[] = {
	{ "info", verb_info, .without_guest = true },
	{ "stat", verb_stat, .without_guest = true },
	{ "pause", verb_pause, .alone = true },
	{ "resume", verb_resume, .alone = true },
	{ "power-button", verb_power_button },
	{ "limit", verb_limit },
	{ "stop", verb_stop },
	{ "kill", verb_kill, .without_guest = true },
	{ "events", verb_events, .without_guest = true },
	{ "change", control_change },
	{ "plug", control_verb_plug, .alone = true },
	{ "unplug", control_verb_unplug, .alone = true },
	{ "balloon", control_balloon },
	{ "memory", control_memory },
	{ "connect", control_connect_guest },
	{ "core", control_verb_core, .alone = true },
	{ "gdb", control_verb_gdb },
	{ "serve", control_serve_net },
	{ "end", control_verb_end },
	{ "disks", control_verb_disks },
	{ "snapshot", control_verb_snapshot, .alone = true },
	{ "snapshot-kept", control_verb_snapshot_kept },
	{ "track", control_verb_track, .alone = true },
	{ "clone", control_verb_clone, .alone = true },
	{ "reset", control_verb_reset, .alone = true },
	{ "migrate", control_verb_migrate, .alone = true },
	{ "migrate-resume", control_verb_migrate_resume, .without_guest = true },
	{ "migrate-cancel", control_verb_migrate_cancel, .without_guest = true },
	{ "migrate-status", control_verb_migrate_status, .without_guest = true },
	{ "migrate-settle", control_verb_migrate_settle, .without_guest = true },
	{ 0 },
};
