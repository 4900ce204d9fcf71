/*
 * The console device with several ports (virtio 1.2, 5.3). Port 0's queues are 0
 * and 1, the control queues 2 and 3, port N's 2N + 2 and 2N + 3.
 *
 * Input goes straight from the chardev into the driver's buffers; with none
 * there the chardev is not read. Output that the chardev does not take stays
 * in the driver's buffer: back-pressure on that port and no other.
 */
#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"

#define QUEUE_SIZE	128
#define CONTROL_RX	2
#define CONTROL_TX	3
#define MAX_PORTS	31 /* VIRTIO_MAX_QUEUES / 2 - 1 */
#define PORT_SEGMENTS	34
#define CONTROL_BYTES	sizeof(struct virtio_console_control)
#define CONTROL_SEGMENTS 4
#define MAX_NAME	64

/* Control messages a port has yet to send, in the order of sending. */
#define SEND_ADD     (1u << 0)
#define SEND_CONSOLE (1u << 1)
#define SEND_NAME    (1u << 2)
#define SEND_SIZE    (1u << 3)
#define SEND_OPEN    (1u << 4)

struct console_port {
	struct virtio_console *console;
	unsigned index;
	char name[MAX_NAME];
	bool is_console;
	struct chardev *chardev;
	uint16_t columns, rows;
	bool host_open;	 /* somebody is at the other end */
	bool guest_open; /* the driver said so; Linux throws away what comes earlier */
	unsigned to_send; /* SEND_* */

	/* The buffer being filled and the one being sent, popped and not pushed. */
	struct iovec rx_iov[PORT_SEGMENTS], tx_iov[PORT_SEGMENTS];
	struct virtq_chain rx, tx;
	bool rx_held, tx_held;
	uint64_t tx_done; /* bytes of tx that the chardev has taken */
};

struct virtio_console {
	struct virtio_device dev;
	unsigned num_ports;
	struct console_port port[];
};

static struct virtio_console *to_console(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_console, dev);
}

static unsigned rx_queue(const struct console_port *p)
{
	return p->index ? 2 * p->index + 2 : 0;
}

static unsigned tx_queue(const struct console_port *p)
{
	return rx_queue(p) + 1;
}

static bool is_running(const struct virtio_console *c)
{
	return c->dev.running && !c->dev.stopping;
}

/* Pop with one retry after asking for kicks again, so that none is missed. */
static int pop_or_wait(struct virtio_device *dev, unsigned queue, struct virtq_chain *chain)
{
	struct virtq *q = &dev->queue[queue];
	int r;

	if (!q->started)
		return 0;
	do
		r = virtq_pop(q, chain);
	while (r == 0 && virtq_kicks_on(q));
	if (r < 0)
		virtio_fail(dev, "queue %u: %s", queue, q->why_broken);
	return r;
}

/* ---- control messages to the driver ---- */

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

	if (pop_or_wait(dev, CONTROL_RX, &chain) <= 0)
		return false;
	n = virtq_copy_in(&chain, 0, &message, sizeof(message));
	n += virtq_copy_in(&chain, n, extra, extra_len);
	virtq_push(&dev->queue[CONTROL_RX], &chain, n);
	return true;
}

static bool send_one(struct console_port *p, unsigned what)
{
	struct virtio_console_resize {
		uint16_t cols, rows;
	} size = { htole16(p->columns), htole16(p->rows) };

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
		return send_control(p, VIRTIO_CONSOLE_PORT_OPEN, p->host_open, NULL, 0);
	}
}

static void send_pending(struct virtio_console *c)
{
	bool sent = false;

	if (!is_running(c) || !virtio_has(&c->dev, VIRTIO_CONSOLE_F_MULTIPORT))
		return;
	for (unsigned i = 0; i < c->num_ports; i++) {
		struct console_port *p = &c->port[i];

		while (p->to_send) {
			unsigned what = p->to_send & -p->to_send;

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

/* ---- control messages from the driver ---- */

static void handle_control(struct virtio_console *c, const struct virtio_console_control *m)
{
	uint32_t id = le32toh(m->id);
	struct console_port *p;

	if (le16toh(m->event) == VIRTIO_CONSOLE_DEVICE_READY) {
		if (le16toh(m->value))
			for (unsigned i = 0; i < c->num_ports; i++)
				c->port[i].to_send |= SEND_ADD;
		return;
	}
	/* A port we do not have: the driver's confusion, and without effect. */
	if (id >= c->num_ports)
		return;
	p = &c->port[id];
	if (le16toh(m->event) == VIRTIO_CONSOLE_PORT_READY && le16toh(m->value)) {
		p->to_send |= SEND_OPEN;
		if (p->is_console)
			p->to_send |= SEND_CONSOLE;
		if (p->name[0])
			p->to_send |= SEND_NAME;
		if (p->is_console && p->columns)
			p->to_send |= SEND_SIZE;
	} else if (le16toh(m->event) == VIRTIO_CONSOLE_PORT_OPEN) {
		p->guest_open = le16toh(m->value);
		chardev_resume_input(p->chardev);
	}
}

static void receive_control(struct virtio_console *c)
{
	struct iovec iov[CONTROL_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .max_iov = CONTROL_SEGMENTS };
	struct virtio_console_control message;
	bool any = false;

	while (pop_or_wait(&c->dev, CONTROL_TX, &chain) > 0) {
		if (virtq_copy_out(&chain, 0, &message, CONTROL_BYTES) == CONTROL_BYTES)
			handle_control(c, &message);
		virtq_push(&c->dev.queue[CONTROL_TX], &chain, 0);
		any = true;
	}
	if (any)
		virtio_notify(&c->dev, CONTROL_TX);
	send_pending(c);
}

/* ---- data to the host ---- */

/* Give the held buffer to the chardev. True when all of it was taken. */
static bool write_held(struct console_port *p)
{
	uint64_t skip = p->tx_done;

	for (unsigned i = 0; i < p->tx.num_out; i++) {
		const struct iovec *v = &p->tx.iov[i];
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = chardev_write(p->chardev, (uint8_t *)v->iov_base + skip, v->iov_len - skip);
		p->tx_done += n;
		if (n < v->iov_len - skip)
			return false;
		skip = 0;
	}
	return true;
}

static void send_output(struct console_port *p)
{
	struct virtio_device *dev = &p->console->dev;
	unsigned queue = tx_queue(p);
	bool any = false;

	if (!is_running(p->console))
		return;
	for (;;) {
		if (!p->tx_held) {
			if (pop_or_wait(dev, queue, &p->tx) <= 0)
				break;
			p->tx_held = true;
		}
		if (!write_held(p))
			break;
		p->tx_held = false;
		p->tx_done = 0;
		virtq_push(&dev->queue[queue], &p->tx, 0);
		any = true;
	}
	if (any)
		virtio_notify(dev, queue);
}

static void output_writable(void *arg)
{
	send_output(arg);
}

/* ---- data to the guest ---- */

static size_t input_room(void *arg)
{
	struct console_port *p = arg;

	if (!is_running(p->console))
		return 0;
	if (!p->guest_open && virtio_has(&p->console->dev, VIRTIO_CONSOLE_F_MULTIPORT))
		return 0;
	while (!p->rx_held) {
		if (pop_or_wait(&p->console->dev, rx_queue(p), &p->rx) <= 0)
			return 0;
		if (p->rx.in_bytes)
			p->rx_held = true;
		else
			virtq_push(&p->console->dev.queue[rx_queue(p)], &p->rx, 0);
	}
	return p->rx.in_bytes;
}

static void input(void *arg, const uint8_t *bytes, size_t len)
{
	struct console_port *p = arg;
	struct virtio_device *dev = &p->console->dev;

	virtq_push(&dev->queue[rx_queue(p)], &p->rx, virtq_copy_in(&p->rx, 0, bytes, len));
	p->rx_held = false;
	virtio_notify(dev, rx_queue(p));
}

static void peer_changed(void *arg, bool open)
{
	struct console_port *p = arg;

	p->host_open = open;
	p->to_send |= SEND_OPEN;
	send_pending(p->console);
}

static void resized(void *arg, uint16_t columns, uint16_t rows)
{
	struct console_port *p = arg;

	p->columns = columns;
	p->rows = rows;
	if (virtio_has(&p->console->dev, VIRTIO_CONSOLE_F_MULTIPORT)) {
		p->to_send |= SEND_SIZE;
		send_pending(p->console);
	} else if (p->index == 0) {
		virtio_config_changed(&p->console->dev);
	}
}

/* ---- the device ---- */

static void console_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtio_console *c = to_console(dev);
	unsigned port = queue < 2 ? 0 : queue / 2 - 1;

	if (queue == CONTROL_RX)
		send_pending(c);
	else if (queue == CONTROL_TX)
		receive_control(c);
	else if (queue & 1)
		send_output(&c->port[port]);
	else
		chardev_resume_input(c->port[port].chardev);
}

static int console_start(struct virtio_device *dev)
{
	struct virtio_console *c = to_console(dev);

	for (unsigned i = 0; i < c->num_ports; i++)
		chardev_size(c->port[i].chardev, &c->port[i].columns, &c->port[i].rows);
	return 0;
}

/* Held buffers go back to the ring; how much of the output is done is remembered. */
static void console_stop(struct virtio_device *dev)
{
	struct virtio_console *c = to_console(dev);

	for (unsigned i = 0; i < c->num_ports; i++) {
		struct console_port *p = &c->port[i];

		if (p->rx_held)
			virtq_unpop(&dev->queue[rx_queue(p)], &p->rx);
		if (p->tx_held)
			virtq_unpop(&dev->queue[tx_queue(p)], &p->tx);
		p->rx_held = p->tx_held = false;
	}
	virtio_stopped(dev);
}

static void console_reset(struct virtio_device *dev)
{
	struct virtio_console *c = to_console(dev);

	for (unsigned i = 0; i < c->num_ports; i++) {
		c->port[i].to_send = 0;
		c->port[i].tx_done = 0;
		c->port[i].guest_open = false;
	}
}

static void console_config_read(struct virtio_device *dev, unsigned offset, void *data,
				unsigned len)
{
	struct virtio_console *c = to_console(dev);
	struct virtio_console_config config = {
		.cols = htole16(c->port[0].columns),
		.rows = htole16(c->port[0].rows),
		.max_nr_ports = htole32(c->num_ports),
	};

	memcpy(data, (uint8_t *)&config + offset, len);
}

static void console_save(struct virtio_device *dev, struct state_writer *w)
{
	struct virtio_console *c = to_console(dev);

	state_put_u32(w, c->num_ports);
	for (unsigned i = 0; i < c->num_ports; i++) {
		state_put_u32(w, c->port[i].to_send);
		state_put_u64(w, c->port[i].tx_done);
		state_put_u8(w, c->port[i].guest_open);
	}
}

static int console_load(struct virtio_device *dev, struct state_reader *r)
{
	struct virtio_console *c = to_console(dev);
	uint32_t ports = state_get_u32(r);

	if (ports != c->num_ports)
		return state_reader_fail(r, "%u ports where the machine has %u", ports,
					 c->num_ports);
	for (unsigned i = 0; i < c->num_ports; i++) {
		c->port[i].to_send = state_get_u32(r);
		c->port[i].tx_done = state_get_u64(r);
		c->port[i].guest_open = state_get_u8(r);
		if (c->port[i].to_send & ~(SEND_ADD | SEND_CONSOLE | SEND_NAME | SEND_SIZE |
					   SEND_OPEN))
			return state_reader_fail(r, "unknown messages 0x%x", c->port[i].to_send);
	}
	return r->failed;
}

static void console_free(struct virtio_device *dev)
{
	static const struct chardev_user nobody;
	struct virtio_console *c = to_console(dev);

	for (unsigned i = 0; i < c->num_ports; i++)
		chardev_attach(c->port[i].chardev, &nobody);
	virtio_done(dev);
	free(c);
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000,
	.config_size = sizeof(struct virtio_console_config),
	.start = console_start,
	.stop = console_stop,
	.reset = console_reset,
	.kick = console_kick,
	.config_read = console_config_read,
	.save = console_save,
	.load = console_load,
	.free = console_free,
};

static void init_port(struct virtio_console *c, unsigned index,
		      const struct virtio_console_port *from)
{
	struct console_port *p = &c->port[index];
	struct chardev_user user = {
		.room = input_room,
		.input = input,
		.writable = output_writable,
		.opened = peer_changed,
		.resized = resized,
		.arg = p,
	};

	p->console = c;
	p->index = index;
	p->is_console = from->is_console;
	p->chardev = from->chardev;
	p->host_open = true;
	p->rx = (struct virtq_chain){ .iov = p->rx_iov, .max_iov = PORT_SEGMENTS };
	p->tx = (struct virtq_chain){ .iov = p->tx_iov, .max_iov = PORT_SEGMENTS };
	if (from->name)
		strncpy(p->name, from->name, MAX_NAME - 1);
	chardev_attach(p->chardev, &user);
}

int virtio_console_create(struct virtio_device **ret_dev, const struct virtio_params *common,
			  const struct virtio_console_port *ports, unsigned num_ports,
			  struct error *err)
{
	struct virtio_params params = *common;
	uint16_t sizes[2 * MAX_PORTS + 2];
	struct virtio_console *c;
	int r;

	if (!num_ports || num_ports > MAX_PORTS)
		return error_set(err, -EINVAL, "virtio-console '%s': %u ports (1 to %u are possible)",
				 common->id, num_ports, MAX_PORTS);
	c = calloc(1, sizeof(*c) + num_ports * sizeof(c->port[0]));
	if (!c)
		return error_set(err, -ENOMEM, "virtio-console '%s': %m", common->id);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		sizes[i] = QUEUE_SIZE;
	params.features |= 1ull << VIRTIO_CONSOLE_F_SIZE | 1ull << VIRTIO_CONSOLE_F_MULTIPORT;
	params.num_queues = 2 * num_ports + 2;
	params.queue_sizes = sizes;
	r = virtio_init(&c->dev, &console_ops, &params, err);
	if (r < 0) {
		free(c);
		return r;
	}
	c->num_ports = num_ports;
	for (unsigned i = 0; i < num_ports; i++)
		init_port(c, i, &ports[i]);
	*ret_dev = &c->dev;
	return 0;
}
