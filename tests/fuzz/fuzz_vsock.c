/*
 * Fuzz target (libFuzzer): a hostile driver of the socket device, and a host
 * that connects, reads, writes and goes away in between. The input is guest
 * memory, rings and packets in it, and what both sides do. Whatever they do,
 * connections and what they keep stay within their bounds, a pause ends, and
 * what a sanitizer looks for does not happen.
 *
 * Input: one byte of features, operations of two bytes until a zero, memory.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_devices.h"
#include "virtio/virtio_vsock_internal.h"

#define RAM	  0x10000ull
#define BOUNDARY  0x8000ull
#define CID	  3
#define MAX_HOSTS 8

#define NOTICE_PORT 1u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Made once: what a machine has beside the device. */
struct host {
	struct fuzz_device d; /* but for the device */
	struct clock clock;
	int listen_fd, port_fd; /* PATH, and PATH_0 for what the guest opens */
	char path[64];
};

struct run {
	struct fuzz_device d;
	struct host *host;
	int broker_fd;
	int fd[MAX_HOSTS]; /* the host's ends of connections */
};

static struct host *the_host(void)
{
	static struct host h;
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = BOUNDARY },
		{ .gpa = BOUNDARY, .size = RAM - BOUNDARY },
	};
	struct loop_params params = { .name = "fuzz", .clock = &h.clock };
	char port_path[80];

	if (h.d.mem)
		return &h;
	fuzz_device_memory(&h.d, false, ranges, 2);
	h.d.num_queues = VSOCK_NUM_QUEUES;
	signal(SIGPIPE, SIG_IGN); /* the host of this test, not the device, writes by write(2) */
	clock_init_virtual(&h.clock, NSEC_PER_SEC, NSEC_PER_SEC);
	snprintf(h.path, sizeof(h.path), "/tmp/wisp-fuzz-vsock-%d", getpid());
	snprintf(port_path, sizeof(port_path), "%s_0", h.path);
	h.listen_fd = vsock_listen(h.path, "", NULL);
	h.port_fd = vsock_listen(port_path, "", NULL);
	if (h.listen_fd < 0 || h.port_fd < 0 || loop_create(&h.d.loop, &params, NULL) < 0)
		abort();
	return &h;
}

static size_t write_notice(void *ctx, char *text, size_t size)
{
	memset(text, 'n', size);
	return size;
}

static void make_device(struct run *r)
{
	const struct virtio_vsock_notice notice = { NOTICE_PORT, write_notice, NULL };
	struct virtio_params params = {
		.id = "vsock0",
		.mem = r->d.mem,
		.loop = r->d.loop,
	};
	int listen_fd = dup(r->host->listen_fd), pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    virtio_vsock_create(&r->d.dev, &params, CID, listen_fd, pair[1], &notice, NULL) < 0)
		abort();
	r->broker_fd = pair[0];
}

/* The host connects as client @i, with a hello that the input may have spoilt. */
static void host_connects(struct run *r, unsigned i, uint8_t arg)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char hello[] = "CONNECT 0\nbytes";

	if (r->fd[i] >= 0)
		close(r->fd[i]);
	r->fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	memcpy(addr.sun_path, r->host->path, sizeof(r->host->path));
	if (connect(r->fd[i], (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return;
	hello[8] += arg >> 6;
	if (arg & 8)
		hello[arg >> 4] ^= 0x55;
	(void)!write(r->fd[i], hello, sizeof(hello) - 1);
}

static void host_acts(struct run *r, uint8_t arg)
{
	static uint8_t bytes[0x10000];
	unsigned i = arg % MAX_HOSTS;
	int fd = r->fd[i];

	switch (arg >> 3 & 7) {
	case 0:
		host_connects(r, i, arg);
		break;
	case 1:
		fd = accept4(r->host->port_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			break;
		if (r->fd[i] >= 0)
			close(r->fd[i]);
		r->fd[i] = fd;
		break;
	case 2:
		(void)!write(fd, bytes, sizeof(bytes));
		break;
	case 3:
		(void)!read(fd, bytes, arg & 0x80 ? sizeof(bytes) : 100);
		break;
	case 4:
		shutdown(fd, arg & 0x80 ? SHUT_WR : SHUT_RD);
		break;
	case 5:
		if (fd >= 0)
			close(fd);
		r->fd[i] = -1;
		break;
	case 6:
		vsock_broker_serve(r->broker_fd, r->host->path);
		break;
	default:
		shutdown(r->broker_fd, SHUT_RDWR);
	}
}

static void step(struct run *r, uint8_t op, uint8_t arg)
{
	unsigned which = op % (FUZZ_OWN + 3);

	switch (which) {
	case 0:
		r->d.dev->ops->identity_changed(r->d.dev);
		break;
	case FUZZ_OWN:
		clock_advance(&r->host->clock, (arg + 1) * 10 * NSEC_PER_MSEC);
		break;
	case FUZZ_OWN + 1:
		/* Under the device's eyes. */
		r->d.mem->map[0x1800 + arg * 8] ^= op;
		break;
	case FUZZ_OWN + 2:
		host_acts(r, arg);
		loop_run_once(r->d.loop, 0);
		break;
	default:
		fuzz_device_step(&r->d, which, arg);
	}
}

static void check_bounds(const struct run *r)
{
	const struct virtio_vsock *vs = container_of(r->d.dev, struct virtio_vsock, dev);
	struct list *pos;

	if (vs->num_conns > VSOCK_MAX_CONNS || vs->num_strays > VSOCK_MAX_STRAYS)
		abort();
	list_for_each (pos, &vs->conns) {
		const struct vsock_conn *c = list_entry(pos, struct vsock_conn, link);

		if (c->buf_len > VSOCK_BUFFER || c->received - c->forwarded > VSOCK_BUFFER)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { .host = the_host() };
	size_t i;

	if (!size)
		return 0;
	for (i = 0; i < MAX_HOSTS; i++)
		r.fd[i] = -1;
	r.d = r.host->d;
	r.d.features = fuzz_ring_features(data[0]);

	fuzz_fill_memory(r.d.mem, RAM, data, size);
	make_device(&r);
	fuzz_device_start(&r.d);
	for (i = 1; i + 1 < size && data[i]; i += 2) {
		step(&r, data[i], data[i + 1]);
		check_bounds(&r);
	}
	fuzz_device_pause(&r.d);
	virtio_free(r.d.dev);
	for (i = 0; i < MAX_HOSTS; i++)
		if (r.fd[i] >= 0)
			close(r.fd[i]);
	close(r.broker_fd);
	/* What was not accepted must not wait for the next one. */
	while ((r.fd[0] = accept4(r.host->port_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(r.fd[0]);
	return 0;
}
