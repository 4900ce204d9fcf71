#include <errno.h>
#include <stdlib.h>

#include "devices/serial_internal.h"

void serial_save(struct serial *s, struct state_writer *w)
{
	pthread_mutex_lock(&s->lock);
	state_put_u8(w, s->ier);
	state_put_u8(w, s->fcr);
	state_put_u8(w, s->lcr);
	state_put_u8(w, s->mcr);
	state_put_u8(w, s->lsr);
	state_put_u8(w, s->msr);
	state_put_u8(w, s->scr);
	state_put_u16(w, s->divisor);
	state_put_u8(w, s->tx_pending);
	state_put_u8(w, s->timeout_pending);
	state_put_u8(w, s->rx_len);
	for (unsigned i = 0; i < s->rx_len; i++)
		state_put_u8(w, s->rx[(s->rx_head + i) % FIFO_BYTES]);
	state_put_u32(w, s->tx_len);
	for (unsigned i = 0; i < s->tx_len; i++)
		state_put_u8(w, s->tx[(s->tx_head + i) % TX_BYTES]);
	pthread_mutex_unlock(&s->lock);
}

/* Into locals first: a section that is wrong changes nothing. */
int serial_load(struct serial *s, struct state_reader *r)
{
	struct serial v = { 0 };
	uint8_t *tx = NULL;

	v.ier = state_get_u8(r) & IER_MASK;
	v.fcr = state_get_u8(r) & FCR_KEPT;
	v.lcr = state_get_u8(r);
	v.mcr = state_get_u8(r) & MCR_MASK;
	v.lsr = state_get_u8(r) & LSR_ERRORS;
	v.msr = state_get_u8(r);
	v.scr = state_get_u8(r);
	v.divisor = state_get_u16(r);
	v.tx_pending = state_get_u8(r) != 0;
	v.timeout_pending = state_get_u8(r) != 0;
	v.rx_len = state_get_u8(r);
	if (v.rx_len > serial_rx_capacity(&v))
		return state_reader_fail(r, "%u bytes received, room for %u", v.rx_len,
					 serial_rx_capacity(&v));
	state_get_bytes(r, v.rx, v.rx_len);
	v.tx_len = state_get_u32(r);
	if (v.tx_len > TX_BYTES)
		return state_reader_fail(r, "%u bytes to send", v.tx_len);
	if (v.tx_len) {
		tx = malloc(TX_BYTES);
		if (!tx)
			return -ENOMEM;
		state_get_bytes(r, tx, v.tx_len);
	}
	if (r->failed) {
		free(tx);
		return r->failed;
	}
	pthread_mutex_lock(&s->lock);
	s->ier = v.ier;
	s->fcr = v.fcr;
	s->lcr = v.lcr;
	s->mcr = v.mcr;
	s->lsr = v.lsr;
	s->msr = v.msr;
	s->scr = v.scr;
	s->divisor = v.divisor;
	s->tx_pending = v.tx_pending;
	s->timeout_pending = v.timeout_pending;
	memcpy(s->rx, v.rx, sizeof(s->rx));
	s->rx_head = 0;
	s->rx_len = v.rx_len;
	free(s->tx);
	s->tx = tx;
	s->tx_head = 0;
	s->tx_len = v.tx_len;
	s->line_high = serial_interrupts(s);
	pthread_mutex_unlock(&s->lock);
	if (s->chardev) {
		loop_post(s->loop, &s->drain);
		loop_post(s->loop, &s->resume);
	}
	return 0;
}
