/*
 * A virtio device without its transport: status, features, queues, reset.
 *
 * Threads. The control side (status, features, queue setup, configuration
 * space) runs on vCPU threads under device->lock, which no loop ever takes.
 * Everything in virtio_ops marked "loop" runs on device->loop alone, and a
 * started queue belongs to its own loop: that one, or another the device was
 * given for it. DRIVER_OK, reset and pause cross over as messages: the caller
 * waits for the acknowledgement holding no lock. Loops never wait for vCPUs; the
 * device's loop may wait for a queue's to start it, never the other way round.
 *
 * A device says "queue 1 used" (virtio_notify); only the transport knows
 * interrupts. A driver's mistake is virtio_fail(): DEVICE_NEEDS_RESET, counted,
 * never more. Virtio 1.2, 2.1 to 2.4 and 3.1.
 */
#ifndef WISP_VIRTIO_VIRTIO_H
#define WISP_VIRTIO_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdatomic.h>

#include "virtio/virtq.h"
#include "vmm/core/log.h"
#include "vmm/core/loop.h"

#define VIRTIO_MAX_QUEUES 64
#define VIRTIO_VENDOR	  0x1af4

struct virtio_device;

/* What a transport offers to the device core. */
struct virtio_transport_ops {
	/* Tell the driver that @queue was used. The device's loop. */
	void (*interrupt)(void *transport, unsigned queue);
	/*
	 * An eventfd that is the interrupt of @queue, for somebody else to write to: it stays open
	 * as long as the transport. -1: only interrupt() is. Of what the driver has set up by now;
	 * virtio_interrupts_moved() is called when another vector is chosen, not when the chosen
	 * one gets its address later: until then interrupt() is what works. The device's loop. May
	 * be NULL.
	 */
	int (*interrupt_fd)(void *transport, unsigned queue);
	/* Tell the driver that the configuration (or NEEDS_RESET) changed. Any thread. */
	void (*config_changed)(void *transport);
	/*
	 * The device's queues are about to run, or have been drained after a reset
	 * (doorbells may be bound and unbound here). The control side, no lock held.
	 */
	int (*queues_on)(void *transport); /* -errno: doorbells arrive by virtio_kick() */
	void (*queues_off)(void *transport);
	/*
	 * The device has been reset: forget vectors, pending interrupts, selectors. As queues_off.
	 */
	void (*reset)(void *transport);
};

struct virtio_ops {
	const char *name;	/* "virtio-blk" */
	uint32_t id;		/* VIRTIO_ID_* */
	uint32_t pci_class;	/* 24 bits, for virtio-pci */
	size_t config_size;	/* bytes of the device's configuration space */

	/* Control side, under device->lock: do these features go together? May be NULL. */
	bool (*features_ok)(const struct virtio_device *dev, uint64_t features);

	/*
	 * loop: the driver said DRIVER_OK, or a paused device goes on. Features are
	 * final, queues that are ready have been started; each is kicked right after.
	 * -errno fails the device, which is then not stopped.
	 */
	int (*start)(struct virtio_device *dev);

	/*
	 * loop: take no new chains, and call virtio_stopped() once everything in
	 * flight is completed and pushed (possibly at once, from within).
	 */
	void (*stop)(struct virtio_device *dev);

	/*
	 * In place of stop, for devices whose queues may have loops of their own. On the
	 * queue's loop: take no new chains of @queue, and call virtio_queue_stopped() once
	 * everything of it is completed and pushed (possibly at once, from within).
	 */
	void (*stop_queue)(struct virtio_device *dev, unsigned queue);

	/*
	 * On the queue's loop, after stop_queue: the driver has reset the device or the machine
	 * ends, so nobody waits for what is in flight, and what cannot be done fails now. Perhaps
	 * after the queue has stopped. Only with stop_queue; NULL: nothing in flight takes long.
	 */
	void (*hurry)(struct virtio_device *dev, unsigned queue);

	/* loop: forget all driver state. Stopped; queues are reset by the core. May be NULL. */
	void (*reset)(struct virtio_device *dev);

	/* The queue's loop: @queue, which is started, was kicked; maybe for nothing. */
	void (*kick)(struct virtio_device *dev, unsigned queue);

	/* Control side, under device->lock. @offset + @len lies within config_size. May be NULL. */
	void (*config_read)(struct virtio_device *dev, unsigned offset, void *data, unsigned len);
	void (*config_write)(struct virtio_device *dev, unsigned offset, const void *data,
			     unsigned len);

	/*
	 * loop: somebody begins to track what is written in guest memory, and sees what this
	 * process writes alone: take back what the host's kernel serves, and hand over nothing
	 * any more. Running or not. May be NULL.
	 */
	void (*serve_here)(struct virtio_device *dev);

	/*
	 * loop: virtio_interrupt_fd() of some queue may be another one than before. Running or not.
	 * May be NULL.
	 */
	void (*interrupts_moved)(struct virtio_device *dev);

	/*
	 * Stopped device: its own fields, not those of the core. May be NULL when there are none.
	 */
	void (*save)(struct virtio_device *dev, struct state_writer *w);
	int (*load)(struct virtio_device *dev, struct state_reader *r);

	/*
	 * loop: this copy is a clone, a restore or a migrated one; drop what was tied to the other.
	 */
	void (*identity_changed)(struct virtio_device *dev);

	/*
	 * The device's own counters, of all its queues: calls show(arg, name, value) for each.
	 * Any thread, while it runs. May be NULL.
	 */
	void (*counters)(const struct virtio_device *dev,
			 void (*show)(void *arg, const char *name, uint64_t value), void *arg);

	/* Free what the device owns; it is stopped. Ends with virtio_done() and free(). */
	void (*free)(struct virtio_device *dev);
};

struct virtio_stats {
	_Atomic uint64_t resets, failures, config_accesses;
};

/* Where a reset stands: asked for by the control side, drained by the loop. */
enum virtio_drain { VIRTIO_DRAIN_NONE, VIRTIO_DRAIN_WANTED, VIRTIO_DRAIN_DONE };

/* A queue as its loop sees it. */
/* Characters of a device's ID. */
#define VIRTIO_MAX_NAME 32

struct virtio_doorbell {
	struct loop_event event;
	struct virtio_device *dev;
	struct loop *loop; /* the queue's: the device's, or one of its own */
	int fd; /* eventfd, made at the first DRIVER_OK and then kept; -1 before */
	bool open; /* on @loop: kicks are served */
	bool elsewhere; /* on @loop: somebody else serves them */
	struct loop_task stop;	  /* message to @loop: stop the queue */
	struct loop_task stopped; /* and the answer, to the device's loop */
	struct loop_task hurry;	  /* message to @loop, behind the first */
	struct loop_task hurried; /* and its answer */
};

struct virtio_device {
	const struct virtio_ops *ops;
	/* "disk0", "net0": names it in sections, logs and statistics */
	char id[VIRTIO_MAX_NAME + 1];
	struct guest_mem *mem;
	struct loop *loop;

	const struct virtio_transport_ops *transport_ops;
	void *transport;

	pthread_mutex_t lock; /* control side; never taken by a loop */
	uint64_t offered;     /* feature bits, the core's and the device's */
	uint64_t features;    /* what the driver accepted; final from FEATURES_OK */
	_Atomic uint8_t status; /* written under the lock */
	bool busy;		/* a vCPU is in the middle of DRIVER_OK or of ending a reset */
	bool bound;		/* transport_ops->queues_on was called */
	_Atomic uint8_t needs_reset;	    /* set by the loop, shown in status */
	_Atomic uint32_t config_generation; /* Virtio 1.2, 2.5 */

	struct virtq *queue;
	unsigned num_queues;
	struct virtio_doorbell *doorbell; /* one per queue */

	_Atomic uint8_t drain; /* enum virtio_drain */
	pthread_mutex_t ack_lock; /* held for the change of @drain alone */
	pthread_cond_t ack;
	struct loop_task reset_task, moved_task;

	bool running;	      /* loop: between start and the end of stop */
	bool stopping;	      /* loop */
	bool hurried;	      /* loop: while it stops, that has been said already */
	unsigned unstopped;   /* loop: answers of queues still to come (stop_queue, hurry) */
	bool paused;	      /* loop: from virtio_pause() or load to virtio_resume() */
	void (*stopped)(struct virtio_device *dev, void *arg); /* loop: whoever waits for stop */
	void *stopped_arg;

	struct virtio_stats stats;
	struct log_limit limit;
};

struct virtio_params {
	const char *id;
	struct guest_mem *mem;
	struct loop *loop;
	uint64_t features;	/* the device's own; the core adds VERSION_1, rings and events */
	unsigned num_queues;
	const uint16_t *queue_sizes; /* maximum of each, power of two */
	struct loop *const *queue_loops; /* one for each queue; NULL: all on @loop. The device
					  * has stop_queue then */
	bool no_packed;		     /* do not offer the packed ring */
};

/*
 * Make @dev, which the device's own struct embeds, one without a driver. @ops, the memory and the
 * loops are borrowed for its life. -EINVAL for a number of queues that cannot be, -ENOMEM; there
 * is nothing to undo then. virtio_done() is for what is stopped.
 */
int virtio_init(struct virtio_device *dev, const struct virtio_ops *ops,
		const struct virtio_params *params, struct error *err);
void virtio_done(struct virtio_device *dev);

/* ---- for devices, on the loop ---- */

static inline bool virtio_has(const struct virtio_device *dev, unsigned feature_bit)
{
	return dev->features & (1ull << feature_bit);
}

/*
 * The next chain of @queue, as virtq_pop(): 1, or 0 when there is none, and then the driver will
 * kick. -errno: the device has failed.
 */
int virtio_pop(struct virtio_device *dev, unsigned queue, struct virtq_chain *chain);

/* Flush @queue and interrupt the driver if it wants that. Once per batch. */
void virtio_notify(struct virtio_device *dev, unsigned queue);

/*
 * The driver broke a rule: DEVICE_NEEDS_RESET, counted, logged within limits.
 * No queue gives chains any more; what is in flight is completed as usual.
 */
void virtio_fail(struct virtio_device *dev, const char *fmt, ...) __printf(2, 3);

/*
 * Call ops->kick for @queue again after the loop has served others: for a
 * device that has taken its share and leaves chains in the ring, so that a
 * driver that refills it for ever cannot keep the loop to itself.
 */
void virtio_kick_again(struct virtio_device *dev, unsigned queue);

/*
 * A queue that the host's kernel serves in our place, with @dev->doorbell[queue].fd. For
 * ops->start, with @elsewhere: its kicks do not come to ops->kick. For ops->stop, without.
 */
void virtio_queue_elsewhere(struct virtio_device *dev, unsigned queue, bool elsewhere);

/*
 * Do kicks come to @queue's loop? To have them come no more, until it is served there again, takes
 * until a later round of that loop. The device stops, and its queues are on its own loop.
 */
void virtio_queue_unwatch(struct virtio_device *dev, unsigned queue);
bool virtio_queue_is_watched(const struct virtio_device *dev, unsigned queue);

/*
 * Serve it here again, from @position in its split ring on: a kick follows at once, and an
 * interrupt, since one may be owed. The device runs, and all its queues are on its own loop.
 */
void virtio_queue_back(struct virtio_device *dev, unsigned queue, uint16_t position);

/* An interrupt of @queue, wanted or not: for somebody else who has used chains of it. */
void virtio_interrupt(struct virtio_device *dev, unsigned queue);

/* As virtio_transport_ops.interrupt_fd. */
int virtio_interrupt_fd(const struct virtio_device *dev, unsigned queue);

/* The end of ops->stop: nothing is in flight any more. */
void virtio_stopped(struct virtio_device *dev);

/* The end of ops->stop_queue, on the queue's loop. */
void virtio_queue_stopped(struct virtio_device *dev, unsigned queue);

static inline struct loop *virtio_queue_loop(const struct virtio_device *dev, unsigned queue)
{
	return dev->doorbell[queue].loop;
}

/* The configuration space changed: new generation, interrupt. Any thread. */
void virtio_config_changed(struct virtio_device *dev);

/* ---- for transports, on a vCPU thread; each takes device->lock as it needs ---- */

/* With DEVICE_NEEDS_RESET, and not 0 before a reset has ended. Virtio 1.2, 2.1. */
uint8_t virtio_get_status(struct virtio_device *dev);

/*
 * Virtio 1.2, 2.1.1 and 3.1.1. FEATURES_OK is refused (left clear) for features
 * not offered or contradicting; DRIVER_OK starts the queues; 0 resets. Blocks
 * until the loop has acknowledged unless @nowait, when a reset goes on in the
 * background and virtio_get_status() reads non-zero until it is done.
 */
void virtio_set_status(struct virtio_device *dev, uint8_t status, bool nowait);

uint32_t virtio_get_features(struct virtio_device *dev, unsigned word); /* offered, 32 bits each */
void virtio_set_features(struct virtio_device *dev, unsigned word, uint32_t bits);

/* To look at a queue's fields, under device->lock; NULL when there is no such queue. */
struct virtq *virtio_queue(struct virtio_device *dev, unsigned index);

/*
 * To change them, under device->lock: NULL also from DRIVER_OK until the device
 * is reset. Of a queue that is ready only @ready may change.
 */
struct virtq *virtio_queue_config(struct virtio_device *dev, unsigned index);

void virtio_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len);
void virtio_config_write(struct virtio_device *dev, unsigned offset, const void *data,
			 unsigned len);

/* The transport goes away: reset the device, wait for it, and forget the transport. */
void virtio_detach(struct virtio_device *dev);

/* Write 1 to @fd, the interrupt of @queue: by its loop where that is ours, else at once. */
void virtio_signal(struct virtio_device *dev, unsigned queue, int fd);

/* The driver chose another vector, or way to be interrupted. Any thread, the lock held or not. */
void virtio_interrupts_moved(struct virtio_device *dev);

/* For virtio.c: what that has the device's loop do. */
void virtio_tell_moved(struct loop_task *task);

/* A doorbell that reached us as an exit (no ioeventfd): signal the queue. */
void virtio_kick(struct virtio_device *dev, unsigned queue);

/* ---- for the machine ---- */

/*
 * Drain and stop the queues (pause, snapshot), or go on: every live queue is
 * kicked and interrupted once, since a spurious interrupt is legal and a lost
 * one hangs. On the device's loop; pause calls done(arg) there when drained.
 */
void virtio_pause(struct virtio_device *dev, void (*done)(struct virtio_device *dev, void *arg),
		  void *arg);
void virtio_resume(struct virtio_device *dev);

/* Somebody begins to track guest memory: virtio_ops.serve_here. The device's loop. */
void virtio_serve_here(struct virtio_device *dev);

/* A pause under way is one for good: what is in flight need not be done. The device's loop. */
void virtio_hurry(struct virtio_device *dev);

/*
 * End a reset that the loop has drained; without one, nothing. For a transport about to save:
 * it changes the transport as well. No lock held.
 */
void virtio_settle(struct virtio_device *dev);

/*
 * A paused device as it was made, for virtio_load() to bring it back to an earlier state. On the
 * device's loop, while no vCPU runs.
 */
void virtio_rewind(struct virtio_device *dev);

/*
 * Fields of the section that is open (the transport's): the core's, then the
 * device's. Settled, and paused, or loaded before it ever ran; virtio_resume() then starts it.
 */
void virtio_save(struct virtio_device *dev, struct state_writer *w);
int virtio_load(struct virtio_device *dev, struct state_reader *r);

/*
 * NULL is fine. Its transport is gone; on the loop's thread, or while nobody runs the loop. The
 * loops of its queues still exist, run by their threads or by this one.
 */
void virtio_free(struct virtio_device *dev);

#endif
