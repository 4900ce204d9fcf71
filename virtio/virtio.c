#include "virtio/virtio.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* What a driver may set; NEEDS_RESET is ours, reserved bits read as 0. */
#define STATUS_DRIVER_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
	 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

static void doorbell_rang(struct loop_event *ev);
static void reset_on_loop(struct loop_task *task);
static void stop_on_queue_loop(struct loop_task *task);
static void queue_has_stopped(struct loop_task *task);
static void hurry_on_queue_loop(struct loop_task *task);
static void queue_has_hurried(struct loop_task *task);

int virtio_init(struct virtio_device *dev, const struct virtio_ops *ops,
		const struct virtio_params *params, struct error *err)
{
	unsigned i, n = params->num_queues;

	if (!n || n > VIRTIO_MAX_QUEUES)
		return error_set(err, -EINVAL, "%s '%s': %u queues (1 to %u are possible)",
				 ops->name, params->id, n, VIRTIO_MAX_QUEUES);

	memset(dev, 0, sizeof(*dev));
	dev->ops = ops;
	snprintf(dev->id, sizeof(dev->id), "%s", params->id);
	dev->mem = params->mem;
	dev->loop = params->loop;
	dev->offered = params->features | 1ull << VIRTIO_F_VERSION_1 |
		       1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX;
	if (!params->no_packed)
		dev->offered |= 1ull << VIRTIO_F_RING_PACKED;
	dev->num_queues = n;
	dev->reset_task.run = reset_on_loop;
	dev->moved_task.run = virtio_tell_moved;
	pthread_mutex_init(&dev->lock, NULL);
	pthread_mutex_init(&dev->ack_lock, NULL);
	pthread_cond_init(&dev->ack, NULL);

	dev->queue = calloc(n, sizeof(*dev->queue));
	dev->doorbell = calloc(n, sizeof(*dev->doorbell));
	if (!dev->queue || !dev->doorbell) {
		virtio_done(dev);
		return error_set(err, -ENOMEM, "%s '%s': %m", ops->name, params->id);
	}
	for (i = 0; i < n; i++) {
		virtq_init(&dev->queue[i], i, params->queue_sizes[i]);
		dev->doorbell[i] = (struct virtio_doorbell){
			.event = { .fired = doorbell_rang },
			.dev = dev,
			.loop = params->queue_loops ? params->queue_loops[i] : params->loop,
			.fd = -1,
			.stop = { .run = stop_on_queue_loop },
			.stopped = { .run = queue_has_stopped },
			.hurry = { .run = hurry_on_queue_loop },
			.hurried = { .run = queue_has_hurried },
		};
	}
	return 0;
}

/* ---- the loop's side ---- */

static unsigned index_of(const struct virtio_doorbell *bell)
{
	return bell - bell->dev->doorbell;
}

static void kicked(struct virtio_doorbell *bell)
{
	struct virtio_device *dev = bell->dev;
	unsigned i = index_of(bell);

	/* While it stops or is stopped a kick is dropped: starting again kicks every queue. */
	if (!bell->open || dev->needs_reset)
		return;
	counter_add(&dev->queue[i].stats.kicks, 1);
	dev->ops->kick(dev, i);
}

static void doorbell_rang(struct loop_event *ev)
{
	kicked(container_of(ev, struct virtio_doorbell, event));
}

/* loop_call to the queue's loop: serve it from now on. */
static int open_queue(void *arg)
{
	struct virtio_doorbell *bell = arg;

	if (bell->elsewhere) {
		eventfd_write(bell->fd, 1);
		return 0;
	}
	if (!bell->event.watched)
		loop_event_watch(bell->loop, &bell->event, bell->fd);
	bell->open = true;
	/* Chains may be waiting whose kick came before us, or went to our predecessor. */
	kicked(bell);
	return 0;
}

void virtio_interrupt(struct virtio_device *dev, unsigned queue)
{
	if (dev->transport_ops)
		dev->transport_ops->interrupt(dev->transport, queue);
}

void virtio_queue_back(struct virtio_device *dev, unsigned queue, uint16_t position)
{
	virtq_continue(&dev->queue[queue], position);
	virtio_interrupt(dev, queue);
	dev->doorbell[queue].elsewhere = false;
	open_queue(&dev->doorbell[queue]);
}

static void stop_queues(struct virtio_device *dev)
{
	for (unsigned i = 0; i < dev->num_queues; i++) {
		virtio_notify(dev, i);
		virtq_stop(&dev->queue[i]);
	}
}

/* loop_call: DRIVER_OK, or a paused or loaded device goes on. */
static int start_on_loop(void *arg)
{
	struct virtio_device *dev = arg;
	unsigned i;
	int r;

	if (dev->running || dev->paused || dev->needs_reset)
		return 0;
	for (i = 0; i < dev->num_queues; i++) {
		struct virtio_doorbell *bell = &dev->doorbell[i];
		struct virtq *q = &dev->queue[i];

		if (!q->ready)
			continue;
		if (virtq_start(q, dev->mem, dev->features) < 0) {
			virtio_fail(dev, "queue %u: %s", i, q->why_broken);
			goto stop;
		}
		if (bell->fd < 0) {
			virtio_fail(dev, "queue %u: no file descriptor for its doorbell", i);
			goto stop;
		}
	}
	dev->running = true;
	r = dev->ops->start(dev);
	if (r < 0) {
		dev->running = false;
		virtio_fail(dev, "cannot start: %s", strerror(-r));
		goto stop;
	}
	for (i = 0; i < dev->num_queues; i++) {
		if (dev->queue[i].started)
			loop_call(dev->doorbell[i].loop, open_queue, &dev->doorbell[i]);
	}
	return 0;

stop:
	stop_queues(dev);
	return 0;
}

/* Nothing is in flight: tell whoever waits for it, a reset, a pause or both. */
static void finish_stop(struct virtio_device *dev)
{
	void (*stopped)(struct virtio_device *dev, void *arg) = dev->stopped;

	if (dev->running)
		stop_queues(dev);
	dev->running = dev->stopping = dev->hurried = false;

	if (atomic_load(&dev->drain) == VIRTIO_DRAIN_WANTED) {
		if (dev->ops->reset)
			dev->ops->reset(dev);
		pthread_mutex_lock(&dev->ack_lock);
		atomic_store(&dev->drain, VIRTIO_DRAIN_DONE);
		pthread_cond_broadcast(&dev->ack);
		pthread_mutex_unlock(&dev->ack_lock);
	}
	dev->stopped = NULL;
	if (stopped)
		stopped(dev, dev->stopped_arg);
}

/* On the queue's loop. */
static void stop_on_queue_loop(struct loop_task *task)
{
	struct virtio_doorbell *bell = container_of(task, struct virtio_doorbell, stop);

	bell->open = false;
	bell->dev->ops->stop_queue(bell->dev, index_of(bell));
}

void virtio_queue_stopped(struct virtio_device *dev, unsigned queue)
{
	/* The last words come from its own loop. */
	virtio_notify(dev, queue);
	loop_post(dev->loop, &dev->doorbell[queue].stopped);
}

static void queue_has_stopped(struct loop_task *task)
{
	struct virtio_doorbell *bell = container_of(task, struct virtio_doorbell, stopped);

	if (--bell->dev->unstopped == 0)
		finish_stop(bell->dev);
}

static void hurry_on_queue_loop(struct loop_task *task)
{
	struct virtio_doorbell *bell = container_of(task, struct virtio_doorbell, hurry);

	bell->dev->ops->hurry(bell->dev, index_of(bell));
	loop_post(bell->dev->loop, &bell->hurried);
}

static void queue_has_hurried(struct loop_task *task)
{
	struct virtio_doorbell *bell = container_of(task, struct virtio_doorbell, hurried);

	if (--bell->dev->unstopped == 0)
		finish_stop(bell->dev);
}

void virtio_hurry(struct virtio_device *dev)
{
	if (!dev->stopping || dev->hurried || !dev->ops->hurry)
		return;
	/* Each is answered before the device counts as stopped: then it may be freed. */
	for (unsigned i = 0; i < dev->num_queues; i++) {
		if (!dev->queue[i].started)
			continue;
		dev->unstopped++;
		loop_post(dev->doorbell[i].loop, &dev->doorbell[i].hurry);
	}
	dev->hurried = true;
}

static void begin_stop(struct virtio_device *dev)
{
	unsigned i;

	if (!dev->running) {
		finish_stop(dev);
		return;
	}
	if (dev->stopping)
		return;
	dev->stopping = true;
	if (!dev->ops->stop_queue) {
		for (i = 0; i < dev->num_queues; i++)
			dev->doorbell[i].open = false;
		dev->ops->stop(dev);
		return;
	}
	dev->unstopped = 0;
	for (i = 0; i < dev->num_queues; i++) {
		if (!dev->queue[i].started)
			continue;
		dev->unstopped++;
		loop_post(dev->doorbell[i].loop, &dev->doorbell[i].stop);
	}
	if (!dev->unstopped)
		finish_stop(dev);
}

void virtio_stopped(struct virtio_device *dev)
{
	if (dev->stopping)
		finish_stop(dev);
}

static void reset_on_loop(struct loop_task *task)
{
	struct virtio_device *dev = container_of(task, struct virtio_device, reset_task);

	/* Two vCPUs may have asked; the second message finds the work done. */
	if (atomic_load(&dev->drain) != VIRTIO_DRAIN_WANTED)
		return;
	begin_stop(dev);
	virtio_hurry(dev);
}

int virtio_pop(struct virtio_device *dev, unsigned queue, struct virtq_chain *chain)
{
	struct virtq *q = &dev->queue[queue];
	int r;

	if (!q->started || dev->needs_reset)
		return 0;
	do
		r = virtq_pop(q, chain);
	while (r == 0 && virtq_kicks_on(q));
	if (r < 0)
		virtio_fail(dev, "queue %u: %s", queue, q->why_broken);
	return r;
}

void virtio_kick_again(struct virtio_device *dev, unsigned queue)
{
	if (dev->doorbell[queue].fd >= 0)
		eventfd_write(dev->doorbell[queue].fd, 1);
}

void virtio_notify(struct virtio_device *dev, unsigned queue)
{
	if (virtq_flush(&dev->queue[queue]) && dev->transport_ops)
		dev->transport_ops->interrupt(dev->transport, queue);
}

void virtio_signal(struct virtio_device *dev, unsigned queue, int fd)
{
	struct loop *loop = virtio_queue_loop(dev, queue);

	if (loop_is_mine(loop))
		loop_signal(loop, fd);
	else
		eventfd_write(fd, 1);
}

void virtio_fail(struct virtio_device *dev, const char *fmt, ...)
{
	char msg[160];
	va_list ap;
	unsigned i;

	/* One mistake is enough; what follows from it is neither counted nor told. */
	if (atomic_exchange(&dev->needs_reset, 1))
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	atomic_fetch_add(&dev->stats.failures, 1);
	log_limited(&dev->limit, LOG_WARN, "%s '%s' needs a reset: %s", dev->ops->name, dev->id,
		    msg);

	/* Those of other loops find out by @needs_reset at their next kick. */
	for (i = 0; i < dev->num_queues; i++) {
		if (loop_is_mine(dev->doorbell[i].loop))
			virtq_break(&dev->queue[i], "the device needs a reset");
	}
	/* Virtio 1.2, 2.1.2: tell it by a configuration change, once there is a driver. */
	if (dev->transport_ops && (dev->status & VIRTIO_CONFIG_S_DRIVER_OK))
		dev->transport_ops->config_changed(dev->transport);
}

void virtio_config_changed(struct virtio_device *dev)
{
	atomic_fetch_add(&dev->config_generation, 1);
	if (dev->transport_ops && (dev->status & VIRTIO_CONFIG_S_DRIVER_OK))
		dev->transport_ops->config_changed(dev->transport);
}

/* ---- doorbells: control side, no lock held ---- */

static void doorbells_on(struct virtio_device *dev)
{
	pthread_mutex_lock(&dev->lock);
	for (unsigned i = 0; i < dev->num_queues; i++) {
		/* Blocking, so that the loop's read of it waits; kept until the device is freed. */
		if (dev->queue[i].ready && dev->doorbell[i].fd < 0)
			dev->doorbell[i].fd = eventfd(0, EFD_CLOEXEC);
	}
	pthread_mutex_unlock(&dev->lock);
	dev->bound = true;
	if (dev->transport_ops && dev->transport_ops->queues_on(dev->transport) < 0)
		log_debug("%s '%s': doorbells take the slow way", dev->ops->name, dev->id);
}

static void doorbells_off(struct virtio_device *dev)
{
	if (dev->bound && dev->transport_ops)
		dev->transport_ops->queues_off(dev->transport);
	dev->bound = false;
}

void virtio_kick(struct virtio_device *dev, unsigned queue)
{
	pthread_mutex_lock(&dev->lock);
	if ((dev->status & VIRTIO_CONFIG_S_DRIVER_OK) && queue < dev->num_queues &&
	    dev->doorbell[queue].fd >= 0)
		eventfd_write(dev->doorbell[queue].fd, 1);
	pthread_mutex_unlock(&dev->lock);
}

/* ---- status: control side ---- */

static bool resetting(struct virtio_device *dev)
{
	return atomic_load(&dev->drain) != VIRTIO_DRAIN_NONE;
}

/* Under the lock: forget what the driver said. */
static void forget_driver(struct virtio_device *dev)
{
	for (unsigned i = 0; i < dev->num_queues; i++)
		virtq_reset(&dev->queue[i]);
	dev->features = 0;
	dev->status = 0;
	dev->needs_reset = 0;
	atomic_fetch_add(&dev->stats.resets, 1);
}

void virtio_settle(struct virtio_device *dev)
{
	if (atomic_load(&dev->drain) != VIRTIO_DRAIN_DONE)
		return;
	pthread_mutex_lock(&dev->lock);
	if (dev->busy || atomic_load(&dev->drain) != VIRTIO_DRAIN_DONE) {
		pthread_mutex_unlock(&dev->lock);
		return;
	}
	dev->busy = true;
	pthread_mutex_unlock(&dev->lock);

	doorbells_off(dev);
	if (dev->transport_ops)
		dev->transport_ops->reset(dev->transport);

	pthread_mutex_lock(&dev->lock);
	forget_driver(dev);
	dev->busy = false;
	atomic_store(&dev->drain, VIRTIO_DRAIN_NONE);
	pthread_mutex_unlock(&dev->lock);
}

static void wait_drained(struct virtio_device *dev)
{
	if (loop_is_mine(dev->loop)) {
		while (atomic_load(&dev->drain) == VIRTIO_DRAIN_WANTED)
			loop_run_once(dev->loop, UINT64_MAX);
		return;
	}
	pthread_mutex_lock(&dev->ack_lock);
	while (atomic_load(&dev->drain) == VIRTIO_DRAIN_WANTED)
		pthread_cond_wait(&dev->ack, &dev->ack_lock);
	pthread_mutex_unlock(&dev->ack_lock);
}

static void reset_device(struct virtio_device *dev, bool nowait)
{
	bool live;

	pthread_mutex_lock(&dev->lock);
	/* Another vCPU is in the middle of it: two of them at once are no driver. */
	if (dev->busy) {
		pthread_mutex_unlock(&dev->lock);
		return;
	}
	live = dev->status & VIRTIO_CONFIG_S_DRIVER_OK;
	if (!live)
		forget_driver(dev);
	else if (!resetting(dev))
		atomic_store(&dev->drain, VIRTIO_DRAIN_WANTED);
	pthread_mutex_unlock(&dev->lock);

	/* A device that never ran has nothing on the loop. */
	if (!live) {
		if (dev->transport_ops)
			dev->transport_ops->reset(dev->transport);
		return;
	}
	loop_post(dev->loop, &dev->reset_task);
	if (nowait)
		return;
	wait_drained(dev);
	virtio_settle(dev);
}

static bool features_ok(const struct virtio_device *dev)
{
	if (dev->features & ~dev->offered)
		return false;
	if (!(dev->features & (1ull << VIRTIO_F_VERSION_1)))
		return false;
	return !dev->ops->features_ok || dev->ops->features_ok(dev, dev->features);
}

uint8_t virtio_get_status(struct virtio_device *dev)
{
	uint8_t status;

	virtio_settle(dev);
	pthread_mutex_lock(&dev->lock);
	status = dev->status;
	if (dev->needs_reset)
		status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	pthread_mutex_unlock(&dev->lock);
	return status;
}

void virtio_set_status(struct virtio_device *dev, uint8_t status, bool nowait)
{
	uint8_t added;
	bool start;

	if (!status) {
		reset_device(dev, nowait);
		return;
	}
	/* A driver that did not wait for its reset to be over waits now. */
	wait_drained(dev);
	virtio_settle(dev);

	pthread_mutex_lock(&dev->lock);
	if (dev->busy) {
		pthread_mutex_unlock(&dev->lock);
		return;
	}
	/* Only a reset takes bits away: Virtio 1.2, 2.1.1. */
	added = status & STATUS_DRIVER_BITS & ~dev->status;
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && !features_ok(dev))
		added &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	if (!((dev->status | added) & VIRTIO_CONFIG_S_FEATURES_OK))
		added &= ~VIRTIO_CONFIG_S_DRIVER_OK;
	dev->status |= added;
	start = added & VIRTIO_CONFIG_S_DRIVER_OK;
	dev->busy = start;
	pthread_mutex_unlock(&dev->lock);
	if (!start)
		return;

	/* First the doorbells: what is rung before the loop listens is counted by the eventfd. */
	doorbells_on(dev);
	loop_call(dev->loop, start_on_loop, dev);
	pthread_mutex_lock(&dev->lock);
	dev->busy = false;
	pthread_mutex_unlock(&dev->lock);
}

/* ---- pause ---- */

void virtio_pause(struct virtio_device *dev, void (*done)(struct virtio_device *dev, void *arg),
		  void *arg)
{
	dev->paused = true;
	dev->stopped = done;
	dev->stopped_arg = arg;
	begin_stop(dev);
}

void virtio_resume(struct virtio_device *dev)
{
	unsigned i;

	dev->paused = false;
	if (!(dev->status & VIRTIO_CONFIG_S_DRIVER_OK) || resetting(dev))
		return;
	/* A loaded device has none yet; vCPUs stand still, so this side is ours too. */
	if (!dev->bound)
		doorbells_on(dev);
	start_on_loop(dev);
	if (!dev->transport_ops)
		return;
	for (i = 0; i < dev->num_queues; i++) {
		if (dev->queue[i].started)
			dev->transport_ops->interrupt(dev->transport, i);
	}
	dev->transport_ops->config_changed(dev->transport);
}

void virtio_rewind(struct virtio_device *dev)
{
	/* It is drained: what is left of a reset is its end. */
	if (dev->ops->reset)
		dev->ops->reset(dev);
	atomic_store(&dev->drain, VIRTIO_DRAIN_DONE);
	virtio_settle(dev);
}

/* ---- state ---- */

void virtio_save(struct virtio_device *dev, struct state_writer *w)
{
	state_put_u64(w, dev->features);
	state_put_u8(w, dev->status);
	state_put_u8(w, dev->needs_reset);
	state_put_u32(w, dev->config_generation);
	state_put_u16(w, dev->num_queues);
	for (unsigned i = 0; i < dev->num_queues; i++)
		virtq_save(&dev->queue[i], w);
	if (dev->ops->save)
		dev->ops->save(dev, w);
}

int virtio_load(struct virtio_device *dev, struct state_reader *r)
{
	uint8_t status;
	unsigned i, n;
	int ret;

	dev->features = state_get_u64(r);
	status = state_get_u8(r);
	dev->needs_reset = !!state_get_u8(r);
	dev->config_generation = state_get_u32(r);
	n = state_get_u16(r);
	if (r->failed)
		return r->failed;
	if (status & ~STATUS_DRIVER_BITS)
		return state_reader_fail(r, "status %#x", status);
	if ((status & VIRTIO_CONFIG_S_DRIVER_OK) && !(status & VIRTIO_CONFIG_S_FEATURES_OK))
		return state_reader_fail(r, "status %#x without FEATURES_OK", status);
	if ((status & VIRTIO_CONFIG_S_FEATURES_OK) && !features_ok(dev))
		return state_reader_fail(r, "features %#llx are not offered here",
					 (unsigned long long)dev->features);
	if (n != dev->num_queues)
		return state_reader_fail(r, "%u queues instead of %u", n, dev->num_queues);

	for (i = 0; i < n; i++) {
		ret = virtq_load(&dev->queue[i], r, virtio_has(dev, VIRTIO_F_RING_PACKED));
		if (ret < 0)
			return ret;
	}
	dev->status = status;
	dev->paused = true;
	return dev->ops->load ? dev->ops->load(dev, r) : 0;
}

/* ---- the end ---- */

/* loop_call to the queue's loop: it may still be reading; only when that is over it is ours. */
static int unwatch(void *arg)
{
	struct virtio_doorbell *bell = arg;

	loop_event_unwatch(&bell->event);
	while (!loop_event_idle(&bell->event))
		loop_run_once(bell->loop, UINT64_MAX);
	return 0;
}

void virtio_detach(struct virtio_device *dev)
{
	reset_device(dev, false);
	dev->transport_ops = NULL;
	dev->transport = NULL;
}

void virtio_done(struct virtio_device *dev)
{
	unsigned i;

	for (i = 0; dev->doorbell && i < dev->num_queues; i++) {
		struct virtio_doorbell *bell = &dev->doorbell[i];

		/* Also one that is not watched any more may still be read. */
		if (virtio_queue_is_watched(dev, i))
			loop_call(bell->loop, unwatch, bell);
		if (bell->fd >= 0)
			close(bell->fd);
	}
	free(dev->queue);
	free(dev->doorbell);
	pthread_mutex_destroy(&dev->lock);
	pthread_mutex_destroy(&dev->ack_lock);
	pthread_cond_destroy(&dev->ack);
}

void virtio_free(struct virtio_device *dev)
{
	if (!dev)
		return;
	reset_device(dev, false);
	/* A pause may have drained what the message was to: it must not arrive any more. */
	loop_unpost(dev->loop, &dev->reset_task);
	loop_unpost(dev->loop, &dev->moved_task);
	dev->ops->free(dev);
}
