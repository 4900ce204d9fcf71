/* A service on a guest's link: what goes to it, what comes from it, and the network beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_divert.h"
#include "tests/unit/loop_fixture.h"

#define FRAME 60 /* with its header */

struct fixture {
	struct loop *loop;
	struct net *net;
	int network, service; /* the other ends */

	uint8_t room[200];
	struct iovec iov;
	struct net_rx rx;
	int received; /* its result, or 1 << 20 */
	struct net_tx tx;
	int sent;
};

static int attach(struct fixture *f)
{
	int pair[2], r;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	r = net_divert_attach(f->net, pair[0]);
	if (r < 0) {
		close(pair[0]);
		close(pair[1]);
	} else {
		f->service = pair[1];
	}
	return r;
}

static int setup(void **state)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
	struct fixture *f = calloc(1, sizeof(*f));
	struct in_addr address = { inet_addr("169.254.169.254") };
	int pair[2];

	f->loop = loop_fixture_create(NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(net_open_socket(&f->net, pair[0], mac, NULL), 0);
	net_attach(f->net, f->loop);
	assert_int_equal(net_divert_attach(f->net, -1), -EOPNOTSUPP);
	assert_int_equal(net_divert_create(&f->net, f->net, address, NULL), 0);
	f->network = pair[1];
	assert_int_equal(attach(f), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	net_close(f->net);
	close(f->network);
	close(f->service);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void tx_done(struct net_tx *tx, int res)
{
	container_of(tx, struct fixture, tx)->sent = res;
}

static void run(struct fixture *f)
{
	while (loop_run_once(f->loop, NSEC_PER_MSEC))
		;
}

/* The guest sends a frame of @type whose address is at @offset from its header's end on. */
static void guest_sends(struct fixture *f, uint16_t type, size_t offset, const char *address)
{
	uint8_t frame[FRAME] = { 0 };
	in_addr_t a = inet_addr(address);
	/* In pieces, as guests do. */
	struct iovec iov[] = { { frame, 12 }, { frame + 12, 20 }, { frame + 32, FRAME - 32 } };

	type = htons(type);
	memcpy(frame + NET_VNET_HDR + 12, &type, 2);
	memcpy(frame + NET_VNET_HDR + ETH_HLEN + offset, &a, 4);
	f->tx = (struct net_tx){ .iov = iov, .iovcnt = 3, .done = tx_done };
	f->sent = 1;
	f->net->ops->send(f->net, &f->tx);
	assert_int_equal(f->sent, 1);
	run(f);
	assert_int_equal(f->sent, 0);
}

static bool hears(int fd)
{
	uint8_t data[200];

	return recv(fd, data, sizeof(data), 0) == FRAME;
}

static void frames_for_the_address_go_to_the_service(void **state)
{
	struct fixture *f = *state;

	guest_sends(f, ETHERTYPE_IP, 16, "169.254.169.254");
	assert_true(hears(f->service));
	guest_sends(f, ETHERTYPE_ARP, 24, "169.254.169.254");
	assert_true(hears(f->service));
	assert_false(hears(f->network));
}

static void all_others_go_to_the_network(void **state)
{
	struct fixture *f = *state;

	guest_sends(f, ETHERTYPE_IP, 16, "169.254.169.253");
	assert_true(hears(f->network));
	guest_sends(f, ETHERTYPE_ARP, 24, "10.0.0.1");
	assert_true(hears(f->network));
	guest_sends(f, ETHERTYPE_IPV6, 16, "169.254.169.254");
	assert_true(hears(f->network));
	/* The address as a sender's is none of the service's business. */
	guest_sends(f, ETHERTYPE_IP, 12, "169.254.169.254");
	assert_true(hears(f->network));
	assert_false(hears(f->service));
}

static void rx_done(struct net_rx *rx, int res)
{
	container_of(rx, struct fixture, rx)->received = res;
}

static void receive(struct fixture *f)
{
	f->iov = (struct iovec){ f->room, sizeof(f->room) };
	f->rx = (struct net_rx){ .iov = &f->iov, .iovcnt = 1, .done = rx_done };
	f->received = 1 << 20;
	f->net->ops->recv(f->net, &f->rx);
	run(f);
}

/* As the device does: after a wait comes a look. */
static int receive_and_look(struct fixture *f)
{
	if (f->received != -ECANCELED)
		return f->received;
	return f->net->ops->recv_now(f->net, &f->rx);
}

static void both_are_waited_for(void **state)
{
	struct fixture *f = *state;

	/* What the attaching has ended. */
	receive(f);
	assert_int_equal(receive_and_look(f), -EAGAIN);
	receive(f);
	assert_int_equal(f->received, 1 << 20);
	assert_int_equal(write(f->service, "from the service, a frame", 25), 25);
	run(f);
	assert_int_equal(receive_and_look(f), 25);
	assert_memory_equal(f->room, "from the service, a frame", 25);

	assert_int_equal(f->net->ops->recv_now(f->net, &f->rx), -EAGAIN);
	receive(f);
	assert_int_equal(write(f->network, "and from the network", 20), 20);
	run(f);
	assert_int_equal(receive_and_look(f), 20);
	assert_memory_equal(f->room, "and from the network", 20);
}

static void what_came_unseen_is_found(void **state)
{
	struct fixture *f = *state;

	/* While nobody receives, as during a pause. */
	assert_int_equal(write(f->service, "early, but a frame", 18), 18);
	run(f);
	receive(f);
	assert_int_equal(receive_and_look(f), 18);
}

static void waiting_can_be_ended(void **state)
{
	struct fixture *f = *state;

	receive(f);
	assert_int_equal(receive_and_look(f), -EAGAIN);
	receive(f);
	f->net->ops->cancel_recv(f->net, &f->rx);
	run(f);
	assert_int_equal(f->received, -ECANCELED);
}

static void a_service_that_ends_leaves_the_network(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(attach(f), -EBUSY);
	close(f->service);
	receive(f);
	assert_int_equal(receive_and_look(f), -EAGAIN);
	guest_sends(f, ETHERTYPE_IP, 16, "169.254.169.254");
	assert_int_equal(f->net->tx_dropped, 1);
	assert_int_equal(attach(f), 0);
	guest_sends(f, ETHERTYPE_IP, 16, "169.254.169.254");
	assert_true(hears(f->service));
}

static void a_slow_service_loses_frames_and_holds_nothing_up(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 2000 && !f->net->tx_dropped; i++)
		guest_sends(f, ETHERTYPE_IP, 16, "169.254.169.254");
	assert_true(f->net->tx_dropped > 0);
	guest_sends(f, ETHERTYPE_IP, 16, "10.0.0.1");
	assert_true(hears(f->network));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(frames_for_the_address_go_to_the_service),
		T(all_others_go_to_the_network),
		T(both_are_waited_for),
		T(what_came_unseen_is_found),
		T(waiting_can_be_ended),
		T(a_service_that_ends_leaves_the_network),
		T(a_slow_service_loses_frames_and_holds_nothing_up),
	};

	return loop_fixture_run("divert", tests, ARRAY_SIZE(tests));
}
