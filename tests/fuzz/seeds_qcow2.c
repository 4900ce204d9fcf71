/* Writes the seeds of fuzz_qcow2 into the directory given: small images, and what to do with them.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/block.h"
#include "devices/qcow2_image.h"
#include "tests/fuzz/seed.h"

#define SCRIPT	  32u
#define MAX_BYTES (256 * KiB)

static const uint8_t script[SCRIPT] = {
	BLOCK_WRITE,
	3,
	0,
	0,
	BLOCK_READ,
	7,
	0,
	0,
	BLOCK_WRITE,
	0,
	200,
	0,
	BLOCK_DISCARD,
	1,
	0,
	0,
	BLOCK_FLUSH,
	0,
	0,
	0,
	BLOCK_READ,
	9,
	0,
	0,
	BLOCK_WRITE_ZEROES | 64,
	2,
	198,
	0,
	BLOCK_READ,
	0,
	255,
	255,
};

static bool image(const char *dir, const char *name, uint64_t bytes, uint64_t cluster_size)
{
	const struct qcow2_create_params params = { .size_bytes = bytes,
						    .cluster_size = cluster_size };
	static uint8_t data[MAX_BYTES];
	struct error err = { 0 };
	int fd = memfd_create(name, MFD_CLOEXEC);
	ssize_t n;

	if (fd < 0 || qcow2_image_create(fd, &params, &err) < 0)
		return false;
	n = pread(fd, data, sizeof(data) - SCRIPT, 0);
	close(fd);
	if (n <= 0)
		return false;
	memcpy(data + n, script, SCRIPT);
	return seed_write(dir, name, data, n + SCRIPT);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	return !(image(argv[1], "small-clusters", 128 * KiB, 512) &&
		 image(argv[1], "middle-clusters", 1 * MiB, 4096) &&
		 image(argv[1], "two-tables", 16 * MiB, 512));
}
