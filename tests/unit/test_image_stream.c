/* The bytes of container images: their digests, and what packed them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "tests/unit/image_tools.h"

/* ---- SHA-256 ---- */

static void sha256_gives_the_standards_examples(void **state)
{
	static const struct {
		const char *text, *hex;
	} example[] = {
		{ "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
		{ "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
		{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
	};
	char hex[IMAGE_HEX], million[1000];
	struct sha256_ctx s;

	for (unsigned i = 0; i < ARRAY_SIZE(example); i++) {
		sha256_init(&s);
		sha256_update(&s, strlen(example[i].text), (const uint8_t *)example[i].text);
		image_digest_hex(&s, hex);
		assert_string_equal(hex, example[i].hex);
	}
	/* A million times "a", in pieces that fit no block. */
	memset(million, 'a', sizeof(million));
	sha256_init(&s);
	for (unsigned left = 1000000; left;) {
		unsigned n = MIN(left, 997u);

		sha256_update(&s, n, (const uint8_t *)million);
		left -= n;
	}
	image_digest_hex(&s, hex);
	assert_string_equal(hex,
			    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* ---- streams ---- */

static void assert_stream_gives(const void *packed, size_t packed_len, const char *data, size_t len)
{
	struct image_blob blob = blob_of(packed, packed_len);
	char *got = malloc(len + 1);
	struct image_stream *s;
	size_t have = 0;
	ssize_t n;

	assert_int_equal(image_stream_open(&s, &blob, "blob", NULL), 0);
	while ((n = image_stream_read(s, got + have, MIN(len + 1 - have, (size_t)777), NULL)) > 0)
		have += n;
	assert_int_equal(n, 0);
	assert_int_equal(have, len);
	assert_memory_equal(got, data, len);
	image_stream_close(s);
	free(got);
	close(blob.fd);
}

static void streams_unpack_what_gzip_and_zstd_packed(void **state)
{
	size_t len = 300000, room = 400000, n, m;
	char *data = malloc(len), *packed = malloc(2 * room);

	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * i >> 7);
	assert_stream_gives(data, len, data, len);
	n = pack_gzip(data, len, packed, room);
	assert_stream_gives(packed, n, data, len);
	n = ZSTD_compress(packed, room, data, len, 3);
	assert_stream_gives(packed, n, data, len);
	/* Two packed pieces, one behind the other, are one file. */
	n = ZSTD_compress(packed, room, data, 1000, 3);
	m = ZSTD_compress(packed + n, room, data + 1000, len - 1000, 3);
	assert_stream_gives(packed, n + m, data, len);
	n = pack_gzip(data, 1000, packed, room);
	m = pack_gzip(data + 1000, len - 1000, packed + n, room);
	assert_stream_gives(packed, n + m, data, len);
	free(data);
	free(packed);
}

static void stream_that_is_cut_off_or_damaged_is_an_error(void **state)
{
	char data[5000], packed[6000];
	size_t len[2];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * i >> 3);
	for (unsigned kind = 0; kind < 2; kind++) {
		len[0] = kind ? ZSTD_compress(packed, sizeof(packed), data, sizeof(data), 3)
			      : pack_gzip(data, sizeof(data), packed, sizeof(packed));
		for (unsigned damaged = 0; damaged < 2; damaged++) {
			struct image_blob blob;
			struct image_stream *s;
			char sink[6000];

			packed[len[0] / 2] ^= damaged ? 0x55 : 0;
			blob = blob_of(packed, damaged ? len[0] : len[0] - 1);
			assert_int_equal(image_stream_open(&s, &blob, "blob", NULL), 0);
			/* zstd's blocks have no checksum here: then the content is another one. */
			if (!damaged || !kind)
				assert_int_equal(image_stream_read(s, sink, sizeof(sink), NULL),
						 -EBADMSG);
			image_stream_close(s);
			close(blob.fd);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sha256_gives_the_standards_examples),
		cmocka_unit_test(streams_unpack_what_gzip_and_zstd_packed),
		cmocka_unit_test(stream_that_is_cut_off_or_damaged_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
