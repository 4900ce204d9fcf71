/*
 * RAM of which nothing is there yet, what its pages are to be, and threads that sleep for them.
 * Setting up asserts (cmocka) that each step succeeds, and skips where userfaultfd is not allowed.
 */
#ifndef WISP_TESTS_FAULT_RAM_H
#define WISP_TESTS_FAULT_RAM_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/core/page_faults.h"

#define FAULT_RAM_BYTES	 (6 * MiB)
#define FAULT_RAM_PAGES	 (FAULT_RAM_BYTES / PAGE_SIZE)
#define FAULT_RAM_RANGES 2

/* It is parted at 1 MiB inside the first range, and between the two. */
extern const struct guest_mem_range fault_ram_layout[FAULT_RAM_RANGES];

struct fault_ram {
	struct guest_mem *mem;
	struct page_faults *faults; /* the test's to start */
	uint8_t *pages;		    /* what the source has: page n begins with fault_ram_mark(n) */
	int fd;

	/* Of a source in the test itself. */
	bool later;	  /* wanted() leaves the placing to the test */
	int fails;	  /* wanted() returns it */
	uint64_t idle_at; /* next page of the background */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under lock. */
	unsigned num_wanted, wanted[FAULT_RAM_PAGES]; /* how often each */
	uint64_t last_wanted;
	bool ended;
	int result;
};

static inline uint64_t fault_ram_mark(uint64_t page)
{
	return page + 1;
}

void fault_ram_create(struct fault_ram *x);
void fault_ram_destroy(struct fault_ram *x);

/* What @page begins with in RAM; sleeps until it is there. */
uint64_t fault_ram_read(struct fault_ram *x, uint64_t page);

/* Somebody who sleeps for a page. */
struct toucher {
	struct fault_ram *x;
	pthread_t thread;
	uint64_t page, found;
	atomic_bool done;
};

/* The test joins @t->thread. */
void fault_ram_touch(struct toucher *t, struct fault_ram *x, uint64_t page);

#endif
