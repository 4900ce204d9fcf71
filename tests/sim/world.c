#include "tests/sim/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"

#define BLK_FEATURES ((1ull << 28) - 1)
#define MAX_TURNS    20000u
#define SECTION_PCI  "pci/bus"

/* ---- machines ---- */

static struct virtio_device *make_disk(struct world *w, struct host *h)
{
	struct block_config config = {
		.path = "disk",
		.fd = dup(w->disk_fd),
		.format = BLOCK_FORMAT_RAW,
	};
	struct virtio_params params = fake_vm_params(&h->vm, "disk0");
	struct loop_params loop = { .backend = LOOP_EPOLL, .clock = &h->vm.clock, .name = "queue" };
	struct loop *loops[WORLD_QUEUES] = { h->vm.loop };
	struct virtio_device *dev;
	struct block *block;

	params.num_queues = 1;
	if (w->queue_loops) {
		assert_int_equal(loop_create(&h->queue_loop, &loop, NULL), 0);
		loops[1] = h->queue_loop;
		params.num_queues = 2;
		params.queue_loops = loops;
	}
	assert_int_equal(block_open(&block, &config, NULL), 0);
	block_attach(block, h->vm.loop);
	assert_int_equal(virtio_blk_create(&dev, &params, block, NULL, NULL), 0);
	return dev;
}

static void host_begin(struct world *w, struct host *h)
{
	memset(h, 0, sizeof(*h));
	fake_vm_init(&h->vm, LOOP_EPOLL);
	if (w->disk.present)
		h->disk = make_disk(w, h);
	if (w->echo.present)
		h->echo = echo_create(&h->vm);
}

static void host_end(struct host *h, struct fake_driver *disk, struct fake_driver *echo)
{
	if (h->disk)
		fake_driver_done(disk);
	if (h->echo)
		fake_driver_done(echo);
	loop_free(h->queue_loop);
	fake_vm_done(&h->vm);
}

/* One round of one loop. */
static void turn(struct world *w, struct host *h)
{
	if (h->queue_loop && chance_percent(&w->chance, 40))
		loop_run_once(h->queue_loop, 0);
	else
		loop_run_once(h->vm.loop, 0);
}

static unsigned outstanding(const struct host *h)
{
	return loop_sim_outstanding(h->vm.loop) +
	       (h->queue_loop ? loop_sim_outstanding(h->queue_loop) : 0);
}

static uint8_t *memory(const struct host *h)
{
	return fake_ptr((struct fake_vm *)&h->vm, 0, h->vm.next_alloc);
}

/* What the guest has in its memory, as far as it ever used it. */
static uint8_t *copy_memory(const struct host *h)
{
	uint8_t *copy = malloc(h->vm.next_alloc);

	assert_non_null(copy);
	return memcpy(copy, memory(h), h->vm.next_alloc);
}

/* ---- pause ---- */

static void drained(struct virtio_device *dev, void *arg)
{
	struct world *w = arg;

	w->undrained--;
}

/* The guest stands still: its vCPUs are out. Its devices come to rest. */
static void pause_machine(struct world *w)
{
	struct host *h = &w->host[w->here];
	unsigned left = MAX_TURNS;

	w->trace("pause");
	w->undrained = w->disk.present + w->echo.present;
	if (h->disk)
		virtio_pause(h->disk, drained, w);
	if (h->echo)
		virtio_pause(&h->echo->dev, drained, w);
	while (w->undrained && --left)
		turn(w, h);
	if (w->undrained)
		w->wrong("a pause never ends");
	if (outstanding(h))
		w->wrong("%u operations are under way in a paused machine", outstanding(h));
	w->pauses++;
}

static void resume_machine(struct world *w)
{
	struct host *h = &w->host[w->here];

	w->trace("resume");
	if (h->disk)
		virtio_resume(h->disk);
	if (h->echo)
		virtio_resume(&h->echo->dev);
}

/* Whatever goes on outside, a paused guest sees nothing of it. */
static void stay_paused(struct world *w)
{
	struct host *h = &w->host[w->here];
	uint8_t *before = copy_memory(h);

	for (unsigned n = chance_below(&w->chance, 6); n; n--)
		turn(w, h);
	if (memcmp(before, memory(h), h->vm.next_alloc))
		w->wrong("a paused guest's memory was written");
	free(before);
}

/* ---- save, load, move ---- */

static void save_device(struct fake_driver *d, struct state_writer *s)
{
	if (d->pci)
		virtio_pci_save(d->pci, 0, s);
	else
		virtio_mmio_save(d->mmio, 0, s);
}

static void save(struct world *w, struct host *h, struct fake_driver *disk,
		 struct fake_driver *echo, struct state_writer *s)
{
	state_writer_init(s);
	state_begin(s, SECTION_PCI, 0, 1);
	pci_bus_save(h->vm.pci, s);
	state_end(s);
	if (h->disk)
		save_device(disk, s);
	if (h->echo)
		save_device(echo, s);
	state_seal(s);
	assert_int_equal(s->failed, 0);
}

static void load_device(struct world *w, struct fake_driver *d, struct state_set *set)
{
	struct error err = { 0 };
	struct state_reader r;

	if (state_set_take(set, d->dev->id, 0, UINT32_MAX, &r, &err) < 0)
		w->wrong("%s: not saved: %s", d->dev->id, err.msg);
	if (d->pci)
		virtio_pci_load(d->pci, &r);
	else
		virtio_mmio_load(d->mmio, &r);
	if (state_reader_end(&r, &err) < 0)
		w->wrong("%s: what was saved does not load: %s", d->dev->id, err.msg);
}

static void load(struct world *w, struct host *h, struct fake_driver *disk,
		 struct fake_driver *echo, const struct state_writer *s)
{
	struct error err = { 0 };
	struct state_reader r;
	struct state_set set;

	if (state_set_open(&set, s->buf, s->len, &err) < 0 ||
	    state_set_take(&set, SECTION_PCI, 0, 1, &r, &err) < 0)
		w->wrong("saved state: %s", err.msg);
	pci_bus_load(h->vm.pci, &r);
	if (state_reader_end(&r, &err) < 0)
		w->wrong("saved state: %s", err.msg);
	if (h->disk)
		load_device(w, disk, &set);
	if (h->echo)
		load_device(w, echo, &set);
	if (state_set_finish(&set, &err) < 0)
		w->wrong("saved state: %s", err.msg);
	state_set_close(&set);
}

static void compare(struct world *w, const struct state_writer *a, const struct state_writer *b,
		    const char *what)
{
	if (a->len != b->len || memcmp(a->buf, b->buf, a->len))
		w->wrong("%s", what);
}

/* The machine that the guest has left: nothing was to happen there. */
static void end_left_behind(struct world *w)
{
	struct host *h = &w->host[!w->here];

	if (!w->left_behind)
		return;
	w->trace("the other machine ends");
	if (memcmp(w->left_memory, memory(h), w->left_bytes))
		w->wrong("memory of a machine that the guest has left was written");
	free(w->left_memory);
	host_end(h, &w->left_disk, &w->left_echo);
	w->left_behind = false;
}

/* The paused guest goes on over there, or over here after all. */
static void move(struct world *w)
{
	struct host *from = &w->host[w->here], *to = &w->host[!w->here];
	struct fake_driver disk = { 0 }, echo = { 0 };
	struct state_writer before, again, after;

	end_left_behind(w);
	/* What its processors have been told is theirs, and goes along. */
	if (w->disk.present)
		guest_interrupts(w, &w->disk);
	if (w->echo.present)
		guest_interrupts(w, &w->echo);
	save(w, from, &w->disk.d, &w->echo.d, &before);
	save(w, from, &w->disk.d, &w->echo.d, &again);
	compare(w, &before, &again, "saved twice, it is not the same");

	host_begin(w, to);
	to->vm.clock = from->vm.clock;
	to->vm.next_alloc = from->vm.next_alloc;
	memcpy(memory(to), memory(from), from->vm.next_alloc);
	if (to->disk)
		fake_driver_move(&disk, &w->disk.d, &to->vm, to->disk);
	if (to->echo)
		fake_driver_move(&echo, &w->echo.d, &to->vm, &to->echo->dev);
	load(w, to, &disk, &echo, &before);
	save(w, to, &disk, &echo, &after);
	compare(w, &before, &after, "loaded and saved, it is not the same");
	if (memcmp(memory(to), memory(from), from->vm.next_alloc))
		w->wrong("loading has written to memory");
	state_writer_done(&before);
	state_writer_done(&again);
	state_writer_done(&after);

	if (chance_percent(&w->chance, 25)) {
		w->trace("no move after all");
		host_end(to, &disk, &echo);
		return;
	}
	w->trace("move");
	w->moves++;
	w->left_behind = true;
	w->left_disk = w->disk.d;
	w->left_echo = w->echo.d;
	w->left_memory = copy_memory(from);
	w->left_bytes = from->vm.next_alloc;
	w->disk.d = disk;
	w->echo.d = echo;
	w->here = !w->here;
}

static void pause_for_a_while(struct world *w)
{
	pause_machine(w);
	stay_paused(w);
	if (chance_percent(&w->chance, 50))
		move(w);
	resume_machine(w);
}

/* ---- what may happen ---- */

static struct guest_driver *some_driver(struct world *w)
{
	if (!w->disk.present)
		return &w->echo;
	if (!w->echo.present)
		return &w->disk;
	return chance_percent(&w->chance, 60) ? &w->disk : &w->echo;
}

static void guest_step(struct world *w)
{
	struct guest_driver *g = some_driver(w);
	unsigned queue = chance_below(&w->chance, g->d.num_queues), what;

	if (g->resetting) {
		if (!guest_poll_reset(w, g))
			return;
		world_check_poison(w);
		for (unsigned n = chance_below(&w->chance, 4); n; n--)
			turn(w, &w->host[w->here]);
		world_check_poison(w);
		guest_probe(w, g);
		return;
	}
	what = chance_below(&w->chance, 100);
	if (what < 45)
		guest_add(w, g);
	else if (what < 65)
		guest_kick(w, g, queue);
	else if (what < 88)
		guest_look(w, g);
	else if (what < 91)
		guest_hint(w, g, queue, g->hint_off[queue]);
	else if (what < 95)
		guest_mask(w, g, queue, !g->masked[queue]);
	else if (what < 96)
		guest_break(w, g);
	else if (what < 97 || g->broken)
		guest_reset(w, g);
}

static void host_step(struct world *w)
{
	struct host *h = &w->host[w->here];

	switch (chance_below(&w->chance, 24)) {
	case 0:
		if (h->echo)
			h->echo->hold = !h->echo->hold;
		break;
	case 1:
		if (h->echo)
			echo_release(h->echo);
		break;
	case 2:
		clock_advance(&h->vm.clock, NSEC_PER_MSEC);
		break;
	case 3:
		if (h->disk)
			virtio_config_changed(h->disk);
		break;
	case 4:
		w->sim.fault_percent = chance_percent(&w->chance, 70) ? 0 : 20;
		break;
	case 5:
		if (chance_percent(&w->chance, 40))
			pause_for_a_while(w);
		break;
	case 6:
		if (w->left_behind)
			turn(w, &w->host[!w->here]);
		break;
	default:
		turn(w, h);
		break;
	}
}

/* ---- the end: all that was asked for has to come ---- */

static void rest(struct world *w, struct guest_driver *g)
{
	struct host *h = &w->host[w->here];

	for (unsigned i = 0; i < g->d.num_queues; i++) {
		if (g->masked[i])
			guest_mask(w, g, i, false);
	}
	for (unsigned n = 0; n < MAX_TURNS; n++) {
		if (g->resetting) {
			if (guest_poll_reset(w, g))
				guest_probe(w, g);
		} else if (g->broken && (fake_status(&g->d) & VIRTIO_CONFIG_S_NEEDS_RESET)) {
			guest_reset(w, g);
		} else {
			for (unsigned i = 0; i < g->d.num_queues; i++) {
				if (g->owes_kick[i])
					guest_kick(w, g, i);
				if (g->hint_off[i])
					guest_hint(w, g, i, true);
			}
			guest_look(w, g);
			if (!g->broken && !guest_in_flight(g))
				return;
		}
		turn(w, h);
		/* No sooner than it must: a look too often would hide a lost interrupt. */
		if (n > 200 && loop_run_once(h->vm.loop, 0) == 0 && n > 2000)
			break;
	}
	if (g->broken)
		w->wrong("%s: a mistake was not found", g->d.dev->id);
	w->wrong("%s: %u requests never came back", g->d.dev->id, guest_in_flight(g));
}

static void check_failures(struct world *w, struct guest_driver *g)
{
	if (g->present && (fake_status(&g->d) & VIRTIO_CONFIG_S_NEEDS_RESET))
		w->wrong("%s: failed, though its driver keeps the rules", g->d.dev->id);
}

static void come_to_rest(struct world *w)
{
	w->trace("the end");
	w->sim.fault_percent = 0;
	w->sim.hurry = true;
	if (w->echo.present) {
		w->host[w->here].echo->hold = false;
		echo_release(w->host[w->here].echo);
		rest(w, &w->echo);
	}
	if (w->disk.present)
		rest(w, &w->disk);
	check_failures(w, &w->disk);
	check_failures(w, &w->echo);
	world_check_poison(w);
	end_left_behind(w);
}

/* ---- beginning ---- */

static void choose(struct world *w)
{
	struct chance *c = &w->chance;

	w->config = (struct fake_driver_config){
		.transport = chance_percent(c, 70) ? FAKE_PCI : FAKE_MMIO,
		.packed = chance_percent(c, 50),
		.event_idx = chance_percent(c, 50),
		.indirect = chance_percent(c, 50),
		.intx = chance_percent(c, 20),
		.features = BLK_FEATURES,
		.ring_size = 16u << chance_below(c, 3),
	};
	w->queue_loops = chance_percent(c, 50);
	w->disk.is_disk = true;
	w->disk.present = w->echo.present = true;
	/* There is room for one device over mmio. */
	if (w->config.transport == FAKE_MMIO) {
		w->disk.present = chance_percent(c, 60);
		w->echo.present = !w->disk.present;
	}
	w->trace("%s, %s ring, %u entries%s%s%s%s",
		 w->config.transport == FAKE_PCI ? "pci" : "mmio",
		 w->config.packed ? "packed" : "split", w->config.ring_size,
		 w->config.event_idx ? ", event index" : "",
		 w->config.indirect ? ", indirect" : "", w->config.intx ? ", intx" : "",
		 w->queue_loops ? ", a loop for each queue" : "");
}

void world_run(struct world *w, uint64_t seed, unsigned steps)
{
	struct host *h = &w->host[0];

	w->chance.state = seed;
	w->sim = (struct loop_sim){ .chance = &w->chance, .trace = w->trace, .wrong = w->wrong };
	loop_sim_use(&w->sim);
	disk_model_init(&w->model);
	w->disk_fd = memfd_create("disk", MFD_CLOEXEC);
	assert_int_equal(ftruncate(w->disk_fd, DISK_SECTORS * DISK_SECTOR), 0);
	choose(w);
	host_begin(w, h);
	if (h->disk) {
		guest_setup(w, &w->disk);
		fake_driver_init(&w->disk.d, &h->vm, h->disk, &w->config);
	}
	if (h->echo) {
		guest_setup(w, &w->echo);
		fake_driver_init(&w->echo.d, &h->vm, &h->echo->dev, &w->config);
	}
	while (steps--) {
		if (chance_percent(&w->chance, 45))
			guest_step(w);
		else
			host_step(w);
	}
	come_to_rest(w);
	host_end(&w->host[w->here], &w->disk.d, &w->echo.d);
	close(w->disk_fd);
}
