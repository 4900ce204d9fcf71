/*
 * What programs that write seeds of device targets share: rings of which every entry is available,
 * and files of features, operations and guest memory (the targets' input).
 */
#ifndef WISP_TESTS_FUZZ_SEED_RING_H
#define WISP_TESTS_FUZZ_SEED_RING_H

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A part of a request: guest memory that the device reads, or writes. */
struct segment {
	uint32_t addr, len;
	bool writable;
};

/* A ring of one layout or the other; @avail is for split ones only. */
struct ring {
	void *desc;
	struct vring_avail *avail;
	bool packed;
	unsigned num;	 /* descriptors in use */
	unsigned chains; /* entries */
};

/* One more entry, of @n segments, which follow the descriptors in use. */
static inline void ring_add(struct ring *r, const struct segment *s, unsigned n)
{
	struct vring_desc *split = r->desc;
	struct vring_packed_desc *packed = r->desc;

	if (!r->packed)
		r->avail->ring[r->avail->idx++] = r->num;
	for (unsigned i = 0; i < n; i++, r->num++) {
		uint16_t flags = (s[i].writable ? VRING_DESC_F_WRITE : 0) |
				 (i + 1 < n ? VRING_DESC_F_NEXT : 0);

		if (r->packed)
			packed[r->num] = (struct vring_packed_desc){
				s[i].addr, s[i].len, r->chains,
				flags | 1u << VRING_PACKED_DESC_F_AVAIL
			};
		else
			split[r->num] = (struct vring_desc){ s[i].addr, s[i].len, flags,
							     i + 1 < n ? r->num + 1 : 0 };
	}
	r->chains++;
}

/* A seed in the directory @dir, named by its @features. Returns a negative errno. */
static inline int ring_seed_write(const char *dir, unsigned features, const uint8_t *operations,
				  size_t num_operations, const uint8_t *mem, size_t len)
{
	char path[4096];
	FILE *out;
	bool ok;

	snprintf(path, sizeof(path), "%s/features-%02x", dir, features);
	out = fopen(path, "we");
	if (!out)
		return -errno;
	ok = fputc(features, out) != EOF && fwrite(operations, num_operations, 1, out) == 1 &&
	     fwrite(mem, len, 1, out) == 1;
	return fclose(out) == 0 && ok ? 0 : -EIO;
}

/* main() of such a program: @save for each of the first @num sets of features. */
static inline int ring_seeds_main(int argc, char **argv, unsigned num,
				  int (*save)(const char *dir, unsigned features))
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
		return 2;
	}
	for (unsigned features = 0; features < num; features++) {
		int r = save(argv[1], features);

		if (r < 0) {
			fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
			return 1;
		}
	}
	return 0;
}

#endif
