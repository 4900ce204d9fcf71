/*
 * The memory of a restored guest on demand: its pages come from the snapshot's files when they are
 * touched (vmm/core/page_faults.h), and in the background, first those of the working set.
 * When all are there RAM is ordinary memory, as if it had been copied.
 *
 * Or from another process, a handler as Firecracker has them, whatever files it gets them from.
 * Then the end is when the machine's is.
 *
 * Belongs to the machine's thread. One is the caller's, who keeps it and the files open for as long
 * as the machine is there.
 */
#ifndef WISP_VMM_DEMAND_H
#define WISP_VMM_DEMAND_H

#include "vmm/core/loop.h"
#include "vmm/core/page_faults.h"
#include "vmm/sandbox/sandbox.h"
#include "vmm/saved/packed_memory.h"

struct machine_image;

struct demand {
	int fd; /* of page_faults_open(), until it is theirs; -1 */
	/* A handler waits at the other end of @handler_fd, ours: by that it sees our end. */
	bool handed_over;
	int handler_fd;
	/*
	 * A page cannot be had, by -errno: the guest cannot go on, nor can any thread of ours
	 * that touches it, the loop among them. @name is whose file it is that cannot be read, NULL
	 * when it is none's or that has no name. On the fault thread; does not return.
	 */
	void (*broken)(void *arg, const char *name, int r);
	void *arg;

	/* The rest is its own. */
	const struct machine_image *image;
	struct page_faults *faults; /* NULL: not begun, or all is there */
	struct loop *loop;
	struct loop_task over;
	struct sandbox *sandbox;
	uint64_t num;	 /* pages of RAM */
	/* Of the fault thread, once it runs: */
	uint64_t *todo;	 /* a bit for each page that a file has and that was not brought */
	uint64_t *front; /* those of them to bring first, until that is done; or NULL */
	uint64_t at;	 /* where the background is */
	uint8_t *buf;	 /* for one step of it */
	const char *damaged; /* whose file could not be read */
	struct packed_reader reader; /* of files that are compressed */
};

/*
 * Before the process is locked in, and in it: no parent can do this. @d is all zero, but that it
 * may have a handler.
 */
int demand_open(struct demand *d, struct error *err);

/*
 * Let @mem, which is fresh and untouched, get its pages from @image's files. In a thread that is
 * filtered when @sandbox (may be NULL) is locked. Its end is noticed on @loop. A handler is told
 * where @mem is, and the rest is its affair.
 */
int demand_start(struct demand *d, struct guest_mem *mem, const struct machine_image *image,
		 struct loop *loop, struct sandbox *sandbox, struct error *err);

/*
 * Of one with a handler, while nobody uses the memory: fetch the pages with a bit in @pages (NULL:
 * all; others are zero then), so that copies of this process can be made. Waits for the handler. 0,
 * also when it was done before, or -errno.
 */
int demand_take_back(struct demand *d, const uint64_t *pages);

/* In the parent of the process whose handler it is: that one alone has the connection. */
void demand_in_parent(struct demand *d);

/* Nobody uses the memory any more, or all of it is there. Harmless at any time after the open. */
void demand_stop(struct demand *d);

#endif
