#include "tests/unit/fake_nic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_net.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"

const uint8_t fake_nic_mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

struct fake_nic *fake_nic_begin_pairs(const struct fake_variant *v, uint64_t features,
				      uint16_t mtu, unsigned num_pairs)
{
	struct fake_nic *f = calloc(1, sizeof(*f));
	struct fake_driver_config driver = v->driver;
	struct virtio_params params;
	struct net *nets[FAKE_NIC_PAIRS];
	int pair[2];

	fake_vm_init(&f->vm, v->backend);
	for (unsigned i = 0; i < num_pairs; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
		assert_int_equal(net_open_socket(&nets[i], pair[0], fake_nic_mac, NULL), 0);
		net_attach(nets[i], f->vm.loop);
		f->more[i] = pair[1];
	}
	f->peer = f->more[0];
	f->net = nets[0];
	f->net->mtu = mtu;
	params = fake_vm_params(&f->vm, "net0");
	assert_int_equal(virtio_net_create(&f->dev, &params, nets, num_pairs, NULL), 0);
	driver.features = features;
	fake_driver_init(&f->d, &f->vm, f->dev, &driver);
	return f;
}

struct fake_nic *fake_nic_begin(const struct fake_variant *v, uint64_t features, uint16_t mtu)
{
	return fake_nic_begin_pairs(v, features, mtu, 1);
}

void fake_nic_end(struct fake_nic *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	if (f->peer >= 0)
		close(f->peer);
	for (unsigned i = 1; i < FAKE_NIC_PAIRS; i++) {
		if (f->more[i])
			close(f->more[i]);
	}
	free(f);
}

/* ---- the driver's side ---- */

void fake_nic_post(struct fake_nic *f, unsigned num, uint32_t len, int *ids, uint64_t *gpas)
{
	for (unsigned i = 0; i < num; i++) {
		struct fake_buf buf = { fake_alloc(&f->vm, len, 4), len, true };

		ids[i] = fake_add(&f->d, FAKE_NIC_RX, &buf, 1);
		assert_true(ids[i] >= 0);
		gpas[i] = buf.gpa;
	}
	fake_kick(&f->d, FAKE_NIC_RX);
	fake_run(&f->vm);
}

void fake_nic_transmit(struct fake_nic *f, const struct virtio_net_hdr_v1 *h, const uint8_t *frame,
		       uint32_t len)
{
	uint64_t gpa = fake_alloc(&f->vm, sizeof(*h) + len, 1);
	struct fake_buf buf = { gpa, sizeof(*h) + len, false };
	uint8_t *p = fake_ptr(&f->vm, gpa, buf.len);

	memcpy(p, h, sizeof(*h));
	memcpy(p + sizeof(*h), frame, len);
	assert_true(fake_add(&f->d, FAKE_NIC_TX, &buf, 1) >= 0);
	fake_kick(&f->d, FAKE_NIC_TX);
}

uint16_t fake_nic_status(struct fake_nic *f)
{
	uint16_t v;

	fake_config_read(&f->d, offsetof(struct virtio_net_config, status), &v, sizeof(v));
	return le16toh(v);
}

uint8_t fake_nic_control_on(struct fake_nic *f, unsigned queue, uint8_t class, uint8_t cmd,
			    const void *data, uint32_t len)
{
	uint64_t gpa = fake_alloc(&f->vm, 2 + len + 1, 1);
	struct fake_buf bufs[] = { { gpa, 2, false },
				   { gpa + 2, len, false },
				   { gpa + 2 + len, 1, true } };
	uint8_t *p = fake_ptr(&f->vm, gpa, 3 + len);
	struct fake_used used;

	p[0] = class;
	p[1] = cmd;
	p[2 + len] = 0x55;
	if (len)
		memcpy(p + 2, data, len);
	else
		bufs[1] = bufs[2];
	fake_add(&f->d, queue, bufs, len ? 3 : 2);
	fake_kick(&f->d, queue);
	assert_true(fake_wait_used(&f->d, queue, &used));
	assert_int_equal(used.len, 1);
	return p[2 + len];
}

uint8_t fake_nic_control(struct fake_nic *f, uint8_t class, uint8_t cmd, const uint8_t *data,
			 uint32_t len)
{
	return fake_nic_control_on(f, FAKE_NIC_CTRL, class, cmd, data, len);
}

/* ---- the peer's side ---- */

void fake_nic_fill(uint8_t *frame, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		frame[i] = i * 7 + i / 256 + seed;
}

void fake_nic_peer_sends(struct fake_nic *f, struct virtio_net_hdr_v1 h, const uint8_t *frame,
			 size_t len)
{
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)frame, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	assert_int_equal(sendmsg(f->peer, &msg, 0), sizeof(h) + len);
}

ssize_t fake_nic_peer_gets(struct fake_nic *f, struct virtio_net_hdr_v1 *h, uint8_t *frame,
			   size_t room)
{
	struct iovec iov[2] = { { h, sizeof(*h) }, { frame, room } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	fake_run(&f->vm);
	do
		n = recvmsg(f->peer, &msg, 0);
	while (n == sizeof(struct net_hello));
	return n < 0 ? -1 : n - (ssize_t)sizeof(*h);
}
