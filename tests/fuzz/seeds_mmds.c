/* Writes the seeds of fuzz_mmds into the directory given: a guest that asks, with tokens and
 * without. */
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <string.h>

#include "tests/fuzz/seed.h"
#include "vmm/core/util.h"

struct seed {
	uint8_t data[4096];
	size_t len;
	uint32_t seq;
};

static void put_frame(struct seed *s, const void *frame, size_t len, uint8_t time)
{
	uint8_t *p = s->data + s->len;

	put_le16(p, len);
	p[2] = 1;
	p[3] = time;
	memcpy(p + 4, frame, len);
	s->len += 4 + len;
}

static void put_tcp(struct seed *s, uint8_t flags, const char *text)
{
	size_t len = strlen(text);
	struct {
		struct ether_header eth;
		struct iphdr ip;
		struct tcphdr tcp;
		char text[512];
	} __attribute__((packed)) f = {
		.eth = { .ether_shost = { 2, 0, 0, 0, 0, 7 }, .ether_type = htons(ETHERTYPE_IP) },
		.ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = htons(sizeof(struct iphdr) + sizeof(struct tcphdr) + len),
			.protocol = IPPROTO_TCP,
			.saddr = inet_addr("192.168.0.2"),
			.daddr = inet_addr("169.254.169.254"),
		},
		.tcp = {
			.th_sport = htons(40000),
			.th_dport = htons(80),
			.th_seq = htonl(s->seq),
			.th_off = 5,
			.th_flags = flags,
			.th_win = htons(65535),
		},
	};

	memcpy(f.text, text, len);
	put_frame(s, &f, offsetof(typeof(f), text) + len, 1);
	s->seq += len + !!(flags & (TH_SYN | TH_FIN));
}

static bool conversation(const char *dir, const char *name, const char *request)
{
	static struct seed s;

	s.len = 0;
	s.seq = 1000;
	put_tcp(&s, TH_SYN, "");
	put_tcp(&s, TH_ACK | TH_PUSH, request);
	put_tcp(&s, TH_ACK | TH_FIN, "");
	return seed_write(dir, name, s.data, s.len);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	return !(conversation(argv[1], "get",
			      "GET /latest/meta-data HTTP/1.1\r\n"
			      "Accept: application/json\r\n\r\n") &&
		 conversation(argv[1], "token",
			      "PUT /latest/api/token HTTP/1.1\r\n"
			      "X-metadata-token-ttl-seconds: 60\r\n\r\n") &&
		 conversation(argv[1], "with-token",
			      "GET /age HTTP/1.1\r\nX-metadata-token: "
			      "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n\r\n"));
}
