/*
 * The guest's side of user networking. What it sends is caught at sendmmsg(), and what it
 * takes comes by a socket; both calls are counted, for that is what they are about.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net.h"
#include "helpers/guest_link.h"

#define MSS	     1460u
#define HEADERS	     54u /* Ethernet, IPv4 and TCP */
#define MAX_MESSAGES 64

struct fixture {
	struct guest_link *link;
	int peer, fd;
	/* What was given to sendmmsg(). */
	unsigned sends, num;
	struct virtio_net_hdr_v1 hdr[MAX_MESSAGES];
	uint8_t *frame[MAX_MESSAGES];
	size_t len[MAX_MESSAGES];
	/* What its next calls return, when it is not all: 0 ends the list. */
	int answers[4];
	/* What was taken. */
	unsigned receives, taken, last;
};

/* The one under test: the functions that stand for system calls have no argument of ours. */
static struct fixture *now;

int __real_recvmmsg(int fd, struct mmsghdr *msg, unsigned n, int flags, struct timespec *t);
int __wrap_recvmmsg(int fd, struct mmsghdr *msg, unsigned n, int flags, struct timespec *t);
int __wrap_sendmmsg(int fd, struct mmsghdr *msg, unsigned n, int flags);

int __wrap_recvmmsg(int fd, struct mmsghdr *msg, unsigned n, int flags, struct timespec *t)
{
	now->receives++;
	return __real_recvmmsg(fd, msg, n, flags, t);
}

int __wrap_sendmmsg(int fd, struct mmsghdr *msg, unsigned n, int flags)
{
	int answer = now->sends < ARRAY_SIZE(now->answers) ? now->answers[now->sends] : 0;

	now->sends++;
	if (answer < 0) {
		errno = -answer;
		return -1;
	}
	n = answer ? (unsigned)answer : n;
	for (unsigned i = 0; i < n; i++) {
		const struct msghdr *m = &msg[i].msg_hdr;
		unsigned at = now->num++;

		assert_true(at < MAX_MESSAGES);
		assert_int_equal(m->msg_iovlen, 2);
		assert_int_equal(m->msg_iov[0].iov_len, sizeof(now->hdr[at]));
		memcpy(&now->hdr[at], m->msg_iov[0].iov_base, sizeof(now->hdr[at]));
		now->len[at] = m->msg_iov[1].iov_len;
		now->frame[at] = malloc(now->len[at]);
		memcpy(now->frame[at], m->msg_iov[1].iov_base, now->len[at]);
	}
	return n;
}

static void begin(struct fixture *f)
{
	int pair[2];

	*f = (struct fixture){ 0 };
	now = f;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	f->peer = pair[0];
	f->fd = pair[1];
	f->link = guest_link_create(f->fd);
	assert_non_null(f->link);
}

static void end(struct fixture *f)
{
	for (unsigned i = 0; i < f->num; i++)
		free(f->frame[i]);
	guest_link_free(f->link);
	close(f->fd);
	if (f->peer >= 0)
		close(f->peer);
}

static void take(void *arg, const struct virtio_net_hdr_v1 *hdr, uint8_t *frame, size_t len)
{
	struct fixture *f = arg;

	f->taken++;
	f->last = frame[0];
}

static void receive(struct fixture *f)
{
	guest_link_receive(f->link, take, f);
}

static void peer_sends(struct fixture *f, const void *message, size_t len)
{
	assert_int_equal(send(f->peer, message, len, 0), len);
}

/* The guest takes TCP segments of IPv4 whole. */
static void say_hello(struct fixture *f)
{
	const struct net_hello hello = { htole32(NET_HELLO_MAGIC),
					 htole32(NET_HELLO_CSUM | NET_HELLO_TSO4) };

	peer_sends(f, &hello, sizeof(hello));
	receive(f);
}

/* Segment @index of @stream, with @payload bytes; all but the last of a run have MSS. */
static void send_segment(struct fixture *f, uint8_t stream, unsigned index, size_t payload)
{
	uint8_t frame[HEADERS + MSS] = { [12] = 0x08, [14] = 0x45, [23] = 6 };
	unsigned packet = HEADERS - NET_ETH_HDR + payload, sequence = index * MSS;

	frame[16] = packet >> 8;
	frame[17] = packet;
	frame[35] = stream;
	frame[38] = sequence >> 24;
	frame[39] = sequence >> 16;
	frame[40] = sequence >> 8;
	frame[41] = sequence;
	frame[46] = 5 << 4;
	frame[47] = 0x10;
	memset(frame + HEADERS, index, payload);
	guest_link_send(f->link, frame, HEADERS + payload);
}

/* ---- to the guest ---- */

static void a_window_of_segments_is_one_frame_and_one_call(void **state)
{
	struct fixture f;

	begin(&f);
	say_hello(&f);
	for (unsigned i = 0; i < 44; i++)
		send_segment(&f, 1, i, MSS);
	assert_int_equal(f.sends, 0);
	guest_link_flush(f.link);
	assert_int_equal(f.sends, 1);
	assert_int_equal(f.num, 1);
	assert_int_equal(f.len[0], HEADERS + 44 * MSS);
	assert_int_equal(f.hdr[0].gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(le16toh(f.hdr[0].gso_size), MSS);
	for (unsigned i = 0; i < 44; i++)
		assert_int_equal(f.frame[0][HEADERS + i * MSS], i);
	guest_link_flush(f.link);
	assert_int_equal(f.sends, 1);
	end(&f);
}

static void frames_that_do_not_join_go_out_together_and_in_order(void **state)
{
	struct fixture f;

	begin(&f);
	for (unsigned i = 0; i < 40; i++)
		send_segment(&f, 1, i, 10);
	guest_link_flush(f.link);
	/* 32 and 8. */
	assert_int_equal(f.sends, 2);
	assert_int_equal(f.num, 40);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(f.len[i], HEADERS + 10);
		assert_int_equal(f.frame[i][HEADERS], i);
		assert_int_equal(f.hdr[i].flags, VIRTIO_NET_HDR_F_DATA_VALID);
	}
	end(&f);
}

/* Two streams in turns, with what joins with nothing between them. */
static void the_order_of_a_turn_is_kept(void **state)
{
	static const uint8_t stream[] = { 1, 9, 2, 1, 9, 2 };
	struct fixture f;

	begin(&f);
	say_hello(&f);
	for (unsigned run = 0; run < ARRAY_SIZE(stream); run++) {
		if (stream[run] == 9)
			send_segment(&f, 9, 100 + run, 0);
		else
			for (unsigned i = 0; i < 5; i++)
				send_segment(&f, stream[run], run * 5 + i, MSS);
	}
	guest_link_flush(f.link);
	/* What two joined frames take is there; the third and fourth are a call of their own. */
	assert_int_equal(f.sends, 2);
	assert_int_equal(f.num, ARRAY_SIZE(stream));
	for (unsigned run = 0; run < ARRAY_SIZE(stream); run++) {
		assert_int_equal(f.frame[run][35], stream[run]);
		assert_int_equal(f.len[run], stream[run] == 9 ? HEADERS : HEADERS + 5 * MSS);
	}
	end(&f);
}

/* As many as fit in a call, just before something is joined. */
static void a_full_call_makes_room_for_what_joins(void **state)
{
	struct fixture f;

	begin(&f);
	say_hello(&f);
	for (unsigned i = 0; i < 32; i++)
		send_segment(&f, 9, i, 0);
	assert_int_equal(f.sends, 1);
	for (unsigned i = 0; i < 3; i++)
		send_segment(&f, 1, i, MSS);
	guest_link_flush(f.link);
	assert_int_equal(f.sends, 2);
	assert_int_equal(f.num, 33);
	assert_int_equal(f.len[32], HEADERS + 3 * MSS);
	end(&f);
}

static void frames_of_64k_need_no_more_memory(void **state)
{
	uint8_t *frame = calloc(1, NET_MAX_FRAME + 1);
	struct fixture f;

	begin(&f);
	for (unsigned i = 0; i < 3; i++) {
		frame[0] = i;
		guest_link_send(f.link, frame, NET_MAX_FRAME);
	}
	/* No such frame exists. */
	guest_link_send(f.link, frame, NET_MAX_FRAME + 1);
	guest_link_flush(f.link);
	assert_int_equal(f.num, 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(f.len[i], NET_MAX_FRAME);
		assert_int_equal(f.frame[i][0], i);
	}
	free(frame);
	end(&f);
}

static void a_call_that_takes_some_is_made_again_for_the_rest(void **state)
{
	struct fixture f;

	begin(&f);
	f.answers[0] = 3;
	f.answers[1] = -EINTR;
	f.answers[2] = -EMSGSIZE; /* one that cannot be sent does not hold up the others */
	for (unsigned i = 0; i < 6; i++)
		send_segment(&f, 1, i, 10);
	guest_link_flush(f.link);
	assert_int_equal(f.sends, 4);
	assert_int_equal(f.num, 5);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(f.frame[i][HEADERS], i < 3 ? i : i + 1);
	end(&f);
}

static void a_guest_that_takes_nothing_is_waited_for_once(void **state)
{
	uint8_t *much = calloc(1, 60000);
	struct fixture f;

	begin(&f);
	/* Its socket is full, and the calls say so. */
	while (send(f.fd, much, 60000, MSG_DONTWAIT) > 0)
		;
	f.answers[0] = f.answers[1] = -EAGAIN;
	for (unsigned turn = 1; turn <= 2; turn++) {
		send_segment(&f, 1, 1, 10);
		send_segment(&f, 1, 2, 10);
		guest_link_flush(f.link);
		assert_int_equal(f.sends, turn);
		assert_int_equal(f.num, 0);
	}
	/* Those are lost, and the next are not. */
	send_segment(&f, 1, 3, 10);
	guest_link_flush(f.link);
	assert_int_equal(f.num, 1);
	assert_int_equal(f.frame[0][HEADERS], 3);
	/* Full again: now it is worth a wait, and this time there is room. */
	while (recv(f.peer, much, 60000, MSG_DONTWAIT) > 0)
		;
	f.answers[3] = -EAGAIN;
	send_segment(&f, 1, 4, 10);
	guest_link_flush(f.link);
	assert_int_equal(f.sends, 5);
	assert_int_equal(f.num, 2);
	assert_false(guest_link_ended(f.link));
	free(much);
	end(&f);
}

/* ---- from the guest ---- */

static void a_burst_is_taken_by_one_call(void **state)
{
	uint8_t message[NET_VNET_HDR + 60] = { 0 };
	struct fixture f;

	begin(&f);
	for (unsigned i = 0; i < 7; i++) {
		message[NET_VNET_HDR] = i;
		peer_sends(&f, message, sizeof(message));
	}
	receive(&f);
	assert_int_equal(f.receives, 1);
	assert_int_equal(f.taken, 7);
	assert_int_equal(f.last, 6);
	/* Nothing there is no end. */
	receive(&f);
	assert_int_equal(f.receives, 2);
	assert_false(guest_link_ended(f.link));
	end(&f);
}

static void what_is_no_frame_is_dropped(void **state)
{
	uint8_t *message = calloc(1, 70000);
	struct fixture f;

	begin(&f);
	message[NET_VNET_HDR] = 1;
	peer_sends(&f, message, 1);
	peer_sends(&f, message, 8); /* a greeting of somebody else's */
	peer_sends(&f, message, NET_VNET_HDR);
	peer_sends(&f, message, NET_VNET_HDR + NET_MAX_FRAME + 1);
	message[NET_VNET_HDR] = 2;
	peer_sends(&f, message, NET_VNET_HDR + NET_MAX_FRAME);
	receive(&f);
	assert_int_equal(f.taken, 1);
	assert_int_equal(f.last, 2);
	free(message);
	end(&f);
}

static void the_end_comes_after_the_last_frame(void **state)
{
	uint8_t message[NET_VNET_HDR + 60] = { 0 };
	struct fixture f;

	begin(&f);
	peer_sends(&f, message, sizeof(message));
	close(f.peer);
	f.peer = -1;
	receive(&f);
	assert_int_equal(f.taken, 1);
	assert_true(guest_link_ended(f.link));
	end(&f);

	begin(&f);
	f.answers[0] = -EPIPE;
	send_segment(&f, 1, 1, 10);
	guest_link_flush(f.link);
	assert_true(guest_link_ended(f.link));
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_window_of_segments_is_one_frame_and_one_call),
		cmocka_unit_test(frames_that_do_not_join_go_out_together_and_in_order),
		cmocka_unit_test(the_order_of_a_turn_is_kept),
		cmocka_unit_test(a_full_call_makes_room_for_what_joins),
		cmocka_unit_test(frames_of_64k_need_no_more_memory),
		cmocka_unit_test(a_call_that_takes_some_is_made_again_for_the_rest),
		cmocka_unit_test(a_guest_that_takes_nothing_is_waited_for_once),
		cmocka_unit_test(a_burst_is_taken_by_one_call),
		cmocka_unit_test(what_is_no_frame_is_dropped),
		cmocka_unit_test(the_end_comes_after_the_last_frame),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
