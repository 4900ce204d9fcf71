#include "devices/net_tso.h"

#include <errno.h>
#include <net/ethernet.h>
#include <netinet/in.h>

#include "devices/net_offload.h"

#define ETH_LEN 14u
#define IP4_LEN 20u
#define IP6_LEN 40u
#define TCP_LEN 20u

/* Bits of a TCP header's byte 13. */
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_ACK = 0x10, TCP_CWR = 0x80 };

static uint16_t get_be16(const uint8_t *p)
{
	return p[0] << 8 | p[1];
}

static uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)get_be16(p) << 16 | get_be16(p + 2);
}

static void put_be16(uint8_t *p, uint16_t v)
{
	p[0] = v >> 8;
	p[1] = v;
}

static void put_be32(uint8_t *p, uint32_t v)
{
	put_be16(p, v >> 16);
	put_be16(p + 2, v);
}

/* False for what is not TCP in IPv4 without fragments, or in IPv6 without extensions. */
static bool parse_tcp(struct net_tcp_frame *t, const uint8_t *frame, size_t len)
{
	const uint8_t *ip = frame + ETH_LEN;
	uint8_t protocol;

	if (len < ETH_LEN + IP4_LEN)
		return false;
	t->v6 = get_be16(frame + 12) == ETHERTYPE_IPV6;
	if (t->v6) {
		t->tcp = ETH_LEN + IP6_LEN;
		if (len < t->tcp)
			return false;
		protocol = ip[6];
	} else if (get_be16(frame + 12) == ETHERTYPE_IP && (get_be16(ip + 6) & 0x3fff) == 0) {
		t->tcp = ETH_LEN + (ip[0] & 15) * 4u;
		protocol = ip[9];
	} else {
		return false;
	}
	if (protocol != IPPROTO_TCP || t->tcp < ETH_LEN + IP4_LEN || len < t->tcp + TCP_LEN)
		return false;
	t->payload = t->tcp + (frame[t->tcp + 12] >> 4) * 4u;
	return t->payload >= t->tcp + TCP_LEN && t->payload <= len;
}

/* The folded sum of the pseudo header for @len bytes of TCP, not complemented. */
static uint16_t pseudo_sum(const struct net_tcp_frame *t, const uint8_t *frame, size_t len)
{
	const uint8_t *ip = frame + ETH_LEN;
	uint8_t pseudo[40] = { 0 };
	size_t addresses = t->v6 ? 32 : 8;

	memcpy(pseudo, ip + (t->v6 ? 8 : 12), addresses);
	put_be32(pseudo + addresses, len);
	pseudo[addresses + 7] = IPPROTO_TCP;
	return ~net_checksum(pseudo, addresses + 8);
}

/* Lengths and sums of the headers in @head (up to the payload) for @payload bytes behind them. */
static void fill_lengths(const struct net_tcp_frame *t, uint8_t *head, size_t payload)
{
	size_t tcp_bytes = t->payload - t->tcp + payload;
	uint8_t *ip = head + ETH_LEN;
	uint16_t sum;

	if (t->v6) {
		put_be16(ip + 4, tcp_bytes);
	} else {
		put_be16(ip + 2, t->tcp - ETH_LEN + tcp_bytes);
		memset(ip + 10, 0, 2);
		sum = net_checksum(ip, t->tcp - ETH_LEN);
		memcpy(ip + 10, &sum, sizeof(sum));
	}
	/* What a driver leaves there; the rest is net_fill_checksum()'s. */
	sum = pseudo_sum(t, head, tcp_bytes);
	memcpy(head + t->tcp + 16, &sum, sizeof(sum));
}

/* ---- cutting ---- */

int net_tso_cut(uint8_t *frame, size_t len, const struct virtio_net_hdr_v1 *hdr,
		void (*emit)(void *arg, uint8_t *segment, size_t len), void *arg)
{
	size_t size = le16toh(hdr->gso_size), at;
	uint8_t head[NET_TSO_MAX_HEADERS], *start;
	struct net_tcp_frame t;
	uint32_t sequence;
	uint16_t id;
	uint8_t flags;

	if (!parse_tcp(&t, frame, len) || t.payload > sizeof(head) || !size ||
	    (len - t.payload) / size > NET_TSO_MAX_SEGMENTS)
		return -EBADMSG;
	memcpy(head, frame, t.payload);
	sequence = get_be32(head + t.tcp + 4);
	id = t.v6 ? 0 : get_be16(head + ETH_LEN + 4);
	flags = head[t.tcp + 13];
	for (at = t.payload; at < len; at += size) {
		const struct virtio_net_hdr_v1 fill = {
			.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
			.csum_start = htole16(t.tcp),
			.csum_offset = htole16(16),
		};
		size_t part = MIN(size, len - at);

		/* Right in front of its part of the payload, over what has been sent. */
		start = frame + at - t.payload;
		memcpy(start, head, t.payload);
		put_be32(start + t.tcp + 4, sequence);
		if (!t.v6)
			put_be16(start + ETH_LEN + 4, id++);
		/* FIN and PSH are the last one's, CWR the first one's. */
		start[t.tcp + 13] = flags & ~((at + part < len ? TCP_FIN | TCP_PSH : 0) |
					      (at > t.payload ? TCP_CWR : 0));
		fill_lengths(&t, start, part);
		net_fill_checksum(start, t.payload + part, &fill);
		emit(arg, start, t.payload + part);
		sequence += part;
	}
	return 0;
}

/* ---- joining ---- */

/*
 * May a segment be the first of several, or one of them? Nothing but data and an
 * acknowledgement; PSH, which ends a run, is carried over.
 */
static bool joinable(const struct net_tcp_frame *t, const uint8_t *frame, size_t len)
{
	const uint8_t *ip = frame + ETH_LEN;
	size_t packet = t->v6 ? IP6_LEN + get_be16(ip + 4) : get_be16(ip + 2);

	/* Shorter frames are padded; none with data is. */
	return len > t->payload && packet == len - ETH_LEN &&
	       (frame[t->tcp + 13] & ~TCP_PSH) == TCP_ACK && (t->v6 || t->tcp == ETH_LEN + IP4_LEN);
}

static bool continues(const struct net_tso_join *j, const struct net_tcp_frame *t,
		      const uint8_t *frame, size_t len)
{
	const uint8_t *a = j->frame, *b = frame;
	size_t tcp = t->tcp;

	if (t->v6 != j->t.v6 || tcp != j->t.tcp || t->payload != j->t.payload ||
	    len - t->payload > j->size || j->len + len - t->payload > sizeof(j->frame) ||
	    memcmp(a, b, ETH_LEN) != 0)
		return false;
	/* Addresses and what steers the packet; not length, number, checksum. */
	if (t->v6 ? memcmp(a + ETH_LEN, b + ETH_LEN, 4) != 0 ||
			    memcmp(a + ETH_LEN + 6, b + ETH_LEN + 6, 34) != 0
		  : memcmp(a + ETH_LEN, b + ETH_LEN, 2) != 0 ||
			    memcmp(a + ETH_LEN + 6, b + ETH_LEN + 6, 4) != 0 ||
			    memcmp(a + ETH_LEN + 12, b + ETH_LEN + 12, 8) != 0)
		return false;
	/* Ports, acknowledged byte, window, urgent pointer and options are the same. */
	return memcmp(a + tcp, b + tcp, 4) == 0 && memcmp(a + tcp + 8, b + tcp + 8, 5) == 0 &&
	       memcmp(a + tcp + 14, b + tcp + 14, 2) == 0 &&
	       memcmp(a + tcp + TCP_LEN, b + tcp + TCP_LEN, t->payload - tcp - TCP_LEN) == 0 &&
	       get_be32(b + tcp + 4) == j->next;
}

bool net_tso_join(struct net_tso_join *j, const uint8_t *frame, size_t len)
{
	struct net_tcp_frame t;
	size_t part;

	if (j->closed || !parse_tcp(&t, frame, len) || !joinable(&t, frame, len))
		return false;
	part = len - t.payload;
	if (!j->len) {
		if (len > sizeof(j->frame))
			return false;
		memcpy(j->frame, frame, len);
		j->t = t;
		j->len = len;
		j->size = part;
		j->next = get_be32(frame + t.tcp + 4);
	} else if (continues(j, &t, frame, len)) {
		memcpy(j->frame + j->len, frame + t.payload, part);
		j->frame[t.tcp + 13] |= frame[t.tcp + 13];
		j->len += part;
	} else {
		return false;
	}
	j->next += part;
	/* A short one, or a push, is the last. */
	j->closed = part < j->size || (frame[t.tcp + 13] & TCP_PSH);
	return true;
}

size_t net_tso_joined(struct net_tso_join *j, struct virtio_net_hdr_v1 *ret_hdr)
{
	size_t len = j->len, payload = len - j->t.payload;

	if (!len)
		return 0;
	*ret_hdr = (struct virtio_net_hdr_v1){
		.flags = VIRTIO_NET_HDR_F_DATA_VALID,
		.num_buffers = htole16(1),
	};
	if (payload > j->size) {
		fill_lengths(&j->t, j->frame, payload);
		*ret_hdr = (struct virtio_net_hdr_v1){
			.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
			.gso_type = j->t.v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
			.hdr_len = htole16(j->t.payload),
			.gso_size = htole16(j->size),
			.csum_start = htole16(j->t.tcp),
			.csum_offset = htole16(16),
			.num_buffers = htole16(1),
		};
	}
	j->len = 0;
	j->closed = false;
	return len;
}
