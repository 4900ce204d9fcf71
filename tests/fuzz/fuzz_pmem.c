/*
 * Fuzz target (libFuzzer): a hostile driver of persistent memory, and a host that changes its
 * rate limit, pauses, saves and loads. The input is guest memory, the ring in it, and what both
 * do. Whatever they do, the file is changed by nobody (flushing is all that the driver may ask
 * for), a pause ends with nothing in flight, a state that was saved is one that can be loaded,
 * and what a sanitizer looks for does not happen.
 *
 * Input: one byte of features, operations of two bytes until a zero, memory.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_devices.h"
#include "vmm/core/state.h"

#define RAM	   0x8000ull
#define GPA	   0x500000000ull
#define FILE_BYTES 5000u /* neither pages nor the units of the area */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct guest_mem *mem;
	struct loop *loop;
	struct virtio_device *dev;
	uint64_t features;
	int file;
};

static void pause_device(struct run *r)
{
	fuzz_device_pause(r->dev, r->loop);
	if (!r->dev->needs_reset && r->dev->queue[0].inflight)
		abort();
}

/* What was saved while nothing moves is loaded again. */
static void save_and_load(struct run *r)
{
	struct state_writer w;
	struct state_reader in;
	size_t pos = 0;

	pause_device(r);
	state_writer_init(&w);
	state_begin(&w, "pmem", 0, 1);
	r->dev->ops->save(r->dev, &w);
	state_end(&w);
	if (state_next(w.buf, w.len, &pos, &in, NULL) != 1 || r->dev->ops->load(r->dev, &in) < 0)
		abort();
	state_writer_done(&w);
	virtio_resume(r->dev);
}

static void step(struct run *r, uint8_t op, uint8_t arg)
{
	struct rate_limits limits = { 0 };
	uint8_t config[16];

	switch (op % 9) {
	case 1:
		virtio_kick(r->dev, 0);
		break;
	case 2:
		loop_run_once(r->loop, 0);
		break;
	case 3:
		fuzz_device_offer(r->dev, r->mem, 0, arg >> 4);
		break;
	case 4:
		pause_device(r);
		virtio_resume(r->dev);
		break;
	case 5:
		virtio_set_status(r->dev, 0, false);
		fuzz_device_start(r->dev, 1, r->features);
		break;
	case 6:
		virtio_config_read(r->dev, arg % 32, config, 1u << (arg >> 6));
		virtio_config_write(r->dev, arg % 32, config, 1u << (arg >> 6));
		break;
	case 7:
		limits.ops = (struct rate){ .per_second = arg * 1000u };
		virtio_pmem_limit(r->dev, &limits);
		break;
	case 8:
		save_and_load(r);
		break;
	default:
		/* Under the device's eyes. */
		r->mem->map[0x1000 + arg * 4] ^= op;
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
	struct loop_params loop = { .name = "fuzz" };
	struct run r = { 0 };

	if (!size)
		return 0;
	log_setup(STDERR_FILENO, LOG_ERROR);
	r.file = memfd_create("pmem", MFD_CLOEXEC);
	if (r.file < 0 || ftruncate(r.file, FILE_BYTES) < 0 ||
	    guest_mem_create(&r.mem, GUEST_MEM_ANON, &range, 1, NULL) < 0 ||
	    loop_create(&r.loop, &loop, NULL) < 0)
		abort();
	params.mem = r.mem;
	params.loop = r.loop;
	if (virtio_pmem_create(&r.dev, &params, dup(r.file), GPA, data[0] & 8, NULL) < 0)
		abort();
	r.features = fuzz_ring_features(data[0]);
	fuzz_fill_memory(r.mem, RAM, data, size);
	fuzz_device_start(r.dev, 1, r.features);
	for (size_t i = 1; i + 1 < size && data[i]; i += 2)
		step(&r, data[i], data[i + 1]);
	pause_device(&r);
	virtio_free(r.dev);
	check_file(r.file);
	close(r.file);
	loop_free(r.loop);
	guest_mem_free(r.mem);
	return 0;
}
