#include "tests/unit/fault_ram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

const struct guest_mem_range fault_ram_layout[FAULT_RAM_RANGES] = {
	{ .gpa = 0, .size = 4 * MiB },
	{ .gpa = 4 * GiB, .size = 2 * MiB },
};

void fault_ram_create(struct fault_ram *x)
{
	struct error err = { 0 };

	*x = (struct fault_ram){ .fd = page_faults_open(&err) };
	if (x->fd < 0) {
		print_message("[          ] %s\n", err.msg);
		skip();
	}
	if (guest_mem_create(&x->mem, GUEST_MEM_ANON, fault_ram_layout, FAULT_RAM_RANGES, &err) < 0)
		fail_msg("%s", err.msg);
	x->pages = calloc(FAULT_RAM_PAGES, PAGE_SIZE);
	assert_non_null(x->pages);
	for (uint64_t page = 0; page < FAULT_RAM_PAGES; page++)
		*(uint64_t *)(x->pages + page * PAGE_SIZE) = fault_ram_mark(page);
	pthread_mutex_init(&x->lock, NULL);
	pthread_cond_init(&x->changed, NULL);
}

void fault_ram_destroy(struct fault_ram *x)
{
	page_faults_free(x->faults);
	guest_mem_free(x->mem);
	free(x->pages);
	pthread_cond_destroy(&x->changed);
	pthread_mutex_destroy(&x->lock);
}

uint64_t fault_ram_read(struct fault_ram *x, uint64_t page)
{
	return *(volatile uint64_t *)(x->mem->map + page * PAGE_SIZE);
}

static void *touch(void *arg)
{
	struct toucher *t = arg;

	t->found = fault_ram_read(t->x, t->page);
	t->done = true;
	return NULL;
}

void fault_ram_touch(struct toucher *t, struct fault_ram *x, uint64_t page)
{
	*t = (struct toucher){ .x = x, .page = page };
	assert_int_equal(pthread_create(&t->thread, NULL, touch, t), 0);
}
