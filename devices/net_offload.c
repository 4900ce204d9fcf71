#include "devices/net_offload.h"

#include <errno.h>

uint16_t net_checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t sum = 0;
	uint32_t word;
	uint16_t last = 0;

	/* Sums of 32-bit words fold to the same value: the carries are multiples of 2^16 - 1. */
	for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		sum += word;
	}
	if (len >= sizeof(last)) {
		memcpy(&last, p, sizeof(last));
		sum += last;
		p += sizeof(last);
		len -= sizeof(last);
	}
	if (len) {
		last = 0;
		memcpy(&last, p, 1);
		sum += last;
	}
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

int net_fill_checksum(uint8_t *frame, size_t len, const struct virtio_net_hdr_v1 *hdr)
{
	size_t start = le16toh(hdr->csum_start), at = start + le16toh(hdr->csum_offset);
	uint16_t sum;

	if (!(hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return 0;
	if (start > len || at + sizeof(sum) > len)
		return -EBADMSG;
	/* The driver has put the pseudo header's sum where the checksum goes. */
	sum = net_checksum(frame + start, len - start);
	/*
	 * RFC 768: a UDP checksum of 0 means none; all ones is the same number. TCP does not mind.
	 */
	if (sum == 0)
		sum = 0xffff;
	memcpy(frame + at, &sum, sizeof(sum));
	return 0;
}
