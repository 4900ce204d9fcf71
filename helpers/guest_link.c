#include "helpers/guest_link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "devices/net.h"
#include "devices/net_tso.h"

/* Frames taken in a call, and calls until the host's sockets have their turn. */
#define TAKEN	   8u
#define TAKE_CALLS 4u

/* Frames sent in a call; of them joined ones, which stay where they were put together. */
#define SENT   32u
#define JOINED 2u

/* How long a guest that takes no frames can hold everything up before they are dropped. */
#define FULL_WAIT_MS 100

struct taken {
	struct virtio_net_hdr_v1 hdr;
	uint8_t frame[NET_MAX_FRAME];
};

struct guest_link {
	int fd;
	bool ended;
	bool full; /* the last frame had to be dropped */
	bool takes_tso4, takes_tso6;
	void (*forget)(void *arg);
	void *forget_arg;

	/* What waits to be sent, in order. Behind it comes what join[@joined] holds. */
	struct mmsghdr msg[SENT];
	struct iovec iov[SENT][2];
	struct virtio_net_hdr_v1 hdr[SENT];
	unsigned num, joined;
	size_t copied;
	uint8_t copies[NET_MAX_FRAME];
	struct net_tso_join join[JOINED];

	/* Pages of these, and of what is above, exist only where a frame once was. */
	struct taken taken[TAKEN];
};

struct guest_link *guest_link_create(int fd)
{
	struct guest_link *l = calloc(1, sizeof(*l));

	if (l)
		l->fd = fd;
	return l;
}

void guest_link_free(struct guest_link *l)
{
	free(l);
}

bool guest_link_ended(const struct guest_link *l)
{
	return l->ended;
}

void guest_link_on_forget(struct guest_link *l, void (*forget)(void *arg), void *arg)
{
	l->forget = forget;
	l->forget_arg = arg;
}

/* ---- to the guest ---- */

/* Returns false when the guest still takes nothing after a while. */
static bool wait_for_room(const struct guest_link *l)
{
	struct pollfd p = { .fd = l->fd, .events = POLLOUT };

	/* A guest that has not caught up since is not waited for again. */
	if (l->full)
		return false;
	return poll(&p, 1, FULL_WAIT_MS) > 0 && (p.revents & POLLOUT);
}

static void send_all(struct guest_link *l)
{
	unsigned done = 0;

	while (done < l->num && !l->ended) {
		int n = sendmmsg(l->fd, l->msg + done, l->num - done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			l->full = false;
			done += n;
		} else if (errno == EAGAIN) {
			if (wait_for_room(l))
				continue;
			/* The rest is lost as on a wire: TCP sends it again. */
			l->full = true;
			break;
		} else if (errno == EPIPE) {
			l->ended = true;
		} else if (errno != EINTR) {
			/* One that cannot be sent must not hold up those behind it. */
			done++;
		}
	}
	l->num = 0;
	l->joined = 0;
	l->copied = 0;
}

/* @frame stays as it is until it has been sent. There is room for one more of any kind after it. */
static void put(struct guest_link *l, const struct virtio_net_hdr_v1 *hdr, void *frame, size_t len)
{
	unsigned i = l->num++;

	l->hdr[i] = *hdr;
	l->iov[i][0] = (struct iovec){ &l->hdr[i], sizeof(l->hdr[i]) };
	l->iov[i][1] = (struct iovec){ frame, len };
	l->msg[i].msg_hdr = (struct msghdr){ .msg_iov = l->iov[i], .msg_iovlen = 2 };
	if (l->num == SENT || l->joined == JOINED)
		send_all(l);
}

/* What was being joined is complete. */
static void put_joined(struct guest_link *l)
{
	struct net_tso_join *j = &l->join[l->joined];
	struct virtio_net_hdr_v1 hdr;
	size_t len = net_tso_joined(j, &hdr);

	if (!len)
		return;
	l->joined++;
	put(l, &hdr, j->frame, len);
}

static bool is_v6(const uint8_t *frame, size_t len)
{
	return len > NET_ETH_HDR && frame[12] == 0x86 && frame[13] == 0xdd;
}

void guest_link_send(struct guest_link *l, const void *frame, size_t len)
{
	const struct virtio_net_hdr_v1 hdr = {
		/* Every checksum is right; the guest need not look at them again. */
		.flags = VIRTIO_NET_HDR_F_DATA_VALID,
		.num_buffers = htole16(1),
	};
	bool join = is_v6(frame, len) ? l->takes_tso6 : l->takes_tso4;
	uint8_t *copy;

	if (len > sizeof(l->copies))
		return;
	if (join && net_tso_join(&l->join[l->joined], frame, len))
		return;
	put_joined(l);
	if (join && net_tso_join(&l->join[l->joined], frame, len))
		return;
	if (l->copied + len > sizeof(l->copies))
		send_all(l);
	copy = memcpy(l->copies + l->copied, frame, len);
	l->copied += len;
	put(l, &hdr, copy, len);
}

void guest_link_flush(struct guest_link *l)
{
	put_joined(l);
	send_all(l);
}

/* ---- from the guest ---- */

/* The guest is at another time: nothing of the old one follows the answer. */
static void forget(struct guest_link *l, const struct net_forget *word)
{
	struct virtio_net_hdr_v1 unused;

	net_tso_joined(&l->join[l->joined], &unused);
	l->num = l->joined = 0;
	l->copied = 0;
	if (l->forget)
		l->forget(l->forget_arg);
	/* There is room: who asks takes all that comes until it has the answer. */
	while (send(l->fd, word, sizeof(*word), MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

/* Too short for a frame: what the guest takes, or that it knows nothing of all this any more. */
static void take_word(struct guest_link *l, const void *message)
{
	struct net_hello hello;

	_Static_assert(sizeof(struct net_forget) == sizeof(hello), "they are told apart by magic");
	memcpy(&hello, message, sizeof(hello));
	if (le32toh(hello.magic) == NET_FORGET_MAGIC)
		forget(l, message);
	if (le32toh(hello.magic) != NET_HELLO_MAGIC)
		return;
	l->takes_tso4 = le32toh(hello.takes) & NET_HELLO_TSO4;
	l->takes_tso6 = le32toh(hello.takes) & NET_HELLO_TSO6;
}

void guest_link_receive(struct guest_link *l,
			void (*take)(void *arg, const struct virtio_net_hdr_v1 *hdr, uint8_t *frame,
				     size_t len),
			void *arg)
{
	struct iovec iov[TAKEN];
	struct mmsghdr msg[TAKEN];
	unsigned calls = 0;
	int n;

	do {
		for (unsigned i = 0; i < TAKEN; i++) {
			iov[i] = (struct iovec){ &l->taken[i], sizeof(l->taken[i]) };
			msg[i].msg_hdr = (struct msghdr){ .msg_iov = &iov[i], .msg_iovlen = 1 };
		}
		n = recvmmsg(l->fd, msg, TAKEN, MSG_DONTWAIT, NULL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			l->ended = true;
		for (int i = 0; i < n && !l->ended; i++) {
			struct taken *t = &l->taken[i];
			size_t len = msg[i].msg_len;

			if (!len) /* nobody sends empty messages: this is the end */
				l->ended = true;
			else if (len == sizeof(struct net_hello))
				take_word(l, t);
			else if (len > sizeof(t->hdr) && !(msg[i].msg_hdr.msg_flags & MSG_TRUNC))
				take(arg, &t->hdr, t->frame, len - sizeof(t->hdr));
		}
		/* Fewer than there was room for: that was all. */
	} while (n == TAKEN && ++calls < TAKE_CALLS && !l->ended);
}
