/*
 * Writes the seeds of fuzz_user_net into the directory given: what a guest sends when
 * it comes up (ARP, DHCP, router solicitation), asks a name, pings and connects.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/util.h"

struct seed {
	uint8_t data[4000];
	size_t len;
};

static uint8_t *begin_frame(struct seed *s, size_t len, uint8_t choices, uint16_t type)
{
	uint8_t *f = s->data + s->len;

	f[0] = len;
	f[1] = len >> 8;
	f[2] = choices;
	f += 3;
	memset(f, 0, len);
	memset(f, 0xff, 6);
	memcpy(f + 6, "\x02\x77\x69\x73\x70\x00", 6);
	f[12] = type >> 8;
	f[13] = type;
	s->len += 3 + len;
	return f + 14;
}

/* An IPv4 packet from 10.0.2.15 with @len bytes of payload: returns where they are. */
static uint8_t *put_ip(struct seed *s, uint8_t protocol, uint32_t to, size_t len)
{
	uint8_t *ip = begin_frame(s, 34 + len, 4, 0x0800);

	ip[0] = 0x45;
	ip[2] = (20 + len) >> 8;
	ip[3] = 20 + len;
	ip[8] = 64;
	ip[9] = protocol;
	memcpy(ip + 12, "\x0a\x00\x02\x0f", 4);
	for (unsigned i = 0; i < 4; i++)
		ip[16 + i] = to >> (24 - 8 * i);
	return ip + 20;
}

static uint8_t *put_udp(struct seed *s, uint32_t to, uint16_t from_port, uint16_t port, size_t len)
{
	uint8_t *udp = put_ip(s, 17, to, 8 + len);

	udp[0] = from_port >> 8;
	udp[1] = from_port;
	udp[2] = port >> 8;
	udp[3] = port;
	udp[4] = (8 + len) >> 8;
	udp[5] = 8 + len;
	return udp + 8;
}

static void put_arp(struct seed *s)
{
	uint8_t *arp = begin_frame(s, 42, 0, 0x0806);

	memcpy(arp, "\x00\x01\x08\x00\x06\x04\x00\x01\x02\x77\x69\x73\x70\x00\x0a\x00\x02\x0f", 18);
	memcpy(arp + 24, "\x0a\x00\x02\x02", 4);
}

static void put_dhcp(struct seed *s, uint8_t type)
{
	uint8_t *b = put_udp(s, 0xffffffff, 68, 67, 300);

	memcpy(b, "\x01\x01\x06\x00wisp", 8);
	memcpy(b + 28, "\x02\x77\x69\x73\x70\x00", 6);
	memcpy(b + 236, "\x63\x82\x53\x63\x35\x01", 6);
	b[242] = type;
	memcpy(b + 243, "\x32\x04\x0a\x00\x02\x0f\x37\x03\x01\x03\x06\xff", 12);
}

static void put_tcp(struct seed *s, uint32_t to, uint8_t flags, uint32_t seq, size_t len)
{
	uint8_t *tcp = put_ip(s, 6, to, 20 + len);

	tcp[0] = 0x80;
	tcp[3] = 80;
	tcp[4] = seq >> 24;
	tcp[7] = seq;
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	tcp[14] = 0xff;
}

static void put_icmp6(struct seed *s, uint8_t type, size_t len)
{
	uint8_t *ip = begin_frame(s, 54 + len, 1, 0x86dd);

	ip[0] = 0x60;
	ip[5] = len;
	ip[6] = 58;
	ip[7] = 255;
	memcpy(ip + 8, "\xfe\x80\0\0\0\0\0\0\x00\x77\x69\xff\xfe\x73\x70\x00", 16);
	memcpy(ip + 24, "\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x02", 16);
	ip[40] = type;
}

static int write_seed(const char *dir, const char *name, struct seed *s)
{
	char path[4096];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	if (!f)
		return -errno;
	ok = fwrite(s->data, s->len, 1, f) == 1;
	s->len = 0;
	return fclose(f) == 0 && ok ? 0 : -EIO;
}

int main(int argc, char **argv)
{
	static struct seed s;
	int r;

	if (argc != 2)
		return 2;
	put_arp(&s);
	put_dhcp(&s, 1);
	put_dhcp(&s, 3);
	r = write_seed(argv[1], "up", &s);
	memcpy(put_udp(&s, 0x0a000203, 4000, 53, 29),
	       "\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04wisp\x04test",
	       22);
	memcpy(put_udp(&s, 0x0a000202, 4001, 69, 20), "\0\x01/etc/passwd\0octet", 19);
	r |= write_seed(argv[1], "udp", &s);
	put_ip(&s, 1, 0x0a000202, 64)[0] = 8;
	put_ip(&s, 1, 0x08080808, 64)[0] = 8;
	r |= write_seed(argv[1], "ping", &s);
	put_tcp(&s, 0x0a000202, 2, 1, 0);
	put_tcp(&s, 0x08080808, 2, 1, 0);
	put_tcp(&s, 0x08080808, 0x18, 2, 100);
	put_tcp(&s, 0x7f000001, 2, 1, 0);
	r |= write_seed(argv[1], "tcp", &s);
	put_icmp6(&s, 133, 16);
	put_icmp6(&s, 135, 24);
	put_icmp6(&s, 128, 32);
	r |= write_seed(argv[1], "v6", &s);
	return r ? 1 : 0;
}
