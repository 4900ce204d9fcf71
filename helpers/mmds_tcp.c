/*
 * The server's side of TCP, for requests that fit a buffer. Segments are taken in order alone
 * (a link in memory loses none but when a buffer is full), answers are sent as far as the guest's
 * window goes, and again from the first unacknowledged byte when nothing is heard.
 *
 * Checksums of the guest's are not looked at: mostly they are left to be filled in by hardware
 * that is not there. All fields are read from a copy of the frame, and checked against its length.
 */
#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "helpers/mmds.h"

#define PORT		80
#define MAX_CONNECTIONS 30
#define MAX_REQUEST	8192
#define MAX_IN_FLIGHT	16384u
#define DEFAULT_MSS	536
#define MAX_MSS		1460
#define TTL		64

#define FIRST_TIMEOUT_MS 200
#define MAX_TRIES	 8
#define IDLE_MS		 60000
#define EVICT_MS	 1000 /* a connection so long silent makes room for a new one */

struct connection {
	bool used;
	uint8_t mac[6];
	in_addr_t peer;
	uint16_t port; /* as on the wire */
	unsigned mss;

	uint32_t received; /* the next byte expected */
	char request[MAX_REQUEST];
	size_t request_len;
	bool peer_closed; /* its last byte has come */

	char *out;	/* what is to be sent or acknowledged */
	size_t out_len;
	uint32_t acked; /* the number of out[0] */
	uint32_t sent;	/* the next to be sent */
	uint32_t window;
	unsigned repeated; /* acknowledgements that told nothing new */
	bool established, closing, fin_sent;

	unsigned tries;
	uint64_t heard_ms, resend_ms; /* 0: nothing is in flight */
};

struct mmds_tcp {
	struct mmds_store *store;
	in_addr_t address;
	mmds_send_fn *send;
	void *arg;
	struct connection connection[MAX_CONNECTIONS];
	uint8_t frame[ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr) + MAX_MSS];
};

/* Firecracker's, for those who compare. */
static const uint8_t our_mac[6] = { 0x06, 0x01, 0x23, 0x45, 0x67, 0x01 };

/* ---- what goes out ---- */

static uint32_t sum(uint32_t acc, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i + 1 < len; i += 2)
		acc += p[i] << 8 | p[i + 1];
	if (len % 2)
		acc += p[len - 1] << 8;
	return acc;
}

static uint16_t checksum(uint32_t acc)
{
	while (acc >> 16)
		acc = (acc & 0xffff) + (acc >> 16);
	return htobe16(~acc);
}

static size_t put_ether(uint8_t *frame, const uint8_t to[6], uint16_t type)
{
	struct ether_header *eth = (struct ether_header *)frame;

	memcpy(eth->ether_dhost, to, 6);
	memcpy(eth->ether_shost, our_mac, 6);
	eth->ether_type = htobe16(type);
	return sizeof(*eth);
}

static void send_frame(struct mmds_tcp *t, size_t len)
{
	struct mmds_counters *c = t->store->counters;

	c->tx_frames++;
	c->tx_bytes += len;
	t->send(t->arg, t->frame, len);
}

/* One segment: its first byte is number @seq. */
static void send_segment(struct mmds_tcp *t, const struct connection *c, uint8_t flags,
			 uint32_t seq, const void *data, size_t len)
{
	static const uint8_t mss[4] = { TCPOPT_MAXSEG, TCPOLEN_MAXSEG, MAX_MSS >> 8,
					MAX_MSS & 0xff };
	size_t options = flags & TH_SYN ? sizeof(mss) : 0;
	size_t tcp_len = sizeof(struct tcphdr) + options + len;
	size_t at = put_ether(t->frame, c->mac, ETHERTYPE_IP);
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = htobe16(sizeof(ip) + tcp_len),
		.frag_off = htobe16(IP_DF),
		.ttl = TTL,
		.protocol = IPPROTO_TCP,
		.saddr = t->address,
		.daddr = c->peer,
	};
	struct tcphdr tcp = {
		.th_sport = htobe16(PORT),
		.th_dport = c->port,
		.th_seq = htobe32(seq),
		.th_ack = htobe32(flags & TH_ACK ? c->received : 0),
		.th_off = (sizeof(tcp) + options) / 4,
		.th_flags = flags,
		.th_win = htobe16(MAX_REQUEST - c->request_len),
	};
	uint32_t acc;

	ip.check = checksum(sum(0, &ip, sizeof(ip)));
	memcpy(t->frame + at, &ip, sizeof(ip));
	at += sizeof(ip);
	acc = sum(IPPROTO_TCP + tcp_len, &ip.saddr, 8);
	acc = sum(sum(acc, &tcp, sizeof(tcp)), mss, options);
	tcp.th_sum = checksum(sum(acc, data, len));
	memcpy(t->frame + at, &tcp, sizeof(tcp));
	memcpy(t->frame + at + sizeof(tcp), mss, options);
	if (len)
		memcpy(t->frame + at + sizeof(tcp) + options, data, len);
	send_frame(t, at + tcp_len);
}

static void acknowledge(struct mmds_tcp *t, const struct connection *c)
{
	send_segment(t, c, TH_ACK, c->sent, NULL, 0);
}

static void set_timeout(struct connection *c, uint64_t now_ms)
{
	c->resend_ms = now_ms + (FIRST_TIMEOUT_MS << c->tries);
}

/* As much as the window has room for, then the end if there is one. */
static void send_out(struct mmds_tcp *t, struct connection *c, uint64_t now_ms)
{
	uint32_t window = MIN(c->window, MAX_IN_FLIGHT);
	uint32_t in_flight = c->sent - c->acked;

	while (in_flight < c->out_len && in_flight < window) {
		size_t n = MIN(c->out_len, (size_t)window) - in_flight;

		n = MIN(n, (size_t)c->mss);
		send_segment(t, c, TH_ACK | TH_PUSH, c->sent, c->out + in_flight, n);
		c->sent += n;
		in_flight += n;
	}
	if (c->closing && !c->fin_sent && in_flight == c->out_len) {
		send_segment(t, c, TH_ACK | TH_FIN, c->sent, NULL, 0);
		c->sent++;
		c->fin_sent = true;
	}
	/* A window of nothing is asked again too: by the first byte beyond it. */
	if ((c->sent != c->acked || c->out_len) && !c->resend_ms)
		set_timeout(c, now_ms);
}

/* To whom no connection belongs. */
static void reset(struct mmds_tcp *t, const uint8_t mac[6], const struct iphdr *ip,
		  const struct tcphdr *tcp, size_t len)
{
	struct connection nobody = {
		.peer = ip->saddr,
		.port = tcp->th_sport,
		.received = be32toh(tcp->th_seq) + len + !!(tcp->th_flags & TH_SYN) +
			    !!(tcp->th_flags & TH_FIN),
	};

	memcpy(nobody.mac, mac, 6);
	if (tcp->th_flags & TH_ACK)
		send_segment(t, &nobody, TH_RST, be32toh(tcp->th_ack), NULL, 0);
	else
		send_segment(t, &nobody, TH_RST | TH_ACK, 0, NULL, 0);
}

/* ---- connections ---- */

static void end_connection(struct mmds_tcp *t, struct connection *c)
{
	free(c->out);
	c->out = NULL;
	c->used = false;
	t->store->counters->connections_destroyed++;
}

static struct connection *find(struct mmds_tcp *t, in_addr_t peer, uint16_t port)
{
	for (unsigned i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *c = &t->connection[i];

		if (c->used && c->peer == peer && c->port == port)
			return c;
	}
	return NULL;
}

/* A free place, or that of who was silent longest if that is long. */
static struct connection *find_room(struct mmds_tcp *t, uint64_t now_ms)
{
	struct connection *oldest = &t->connection[0];

	for (unsigned i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *c = &t->connection[i];

		if (!c->used)
			return c;
		if (c->heard_ms < oldest->heard_ms)
			oldest = c;
	}
	if (now_ms - oldest->heard_ms < EVICT_MS)
		return NULL;
	end_connection(t, oldest);
	return oldest;
}

static unsigned find_mss(const uint8_t *options, size_t len)
{
	for (size_t i = 0; i < len && options[i] != TCPOPT_EOL;) {
		if (options[i] == TCPOPT_NOP) {
			i++;
			continue;
		}
		if (i + 1 >= len || options[i + 1] < 2 || i + options[i + 1] > len)
			break;
		if (options[i] == TCPOPT_MAXSEG && options[i + 1] == TCPOLEN_MAXSEG) {
			unsigned mss = options[i + 2] << 8 | options[i + 3];

			mss = MIN(mss, (unsigned)MAX_MSS);
			return MAX(mss, 64u);
		}
		i += options[i + 1];
	}
	return DEFAULT_MSS;
}

static void open_connection(struct mmds_tcp *t, const uint8_t mac[6], const struct iphdr *ip,
			    const struct tcphdr *tcp, unsigned mss, uint64_t now_ms)
{
	struct connection *c = find_room(t, now_ms);
	uint32_t first;

	if (!c || getrandom(&first, sizeof(first), GRND_NONBLOCK) != sizeof(first)) {
		reset(t, mac, ip, tcp, 0);
		return;
	}
	*c = (struct connection){
		.used = true,
		.peer = ip->saddr,
		.port = tcp->th_sport,
		.mss = mss,
		.received = be32toh(tcp->th_seq) + 1,
		.acked = first,
		.sent = first + 1,
		.window = be16toh(tcp->th_win),
		.heard_ms = now_ms,
	};
	memcpy(c->mac, mac, 6);
	t->store->counters->connections_created++;
	send_segment(t, c, TH_SYN | TH_ACK, first, NULL, 0);
	set_timeout(c, now_ms);
}

/* Answer what is complete, one after the other. */
static void answer_requests(struct mmds_tcp *t, struct connection *c, uint64_t now_ms)
{
	/* The next one when the last answer is through: so memory is bounded. */
	while (!c->out_len && c->request_len && !c->closing) {
		size_t used = mmds_answer(t->store, c->request, c->request_len, &c->out,
					  &c->out_len, &c->closing);

		if (!used && c->request_len < MAX_REQUEST)
			break;
		if (!used || !c->out) {
			/* Nothing can be said to this. */
			c->closing = true;
			break;
		}
		c->request_len -= used;
		memmove(c->request, c->request + used, c->request_len);
		send_out(t, c, now_ms);
	}
	if (c->peer_closed && !c->out_len)
		c->closing = true;
	send_out(t, c, now_ms);
}

/* False: the connection is over. */
static bool take_ack(struct mmds_tcp *t, struct connection *c, const struct tcphdr *tcp,
		     bool has_data, uint64_t now_ms)
{
	uint32_t n = be32toh(tcp->th_ack) - c->acked, window = be16toh(tcp->th_win);

	/* Of what was never sent. */
	if (n > c->sent - c->acked)
		return true;
	if (n == 0) {
		c->repeated += !has_data && window == c->window && c->sent != c->acked;
		c->window = window;
		if (c->repeated == 3 && c->established) {
			c->sent = c->acked;
			c->fin_sent = false;
		}
		return true;
	}
	c->window = window;
	c->repeated = 0;
	c->tries = 0;
	c->acked += n;
	c->resend_ms = 0;
	if (!c->established) {
		c->established = true;
		n--;
	}
	if (c->fin_sent && c->acked == c->sent) {
		end_connection(t, c);
		return false;
	}
	if (n >= c->out_len) {
		free(c->out);
		c->out = NULL;
		c->out_len = 0;
	} else {
		memmove(c->out, c->out + n, c->out_len - n);
		c->out_len -= n;
	}
	return true;
}

static void take_data(struct connection *c, uint32_t seq, const uint8_t *data, size_t len, bool fin)
{
	uint32_t known = c->received - seq;

	/* Beyond what we wait for, or all known: the acknowledgement says where we are. */
	if (known > len)
		return;
	data += known;
	len -= known;
	if (len > MAX_REQUEST - c->request_len) {
		len = MAX_REQUEST - c->request_len;
		fin = false;
	}
	memcpy(c->request + c->request_len, data, len);
	c->request_len += len;
	c->received += len;
	if (fin && !c->peer_closed) {
		c->received++;
		c->peer_closed = true;
	}
}

static void take_segment(struct mmds_tcp *t, const uint8_t mac[6], const struct iphdr *ip,
			 const uint8_t *data, size_t len, uint64_t now_ms)
{
	struct connection *c;
	struct tcphdr tcp;
	size_t header;
	uint32_t seq;
	bool fin;

	if (len < sizeof(tcp)) {
		t->store->counters->rx_accepted_err++;
		return;
	}
	memcpy(&tcp, data, sizeof(tcp));
	header = tcp.th_off * 4u;
	if (header < sizeof(tcp) || header > len) {
		t->store->counters->rx_accepted_err++;
		return;
	}
	c = find(t, ip->saddr, tcp.th_sport);
	if (tcp.th_flags & TH_RST) {
		if (c && be32toh(tcp.th_seq) == c->received)
			end_connection(t, c);
		return;
	}
	if (be16toh(tcp.th_dport) != PORT) {
		reset(t, mac, ip, &tcp, len - header);
		return;
	}
	if ((tcp.th_flags & (TH_SYN | TH_ACK)) == TH_SYN) {
		/* The guest has forgotten the old one. */
		if (c)
			end_connection(t, c);
		open_connection(t, mac, ip, &tcp,
				find_mss(data + sizeof(tcp), header - sizeof(tcp)), now_ms);
		return;
	}
	if (!c || !(tcp.th_flags & TH_ACK) || (tcp.th_flags & TH_SYN)) {
		reset(t, mac, ip, &tcp, len - header);
		return;
	}
	c->heard_ms = now_ms;
	seq = be32toh(tcp.th_seq);
	fin = tcp.th_flags & TH_FIN;
	data += header;
	len -= header;
	if (!take_ack(t, c, &tcp, len || fin, now_ms) || !c->established)
		return;
	if (!c->closing)
		take_data(c, seq, data, len, fin);
	else if (fin && c->received - seq <= len)
		c->received = seq + len + 1; /* what comes before it is of no use any more */
	if (len || fin)
		acknowledge(t, c);
	answer_requests(t, c, now_ms);
}

/* ---- what comes in ---- */

static void take_arp(struct mmds_tcp *t, const uint8_t *data, size_t len)
{
	struct {
		struct arphdr head;
		uint8_t sender[6];
		uint8_t sender_ip[4];
		uint8_t target[6];
		uint8_t target_ip[4];
	} __packed arp;
	size_t at;

	if (len < sizeof(arp))
		return;
	memcpy(&arp, data, sizeof(arp));
	if (be16toh(arp.head.ar_op) != ARPOP_REQUEST || memcmp(arp.target_ip, &t->address, 4) != 0)
		return;
	at = put_ether(t->frame, arp.sender, ETHERTYPE_ARP);
	arp.head.ar_op = htobe16(ARPOP_REPLY);
	memcpy(arp.target, arp.sender, 6);
	memcpy(arp.target_ip, arp.sender_ip, 4);
	memcpy(arp.sender, our_mac, 6);
	memcpy(arp.sender_ip, &t->address, 4);
	memcpy(t->frame + at, &arp, sizeof(arp));
	send_frame(t, at + sizeof(arp));
}

void mmds_tcp_input(struct mmds_tcp *t, const uint8_t *frame, size_t len, uint64_t now_ms)
{
	struct mmds_counters *count = t->store->counters;
	struct ether_header eth;
	struct iphdr ip;
	size_t header, total;

	if (len < sizeof(eth)) {
		count->rx_bad_eth++;
		return;
	}
	count->rx_accepted++;
	memcpy(&eth, frame, sizeof(eth));
	frame += sizeof(eth);
	len -= sizeof(eth);
	if (eth.ether_type == htobe16(ETHERTYPE_ARP)) {
		take_arp(t, frame, len);
		return;
	}
	if (eth.ether_type != htobe16(ETHERTYPE_IP) || len < sizeof(ip)) {
		count->rx_accepted_unusual++;
		return;
	}
	memcpy(&ip, frame, sizeof(ip));
	header = ip.ihl * 4u;
	total = be16toh(ip.tot_len);
	if (ip.version != 4 || header < sizeof(ip) || total < header || total > len) {
		count->rx_accepted_err++;
		return;
	}
	/* Fragments of a request are nobody's habit. */
	if (ip.protocol != IPPROTO_TCP || ip.daddr != t->address ||
	    (be16toh(ip.frag_off) & (IP_MF | IP_OFFMASK))) {
		count->rx_accepted_unusual++;
		return;
	}
	take_segment(t, eth.ether_shost, &ip, frame + header, total - header, now_ms);
}

static void tick_connection(struct mmds_tcp *t, struct connection *c, uint64_t now_ms)
{
	if (now_ms - c->heard_ms >= IDLE_MS) {
		end_connection(t, c);
		return;
	}
	if (!c->resend_ms || now_ms < c->resend_ms)
		return;
	if (++c->tries > MAX_TRIES) {
		end_connection(t, c);
		return;
	}
	t->store->counters->tx_errors++;
	if (!c->established) {
		send_segment(t, c, TH_SYN | TH_ACK, c->acked, NULL, 0);
		set_timeout(c, now_ms);
		return;
	}
	c->sent = c->acked;
	c->fin_sent = false;
	c->resend_ms = 0;
	/* A window that has closed is asked about with one byte. */
	if (!c->window && c->out_len) {
		send_segment(t, c, TH_ACK, c->sent++, c->out, 1);
		set_timeout(c, now_ms);
		return;
	}
	send_out(t, c, now_ms);
}

uint64_t mmds_tcp_tick(struct mmds_tcp *t, uint64_t now_ms)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *c = &t->connection[i];

		if (c->used)
			tick_connection(t, c, now_ms);
		if (!c->used)
			continue;
		next = MIN(next, c->heard_ms + IDLE_MS);
		if (c->resend_ms)
			next = MIN(next, c->resend_ms);
	}
	return next;
}

struct mmds_tcp *mmds_tcp_create(struct mmds_store *store, struct in_addr address,
				 mmds_send_fn *send, void *arg)
{
	struct mmds_tcp *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->store = store;
	t->address = address.s_addr;
	t->send = send;
	t->arg = arg;
	return t;
}

void mmds_tcp_free(struct mmds_tcp *t)
{
	for (unsigned i = 0; t && i < MAX_CONNECTIONS; i++)
		free(t->connection[i].out);
	free(t);
}
