/* What the two halves of page faults share: serving them, and their beginning and end. */
#ifndef WISP_CORE_PAGE_FAULTS_INTERNAL_H
#define WISP_CORE_PAGE_FAULTS_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>

#include "vmm/core/page_faults.h"

struct page_faults {
	struct guest_mem *mem;
	const struct page_source *source; /* NULL: another process serves */
	void *ctx;
	int (*begins)(void *arg);
	void *begins_arg;
	uint64_t num; /* pages of RAM */
	int wake_fd;
	pthread_t thread;
	bool started;
	sem_t begun; /* with @result: begins() has returned that */
	int result;
	_Atomic bool quit;

	pthread_mutex_t lock;
	/* Under lock: */
	int fd;		 /* -1: all are there, or we are over */
	uint64_t *there; /* a bit each: has come, or reads as zero when it is touched */
	uint64_t *asked; /* the source was asked for it */
	struct page_faults_counts counts;
};

/* The bit of page @page in a bitmap such as @there or @asked. Under the lock. */
static inline bool page_faults_bit(const uint64_t *words, uint64_t page)
{
	return words[page / 64] >> (page % 64) & 1;
}

/* The fault thread, with the struct. */
void *page_faults_serve(void *arg);

/* RAM is ordinary memory again; pages that are missing read as zero. */
void page_faults_let_go(struct page_faults *f);

#endif
