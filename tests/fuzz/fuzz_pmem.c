/*
 * Fuzz target (libFuzzer): a hostile driver of persistent memory, and a host that changes its
 * rate limit, pauses, saves and loads. The input is guest memory, the ring in it, and what both
 * do. Whatever they do, the file is changed by nobody (flushing is all that the driver may ask
 * for), a pause ends with nothing in flight, a state that was saved is one that can be loaded,
 * and what a sanitizer looks for does not happen.
 */
#include <sys/mman.h>

#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_devices.h"

#define RAM	   0x8000ull
#define GPA	   0x500000000ull
#define FILE_BYTES 5000u /* neither pages nor the units of the area */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void access_config(struct virtio_device *dev, uint8_t arg)
{
	uint8_t config[16];

	virtio_config_read(dev, arg % 32, config, 1u << (arg >> 6));
	virtio_config_write(dev, arg % 32, config, 1u << (arg >> 6));
}

static void step(struct fuzz_device *d, uint8_t op, uint8_t arg)
{
	const struct rate_limits limits = { .ops = { .per_second = arg * 1000u } };
	unsigned which = op % (FUZZ_OWN + 2);

	switch (which) {
	case 0:
		/* Under the device's eyes. */
		d->mem->map[0x1000 + arg * 4] ^= op;
		break;
	case FUZZ_OWN:
		access_config(d->dev, arg);
		break;
	case FUZZ_OWN + 1:
		virtio_pmem_limit(d->dev, &limits);
		break;
	default:
		fuzz_device_step(d, which, arg);
	}
}

static void check_file(int fd)
{
	uint8_t byte;

	for (off_t at = 0; at < FILE_BYTES; at += 1000) {
		if (pread(fd, &byte, 1, at) != 1 || byte)
			abort();
	}
	if (lseek(fd, 0, SEEK_END) != FILE_BYTES)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct guest_mem_range range = { .gpa = 0, .size = RAM };
	struct virtio_params params = { .id = "pmem0" };
	struct fuzz_device d = { .num_queues = 1 };
	int file;

	if (!size)
		return 0;
	file = memfd_create("pmem", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, FILE_BYTES) < 0)
		abort();
	fuzz_device_memory(&d, false, &range, 1);
	params.mem = d.mem;
	params.loop = d.loop;
	if (virtio_pmem_create(&d.dev, &params, dup(file), GPA, data[0] & 8, NULL) < 0)
		abort();
	d.features = fuzz_ring_features(data[0]);
	fuzz_fill_memory(d.mem, RAM, data, size);
	fuzz_device_start(&d);
	for (size_t i = 1; i + 1 < size && data[i]; i += 2)
		step(&d, data[i], data[i + 1]);
	fuzz_device_pause(&d);
	virtio_free(d.dev);
	check_file(file);
	close(file);
	guest_mem_free(d.mem);
	return 0;
}
