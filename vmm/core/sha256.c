#include "vmm/core/sha256.h"

#include <stdio.h>

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes (4.2.2). */
static const uint32_t k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

void sha256_init(struct sha256 *s)
{
	*s = (struct sha256){
		.state = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
			   0x1f83d9ab, 0x5be0cd19 },
	};
}

static uint32_t rotate(uint32_t v, unsigned by)
{
	return v >> by | v << (32 - by);
}

static uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_be32(uint8_t *p, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		p[i] = v >> (24 - 8 * i);
}

/* One block of the hash computation (6.2.2), with the standard's names for the variables. */
static void add_block(struct sha256 *s, const uint8_t *block)
{
	uint32_t w[64], a = s->state[0], b = s->state[1], c = s->state[2], d = s->state[3],
			e = s->state[4], f = s->state[5], g = s->state[6], h = s->state[7];

	for (unsigned t = 0; t < 16; t++)
		w[t] = get_be32(block + 4 * t);
	for (unsigned t = 16; t < 64; t++) {
		uint32_t x = w[t - 15], y = w[t - 2];

		w[t] = (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10) + w[t - 7] +
		       (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[t - 16];
	}
	for (unsigned t = 0; t < 64; t++) {
		uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
			      ((e & f) ^ (~e & g)) + k[t] + w[t];
		uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
			      ((a & b) ^ (a & c) ^ (b & c));

		h = g;
		g = f;
		f = e;
		e = d + t1;
		d = c;
		c = b;
		b = a;
		a = t1 + t2;
	}
	s->state[0] += a;
	s->state[1] += b;
	s->state[2] += c;
	s->state[3] += d;
	s->state[4] += e;
	s->state[5] += f;
	s->state[6] += g;
	s->state[7] += h;
}

void sha256_add(struct sha256 *s, const void *data, size_t len)
{
	size_t have = s->len % SHA256_BLOCK;
	const uint8_t *p = data;

	s->len += len;
	if (have) {
		size_t n = MIN(len, SHA256_BLOCK - have);

		memcpy(s->block + have, p, n);
		if (have + n < SHA256_BLOCK)
			return;
		add_block(s, s->block);
		p += n;
		len -= n;
	}
	for (; len >= SHA256_BLOCK; p += SHA256_BLOCK, len -= SHA256_BLOCK)
		add_block(s, p);
	memcpy(s->block, p, len);
}

void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES])
{
	uint64_t bits = s->len * 8;
	uint8_t pad[SHA256_BLOCK + 8] = { 0x80 };
	size_t have = s->len % SHA256_BLOCK;
	/* Up to where the length begins, in this block or the next. */
	size_t n = (have < SHA256_BLOCK - 8 ? 1 : 2) * SHA256_BLOCK - 8 - have;

	put_be32(pad + n, bits >> 32);
	put_be32(pad + n + 4, (uint32_t)bits);
	sha256_add(s, pad, n + 8);
	for (unsigned i = 0; i < 8; i++)
		put_be32(ret + 4 * i, s->state[i]);
}

void sha256_end_hex(struct sha256 *s, char ret[SHA256_HEX])
{
	uint8_t sum[SHA256_BYTES];

	sha256_end(s, sum);
	for (unsigned i = 0; i < SHA256_BYTES; i++)
		snprintf(ret + 2 * i, 3, "%02x", sum[i]);
}
