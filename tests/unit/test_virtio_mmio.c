/* The registers of virtio over MMIO, as a driver other than the fake one might use them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_mmio.h>
#include <stdlib.h>

#include "tests/unit/fake_driver.h"

#define CONFIG_SIZE 12

struct device {
	struct virtio_device dev;
	uint8_t config[CONFIG_SIZE];
	unsigned writes;
};

static int device_start(struct virtio_device *dev)
{
	return 0;
}

static void device_kick(struct virtio_device *dev, unsigned queue)
{
}

static void device_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	memcpy(data, container_of(dev, struct device, dev)->config + offset, len);
}

static void device_config_write(struct virtio_device *dev, unsigned offset, const void *data,
				unsigned len)
{
	struct device *d = container_of(dev, struct device, dev);

	memcpy(d->config + offset, data, len);
	d->writes++;
}

static void device_free(struct virtio_device *dev)
{
	virtio_done(dev);
	free(container_of(dev, struct device, dev));
}

static const struct virtio_ops ops = {
	.name = "test",
	.id = VIRTIO_ID_BLOCK,
	.config_size = CONFIG_SIZE,
	.start = device_start,
	.stop = virtio_stopped,
	.kick = device_kick,
	.config_read = device_config_read,
	.config_write = device_config_write,
	.free = device_free,
};

struct fixture {
	struct fake_vm vm;
	struct device *device;
	struct virtio_mmio *mmio;
};

static int setup(void **state)
{
	static const uint16_t sizes[2] = { 64, 128 };
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_params params;

	fake_vm_init(&f->vm, LOOP_AUTO);
	params = fake_vm_params(&f->vm, "test0");
	params.num_queues = 2;
	params.queue_sizes = sizes;
	params.features = 1ull << 3 | 1ull << 40;
	f->device = calloc(1, sizeof(*f->device));
	assert_int_equal(virtio_init(&f->device->dev, &ops, &params, NULL), 0);
	assert_int_equal(virtio_mmio_create(&f->mmio, &f->device->dev, f->vm.mmio, FAKE_MMIO_BASE,
					    f->vm.irqs, FAKE_MMIO_GSI, NULL),
			 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_mmio_free(f->mmio);
	virtio_free(&f->device->dev);
	fake_vm_done(&f->vm);
	free(f);
	return 0;
}

static uint32_t get(struct fixture *f, unsigned reg)
{
	return fake_read(&f->vm, FAKE_MMIO_BASE + reg, 4);
}

static void set(struct fixture *f, unsigned reg, uint32_t v)
{
	fake_write(&f->vm, FAKE_MMIO_BASE + reg, v, 4);
}

static void device_says_what_it_is(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(get(f, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(get(f, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_BLOCK);
	assert_int_equal(get(f, VIRTIO_MMIO_VENDOR_ID), VIRTIO_VENDOR);
	/* No shared memory region: length and base of all ones. */
	set(f, VIRTIO_MMIO_SHM_SEL, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_SHM_LEN_LOW), 0xffffffff);
	assert_int_equal(get(f, VIRTIO_MMIO_SHM_BASE_HIGH), 0xffffffff);
}

static void features_come_in_words(void **state)
{
	struct fixture *f = *state;

	assert_true(get(f, VIRTIO_MMIO_DEVICE_FEATURES) & 1u << 3);
	set(f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	assert_true(get(f, VIRTIO_MMIO_DEVICE_FEATURES) & 1u << (40 - 32));
	assert_true(get(f, VIRTIO_MMIO_DEVICE_FEATURES) & 1u << (VIRTIO_F_VERSION_1 - 32));
	set(f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(get(f, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	set(f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, UINT32_MAX);
	assert_int_equal(get(f, VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

static void queues_have_their_own_maximum(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
	set(f, VIRTIO_MMIO_QUEUE_SEL, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_NUM_MAX), 128);
	set(f, VIRTIO_MMIO_QUEUE_SEL, 2);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 0);
	/* And one that is not there cannot be written either. */
	set(f, VIRTIO_MMIO_QUEUE_READY, 1);
	set(f, VIRTIO_MMIO_QUEUE_NUM, 7);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 0);
}

static void ready_queue_keeps_its_addresses(void **state)
{
	struct fixture *f = *state;
	struct virtq *q = &f->device->dev.queue[1];

	set(f, VIRTIO_MMIO_QUEUE_SEL, 1);
	set(f, VIRTIO_MMIO_QUEUE_NUM, 32);
	set(f, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0x12);
	set(f, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x34567890);
	set(f, VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x1000);
	set(f, VIRTIO_MMIO_QUEUE_USED_LOW, 0x2000);
	set(f, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 1);
	set(f, VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
	set(f, VIRTIO_MMIO_QUEUE_NUM, 8);
	assert_int_equal(q->desc_gpa, 0x1234567890);
	assert_int_equal(q->driver_gpa, 0x1000);
	assert_int_equal(q->device_gpa, 0x2000);
	assert_int_equal(q->size, 32);
	/* Linux takes a queue back with 0. */
	set(f, VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 0);
}

static void registers_take_aligned_words_only(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_read(&f->vm, FAKE_MMIO_BASE, 2), 0);
	assert_int_equal(fake_read(&f->vm, FAKE_MMIO_BASE + 2, 4), 0);
	assert_int_equal(fake_read(&f->vm, FAKE_MMIO_BASE, 8), 0);
	fake_write(&f->vm, FAKE_MMIO_BASE + VIRTIO_MMIO_STATUS, 1, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 0);
	/* Those that do not exist, and those that are write-only. */
	assert_int_equal(get(f, 0x0f0), 0);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_NOTIFY), 0);
	set(f, VIRTIO_MMIO_MAGIC_VALUE, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
}

static void configuration_takes_any_width_and_ends(void **state)
{
	const uint64_t base = FAKE_MMIO_BASE + VIRTIO_MMIO_CONFIG;
	struct fixture *f = *state;

	memcpy(f->device->config, "abcdefghijkl", CONFIG_SIZE);
	assert_int_equal(fake_read(&f->vm, base + 1, 1), 'b');
	assert_int_equal(fake_read(&f->vm, base + 3, 2), 'd' | 'e' << 8);
	assert_int_equal(fake_read(&f->vm, base + 8, 8), 0x6c6b6a69);
	assert_int_equal(fake_read(&f->vm, base + 12, 4), 0);
	fake_write(&f->vm, base + 11, 0x5a59, 2); /* half outside */
	assert_int_equal(f->device->writes, 0);
	fake_write(&f->vm, base + 10, 0x5a59, 2);
	assert_int_equal(f->device->config[11], 0x5a);
}

static void interrupt_status_is_acknowledged_by_bit(void **state)
{
	struct fixture *f = *state;

	f->device->dev.status = VIRTIO_CONFIG_S_DRIVER_OK;
	virtio_config_changed(&f->device->dev);
	f->device->dev.transport_ops->interrupt(f->mmio, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
	assert_int_equal(get(f, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	set(f, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	assert_int_equal(get(f, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	f->device->dev.status = 0;
	/* Reset takes the rest. */
	set(f, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

static void configuration_change_before_driver_ok_is_silent(void **state)
{
	struct fixture *f = *state;

	virtio_config_changed(&f->device->dev);
	assert_int_equal(get(f, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(get(f, VIRTIO_MMIO_CONFIG_GENERATION), 1);
}

static void two_devices_cannot_share_a_place(void **state)
{
	struct fixture *f = *state;
	struct virtio_mmio *other;
	struct error err = { 0 };

	assert_true(virtio_mmio_create(&other, &f->device->dev, f->vm.mmio, FAKE_MMIO_BASE + 0x100,
				       f->vm.irqs, 6, &err) < 0);
	assert_true(err.msg[0]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(device_says_what_it_is),
		TEST(features_come_in_words),
		TEST(queues_have_their_own_maximum),
		TEST(ready_queue_keeps_its_addresses),
		TEST(registers_take_aligned_words_only),
		TEST(configuration_takes_any_width_and_ends),
		TEST(interrupt_status_is_acknowledged_by_bit),
		TEST(configuration_change_before_driver_ok_is_silent),
		TEST(two_devices_cannot_share_a_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
