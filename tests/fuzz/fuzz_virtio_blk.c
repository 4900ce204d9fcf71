/*
 * Fuzz target (libFuzzer): a hostile driver of a disk. The input is guest
 * memory, rings and requests in it, and what the driver does: kicks, resets,
 * pauses, changes of memory while requests run. Whatever it does, the image
 * keeps its size, a read-only one its bytes, a pause ends with nothing in
 * flight, and what a sanitizer looks for does not happen.
 */
#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_devices.h"

#define RAM	 0x10000ull
#define BOUNDARY 0x8000ull
#define IMAGE	 8192u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Made once: what a machine has beside the disk. */
struct host {
	struct fuzz_device d; /* but for the device */
	int image;
	uint8_t pattern[IMAGE];
};

struct run {
	struct fuzz_device d;
	struct host *host;
	struct block *block;
};

static struct host *the_host(void)
{
	static struct host h;
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = BOUNDARY },
		{ .gpa = BOUNDARY, .size = RAM - BOUNDARY },
	};

	if (h.d.mem)
		return &h;
	fuzz_device_memory(&h.d, false, ranges, 2);
	h.d.num_queues = 1;
	h.image = memfd_create("image", MFD_CLOEXEC);
	if (h.image < 0)
		abort();
	for (unsigned i = 0; i < IMAGE; i++)
		h.pattern[i] = i / BLOCK_SECTOR * 17 + 1;
	return &h;
}

static void make_disk(struct run *r, bool read_only)
{
	struct block_config config = {
		.path = "image",
		.fd = dup(r->host->image),
		.format = BLOCK_FORMAT_RAW,
		.read_only = read_only,
	};
	struct virtio_params params = {
		.id = "disk0",
		.mem = r->d.mem,
		.loop = r->d.loop,
	};

	if (pwrite(r->host->image, r->host->pattern, IMAGE, 0) != IMAGE ||
	    block_open(&r->block, &config, NULL) < 0)
		abort();
	block_attach(r->block, r->d.loop);
	if (virtio_blk_create(&r->d.dev, &params, r->block, "serial", NULL) < 0)
		abort();
}

static void pause_disk(struct run *r)
{
	fuzz_device_pause(&r->d);
	if (r->block->inflight)
		abort();
}

static void step(struct run *r, uint8_t op, uint8_t arg)
{
	unsigned which = op % (FUZZ_OWN + 1);

	switch (which) {
	case 0:
		/* Under the device's eyes. */
		r->d.mem->map[(arg & 1 ? 0x1000 : 0) + arg * 4] ^= op;
		break;
	case FUZZ_PAUSE:
		pause_disk(r);
		virtio_resume(r->d.dev);
		break;
	case FUZZ_OWN:
		virtio_config_write(r->d.dev, offsetof(struct virtio_blk_config, wce), &arg, 1);
		break;
	default:
		fuzz_device_step(&r->d, which, arg);
	}
}

static void check_image(const struct run *r, bool read_only)
{
	uint8_t now[IMAGE];
	struct stat st;

	if (fstat(r->host->image, &st) < 0 || st.st_size != IMAGE)
		abort();
	if (read_only && (pread(r->host->image, now, IMAGE, 0) != IMAGE ||
			  memcmp(now, r->host->pattern, IMAGE) != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { .host = the_host() };
	bool read_only;

	if (!size)
		return 0;
	r.d = r.host->d;
	r.d.features = fuzz_ring_features(data[0]);
	read_only = data[0] & 8;
	if (data[0] & 16)
		r.d.features |= 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE;
	if (data[0] & 16 && !read_only)
		r.d.features |= 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;

	fuzz_fill_memory(r.d.mem, RAM, data, size);
	make_disk(&r, read_only);
	fuzz_device_start(&r.d);
	if (r.d.dev->features != r.d.features)
		abort();
	for (size_t i = 1; i + 1 < size && data[i]; i += 2)
		step(&r, data[i], data[i + 1]);
	pause_disk(&r);
	check_image(&r, read_only);
	virtio_free(r.d.dev);
	return 0;
}
