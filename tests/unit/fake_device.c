#include "tests/unit/fake_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/patience.h"

void fake_drained(struct virtio_device *dev, void *arg)
{
	*(bool *)arg = true;
}

void fake_pause(struct fake_driver *d)
{
	uint64_t end = patience();
	bool done = false;

	virtio_pause(d->dev, fake_drained, &done);
	while (!done && !patience_ends(end))
		loop_run_once(d->vm->loop, FAKE_TURN_NS);
	assert_true(done);
}

struct wanted {
	const char *name;
	uint64_t value;
	bool found;
};

static void look(void *arg, const char *name, uint64_t value)
{
	struct wanted *w = arg;

	if (strcmp(name, w->name) != 0)
		return;
	w->value = value;
	w->found = true;
}

uint64_t fake_counter(struct virtio_device *dev, const char *name)
{
	struct wanted w = { .name = name };

	dev->ops->counters(dev, look, &w);
	if (!w.found)
		fail_msg("%s counts no '%s'", dev->id, name);
	return w.value;
}

void fake_section_begin(struct state_writer *w)
{
	state_writer_init(w);
	state_begin(w, "device", 0, 1);
}

int fake_section_load(struct virtio_device *dev, struct state_writer *w)
{
	struct state_reader r;
	size_t pos = 0;
	int ret;

	state_end(w);
	assert_int_equal(w->failed, 0);
	assert_int_equal(state_next(w->buf, w->len, &pos, &r, NULL), 1);
	ret = dev->ops->load(dev, &r);
	if (!ret)
		ret = state_reader_end(&r, NULL);
	state_writer_done(w);
	return ret;
}
