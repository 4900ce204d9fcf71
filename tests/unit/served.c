#include "tests/unit/served.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/patience.h"
#include "vmm/control/control_client.h"

void served_create(struct served *s)
{
	struct machine_params params = { .config = &s->config };
	struct fake_hv_params hv = { 0 };
	struct machine_files files;
	struct error err = { 0 };
	struct fake_elf elf;

	memset(s, 0, sizeof(*s));
	config_init(&s->config);
	s->config.memory_bytes = 64 * MiB;
	s->config.console.kind = CHARDEV_NULL;
	s->config.kernel = strdup("fake");
	s->config.name = strdup("box");
	machine_files_init(&files);
	fake_elf(&elf, true);
	assert_int_equal(fw_kernel_open(&files.kernel, "fake",
					fake_file(elf.image, sizeof(elf.image)), &err),
			 0);
	params.hv = fake_hv_create(&hv);
	params.files = &files;
	if (machine_create(&s->machine, &params, &err) < 0)
		fail_msg("%s", err.msg);
	machine_files_close(&files);

	snprintf(s->root, sizeof(s->root), "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(s->root));
	s->dir.listen_fd = -1;
	if (run_dir_create(&s->dir, s->root, "box", &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(control_create(&s->control, s->machine, dup(s->dir.listen_fd), &err), 0);
	assert_int_equal(machine_start(s->machine, &err), 0);
}

void served_free(struct served *s)
{
	machine_free(s->machine);
	config_done(&s->config);
	run_dir_remove(&s->dir);
	rmdir(s->root);
}

void served_destroy(struct served *s)
{
	struct machine_end end = { 0 };

	machine_end(s->machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(s->machine, &end);
	control_free(s->control, &end);
	served_free(s);
}

int served_client(struct served *s)
{
	struct error err = { 0 };
	int sock = control_connect(s->dir.path, &err);

	assert_true(sock >= 0);
	return sock;
}

json_t *served_answer(struct served *s, int sock)
{
	static char buf[CONTROL_MAX_MESSAGE];
	unsigned none = 0;
	json_t *o;

	for (uint64_t end = patience(); !patience_ends(end);) {
		ssize_t n = control_receive(sock, buf, sizeof(buf), NULL, 0, &none, MSG_DONTWAIT);

		if (n == 0 || n == -ECONNRESET)
			return NULL;
		if (n > 0) {
			o = json_loadb(buf, n, 0, NULL);
			assert_non_null(o);
			return o;
		}
		loop_run_once(machine_loop(s->machine), NSEC_PER_MSEC);
	}
	fail_msg("no answer");
	return NULL;
}

json_t *served_ask_bytes(struct served *s, int sock, const void *p, size_t len)
{
	assert_int_equal(control_send(sock, p, len, NULL, 0, 0), len);
	return served_answer(s, sock);
}

json_t *served_ask(struct served *s, int sock, const char *text)
{
	return served_ask_bytes(s, sock, text, strlen(text));
}

void expect_ok(json_t *reply)
{
	assert_true(json_is_true(json_object_get(reply, "ok")));
	json_decref(reply);
}

void expect_error(json_t *reply, int code)
{
	assert_non_null(reply);
	assert_non_null(json_string_value(json_object_get(reply, "error")));
	assert_int_equal(json_integer_value(json_object_get(reply, "errno")), code);
	json_decref(reply);
}

void expect_state(json_t *reply, const char *state)
{
	assert_string_equal(json_string_value(json_object_get(reply, "state")), state);
	expect_ok(reply);
}

void expect_event(struct served *s, int sock, const char *event)
{
	json_t *o = served_answer(s, sock);

	assert_string_equal(json_string_value(
				    json_object_get(json_object_get(o, "progress"), "event")),
			    event);
	json_decref(o);
}
