/*
 * A vsock device between its driver and a host, for unit tests: one process, one thread. The host
 * connects to the device's socket, or listens where the guest's port 1234 leads; the broker, which
 * opens sockets for the device, is served whenever the loop is turned.
 *
 *	fake_vsock_begin(&f);
 *	fd = fake_vsock_open_from_guest(&f, 9000);
 *	fake_vsock_send_data(&f, 9000, 1234, "hello", 5);
 *	assert_int_equal(read(fd, text, sizeof(text)), 5);
 *	fake_vsock_end(&f);
 *
 * All of it asserts (cmocka) that each step succeeds.
 */
#ifndef WISP_TESTS_FAKE_VSOCK_H
#define WISP_TESTS_FAKE_VSOCK_H

#include <linux/virtio_vsock.h>

#include "tests/unit/fake_driver.h"

/* Queues. */
enum { FAKE_VSOCK_RX, FAKE_VSOCK_TX, FAKE_VSOCK_EVENT };

#define FAKE_VSOCK_CID	     7u
#define FAKE_VSOCK_HOST	     2u
#define FAKE_VSOCK_HEADER    sizeof(struct virtio_vsock_hdr)
#define FAKE_VSOCK_PAGE	     4096u    /* a receive buffer */
#define FAKE_VSOCK_BUFFER    0x20000u /* of one connection, in the device */
#define FAKE_VSOCK_GUEST_BUF 0x10000u /* what the driver here promises to keep */
#define FAKE_VSOCK_RX_PAGES  16

/* Who connects to it reads "notice 1", the next one "notice 2", and so on. */
#define FAKE_VSOCK_NOTICE_PORT 4242u

struct fake_vsock {
	struct fake_vm vm;
	struct fake_driver d;
	char path[64], port_path[80];
	int listen_fd;		     /* the host's listener for port 1234 */
	int broker_fd;		     /* the broker's end */
	uint64_t rx[VIRTQ_MAX_SIZE]; /* receive buffers by id */
	uint64_t tx;		     /* one packet at a time */
	uint32_t forwarded;	     /* of what came, as told in our headers */
	unsigned notices;
};

/* Ready to go, with FAKE_VSOCK_RX_PAGES receive buffers. */
void fake_vsock_begin(struct fake_vsock *f);

/* Without receive buffers: fake_vsock_add_buffer() adds one, unannounced. */
void fake_vsock_begin_with(struct fake_vsock *f, enum loop_backend backend,
			   const struct fake_driver_config *config);
void fake_vsock_add_buffer(struct fake_vsock *f);
void fake_vsock_end(struct fake_vsock *f);

/* Turn the loop, and be the broker, until there is nothing more to do. */
void fake_vsock_settle(struct fake_vsock *f);

/* ---- the host's side; sockets are the caller's, and do not block ---- */

/* Connect to the device's socket. */
int fake_vsock_dial(const char *path);

/* A connection by the guest, from @port to 1234; returns the host's end of it. */
int fake_vsock_open_from_guest(struct fake_vsock *f, uint32_t port);

/* One by the host, to @port of the guest; @ret_port is the device's. */
int fake_vsock_open_from_host(struct fake_vsock *f, uint32_t port, uint32_t *ret_port);

/* Has the other side said that nothing more will come? */
bool fake_vsock_at_end(int fd);

/* ---- the driver's side ---- */

/* A header from the guest to the host, to be changed and given to fake_vsock_send_packet(). */
struct virtio_vsock_hdr fake_vsock_packet(uint16_t op, uint32_t guest_port, uint32_t host_port);

/* Send what is given, right or wrong, and wait until the device is done with it. */
void fake_vsock_send_packet(struct fake_vsock *f, const struct virtio_vsock_hdr *h,
			    const void *data, uint32_t len);

void fake_vsock_send_op(struct fake_vsock *f, uint16_t op, uint32_t guest_port,
			uint32_t host_port);
void fake_vsock_send_data(struct fake_vsock *f, uint32_t guest_port, uint32_t host_port,
			  const void *data, uint32_t len);
void fake_vsock_send_shutdown(struct fake_vsock *f, uint32_t guest_port, uint32_t host_port,
			      uint32_t flags);

/*
 * The next packet for the guest: its header, and its bytes to @data (FAKE_VSOCK_PAGE of room) or
 * nowhere; its buffer goes back to the ring. False: there is none.
 */
bool fake_vsock_receive(struct fake_vsock *f, struct virtio_vsock_hdr *h, void *data);

/* The next packet, which is an @op. */
struct virtio_vsock_hdr fake_vsock_expect(struct fake_vsock *f, uint16_t op);
void fake_vsock_expect_silence(struct fake_vsock *f);

#endif
