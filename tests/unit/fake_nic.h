/*
 * A network device with its driver on one side and its peer on the other, for unit
 * tests of devices: one process, one thread, a socket between device and peer.
 *
 *	f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
 *	fake_nic_post(f, 4, 1600, ids, gpas);
 *	fake_nic_peer_sends(f, header, frame, sizeof(frame));
 *	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
 *	fake_nic_end(f);
 *
 * All of it asserts (cmocka) that each step succeeds.
 */
#ifndef WISP_TESTS_FAKE_NIC_H
#define WISP_TESTS_FAKE_NIC_H

#include <linux/virtio_net.h>

#include "devices/net.h"
#include "tests/unit/fake_driver.h"
#include "tests/unit/fake_variant.h"

/* Queues, of a driver that knows one pair. */
#define FAKE_NIC_RX   0
#define FAKE_NIC_TX   1
#define FAKE_NIC_CTRL 2

#define FAKE_NIC_PAIRS 3 /* at most */

/* All of the device's own; the rings' are the variant's to choose. */
#define FAKE_NIC_FEATURES (((1ull << 28) - 1) | 1ull << VIRTIO_NET_F_SPEED_DUPLEX)

struct fake_nic {
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
	struct net *net;
	int peer;		  /* of the first pair of queues; -1: closed */
	int more[FAKE_NIC_PAIRS]; /* of the others, in [1] and on; or 0 */
};

extern const uint8_t fake_nic_mac[6];

/* The driver knows @features of the device; @mtu 0: not told. */
struct fake_nic *fake_nic_begin(const struct fake_variant *v, uint64_t features, uint16_t mtu);
struct fake_nic *fake_nic_begin_pairs(const struct fake_variant *v, uint64_t features,
				      uint16_t mtu, unsigned num_pairs);
void fake_nic_end(struct fake_nic *f);

/* ---- the driver's side ---- */

/* @num receive buffers of @len bytes; their ids and addresses go to the arrays. */
void fake_nic_post(struct fake_nic *f, unsigned num, uint32_t len, int *ids, uint64_t *gpas);

void fake_nic_transmit(struct fake_nic *f, const struct virtio_net_hdr_v1 *h, const uint8_t *frame,
		       uint32_t len);

/* What the configuration space says of the link. */
uint16_t fake_nic_status(struct fake_nic *f);

/* The answer to a command on the control queue, which is @queue. */
uint8_t fake_nic_control_on(struct fake_nic *f, unsigned queue, uint8_t class, uint8_t cmd,
			    const void *data, uint32_t len);
uint8_t fake_nic_control(struct fake_nic *f, uint8_t class, uint8_t cmd, const uint8_t *data,
			 uint32_t len);

/* ---- the peer's side ---- */

/* Bytes that tell where in which frame they are. */
void fake_nic_fill(uint8_t *frame, size_t len, unsigned seed);

void fake_nic_peer_sends(struct fake_nic *f, struct virtio_net_hdr_v1 h, const uint8_t *frame,
			 size_t len);

/* The next frame that reached the peer, or -1 when there is none. */
ssize_t fake_nic_peer_gets(struct fake_nic *f, struct virtio_net_hdr_v1 *h, uint8_t *frame,
			   size_t room);

#endif
