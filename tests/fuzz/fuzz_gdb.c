/*
 * Fuzz target (libFuzzer): what comes on the debugger's connection. The input is packets, separated
 * by newlines; frame and checksum are made, or nothing would get past them, unless a packet begins
 * with '!': that goes as it is.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/core/log.h"
#include "vmm/debug/gdb.h"
#include "vmm/hypervisor/hv_null.h"
#include "vmm/machine/machine_internal.h"

#define MAX_PACKET 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A hypervisor that lets itself be debugged, and never stops anywhere. */
static int accept_debug(struct hv_vcpu *vcpu, const struct hv_debug *debug)
{
	return 0;
}

static int get_fpu(struct hv_vcpu *vcpu, struct kvm_fpu *fpu)
{
	memset(fpu, 0, sizeof(*fpu));
	return 0;
}

static int set_fpu(struct hv_vcpu *vcpu, const struct kvm_fpu *fpu)
{
	return 0;
}

static struct hv *debuggable(void)
{
	static struct hv_ops ops;
	struct hv *hv;

	if (hv_null_create(&hv) < 0)
		abort();
	ops = *hv->ops;
	ops.vcpu_debug = accept_debug;
	ops.vcpu_get_fpu = get_fpu;
	ops.vcpu_set_fpu = set_fpu;
	hv->ops = &ops;
	return hv;
}

static int listen_somewhere(struct sockaddr_un *where, socklen_t *ret_len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/* An abstract name, of the kernel's choice. */
	*where = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*ret_len = sizeof(*where);
	if (fd < 0 || bind(fd, (struct sockaddr *)where, sizeof(sa_family_t)) < 0 ||
	    listen(fd, 1) < 0 || getsockname(fd, (struct sockaddr *)where, ret_len) < 0)
		abort();
	return fd;
}

static void turn(struct machine *m)
{
	while (loop_run_once(m->loop, 0))
		;
}

static void send_packet(int fd, const uint8_t *text, size_t len)
{
	char frame[MAX_PACKET + 8];
	unsigned sum = 0;
	int n;

	if (len && text[0] == '!') {
		(void)!send(fd, text + 1, len - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		return;
	}
	len = MIN(len, (size_t)MAX_PACKET);
	for (size_t i = 0; i < len; i++)
		sum += text[i];
	frame[0] = '$';
	memcpy(frame + 1, text, len);
	n = snprintf(frame + 1 + len, 4, "#%02x", sum & 255);
	(void)!send(fd, frame, 1 + len + (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Answers are read, so that the stub never waits for us. */
static void drain(int fd)
{
	char buf[4096];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine_config config;
	struct machine_files files;
	struct machine_params params = { .config = &config, .files = &files, .layout_only = true };
	struct error err = { 0 };
	struct sockaddr_un where;
	struct machine *m;
	socklen_t len;
	int fd;

	log_setup(-1, LOG_ERROR);
	config_init(&config);
	machine_files_init(&files);
	config.memory_bytes = 16 * MiB;
	config.cpus = 2;
	config.loop = LOOP_EPOLL;
	files.gdb = listen_somewhere(&where, &len);
	params.hv = debuggable();
	if (machine_create(&m, &params, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&where, len) < 0)
		abort();
	turn(m);
	while (size) {
		const uint8_t *end = memchr(data, '\n', size);
		size_t n = end ? (size_t)(end - data) : size;

		send_packet(fd, data, n);
		turn(m);
		drain(fd);
		data += n + !!end;
		size -= n + !!end;
	}
	close(fd);
	turn(m);
	machine_free(m);
	machine_files_close(&files);
	config_done(&config);
	return 0;
}
