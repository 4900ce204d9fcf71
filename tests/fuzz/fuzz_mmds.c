/*
 * Fuzz target (libFuzzer): the metadata service, and a hostile guest on its link. The input is a
 * run of frames, each with its length (two bytes), a byte of choices and a byte of time in front.
 * Segments of TCP may have the right number acknowledged filled in, or no connection would come
 * about.
 */
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include "helpers/mmds.h"

#define MAX_FRAME 9000u
#define RIGHT_ACK 1u /* of the choices */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct guest {
	uint32_t ack; /* what the server expects to hear */
};

static void heard(void *arg, const void *frame, size_t len)
{
	struct guest *g = arg;
	struct tcphdr tcp;
	struct iphdr ip;

	if (len < sizeof(struct ether_header) || len > 65536)
		abort();
	if (len < sizeof(struct ether_header) + sizeof(ip) + sizeof(tcp))
		return;
	memcpy(&ip, (const uint8_t *)frame + sizeof(struct ether_header), sizeof(ip));
	if (((const struct ether_header *)frame)->ether_type != htons(ETHERTYPE_IP))
		return;
	memcpy(&tcp, (const uint8_t *)frame + sizeof(struct ether_header) + sizeof(ip),
	       sizeof(tcp));
	if (len != sizeof(struct ether_header) + ntohs(ip.tot_len))
		abort();
	g->ack = ntohl(tcp.th_seq) + ntohs(ip.tot_len) - sizeof(ip) - tcp.th_off * 4u +
		 !!(tcp.th_flags & (TH_SYN | TH_FIN));
}

static void say(struct mmds_tcp *t, const struct guest *g, const uint8_t *data, size_t len,
		uint8_t choices, uint64_t now_ms)
{
	size_t at = sizeof(struct ether_header) + sizeof(struct iphdr) +
		    offsetof(struct tcphdr, th_ack);
	uint8_t *frame = malloc(len ? len : 1); /* of its own, so that a sanitizer sees its end */
	uint32_t ack = htonl(g->ack);

	if (!frame)
		abort();
	memcpy(frame, data, len);
	if ((choices & RIGHT_ACK) && len >= at + sizeof(ack))
		memcpy(frame + at, &ack, sizeof(ack));
	mmds_tcp_input(t, frame, len, now_ms);
	free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mmds_counters counters = { 0 };
	struct mmds_store store = { 0 };
	struct guest g = { 0 };
	struct mmds_tcp *t;
	uint64_t now_ms = 1000;

	if (!mmds_store_init(&store, &counters))
		abort();
	store.contents = json_loads("{\"latest\":{\"meta-data\":{\"ami-id\":\"a\",\"n\":7},"
				    "\"list\":[\"a\",{}]},\"age\":43}",
				    0, NULL);
	store.needs_token = size & 1;
	t = mmds_tcp_create(&store, (struct in_addr){ inet_addr("169.254.169.254") }, heard, &g);
	if (!t || !store.contents)
		abort();
	while (size > 4) {
		size_t len = MIN((size_t)get_le16(data) % MAX_FRAME, size - 4);

		now_ms += data[3] * 16u;
		say(t, &g, data + 4, len, data[2], now_ms);
		if (data[3])
			mmds_tcp_tick(t, now_ms);
		data += 4 + len;
		size -= 4 + len;
	}
	mmds_tcp_free(t);
	json_decref(store.contents);
	return 0;
}
