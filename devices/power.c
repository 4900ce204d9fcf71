#include "devices/power.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* ACPI 6.4, 4.8.3.7: sleep control register. */
#define SLEEP_ENABLE	 (1u << 5)
#define SLEEP_TYPE_SHIFT 2
#define SLEEP_TYPE_MASK	 7u

#define CF9_PORT      0xcf9
#define CF9_RESET_CPU (1u << 2)
#define I8042_STATUS  0x64
#define I8042_PULSE   0xfe /* command: pulse the reset line */

#define PVPANIC_PANICKED     (1u << 0)
#define PVPANIC_CRASH_LOADED (1u << 1)

#define PORT_B	      0x61
#define PORT_B_ERRORS 0xc0
#define TEST_DEVICE_BYTES 4 /* test kernels write a long word */

/* Offsets in the hot-plug registers. */
#define HOTPLUG_UP    0
#define HOTPLUG_DOWN  4
#define HOTPLUG_EJECT 8

struct power {
	struct bus *pio;
	struct power_config config;
	struct irq_line ged;
	pthread_mutex_t lock; /* the registers below: vCPUs and whoever raises events */
	uint8_t ged_pending[4];
	uint8_t slots[POWER_PCI_HOTPLUG_BYTES]; /* that appeared, that are to go, always 0 */
};

static void report(struct power *p, enum power_event event, uint8_t value)
{
	p->config.event(p->config.arg, event, value);
}

static uint8_t first_byte(const void *data)
{
	return *(const uint8_t *)data;
}

/* Reads of registers that only do something when written. */
static void read_zero(void *opaque, uint64_t offset, void *data, unsigned len)
{
	memset(data, 0, len);
}

static void ignore_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
}

/* ---- ACPI: sleep control and status, reset register, event device ---- */

static void acpi_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct power *p = opaque;
	uint8_t v = first_byte(data);

	if (POWER_SLEEP_CONTROL_PORT + offset == POWER_RESET_PORT) {
		if (v == POWER_RESET_VALUE)
			report(p, POWER_RESET, 0);
	} else if (offset == 0 && (v & SLEEP_ENABLE) &&
		   (v >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK) == POWER_SLEEP_TYPE_S5) {
		report(p, POWER_OFF, 0);
	}
}

/* What is read is cleared with it, byte by byte: nothing is lost to a narrow access. */
static void take_bytes(uint8_t *words, uint64_t offset, void *data, unsigned len)
{
	memcpy(data, words + offset, len);
	memset(words + offset, 0, len);
}

/* Under the lock. */
static void add_bits(uint8_t *word, uint32_t bits)
{
	put_le32(word, get_le32(word) | bits);
}

static void ged_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct power *p = opaque;

	pthread_mutex_lock(&p->lock);
	take_bytes(p->ged_pending, offset, data, len);
	pthread_mutex_unlock(&p->lock);
}

static void hotplug_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct power *p = opaque;

	pthread_mutex_lock(&p->lock);
	take_bytes(p->slots, offset, data, len);
	pthread_mutex_unlock(&p->lock);
}

static void hotplug_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct power *p = opaque;

	if (offset == HOTPLUG_EJECT && len == 4 && p->config.eject)
		p->config.eject(p->config.arg, get_le32(data));
}

/* ---- ports older than ACPI ---- */

static void cf9_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	if (first_byte(data) & CF9_RESET_CPU)
		report(opaque, POWER_RESET, 0);
}

/* No keyboard: a status of 0 says that nothing is there and commands are taken. */
static void i8042_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	if (first_byte(data) == I8042_PULSE)
		report(opaque, POWER_RESET, 0);
}

static void pvpanic_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	memset(data, 0, len);
	*(uint8_t *)data = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	uint8_t v = first_byte(data);

	if (v & PVPANIC_PANICKED)
		report(opaque, POWER_PANIC, 0);
	else if (v & PVPANIC_CRASH_LOADED)
		report(opaque, POWER_CRASH_LOADED, 0);
}

static void exit_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	report(opaque, POWER_EXIT, first_byte(data));
}

/* As QEMU's isa-debug-exit has it, which test kernels know. */
static void test_device_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	report(opaque, POWER_EXIT, first_byte(data) << 1 | 1);
}

static const struct bus_ops acpi_ops = { .read = read_zero, .write = acpi_write };
static const struct bus_ops ged_ops = { .read = ged_read, .write = ignore_write };
static const struct bus_ops hotplug_ops = { .read = hotplug_read, .write = hotplug_write };
static const struct bus_ops cf9_ops = { .read = read_zero, .write = cf9_write };
static const struct bus_ops i8042_ops = { .read = read_zero, .write = i8042_write };
static const struct bus_ops pvpanic_ops = { .read = pvpanic_read, .write = pvpanic_write };
/*
 * Port B of the PC, where a guest looks when it gets an NMI: neither a parity error nor a
 * device's. The rest as where nobody answers: calibrations by the timer that is not there end.
 */
static void port_b_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	memset(data, 0xff & ~PORT_B_ERRORS, len);
}

static const struct bus_ops port_b_ops = { .read = port_b_read, .write = ignore_write };
static const struct bus_ops exit_ops = { .read = read_zero, .write = exit_write };
static const struct bus_ops test_device_ops = { .read = read_zero, .write = test_device_write };

int power_create(struct power **ret_p, struct bus *pio, struct irq_table *irqs,
		 const struct power_config *config, struct error *err)
{
	const struct bus_region regions[] = {
		{ POWER_SLEEP_CONTROL_PORT, 3, &acpi_ops, NULL, "acpi" },
		{ POWER_GED_PORT, 4, &ged_ops, NULL, "ged" },
		{ POWER_PCI_HOTPLUG_PORT, POWER_PCI_HOTPLUG_BYTES, &hotplug_ops, NULL, "hotplug" },
		{ CF9_PORT, 1, &cf9_ops, NULL, "reset" },
		{ PORT_B, 1, &port_b_ops, NULL, "port-b" },
		{ I8042_STATUS, 1, &i8042_ops, NULL, "i8042" },
		{ POWER_PVPANIC_PORT, 1, &pvpanic_ops, NULL, "pvpanic" },
		{ POWER_EXIT_PORT, 1, &exit_ops, NULL, "exit" },
		{ POWER_TEST_DEVICE_PORT, TEST_DEVICE_BYTES, &test_device_ops, NULL,
		  "test-device" },
	};
	unsigned num = ARRAY_SIZE(regions) - !config->test_device;
	struct power *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return error_set(err, -ENOMEM, "power: %m");
	p->pio = pio;
	p->config = *config;
	pthread_mutex_init(&p->lock, NULL);
	irq_line_init(&p->ged, irqs, POWER_GED_GSI);
	for (unsigned i = 0; i < num; i++) {
		struct bus_region region = regions[i];

		region.opaque = p;
		r = bus_add(pio, &region, err);
		if (r < 0) {
			power_free(p);
			return r;
		}
	}
	*ret_p = p;
	return 0;
}

void power_free(struct power *p)
{
	if (!p)
		return;
	irq_line_done(&p->ged);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void power_ged_raise(struct power *p, uint32_t events)
{
	pthread_mutex_lock(&p->lock);
	add_bits(p->ged_pending, events);
	pthread_mutex_unlock(&p->lock);
	irq_line_raise(&p->ged);
}

void power_pci_hotplug(struct power *p, uint32_t slots_up, uint32_t slots_down)
{
	pthread_mutex_lock(&p->lock);
	add_bits(p->slots + HOTPLUG_UP, slots_up);
	add_bits(p->slots + HOTPLUG_DOWN, slots_down);
	pthread_mutex_unlock(&p->lock);
	power_ged_raise(p, GED_PCI_HOTPLUG);
}

void power_save(struct power *p, struct state_writer *w)
{
	pthread_mutex_lock(&p->lock);
	state_put_bytes(w, p->ged_pending, sizeof(p->ged_pending));
	state_put_bytes(w, p->slots, sizeof(p->slots));
	pthread_mutex_unlock(&p->lock);
}

int power_load(struct power *p, struct state_reader *r)
{
	uint8_t pending[sizeof(p->ged_pending)], slots[sizeof(p->slots)];
	uint32_t events;

	state_get_bytes(r, pending, sizeof(pending));
	state_get_bytes(r, slots, sizeof(slots));
	if (r->failed)
		return r->failed;
	events = get_le32(pending);
	if (events & ~(GED_POWER_BUTTON | GED_VMGENID | GED_PCI_HOTPLUG | GED_VMCLOCK))
		return state_reader_fail(r, "unknown events 0x%x", events);
	memcpy(p->ged_pending, pending, sizeof(pending));
	memcpy(p->slots, slots, sizeof(slots));
	return 0;
}
