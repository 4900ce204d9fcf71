/*
 * Between the files of virtio-console: virtio_console.c (the device, data) and
 * virtio_console_ctrl.c (the control queues). The device's loop, but for
 * virtio_console_port.size.
 */
#ifndef WISP_VIRTIO_CONSOLE_INTERNAL_H
#define WISP_VIRTIO_CONSOLE_INTERNAL_H

#include <linux/virtio_console.h>

#include "virtio/virtio_devices.h"

#define CONTROL_RX	   2
#define CONTROL_TX	   3
#define CONTROL_QUEUE_SIZE 8
#define MAX_NAME	   64

/* Control messages a port has yet to send, in the order of sending. */
#define SEND_ADD     (1u << 0)
#define SEND_CONSOLE (1u << 1)
#define SEND_NAME    (1u << 2)
#define SEND_SIZE    (1u << 3)
#define SEND_OPEN    (1u << 4)
#define SEND_ALL     (SEND_ADD | SEND_CONSOLE | SEND_NAME | SEND_SIZE | SEND_OPEN)

struct console_port {
	struct virtio_console *console;
	unsigned index;
	char name[MAX_NAME];
	bool is_console;
	struct chardev *chardev;
	_Atomic uint32_t size; /* columns, rows from bit 16 on; 0: of no terminal. vCPUs read it */
	bool ready;	       /* the driver has added the port */
	bool guest_open;       /* and opened it; Linux throws away what comes earlier */
	uint8_t to_send;       /* SEND_* */

	/* The buffer being filled and the one being sent, popped and not pushed. */
	struct iovec rx_iov[VIRTQ_MAX_SEGMENTS], tx_iov[VIRTQ_MAX_SEGMENTS];
	struct virtq_chain rx, tx;
	bool rx_held, tx_held;
	uint64_t tx_done; /* bytes of tx that the chardev has taken */
};

struct virtio_console {
	struct virtio_device dev;
	unsigned num_ports;
	struct console_port port[];
};

static inline bool is_running(const struct virtio_console *c)
{
	return c->dev.running && !c->dev.stopping;
}

static inline bool is_multiport(const struct virtio_console *c)
{
	return virtio_has(&c->dev, VIRTIO_CONSOLE_F_MULTIPORT);
}


/* Send what ports have to say, as far as the driver has given buffers. */
void console_send_pending(struct virtio_console *c);

/* The driver was told of the port: tell it (again) of its size and peer. */
void console_tell_port(struct console_port *p);

/* Messages from the driver. */
void console_receive_control(struct virtio_console *c);

#endif
