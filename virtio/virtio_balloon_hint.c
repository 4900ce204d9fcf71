/*
 * Free page hints (virtio 1.2, 5.5.6.7): asked to, the driver takes all free pages, tells which,
 * and keeps them until it is told that we are done. They go back to the host at once.
 *
 * A driver may keep them for less long: Linux, when it runs out of memory meanwhile, gives hinted
 * pages to whoever needs them without a word to us. What is written there between the hint and our
 * turn is lost then; a device that would find out (5.5.6.7.2) had to know of every write of the
 * guest's. All hints that there are go in one turn, which makes that time short and not zero. So
 * nobody is asked for hints who was not made for it, and the documentation says when not to ask.
 *
 * Runs have numbers, by which hints of an earlier one are told from those of the one at hand.
 */
#include <errno.h>

#include "virtio/virtio_balloon_internal.h"

#define FIRST_RUN (VIRTIO_BALLOON_CMD_ID_DONE + 1u)

static void set_command(struct virtio_balloon *b, uint32_t command)
{
	b->hint_command = command;
	virtio_config_changed(&b->dev);
}

static bool is_current(const struct virtio_balloon *b)
{
	return b->hint_answered && b->hint_answer == b->hint_command &&
	       b->hint_command >= FIRST_RUN;
}

/* The driver begins a run, or is through with it: then @ret_finished. */
static void read_command(struct virtio_balloon *b, const struct virtq_chain *chain,
			 bool *ret_finished)
{
	uint32_t command;

	virtq_copy_out(chain, 0, &command, sizeof(command));
	command = le32toh(command);
	/* The end of an earlier run is none of the one that was asked for meanwhile. */
	*ret_finished = command <= VIRTIO_BALLOON_CMD_ID_DONE && is_current(b);
	b->hint_answer = command;
	b->hint_answered = true;
}

static int drop(struct virtio_balloon *b, const struct virtq_chain *chain)
{
	const struct iovec *in = chain->iov + chain->num_out;
	int r = 0;

	for (unsigned i = 0; i < chain->num_in && !r; i++) {
		r = guest_mem_discard_host(b->dev.mem, in[i].iov_base, in[i].iov_len);
		r = balloon_dropped(b, r, in[i].iov_len >> PAGE_SHIFT, &b->counters.hinted);
		b->counters.hints += !r;
	}
	return r;
}

void balloon_take_hints(struct virtio_balloon *b, unsigned queue)
{
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .max_iov = ARRAY_SIZE(iov) };
	unsigned left = b->dev.queue[queue].size; /* all there are, and not what comes meanwhile */
	bool finished = false;

	while (left && virtio_pop(&b->dev, queue, &chain) > 0) {
		int r = 0;

		if (chain.out_bytes >= sizeof(uint32_t))
			read_command(b, &chain, &finished);
		if (is_current(b) && balloon_may_drop(b))
			r = drop(b, &chain);
		if (r < 0) {
			virtio_fail(&b->dev, "free page hints: %s", strerror(-r));
			break;
		}
		virtq_push(&b->dev.queue[queue], &chain, 0);
		left--;
	}
	if (!left)
		virtio_kick_again(&b->dev, queue);
	virtio_notify(&b->dev, queue);
	if (finished && b->hint_acknowledge && b->hint_command >= FIRST_RUN)
		set_command(b, VIRTIO_BALLOON_CMD_ID_DONE);
}

/* A driver that comes anew knows of no run. */
void balloon_reset_hints(struct virtio_balloon *b)
{
	b->hint_command = VIRTIO_BALLOON_CMD_ID_STOP;
	b->hint_last = 0;
	b->hint_answered = false;
}

/* The last number is all that counts: the driver takes one that it has had for no new run. */
void balloon_save_hints(const struct virtio_balloon *b, struct state_writer *w)
{
	state_put_u32(w, b->hint_last);
}

void balloon_load_hints(struct virtio_balloon *b, struct state_reader *r)
{
	b->hint_last = state_get_u32(r);
	b->hint_command = b->hint_last ? VIRTIO_BALLOON_CMD_ID_DONE : VIRTIO_BALLOON_CMD_ID_STOP;
	b->hint_answered = false;
}

void balloon_moved(struct virtio_device *dev)
{
	struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);

	if (virtio_has(dev, VIRTIO_BALLOON_F_FREE_PAGE_HINT) && b->hint_last)
		set_command(b, VIRTIO_BALLOON_CMD_ID_DONE);
}

/* ---- for the host ---- */

static int find_driver(const struct virtio_device *dev)
{
	if (!(dev->offered & 1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		return -EOPNOTSUPP;
	return dev->running && virtio_has(dev, VIRTIO_BALLOON_F_FREE_PAGE_HINT) ? 0 : -ENOTCONN;
}

int virtio_balloon_start_hints(struct virtio_device *dev, bool acknowledge)
{
	struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
	int r = find_driver(dev);

	if (r < 0)
		return r;
	b->hint_last = MAX(b->hint_last + 1, FIRST_RUN);
	b->hint_acknowledge = acknowledge;
	set_command(b, b->hint_last);
	return 0;
}

int virtio_balloon_stop_hints(struct virtio_device *dev)
{
	int r = find_driver(dev);

	if (!r)
		set_command(container_of(dev, struct virtio_balloon, dev),
			    VIRTIO_BALLOON_CMD_ID_DONE);
	return r;
}

bool virtio_balloon_has_hints(const struct virtio_device *dev)
{
	return dev->offered & 1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT;
}
