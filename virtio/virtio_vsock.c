/*
 * The socket device (virtio 1.2, 5.10): packets, rings, state.
 *
 * Every packet that makes no sense is answered by an RST and has no other
 * effect. A driver that does not take those stops being listened to, so that
 * what is owed to it stays bounded.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"
#include "virtio/virtio_vsock_internal.h"

#define QUEUE_SIZE	 128
#define EVENT_QUEUE_SIZE 8

static struct virtio_vsock *vsock_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_vsock, dev);
}

/* ---- to the driver ---- */

static size_t fill_stray(struct virtio_vsock *vs, const struct virtq_chain *chain)
{
	struct vsock_stray *s = &vs->stray[0];
	struct virtio_vsock_hdr h = {
		.src_cid = htole64(s->cid),
		.dst_cid = htole64(vs->cid),
		.src_port = htole32(s->host_port),
		.dst_port = htole32(s->guest_port),
		.type = htole16(s->type),
		.op = htole16(VIRTIO_VSOCK_OP_RST),
	};

	vs->num_strays--;
	memmove(s, s + 1, vs->num_strays * sizeof(*s));
	return virtq_copy_in(chain, 0, &h, sizeof(h));
}

/* Put one packet into @chain; 0 when there is none. */
static size_t fill(struct virtio_vsock *vs, const struct virtq_chain *chain)
{
	if (vs->num_strays)
		return fill_stray(vs, chain);
	while (!list_empty(&vs->ready)) {
		struct vsock_conn *c = list_entry(vs->ready.next, struct vsock_conn, ready);
		size_t n;

		list_del(&c->ready);
		n = vsock_conn_fill(c, chain);
		/* Behind the others, if it has more. */
		vsock_conn_wake(c);
		if (n)
			return n;
	}
	return 0;
}

void vsock_pump(struct virtio_vsock *vs)
{
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .max_iov = ARRAY_SIZE(iov) };
	struct virtq *q = &vs->dev.queue[VSOCK_QUEUE_RX];
	unsigned left = q->size;

	if (!vsock_is_running(vs))
		return;
	while (left && (vs->num_strays || !list_empty(&vs->ready))) {
		size_t n;

		if (virtio_pop(&vs->dev, VSOCK_QUEUE_RX, &chain) <= 0)
			break;
		if (chain.in_bytes <= VSOCK_HEADER) {
			virtio_fail(&vs->dev, "a receive buffer of %llu bytes",
				    (unsigned long long)chain.in_bytes);
			break;
		}
		n = fill(vs, &chain);
		if (!n) {
			virtq_unpop(q, &chain);
			break;
		}
		virtq_push(q, &chain, n);
		left--;
	}
	if (!left)
		virtio_kick_again(&vs->dev, VSOCK_QUEUE_RX);
	virtio_notify(&vs->dev, VSOCK_QUEUE_RX);
	if (vs->tx_waits && vs->num_strays < VSOCK_MAX_STRAYS) {
		vs->tx_waits = false;
		virtio_kick_again(&vs->dev, VSOCK_QUEUE_TX);
	}
}

static void send_event(struct virtio_vsock *vs)
{
	struct virtio_vsock_event event = { .id = htole32(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) };
	struct iovec iov[4];
	struct virtq_chain chain = { .iov = iov, .max_iov = ARRAY_SIZE(iov) };

	if (!vs->reset_event || !vsock_is_running(vs) ||
	    virtio_pop(&vs->dev, VSOCK_QUEUE_EVENT, &chain) <= 0)
		return;
	virtq_push(&vs->dev.queue[VSOCK_QUEUE_EVENT], &chain,
		   virtq_copy_in(&chain, 0, &event, sizeof(event)));
	vs->reset_event = false;
	virtio_notify(&vs->dev, VSOCK_QUEUE_EVENT);
}

/* ---- from the driver ---- */

/* Answer by an RST what belongs to no connection. There is room: receive_packets() saw to it. */
static void refuse(struct virtio_vsock *vs, const struct virtio_vsock_hdr *h)
{
	if (le16toh(h->op) == VIRTIO_VSOCK_OP_RST)
		return;
	vs->stray[vs->num_strays++] = (struct vsock_stray){
		.cid = le64toh(h->dst_cid),
		.guest_port = le32toh(h->src_port),
		.host_port = le32toh(h->dst_port),
		.type = le16toh(h->type),
	};
}

static void open_for_guest(struct virtio_vsock *vs, const struct virtio_vsock_hdr *h)
{
	struct vsock_conn *c = vsock_conn_create(vs, VSOCK_OPENING, -1);

	if (!c) {
		refuse(vs, h);
		return;
	}
	c->peer_buffer = le32toh(h->buf_alloc);
	c->peer_forwarded = le32toh(h->fwd_cnt);
	vsock_conn_name(c, le32toh(h->src_port), le32toh(h->dst_port));
	vsock_host_open(c);
}

static void handle_packet(struct virtio_vsock *vs, const struct virtio_vsock_hdr *h,
			  const struct virtq_chain *chain)
{
	struct vsock_conn *c;

	if (le64toh(h->src_cid) != vs->cid || le64toh(h->dst_cid) != VSOCK_HOST_CID ||
	    le16toh(h->type) != VIRTIO_VSOCK_TYPE_STREAM) {
		refuse(vs, h);
		return;
	}
	c = vsock_conn_find(vs, le32toh(h->src_port), le32toh(h->dst_port));
	if (c)
		vsock_conn_receive(c, h, chain);
	else if (le16toh(h->op) == VIRTIO_VSOCK_OP_REQUEST)
		open_for_guest(vs, h);
	else
		refuse(vs, h);
}

static void receive_packets(struct virtio_vsock *vs)
{
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .max_iov = ARRAY_SIZE(iov) };
	struct virtq *q = &vs->dev.queue[VSOCK_QUEUE_TX];
	struct virtio_vsock_hdr h;
	unsigned left = q->size;

	while (left) {
		vs->tx_waits = vs->num_strays == VSOCK_MAX_STRAYS;
		if (vs->tx_waits || virtio_pop(&vs->dev, VSOCK_QUEUE_TX, &chain) <= 0)
			break;
		if (virtq_copy_out(&chain, 0, &h, sizeof(h)) < sizeof(h)) {
			virtio_fail(&vs->dev, "a packet of %llu bytes",
				    (unsigned long long)chain.out_bytes);
			break;
		}
		handle_packet(vs, &h, &chain);
		virtq_push(q, &chain, 0);
		left--;
	}
	if (!left)
		virtio_kick_again(&vs->dev, VSOCK_QUEUE_TX);
	virtio_notify(&vs->dev, VSOCK_QUEUE_TX);
	vsock_pump(vs);
}

int virtio_vsock_connect(struct virtio_device *dev, int fd, uint32_t port)
{
	struct virtio_vsock *vs = vsock_of(dev);
	struct vsock_conn *c = NULL;

	if (vsock_has_guest(vs))
		c = vsock_conn_create(vs, VSOCK_REQUESTED, fd);
	if (!c) {
		close(fd);
		return vsock_has_guest(vs) ? -EMFILE : -ENOTCONN;
	}
	vsock_host_request(c, port);
	vsock_conn_wake(c);
	vsock_pump(vs);
	return 0;
}

/* ---- the device ---- */

static void vsock_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtio_vsock *vs = vsock_of(dev);

	if (queue == VSOCK_QUEUE_RX)
		vsock_pump(vs);
	else if (queue == VSOCK_QUEUE_TX)
		receive_packets(vs);
	else
		send_event(vs);
}

static int vsock_start(struct virtio_device *dev)
{
	return 0;
}

/* Nothing of the driver's is held beyond a call. Sockets may go on filling meanwhile. */
static void vsock_stop(struct virtio_device *dev)
{
	virtio_stopped(dev);
}

/* What the driver knew of is gone; who has not yet said what he wants may go on. */
static void drop_connections(struct virtio_vsock *vs)
{
	struct list *pos;

	list_for_each (pos, &vs->conns) {
		struct vsock_conn *c = list_entry(pos, struct vsock_conn, link);

		if (c->state != VSOCK_HELLO)
			vsock_conn_close(c);
	}
	vs->num_strays = 0;
	vs->tx_waits = false;
}

static void vsock_reset(struct virtio_device *dev)
{
	struct virtio_vsock *vs = vsock_of(dev);

	drop_connections(vs);
	vs->reset_event = false;
}

/* Connections end in sockets of another process: a copy of the guest has none of them. */
static void vsock_identity_changed(struct virtio_device *dev)
{
	struct virtio_vsock *vs = vsock_of(dev);

	drop_connections(vs);
	vs->reset_event = true;
	send_event(vs);
}

static void vsock_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	struct virtio_vsock_config config = { .guest_cid = htole64(vsock_of(dev)->cid) };

	memcpy(data, (uint8_t *)&config + offset, len);
}

/*
 * Connections are not saved, since their sockets cannot be: who loads tells
 * the driver that they are reset. It asks for its CID again then, so a copy may
 * be given one of its own.
 */
static void vsock_save(struct virtio_device *dev, struct state_writer *w)
{
	struct virtio_vsock *vs = vsock_of(dev);

	state_put_u64(w, vs->cid);
	state_put_u32(w, vs->next_port);
}

static int vsock_load(struct virtio_device *dev, struct state_reader *r)
{
	struct virtio_vsock *vs = vsock_of(dev);
	uint64_t cid = state_get_u64(r);

	vs->next_port = state_get_u32(r);
	if (cid <= VSOCK_HOST_CID || cid >= UINT32_MAX)
		return state_reader_fail(r, "context ID %llu", (unsigned long long)cid);
	vs->reset_event = true;
	return r->failed;
}

static void vsock_free(struct virtio_device *dev)
{
	struct virtio_vsock *vs = vsock_of(dev);
	struct list *pos;

	vs->closing = true;
	loop_timer_cancel(dev->loop, &vs->sweep);
	list_for_each (pos, &vs->conns)
		vsock_conn_close(list_entry(pos, struct vsock_conn, link));
	while (!vsock_host_close(vs) || vs->num_conns || vs->reaper.queued)
		loop_run_once(dev->loop, UINT64_MAX);
	if (vs->listen_fd >= 0)
		close(vs->listen_fd);
	if (vs->broker_fd >= 0)
		close(vs->broker_fd);
	virtio_done(dev);
	free(vs);
}

static const struct virtio_ops vsock_ops = {
	.name = "virtio-vsock",
	.id = VIRTIO_ID_VSOCK,
	.pci_class = 0x078000,
	.config_size = sizeof(struct virtio_vsock_config),
	.start = vsock_start,
	.stop = vsock_stop,
	.reset = vsock_reset,
	.kick = vsock_kick,
	.config_read = vsock_config_read,
	.save = vsock_save,
	.load = vsock_load,
	.identity_changed = vsock_identity_changed,
	.free = vsock_free,
};

int virtio_vsock_create(struct virtio_device **ret_dev, const struct virtio_params *common,
			uint64_t cid, int listen_fd, int broker_fd,
			const struct virtio_vsock_notice *notice, struct error *err)
{
	static const uint16_t sizes[] = { QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE };
	struct virtio_params params = *common;
	struct virtio_vsock *vs;
	int r;

	params.num_queues = VSOCK_NUM_QUEUES;
	params.queue_sizes = sizes;
	vs = calloc(1, sizeof(*vs));
	if (!vs)
		return error_set(err, -ENOMEM, "virtio-vsock '%s': %m", common->id);
	r = virtio_init(&vs->dev, &vsock_ops, &params, err);
	if (r < 0) {
		free(vs);
		return r;
	}
	vs->cid = cid;
	vs->notice = *notice;
	vs->listen_fd = listen_fd;
	vs->broker_fd = broker_fd;
	vs->reaper.run = vsock_reap;
	vs->sweep.expired = vsock_sweep;
	list_init(&vs->conns);
	list_init(&vs->ready);
	for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
		list_init(&vs->bucket[i]);
	vsock_host_listen(vs);
	*ret_dev = &vs->dev;
	return 0;
}
