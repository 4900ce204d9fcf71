#include "tests/unit/fake_vsock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/vsock_broker.h"
#include "virtio/virtio_devices.h"

/* ---- the host ---- */

static int listen_at(const char *path)
{
	struct error err = { 0 };
	int fd = vsock_listen(path, "", &err);

	assert_true(fd >= 0);
	return fd;
}

int fake_vsock_dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* ---- life ---- */

static size_t write_notice(void *ctx, char *text, size_t size)
{
	struct fake_vsock *f = ctx;

	return snprintf(text, size, "notice %u", ++f->notices);
}

static struct virtio_device *device(struct fake_vsock *f)
{
	const struct virtio_vsock_notice notice = { FAKE_VSOCK_NOTICE_PORT, write_notice, f };
	struct virtio_params params = fake_vm_params(&f->vm, "vsock0");
	struct virtio_device *dev;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	f->broker_fd = pair[0];
	assert_int_equal(virtio_vsock_create(&dev, &params, FAKE_VSOCK_CID, listen_at(f->path),
					     pair[1], &notice, NULL),
			 0);
	return dev;
}

void fake_vsock_begin_with(struct fake_vsock *f, enum loop_backend backend,
			   const struct fake_driver_config *config)
{
	memset(f, 0, sizeof(*f));
	snprintf(f->path, sizeof(f->path), "/tmp/wisp-test-vsock-%d", getpid());
	snprintf(f->port_path, sizeof(f->port_path), "%s_1234", f->path);
	unlink(f->path);
	unlink(f->port_path);
	f->listen_fd = listen_at(f->port_path);
	fake_vm_init(&f->vm, backend);
	fake_driver_init(&f->d, &f->vm, device(f), config);
	f->tx = fake_alloc(&f->vm, FAKE_VSOCK_HEADER + 0x11000, 16);
}

void fake_vsock_add_buffer(struct fake_vsock *f)
{
	struct fake_buf buf = { fake_alloc(&f->vm, FAKE_VSOCK_PAGE, 16), FAKE_VSOCK_PAGE, true };
	int id = fake_add(&f->d, FAKE_VSOCK_RX, &buf, 1);

	assert_true(id >= 0);
	f->rx[id] = buf.gpa;
}

void fake_vsock_begin(struct fake_vsock *f)
{
	fake_vsock_begin_with(f, LOOP_AUTO, &(struct fake_driver_config){ .packed = true });
	for (int i = 0; i < FAKE_VSOCK_RX_PAGES; i++)
		fake_vsock_add_buffer(f);
	fake_kick(&f->d, FAKE_VSOCK_RX);
}

void fake_vsock_end(struct fake_vsock *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	close(f->listen_fd);
	close(f->broker_fd);
	unlink(f->path);
	unlink(f->port_path);
}

void fake_vsock_settle(struct fake_vsock *f)
{
	for (int i = 0; i < 6; i++) {
		loop_run_once(f->vm.loop, NSEC_PER_MSEC);
		fake_run(&f->vm);
		vsock_broker_serve(f->broker_fd, f->path);
	}
}

/* ---- the driver ---- */

struct virtio_vsock_hdr fake_vsock_packet(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	return (struct virtio_vsock_hdr){
		.src_cid = FAKE_VSOCK_CID,
		.dst_cid = FAKE_VSOCK_HOST,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = FAKE_VSOCK_GUEST_BUF,
	};
}

void fake_vsock_send_packet(struct fake_vsock *f, const struct virtio_vsock_hdr *h,
			    const void *data, uint32_t len)
{
	struct fake_buf bufs[2] = { { f->tx, FAKE_VSOCK_HEADER, false },
				    { f->tx + FAKE_VSOCK_HEADER, len, false } };
	struct fake_used used;

	memcpy(fake_ptr(&f->vm, f->tx, FAKE_VSOCK_HEADER), h, FAKE_VSOCK_HEADER);
	if (len)
		memcpy(fake_ptr(&f->vm, f->tx + FAKE_VSOCK_HEADER, len), data, len);
	assert_true(fake_add(&f->d, FAKE_VSOCK_TX, bufs, len ? 2 : 1) >= 0);
	fake_kick(&f->d, FAKE_VSOCK_TX);
	assert_true(fake_wait_used(&f->d, FAKE_VSOCK_TX, &used));
}

void fake_vsock_send_op(struct fake_vsock *f, uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	struct virtio_vsock_hdr h = fake_vsock_packet(op, guest_port, host_port);

	h.fwd_cnt = f->forwarded;
	fake_vsock_send_packet(f, &h, NULL, 0);
}

void fake_vsock_send_data(struct fake_vsock *f, uint32_t guest_port, uint32_t host_port,
			  const void *data, uint32_t len)
{
	struct virtio_vsock_hdr h = fake_vsock_packet(VIRTIO_VSOCK_OP_RW, guest_port, host_port);

	h.len = len;
	h.fwd_cnt = f->forwarded;
	fake_vsock_send_packet(f, &h, data, len);
}

void fake_vsock_send_shutdown(struct fake_vsock *f, uint32_t guest_port, uint32_t host_port,
			      uint32_t flags)
{
	struct virtio_vsock_hdr h =
		fake_vsock_packet(VIRTIO_VSOCK_OP_SHUTDOWN, guest_port, host_port);

	h.flags = flags;
	h.fwd_cnt = f->forwarded;
	fake_vsock_send_packet(f, &h, NULL, 0);
}

bool fake_vsock_receive(struct fake_vsock *f, struct virtio_vsock_hdr *h, void *data)
{
	struct fake_used used;
	struct fake_buf buf;
	uint8_t *p;
	int id;

	fake_vsock_settle(f);
	if (!fake_take_used(&f->d, FAKE_VSOCK_RX, &used))
		return false;
	buf = (struct fake_buf){ f->rx[used.id], FAKE_VSOCK_PAGE, true };
	p = fake_ptr(&f->vm, buf.gpa, FAKE_VSOCK_PAGE);
	memcpy(h, p, FAKE_VSOCK_HEADER);
	assert_int_equal(used.len, FAKE_VSOCK_HEADER + h->len);
	assert_int_equal(h->src_cid, FAKE_VSOCK_HOST);
	assert_int_equal(h->dst_cid, FAKE_VSOCK_CID);
	if (data)
		memcpy(data, p + FAKE_VSOCK_HEADER, h->len);
	id = fake_add(&f->d, FAKE_VSOCK_RX, &buf, 1);
	assert_true(id >= 0);
	f->rx[id] = buf.gpa;
	fake_kick(&f->d, FAKE_VSOCK_RX);
	return true;
}

struct virtio_vsock_hdr fake_vsock_expect(struct fake_vsock *f, uint16_t op)
{
	struct virtio_vsock_hdr h;

	assert_true(fake_vsock_receive(f, &h, NULL));
	assert_int_equal(h.op, op);
	return h;
}

void fake_vsock_expect_silence(struct fake_vsock *f)
{
	struct virtio_vsock_hdr h;

	assert_false(fake_vsock_receive(f, &h, NULL));
}

int fake_vsock_open_from_guest(struct fake_vsock *f, uint32_t port)
{
	int fd;

	fake_vsock_send_op(f, VIRTIO_VSOCK_OP_REQUEST, port, 1234);
	fake_vsock_expect(f, VIRTIO_VSOCK_OP_RESPONSE);
	fd = accept4(f->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

int fake_vsock_open_from_host(struct fake_vsock *f, uint32_t port, uint32_t *ret_port)
{
	char hello[32], answer[32] = "", expected[32];
	int fd = fake_vsock_dial(f->path);
	struct virtio_vsock_hdr h;

	snprintf(hello, sizeof(hello), "CONNECT %u\n", port);
	assert_int_equal(write(fd, hello, strlen(hello)), strlen(hello));
	h = fake_vsock_expect(f, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, port);
	*ret_port = h.src_port;
	fake_vsock_send_op(f, VIRTIO_VSOCK_OP_RESPONSE, port, h.src_port);
	fake_vsock_settle(f);
	snprintf(expected, sizeof(expected), "OK %u\n", h.src_port);
	assert_true(read(fd, answer, sizeof(answer) - 1) > 0);
	assert_string_equal(answer, expected);
	return fd;
}

bool fake_vsock_at_end(int fd)
{
	char c;

	return read(fd, &c, 1) == 0;
}
