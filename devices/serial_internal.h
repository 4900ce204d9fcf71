/*
 * Between serial.c, the registers and their behaviour, and serial_state.c, which
 * saves and loads them. Nobody else includes it.
 */
#ifndef WISP_DEVICES_SERIAL_INTERNAL_H
#define WISP_DEVICES_SERIAL_INTERNAL_H

#include <pthread.h>

#include "devices/serial.h"

/* Register offsets. */
#define REG_DATA 0 /* RBR, THR; DLL with DLAB */
#define REG_IER	 1 /* DLM with DLAB */
#define REG_IIR	 2 /* read; FCR when written */
#define REG_LCR	 3
#define REG_MCR	 4
#define REG_LSR	 5
#define REG_MSR	 6
#define REG_SCR	 7

#define IER_RX	   0x01
#define IER_TX	   0x02
#define IER_LINE   0x04
#define IER_MODEM  0x08
#define IER_MASK   0x0f

#define IIR_NONE    0x01
#define IIR_MODEM   0x00
#define IIR_TX	    0x02
#define IIR_RX	    0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT     0xc9 /* enable, DMA mode, trigger level */

#define LCR_BREAK 0x40
#define LCR_DLAB  0x80

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DATA    0x01
#define LSR_OVERRUN 0x02
#define LSR_BREAK   0x10
#define LSR_THRE    0x20
#define LSR_TEMT    0x40
#define LSR_ERRORS  0x1e

#define MSR_DELTAS 0x0f
#define MSR_TERI   0x04
#define MSR_CTS	   0x10
#define MSR_DSR	   0x20
#define MSR_RI	   0x40
#define MSR_DCD	   0x80

#define FIFO_BYTES 16

/*
 * Between the vCPU that writes and the loop that carries it to the chardev. The
 * transmitter shows as busy from the mark on; the rest is for a driver that
 * writes a whole FIFO after one look, or a long string without looking.
 */
#define TX_BYTES 8192u
#define TX_MARK	 4096u

/*
 * A guest that reads the line status so often without writing waits for input by
 * polling, so it may have some though its receive interrupt is off.
 */
#define POLLS_FOR_INPUT 4096

struct serial {
	pthread_mutex_t lock; /* everything but the chardev, which is the loop's */
	uint8_t ier, fcr, lcr, mcr, lsr, msr, scr;
	uint16_t divisor;
	uint8_t rx[FIFO_BYTES];
	unsigned rx_head, rx_len;
	bool tx_pending;      /* "transmitter empty" has not been read from IIR yet */
	bool timeout_pending; /* bytes below the trigger level wait */
	bool line_high;	      /* what the interrupt pin shows */
	unsigned polls;

	uint8_t *tx; /* ring, made when first written to */
	unsigned tx_head, tx_len;

	struct rate_limiter limiter; /* of what is sent; has a lock of its own */
	uint64_t dropped;	     /* bytes beyond it */

	struct irq_line irq;
	struct loop *loop;
	struct chardev *chardev; /* may be NULL */
	struct loop_task drain;	 /* tx to the chardev */
	struct loop_task resume; /* there is room for input again */
};

static inline unsigned serial_rx_capacity(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

/* Is there something to interrupt for? Under the lock. */
bool serial_interrupts(const struct serial *s);

#endif
