/*
 * Fuzz target (libFuzzer): a hostile guest of user networking. The input is a run
 * of frames, each with its length (two bytes) and a byte of choices in front; they go
 * through the filter and libslirp as a guest's do. Sums of IP and TCP are made good
 * for most, or nothing would get past them. What it connects to lies in a network
 * namespace of its own with nothing in it.
 */
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "devices/net.h"
#include "devices/net_offload.h"
#include "helpers/user_net.h"

#define MAX_FRAME 9000u

/* The byte of choices. */
enum { SUMS_AS_THEY_ARE = 1, NO_VNET_HEADER = 2, HELLO = 4 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool alone; /* nothing of this host can be reached */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	alone = unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 || unshare(CLONE_NEWNET) == 0;
	return 0;
}

/* The header's sum of IPv4, and a request for that of TCP, where the frame has room for them. */
static void make_good(uint8_t *frame, size_t len, struct virtio_net_hdr_v1 *hdr)
{
	size_t header = (frame[14] & 15) * 4u;
	uint16_t sum;

	if (len < 34 || frame[12] != 0x08 || frame[13] != 0x00 || header < 20 || len < 14 + header)
		return;
	memset(frame + 24, 0, 2);
	sum = net_checksum(frame + 14, header);
	memcpy(frame + 24, &sum, sizeof(sum));
	if (frame[23] == IPPROTO_TCP && len >= 14 + header + 20) {
		size_t tcp = len - 14 - header;
		uint8_t pseudo[12] = { [9] = IPPROTO_TCP, [10] = tcp >> 8, [11] = tcp };

		memcpy(pseudo, frame + 26, 8);
		sum = ~net_checksum(pseudo, sizeof(pseudo));
		memcpy(frame + 14 + header + 16, &sum, sizeof(sum));
		hdr->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		hdr->csum_start = htole16(14 + header);
		hdr->csum_offset = htole16(16);
	} else if (frame[23] == IPPROTO_UDP && len >= 14 + header + 8) {
		memset(frame + 14 + header + 6, 0, 2); /* none */
	}
}

static void send_frame(int fd, const uint8_t *data, size_t len, uint8_t choices)
{
	struct net_hello hello = { htole32(NET_HELLO_MAGIC), htole32(choices) };
	struct virtio_net_hdr_v1 hdr = { 0 };
	uint8_t frame[MAX_FRAME] = { 0 };
	struct iovec iov[2] = { { &hdr, sizeof(hdr) }, { frame, len } };

	memcpy(frame, data, len);
	if (!(choices & SUMS_AS_THEY_ARE))
		make_good(frame, len, &hdr);
	if (choices & HELLO)
		send(fd, &hello, sizeof(hello), MSG_DONTWAIT);
	if (choices & NO_VNET_HEADER)
		send(fd, frame, len, MSG_DONTWAIT);
	else if (writev(fd, iov, 2) < 0)
		return; /* enough for one turn */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct user_net_config config = {
		.control_fd = -1,
		.network.s_addr = htonl(0x0a000200),
		.mask.s_addr = htonl(0xffffff00),
		.host.s_addr = htonl(0x0a000202),
		.dns.s_addr = htonl(0x0a000203),
		.dhcp_start.s_addr = htonl(0x0a00020f),
		.ipv6 = true,
		.restrict_out = !alone,
		.mtu = 1500,
	};
	struct user_net *un;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	config.fd = pair[0];
	if (user_net_create(&un, &config, NULL) < 0)
		abort();
	while (size > 3) {
		size_t len = MIN((size_t)get_le16(data) % MAX_FRAME, size - 3);

		send_frame(pair[1], data + 3, len, data[2]);
		data += 3 + len;
		size -= 3 + len;
	}
	/* What is there is still read; then it ends. */
	shutdown(pair[1], SHUT_WR);
	user_net_run(un);
	user_net_free(un);
	close(pair[0]);
	close(pair[1]);
	return 0;
}
