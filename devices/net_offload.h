/*
 * What a virtio-net header leaves to do before a frame is as it would be on a
 * wire. For peers that only know such frames. No state, any thread.
 */
#ifndef WISP_DEVICES_NET_OFFLOAD_H
#define WISP_DEVICES_NET_OFFLOAD_H

#include <linux/virtio_net.h>

#include "vmm/core/util.h"

/*
 * Fill in the checksum that @hdr asks for, over @frame's @len bytes (Ethernet
 * header first, without @hdr). Both come from a guest. -EBADMSG when @hdr
 * points outside of the frame. Virtio 1.2, 5.1.6.2.
 */
int net_fill_checksum(uint8_t *frame, size_t len, const struct virtio_net_hdr_v1 *hdr);

/* The Internet checksum (RFC 1071) of @len bytes, in memory order. */
uint16_t net_checksum(const void *data, size_t len);

#endif
