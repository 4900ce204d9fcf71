#include "devices/serial.h"

#include <errno.h>
#include <stdlib.h>

#include "devices/serial_internal.h"

/* ---- interrupts; under the lock ---- */

static unsigned trigger_level(const struct serial *s)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

static bool tx_room(const struct serial *s)
{
	return s->tx_len < TX_MARK;
}

static uint8_t line_status(const struct serial *s)
{
	/* What we hold is on the line already, as far as the guest can tell. */
	return s->lsr | (s->rx_len ? LSR_DATA : 0) | (tx_room(s) ? LSR_THRE | LSR_TEMT : 0);
}

/* The identification of what is pending, highest priority first. */
static uint8_t pending_interrupt(const struct serial *s)
{
	if ((s->ier & IER_LINE) && (s->lsr & LSR_ERRORS))
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->rx_len >= trigger_level(s))
		return IIR_RX;
	if ((s->ier & IER_RX) && s->timeout_pending && s->rx_len)
		return IIR_TIMEOUT;
	if ((s->ier & IER_TX) && s->tx_pending)
		return IIR_TX;
	if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTAS))
		return IIR_MODEM;
	return IIR_NONE;
}

bool serial_interrupts(const struct serial *s)
{
	return pending_interrupt(s) != IIR_NONE;
}

/* The pin is edge-triggered: a rise is an interrupt, staying high is none. */
static void update_interrupt(struct serial *s)
{
	bool high = serial_interrupts(s);

	if (high && !s->line_high)
		irq_line_raise(&s->irq);
	s->line_high = high;
}

/* ---- bytes ---- */

static void receive(struct serial *s, uint8_t byte)
{
	if (s->rx_len == serial_rx_capacity(s)) {
		s->lsr |= LSR_OVERRUN;
		/* Without a FIFO the newer byte wins; with one, the FIFO stays as it is. */
		if (s->fcr & FCR_ENABLE)
			return;
		s->rx_len = 0;
	}
	s->rx[(s->rx_head + s->rx_len++) % FIFO_BYTES] = byte;
	/* There is no line speed: the four character times of the timeout are over at once. */
	s->timeout_pending = s->fcr & FCR_ENABLE;
}

/* A line held low reads as a zero byte, marked. */
static void receive_break(struct serial *s)
{
	receive(s, 0);
	s->lsr |= LSR_BREAK;
}

static uint8_t take_byte(struct serial *s)
{
	uint8_t byte;

	if (!s->rx_len)
		return 0;
	byte = s->rx[s->rx_head];
	s->rx_head = (s->rx_head + 1) % FIFO_BYTES;
	if (--s->rx_len == 0) {
		s->timeout_pending = false;
		if (s->chardev)
			loop_post(s->loop, &s->resume);
	}
	return byte;
}

/* Is there a limit, and has it been reached? Else @s takes one byte of it. */
static bool is_too_fast(struct serial *s)
{
	uint64_t now_ns;

	if (!rate_limited(&s->limiter))
		return false;
	now_ns = clock_monotonic_ns(loop_clock(s->loop));
	if (rate_limiter_wait_ns(&s->limiter, now_ns)) {
		s->dropped++;
		return true;
	}
	rate_limiter_take(&s->limiter, now_ns, 1, 1);
	return false;
}

static void transmit(struct serial *s, uint8_t byte)
{
	s->polls = 0;
	s->tx_pending = false;
	if (s->mcr & MCR_LOOP) {
		receive(s, byte);
	} else if (s->chardev && !is_too_fast(s)) {
		if (!s->tx)
			s->tx = malloc(TX_BYTES);
		/* A guest that never looks for room loses bytes in the end, as on a real port. */
		if (s->tx && s->tx_len < TX_BYTES) {
			s->tx[(s->tx_head + s->tx_len) % TX_BYTES] = byte;
			if (s->tx_len++ == 0)
				loop_post(s->loop, &s->drain);
		}
	}
	/* Sent as soon as written, as long as there is room for more. */
	if (tx_room(s)) {
		/* Low and high again: each byte sent is an event of its own. */
		update_interrupt(s);
		s->tx_pending = true;
	}
}

/* ---- registers; vCPU threads ---- */

static void write_fcr(struct serial *s, uint8_t v)
{
	if ((v ^ s->fcr) & FCR_ENABLE)
		v |= FCR_CLEAR_RX | FCR_CLEAR_TX;
	if (v & FCR_CLEAR_RX) {
		s->rx_len = 0;
		s->timeout_pending = false;
		if (s->chardev)
			loop_post(s->loop, &s->resume);
	}
	/* What the transmitter holds has left already, as far as the guest can tell. */
	s->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
}

/* With the loop closed the modem's outputs are its inputs. */
static void update_modem(struct serial *s)
{
	uint8_t now = MSR_CTS | MSR_DSR | MSR_DCD, changed;

	if (s->mcr & MCR_LOOP)
		now = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
		      (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
	changed = (now ^ s->msr) & ~MSR_DELTAS;
	/* The ring indicator's delta is its falling edge alone. */
	if ((changed & MSR_RI) && (now & MSR_RI))
		changed &= ~MSR_RI;
	s->msr = now | (s->msr & MSR_DELTAS) | changed >> 4;
}

static void serial_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct serial *s = opaque;
	uint8_t v = *(const uint8_t *)data;
	bool dlab;

	pthread_mutex_lock(&s->lock);
	dlab = s->lcr & LCR_DLAB;
	switch (offset) {
	case REG_DATA:
		if (dlab)
			s->divisor = (s->divisor & 0xff00) | v;
		else
			transmit(s, v);
		break;
	case REG_IER:
		if (dlab) {
			s->divisor = (s->divisor & 0x00ff) | v << 8;
			break;
		}
		/* Switching the interrupt on finds the transmitter empty: drivers rely on it. */
		if ((v & IER_TX) && !(s->ier & IER_TX) && tx_room(s))
			s->tx_pending = true;
		if ((v & IER_RX) && !(s->ier & IER_RX) && s->chardev)
			loop_post(s->loop, &s->resume);
		s->ier = v & IER_MASK;
		break;
	case REG_IIR:
		write_fcr(s, v);
		break;
	case REG_LCR:
		s->lcr = v;
		if ((v & LCR_BREAK) && (s->mcr & MCR_LOOP))
			receive_break(s);
		break;
	case REG_MCR:
		s->mcr = v & MCR_MASK;
		update_modem(s);
		break;
	case REG_SCR:
		s->scr = v;
		break;
	default: /* line and modem status are read-only */
		break;
	}
	update_interrupt(s);
	pthread_mutex_unlock(&s->lock);
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t id = pending_interrupt(s);

	if (id == IIR_TX)
		s->tx_pending = false;
	return id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t v = line_status(s);

	s->lsr &= ~LSR_ERRORS;
	/* A driver that waits for room to write looks as often, and wants no input by that. */
	if ((v & (LSR_DATA | LSR_THRE)) == LSR_THRE && s->chardev && ++s->polls == POLLS_FOR_INPUT)
		loop_post(s->loop, &s->resume);
	return v;
}

static void serial_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct serial *s = opaque;
	uint8_t v = 0;
	bool dlab;

	pthread_mutex_lock(&s->lock);
	dlab = s->lcr & LCR_DLAB;
	switch (offset) {
	case REG_DATA:
		v = dlab ? s->divisor & 0xff : take_byte(s);
		break;
	case REG_IER:
		v = dlab ? s->divisor >> 8 : s->ier;
		break;
	case REG_IIR:
		v = read_iir(s);
		break;
	case REG_LCR:
		v = s->lcr;
		break;
	case REG_MCR:
		v = s->mcr;
		break;
	case REG_LSR:
		v = read_lsr(s);
		break;
	case REG_MSR:
		v = s->msr;
		s->msr &= ~MSR_DELTAS;
		break;
	case REG_SCR:
		v = s->scr;
		break;
	}
	update_interrupt(s);
	pthread_mutex_unlock(&s->lock);
	*(uint8_t *)data = v;
}

static const struct bus_ops serial_ops = { .read = serial_read, .write = serial_write };

/* ---- the loop's side ---- */

/*
 * Carry output on, a ring's worth at a time: a guest that writes as fast as it is
 * read must not keep the loop from its other work. The chardev is never called
 * with the lock held.
 */
static void drain_tx(struct loop_task *task)
{
	struct serial *s = container_of(task, struct serial, drain);
	unsigned head, len, left = TX_BYTES;
	bool was_full;
	size_t n;

	do {
		pthread_mutex_lock(&s->lock);
		head = s->tx_head;
		len = MIN(s->tx_len, TX_BYTES - head);
		len = MIN(len, left);
		pthread_mutex_unlock(&s->lock);
		/* Only this side takes bytes out: what was there is there still. */
		n = len ? chardev_write(s->chardev, s->tx + head, len) : 0;
		pthread_mutex_lock(&s->lock);
		was_full = !tx_room(s);
		s->tx_len -= n;
		/* From the start again when empty: the fewer pages are touched. */
		s->tx_head = s->tx_len ? (s->tx_head + n) % TX_BYTES : 0;
		if (was_full && tx_room(s)) {
			s->tx_pending = true;
			update_interrupt(s);
		}
		left -= n;
		if (!left && s->tx_len)
			loop_post(s->loop, &s->drain);
		pthread_mutex_unlock(&s->lock);
	} while (n && left);
}

static void chardev_writable(void *arg)
{
	struct serial *s = arg;

	drain_tx(&s->drain);
}

static void resume_input(struct loop_task *task)
{
	struct serial *s = container_of(task, struct serial, resume);

	chardev_resume_input(s->chardev);
}

/* None before the driver is there: it clears the FIFO when it starts. */
static size_t input_room(void *arg)
{
	struct serial *s = arg;
	size_t room = 0;

	pthread_mutex_lock(&s->lock);
	if (((s->ier & IER_RX) || s->polls >= POLLS_FOR_INPUT) && !(s->mcr & MCR_LOOP))
		room = serial_rx_capacity(s) - s->rx_len;
	pthread_mutex_unlock(&s->lock);
	return room;
}

static void input(void *arg, const uint8_t *p, size_t len)
{
	struct serial *s = arg;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < len; i++)
		receive(s, p[i]);
	update_interrupt(s);
	pthread_mutex_unlock(&s->lock);
}

static void send_break(void *arg)
{
	struct serial *s = arg;

	pthread_mutex_lock(&s->lock);
	receive_break(s);
	update_interrupt(s);
	pthread_mutex_unlock(&s->lock);
}

void serial_limit(struct serial *s, const struct rate_limits *limits)
{
	rate_limiter_set(&s->limiter, limits, clock_monotonic_ns(loop_clock(s->loop)));
}

void serial_limits(struct serial *s, struct rate_limits *ret_limits)
{
	rate_limiter_get(&s->limiter, ret_limits);
}

uint64_t serial_dropped(struct serial *s)
{
	uint64_t dropped;

	pthread_mutex_lock(&s->lock);
	dropped = s->dropped;
	pthread_mutex_unlock(&s->lock);
	return dropped;
}

/* ---- life ---- */

int serial_create(struct serial **ret_s, struct bus *pio, uint16_t base, struct irq_table *irqs,
		  uint32_t gsi, struct chardev *chardev, struct loop *loop, struct error *err)
{
	struct serial *s = calloc(1, sizeof(*s));
	struct chardev_user user = {
		.room = input_room,
		.input = input,
		.writable = chardev_writable,
		.send_break = send_break,
		.arg = s,
	};
	static const struct rate_limits none;
	struct bus_region region = { base, 8, &serial_ops, s, "serial" };
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "serial port: %m");
	pthread_mutex_init(&s->lock, NULL);
	rate_limiter_init(&s->limiter, &none, 0);
	irq_line_init(&s->irq, irqs, gsi);
	s->loop = loop;
	s->chardev = chardev;
	s->divisor = 12; /* 9600 baud, as after a PC's reset */
	s->drain.run = drain_tx;
	s->resume.run = resume_input;
	update_modem(s);
	s->msr &= ~MSR_DELTAS;
	r = bus_add(pio, &region, err);
	if (r < 0) {
		serial_free(s);
		return r;
	}
	if (chardev)
		chardev_attach(chardev, &user);
	*ret_s = s;
	return 0;
}

void serial_free(struct serial *s)
{
	static const struct chardev_user nobody;

	if (!s)
		return;
	if (s->chardev)
		chardev_attach(s->chardev, &nobody);
	while (s->drain.queued || s->resume.queued)
		loop_run_once(s->loop, 0);
	irq_line_done(&s->irq);
	pthread_mutex_destroy(&s->lock);
	rate_limiter_done(&s->limiter);
	free(s->tx);
	free(s);
}
