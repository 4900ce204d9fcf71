/*
 * TCP segments of up to 64 KiB, as virtio and Linux pass them about, and the frames
 * of a wire: one cut into the others, and the others joined. For those between a peer
 * that knows long segments and one that does not. No threads.
 */
#ifndef WISP_DEVICES_NET_TSO_H
#define WISP_DEVICES_NET_TSO_H

#include <linux/virtio_net.h>

#include "devices/net.h"

/* Of Ethernet, IP and TCP together, with all options that fit. */
#define NET_TSO_MAX_HEADERS 192u

/* Segments that one frame may be cut into: 64 KiB in the 536 bytes that all hosts take. */
#define NET_TSO_MAX_SEGMENTS 123u

/*
 * Cut the TCP segment @frame (@len bytes from the Ethernet header on) into
 * frames as on a wire, and emit(@arg) each in order, checksums filled in. Frame and
 * header come from a guest; @frame is overwritten. -EBADMSG, with nothing emitted,
 * when it is no TCP segment or would be cut too small.
 */
int net_tso_cut(uint8_t *frame, size_t len, const struct virtio_net_hdr_v1 *hdr,
		void (*emit)(void *arg, uint8_t *segment, size_t len), void *arg);

/* Where the parts of a frame with a TCP segment begin. */
struct net_tcp_frame {
	bool v6;
	size_t tcp, payload;
};

/* Zero-initialised: empty. */
struct net_tso_join {
	struct net_tcp_frame t;
	size_t len;	      /* of @frame; 0: empty */
	size_t size;	      /* payload of each segment but the last */
	uint32_t next;	      /* sequence number of what would come next */
	bool closed;	      /* nothing more fits */
	uint8_t frame[65536]; /* what an IP packet can be, at most, with its Ethernet header */
};

/*
 * Append @frame, whose checksums are right, to what @j holds: true when it is a
 * segment that goes on where the last one ended, or the first. Else it has been left
 * alone, and net_tso_joined() comes before it.
 */
bool net_tso_join(struct net_tso_join *j, const uint8_t *frame, size_t len);

/* The frame in @j->frame is complete: its length (0: there is none) and header. Empties @j. */
size_t net_tso_joined(struct net_tso_join *j, struct virtio_net_hdr_v1 *ret_hdr);

#endif
