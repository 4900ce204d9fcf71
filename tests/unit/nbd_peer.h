/*
 * What a test says and hears on the wire when it is the NBD server of a disk, as the protocol's
 * description has it. Numbers are big-endian there.
 */
#ifndef WISP_TESTS_NBD_PEER_H
#define WISP_TESTS_NBD_PEER_H

#include <stdint.h>

#define NBD_PEER_REPLY 0x67446698u /* magic of a simple reply */

/* What the disk sends; the cookie is its own and comes back as it is. */
struct nbd_peer_head {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

/* Answer the request of @cookie; @magic as it should be is NBD_PEER_REPLY. */
void nbd_peer_reply(int fd, uint32_t magic, uint32_t error, uint64_t cookie);

#endif
