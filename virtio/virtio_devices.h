/*
 * How each virtio device is made. A device owns its back end and is freed by
 * virtio_free(). Called before the machine runs, on any thread.
 */
#ifndef WISP_VIRTIO_DEVICES_H
#define WISP_VIRTIO_DEVICES_H

#include "devices/block.h"
#include "devices/chardev.h"
#include "devices/fs_client.h"
#include "devices/net.h"
#include "virtio/virtio.h"
#include "vmm/core/rate.h"

/*
 * virtio 1.2, 5.2. @serial: up to 20 bytes, may be NULL. @block, owned from success on, is
 * attached to the loop of one queue; for queues on other loops it must be possible to share it.
 */
int virtio_blk_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct block *block, const char *serial, struct error *err);

/*
 * Resize the image and tell the driver. 0, or -errno: -EOPNOTSUPP where it cannot be done,
 * -EINVAL for a size that is no number of sectors. On the device's loop.
 */
int virtio_blk_resize(struct virtio_device *dev, uint64_t size_bytes);

/* From now on; zero rates lift the limit. Any thread. */
void virtio_blk_limit(struct virtio_device *dev, const struct rate_limits *limits);
void virtio_blk_limits(struct virtio_device *dev, struct rate_limits *ret_limits);

/* How many bytes the guest sees now. */
uint64_t virtio_blk_size(const struct virtio_device *dev);

/* The image itself, whose loop may be another one; the device's. */
struct block *virtio_blk_image(const struct virtio_device *dev);

/* virtio 1.2, 5.1. A net for each pair of queues, up to NET_MAX_PAIRS; owned on success. */
int virtio_net_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct net *const *pairs, unsigned num_pairs, struct error *err);

/*
 * From now on at most @rx to the guest and @tx from it; NULL leaves a way as it is. On the device's
 * loop.
 */
void virtio_net_limit(struct virtio_device *dev, const struct rate_limits *rx,
		      const struct rate_limits *tx);
void virtio_net_limits(struct virtio_device *dev, struct rate_limits *ret_rx,
		       struct rate_limits *ret_tx);

/* Pull the cable out, or put it back; the driver is told. On the device's loop. */
void virtio_net_plug(struct virtio_device *dev, bool plugged);
bool virtio_net_has_link(const struct virtio_device *dev);

/* The first of them, for those who know its kind. On the device's loop. */
struct net *virtio_net_end(struct virtio_device *dev);

struct virtio_console_port {
	const char *name;	 /* /dev/virtio-ports/NAME; NULL for a plain console */
	bool is_console;	 /* hvcN */
	struct chardev *chardev; /* borrowed */
};

/* virtio 1.2, 5.3, multiport. @ports are copied. */
int virtio_console_create(struct virtio_device **ret_dev, const struct virtio_params *common,
			  const struct virtio_console_port *ports, unsigned num_ports,
			  struct error *err);

/* virtio 1.2, 5.11. @client, which it owns from then on, leads to the directory; @tag names it. */
int virtio_fs_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		     struct fs_client *client, const char *tag, struct error *err);

/*
 * Pass on what the driver has queued. True: somebody on the host does not take it yet, and turning
 * the loop will go on. On the loop, when no vCPU runs any more.
 */
bool virtio_console_flush(struct virtio_device *dev);

/* virtio 1.2, 5.4: bytes of getrandom(2). */
int virtio_rng_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct error *err);

/* From now on: an operation is a buffer filled. On the device's loop. */
void virtio_rng_limit(struct virtio_device *dev, const struct rate_limits *limits);
void virtio_rng_limits(struct virtio_device *dev, struct rate_limits *ret_limits);

#define VIRTIO_PMEM_ALIGN (2 * MiB) /* of the address and the size of an area */

/* What the guest sees as memory, and where it is in ours: nothing but the mapping itself. */
struct virtio_pmem_area {
	uint64_t gpa, size; /* multiples of VIRTIO_PMEM_ALIGN */
	uint8_t *host;
};

/*
 * virtio 1.2, 5.19. @fd, a regular file and the device's own from success on, is to appear at @gpa,
 * a multiple of VIRTIO_PMEM_ALIGN: it is mapped shared, and whoever makes the device gives the
 * area to the hypervisor. A file of another size goes on as zeroes that are not kept. Errors
 * say what is wrong with it, not which file it is.
 */
int virtio_pmem_create(struct virtio_device **ret_dev, const struct virtio_params *common, int fd,
		       uint64_t gpa, bool read_only, struct error *err);
void virtio_pmem_area(const struct virtio_device *dev, struct virtio_pmem_area *ret_area);

/*
 * From now on: an operation is a flush, of as many bytes as the file has, whatever number of
 * requests it answers. On the device's loop.
 */
void virtio_pmem_limit(struct virtio_device *dev, const struct rate_limits *limits);
void virtio_pmem_limits(struct virtio_device *dev, struct rate_limits *ret_limits);

/*
 * What the guest reads at a port of the host that the device itself serves: for each connection
 * @write puts up to @size bytes into @text, on the device's loop, and returns how many. The
 * connection stays open behind them until either side ends it, as the device does, like all
 * others, when the guest becomes another one.
 */
#define VIRTIO_VSOCK_NOTICE_BYTES 256
struct virtio_vsock_notice {
	uint32_t port;
	size_t (*write)(void *ctx, char *text, size_t size); /* NULL: there is no such port */
	void *ctx;
};

/*
 * virtio 1.2, 5.10: stream sockets to the host, which is CID 2. @cid is the
 * guest's, 3 or more. Connections of programs on the host come in at the
 * listening UNIX socket @listen_fd; for the guest's own a peer at @broker_fd is
 * asked (devices/vsock_broker.h), but for those to the port of @notice. Either descriptor may be
 * -1; both are the device's from a success on.
 */
int virtio_vsock_create(struct virtio_device **ret_dev, const struct virtio_params *common,
			uint64_t cid, int listen_fd, int broker_fd,
			const struct virtio_vsock_notice *notice, struct error *err);

/*
 * Connect the stream socket @fd to @port of the guest, as if it had said CONNECT:
 * its peer hears "OK PORT\n", or the end. Becomes the device's, also when that
 * fails. -ENOTCONN: the guest has no driver now. On the device's loop.
 */
int virtio_vsock_connect(struct virtio_device *dev, int fd, uint32_t port);

#endif
