/*
 * The metadata service as a guest sees it: frames in, frames out. A small client of TCP plays the
 * guest, which may be hostile.
 */
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "helpers/mmds.h"

#define GUEST	 0x0200a8c0 /* 192.168.0.2 */
#define MAX_SENT 128

static const uint8_t guest_mac[6] = { 2, 0, 0, 0, 0, 7 };

struct fixture {
	struct mmds_counters counters;
	struct mmds_store store;
	struct mmds_tcp *tcp;
	in_addr_t address;
	uint64_t now_ms;

	/* What came back: the last segment, and all that was said, in order. */
	struct tcphdr last;
	unsigned segments;
	uint8_t arp[60];
	size_t arp_len;
	char heard[200000];
	size_t num_heard;
	bool deaf; /* segments are lost */

	uint16_t port;
	uint32_t seq, ack;
	uint16_t window;
};

static void take(void *arg, const void *frame, size_t len)
{
	struct fixture *f = arg;
	const struct ether_header *eth = frame;
	const uint8_t *p = (const uint8_t *)frame + sizeof(*eth);
	struct iphdr ip;
	size_t data;

	assert_memory_equal(eth->ether_dhost, guest_mac, 6);
	if (eth->ether_type == htons(ETHERTYPE_ARP)) {
		assert_true(len <= sizeof(f->arp));
		memcpy(f->arp, frame, len);
		f->arp_len = len;
		return;
	}
	memcpy(&ip, p, sizeof(ip));
	assert_int_equal(len, sizeof(*eth) + ntohs(ip.tot_len));
	assert_int_equal(ip.saddr, f->address);
	assert_int_equal(ip.daddr, GUEST);
	memcpy(&f->last, p + sizeof(ip), sizeof(f->last));
	f->segments++;
	if (f->deaf)
		return;
	data = ntohs(ip.tot_len) - sizeof(ip) - f->last.th_off * 4;
	if (f->last.th_flags & TH_SYN)
		f->ack = ntohl(f->last.th_seq) + 1;
	else if (ntohl(f->last.th_seq) == f->ack && data) {
		assert_true(f->num_heard + data < sizeof(f->heard));
		memcpy(f->heard + f->num_heard, p + sizeof(ip) + f->last.th_off * 4, data);
		f->num_heard += data;
		f->ack += data;
	}
	if ((f->last.th_flags & TH_FIN) && ntohl(f->last.th_seq) + data == f->ack)
		f->ack++;
}

static void send_bytes(struct fixture *f, uint8_t flags, const void *data, size_t len)
{
	uint8_t frame[10000] = { 0 };
	struct ether_header eth = { .ether_type = htons(ETHERTYPE_IP) };
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = htons(sizeof(ip) + sizeof(struct tcphdr) + len),
		.protocol = IPPROTO_TCP,
		.saddr = GUEST,
		.daddr = f->address,
	};
	struct tcphdr tcp = {
		.th_sport = htons(f->port),
		.th_dport = htons(80),
		.th_seq = htonl(f->seq),
		.th_ack = htonl(f->ack),
		.th_off = 5,
		.th_flags = flags,
		.th_win = htons(f->window),
	};
	size_t at = 0;

	memcpy(eth.ether_shost, guest_mac, 6);
	memcpy(frame, &eth, sizeof(eth));
	memcpy(frame + (at += sizeof(eth)), &ip, sizeof(ip));
	memcpy(frame + (at += sizeof(ip)), &tcp, sizeof(tcp));
	memcpy(frame + (at += sizeof(tcp)), data, len);
	mmds_tcp_input(f->tcp, frame, at + len, f->now_ms);
}

static void send_text(struct fixture *f, const char *text)
{
	send_bytes(f, TH_ACK | TH_PUSH, text, strlen(text));
	f->seq += strlen(text);
}

static void open_connection(struct fixture *f)
{
	f->port++;
	f->seq = 1000;
	f->num_heard = 0;
	send_bytes(f, TH_SYN, "", 0);
	assert_int_equal(f->last.th_flags, TH_SYN | TH_ACK);
	f->seq++;
	send_bytes(f, TH_ACK, "", 0);
}

/* The whole answer to @request on a new connection. */
static const char *ask(struct fixture *f, const char *request)
{
	/* Long after the one before, whose place may be taken. */
	f->now_ms += 2000;
	open_connection(f);
	send_text(f, request);
	f->heard[f->num_heard] = '\0';
	return f->heard;
}

static void says(const char *answer, const char *wanted)
{
	if (!strstr(answer, wanted))
		print_error("'%s' is not in:\n%s\n", wanted, answer);
	assert_non_null(strstr(answer, wanted));
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_true(mmds_store_init(&f->store, &f->counters));
	f->address = inet_addr("169.254.169.254");
	f->tcp = mmds_tcp_create(&f->store, (struct in_addr){ f->address }, take, f);
	f->window = 65535;
	f->port = 40000;
	f->store.contents = json_loads("{\"latest\":{\"meta-data\":{\"ami-id\":\"ami-1\",\"n\":7},"
				       "\"list\":[\"a\",\"b\"],\"a/b~c\":\"odd\"},\"age\":43}",
				       0, NULL);
	assert_non_null(f->store.contents);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	mmds_tcp_free(f->tcp);
	json_decref(f->store.contents);
	free(f);
	return 0;
}

static void arp_requests_are_answered(void **state)
{
	struct fixture *f = *state;
	struct {
		struct ether_header eth;
		struct arphdr arp;
		uint8_t sender[6], sender_ip[4], target[6], target_ip[4];
	} __attribute__((packed)) who = {
		.eth.ether_type = htons(ETHERTYPE_ARP),
		.arp = { htons(1), htons(ETHERTYPE_IP), 6, 4, htons(ARPOP_REQUEST) },
	};

	memcpy(who.sender, guest_mac, 6);
	memcpy(who.target_ip, &f->address, 4);
	mmds_tcp_input(f->tcp, (uint8_t *)&who, sizeof(who), 0);
	assert_int_equal(f->arp_len, sizeof(who));
	memcpy(&who, f->arp, sizeof(who));
	assert_int_equal(who.arp.ar_op, htons(ARPOP_REPLY));
	assert_memory_equal(who.sender_ip, &f->address, 4);

	/* For another address nobody answers. */
	f->arp_len = 0;
	who.arp.ar_op = htons(ARPOP_REQUEST);
	who.target_ip[3] ^= 1;
	mmds_tcp_input(f->tcp, (uint8_t *)&who, sizeof(who), 0);
	assert_int_equal(f->arp_len, 0);
}

static void documents_are_text_or_json(void **state)
{
	struct fixture *f = *state;
	const char *a = ask(f, "GET /latest/meta-data HTTP/1.1\r\nHost: x\r\n\r\n");

	says(a, "HTTP/1.1 200 ");
	says(a, "Content-Type: text/plain");
	says(a, "\r\n\r\nami-id\nn");
	says(ask(f, "GET / HTTP/1.1\r\n\r\n"), "\r\n\r\nage\nlatest/");
	says(ask(f, "GET //latest///meta-data/ami-id/ HTTP/1.1\r\n\r\n"), "\r\n\r\nami-1");
	a = ask(f, "GET /latest/meta-data HTTP/1.1\r\nAccept: application/json\r\n\r\n");
	says(a, "Content-Type: application/json");
	says(a, "\r\n\r\n{\"ami-id\":\"ami-1\",\"n\":7}");
	says(ask(f, "GET /latest/list/1 HTTP/1.1\r\n\r\n"), "\r\n\r\nb");
	says(ask(f, "GET /latest/a~1b~0c HTTP/1.1\r\n\r\n"), "\r\n\r\nodd");
	says(ask(f, "GET http://169.254.169.254/latest/list/0 HTTP/1.0\r\n\r\n"), "\r\n\r\na");
}

static void what_cannot_be_had_is_said(void **state)
{
	struct fixture *f = *state;

	says(ask(f, "GET /nowhere HTTP/1.1\r\n\r\n"), "Resource not found: /nowhere.");
	says(f->heard, "HTTP/1.1 404 ");
	says(ask(f, "GET /age HTTP/1.1\r\n\r\n"), "HTTP/1.1 501 ");
	says(ask(f, "DELETE /age HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 ");
	says(f->heard, "Allow: GET, PUT");
	says(ask(f, "nonsense\r\n\r\n"), "HTTP/1.1 400 ");
	says(ask(f, "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), "HTTP/1.1 400 ");
	says(ask(f, "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), "HTTP/1.1 400 ");
}

static uint64_t late(void)
{
	return 1ull << 40;
}

static void version_2_wants_a_token(void **state)
{
	struct fixture *f = *state;
	char token[65], request[300];

	f->store.needs_token = true;
	says(ask(f, "GET /age HTTP/1.1\r\n\r\n"), "No MMDS token provided.");
	says(f->heard, "HTTP/1.1 401 ");
	says(ask(f, "PUT /latest/api/token HTTP/1.1\r\n\r\n"),
	     "Token time to live value not found.");
	says(ask(f, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 0\r\n\r\n"),
	     "Invalid time to live value provided for token: 0.");
	says(ask(f, "PUT /latest/api/token HTTP/1.1\r\nX-Forwarded-For: a\r\n"
		    "X-metadata-token-ttl-seconds: 60\r\n\r\n"),
	     "Unsupported header name. Key: X-Forwarded-For");
	says(ask(f, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n"),
	     "X-metadata-token-ttl-seconds: 60\r\n");
	snprintf(token, sizeof(token), "%s", strstr(f->heard, "\r\n\r\n") + 4);
	assert_int_equal(strlen(token), 64);

	snprintf(request, sizeof(request),
		 "GET /latest/meta-data/ami-id HTTP/1.1\r\nX-aws-ec2-metadata-token: %s\r\n\r\n",
		 token);
	says(ask(f, request), "\r\n\r\nami-1");
	f->store.now_seconds = late;
	says(ask(f, request), "MMDS token not valid.");
}

static void a_forged_token_is_none(void **state)
{
	struct fixture *f = *state;
	char request[200], *digit;

	f->store.needs_token = true;
	ask(f, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n");
	snprintf(request, sizeof(request), "GET /latest HTTP/1.1\r\nX-metadata-token: %s\r\n\r\n",
		 strstr(f->heard, "\r\n\r\n") + 4);
	says(ask(f, request), "HTTP/1.1 200 ");
	digit = strstr(request, "token: ") + 7;
	for (unsigned i = 0; i < 64; i++) {
		char was = digit[i];

		digit[i] = was == '1' ? '2' : '1';
		says(ask(f, request), "MMDS token not valid.");
		digit[i] = was;
	}
	digit[63] = '\r';
	says(ask(f, request), "HTTP/1.1 40");
}

static void requests_come_in_pieces_and_in_a_row(void **state)
{
	struct fixture *f = *state;

	open_connection(f);
	send_text(f, "GET /lat");
	assert_int_equal(f->num_heard, 0);
	send_text(f, "est/list/0 HTTP/1.1\r\n\r\nGET /latest/list/1 HTTP/1.1\r\n\r\n");
	/* The second answer comes when the first has arrived. */
	send_bytes(f, TH_ACK, "", 0);
	f->heard[f->num_heard] = '\0';
	says(f->heard, "\r\n\r\naHTTP/1.1 200 ");
	says(f->heard, "\r\n\r\nb");
}

static void long_answers_keep_to_the_window(void **state)
{
	struct fixture *f = *state;
	char *text = malloc(60001);

	memset(text, 'x', 60000);
	text[60000] = '\0';
	json_object_set_new(f->store.contents, "long", json_string(text));
	f->window = 3000;
	ask(f, "GET /long HTTP/1.1\r\nConnection: close\r\n\r\n");
	for (unsigned i = 0; i < 100 && !(f->last.th_flags & TH_FIN); i++) {
		size_t before = f->num_heard;

		send_bytes(f, TH_ACK, "", 0);
		assert_true(f->num_heard - before <= 3000);
	}
	f->heard[f->num_heard] = '\0';
	says(f->heard, text);
	assert_true(f->last.th_flags & TH_FIN);
	send_bytes(f, TH_ACK | TH_FIN, "", 0);
	assert_int_equal(f->counters.connections_created, f->counters.connections_destroyed);
	free(text);
}

static void what_is_lost_is_sent_again(void **state)
{
	struct fixture *f = *state;

	open_connection(f);
	f->deaf = true;
	send_text(f, "GET /latest/list/0 HTTP/1.1\r\n\r\n");
	f->deaf = false;
	assert_int_equal(f->num_heard, 0);
	f->now_ms = mmds_tcp_tick(f->tcp, f->now_ms);
	mmds_tcp_tick(f->tcp, f->now_ms);
	f->heard[f->num_heard] = '\0';
	says(f->heard, "\r\n\r\na");
}

/* The guest closes when we have: what it sends again, or anew, before its FIN counts once. */
static void the_end_of_the_guest_is_acknowledged_where_it_is(void **state)
{
	static const char request[] = "GET /latest/list/0 HTTP/1.1\r\nConnection: close\r\n\r\n";
	struct fixture *f = *state;

	for (int anew = 0; anew <= 1; anew++) {
		open_connection(f);
		send_text(f, request);
		assert_true(f->last.th_flags & TH_FIN);
		f->ack--; /* that is not acknowledged yet */
		if (!anew)
			f->seq -= strlen(request);
		send_bytes(f, TH_ACK | TH_FIN, request, strlen(request));
		assert_int_equal(ntohl(f->last.th_ack), f->seq + strlen(request) + 1);
		/* And once more, from its end. */
		f->seq += strlen(request);
		send_bytes(f, TH_ACK | TH_FIN, "", 0);
		assert_int_equal(ntohl(f->last.th_ack), f->seq + 1);
	}
}

static void the_silent_are_forgotten(void **state)
{
	struct fixture *f = *state;

	/* More than there is room for: refused while others are fresh. */
	for (unsigned i = 0; i < 30; i++)
		open_connection(f);
	f->port++;
	send_bytes(f, TH_SYN, "", 0);
	assert_true(f->last.th_flags & TH_RST);
	f->now_ms += 2000;
	open_connection(f);
	f->now_ms += 120000;
	assert_int_equal(mmds_tcp_tick(f->tcp, f->now_ms), UINT64_MAX);
	assert_int_equal(f->counters.connections_created, f->counters.connections_destroyed);
}

static void strangers_are_reset(void **state)
{
	struct fixture *f = *state;

	send_bytes(f, TH_ACK, "hello", 5);
	assert_true(f->last.th_flags & TH_RST);
	assert_int_equal(ntohl(f->last.th_seq), f->ack);
}

/* Each is looked at by the sanitizers; none may be answered beyond its buffer. */
static void nonsense_does_no_harm(void **state)
{
	struct fixture *f = *state;
	/* So that what follows the Ethernet header is aligned. */
	__attribute__((aligned(4))) uint8_t room[202];
	uint8_t *frame = room + 2;
	const size_t size = sizeof(room) - 2;

	srand(1);
	open_connection(f);
	for (unsigned i = 0; i < 200000; i++) {
		size_t len = rand() % size;
		struct ether_header *eth = (struct ether_header *)frame;
		struct iphdr *ip = (struct iphdr *)(frame + sizeof(*eth));
		struct tcphdr *tcp = (struct tcphdr *)(ip + 1);

		for (size_t j = 0; j < size; j++)
			frame[j] = rand();
		memcpy(eth->ether_shost, guest_mac, 6);
		eth->ether_type = htons(rand() % 8 ? ETHERTYPE_IP : ETHERTYPE_ARP);
		if (rand() % 4) {
			ip->version = 4;
			ip->ihl = 5;
			ip->frag_off = 0;
			ip->protocol = IPPROTO_TCP;
			ip->saddr = GUEST;
			ip->daddr = f->address;
			ip->tot_len = htons(len > 14 ? len - 14 : 0);
			tcp->th_sport = htons(f->port);
			tcp->th_dport = htons(80);
			if (rand() % 2)
				tcp->th_seq = htonl(f->seq + rand() % 3);
			if (rand() % 2)
				tcp->th_ack = f->last.th_seq;
		}
		f->deaf = true;
		if (eth->ether_type == htons(ETHERTYPE_IP))
			mmds_tcp_input(f->tcp, frame, len, i);
		if (i % 1000 == 0)
			mmds_tcp_tick(f->tcp, i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		T(arp_requests_are_answered),
		T(documents_are_text_or_json),
		T(what_cannot_be_had_is_said),
		T(version_2_wants_a_token),
		T(a_forged_token_is_none),
		T(requests_come_in_pieces_and_in_a_row),
		T(long_answers_keep_to_the_window),
		T(what_is_lost_is_sent_again),
		T(the_end_of_the_guest_is_acknowledged_where_it_is),
		T(the_silent_are_forgotten),
		T(strangers_are_reset),
		T(nonsense_does_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
