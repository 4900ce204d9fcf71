#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/fs_client.h"
#include "devices/fs_wire.h"
#include "tests/unit/fake_device.h"
#include "tests/unit/fake_driver.h"
#include "tests/unit/fake_fuse.h"
#include "tests/unit/loop_fixture.h"
#include "virtio/virtio_devices.h"

#define HIPRIO	0
#define REQUEST 1
#define ROOT	FUSE_ROOT_ID

/* A device whose server runs on a thread, over a temporary directory. */
struct end {
	struct fs_server *s;
	int socket;
	pthread_t thread;
};

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct end server;
	struct fake_fuse host; /* for its directory */
	uint64_t in, out;      /* guest memory for requests and replies */
	uint64_t unique;
};

#define ROOM (64 * KiB)

static void *serve(void *arg)
{
	struct end *e = arg;

	fs_server_serve(e->s, e->socket);
	close(e->socket);
	return NULL;
}

static struct virtio_device *device(struct fixture *f, struct end *e)
{
	struct virtio_params params = fake_vm_params(&f->vm, "share0");
	struct fs_server_config config = {
		.root_fd = open(f->host.dir, O_PATH | O_DIRECTORY | O_CLOEXEC),
	};
	struct virtio_device *dev;
	struct fs_client *client;
	int pair[2];

	assert_int_equal(fs_server_create(&e->s, &config, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	e->socket = pair[1];
	assert_int_equal(pthread_create(&e->thread, NULL, serve, e), 0);
	assert_int_equal(fs_client_create(&client, pair[0], f->vm.loop, "share0", NULL), 0);
	assert_int_equal(virtio_fs_create(&dev, &params, client, "tag", NULL), 0);
	return dev;
}

/* After the device is freed, which closes the socket. */
static void end_server(struct end *e)
{
	pthread_join(e->thread, NULL);
	fs_server_free(e->s);
}

static void begin(struct fixture *f, enum loop_backend backend)
{
	memset(f, 0, sizeof(*f));
	fake_fuse_init(&f->host, &(struct fs_server_config){ 0 });
	fake_vm_init(&f->vm, backend);
	fake_driver_init(&f->d, &f->vm, device(f, &f->server),
			 &(struct fake_driver_config){ .event_idx = true, .packed = true });
	f->in = fake_alloc(&f->vm, ROOM, 4096);
	f->out = fake_alloc(&f->vm, ROOM, 4096);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	end_server(&f->server);
	fake_vm_done(&f->vm);
	fake_fuse_done(&f->host);
}

/* One request with room for @room bytes after the reply's header: its error. -1000: no reply. */
static int ask(struct fixture *f, unsigned queue, uint32_t opcode, uint64_t node, const void *a,
	       size_t a_len, const void *b, size_t b_len, uint32_t room)
{
	struct fuse_in_header h = {
		.len = sizeof(h) + a_len + b_len,
		.opcode = opcode,
		.unique = ++f->unique,
		.nodeid = node,
	};
	struct fuse_out_header *out = fake_ptr(&f->vm, f->out, ROOM);
	struct fake_buf bufs[] = {
		{ f->in, sizeof(h), false },
		{ f->in + sizeof(h), a_len + b_len, false },
		{ f->out, sizeof(*out), true },
		{ f->out + sizeof(*out), room, true },
	};
	uint8_t *in = fake_ptr(&f->vm, f->in, ROOM);
	struct fake_used used;
	unsigned n = 0;

	memcpy(in, &h, sizeof(h));
	if (a_len)
		memcpy(in + sizeof(h), a, a_len);
	if (b_len)
		memcpy(in + sizeof(h) + a_len, b, b_len);
	for (unsigned i = 0; i < ARRAY_SIZE(bufs); i++)
		if (bufs[i].len)
			bufs[n++] = bufs[i];
	memset(out, 0xaa, sizeof(*out));
	assert_true(fake_add(&f->d, queue, bufs, n) >= 0);
	fake_kick(&f->d, queue);
	assert_true(fake_wait_used(&f->d, queue, &used));
	if (!used.len)
		return -1000;
	assert_int_equal(out->len, used.len);
	assert_true(out->unique == h.unique);
	return out->error;
}

static const void *body(struct fixture *f)
{
	return (const uint8_t *)fake_ptr(&f->vm, f->out, ROOM) + sizeof(struct fuse_out_header);
}

static void say_init(struct fixture *f)
{
	struct fuse_init_in in = { .major = 7, .minor = 38, .flags = ~0u };

	assert_int_equal(ask(f, REQUEST, FUSE_INIT, 0, &in, sizeof(in), NULL, 0,
			     sizeof(struct fuse_init_out)), 0);
}

static uint64_t create(struct fixture *f, const char *name, uint64_t *ret_node)
{
	struct fuse_create_in in = { .flags = O_RDWR | O_CREAT, .mode = S_IFREG | 0644 };
	const struct fuse_entry_out *entry;

	assert_int_equal(ask(f, REQUEST, FUSE_CREATE, ROOT, &in, sizeof(in), name, strlen(name) + 1,
			     sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out)), 0);
	entry = body(f);
	*ret_node = entry->nodeid;
	return ((const struct fuse_open_out *)(entry + 1))->fh;
}

static int write_file(struct fixture *f, uint64_t node, uint64_t fh, uint64_t offset,
		      uint32_t claimed, const char *text)
{
	struct fuse_write_in in = { .fh = fh, .offset = offset, .size = claimed };

	return ask(f, REQUEST, FUSE_WRITE, node, &in, sizeof(in), text, strlen(text),
		   sizeof(struct fuse_write_out));
}

static int read_file(struct fixture *f, uint64_t node, uint64_t fh, uint64_t offset, uint32_t size,
		     uint32_t room)
{
	struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };

	return ask(f, REQUEST, FUSE_READ, node, &in, sizeof(in), NULL, 0, room);
}

static void data_passes_between_guest_and_file(void **state)
{
	enum loop_backend backend = *(enum loop_backend *)*state;
	const struct fuse_out_header *out;
	struct fuse_release_in release;
	struct fuse_fsync_in sync;
	struct fixture f;
	uint64_t node, fh;

	begin(&f, backend);
	say_init(&f);
	fh = create(&f, "file", &node);
	assert_int_equal(write_file(&f, node, fh, 0, 11, "hello world"), 0);
	assert_int_equal(((const struct fuse_write_out *)body(&f))->size, 11);
	sync = (struct fuse_fsync_in){ .fh = fh };
	assert_int_equal(ask(&f, REQUEST, FUSE_FSYNC, node, &sync, sizeof(sync), NULL, 0, 0), 0);
	/* Over the end: what there is. */
	assert_int_equal(read_file(&f, node, fh, 6, 100, 100), 0);
	out = fake_ptr(&f.vm, f.out, sizeof(*out));
	assert_int_equal(out->len, sizeof(*out) + 5);
	assert_memory_equal(body(&f), "world", 5);
	/* No more than there is room for, whatever is asked for. */
	assert_int_equal(read_file(&f, node, fh, 0, 4000000, 4), 0);
	assert_int_equal(out->len, sizeof(*out) + 4);
	release = (struct fuse_release_in){ .fh = fh };
	assert_int_equal(ask(&f, REQUEST, FUSE_RELEASE, node, &release, sizeof(release), NULL, 0,
			     0), 0);
	assert_int_equal(read_file(&f, node, fh, 0, 4, 4), -EBADF);
	end(&f);
}

static void lies_about_data_are_refused(void **state)
{
	struct fuse_fallocate_in fall = { .length = 10, .mode = 0x80 };
	struct fuse_read_in in = { .size = 4096 };
	struct fixture f;
	uint64_t node, fh;

	begin(&f, LOOP_AUTO);
	say_init(&f);
	fh = create(&f, "file", &node);
	/* More than was sent; places that no file has; files that nobody opened. */
	assert_int_equal(write_file(&f, node, fh, 0, 1000000, "x"), -EINVAL);
	assert_int_equal(write_file(&f, node, fh, UINT64_MAX, 1, "x"), -EINVAL);
	assert_int_equal(write_file(&f, node, fh, INT64_MAX, 1, "x"), -EINVAL);
	assert_int_equal(read_file(&f, node, fh, UINT64_MAX, 4, 4), -EINVAL);
	assert_int_equal(write_file(&f, node, fh + 1, 0, 1, "x"), -EBADF);
	assert_int_equal(read_file(&f, node, UINT64_MAX, 0, 4, 4), -EBADF);
	assert_int_equal(read_file(&f, node, 0, 0, 4, 4), -EBADF);
	fall.fh = fh;
	assert_int_equal(ask(&f, REQUEST, FUSE_FALLOCATE, node, &fall, sizeof(fall), NULL, 0, 0),
			 -EOPNOTSUPP);
	/* Arguments that end too early. */
	assert_int_equal(ask(&f, REQUEST, FUSE_READ, node, &in, 10, NULL, 0, 100), -EINVAL);
	assert_int_equal(ask(&f, REQUEST, FUSE_WRITE, node, &in, 10, NULL, 0, 100), -EINVAL);
	assert_int_equal(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
	end(&f);
}

static void headers_that_lie_get_an_error_or_nothing(void **state)
{
	struct fuse_out_header *out;
	struct fuse_in_header *h;
	struct fake_buf bufs[2];
	struct fake_used used;
	struct fixture f;

	begin(&f, LOOP_AUTO);
	say_init(&f);
	h = fake_ptr(&f.vm, f.in, sizeof(*h));
	out = fake_ptr(&f.vm, f.out, sizeof(*out));
	*h = (struct fuse_in_header){ .len = 1 << 30, .opcode = FUSE_GETATTR, .nodeid = ROOT };
	bufs[0] = (struct fake_buf){ f.in, sizeof(*h), false };
	bufs[1] = (struct fake_buf){ f.out, 200, true };
	fake_add(&f.d, REQUEST, bufs, 2);
	fake_kick(&f.d, REQUEST);
	assert_true(fake_wait_used(&f.d, REQUEST, &used));
	assert_int_equal(out->error, -EINVAL);
	/* Less than a header, either way. */
	bufs[0].len = 20;
	fake_add(&f.d, REQUEST, bufs, 2);
	fake_kick(&f.d, REQUEST);
	assert_true(fake_wait_used(&f.d, REQUEST, &used));
	assert_int_equal(used.len, 0);
	h->len = sizeof(*h);
	bufs[0].len = sizeof(*h);
	bufs[1].len = 8;
	fake_add(&f.d, REQUEST, bufs, 2);
	fake_kick(&f.d, REQUEST);
	assert_true(fake_wait_used(&f.d, REQUEST, &used));
	assert_int_equal(used.len, 0);
	end(&f);
}

static void forgetting_has_no_reply(void **state)
{
	struct fuse_forget_in in = { .nlookup = 1 };
	struct fuse_getattr_in get = { 0 };
	struct fixture f;
	uint64_t node;

	begin(&f, LOOP_AUTO);
	say_init(&f);
	create(&f, "file", &node);
	assert_int_equal(ask(&f, HIPRIO, FUSE_FORGET, node, &in, sizeof(in), NULL, 0, 0), -1000);
	assert_int_equal(ask(&f, REQUEST, FUSE_GETATTR, node, &get, sizeof(get), NULL, 0,
			     sizeof(struct fuse_attr_out)), -ESTALE);
	end(&f);
}

static void open_files_outlive_a_save_and_load(void **state)
{
	const struct fs_wire stray = { .kind = FS_WIRE_FUSE, .slot = FS_CLIENT_MAX_REQUESTS };
	const struct fuse_out_header reply = { .len = sizeof(reply) };
	struct virtio_device *copy;
	struct end second = { 0 };
	struct state_writer w;
	struct state_reader r;
	struct fixture f;
	uint64_t node, fh;
	size_t pos = 0;

	begin(&f, LOOP_AUTO);
	say_init(&f);
	fh = create(&f, "file", &node);
	assert_int_equal(write_file(&f, node, fh, 0, 5, "saved"), 0);
	fake_pause(&f.d);
	/* What nobody listened for: the answer to a release that the guest knows nothing of. */
	assert_int_equal(fs_wire_send(f.server.socket, &stray, &reply, sizeof(reply), -1, 0), 0);
	state_writer_init(&w);
	state_begin(&w, "share0", 0, 1);
	virtio_save(f.d.dev, &w);
	state_end(&w);
	assert_int_equal(w.failed, 0);
	/* The same once more: saving changes nothing. And it goes on. */
	virtio_resume(f.d.dev);
	assert_int_equal(read_file(&f, node, fh, 0, 5, 5), 0);

	copy = device(&f, &second);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(virtio_load(copy, &r), 0);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	virtio_free(copy);
	end_server(&second);

	/* The file is another one now: an error says which. */
	assert_int_equal(unlink(fake_path(&f.host, "file")), 0);
	fake_host_file(&f.host, "file", "other");
	copy = device(&f, &second);
	pos = 0;
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(virtio_load(copy, &r), -EBADMSG);
	assert_non_null(strstr(r.why, "'file'"));
	virtio_free(copy);
	end_server(&second);
	state_writer_done(&w);
	end(&f);
}

/* A client whose server is the test, and which takes its time. */
struct talk {
	struct loop *loop;
	struct fs_client *c;
	int server;
	unsigned done;
};

struct question {
	struct fs_request req;
	struct talk *t;
	struct fuse_in_header in;
	struct fuse_open_in open;
	struct iovec out[2], in_iov[1], scratch[8];
	uint8_t reply[256];
};

static void answered(struct fs_request *req, uint32_t bytes)
{
	container_of(req, struct question, req)->t->done++;
}

static void ask_open(struct talk *t, struct question *q)
{
	*q = (struct question){ .t = t };
	q->in = (struct fuse_in_header){ .len = sizeof(q->in) + sizeof(q->open),
					 .opcode = FUSE_OPEN, .nodeid = ROOT };
	q->out[0] = (struct iovec){ &q->in, sizeof(q->in) };
	q->out[1] = (struct iovec){ &q->open, sizeof(q->open) };
	q->in_iov[0] = (struct iovec){ q->reply, sizeof(q->reply) };
	q->req = (struct fs_request){
		.out = q->out, .num_out = 2, .out_bytes = q->in.len,
		.in = q->in_iov, .num_in = 1, .in_bytes = sizeof(q->reply),
		.scratch = q->scratch, .done = answered,
	};
	fs_client_submit(t->c, &q->req);
	loop_run_once(t->loop, 0);
}

static void turn(struct talk *t)
{
	while (loop_run_once(t->loop, 20 * NSEC_PER_MSEC))
		;
}

/* The next request that the server reads: its opcode, and its slot and its file. 0: none. */
static uint32_t hear(struct talk *t, uint32_t *ret_slot, uint64_t *ret_fh)
{
	struct {
		struct fs_wire wire;
		struct fuse_in_header in;
		struct fuse_release_in release;
	} m = { 0 };
	ssize_t n;

	/* What only took up room is shorter. */
	do
		n = recv(t->server, &m, sizeof(m), MSG_DONTWAIT);
	while (n == sizeof(m.wire));
	*ret_slot = m.wire.slot;
	*ret_fh = m.release.fh;
	return n > 0 ? m.in.opcode : 0;
}

/* It has opened a file as @fh, and the descriptor does not come. */
static void say_open(struct talk *t, uint32_t slot, uint64_t fh)
{
	const struct fs_wire wire = { .kind = FS_WIRE_FUSE, .slot = slot };
	struct {
		struct fuse_out_header head;
		struct fuse_open_out out;
	} m = { .head.len = sizeof(m), .out.fh = fh };

	assert_int_equal(fs_wire_send(t->server, &wire, &m, sizeof(m), -1, 0), 0);
}

/* The way to a server is full when it has to be told of files that the guest cannot have. */
static void files_that_the_guest_cannot_have_are_closed_in_the_end(void **state)
{
	enum { N = 4 };
	const struct fuse_out_header reply = { .len = sizeof(reply) };
	struct fs_wire wire = { .kind = FS_WIRE_FUSE };
	struct talk t = { .loop = loop_fixture_create(NULL) };
	struct question q[N];
	bool released[N] = { false };
	uint32_t slot[N];
	uint64_t fh;
	int pair[2], way;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	way = dup(pair[0]);
	t.server = pair[1];
	assert_int_equal(fs_client_create(&t.c, pair[0], t.loop, "share0", NULL), 0);
	fs_client_start(t.c);
	for (unsigned i = 0; i < N; i++) {
		ask_open(&t, &q[i]);
		turn(&t);
		assert_int_equal(hear(&t, &slot[i], &fh), FUSE_OPEN);
	}
	while (send(way, &wire, sizeof(wire), MSG_DONTWAIT) > 0)
		;
	for (unsigned i = 0; i < N; i++)
		say_open(&t, slot[i], i);
	turn(&t);
	assert_int_equal(t.done, N);
	/* There is room now, which any answer makes the client look for. */
	assert_int_equal(hear(&t, &wire.slot, &fh), 0);
	wire.slot = FS_CLIENT_MAX_REQUESTS;
	assert_int_equal(fs_wire_send(t.server, &wire, &reply, sizeof(reply), -1, 0), 0);
	turn(&t);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(hear(&t, &wire.slot, &fh), FUSE_RELEASE);
		assert_true(fh < N && !released[fh]);
		released[fh] = true;
	}
	assert_int_equal(hear(&t, &wire.slot, &fh), 0);
	fs_client_free(t.c);
	close(t.server);
	close(way);
	loop_free(t.loop);
}

static void dead_server_is_an_input_output_error(void **state)
{
	struct fuse_getattr_in in = { 0 };
	struct fixture f;
	uint64_t node, fh;

	begin(&f, LOOP_AUTO);
	say_init(&f);
	fh = create(&f, "file", &node);
	shutdown(f.server.socket, SHUT_RDWR);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(ask(&f, REQUEST, FUSE_GETATTR, node, &in, sizeof(in), NULL, 0,
				     sizeof(struct fuse_attr_out)), -EIO);
	/* What is open stays so. */
	assert_int_equal(write_file(&f, node, fh, 0, 5, "later"), 0);
	end(&f);
}

int main(void)
{
	static enum loop_backend uring = LOOP_AUTO, epoll = LOOP_EPOLL;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(data_passes_between_guest_and_file, &uring),
		cmocka_unit_test_prestate(data_passes_between_guest_and_file, &epoll),
		cmocka_unit_test(lies_about_data_are_refused),
		cmocka_unit_test(headers_that_lie_get_an_error_or_nothing),
		cmocka_unit_test(forgetting_has_no_reply),
		cmocka_unit_test(open_files_outlive_a_save_and_load),
		cmocka_unit_test(files_that_the_guest_cannot_have_are_closed_in_the_end),
		cmocka_unit_test(dead_server_is_an_input_output_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
