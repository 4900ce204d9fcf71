#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <pty.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

enum { RX0, TX0, CTRL_RX, CTRL_TX, RX1, TX1 };

#define MULTIPORT (1ull << VIRTIO_CONSOLE_F_MULTIPORT)
#define SIZE	  (1ull << VIRTIO_CONSOLE_F_SIZE)
#define PAGE	  4096u

/* Port 0 is hvc0, port 1 is "org.test"; each ends in two pipes. */
struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct chardev *chardev[2];
	int to[2][2], from[2][2];
	uint64_t page[8]; /* of the control receive queue, by id */
};

static void chardevs_init(struct fixture *f)
{
	for (int i = 0; i < 2; i++) {
		struct chardev_config config = { .kind = CHARDEV_FDS };

		assert_int_equal(pipe(f->to[i]), 0);
		assert_int_equal(pipe2(f->from[i], O_NONBLOCK), 0);
		config.in_fd = f->to[i][0];
		config.out_fd = f->from[i][1];
		assert_int_equal(chardev_create(&f->chardev[i], &config, f->vm.loop, NULL), 0);
	}
}

static struct virtio_device *device(struct fixture *f)
{
	struct virtio_console_port ports[2] = {
		{ .is_console = true, .chardev = f->chardev[0] },
		{ .name = "org.test", .chardev = f->chardev[1] },
	};
	struct virtio_params params = fake_vm_params(&f->vm, "console0");
	struct virtio_device *dev;

	assert_int_equal(virtio_console_create(&dev, &params, ports, 2, NULL), 0);
	return dev;
}

static void begin(struct fixture *f, const struct fake_driver_config *config)
{
	memset(f, 0, sizeof(*f));
	fake_vm_init(&f->vm, LOOP_AUTO);
	chardevs_init(f);
	fake_driver_init(&f->d, &f->vm, device(f), config);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	for (int i = 0; i < 2; i++) {
		chardev_free(f->chardev[i]);
		for (int j = 0; j < 2; j++) {
			close(f->to[i][j]);
			close(f->from[i][j]);
		}
	}
	fake_vm_done(&f->vm);
}

/* What waits on a poll is not there at once. */
static void settle(struct fixture *f)
{
	for (int i = 0; i < 20; i++) {
		loop_run_once(f->vm.loop, NSEC_PER_MSEC);
		fake_run(&f->vm);
	}
}

/* ---- a driver ---- */

static uint64_t give_buffer(struct fixture *f, unsigned queue, uint32_t len)
{
	struct fake_buf buf = { fake_alloc(&f->vm, len, 1), len, true };

	assert_true(fake_add(&f->d, queue, &buf, 1) >= 0);
	return buf.gpa;
}

static void fill_control(struct fixture *f)
{
	for (int i = 0; i < 8; i++) {
		struct fake_buf buf = { fake_alloc(&f->vm, 64, 8), 64, true };
		int id = fake_add(&f->d, CTRL_RX, &buf, 1);

		assert_in_range(id, 0, 7);
		f->page[id] = buf.gpa;
	}
	fake_kick(&f->d, CTRL_RX);
}

static void tell(struct fixture *f, uint32_t port, uint16_t event, uint16_t value)
{
	struct virtio_console_control m = { htole32(port), htole16(event), htole16(value) };
	struct fake_buf buf = { fake_alloc(&f->vm, sizeof(m), 8), sizeof(m), false };
	struct fake_used used;

	memcpy(fake_ptr(&f->vm, buf.gpa, sizeof(m)), &m, sizeof(m));
	fake_add(&f->d, CTRL_TX, &buf, 1);
	fake_kick(&f->d, CTRL_TX);
	assert_true(fake_wait_used(&f->d, CTRL_TX, &used));
}

/* The next message from the device; returns the bytes behind its header, or -1 for none. */
static int receive(struct fixture *f, struct virtio_console_control *m, void *extra)
{
	struct fake_used used;
	struct fake_buf buf;
	uint8_t *p;
	int id;

	fake_run(&f->vm);
	if (!fake_take_used(&f->d, CTRL_RX, &used))
		return -1;
	assert_in_range(used.len, sizeof(*m), 64);
	buf = (struct fake_buf){ f->page[used.id], 64, true };
	p = fake_ptr(&f->vm, buf.gpa, 64);
	memcpy(m, p, sizeof(*m));
	memcpy(extra, p + sizeof(*m), used.len - sizeof(*m));
	id = fake_add(&f->d, CTRL_RX, &buf, 1);
	f->page[id] = buf.gpa;
	return used.len - sizeof(*m);
}

static void expect(struct fixture *f, uint32_t port, uint16_t event, uint16_t value)
{
	struct virtio_console_control m;
	char extra[64];

	assert_int_equal(receive(f, &m, extra), 0);
	assert_int_equal(le32toh(m.id), port);
	assert_int_equal(le16toh(m.event), event);
	assert_int_equal(le16toh(m.value), value);
}

static void expect_nothing(struct fixture *f)
{
	struct virtio_console_control m;
	char extra[64];

	assert_int_equal(receive(f, &m, extra), -1);
}

/* What Linux does until both ports are there. */
static void add_ports(struct fixture *f)
{
	struct virtio_console_control m;
	char name[64];

	fill_control(f);
	tell(f, UINT32_MAX, VIRTIO_CONSOLE_DEVICE_READY, 1);
	expect(f, 0, VIRTIO_CONSOLE_PORT_ADD, 1);
	expect(f, 1, VIRTIO_CONSOLE_PORT_ADD, 1);
	tell(f, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	expect(f, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
	expect(f, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	tell(f, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	tell(f, 1, VIRTIO_CONSOLE_PORT_READY, 1);
	assert_int_equal(receive(f, &m, name), 8);
	assert_int_equal(le16toh(m.event), VIRTIO_CONSOLE_PORT_NAME);
	assert_memory_equal(name, "org.test", 8);
	expect(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	expect_nothing(f);
}

static void print(struct fixture *f, unsigned queue, const char *text)
{
	struct fake_buf buf = { fake_alloc(&f->vm, strlen(text) + 1, 1), strlen(text), false };

	memcpy(fake_ptr(&f->vm, buf.gpa, buf.len), text, buf.len);
	assert_true(fake_add(&f->d, queue, &buf, 1) >= 0);
	fake_kick(&f->d, queue);
}

static void expect_output(struct fixture *f, int port, const char *text)
{
	char buf[64];

	settle(f);
	assert_int_equal(read(f->from[port][0], buf, sizeof(buf)), strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

static const struct fake_driver_config drivers[] = {
	{ .features = MULTIPORT | SIZE },
	{ .features = MULTIPORT | SIZE, .packed = true, .event_idx = true },
	{ .features = MULTIPORT | SIZE, .transport = FAKE_PCI, .event_idx = true },
};

/* ---- promises ---- */

static void ports_are_told_of_and_carry_data(void **state)
{
	struct fake_used used;
	struct fixture f;
	uint64_t page;

	for (unsigned i = 0; i < ARRAY_SIZE(drivers); i++) {
		begin(&f, &drivers[i]);
		add_ports(&f);

		print(&f, TX0, "login: ");
		expect_output(&f, 0, "login: ");
		assert_true(fake_take_used(&f.d, TX0, &used));
		assert_int_equal(used.len, 0);

		page = give_buffer(&f, RX0, PAGE);
		fake_kick(&f.d, RX0);
		assert_int_equal(write(f.to[0][1], "root\n", 5), 5);
		assert_true(fake_wait_used(&f.d, RX0, &used));
		assert_int_equal(used.len, 5);
		assert_memory_equal(fake_ptr(&f.vm, page, 5), "root\n", 5);
		assert_int_equal(fake_interrupts(&f.d, RX0) > 0, 1);

		print(&f, TX1, "to the other");
		expect_output(&f, 1, "to the other");
		end(&f);
	}
}

/* A driver without multiport: two queues, and the port is there at once. */
static void a_plain_driver_has_one_console(void **state)
{
	struct fake_used used;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	print(&f, TX0, "early");
	expect_output(&f, 0, "early");
	give_buffer(&f, RX0, PAGE);
	fake_kick(&f.d, RX0);
	assert_int_equal(write(f.to[0][1], "x", 1), 1);
	assert_true(fake_wait_used(&f.d, RX0, &used));
	end(&f);
}

/* What whoever comes in our place would find of the second port's input. */
static int left_to_others(const struct fixture *f)
{
	int bytes = 0;

	assert_int_equal(ioctl(f->to[1][1], FIONREAD, &bytes), 0);
	return bytes;
}

static void input_waits_for_an_open_port_and_a_buffer(void **state)
{
	struct fake_used used;
	struct fixture f;

	begin(&f, &drivers[0]);
	assert_int_equal(write(f.to[1][1], "early", 5), 5);
	give_buffer(&f, RX1, 3);
	fake_kick(&f.d, RX1);
	add_ports(&f);
	settle(&f);
	assert_false(fake_take_used(&f.d, RX1, &used)); /* not opened */
	assert_int_equal(left_to_others(&f), 5);
	tell(&f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	assert_true(fake_wait_used(&f.d, RX1, &used));
	assert_int_equal(used.len, 3);
	settle(&f);
	assert_false(fake_take_used(&f.d, RX1, &used)); /* no buffer */
	give_buffer(&f, RX1, 10);
	fake_kick(&f.d, RX1);
	assert_true(fake_wait_used(&f.d, RX1, &used));
	assert_int_equal(used.len, 2);

	/* Closed again, nothing more comes. */
	tell(&f, 1, VIRTIO_CONSOLE_PORT_OPEN, 0);
	give_buffer(&f, RX1, 10);
	fake_kick(&f.d, RX1);
	assert_int_equal(write(f.to[1][1], "late", 4), 4);
	settle(&f);
	assert_false(fake_take_used(&f.d, RX1, &used));
	assert_int_equal(left_to_others(&f), 4);
	end(&f);
}

static void a_slow_reader_holds_up_its_own_port_only(void **state)
{
	enum { TOTAL = 1 << 20 };
	size_t sent = 0, got = 0;
	struct fake_used used;
	struct fixture f;
	uint64_t chunk;
	uint8_t *p;

	begin(&f, &drivers[1]);
	add_ports(&f);
	chunk = fake_alloc(&f.vm, TOTAL, 1);
	p = fake_ptr(&f.vm, chunk, TOTAL);
	for (size_t i = 0; i < TOTAL; i++)
		p[i] = i * 2654435761u >> 11;
	/* As much as goes into ring, pipe and chardev. */
	while (sent < TOTAL) {
		struct fake_buf buf = { chunk + sent, 0x8000, false };

		if (fake_add(&f.d, TX1, &buf, 1) < 0)
			break;
		sent += buf.len;
	}
	fake_kick(&f.d, TX1);
	settle(&f);
	while (fake_take_used(&f.d, TX1, &used))
		;
	print(&f, TX0, "goes on");
	expect_output(&f, 0, "goes on");

	while (got < sent) {
		static uint8_t buf[1 << 16];
		ssize_t r = read(f.from[1][0], buf, sizeof(buf));

		if (r > 0) {
			assert_memory_equal(buf, p + got, r);
			got += r;
		}
		settle(&f);
	}
	assert_int_equal(got, TOTAL);
	end(&f);
}

static void peers_that_come_and_go_are_told(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "/tmp/wisp-vcon.sock" };
	struct chardev_config config = { .kind = CHARDEV_SOCKET, .path = addr.sun_path };
	struct virtio_console_port port = { .name = "a" };
	struct virtio_console_control m;
	struct virtio_device *dev;
	struct virtio_params params;
	struct chardev *c;
	struct fixture f = { 0 };
	char name[64];
	int fd;

	fake_vm_init(&f.vm, LOOP_AUTO);
	assert_int_equal(chardev_create(&c, &config, f.vm.loop, NULL), 0);
	port.chardev = c;
	params = fake_vm_params(&f.vm, "console0");
	assert_int_equal(virtio_console_create(&dev, &params, &port, 1, NULL), 0);
	fake_driver_init(&f.d, &f.vm, dev, &drivers[0]);
	fill_control(&f);
	tell(&f, UINT32_MAX, VIRTIO_CONSOLE_DEVICE_READY, 1);
	expect(&f, 0, VIRTIO_CONSOLE_PORT_ADD, 1);
	tell(&f, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	assert_int_equal(receive(&f, &m, name), 1);
	expect(&f, 0, VIRTIO_CONSOLE_PORT_OPEN, 0);

	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	settle(&f);
	expect(&f, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	close(fd);
	settle(&f);
	expect(&f, 0, VIRTIO_CONSOLE_PORT_OPEN, 0);
	fake_driver_done(&f.d);
	chardev_free(c);
	fake_vm_done(&f.vm);
}

static void the_size_follows_the_terminal(void **state)
{
	struct winsize size = { .ws_col = 80, .ws_row = 24 };
	struct chardev_config config = { .kind = CHARDEV_STDIO };
	struct virtio_console_port port = { .is_console = true };
	struct virtio_console_control m;
	struct virtio_params params;
	struct virtio_device *dev;
	struct fixture f = { 0 };
	uint16_t told[2], read_size[3][2];
	int master, slave, saved = dup(0), config_irqs, bytes;
	char extra[64];

	/* A terminal in the place of standard input, for as short as it can be. */
	assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
	fake_vm_init(&f.vm, LOOP_AUTO);
	dup2(slave, 0);
	assert_int_equal(chardev_create(&port.chardev, &config, f.vm.loop, NULL), 0);
	params = fake_vm_params(&f.vm, "console0");
	assert_int_equal(virtio_console_create(&dev, &params, &port, 1, NULL), 0);
	fake_driver_init(&f.d, &f.vm, dev, &drivers[2]);
	fake_config_read(&f.d, 0, read_size[0], 4);
	fill_control(&f);
	tell(&f, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	expect(&f, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
	bytes = receive(&f, &m, extra);
	assert_int_equal(le16toh(m.event), VIRTIO_CONSOLE_RESIZE);
	memcpy(told, extra, 4);
	assert_int_equal(bytes, 4);
	assert_int_equal(le16toh(told[0]), 80);
	assert_int_equal(le16toh(told[1]), 24);
	expect(&f, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);

	size.ws_col = 132;
	assert_int_equal(ioctl(slave, TIOCSWINSZ, &size), 0);
	chardev_window_changed(port.chardev);
	fake_config_read(&f.d, 0, read_size[1], 4);
	assert_int_equal(receive(&f, &m, extra), 4);
	memcpy(told, extra, 4);
	assert_int_equal(le16toh(told[0]), 132);
	fake_driver_done(&f.d);

	/* And without multiport by the configuration. */
	assert_int_equal(virtio_console_create(&dev, &params, &port, 1, NULL), 0);
	fake_driver_init(&f.d, &f.vm, dev, &(struct fake_driver_config){ .features = SIZE });
	size.ws_row = 50;
	assert_int_equal(ioctl(slave, TIOCSWINSZ, &size), 0);
	chardev_window_changed(port.chardev);
	config_irqs = fake_config_interrupts(&f.d);
	fake_config_read(&f.d, 0, read_size[2], 4);
	fake_driver_done(&f.d);
	chardev_free(port.chardev);
	fake_vm_done(&f.vm);
	dup2(saved, 0);
	close(saved);
	close(slave);
	close(master);
	assert_int_equal(config_irqs, 1);
	assert_int_equal(le16toh(read_size[0][0]), 80);
	assert_int_equal(le16toh(read_size[0][1]), 24);
	assert_int_equal(le16toh(read_size[1][0]), 132);
	assert_int_equal(le16toh(read_size[2][1]), 50);
}

static void what_a_driver_makes_up_is_without_effect(void **state)
{
	struct fake_buf shorter;
	struct fake_used used;
	struct fixture f;

	begin(&f, &drivers[0]);
	fill_control(&f);
	tell(&f, 2, VIRTIO_CONSOLE_PORT_READY, 1);
	tell(&f, UINT32_MAX, VIRTIO_CONSOLE_PORT_OPEN, 1);
	tell(&f, 0, 999, 1);
	tell(&f, UINT32_MAX, VIRTIO_CONSOLE_DEVICE_READY, 0);
	shorter = (struct fake_buf){ fake_alloc(&f.vm, 8, 8), 7, false };
	fake_add(&f.d, CTRL_TX, &shorter, 1);
	fake_kick(&f.d, CTRL_TX);
	assert_true(fake_wait_used(&f.d, CTRL_TX, &used));
	expect_nothing(&f);

	/* Asked a hundred times before there is a buffer, it answers once. */
	for (int i = 0; i < 100; i++)
		tell(&f, UINT32_MAX, VIRTIO_CONSOLE_DEVICE_READY, 1);
	expect(&f, 0, VIRTIO_CONSOLE_PORT_ADD, 1);
	assert_int_equal(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
	end(&f);
}

static void a_buffer_without_room_needs_a_reset(void **state)
{
	struct fixture f;
	struct fake_buf wrong;

	begin(&f, &drivers[0]);
	add_ports(&f);
	wrong = (struct fake_buf){ fake_alloc(&f.vm, 8, 8), 8, false };
	fake_add(&f.d, RX0, &wrong, 1);
	fake_kick(&f.d, RX0);
	assert_int_equal(write(f.to[0][1], "x", 1), 1);
	settle(&f);
	assert_int_equal(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET,
			 VIRTIO_CONFIG_S_NEEDS_RESET);

	/* And after it the device works, the byte that waited included. */
	fake_set_status(&f.d, 0);
	fake_driver_probe(&f.d);
	fake_driver_ok(&f.d);
	add_ports(&f);
	give_buffer(&f, RX0, PAGE);
	fake_kick(&f.d, RX0);
	settle(&f);
	assert_true(fake_take_used(&f.d, RX0, &(struct fake_used){ 0 }));
	end(&f);
}

static void a_pause_keeps_half_sent_output(void **state)
{
	enum { LEN = 200000 };
	struct fake_used used;
	struct fixture f;
	struct fake_buf buf;
	bool paused = false;
	size_t got = 0;
	uint8_t *p;

	begin(&f, &drivers[1]);
	add_ports(&f);
	give_buffer(&f, RX0, PAGE);
	fake_kick(&f.d, RX0);
	buf = (struct fake_buf){ fake_alloc(&f.vm, LEN, 1), LEN, false };
	p = fake_ptr(&f.vm, buf.gpa, LEN);
	for (size_t i = 0; i < LEN; i++)
		p[i] = i >> 4;
	fake_add(&f.d, TX0, &buf, 1);
	fake_kick(&f.d, TX0);
	settle(&f);
	/* Nobody reads, and still it can be paused at once. */
	virtio_pause(f.d.dev, fake_drained, &paused);
	fake_run(&f.vm);
	assert_true(paused);
	assert_false(fake_take_used(&f.d, TX0, &used));
	virtio_resume(f.d.dev);
	while (got < LEN) {
		static uint8_t out[1 << 16];
		ssize_t r = read(f.from[0][0], out, sizeof(out));

		if (r > 0) {
			assert_memory_equal(out, p + got, r);
			got += r;
		}
		settle(&f);
	}
	assert_true(fake_take_used(&f.d, TX0, &used));
	/* The receive buffer was given back and taken again. */
	assert_int_equal(write(f.to[0][1], "y", 1), 1);
	assert_true(fake_wait_used(&f.d, RX0, &used));
	end(&f);
}

static void state_remembers_open_ports(void **state)
{
	struct fixture f;
	struct state_writer w;
	struct state_reader r;
	struct virtio_device *copy;
	bool paused = false;
	size_t pos = 0;

	begin(&f, &drivers[0]);
	add_ports(&f);
	virtio_pause(f.d.dev, fake_drained, &paused);
	fake_run(&f.vm);
	assert_true(paused);
	state_writer_init(&w);
	state_begin(&w, "console0", 0, 1);
	virtio_save(f.d.dev, &w);
	state_end(&w);
	virtio_resume(f.d.dev);

	copy = device(&f);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(virtio_load(copy, &r), 0);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	virtio_free(copy);

	/* Another number of ports is another device. */
	state_writer_done(&w);
	fake_section_begin(&w);
	f.d.dev->ops->save(f.d.dev, &w);
	put_le32(w.buf + w.len - (4 + 2 * 11), 3);
	assert_int_equal(fake_section_load(f.d.dev, &w), -EBADMSG);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports_are_told_of_and_carry_data),
		cmocka_unit_test(a_plain_driver_has_one_console),
		cmocka_unit_test(input_waits_for_an_open_port_and_a_buffer),
		cmocka_unit_test(a_slow_reader_holds_up_its_own_port_only),
		cmocka_unit_test(peers_that_come_and_go_are_told),
		cmocka_unit_test(the_size_follows_the_terminal),
		cmocka_unit_test(what_a_driver_makes_up_is_without_effect),
		cmocka_unit_test(a_buffer_without_room_needs_a_reset),
		cmocka_unit_test(a_pause_keeps_half_sent_output),
		cmocka_unit_test(state_remembers_open_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
