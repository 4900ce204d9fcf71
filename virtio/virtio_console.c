/*
 * The console device with several ports (virtio 1.2, 5.3). Port 0's queues are 0
 * and 1, the control queues 2 and 3, port N's 2N + 2 and 2N + 3.
 *
 * Input goes straight from the chardev into the driver's buffers; with none
 * there the chardev is not read. Output that the chardev does not take stays
 * in the driver's buffer: back-pressure on that port and no other.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "virtio/virtio_console_internal.h"

/* Linux fills receive queues with a page per entry: long ones cost guests memory. */
#define RX_QUEUE_SIZE 16
#define TX_QUEUE_SIZE 32
#define MAX_PORTS     (VIRTIO_MAX_QUEUES / 2 - 1)

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
	unsigned queue = tx_queue(p), left = TX_QUEUE_SIZE;

	if (!is_running(p->console))
		return;
	while (left--) {
		if (!p->tx_held) {
			if (virtio_pop(dev, queue, &p->tx) <= 0)
				goto out;
			p->tx_held = true;
		}
		/* output_writable() goes on. */
		if (!write_held(p))
			goto out;
		p->tx_held = false;
		p->tx_done = 0;
		virtq_push(&dev->queue[queue], &p->tx, 0);
	}
	/* The others' turn: the driver may be adding as fast as we take. */
	virtio_kick_again(dev, queue);
out:
	virtio_notify(dev, queue);
}

bool virtio_console_flush(struct virtio_device *dev)
{
	struct virtio_console *c = to_console(dev);
	bool waits = false;

	if (!is_running(c))
		return false;
	for (unsigned i = 0; i < c->num_ports; i++) {
		send_output(&c->port[i]);
		waits |= c->port[i].tx_held;
	}
	return waits && !dev->needs_reset;
}

static void output_writable(void *arg)
{
	send_output(arg);
}

/* ---- data to the guest ---- */

static size_t input_room(void *arg)
{
	struct console_port *p = arg;
	struct virtio_device *dev = &p->console->dev;

	if (!is_running(p->console) || (is_multiport(p->console) && !p->guest_open))
		return 0;
	if (!p->rx_held) {
		if (virtio_pop(dev, rx_queue(p), &p->rx) <= 0)
			return 0;
		p->rx_held = true;
		if (!p->rx.in_bytes)
			virtio_fail(dev, "queue %u: a buffer without room", rx_queue(p));
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

	if (!p->ready)
		return;
	p->to_send |= SEND_OPEN;
	console_send_pending(p->console);
}

static void set_size(struct console_port *p, uint16_t columns, uint16_t rows)
{
	atomic_store(&p->size, columns | (uint32_t)rows << 16);
}

static void resized(void *arg, uint16_t columns, uint16_t rows)
{
	struct console_port *p = arg;

	set_size(p, columns, rows);
	if (p->ready) {
		console_tell_port(p);
		console_send_pending(p->console);
	} else if (p->index == 0 && is_running(p->console) && !is_multiport(p->console)) {
		virtio_config_changed(&p->console->dev);
	}
}

/* ---- the device ---- */

static void console_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtio_console *c = to_console(dev);
	unsigned port = queue < 2 ? 0 : queue / 2 - 1;

	if (queue == CONTROL_RX)
		console_send_pending(c);
	else if (queue == CONTROL_TX)
		console_receive_control(c);
	else if (queue & 1)
		send_output(&c->port[port]);
	else
		chardev_resume_input(c->port[port].chardev);
}

static int console_start(struct virtio_device *dev)
{
	struct virtio_console *c = to_console(dev);

	for (unsigned i = 0; i < c->num_ports; i++) {
		struct console_port *p = &c->port[i];
		uint16_t columns, rows;

		chardev_size(p->chardev, &columns, &rows);
		set_size(p, columns, rows);
		/* A driver that is there already may have come from another host. */
		if (p->ready)
			console_tell_port(p);
	}
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
		c->port[i].ready = c->port[i].guest_open = false;
	}
}

static void console_config_read(struct virtio_device *dev, unsigned offset, void *data,
				unsigned len)
{
	struct virtio_console *c = to_console(dev);
	uint32_t size = atomic_load(&c->port[0].size);
	struct virtio_console_config config = {
		.cols = htole16(size & 0xffff),
		.rows = htole16(size >> 16),
		.max_nr_ports = htole32(c->num_ports),
	};

	memcpy(data, (uint8_t *)&config + offset, len);
}

static void console_save(struct virtio_device *dev, struct state_writer *w)
{
	struct virtio_console *c = to_console(dev);

	state_put_u32(w, c->num_ports);
	for (unsigned i = 0; i < c->num_ports; i++) {
		state_put_u8(w, c->port[i].ready);
		state_put_u8(w, c->port[i].guest_open);
		state_put_u8(w, c->port[i].to_send);
		state_put_u64(w, c->port[i].tx_done);
	}
}

static int console_load(struct virtio_device *dev, struct state_reader *r)
{
	struct virtio_console *c = to_console(dev);
	uint32_t num = state_get_u32(r);

	if (num != c->num_ports)
		return state_reader_fail(r, "%u ports instead of %u", num, c->num_ports);
	for (unsigned i = 0; i < num; i++) {
		struct console_port *p = &c->port[i];

		p->ready = state_get_bool(r);
		p->guest_open = state_get_bool(r);
		p->to_send = state_get_u8(r);
		p->tx_done = state_get_u64(r);
		if (p->to_send & ~SEND_ALL)
			return state_reader_fail(r, "port %u: messages 0x%x", i, p->to_send);
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
		/* The console has its input whoever reads; a port's is for who opens it. */
		.no_read_ahead = !from->is_console,
	};

	p->console = c;
	p->index = index;
	p->is_console = from->is_console;
	p->chardev = from->chardev;
	p->rx = (struct virtq_chain){ .iov = p->rx_iov, .max_iov = VIRTQ_MAX_SEGMENTS };
	p->tx = (struct virtq_chain){ .iov = p->tx_iov, .max_iov = VIRTQ_MAX_SEGMENTS };
	snprintf(p->name, sizeof(p->name), "%s", from->name ? from->name : "");
	chardev_attach(p->chardev, &user);
}

int virtio_console_create(struct virtio_device **ret_dev, const struct virtio_params *common,
			  const struct virtio_console_port *ports, unsigned num_ports,
			  struct error *err)
{
	struct virtio_params params = *common;
	uint16_t sizes[VIRTIO_MAX_QUEUES];
	struct virtio_console *c;
	int r;

	if (!num_ports || num_ports > MAX_PORTS)
		return error_set(err, -EINVAL,
				 "virtio-console '%s': %u ports (1 to %u are possible)", common->id,
				 num_ports, MAX_PORTS);
	c = calloc(1, sizeof(*c) + num_ports * sizeof(c->port[0]));
	if (!c)
		return error_set(err, -ENOMEM, "virtio-console '%s': %m", common->id);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		sizes[i] = i & 1 ? TX_QUEUE_SIZE : RX_QUEUE_SIZE;
	sizes[CONTROL_RX] = sizes[CONTROL_TX] = CONTROL_QUEUE_SIZE;
	params.features = 1ull << VIRTIO_CONSOLE_F_SIZE | 1ull << VIRTIO_CONSOLE_F_MULTIPORT;
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
