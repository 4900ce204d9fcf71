/*
 * The network device (virtio 1.2, 5.1): frames straight from and into guest
 * memory. The control queue is in virtio_net_ctrl.c, receiving in
 * virtio_net_rx.c; this is the device and what it sends.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"
#include "virtio/virtio_net_internal.h"

#define QUEUE_SIZE	256
#define CTRL_QUEUE_SIZE 64
#define SMALL_IOV	20 /* segments of a frame of single pages, header and linear part */
#define MAX_KEPT	32

struct tx_request {
	struct net_tx tx;
	struct virtio_net *vn;
	struct list link;
	struct virtq_chain chain;
	struct virtio_net_hdr_v1 hdr; /* read once, checked, and this is what is sent */
	uint16_t room;
	struct iovec iov[]; /* one more than @room: the header's */
};

/* ---- sending ---- */

static struct tx_request *request_get(struct virtio_net *vn, const struct virtq_chain *chain)
{
	unsigned n = chain->num_out + chain->num_in;
	unsigned room = MAX(n, (unsigned)SMALL_IOV);
	struct tx_request *req;

	if (room == SMALL_IOV && !list_empty(&vn->kept)) {
		req = list_entry(vn->kept.next, struct tx_request, link);
		list_del(&req->link);
		vn->num_kept--;
	} else {
		req = malloc(sizeof(*req) + (1 + room) * sizeof(req->iov[0]));
		if (!req)
			return NULL;
	}
	req->vn = vn;
	req->room = room;
	req->chain = *chain;
	req->chain.iov = req->iov + 1;
	memcpy(req->chain.iov, chain->iov, n * sizeof(req->iov[0]));
	vn->sending++;
	return req;
}

/* The chain goes back to the driver, its frame sent or dropped. */
static void request_end(struct tx_request *req)
{
	struct virtio_net *vn = req->vn;

	virtq_push(&vn->dev.queue[NET_QUEUE_TX], &req->chain, 0);
	loop_defer(vn->dev.loop, &vn->notify);
	vn->sending--;
	if (req->room == SMALL_IOV && vn->num_kept < MAX_KEPT) {
		list_add_tail(&vn->kept, &req->link);
		vn->num_kept++;
	} else {
		free(req);
	}
}

static void sent(struct net_tx *tx, int res)
{
	struct tx_request *req = container_of(tx, struct tx_request, tx);
	struct virtio_net *vn = req->vn;

	request_end(req);
	net_check_stopped(vn);
}

/* 5.1.6.2.1: only what was negotiated may be asked of the peer. */
static bool header_ok(const struct virtio_net *vn, struct virtio_net_hdr_v1 *h)
{
	static const struct {
		uint8_t type;
		uint8_t feature;
	} gso[] = {
		{ VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_F_HOST_TSO4 },
		{ VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_F_HOST_TSO6 },
	};
	uint8_t type = h->gso_type;

	if (!virtio_has(&vn->dev, VIRTIO_NET_F_CSUM)) {
		/* Nothing in it has a meaning then. */
		memset(h, 0, sizeof(*h));
		return true;
	}
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	h->num_buffers = 0;
	if (type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(gso); i++) {
		if (type == gso[i].type)
			return virtio_has(&vn->dev, gso[i].feature) && h->flags;
	}
	return false;
}

/* Describe the frame by @req->tx: our copy of the header, then the guest's bytes after it. */
static bool prepare(struct tx_request *req)
{
	struct virtq_chain *c = &req->chain;
	size_t skip = sizeof(req->hdr);
	struct iovec *iov = c->iov;
	unsigned n = c->num_out;

	if (c->out_bytes < sizeof(req->hdr) + NET_ETH_HDR ||
	    c->out_bytes > sizeof(req->hdr) + NET_MAX_FRAME)
		return false;
	virtq_copy_out(c, 0, &req->hdr, sizeof(req->hdr));
	if (!header_ok(req->vn, &req->hdr))
		return false;
	while (skip >= iov->iov_len) {
		skip -= iov->iov_len;
		iov++;
		n--;
	}
	iov->iov_base = (uint8_t *)iov->iov_base + skip;
	iov->iov_len -= skip;
	/* Before the first there is always room: iov[0], or a segment just skipped. */
	iov[-1] = (struct iovec){ &req->hdr, sizeof(req->hdr) };
	req->tx.iov = iov - 1;
	req->tx.iovcnt = n + 1;
	return true;
}

/* 1, 0 when there is none, or -errno after which the device has failed. */
static int send_one(struct virtio_net *vn)
{
	struct virtq_chain chain = { .iov = vn->iov, .max_iov = ARRAY_SIZE(vn->iov) };
	struct virtq *q = &vn->dev.queue[NET_QUEUE_TX];
	struct tx_request *req;
	int r = virtq_pop(q, &chain);

	if (r < 0)
		virtio_fail(&vn->dev, "transmit queue: %s", q->why_broken);
	if (r <= 0)
		return r;
	req = request_get(vn, &chain);
	if (!req) {
		virtio_fail(&vn->dev, "transmit queue: no memory for a frame");
		return -ENOMEM;
	}
	req->tx.done = sent;
	if (prepare(req)) {
		vn->net->ops->send(vn->net, &req->tx);
	} else {
		vn->net->tx_dropped++;
		request_end(req);
	}
	return 1;
}

static void send_all(struct virtio_net *vn)
{
	struct virtq *q = &vn->dev.queue[NET_QUEUE_TX];
	unsigned budget = q->size;
	int r;

	do {
		virtq_kicks_off(q);
		while ((r = send_one(vn)) > 0) {
			/* A driver that adds as fast as we take must not hold the loop for ever. */
			if (!--budget) {
				virtio_kick_again(&vn->dev, NET_QUEUE_TX);
				return;
			}
		}
	} while (r == 0 && virtq_kicks_on(q));
}

static void notify(struct loop_task *task)
{
	struct virtio_net *vn = container_of(task, struct virtio_net, notify);

	virtio_notify(&vn->dev, NET_QUEUE_TX);
}

/* ---- the device ---- */

static void net_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtio_net *vn = net_of(dev);

	switch (queue) {
	case NET_QUEUE_RX:
		net_receive(vn);
		break;
	case NET_QUEUE_TX:
		send_all(vn);
		break;
	default:
		net_control(vn);
	}
}

static int net_start(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);
	struct net_offloads accepted = {
		.csum = virtio_has(dev, VIRTIO_NET_F_GUEST_CSUM),
		.tso4 = virtio_has(dev, VIRTIO_NET_F_GUEST_TSO4),
		.tso6 = virtio_has(dev, VIRTIO_NET_F_GUEST_TSO6),
	};

	if (vn->net->ops->set_offloads)
		vn->net->ops->set_offloads(vn->net, &accepted);
	return 0;
}

void net_check_stopped(struct virtio_net *vn)
{
	if (vn->dev.stopping && !vn->sending && !vn->receiving) {
		net_receive_release(vn);
		virtio_stopped(&vn->dev);
	}
}

static void net_stop(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	/* A peer that reads nothing must not hold up a pause: its frames are lost as on a wire. */
	vn->net->ops->cancel_send(vn->net);
	if (vn->receiving)
		vn->net->ops->cancel_recv(vn->net, &vn->rx);
	net_check_stopped(vn);
}

static void net_reset(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	net_set_mac(vn, vn->net->mac);
	vn->status = vn->net->link_up ? VIRTIO_NET_S_LINK_UP : 0;
}

static bool net_features_ok(const struct virtio_device *dev, uint64_t features)
{
	/* 5.1.3.1: each of these builds on another. */
	static const struct {
		uint8_t feature, needs;
	} rule[] = {
		{ VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM },
		{ VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM },
		{ VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM },
		{ VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM },
		{ VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ },
		{ VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ },
		{ VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rule); i++) {
		if ((features & (1ull << rule[i].feature)) && !(features & (1ull << rule[i].needs)))
			return false;
	}
	return true;
}

static void link_changed(struct net *n, void *arg)
{
	struct virtio_net *vn = arg;

	if (n->link_up)
		atomic_fetch_or(&vn->status, VIRTIO_NET_S_LINK_UP);
	else
		atomic_fetch_and(&vn->status, ~VIRTIO_NET_S_LINK_UP);
	virtio_config_changed(&vn->dev);
	if (n->link_up)
		net_receive(vn);
}

/* A copy of another machine: switches have to learn where this address lives now. */
static void net_identity_changed(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	if (vn->net->ops->announce)
		vn->net->ops->announce(vn->net);
	if (virtio_has(dev, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
		atomic_fetch_or(&vn->status, VIRTIO_NET_S_ANNOUNCE);
		virtio_config_changed(dev);
	}
}

/* ---- configuration space, 5.1.4 ---- */

void net_set_mac(struct virtio_net *vn, const uint8_t mac[6])
{
	uint64_t v = 0;

	memcpy(&v, mac, 6);
	/* One store: a vCPU may read it now. */
	atomic_store(&vn->mac, v);
}

static void net_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	struct virtio_net *vn = net_of(dev);
	uint64_t mac = atomic_load(&vn->mac);
	struct virtio_net_config c = {
		.status = htole16(atomic_load(&vn->status)),
		.max_virtqueue_pairs = htole16(1),
		.mtu = htole16(vn->net->mtu ? vn->net->mtu : NET_DEFAULT_MTU),
		.speed = htole32(10000),
		.duplex = 1,
	};

	memcpy(c.mac, &mac, sizeof(c.mac));
	memcpy(data, (const uint8_t *)&c + offset, len);
}

/* ---- state ---- */

static void net_save(struct virtio_device *dev, struct state_writer *w)
{
	struct virtio_net *vn = net_of(dev);
	uint64_t mac = atomic_load(&vn->mac);

	state_put_bytes(w, &mac, 6);
	state_put_u8(w, atomic_load(&vn->status) & VIRTIO_NET_S_ANNOUNCE);
}

static int net_load(struct virtio_device *dev, struct state_reader *r)
{
	struct virtio_net *vn = net_of(dev);
	uint8_t mac[6], announce;

	state_get_bytes(r, mac, sizeof(mac));
	announce = state_get_u8(r);
	if (r->failed)
		return r->failed;
	if (announce & ~VIRTIO_NET_S_ANNOUNCE)
		return state_reader_fail(r, "status %#x", announce);
	net_set_mac(vn, mac);
	/* The link is that of this host. */
	vn->status = announce | (vn->net->link_up ? VIRTIO_NET_S_LINK_UP : 0);
	return 0;
}

/* ---- life ---- */

static void net_free(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	net_close(vn->net);
	/* The last completions may have left a notification to do. */
	while (vn->notify.queued)
		loop_run_once(dev->loop, 0);
	while (!list_empty(&vn->kept)) {
		struct tx_request *req = list_entry(vn->kept.next, struct tx_request, link);

		list_del(&req->link);
		free(req);
	}
	virtio_done(dev);
	free(vn);
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000, /* network, Ethernet */
	.config_size = offsetof(struct virtio_net_config, duplex) + 1,
	.features_ok = net_features_ok,
	.start = net_start,
	.stop = net_stop,
	.reset = net_reset,
	.kick = net_kick,
	.config_read = net_config_read,
	.save = net_save,
	.load = net_load,
	.identity_changed = net_identity_changed,
	.free = net_free,
};

static uint64_t features(const struct net *n)
{
	uint64_t f = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS |
		     1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CTRL_VQ |
		     1ull << VIRTIO_NET_F_CTRL_RX | 1ull << VIRTIO_NET_F_CTRL_MAC_ADDR |
		     1ull << VIRTIO_NET_F_GUEST_ANNOUNCE | 1ull << VIRTIO_NET_F_SPEED_DUPLEX;
	const struct {
		bool there;
		uint8_t feature;
	} optional[] = {
		{ n->mtu != 0, VIRTIO_NET_F_MTU },
		{ n->takes.csum, VIRTIO_NET_F_CSUM },
		{ n->takes.tso4, VIRTIO_NET_F_HOST_TSO4 },
		{ n->takes.tso6, VIRTIO_NET_F_HOST_TSO6 },
		{ n->gives.csum, VIRTIO_NET_F_GUEST_CSUM },
		{ n->gives.tso4, VIRTIO_NET_F_GUEST_TSO4 },
		{ n->gives.tso6, VIRTIO_NET_F_GUEST_TSO6 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(optional); i++) {
		if (optional[i].there)
			f |= 1ull << optional[i].feature;
	}
	return f;
}

int virtio_net_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct net *net, struct error *err)
{
	static const uint16_t sizes[NET_NUM_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, CTRL_QUEUE_SIZE };
	struct virtio_params params = *common;
	struct virtio_net *vn = calloc(1, sizeof(*vn));
	int r;

	if (!vn)
		return error_set(err, -ENOMEM, "virtio-net '%s': %m", common->id);
	params.num_queues = NET_NUM_QUEUES;
	params.queue_sizes = sizes;
	params.features = features(net);
	r = virtio_init(&vn->dev, &net_ops, &params, err);
	if (r < 0) {
		free(vn);
		return r;
	}
	vn->net = net;
	vn->notify.run = notify;
	list_init(&vn->kept);
	net_reset(&vn->dev);
	net->link_changed = link_changed;
	net->link_arg = vn;
	*ret_dev = &vn->dev;
	return 0;
}
