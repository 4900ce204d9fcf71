#include "vmm/core/loop_workers.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/core/loop_internal.h"

#define MAX_WORKERS 4

/* loop_op.priv as used here, under lock: not begun yet. */
#define PRIV_QUEUED 0

/* System calls and nothing else; sanitizers need more than that. */
#define STACK_BYTES (128 * KiB)

struct loop_workers {
	int wake_fd;
	struct loop_workers_params params;
	pthread_mutex_t lock;
	pthread_cond_t work;
	/* Under lock. */
	struct list queue; /* struct loop_op, not begun */
	struct list done;  /* struct loop_op with their results */
	unsigned idle;
	bool quit;
	/* The loop's own. */
	pthread_t thread[MAX_WORKERS];
	unsigned num;
};

static int carry_out(const struct loop_op *op)
{
	const struct iovec one = { .iov_base = op->buf, .iov_len = op->len };
	ssize_t r = -1;

	errno = EINVAL;
	switch ((enum loop_op_kind)op->kind) {
	/* Of these alone the locked thread has a use, since they take offset -1 for a stream. */
	case LOOP_OP_READV:
		r = preadv2(op->fd, op->iov, op->len, (off_t)op->offset, 0);
		break;
	case LOOP_OP_WRITEV:
		r = pwritev2(op->fd, op->iov, op->len, (off_t)op->offset, 0);
		break;
	case LOOP_OP_READ:
	case LOOP_OP_EVENT:
		r = preadv2(op->fd, &one, 1, (off_t)op->offset, 0);
		break;
	case LOOP_OP_WRITE:
		r = pwritev2(op->fd, &one, 1, (off_t)op->offset, 0);
		break;
	case LOOP_OP_FSYNC:
		r = op->flags ? fdatasync(op->fd) : fsync(op->fd);
		break;
	case LOOP_OP_FALLOCATE:
		r = fallocate(op->fd, op->flags, op->offset, op->len);
		break;
	case LOOP_OP_RECVMSG:
	case LOOP_OP_SENDMSG:
	case LOOP_OP_ACCEPT:
	case LOOP_OP_POLL:
		break;
	}
	return r < 0 ? -errno : r;
}

/* Lock held. */
static void finish(struct loop_workers *w, struct loop_op *op, int res)
{
	op->res = res;
	if (list_empty(&w->done))
		eventfd_write(w->wake_fd, 1);
	list_add_tail(&w->done, &op->link);
}

static void *worker(void *arg)
{
	struct loop_workers *w = arg;

	if (w->params.begins)
		w->params.begins(w->params.ctx);
	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct loop_op *op;
		int res;

		while (list_empty(&w->queue) && !w->quit) {
			w->idle++;
			pthread_cond_wait(&w->work, &w->lock);
			w->idle--;
		}
		if (w->quit)
			break;
		op = list_entry(w->queue.next, struct loop_op, link);
		list_del(&op->link);
		op->priv[PRIV_QUEUED] = false;
		pthread_mutex_unlock(&w->lock);

		res = carry_out(op);

		pthread_mutex_lock(&w->lock);
		finish(w, op, res);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

struct loop_workers *loop_workers_create(int wake_fd, const struct loop_workers_params *params)
{
	struct loop_workers *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->wake_fd = wake_fd;
	w->params = *params;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	list_init(&w->queue);
	list_init(&w->done);
	return w;
}

void loop_workers_free(struct loop_workers *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->quit = true;
	pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->num; i++)
		pthread_join(w->thread[i], NULL);
	pthread_cond_destroy(&w->work);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static int make_thread(struct loop_workers *w, pthread_t *ret_thread, const pthread_attr_t *attr)
{
	const struct loop_workers_params *p = &w->params;

	return p->make ? p->make(p->ctx, ret_thread, attr, worker, w) :
			 pthread_create(ret_thread, attr, worker, w);
}

/*
 * One more thread, if that is allowed and possible. Signals are for the threads that ask for them.
 */
static void start_worker(struct loop_workers *w)
{
	sigset_t all, saved;
	pthread_attr_t attr;

	if (w->num == MAX_WORKERS)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (!make_thread(w, &w->thread[w->num], &attr))
		w->num++;
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

void loop_workers_submit(struct loop_workers *w, struct loop_op *op)
{
	struct list *pos;
	unsigned queued = 0;
	bool need_thread;

	pthread_mutex_lock(&w->lock);
	op->priv[PRIV_QUEUED] = true;
	list_add_tail(&w->queue, &op->link);
	list_for_each(pos, &w->queue)
		queued++;
	need_thread = queued > w->idle;
	pthread_cond_signal(&w->work);
	pthread_mutex_unlock(&w->lock);
	if (need_thread)
		start_worker(w);
	if (w->num)
		return;

	/* No thread to be had: late is better than never. */
	pthread_mutex_lock(&w->lock);
	list_del(&op->link);
	finish(w, op, carry_out(op));
	pthread_mutex_unlock(&w->lock);
}

bool loop_workers_cancel(struct loop_workers *w, struct loop_op *op)
{
	bool queued;

	pthread_mutex_lock(&w->lock);
	queued = op->priv[PRIV_QUEUED];
	if (queued)
		list_del(&op->link);
	pthread_mutex_unlock(&w->lock);
	return queued;
}

void loop_workers_reap(struct loop_workers *w, struct loop *loop)
{
	struct list done;

	list_init(&done);
	pthread_mutex_lock(&w->lock);
	list_move_all(&done, &w->done);
	pthread_mutex_unlock(&w->lock);
	while (!list_empty(&done)) {
		struct loop_op *op = list_entry(done.next, struct loop_op, link);

		list_del(&op->link);
		loop_complete(loop, op, op->res);
	}
}
