#include "vmm/machine/machine_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "vmm/config/config_state.h"
#include "vmm/hypervisor/x86_state.h"
#include "vmm/machine/machine_internal.h"

/* Sections of ours have a slash, which no device's id can have. */
#define SECTION_MACHINE "machine"
#define SECTION_CONFIG	"machine/config" /* of config_save() */
#define SECTION_CPU	"machine/cpu"
#define SECTION_POWER	"machine/power"
#define SECTION_RTC	"machine/rtc"
#define SECTION_SERIAL	"machine/serial"
#define SECTION_PCI	"machine/pci"
#define SECTION_LIMITS	"machine/limits" /* only when they are not the configuration's */
#define SECTION_SERIAL_LIMITS "machine/serial-limits" /* only when there are any */
#define SECTION_VM	"machine/vm"
#define SECTION_VCPU	"machine/vcpu"

#define FORMAT_VERSION 1 /* of the set of sections; each has a version of its own besides */
#define VERSION	       1

#define ARCHITECTURE "x86_64"

/* KVM itself tells no slower difference from none (its module parameter tsc_tolerance_ppm). */
#define TSC_TOLERANCE_PPM 250

/* ---- out ---- */

static void save_platform(struct machine *m, struct state_writer *w)
{
	state_begin(w, SECTION_POWER, 0, VERSION);
	power_save(m->power, w);
	state_end(w);

	state_begin(w, SECTION_RTC, 0, VERSION);
	rtc_save(m->rtc, w);
	state_end(w);

	if (m->serial) {
		state_begin(w, SECTION_SERIAL, 0, VERSION);
		serial_save(m->serial, w);
		state_end(w);
	}
	if (m->pci) {
		state_begin(w, SECTION_PCI, 0, VERSION);
		pci_bus_save(m->pci, w);
		state_end(w);
	}
}

static void save_device(struct machine *m, struct machine_virtio *v, struct state_writer *w)
{
	uint32_t instance = machine_virtio_instance(m, v->dev);

	if (v->pci)
		virtio_pci_save(v->pci, instance, w);
	else
		virtio_mmio_save(v->mmio, instance, w);
}

static void save_virtio(struct machine *m, struct state_writer *w)
{
	for (unsigned i = 0; i < m->num_virtio; i++)
		save_device(m, &m->virtio[i], w);
	if (machine_limits_changed(m)) {
		state_begin(w, SECTION_LIMITS, 0, VERSION);
		machine_limits_save(m, w);
		state_end(w);
	}
	if (machine_serial_is_limited(m)) {
		state_begin(w, SECTION_SERIAL_LIMITS, 0, VERSION);
		machine_serial_limits_save(m, w);
		state_end(w);
	}
}

static int save_vcpus(struct machine *m, struct state_writer *w, struct error *err)
{
	const struct hv_ops *ops = m->hv->ops;
	struct x86_saved_vcpu *vcpu = malloc(sizeof(*vcpu));
	struct x86_saved_vm vm;
	int r;

	if (!vcpu)
		return error_set(err, -ENOMEM, "vCPUs: %m");
	r = ops->vm_save(m->hv, &vm, err);
	if (!r) {
		state_begin(w, SECTION_VM, 0, VERSION);
		x86_vm_write(&vm, w);
		state_end(w);
	}
	for (unsigned i = 0; i < m->vcpus.num && !r; i++) {
		r = ops->vcpu_save(m->vcpus.vcpu[i].hv, vcpu, err);
		state_begin(w, SECTION_VCPU, i, VERSION);
		x86_vcpu_write(vcpu, w);
		state_end(w);
	}
	free(vcpu);
	return r;
}

static void save_cpu(struct machine *m, struct state_writer *w)
{
	static const struct x86_cpuid none;

	state_begin(w, SECTION_CPU, 0, VERSION);
	/* Not asked for now: that would wait for the vCPU to leave the guest. */
	state_put_u64(w, m->tsc_khz);
	x86_cpuid_write(m->cpuid ? m->cpuid : &none, w);
	state_end(w);
}

void machine_save_kind(struct machine *m, struct state_writer *w)
{
	state_begin(w, SECTION_MACHINE, 0, FORMAT_VERSION);
	state_put_string(w, ARCHITECTURE);
	state_put_string(w, WISP_VERSION);
	state_end(w);
	config_save(m->config, w);
	save_cpu(m, w);
}

int machine_save(struct machine *m, struct state_writer *w, struct error *err)
{
	int r;

	if (!m->paused)
		return error_set(err, -EBUSY, "a machine that runs cannot be saved");
	machine_save_kind(m, w);
	save_platform(m, w);
	save_virtio(m, w);
	r = save_vcpus(m, w, err);
	if (r < 0)
		return r;
	state_seal(w);
	return w->failed ? error_set(err, w->failed, "machine state: %m") : 0;
}

/* ---- in ---- */

int machine_check_state(struct state_set *state, struct error *err)
{
	char arch[16], version[32];
	struct state_reader r;
	int ret = state_set_take(state, SECTION_MACHINE, 0, FORMAT_VERSION, &r, err);

	if (ret < 0)
		return ret;
	state_get_string(&r, arch, sizeof(arch));
	state_get_string(&r, version, sizeof(version));
	if (!r.failed && strcmp(arch, ARCHITECTURE))
		return error_set(err, -EBADMSG, "saved state: of another architecture's machine");
	return state_reader_end(&r, err);
}

/* Load one section by @load, which gets @of; all of it must be read. */
#define LOAD(name, load, of)                                               \
	({                                                                 \
		int _r = state_set_take(state, name, 0, VERSION, &r, err); \
		if (!_r)                                                   \
			load(of, &r);                                      \
		_r ? _r : state_reader_end(&r, err);                       \
	})

static int load_platform(struct machine *m, struct state_set *state, struct error *err)
{
	struct state_reader r;
	int ret = LOAD(SECTION_POWER, power_load, m->power);

	if (!ret)
		ret = LOAD(SECTION_RTC, rtc_load, m->rtc);
	if (!ret && m->serial)
		ret = LOAD(SECTION_SERIAL, serial_load, m->serial);
	if (!ret && m->pci)
		ret = LOAD(SECTION_PCI, pci_bus_load, m->pci);
	return ret;
}

/* Is @v as @r, its section of an earlier moment, says? */
static bool is_unchanged(struct machine *m, struct machine_virtio *v, const struct state_reader *r)
{
	struct state_writer w;
	struct state_reader now;
	size_t pos = 0;
	bool same;

	/* Its registers may be what they were, and another device have been in its place. */
	if (v->pci && !pci_device_is_placed(virtio_pci_function(v->pci)))
		return false;
	state_writer_init(&w);
	save_device(m, v, &w);
	same = !w.failed && state_next(w.buf, w.len, &pos, &now, NULL) > 0 && now.len == r->len &&
	       !memcmp(now.p, r->p, r->len);
	state_writer_done(&w);
	return same;
}

static int load_device(struct machine *m, struct machine_virtio *v, struct state_set *state,
		       bool again, struct error *err)
{
	struct state_reader r;
	/* The transports compare the version themselves. */
	int ret = state_set_take(state, v->dev->id, machine_virtio_instance(m, v->dev), UINT32_MAX,
				 &r, err);

	if (ret < 0)
		return ret;
	if (again && is_unchanged(m, v, &r))
		return 0;
	if (again)
		virtio_rewind(v->dev);
	ret = v->pci ? virtio_pci_load(v->pci, &r) : virtio_mmio_load(v->mmio, &r);
	/* A load that failed for want of memory says so by its result alone. */
	if (ret < 0 && !r.failed)
		return error_set(err, ret, "'%s': cannot be loaded: %m", v->dev->id);
	return state_reader_end(&r, err);
}

/* @again: into devices that have been in use since. */
static int load_virtio(struct machine *m, struct state_set *state, bool again, struct error *err)
{
	int r = 0;

	/* What memory there is before those whose rings may lie in it. */
	for (unsigned i = 0; i < m->num_virtio && !r; i++)
		if (m->virtio[i].dev == m->hotplug)
			r = load_device(m, &m->virtio[i], state, again, err);
	for (unsigned i = 0; i < m->num_virtio && !r; i++)
		if (m->virtio[i].dev != m->hotplug)
			r = load_device(m, &m->virtio[i], state, again, err);
	if (!r && m->pci)
		pci_bus_place(m->pci);
	return r;
}

static int load_limits(struct machine *m, struct state_set *state, struct error *err)
{
	struct state_reader r;
	int ret = 0;

	if (state_set_has(state, SECTION_LIMITS, 0))
		ret = LOAD(SECTION_LIMITS, machine_limits_load, m);
	if (!ret && state_set_has(state, SECTION_SERIAL_LIMITS, 0))
		ret = LOAD(SECTION_SERIAL_LIMITS, machine_serial_limits_load, m);
	return ret;
}

static int refuse_tsc(const struct machine_image *image, uint64_t khz, uint64_t here, int r,
		      struct error *err)
{
	error_kind_set(err, ERROR_REFUSED, r,
		       "the guest's clock runs at %" PRIu64 " kHz, this host's at %" PRIu64
		       " kHz, and its processor cannot scale it",
		       khz, here);
	if (!image->arrival)
		error_hint(err, "a guest that takes its time from kvm-clock can go on with "
				"--changed-tsc");
	return r;
}

/* Let the guest's TSC run as fast as it did, or as its user allows. */
static int match_tsc(struct machine *m, const struct machine_image *image, uint64_t khz,
		     struct error *err)
{
	const struct hv_ops *ops = m->hv->ops;
	uint64_t here = ops->tsc_khz ? ops->tsc_khz(m->vcpus.vcpu[0].hv) : 0;
	uint64_t apart = khz > here ? khz - here : here - khz;

	if (!khz || !here || apart <= here / (1000000 / TSC_TOLERANCE_PPM))
		return 0;
	for (unsigned i = 0; i < m->vcpus.num; i++) {
		int r = ops->tsc_set_khz ? ops->tsc_set_khz(m->vcpus.vcpu[i].hv, khz) : -ENOTSUP;

		if (r < 0)
			return image->changed_tsc ? 0 : refuse_tsc(image, khz, here, r, err);
	}
	return 0;
}

/* The CPUID that the guest was told, where this host can keep that promise. */
static int load_cpu(struct machine *m, const struct machine_image *image,
		    const struct x86_cpuid *host, struct error *err)
{
	struct x86_cpuid *offered = calloc(1, sizeof(*offered));
	struct x86_cpuid *saved = calloc(1, sizeof(*saved));
	struct state_reader r;
	uint64_t khz = 0;
	int ret = offered && saved ? 0 : error_set(err, -ENOMEM, "CPUID: %m");

	if (!ret)
		ret = state_set_take(image->state, SECTION_CPU, 0, VERSION, &r, err);
	if (!ret) {
		khz = state_get_u64(&r);
		x86_cpuid_read(saved, &r);
		ret = state_reader_end(&r, err);
	}
	if (!ret && host)
		ret = x86_cpuid_make(offered, host, m->config->cpu, m->vcpus.num, khz, err);
	if (!ret && host)
		ret = x86_cpuid_covers(offered, saved, err);
	if (!ret)
		ret = match_tsc(m, image, khz, err);
	m->tsc_khz = m->hv->ops->tsc_khz ? m->hv->ops->tsc_khz(m->vcpus.vcpu[0].hv) : 0;
	if (!ret && host)
		ret = machine_set_cpuid(m, saved, err);
	free(offered);
	free(saved);
	return ret;
}

/* How much of the host's time has passed that the guest is to notice. */
static uint64_t time_to_add(struct machine *m, const struct machine_image *image,
			    const struct x86_saved_vm *vm)
{
	uint64_t now = clock_realtime_ns(m->clock);

	if (image->clock == MACHINE_CLOCK_CONTINUE || now < vm->realtime_ns)
		return 0;
	return now - vm->realtime_ns;
}

static int load_vcpus(struct machine *m, const struct machine_image *image, struct error *err)
{
	const struct hv_ops *ops = m->hv->ops;
	uint64_t khz = ops->tsc_khz ? ops->tsc_khz(m->vcpus.vcpu[0].hv) : 0;
	struct x86_saved_vcpu *vcpu = malloc(sizeof(*vcpu));
	struct state_set *state = image->state;
	struct x86_saved_vm vm;
	struct state_reader r;
	uint64_t passed;
	int ret;

	if (!vcpu)
		return error_set(err, -ENOMEM, "vCPUs: %m");
	ret = LOAD(SECTION_VM, x86_vm_read, &vm);
	if (ret < 0)
		goto out;
	passed = time_to_add(m, image, &vm);
	vm.clock_ns += passed;
	for (unsigned i = 0; i < m->vcpus.num && !ret; i++) {
		ret = state_set_take(state, SECTION_VCPU, i, VERSION, &r, err);
		if (ret < 0)
			break;
		x86_vcpu_read(vcpu, &r);
		ret = state_reader_end(&r, err);
		if (ret < 0)
			break;
		vcpu->tsc += (__uint128_t)passed * khz / 1000000;
		ret = ops->vcpu_load(m->vcpus.vcpu[i].hv, vcpu, err);
	}
	if (!ret)
		ret = ops->vm_load(m->hv, &vm, err);
out:
	free(vcpu);
	return ret;
}

/*
 * It goes on elsewhere: what tied its devices to the other process is gone. Unless @same it is
 * also another one from now on, with random numbers of its own.
 */
static int change_identity(struct machine *m, bool same, struct error *err)
{
	int r = same ? 0 : machine_new_identity(m);

	if (r < 0)
		return error_set(err, r, "generation ID: %m");
	for (unsigned i = 0; i < m->num_virtio; i++) {
		struct virtio_device *dev = m->virtio[i].dev;

		if (dev->ops->identity_changed)
			dev->ops->identity_changed(dev);
	}
	return 0;
}

int machine_load_kind(struct machine *m, const struct machine_image *image,
		      const struct x86_cpuid *host, struct error *err)
{
	int r = load_cpu(m, image, host, err);

	return r ? r : state_set_finish(image->state, err);
}

int machine_load(struct machine *m, const struct machine_image *image, const struct x86_cpuid *host,
		 struct error *err)
{
	int r = load_cpu(m, image, host, err);

	/* Of one that stands still it may be asked what changed since: ours from here on, too. */
	if (!r && m->config->start_paused && guest_mem_track_dirty(m->mem, true) < 0)
		r = error_set(err, -ENOMEM, "what is written in memory: %m");
	if (!r)
		r = load_platform(m, image->state, err);
	if (!r)
		r = load_virtio(m, image->state, false, err);
	if (!r)
		r = load_limits(m, image->state, err);
	/* Processors after devices: an interrupt that loading raised is not part of their state. */
	if (!r)
		r = load_vcpus(m, image, err);
	if (!r)
		r = state_set_finish(image->state, err);
	if (!r)
		r = change_identity(m, image->same_identity, err);
	if (r < 0) {
		/* The file that was named is at fault, not this host. */
		if (r == -EBADMSG && err && err->kind == ERROR_OTHER)
			err->kind = ERROR_USAGE;
		return r;
	}
	m->paused = true;
	return 0;
}

/* What it is does not change in its life, and what the host lets it do is not the guest's. */
static int skip_kind(struct state_set *state, struct error *err)
{
	static const char *const kind[] = { SECTION_MACHINE, SECTION_CONFIG, SECTION_CPU };
	static const char *const limits[] = { SECTION_LIMITS, SECTION_SERIAL_LIMITS };
	struct state_reader r;
	int ret = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(kind) && !ret; i++)
		ret = state_set_take(state, kind[i], 0, UINT32_MAX, &r, err);
	for (unsigned i = 0; i < ARRAY_SIZE(limits) && !ret; i++)
		if (state_set_has(state, limits[i], 0))
			ret = state_set_take(state, limits[i], 0, UINT32_MAX, &r, err);
	return ret;
}

int machine_reload(struct machine *m, const struct machine_image *image, struct error *err)
{
	struct state_set *state = image->state;
	int r;

	if (!m->paused)
		return error_set(err, -EBUSY, "a machine that runs cannot be loaded");
	state_set_again(state);
	r = skip_kind(state, err);
	if (!r)
		r = load_platform(m, state, err);
	if (!r)
		r = load_virtio(m, state, true, err);
	if (!r)
		r = load_vcpus(m, image, err);
	if (!r)
		r = state_set_finish(state, err);
	return r ? r : change_identity(m, image->same_identity, err);
}
