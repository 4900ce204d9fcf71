#include "tests/unit/fake_port.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/loop_fixture.h"

static size_t room(void *arg)
{
	struct fake_port *p = arg;

	return p->room;
}

void fake_port_input(void *arg, const uint8_t *bytes, size_t len)
{
	struct fake_port *p = arg;

	assert_true(len > 0 && len <= p->room);
	if (p->room != SIZE_MAX)
		p->room -= len;
	assert_true(p->num_got + len <= sizeof(p->got));
	memcpy(p->got + p->num_got, bytes, len);
	p->num_got += len;
}

void fake_port_pump(struct fake_port *p)
{
	size_t n = chardev_write(p->c, p->out, p->out_left);

	p->out += n;
	p->out_left -= n;
}

static void writable(void *arg)
{
	struct fake_port *p = arg;

	p->writable++;
	if (p->out_left)
		fake_port_pump(p);
}

static void opened(void *arg, bool open)
{
	struct fake_port *p = arg;

	if (open)
		p->opened++;
	else
		p->closed++;
}

static void resized(void *arg, uint16_t columns, uint16_t rows)
{
	struct fake_port *p = arg;

	p->resized++;
	p->columns = columns;
	p->rows = rows;
}

static void send_break(void *arg)
{
	((struct fake_port *)arg)->breaks++;
}

static void on_escape(void *arg, char key)
{
	((struct fake_port *)arg)->key = key;
}

void fake_port_init(struct fake_port *p, const struct chardev_config *config)
{
	struct error err = { 0 };

	memset(p, 0, sizeof(*p));
	p->room = SIZE_MAX;
	p->loop = loop_fixture_create(NULL);
	if (chardev_create(&p->c, config, p->loop, &err) < 0)
		fail_msg("%s", err.msg);
	chardev_on_escape(p->c, on_escape, p);
	chardev_attach(p->c, &(struct chardev_user){ room, fake_port_input, writable, opened,
						     resized, send_break, p });
}

void fake_port_done(struct fake_port *p)
{
	chardev_free(p->c);
	loop_free(p->loop);
}

void fake_port_settle(struct fake_port *p)
{
	while (loop_run_once(p->loop, 5 * NSEC_PER_MSEC))
		;
}
