/*
 * The guest's side of user networking: a SEQPACKET socket on which each message
 * is a virtio-net header and a frame (devices/net.h), several of them a system call.
 *
 * What is sent waits until guest_link_flush(), at the end of a turn: TCP segments
 * that go on where the last one ended become one of up to 64 KiB, which costs
 * the guest no more than one of them, and all goes in one call. One thread.
 */
#ifndef WISP_HELPERS_GUEST_LINK_H
#define WISP_HELPERS_GUEST_LINK_H

#include <linux/virtio_net.h>

#include "vmm/core/util.h"

struct guest_link;

/* On the socket @fd, which is borrowed. NULL: no memory. */
struct guest_link *guest_link_create(int fd);
void guest_link_free(struct guest_link *l);

/* The other side is closed. */
bool guest_link_ended(const struct guest_link *l);

/*
 * forget(@arg) when the guest went back to an earlier moment (struct net_forget), within
 * guest_link_receive() and in the order of its frames. What waits to be sent is dropped first, and
 * the guest gets its answer afterwards.
 */
void guest_link_on_forget(struct guest_link *l, void (*forget)(void *arg), void *arg);

/*
 * A frame of up to NET_MAX_FRAME bytes, its checksums filled in, for the guest; it is copied. A
 * guest that takes none for a while loses it, as on a wire.
 */
void guest_link_send(struct guest_link *l, const void *frame, size_t len);
void guest_link_flush(struct guest_link *l);

/*
 * Take what the guest has sent, a burst at most: take(@arg) may write to the frame, and send.
 * No header has been looked at.
 */
void guest_link_receive(struct guest_link *l,
			void (*take)(void *arg, const struct virtio_net_hdr_v1 *hdr, uint8_t *frame,
				     size_t len),
			void *arg);

#endif
