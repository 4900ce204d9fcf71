#include "helpers/guest_filter.h"

#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>

#include "devices/net_offload.h"

#define ETH_LEN	  14u
#define IP4_LEN	  20u
#define IP6_LEN	  40u
#define DHCP_PORT 67u
#define DNS_PORT  53u

#define DONT_FRAGMENT 0x4000u

/* The parts of a packet that matter here, in host byte order. */
struct packet {
	const uint8_t *ip, *payload;
	bool v6;
	uint8_t protocol;
	bool fragment;
	bool has_ports;
	uint16_t from, to;
	uint8_t tcp_flags;
};

static uint16_t get_be16(const uint8_t *p)
{
	return p[0] << 8 | p[1];
}

/* False for what is neither IPv4 nor IPv6, or shorter than its header. */
static bool parse(struct packet *p, const uint8_t *frame, size_t len)
{
	const uint8_t *payload;
	size_t header, left;
	uint16_t type;

	memset(p, 0, sizeof(*p));
	if (len < ETH_LEN + IP4_LEN)
		return false;
	type = get_be16(frame + 12);
	p->ip = frame + ETH_LEN;
	left = len - ETH_LEN;
	if (type == ETHERTYPE_IP) {
		header = (p->ip[0] & 15) * 4u;
		p->protocol = p->ip[9];
		/* More fragments follow, or some came before, or a bit without a meaning is set. */
		p->fragment = get_be16(p->ip + 6) & ~DONT_FRAGMENT;
	} else if (type == ETHERTYPE_IPV6 && left >= IP6_LEN) {
		/* An extension header is a protocol that nothing is allowed for. */
		header = IP6_LEN;
		p->protocol = p->ip[6];
		p->v6 = true;
	} else {
		return false;
	}
	if (header < IP4_LEN || left < header)
		return false;
	payload = p->payload = p->ip + header;
	left -= header;
	p->has_ports = !p->fragment && left >= 8;
	if (p->has_ports) {
		p->from = get_be16(payload);
		p->to = get_be16(payload + 2);
	}
	if (p->protocol == IPPROTO_TCP) {
		p->has_ports &= left >= 14;
		p->tcp_flags = p->has_ports ? payload[13] : 0;
	}
	return true;
}

/* Addresses that mean "this host" to a socket, whatever libslirp thinks of them. */
static bool is_loopback(const struct packet *p)
{
	static const struct in6_addr mapped = { .s6_addr = { [10] = 0xff, [11] = 0xff } };
	static const uint8_t zeroes[15];
	const uint8_t *to = p->ip + (p->v6 ? 24 : 16);

	if (!p->v6)
		return to[0] == 127 || to[0] == 0;
	/* :: and ::1 (with the rest of ::/120), and IPv4 addresses in IPv6 clothes. */
	return memcmp(to, zeroes, 15) == 0 || memcmp(to, &mapped, 12) == 0;
}

/* Addresses that libslirp takes for the loopback. */
static bool stands_for_loopback(const struct guest_filter *f, const struct packet *p)
{
	static const uint8_t all_nodes[16] = { 0xff, 0x02, [15] = 1 };
	const uint8_t *to = p->ip + (p->v6 ? 24 : 16);
	uint32_t v4;

	if (p->v6)
		return memcmp(to, all_nodes, 16) == 0 ||
		       (memcmp(to, &f->prefix6, 8) == 0 && memcmp(to, &f->dns6, 16) != 0);
	memcpy(&v4, to, sizeof(v4));
	return v4 == f->host.s_addr || v4 == INADDR_BROADCAST;
}

static bool is_name_server(const struct guest_filter *f, const struct packet *p)
{
	const uint8_t *to = p->ip + (p->v6 ? 24 : 16);

	return p->v6 ? memcmp(to, &f->dns6, 16) == 0 : memcmp(to, &f->dns, 4) == 0;
}

static bool is_answer(const struct guest_filter *f, const struct packet *p)
{
	for (unsigned i = 0; i < GUEST_FILTER_FLOWS; i++) {
		if (f->flow[i].peer && f->flow[i].peer == p->to && f->flow[i].guest == p->from)
			return true;
	}
	return false;
}

bool guest_filter_allows(const struct guest_filter *f, const uint8_t *frame, size_t len)
{
	struct packet p;

	/* ARP, and what libslirp does not look at. */
	if (!parse(&p, frame, len))
		return true;
	/* What libslirp 4.7 puts together again it writes over its own lists with. */
	if (p.fragment || is_loopback(&p))
		return false;
	if (f->host_loopback)
		return true;
	if (is_name_server(f, &p))
		return p.protocol == IPPROTO_ICMP || p.protocol == IPPROTO_ICMPV6 ||
		       (p.has_ports && p.to == DNS_PORT);
	if (!stands_for_loopback(f, &p))
		return true;
	switch (p.protocol) {
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return true;
	case IPPROTO_TCP:
		/* All but the start of a connection: one without is refused by libslirp. */
		return p.has_ports && (p.tcp_flags & (TH_SYN | TH_ACK)) != TH_SYN;
	case IPPROTO_UDP:
		return p.has_ports && ((!p.v6 && p.to == DHCP_PORT) || is_answer(f, &p));
	default:
		return false;
	}
}

/*
 * @segment of 20 bytes to @dst from @src, addresses of @len bytes each: its checksum is over both
 * (RFC 9293 section 3.1, RFC 8200 section 8.1, which gives the same sum).
 */
static uint16_t tcp_checksum(const void *src, const void *dst, size_t len,
			     const struct tcphdr *segment)
{
	struct {
		uint8_t address[32];
		uint16_t zero_and_protocol, segment_len;
		struct tcphdr segment;
	} sum = {
		.zero_and_protocol = htobe16(IPPROTO_TCP),
		.segment_len = htobe16(sizeof(*segment)),
		.segment = *segment,
	};

	memcpy(sum.address, src, len);
	memcpy(sum.address + len, dst, len);
	return net_checksum(&sum, sizeof(sum));
}

size_t guest_filter_refusal(const uint8_t *frame, size_t len,
			    uint8_t answer[GUEST_FILTER_REFUSAL_MAX])
{
	struct ether_header eth;
	struct tcphdr asked, tcp;
	size_t ip_len, at;
	struct packet p;

	if (!parse(&p, frame, len) || p.protocol != IPPROTO_TCP || !p.has_ports ||
	    is_loopback(&p) || p.payload + sizeof(asked) > frame + len ||
	    (p.tcp_flags & (TH_SYN | TH_ACK | TH_RST)) != TH_SYN)
		return 0;
	memcpy(&eth, frame, sizeof(eth));
	memcpy(&asked, p.payload, sizeof(asked));
	/* RFC 9293 section 3.10.7.1: sequence number 0, everything of the segment acknowledged. */
	tcp = (struct tcphdr){
		.th_sport = asked.th_dport,
		.th_dport = asked.th_sport,
		.th_ack = htobe32(be32toh(asked.th_seq) + 1),
		.th_off = sizeof(tcp) / 4,
		.th_flags = TH_RST | TH_ACK,
	};
	if (p.v6) {
		struct ip6_hdr ip = { .ip6_flow = htobe32(6u << 28),
				      .ip6_plen = htobe16(sizeof(tcp)),
				      .ip6_nxt = IPPROTO_TCP,
				      .ip6_hlim = IPDEFTTL };

		memcpy(&ip.ip6_src, p.ip + 24, sizeof(ip.ip6_src));
		memcpy(&ip.ip6_dst, p.ip + 8, sizeof(ip.ip6_dst));
		tcp.th_sum = tcp_checksum(&ip.ip6_src, &ip.ip6_dst, sizeof(ip.ip6_src), &tcp);
		ip_len = sizeof(ip);
		memcpy(answer + ETH_LEN, &ip, ip_len);
	} else {
		struct iphdr ip = { .version = 4,
				    .ihl = sizeof(ip) / 4,
				    .tot_len = htobe16(sizeof(ip) + sizeof(tcp)),
				    .frag_off = htobe16(IP_DF),
				    .ttl = IPDEFTTL,
				    .protocol = IPPROTO_TCP };

		memcpy(&ip.saddr, p.ip + 16, sizeof(ip.saddr));
		memcpy(&ip.daddr, p.ip + 12, sizeof(ip.daddr));
		ip.check = net_checksum(&ip, sizeof(ip));
		tcp.th_sum = tcp_checksum(&ip.saddr, &ip.daddr, sizeof(ip.saddr), &tcp);
		ip_len = sizeof(ip);
		memcpy(answer + ETH_LEN, &ip, ip_len);
	}
	memcpy(answer, eth.ether_shost, sizeof(eth.ether_shost));
	memcpy(answer + 6, eth.ether_dhost, sizeof(eth.ether_dhost));
	memcpy(answer + 12, &eth.ether_type, sizeof(eth.ether_type));
	at = ETH_LEN + ip_len;
	memcpy(answer + at, &tcp, sizeof(tcp));
	return at + sizeof(tcp);
}

void guest_filter_learn(struct guest_filter *f, const uint8_t *frame, size_t len)
{
	struct packet p;
	const uint8_t *from;

	if (!parse(&p, frame, len) || p.protocol != IPPROTO_UDP || !p.has_ports)
		return;
	/* Only what comes from the router can come from this host's loopback. */
	from = p.ip + (p.v6 ? 8 : 12);
	if (p.v6 ? memcmp(from, &f->prefix6, 8) != 0 : memcmp(from, &f->host, 4) != 0)
		return;
	/* The answer's ports are these, the other way round. */
	if (is_answer(f, &(struct packet){ .to = p.from, .from = p.to }))
		return;
	f->flow[f->next].peer = p.from;
	f->flow[f->next].guest = p.to;
	f->next = (f->next + 1) % GUEST_FILTER_FLOWS;
}
