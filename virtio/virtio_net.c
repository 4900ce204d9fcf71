/*
 * The network device (virtio 1.2, 5.1): frames straight from and into guest
 * memory. The control queue is in virtio_net_ctrl.c, receiving in
 * virtio_net_rx.c; this is the device and what it sends.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"
#include "virtio/virtio_net_internal.h"
#include "vmm/core/iov.h"
#include "vmm/core/log.h"

#define QUEUE_SIZE	256
#define CTRL_QUEUE_SIZE 64
#define SMALL_IOV	20 /* segments of a frame of single pages, header and linear part */
#define MAX_KEPT	32

struct tx_request {
	struct net_tx tx;
	struct net_pair *pair;
	struct list link;
	struct virtq_chain chain;
	struct virtio_net_hdr_v1 hdr; /* read once, checked, and this is what is sent */
	uint16_t room;
	struct iovec iov[]; /* one more than @room: the header's */
};

/* ---- sending ---- */

static struct tx_request *request_get(struct net_pair *p, const struct virtq_chain *chain)
{
	unsigned n = chain->num_out + chain->num_in;
	unsigned room = MAX(n, (unsigned)SMALL_IOV);
	struct tx_request *req;

	if (room == SMALL_IOV && !list_empty(&p->kept)) {
		req = list_entry(p->kept.next, struct tx_request, link);
		list_del(&req->link);
		p->num_kept--;
	} else {
		req = malloc(sizeof(*req) + (1 + room) * sizeof(req->iov[0]));
		if (!req)
			return NULL;
	}
	req->pair = p;
	req->room = room;
	req->chain = *chain;
	req->chain.iov = req->iov + 1;
	memcpy(req->chain.iov, chain->iov, n * sizeof(req->iov[0]));
	p->sending++;
	return req;
}

/* The chain goes back to the driver, its frame sent or dropped. */
static void request_end(struct tx_request *req)
{
	struct net_pair *p = req->pair;

	virtq_push(p->txq, &req->chain, 0);
	loop_defer(p->vn->dev.loop, &p->notify);
	p->sending--;
	if (req->room == SMALL_IOV && p->num_kept < MAX_KEPT) {
		list_add_tail(&p->kept, &req->link);
		p->num_kept++;
	} else {
		free(req);
	}
}

static void sent(struct net_tx *tx, int res)
{
	struct tx_request *req = container_of(tx, struct tx_request, tx);
	struct net_pair *p = req->pair;

	request_end(req);
	net_check_stopped(p->vn);
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
		{ NET_GSO_UDP_L4, VIRTIO_NET_F_HOST_USO },
	};
	uint8_t type = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	if (!virtio_has(&vn->dev, VIRTIO_NET_F_CSUM)) {
		/* Nothing in it has a meaning then. */
		memset(h, 0, sizeof(*h));
		return true;
	}
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	h->num_buffers = 0;
	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	if (h->gso_type != type && !virtio_has(&vn->dev, VIRTIO_NET_F_HOST_ECN))
		return false;
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
	struct iovec *iov = c->iov;
	unsigned n;

	if (c->out_bytes < sizeof(req->hdr) + NET_ETH_HDR ||
	    c->out_bytes > sizeof(req->hdr) + NET_MAX_FRAME)
		return false;
	virtq_copy_out(c, 0, &req->hdr, sizeof(req->hdr));
	if (!header_ok(req->pair->vn, &req->hdr))
		return false;
	n = iov_advance(&iov, c->num_out, sizeof(req->hdr));
	/* Before the first there is always room: iov[0], or a segment just skipped. */
	iov[-1] = (struct iovec){ &req->hdr, sizeof(req->hdr) };
	req->tx.iov = iov - 1;
	req->tx.iovcnt = n + 1;
	return true;
}

bool net_must_wait(struct net_pair *p, struct rate_limiter *l, struct loop_timer *t)
{
	uint64_t now_ns;

	return rate_limiter_holds(l, p->vn->dev.loop, t, &now_ns);
}

void net_spend(struct net_pair *p, struct rate_limiter *l, uint64_t bytes)
{
	if (rate_limited(l))
		rate_limiter_take(l, clock_monotonic_ns(loop_clock(p->vn->dev.loop)), 1,
				  bytes - NET_VNET_HDR);
}

/* 1, 0 when there is none, or -errno after which the device has failed. */
static int send_one(struct net_pair *p)
{
	struct virtq_chain chain = { .iov = p->iov, .max_iov = ARRAY_SIZE(p->iov) };
	struct tx_request *req;
	int r = virtq_pop(p->txq, &chain);

	if (r < 0)
		net_fail(p->vn, "transmit queue: %s", p->txq->why_broken);
	if (r <= 0)
		return r;
	req = request_get(p, &chain);
	if (!req) {
		net_fail(p->vn, "transmit queue: no memory for a frame");
		return -ENOMEM;
	}
	req->tx.done = sent;
	if (!p->vn->unplugged && prepare(req)) {
		net_spend(p, &p->vn->tx_limiter, chain.out_bytes);
		p->net->ops->send(p->net, &req->tx);
	} else {
		p->net->tx_dropped++;
		request_end(req);
	}
	return 1;
}

static void send_all(struct net_pair *p)
{
	unsigned budget = p->txq->size;
	int r = 1;

	do {
		virtq_kicks_off(p->txq);
		/* Kicks stay off while the rate limit has us wait: we come back by ourselves. */
		while (!net_must_wait(p, &p->vn->tx_limiter, &p->tx_limited) &&
		       (r = send_one(p)) > 0) {
			/* A driver that adds as fast as we take must not hold the loop for ever. */
			if (!--budget) {
				virtio_kick_again(&p->vn->dev, p->txq->index);
				return;
			}
		}
	} while (r == 0 && virtq_kicks_on(p->txq));
}

static void may_send(struct loop_timer *t)
{
	struct net_pair *p = container_of(t, struct net_pair, tx_limited);

	if (p->txq->started)
		send_all(p);
}

static void may_receive(struct loop_timer *t)
{
	net_receive(container_of(t, struct net_pair, rx_limited));
}

static void notify(struct loop_task *task)
{
	struct net_pair *p = container_of(task, struct net_pair, notify);

	virtio_notify(&p->vn->dev, p->txq->index);
}

/* ---- the device ---- */

static void net_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtio_net *vn = net_of(dev);

	if (queue == net_control_queue(vn))
		net_control(vn);
	else if (queue / 2 >= vn->num_pairs)
		; /* the last queue, of a driver for which it is not the control queue */
	else if (queue % 2)
		send_all(&vn->pair[queue / 2]);
	else
		net_receive(&vn->pair[queue / 2]);
}

static struct net_offloads negotiated_offloads(const struct virtio_net *vn)
{
	return (struct net_offloads){
		.csum = virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_CSUM),
		.tso4 = virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_TSO4),
		.tso6 = virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_TSO6),
		.ecn = virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_ECN),
		.uso = virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_USO4) &&
		       virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_USO6),
	};
}

void net_set_offloads(struct virtio_net *vn, const struct net_offloads *accepted)
{
	vn->accepted = *accepted;
	if (vn->net->ops->set_offloads)
		vn->net->ops->set_offloads(vn->net, accepted);
}

void net_set_active(struct virtio_net *vn, unsigned num)
{
	vn->active = num;
	for (unsigned i = 0; i < vn->num_pairs; i++) {
		struct net_pair *p = &vn->pair[i];

		if (p->net->ops->set_enabled)
			p->net->ops->set_enabled(p->net, i < num);
		if (i < num)
			net_receive(p);
		else if (p->receiving)
			p->net->ops->cancel_recv(p->net, &p->rx);
	}
}

static int net_start(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);
	struct net_offloads accepted = negotiated_offloads(vn);

	/* What the driver has chosen since then outlives a pause. */
	net_set_offloads(vn, vn->offloads_chosen ? &vn->accepted : &accepted);
	net_hand_over(vn);
	/* 5.1.5: until the driver asks for more there is one pair. */
	net_set_active(vn, vn->active);
	return 0;
}

void net_check_stopped(struct virtio_net *vn)
{
	if (!vn->dev.stopping)
		return;
	for (unsigned i = 0; i < vn->num_pairs; i++) {
		if (vn->pair[i].sending || vn->pair[i].receiving)
			return;
	}
	for (unsigned i = 0; i < vn->num_pairs; i++)
		net_receive_release(&vn->pair[i]);
	virtio_stopped(&vn->dev);
}

static void net_stop(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	net_stop_handed(vn);
	net_unwatch_kicks(vn);
	for (unsigned i = 0; i < vn->num_pairs; i++) {
		struct net_pair *p = &vn->pair[i];

		/* A peer that reads nothing must not hold up a pause: its frames are lost as on a
		 * wire. */
		p->net->ops->cancel_send(p->net);
		if (p->receiving)
			p->net->ops->cancel_recv(p->net, &p->rx);
		loop_timer_cancel(dev->loop, &p->tx_limited);
		loop_timer_cancel(dev->loop, &p->rx_limited);
	}
	net_check_stopped(vn);
}

static uint16_t link_status(const struct virtio_net *vn)
{
	return vn->net->link_up && !vn->unplugged ? VIRTIO_NET_S_LINK_UP : 0;
}

static void net_reset(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	net_set_mac(vn, vn->net->mac);
	vn->status = link_status(vn);
	vn->active = 1;
	vn->offloads_chosen = false;
	vn->accepted = (struct net_offloads){ 0 };
}

static bool net_features_ok(const struct virtio_device *dev, uint64_t features)
{
	/* 5.1.3.1: each of these builds on another. */
	static const struct {
		uint8_t feature, needs;
	} rule[] = {
		{ VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM },
		{ VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM },
		{ VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_CSUM },
		{ VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM },
		{ VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM },
		{ VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_CSUM },
		{ VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_GUEST_CSUM },
		{ VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ },
		{ VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ },
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

	if (link_status(vn))
		atomic_fetch_or(&vn->status, VIRTIO_NET_S_LINK_UP);
	else
		atomic_fetch_and(&vn->status, ~VIRTIO_NET_S_LINK_UP);
	if (!n->link_up && n->peer && !vn->told_loss) {
		vn->told_loss = true;
		log_warn("network '%s': no %s is at its other end any more: its link is down, "
			 "until it is unplugged and plugged in again",
			 vn->dev.id, n->peer);
	}
	virtio_config_changed(&vn->dev);
	for (unsigned i = 0; n->link_up && i < vn->num_pairs; i++)
		net_receive(&vn->pair[i]);
}

/* A copy of another machine: switches have to learn where this address lives now. */
static void net_identity_changed(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);
	uint64_t mac = atomic_load(&vn->mac);

	if (vn->net->ops->announce)
		vn->net->ops->announce(vn->net, (const uint8_t *)&mac);
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
		.max_virtqueue_pairs = htole16(vn->num_pairs),
		.mtu = htole16(vn->net->mtu ? vn->net->mtu : NET_DEFAULT_MTU),
		.speed = htole32(10000),
		.duplex = 1,
	};

	memcpy(c.mac, &mac, sizeof(c.mac));
	memcpy(data, (const uint8_t *)&c + offset, len);
}

/* ---- state ---- */

enum { STATE_CSUM = 1, STATE_TSO4 = 2, STATE_TSO6 = 4, STATE_ECN = 8, STATE_USO = 16 };

static uint8_t offload_bits(const struct net_offloads *o)
{
	return (o->csum ? STATE_CSUM : 0) | (o->tso4 ? STATE_TSO4 : 0) |
	       (o->tso6 ? STATE_TSO6 : 0) | (o->ecn ? STATE_ECN : 0) | (o->uso ? STATE_USO : 0);
}

static void net_save(struct virtio_device *dev, struct state_writer *w)
{
	struct virtio_net *vn = net_of(dev);
	uint64_t mac = atomic_load(&vn->mac);

	state_put_bytes(w, &mac, 6);
	state_put_u8(w, atomic_load(&vn->status) & VIRTIO_NET_S_ANNOUNCE);
	state_put_u16(w, vn->active);
	state_put_u8(w, vn->offloads_chosen);
	state_put_u8(w, offload_bits(&vn->accepted));
}

static int net_load(struct virtio_device *dev, struct state_reader *r)
{
	struct virtio_net *vn = net_of(dev);
	struct net_offloads negotiated = negotiated_offloads(vn);
	uint8_t mac[6], announce, chosen, offloads;
	uint16_t active;

	state_get_bytes(r, mac, sizeof(mac));
	announce = state_get_u8(r);
	active = state_get_u16(r);
	chosen = state_get_u8(r);
	offloads = state_get_u8(r);
	if (r->failed)
		return r->failed;
	if (announce & ~VIRTIO_NET_S_ANNOUNCE)
		return state_reader_fail(r, "status %#x", announce);
	if (!active || active > (virtio_has(dev, VIRTIO_NET_F_MQ) ? vn->num_pairs : 1))
		return state_reader_fail(r, "%u active queue pairs", active);
	if (chosen > 1 || (offloads & ~offload_bits(&negotiated)))
		return state_reader_fail(r, "offloads %#x", offloads);
	net_set_mac(vn, mac);
	/* The link is that of this host. */
	vn->status = announce | link_status(vn);
	vn->active = active;
	vn->offloads_chosen = chosen;
	vn->accepted = (struct net_offloads){
		.csum = offloads & STATE_CSUM,
		.tso4 = offloads & STATE_TSO4,
		.tso6 = offloads & STATE_TSO6,
		.ecn = offloads & STATE_ECN,
		.uso = offloads & STATE_USO,
	};
	return 0;
}

/* ---- life ---- */

static void pair_done(struct net_pair *p)
{
	net_done_handed(p);
	net_close(p->net);
	/* The last completions may have left a notification to do. */
	while (p->notify.queued)
		loop_run_once(p->vn->dev.loop, 0);
	while (!list_empty(&p->kept)) {
		struct tx_request *req = list_entry(p->kept.next, struct tx_request, link);

		list_del(&req->link);
		free(req);
	}
	free(p->spill);
}

static void net_free(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	for (unsigned i = 0; i < vn->num_pairs; i++)
		pair_done(&vn->pair[i]);
	rate_limiter_done(&vn->rx_limiter);
	rate_limiter_done(&vn->tx_limiter);
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
	.serve_here = net_serve_here,
	.interrupts_moved = net_interrupts_moved,
	.config_read = net_config_read,
	.save = net_save,
	.load = net_load,
	.identity_changed = net_identity_changed,
	.free = net_free,
};

static uint64_t features(const struct net *n, unsigned num_pairs)
{
	uint64_t f = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS |
		     1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CTRL_VQ |
		     1ull << VIRTIO_NET_F_CTRL_RX | 1ull << VIRTIO_NET_F_CTRL_VLAN |
		     1ull << VIRTIO_NET_F_CTRL_MAC_ADDR | 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE |
		     1ull << VIRTIO_NET_F_SPEED_DUPLEX;
	const struct {
		bool there;
		uint8_t feature;
	} optional[] = {
		{ n->mtu != 0, VIRTIO_NET_F_MTU },
		{ num_pairs > 1, VIRTIO_NET_F_MQ },
		{ n->takes.csum, VIRTIO_NET_F_CSUM },
		{ n->takes.tso4, VIRTIO_NET_F_HOST_TSO4 },
		{ n->takes.tso6, VIRTIO_NET_F_HOST_TSO6 },
		{ n->takes.ecn, VIRTIO_NET_F_HOST_ECN },
		{ n->takes.uso, VIRTIO_NET_F_HOST_USO },
		{ n->gives.csum, VIRTIO_NET_F_GUEST_CSUM },
		{ n->gives.tso4, VIRTIO_NET_F_GUEST_TSO4 },
		{ n->gives.tso6, VIRTIO_NET_F_GUEST_TSO6 },
		{ n->gives.ecn, VIRTIO_NET_F_GUEST_ECN },
		{ n->gives.uso, VIRTIO_NET_F_GUEST_USO4 },
		{ n->gives.uso, VIRTIO_NET_F_GUEST_USO6 },
		{ n->gives.csum, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(optional); i++) {
		if (optional[i].there)
			f |= 1ull << optional[i].feature;
	}
	return f;
}

void virtio_net_limit(struct virtio_device *dev, const struct rate_limits *rx,
		      const struct rate_limits *tx)
{
	uint64_t now_ns = clock_monotonic_ns(loop_clock(dev->loop));

	if (rx)
		rate_limiter_set(&net_of(dev)->rx_limiter, rx, now_ns);
	if (tx)
		rate_limiter_set(&net_of(dev)->tx_limiter, tx, now_ns);
	if (net_is_limited(net_of(dev)))
		net_take_back(net_of(dev));
}

struct net *virtio_net_end(struct virtio_device *dev)
{
	return net_of(dev)->net;
}

void virtio_net_limits(struct virtio_device *dev, struct rate_limits *ret_rx,
		       struct rate_limits *ret_tx)
{
	rate_limiter_get(&net_of(dev)->rx_limiter, ret_rx);
	rate_limiter_get(&net_of(dev)->tx_limiter, ret_tx);
}

void virtio_net_plug(struct virtio_device *dev, bool plugged)
{
	struct virtio_net *vn = net_of(dev);

	if (vn->unplugged == !plugged)
		return;
	vn->unplugged = !plugged;
	if (!plugged)
		net_take_back(vn);
	link_changed(vn->net, vn);
}

bool virtio_net_has_link(const struct virtio_device *dev)
{
	return link_status(container_of(dev, struct virtio_net, dev));
}

static int pair_init(struct net_pair *p, struct virtio_net *vn, unsigned index)
{
	p->spill = malloc(NET_MAX_FRAME);
	if (!p->spill)
		return -ENOMEM;
	p->vn = vn;
	p->rxq = &vn->dev.queue[2 * index];
	p->txq = &vn->dev.queue[2 * index + 1];
	p->notify.run = notify;
	p->rx_limited.expired = may_receive;
	p->tx_limited.expired = may_send;
	list_init(&p->kept);
	net_init_handed(p);
	return 0;
}

int virtio_net_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct net *const *pairs, unsigned num_pairs, struct error *err)
{
	uint16_t sizes[2 * NET_MAX_PAIRS + 1];
	struct virtio_params params = *common;
	struct virtio_net *vn;
	int r;

	vn = calloc(1, sizeof(*vn) + num_pairs * sizeof(vn->pair[0]));
	if (!vn)
		return error_set(err, -ENOMEM, "virtio-net '%s': %m", common->id);
	for (unsigned i = 0; i < 2 * num_pairs; i++)
		sizes[i] = QUEUE_SIZE;
	sizes[2 * num_pairs] = CTRL_QUEUE_SIZE;
	params.num_queues = 2 * num_pairs + 1;
	params.queue_sizes = sizes;
	params.features = features(pairs[0], num_pairs);
	r = virtio_init(&vn->dev, &net_ops, &params, err);
	if (r < 0) {
		free(vn);
		return r;
	}
	rate_limiter_init(&vn->rx_limiter, &(struct rate_limits){ 0 }, 0);
	rate_limiter_init(&vn->tx_limiter, &(struct rate_limits){ 0 }, 0);
	for (unsigned i = 0; i < num_pairs && !r; i++)
		r = pair_init(&vn->pair[i], vn, i);
	if (r < 0) {
		for (unsigned i = 0; i < num_pairs; i++)
			free(vn->pair[i].spill);
		virtio_done(&vn->dev);
		free(vn);
		return error_set(err, r, "virtio-net '%s': %m", common->id);
	}
	for (unsigned i = 0; i < num_pairs; i++)
		vn->pair[i].net = pairs[i];
	vn->num_pairs = num_pairs;
	vn->net = pairs[0];
	net_reset(&vn->dev);
	vn->net->link_changed = link_changed;
	vn->net->link_arg = vn;
	*ret_dev = &vn->dev;
	return 0;
}
