#include "devices/nbd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void a_certificate_is_for_whom_the_uri_says(void **state)
{
	static const char *const cases[][2] = {
		{ "nbds://server:1/disk?tls-certificates=/p%6bi", "server" },
		{ "nbds://[::1]/?tls-certificates=/pki", "::1" },
		{ "nbds://1.2.3.4/?tls-certificates=/pki&tls-hostname=a.example", "a.example" },
		{ "nbds+unix:///?tls-certificates=/pki&socket=/x", "localhost" },
		{ "nbds+unix:///?socket=/x&tls-hostname=b&tls-certificates=/pki", "b" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		char *dir = nbd_certificates(cases[i][0]), *host = nbd_tls_host(cases[i][0]);

		assert_true(nbd_wants_tls(cases[i][0]));
		assert_string_equal(dir, "/pki");
		assert_string_equal(host, cases[i][1]);
		free(dir);
		free(host);
	}
	assert_false(nbd_wants_tls("nbd://server/"));
}

#define GREETING "NBDMAGICIHAVEOPT\0\3"
#define TLS_ANSWER "\0\3\350\211\4\125\145\251\0\0\0\5"

static void tls_begins_when_the_server_agrees(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *why;
	} cases[] = {
#define CASE(bytes, why) { bytes, sizeof(bytes) - 1, why }
		CASE(GREETING TLS_ANSWER "\0\0\0\1\0\0\0\0", NULL),
		CASE(GREETING TLS_ANSWER "\200\0\0\1\0\0\0\3no!", "its server has no TLS: no!"),
		CASE(GREETING TLS_ANSWER "\0\0\0\3\0\0\0\0", "too short"),
		CASE(GREETING TLS_ANSWER "\0\0\0\2\0\0\0\0", "malformed"),
		CASE(GREETING "\0\3\350\211\4\125\145\251\0\0\0\7\0\0\0\1\0\0\0\0", "malformed"),
		CASE("HTTP/1.0 400 Bad Request", "no NBD server"),
#undef CASE
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error err = { 0 };
		uint8_t asked[32];
		int pair[2], r;

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		assert_int_equal(write(pair[1], cases[i].bytes, cases[i].len), cases[i].len);
		shutdown(pair[1], SHUT_WR);
		r = nbd_start_tls(pair[0], "nbds://x/?tls-certificates=/pki", &err);
		assert_int_equal(r < 0, cases[i].why != NULL);
		if (r < 0 && !strstr(err.msg, cases[i].why))
			fail_msg("%u: '%s' does not say '%s'", i, err.msg, cases[i].why);
		/* Its flags and the option, and nothing of the export's name. */
		if (!r) {
			assert_int_equal(recv(pair[1], asked, sizeof(asked), 0), 20);
			assert_memory_equal(asked, "\0\0\0\1IHAVEOPT\0\0\0\5\0\0\0\0", 20);
		}
		close(pair[0]);
		close(pair[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_certificate_is_for_whom_the_uri_says),
		cmocka_unit_test(tls_begins_when_the_server_agrees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
