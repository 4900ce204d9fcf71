/* The control queues of virtio-console (virtio 1.2, 5.3.6.2): which ports there are, and how. */
#include "virtio/virtio_console_internal.h"

#define CONTROL_BYTES	 sizeof(struct virtio_console_control)
#define CONTROL_SEGMENTS 4

/* ---- to the driver ---- */

/* Returns false when there is no buffer for it now. */
static bool send_control(struct console_port *p, uint16_t event, uint16_t value, const void *extra,
			 size_t extra_len)
{
	struct virtio_device *dev = &p->console->dev;
	struct iovec iov[CONTROL_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .max_iov = CONTROL_SEGMENTS };
	struct virtio_console_control message = {
		.id = htole32(p->index),
		.event = htole16(event),
		.value = htole16(value),
	};
	size_t n;

	if (virtio_pop(dev, CONTROL_RX, &chain) <= 0)
		return false;
	n = virtq_copy_in(&chain, 0, &message, sizeof(message));
	n += virtq_copy_in(&chain, n, extra, extra_len);
	virtq_push(&dev->queue[CONTROL_RX], &chain, n);
	return true;
}

static bool send_one(struct console_port *p, unsigned what)
{
	/*
	 * The specification's order. Linux had it the other way round until 6.15 and
	 * the stable releases of January 2026.
	 */
	uint32_t size = htole32(p->size);

	switch (what) {
	case SEND_ADD:
		return send_control(p, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
	case SEND_CONSOLE:
		return send_control(p, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL, 0);
	case SEND_NAME:
		return send_control(p, VIRTIO_CONSOLE_PORT_NAME, 1, p->name, strlen(p->name));
	case SEND_SIZE:
		return send_control(p, VIRTIO_CONSOLE_RESIZE, 1, &size, sizeof(size));
	default:
		/* A console is there to be written to, with or without a reader. */
		return send_control(p, VIRTIO_CONSOLE_PORT_OPEN,
				    p->is_console || chardev_is_open(p->chardev), NULL, 0);
	}
}

void console_send_pending(struct virtio_console *c)
{
	bool sent = false;

	if (!is_running(c) || !is_multiport(c))
		return;
	for (unsigned i = 0; i < c->num_ports; i++) {
		struct console_port *p = &c->port[i];

		while (p->to_send) {
			unsigned what = p->to_send & -(unsigned)p->to_send;

			if (!send_one(p, what))
				goto out;
			p->to_send &= ~what;
			sent = true;
		}
	}
out:
	if (sent)
		virtio_notify(&c->dev, CONTROL_RX);
}

/* ---- from the driver ---- */

void console_tell_port(struct console_port *p)
{
	p->to_send |= SEND_OPEN;
	if (p->is_console && p->size)
		p->to_send |= SEND_SIZE;
}

static void handle_control(struct virtio_console *c, const struct virtio_console_control *m)
{
	uint16_t event = le16toh(m->event), value = le16toh(m->value);
	uint32_t id = le32toh(m->id);
	struct console_port *p;

	if (event == VIRTIO_CONSOLE_DEVICE_READY) {
		for (unsigned i = 0; value && i < c->num_ports; i++)
			c->port[i].to_send |= SEND_ADD;
		return;
	}
	/* A port we do not have: the driver's confusion, and without effect. */
	if (id >= c->num_ports)
		return;
	p = &c->port[id];
	if (event == VIRTIO_CONSOLE_PORT_READY) {
		p->ready = value;
		if (!value)
			return;
		if (p->is_console)
			p->to_send |= SEND_CONSOLE;
		if (p->name[0])
			p->to_send |= SEND_NAME;
		console_tell_port(p);
	} else if (event == VIRTIO_CONSOLE_PORT_OPEN) {
		p->guest_open = value;
		chardev_resume_input(p->chardev);
	}
}

void console_receive_control(struct virtio_console *c)
{
	struct iovec iov[CONTROL_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .max_iov = CONTROL_SEGMENTS };
	unsigned left = CONTROL_QUEUE_SIZE;
	struct virtio_console_control m;

	/* A driver that adds as fast as we take must not hold the loop for ever. */
	while (left && virtio_pop(&c->dev, CONTROL_TX, &chain) > 0) {
		if (virtq_copy_out(&chain, 0, &m, CONTROL_BYTES) == CONTROL_BYTES)
			handle_control(c, &m);
		virtq_push(&c->dev.queue[CONTROL_TX], &chain, 0);
		left--;
	}
	if (!left)
		virtio_kick_again(&c->dev, CONTROL_TX);
	virtio_notify(&c->dev, CONTROL_TX);
	console_send_pending(c);
}
