/*
 * SHA-256 (FIPS 180-4), for content that is named by it. Plain data on the
 * caller's stack; any thread.
 */
#ifndef WISP_CORE_SHA256_H
#define WISP_CORE_SHA256_H

#include "vmm/core/util.h"

#define SHA256_BYTES 32
#define SHA256_BLOCK 64
#define SHA256_HEX   (2 * SHA256_BYTES + 1)

struct sha256 {
	uint32_t state[8];
	uint64_t len;
	uint8_t block[SHA256_BLOCK]; /* what is not a whole one yet */
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t len);
/* @s is used up. */
void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES]);
/* As sha256_end(), in lower-case hexadecimal digits. */
void sha256_end_hex(struct sha256 *s, char ret[SHA256_HEX]);

#endif
