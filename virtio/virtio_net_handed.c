/*
 * Pairs of queues that the net serves by itself, in the host's kernel: given to it when the device
 * starts, and taken back when it stops, or when somebody has to see what passes. Whether there
 * still is such a reason is looked at when it starts again.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio/virtio_net_internal.h"

/* ---- what the kernel says ---- */

/*
 * What comes late is for nobody: a device that was reset has no interrupt pending, and one that is
 * here again has had one.
 */
static void rx_used(struct loop_event *ev)
{
	struct net_pair *p = container_of(ev, struct net_word, event)->pair;

	if (p->handed)
		virtio_interrupt(&p->vn->dev, p->rxq->index);
}

static void tx_used(struct loop_event *ev)
{
	struct net_pair *p = container_of(ev, struct net_word, event)->pair;

	if (p->handed)
		virtio_interrupt(&p->vn->dev, p->txq->index);
}

static void malformed(struct loop_event *ev)
{
	struct net_pair *p = container_of(ev, struct net_word, event)->pair;

	/* It says no more than that something is wrong: also that a frame could not be sent. */
	if (p->handed && !(p->net->ops->has_lost_peer && p->net->ops->has_lost_peer(p->net)))
		net_fail(p->vn, "queues %u and %u: the host's kernel finds one malformed",
			 p->rxq->index, p->txq->index);
}

/* Its descriptor, made and watched at first use; or -1. */
static int word_fd(struct net_word *w)
{
	if (w->fd < 0)
		w->fd = eventfd(0, EFD_CLOEXEC);
	if (w->fd >= 0 && !w->event.watched)
		loop_event_watch(w->pair->vn->dev.loop, &w->event, w->fd);
	return w->fd;
}

static void word_done(struct net_word *w)
{
	if (w->event.watched)
		loop_event_unwatch(&w->event);
	while (w->fd >= 0 && !loop_event_idle(&w->event))
		loop_run_once(w->pair->vn->dev.loop, UINT64_MAX);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

void net_init_handed(struct net_pair *p)
{
	p->rx_call = (struct net_word){ .event = { .fired = rx_used }, .pair = p, .fd = -1 };
	p->tx_call = (struct net_word){ .event = { .fired = tx_used }, .pair = p, .fd = -1 };
	p->error = (struct net_word){ .event = { .fired = malformed }, .pair = p, .fd = -1 };
}

void net_done_handed(struct net_pair *p)
{
	word_done(&p->rx_call);
	word_done(&p->tx_call);
	word_done(&p->error);
}

/* ---- there ---- */

/* Why the monitor serves @p for now; NULL: it need not. */
static const char *why_here(const struct net_pair *p)
{
	const struct virtio_net *vn = p->vn;
	const struct virtio_device *dev = &vn->dev;

	if (vn->stays_here)
		return "somebody tracks, or has tracked, what is written in the guest's memory";
	/* The kernel counts nothing, marks no page, and waits for none that is still to come. */
	if (guest_mem_is_tracked(dev->mem))
		return "what is written in the guest's memory is tracked";
	if (!guest_mem_is_whole(dev->mem))
		return "some of the guest's memory is still to come";
	if (net_is_limited(vn))
		return "it has a rate limit";
	if (vn->unplugged)
		return "its link was taken down";
	/* Doorbells that the loop reads stay its own. */
	if (virtio_queue_is_watched(dev, p->rxq->index) ||
	    virtio_queue_is_watched(dev, p->txq->index))
		return "its doorbells are still read here";
	return NULL;
}

/* Once for each reason: a guest's driver may start as often as it likes. */
static void say_why_here(struct virtio_net *vn, const char *why)
{
	if (vn->said_why_here != why)
		log_info("%s: served by the monitor, not by the host's kernel: %s", vn->dev.id,
			 why);
	vn->said_why_here = why;
}

/* Interrupts go past us where the transport has a descriptor that is one. */
static bool describe(struct net_ring *ring, const struct virtq *q, struct net_word *call,
		     struct net_word *error)
{
	struct virtio_device *dev = &call->pair->vn->dev;

	*ring = (struct net_ring){
		.size = q->size,
		.position = q->next_avail,
		.desc = q->desc,
		.avail = q->driver,
		.used = q->device,
		.kick = dev->doorbell[q->index].fd,
		.call = virtio_interrupt_fd(dev, q->index),
		.error = word_fd(error),
	};
	if (ring->call < 0)
		ring->call = word_fd(call);
	return ring->call >= 0 && ring->error >= 0;
}

/* 0, or -errno: the kernel does not serve it. */
static int hand_over(struct net_pair *p)
{
	struct virtio_device *dev = &p->vn->dev;
	struct net_ring ring[2];
	int r;

	if (!describe(&ring[0], p->rxq, &p->rx_call, &p->error) ||
	    !describe(&ring[1], p->txq, &p->tx_call, &p->error))
		return -EMFILE;
	r = p->net->ops->hand_over(p->net, dev->features, ring);
	if (r < 0)
		return r;
	p->handed = true;
	p->call[0] = ring[0].call;
	p->call[1] = ring[1].call;
	virtio_queue_elsewhere(dev, p->rxq->index, true);
	virtio_queue_elsewhere(dev, p->txq->index, true);
	return 0;
}

void net_hand_over(struct virtio_net *vn)
{
	/* Without this there is one, and the queue behind it is for control. */
	unsigned num = virtio_has(&vn->dev, VIRTIO_NET_F_MQ) ? vn->num_pairs : 1;

	for (unsigned i = 0; i < num; i++) {
		struct net_pair *p = &vn->pair[i];
		const char *why;
		int r;

		if (!p->net->ops->hand_over || !p->rxq->started || !p->txq->started)
			continue;
		why = why_here(p);
		if (why) {
			say_why_here(vn, why);
			continue;
		}
		r = hand_over(p);
		if (r < 0)
			log_limited(&vn->dev.limit, LOG_WARN,
				    "%s: the host's kernel does not serve it, so we do: %s",
				    vn->dev.id, strerror(-r));
		else
			vn->said_why_here = NULL;
	}
}

/* ---- and back ---- */

static void take_back(struct net_pair *p, uint16_t position[2])
{
	p->net->ops->take_back(p->net, position);
	p->handed = false;
}

void net_stop_handed(struct virtio_net *vn)
{
	uint16_t position[2];

	for (unsigned i = 0; i < vn->num_pairs; i++) {
		struct net_pair *p = &vn->pair[i];

		if (!p->handed)
			continue;
		take_back(p, position);
		virtq_continue(p->rxq, position[0]);
		virtq_continue(p->txq, position[1]);
		virtio_queue_elsewhere(&vn->dev, p->rxq->index, false);
		virtio_queue_elsewhere(&vn->dev, p->txq->index, false);
	}
}

/* Are the interrupts that the kernel was given still those of its queues? */
static bool calls_are_right(struct net_pair *p)
{
	struct virtq *const q[2] = { p->rxq, p->txq };
	const struct net_word *const word[2] = { &p->rx_call, &p->tx_call };

	for (unsigned i = 0; i < 2; i++) {
		int fd = virtio_interrupt_fd(&p->vn->dev, q[i]->index);

		if (p->call[i] != (fd < 0 ? word[i]->fd : fd))
			return false;
	}
	return true;
}

/* Give @p back to the kernel as it now is, with an interrupt that may have gone astray. */
static void hand_over_anew(struct net_pair *p)
{
	struct virtio_device *dev = &p->vn->dev;
	uint16_t position[2];
	int r;

	take_back(p, position);
	virtq_continue(p->rxq, position[0]);
	virtq_continue(p->txq, position[1]);
	r = hand_over(p);
	if (r < 0) {
		log_limited(&dev->limit, LOG_WARN,
			    "%s: the host's kernel serves it no more, so we do: %s", dev->id,
			    strerror(-r));
		virtio_queue_back(dev, p->rxq->index, position[0]);
		virtio_queue_back(dev, p->txq->index, position[1]);
		return;
	}
	for (unsigned i = 0; i < 2; i++) {
		unsigned queue = i ? p->txq->index : p->rxq->index;

		virtio_interrupt(dev, queue);
		virtio_kick_again(dev, queue);
	}
}

void net_interrupts_moved(struct virtio_device *dev)
{
	struct virtio_net *vn = net_of(dev);

	for (unsigned i = 0; i < vn->num_pairs; i++) {
		if (vn->pair[i].handed && !calls_are_right(&vn->pair[i]))
			hand_over_anew(&vn->pair[i]);
	}
}

void net_unwatch_kicks(struct virtio_net *vn)
{
	for (unsigned i = 0; i < vn->num_pairs; i++) {
		struct net_pair *p = &vn->pair[i];

		if (!p->net->ops->hand_over)
			continue;
		virtio_queue_unwatch(&vn->dev, p->rxq->index);
		virtio_queue_unwatch(&vn->dev, p->txq->index);
	}
}

void net_fail(struct virtio_net *vn, const char *fmt, ...)
{
	char why[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	/* The kernel does not know that they are broken, and would go on with them. */
	net_stop_handed(vn);
	virtio_fail(&vn->dev, "%s", why);
}

void net_take_back(struct virtio_net *vn)
{
	uint16_t position[2];

	for (unsigned i = 0; i < vn->num_pairs; i++) {
		struct net_pair *p = &vn->pair[i];

		if (!p->handed)
			continue;
		take_back(p, position);
		say_why_here(vn, why_here(p));
		virtio_queue_back(&vn->dev, p->rxq->index, position[0]);
		virtio_queue_back(&vn->dev, p->txq->index, position[1]);
	}
}

void net_serve_here(struct virtio_device *dev)
{
	net_of(dev)->stays_here = true;
	net_take_back(net_of(dev));
}
