#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/serial.h"
#include "tests/unit/fake_hv.h"

/* Registers, as drivers name them. */
enum { RBR = 0, THR = 0, DLL = 0, IER = 1, DLM = 1, IIR = 2, FCR = 2, LCR, MCR, LSR, MSR, SCR };

#define LSR_DR	 0x01
#define LSR_OE	 0x02
#define LSR_BI	 0x10
#define LSR_IDLE 0x60 /* THRE and TEMT */

#define IIR_NONE 0x01

struct fixture {
	struct hv *hv;
	struct irq_table *irqs;
	struct bus *pio;
	struct loop *loop;
	struct chardev *chardev;
	struct serial *serial;
	int to[2], from[2]; /* input goes into to[1], output comes out of from[0] */
};

static void fixture_init(struct fixture *f, const struct clock *clock)
{
	struct loop_params params = { .backend = LOOP_EPOLL, .clock = clock, .name = "test" };
	struct chardev_config config = { .kind = CHARDEV_FDS };

	f->hv = fake_hv_create(NULL);
	assert_int_equal(irq_table_create(&f->irqs, f->hv), 0);
	assert_int_equal(bus_create(&f->pio, "pio"), 0);
	assert_int_equal(loop_create(&f->loop, &params, NULL), 0);
	assert_int_equal(pipe(f->to), 0);
	assert_int_equal(pipe2(f->from, O_NONBLOCK), 0);
	config.in_fd = f->to[0];
	config.out_fd = f->from[1];
	assert_int_equal(chardev_create(&f->chardev, &config, f->loop, NULL), 0);
	assert_int_equal(serial_create(&f->serial, f->pio, SERIAL_COM1_PORT, f->irqs,
				       SERIAL_COM1_IRQ, f->chardev, f->loop, NULL),
			 0);
}

static void fixture_done(struct fixture *f)
{
	serial_free(f->serial);
	chardev_free(f->chardev);
	loop_free(f->loop);
	bus_free(f->pio);
	irq_table_free(f->irqs);
	f->hv->ops->free(f->hv);
	close(f->to[0]);
	close(f->to[1]);
	close(f->from[0]);
	close(f->from[1]);
}

static int setup(void **state)
{
	static struct fixture f;

	fixture_init(&f, NULL);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture_done(*state);
	return 0;
}

static uint8_t in(struct fixture *f, unsigned reg)
{
	uint8_t v = 0xff;

	assert_true(bus_read(f->pio, SERIAL_COM1_PORT + reg, &v, 1));
	return v;
}

static void out(struct fixture *f, unsigned reg, uint8_t v)
{
	assert_true(bus_write(f->pio, SERIAL_COM1_PORT + reg, &v, 1));
}

static void settle(struct fixture *f)
{
	while (loop_run_once(f->loop, NSEC_PER_MSEC))
		;
}

/* Interrupts so far. */
static uint64_t irqs(struct fixture *f)
{
	return fake_hv_interrupts(f->hv, SERIAL_COM1_IRQ);
}

static void type(struct fixture *f, const char *s)
{
	assert_int_equal(write(f->to[1], s, strlen(s)), strlen(s));
	settle(f);
}

static void expect_output(struct fixture *f, const char *s)
{
	char buf[256];

	settle(f);
	assert_int_equal(read(f->from[0], buf, sizeof(buf)), strlen(s));
	assert_memory_equal(buf, s, strlen(s));
}

/* The probes of Linux's 8250 driver, in its order. */
static void linux_finds_a_16550a(void **state)
{
	struct fixture *f = *state;
	unsigned n;

	out(f, IER, 0);
	assert_int_equal(in(f, IER), 0);
	out(f, IER, 0x0f);
	assert_int_equal(in(f, IER), 0x0f);
	out(f, IER, 0);
	out(f, MCR, 0x10 | 0x0a); /* loop, OUT2 and RTS */
	assert_int_equal(in(f, MSR) & 0xf0, 0x90);
	out(f, MCR, 0);

	out(f, LCR, 0xbf); /* no extended features are there */
	out(f, FCR, 0);
	out(f, LCR, 0);
	out(f, FCR, 1);
	assert_int_equal(in(f, IIR) >> 6, 3);
	out(f, LCR, 0x80);
	assert_int_not_equal(in(f, IIR), 0); /* not a 16650 */
	out(f, LCR, 0);
	out(f, FCR, 0x21); /* nor a 16750 */
	assert_int_equal(in(f, IIR) & 0xe0, 0xc0);
	out(f, IER, 0x40); /* nor an XScale */
	assert_int_equal(in(f, IER) & 0x40, 0);

	/* The size of its FIFO, by looping bytes back. */
	out(f, FCR, 7);
	out(f, MCR, 0x10);
	for (n = 0; n < 256; n++)
		out(f, THR, n);
	for (n = 0; n < 256 && (in(f, LSR) & LSR_DR); n++)
		assert_int_equal(in(f, RBR), n);
	assert_int_equal(n, 16);
	settle(f);
	assert_int_equal(read(f->from[0], &n, 1), -1); /* nothing of it left the port */
}

static void divisor_and_scratch_are_kept_apart(void **state)
{
	struct fixture *f = *state;

	out(f, LCR, 0x83);
	out(f, DLL, 0x34);
	out(f, DLM, 0x12);
	out(f, LCR, 0x03);
	out(f, IER, 0x05);
	out(f, SCR, 0x99);
	out(f, LCR, 0x83);
	assert_int_equal(in(f, DLL), 0x34);
	assert_int_equal(in(f, DLM), 0x12);
	out(f, LCR, 0x03);
	assert_int_equal(in(f, IER), 0x05);
	assert_int_equal(in(f, SCR), 0x99);
	assert_int_equal(in(f, LCR), 0x03);
	settle(f);
	assert_int_equal(in(f, LSR), LSR_IDLE);
}

static void output_comes_out_in_order(void **state)
{
	struct fixture *f = *state;

	for (const char *s = "Linux version 6.1\r\n"; *s; s++) {
		assert_int_equal(in(f, LSR) & LSR_IDLE, LSR_IDLE);
		out(f, THR, *s);
	}
	expect_output(f, "Linux version 6.1\r\n");
}

/* A guest that is kept waiting would stall: the registers tell it nothing of the limit. */
static void output_beyond_the_limit_is_dropped(void **state)
{
	static const struct rate_limits limit = { .bytes = { .per_second = 10, .burst = 4 } }, none;
	struct clock clock;
	struct fixture f;

	clock_init_virtual(&clock, NSEC_PER_SEC, NSEC_PER_SEC);
	fixture_init(&f, &clock);
	serial_limit(f.serial, &limit);
	for (const char *s = "abcdefg"; *s; s++) {
		out(&f, THR, *s);
		assert_int_equal(in(&f, LSR) & LSR_IDLE, LSR_IDLE);
	}
	expect_output(&f, "abcd");
	assert_int_equal(serial_dropped(f.serial), 3);
	clock_advance(&clock, NSEC_PER_SEC / 10);
	out(&f, THR, 'h');
	out(&f, THR, 'i');
	expect_output(&f, "h");
	serial_limit(f.serial, &none);
	for (const char *s = "jklmno"; *s; s++)
		out(&f, THR, *s);
	expect_output(&f, "jklmno");
	assert_int_equal(serial_dropped(f.serial), 4);
	fixture_done(&f);
}

static void an_empty_transmitter_interrupts_once(void **state)
{
	struct fixture *f = *state;
	uint64_t n;

	out(f, FCR, 1);
	out(f, IER, 2);
	assert_int_equal(irqs(f), 1);
	assert_int_equal(in(f, IIR), 0xc2);
	assert_int_equal(in(f, IIR), 0xc0 | IIR_NONE);
	/* Switched off and on again it is reported again: Linux tests for that. */
	out(f, IER, 0);
	out(f, IER, 2);
	assert_int_equal(in(f, IIR), 0xc2);
	n = irqs(f);
	/* 16 bytes written at an interrupt end in another one. */
	for (int i = 0; i < 16; i++)
		out(f, THR, 'x');
	assert_true(irqs(f) > n);
	assert_int_equal(in(f, IIR), 0xc2);
	expect_output(f, "xxxxxxxxxxxxxxxx");
}

static void a_reader_that_stalls_is_back_pressure_and_no_loss(void **state)
{
	enum { TOTAL = 1 << 20 };
	struct fixture *f = *state;
	unsigned sent = 0, got = 0;
	bool stalled = false;

	out(f, FCR, 1);
	while (got < TOTAL) {
		uint8_t buf[4096];
		ssize_t r;

		/* As Linux: a look at the line status, then a FIFO's worth. */
		while (sent < TOTAL && (in(f, LSR) & 0x20)) {
			for (int i = 0; i < 16; i++, sent++)
				out(f, THR, (sent * 7 + (sent >> 8)) & 0xff);
		}
		settle(f);
		if (sent < TOTAL && (in(f, LSR) & 0x20))
			continue;
		stalled |= sent < TOTAL;
		r = read(f->from[0], buf, sizeof(buf));
		assert_true(r > 0);
		for (ssize_t i = 0; i < r; i++, got++)
			assert_int_equal(buf[i], (got * 7 + (got >> 8)) & 0xff);
	}
	assert_true(stalled);
}

static void room_after_a_stall_interrupts(void **state)
{
	struct fixture *f = *state;
	static uint8_t buf[1 << 18];
	uint64_t n;

	out(f, FCR, 1);
	out(f, IER, 2);
	/* Until everything on the way is full: a pipe, the chardev and the port. */
	for (int i = 0; i < 100; i++) {
		while (in(f, LSR) & 0x20)
			out(f, THR, 'x');
		settle(f);
	}
	assert_false(in(f, LSR) & LSR_IDLE);
	(void)in(f, IIR);
	n = irqs(f);
	assert_int_equal(in(f, IIR), 0xc0 | IIR_NONE);
	while (!(in(f, LSR) & 0x20)) {
		assert_true(read(f->from[0], buf, sizeof(buf)) > 0);
		settle(f);
	}
	assert_int_equal(irqs(f), n + 1);
	assert_int_equal(in(f, IIR), 0xc2);
	assert_int_equal(in(f, LSR) & LSR_IDLE, LSR_IDLE);
}

static void input_waits_for_the_driver(void **state)
{
	struct fixture *f = *state;

	type(f, "uname\n");
	assert_int_equal(in(f, LSR) & LSR_DR, 0);
	/* A driver that prints by polling wants no input by that. */
	for (int i = 0; i < 10000; i++) {
		(void)in(f, LSR);
		out(f, THR, '.');
		if (i % 1000 == 0) {
			settle(f);
			assert_true(read(f->from[0], (char[4096]){ 0 }, 4096) > 0);
		}
	}
	/* Linux clears the FIFOs when it starts, then takes interrupts. */
	out(f, FCR, 7);
	out(f, IER, 5);
	settle(f);
	assert_int_equal(irqs(f), 1);
	for (const char *s = "uname\n"; *s; s++) {
		assert_int_equal(in(f, IIR) & 0x0f, 0x04);
		assert_int_equal(in(f, LSR) & LSR_DR, LSR_DR);
		assert_int_equal(in(f, RBR), *s);
	}
	assert_int_equal(in(f, IIR) & 0x0f, IIR_NONE);
}

static void a_guest_that_polls_for_input_gets_it(void **state)
{
	struct fixture *f = *state;
	bool ready = false;

	type(f, "y");
	for (int i = 0; i < 100000 && !ready; i++) {
		ready = in(f, LSR) & LSR_DR;
		if (i % 1000 == 0)
			settle(f);
	}
	assert_true(ready);
	assert_int_equal(in(f, RBR), 'y');
}

static void input_longer_than_the_fifo_is_not_lost(void **state)
{
	struct fixture *f = *state;
	char text[1000];
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = 'a' + i % 26;
	out(f, FCR, 0xc7); /* interrupt at 14 */
	out(f, IER, 5);
	assert_int_equal(write(f->to[1], text, sizeof(text)), sizeof(text));
	while (n < sizeof(text)) {
		settle(f);
		assert_true(in(f, LSR) & LSR_DR);
		assert_int_equal(in(f, LSR) & LSR_OE, 0);
		while (in(f, LSR) & LSR_DR)
			assert_int_equal(in(f, RBR), text[n++]);
	}
	assert_int_equal(n, sizeof(text));
}

static void the_trigger_level_tells_data_from_timeout(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 0x47); /* interrupt at 4 */
	out(f, IER, 1);
	type(f, "abc");
	assert_int_equal(in(f, IIR) & 0x0f, 0x0c);
	type(f, "d");
	assert_int_equal(in(f, IIR) & 0x0f, 0x04);
	out(f, FCR, 0x43); /* clear what was received */
	assert_int_equal(in(f, LSR) & LSR_DR, 0);
	assert_int_equal(in(f, IIR) & 0x0f, IIR_NONE);
}

static void interrupts_are_identified_by_priority(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 1);
	out(f, MCR, 0x10);
	(void)in(f, MSR);
	for (int i = 0; i < 17; i++)
		out(f, THR, i); /* data, and an overrun */
	out(f, MCR, 0x12); /* a modem line changes */
	out(f, IER, 0x0f);
	assert_int_equal(in(f, IIR) & 0x0f, 0x06);
	assert_int_equal(in(f, LSR) & LSR_OE, LSR_OE);
	assert_int_equal(in(f, LSR) & LSR_OE, 0);
	assert_int_equal(in(f, IIR) & 0x0f, 0x04);
	for (int i = 0; i < 16; i++)
		assert_int_equal(in(f, RBR), i);
	assert_int_equal(in(f, IIR) & 0x0f, 0x02);
	assert_int_equal(in(f, IIR) & 0x0f, 0x00);
	assert_int_equal(in(f, MSR) & 0x1f, 0x11); /* CTS came: its delta, and itself */
	assert_int_equal(in(f, MSR) & 0x0f, 0);
	assert_int_equal(in(f, IIR) & 0x0f, IIR_NONE);
}

static void without_a_fifo_the_newest_byte_wins(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 0);
	out(f, MCR, 0x10);
	out(f, THR, 'a');
	out(f, THR, 'b');
	assert_int_equal(in(f, LSR) & (LSR_DR | LSR_OE), LSR_DR | LSR_OE);
	assert_int_equal(in(f, RBR), 'b');
	assert_int_equal(in(f, LSR) & LSR_DR, 0);
	assert_int_equal(in(f, IIR), IIR_NONE);
}

static void a_break_is_a_zero_byte_with_its_mark(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 1);
	out(f, MCR, 0x10);
	out(f, IER, 4);
	out(f, LCR, 0x43);
	assert_int_equal(irqs(f), 1);
	assert_int_equal(in(f, IIR) & 0x0f, 0x06);
	assert_int_equal(in(f, LSR) & (LSR_BI | LSR_DR), LSR_BI | LSR_DR);
	assert_int_equal(in(f, RBR), 0);
	out(f, LCR, 0x03);
	assert_int_equal(in(f, LSR) & LSR_BI, 0);
}

static void wide_accesses_are_harmless(void **state)
{
	struct fixture *f = *state;
	uint8_t data[8];

	for (unsigned len = 1; len <= 8; len *= 2) {
		for (unsigned reg = 0; reg < 8; reg++) {
			memset(data, 0xff, sizeof(data));
			bus_read(f->pio, SERIAL_COM1_PORT + reg, data, len);
			bus_write(f->pio, SERIAL_COM1_PORT + reg, data, len);
		}
	}
	settle(f);
}

struct printer {
	struct fixture *f;
	unsigned total;
};

/* A vCPU that prints, waiting for room as drivers do. */
static void *print_much(void *arg)
{
	struct printer *p = arg;
	unsigned sent = 0;

	while (sent < p->total) {
		if (!(in(p->f, LSR) & 0x20)) {
			sched_yield();
			continue;
		}
		for (int i = 0; i < 16; i++, sent++)
			out(p->f, THR, (sent * 7 + (sent >> 8)) & 0xff);
		(void)in(p->f, IIR);
	}
	return NULL;
}

static void a_vcpu_may_print_while_the_loop_runs(void **state)
{
	struct fixture *f = *state;
	struct printer p = { f, 1 << 17 };
	unsigned got = 0;
	pthread_t vcpu;

	out(f, FCR, 1);
	out(f, IER, 2);
	assert_int_equal(pthread_create(&vcpu, NULL, print_much, &p), 0);
	while (got < p.total) {
		uint8_t buf[4096];
		ssize_t r;

		loop_run_once(f->loop, NSEC_PER_MSEC);
		r = read(f->from[0], buf, sizeof(buf));
		for (ssize_t i = 0; i < r; i++, got++)
			assert_int_equal(buf[i], (got * 7 + (got >> 8)) & 0xff);
	}
	pthread_join(vcpu, NULL);
}

static void save(struct fixture *f, struct state_writer *w)
{
	state_writer_init(w);
	state_begin(w, "serial", 0, 1);
	serial_save(f->serial, w);
	state_end(w);
}

static int load(struct fixture *f, struct state_writer *w)
{
	struct state_reader r;
	size_t pos = 0;
	int ret;

	assert_int_equal(state_next(w->buf, w->len, &pos, &r, NULL), 1);
	ret = serial_load(f->serial, &r);
	return ret < 0 ? ret : state_reader_end(&r, NULL);
}

static void state_moves_to_another_port(void **state)
{
	struct fixture *f = *state, g;
	struct state_writer w;

	out(f, LCR, 0x83);
	out(f, DLL, 1);
	out(f, LCR, 0x03);
	out(f, FCR, 0x81);
	out(f, IER, 0x05);
	out(f, MCR, 0x0b);
	out(f, SCR, 0x42);
	type(f, "in");
	out(f, THR, 'o'); /* not drained: the loop has not run */
	out(f, THR, 'k');
	save(f, &w);

	fixture_init(&g, NULL);
	assert_int_equal(load(&g, &w), 0);
	assert_int_equal(irqs(&g), 0); /* loading raises nothing */
	expect_output(&g, "ok");
	assert_int_equal(in(&g, IER), 0x05);
	assert_int_equal(in(&g, LCR), 0x03);
	assert_int_equal(in(&g, MCR), 0x0b);
	assert_int_equal(in(&g, SCR), 0x42);
	assert_int_equal(in(&g, IIR), 0xcc);
	assert_int_equal(in(&g, RBR), 'i');
	assert_int_equal(in(&g, RBR), 'n');
	assert_int_equal(in(&g, LSR), LSR_IDLE);
	fixture_done(&g);
	state_writer_done(&w);
}

static void a_wrong_state_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct state_writer w;

	out(f, SCR, 0x17);
	for (int variant = 0; variant < 3; variant++) {
		state_writer_init(&w);
		state_begin(&w, "serial", 0, 1);
		for (int i = 0; i < 11; i++)
			state_put_u8(&w, i == 1 ? 1 : 0);
		state_put_u8(&w, variant == 0 ? 17 : 0); /* in a FIFO of 16 */
		if (variant == 1)
			state_put_u32(&w, 1 << 30);
		if (variant == 2)
			state_put_u32(&w, 100); /* and then cut off */
		state_end(&w);
		assert_int_equal(load(f, &w), -EBADMSG);
		assert_int_equal(in(f, SCR), 0x17);
		state_writer_done(&w);
	}
}

static void a_port_without_an_end_swallows_output(void **state)
{
	struct fixture *f = *state;
	struct serial *s;
	uint8_t v = 'x';

	assert_int_equal(serial_create(&s, f->pio, 0x2f8, f->irqs, 3, NULL, f->loop, NULL), 0);
	for (int i = 0; i < 20000; i++)
		assert_true(bus_write(f->pio, 0x2f8, &v, 1));
	assert_true(bus_read(f->pio, 0x2f8 + LSR, &v, 1));
	assert_int_equal(v, LSR_IDLE);
	serial_free(s);
}

#define serial_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		serial_test(linux_finds_a_16550a),
		serial_test(divisor_and_scratch_are_kept_apart),
		serial_test(output_comes_out_in_order),
		serial_test(output_beyond_the_limit_is_dropped),
		serial_test(an_empty_transmitter_interrupts_once),
		serial_test(a_reader_that_stalls_is_back_pressure_and_no_loss),
		serial_test(room_after_a_stall_interrupts),
		serial_test(input_waits_for_the_driver),
		serial_test(a_guest_that_polls_for_input_gets_it),
		serial_test(input_longer_than_the_fifo_is_not_lost),
		serial_test(the_trigger_level_tells_data_from_timeout),
		serial_test(interrupts_are_identified_by_priority),
		serial_test(without_a_fifo_the_newest_byte_wins),
		serial_test(a_break_is_a_zero_byte_with_its_mark),
		serial_test(wide_accesses_are_harmless),
		serial_test(a_vcpu_may_print_while_the_loop_runs),
		serial_test(state_moves_to_another_port),
		serial_test(a_wrong_state_changes_nothing),
		serial_test(a_port_without_an_end_swallows_output),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
