/*
 * Guest pages that come when they are touched (userfaultfd(2)): RAM starts without its pages, who
 * touches one that is missing sleeps in the kernel, and a thread of ours asks a source for it. The
 * source may answer at once (a file), later and from another thread (a guest that moves), or be
 * another process altogether, which page_faults_hand_over() gives the descriptor to.
 *
 * Pages are named by their offset in RAM, in the order of guest addresses without the holes
 * between ranges, as in a memory file (vmm/core/guest_mem.h). Each comes once: what the guest
 * gave back to the host (guest_mem_discard()) reads as zero, whatever the source still has.
 *
 * Faults of the kernel are served, too (KVM's and io_uring's), so the descriptor needs privilege,
 * and the order of things is:
 *
 *   page_faults_open()	 while paths lead somewhere, by the process whose RAM it is about
 *   page_faults_start() when it is locked in: nobody touches RAM in between
 *   page_faults_free()	 when the source's ended() was called, or RAM is no longer used
 *
 * Until then RAM is not whole (guest_mem_is_whole()), and a copy of the process must not use it: it
 * would read zero where pages are missing.
 * Memory of the process's own (shared memory is refused, --hugepages but for another process as
 * the source, and so are files that are mapped over RAM).
 */
#ifndef WISP_CORE_PAGE_FAULTS_H
#define WISP_CORE_PAGE_FAULTS_H

#include "vmm/core/guest_mem.h"

struct page_faults;

/*
 * What brings pages. All of it is called on the fault thread, without a lock, and must neither
 * touch guest memory nor wait for somebody who may: they would wait for us.
 */
struct page_source {
	/*
	 * Somebody sleeps for the page at @offset: place it, or ask for it, to be placed
	 * later. Called once for each page. -errno: it will never come.
	 */
	int (*wanted)(void *ctx, struct page_faults *f, uint64_t offset);
	/*
	 * Nobody sleeps: place some more pages, a few milliseconds' worth. 1: there are more
	 * to come, 0: call this no more, or -errno. May be NULL.
	 */
	int (*idle)(void *ctx, struct page_faults *f);
	/*
	 * The last call: all pages are there (0), or what wanted() or idle() failed with; then
	 * those that sleep do so until page_faults_free(), which is for another thread to call.
	 */
	void (*ended)(void *ctx, int r);
};

struct page_faults_params {
	struct guest_mem *mem;	/* outlives the faults; nobody touches it yet */
	int fd;			/* of page_faults_open(); ours from success on */
	const uint64_t *there;	/* a bit for each page that has come already, or is to read as
				 * zero; NULL: none. Copied */
	const struct page_source *source;
	void *ctx;
	int (*begins)(void *arg); /* the fault thread's first call, or NULL; -errno ends it */
	void *begins_arg;
};

/*
 * A descriptor for faults of this process (a parent's is of no use) and of the kernel on its
 * behalf. Returns it or -errno; @err says what the host would have to allow.
 */
int page_faults_open(struct error *err);

/*
 * From here on pages of RAM come from the source. -ENOTSUP for memory that cannot; on failure
 * nothing has changed.
 */
int page_faults_start(struct page_faults **ret, const struct page_faults_params *params,
		      struct error *err);

/*
 * The same by another process, the one at the other end of the socket @sock: it gets @fd, which is
 * ours from success on, beside a JSON array of where RAM is in this process, one object for each
 * range, as Firecracker tells it. There is no thread of ours then, nor does anybody here know
 * which pages have come: RAM is never whole. Of what the guest gives back the other process reads
 * (UFFD_EVENT_REMOVE), and has those pages be zero from then on; until it has read that, who gives
 * back waits. @sock stays the caller's.
 */
int page_faults_hand_over(struct page_faults **ret, struct guest_mem *mem, int fd, int sock,
			  struct error *err);

/*
 * Ask for all that is missing of the pages with a bit in @pages (NULL: of all), which takes as long
 * as the other process needs for it, and let RAM be ordinary memory that is whole: it has no part
 * in it any more, and what was not asked for reads as zero. For what was handed over, while nobody
 * uses RAM. @f is gone then; on failure (-errno) nothing has changed.
 */
int page_faults_take_back(struct page_faults *f, const uint64_t *pages);

/*
 * Stop, and let RAM be ordinary memory: what is missing reads as zero from now on, so nobody may
 * use it any more unless it is whole. Waits for the source's call that is under way. NULL is fine.
 */
void page_faults_free(struct page_faults *f);

/*
 * Give up: whoever sleeps for a page goes on, and finds zeroes, so what is done with RAM must be of
 * no use any more. Any thread; all that is left to do then is page_faults_free(), by another one.
 */
void page_faults_release(struct page_faults *f);

/*
 * @len bytes from @offset of RAM on (page multiples) are @data, which is not guest memory: those
 * pages that are missing get it, and who sleeps for them goes on. Others stay as they are. Any
 * thread. 0 or -errno.
 */
int page_faults_place(struct page_faults *f, uint64_t offset, const void *data, uint64_t len);

/* They are zero. That costs no memory before they are touched. Any thread. 0 or -EINVAL. */
int page_faults_zero(struct page_faults *f, uint64_t offset, uint64_t len);

/* Is the page at @offset there, as far as we know? Any thread. */
bool page_faults_has(struct page_faults *f, uint64_t offset);

struct page_faults_counts {
	uint64_t missing; /* pages now */
	uint64_t wanted;  /* pages that the source was asked for, since somebody slept for them */
	uint64_t placed;  /* pages that it brought, these and others */
};

/* Any thread. */
void page_faults_count(struct page_faults *f, struct page_faults_counts *ret);

#endif
