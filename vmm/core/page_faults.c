#include "vmm/core/page_faults.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm/core/page_faults_internal.h"

/* Messages of one read(): more than there are threads to sleep, mostly. */
#define MAX_MESSAGES 16

/* Who gives pages back is about to go on, but may have to wait for this processor. */
#define CHANGE_MS 1

/* ---- the record of pages ---- */

static void set_bit(uint64_t *words, uint64_t page)
{
	words[page / 64] |= 1ull << (page % 64);
}

/* The next run of missing pages in [@at, @end), or @end; @ret_end behind its last one. */
static uint64_t next_missing(const struct page_faults *f, uint64_t at, uint64_t end,
			     uint64_t *ret_end)
{
	uint64_t behind;

	while (at < end && page_faults_bit(f->there, at))
		at += at % 64 == 0 && !~f->there[at / 64] ? 64 : 1;
	at = behind = MIN(at, end);
	while (behind < end && !page_faults_bit(f->there, behind))
		behind++;
	*ret_end = behind;
	return at;
}

/* Lock held. Returns whether somebody may sleep for one of them. */
static bool mark_there(struct page_faults *f, uint64_t first, uint64_t num)
{
	bool asked = false;

	for (uint64_t page = first; page < first + num; page++) {
		asked |= page_faults_bit(f->asked, page);
		if (!page_faults_bit(f->there, page)) {
			set_bit(f->there, page);
			f->counts.missing--;
		}
	}
	/* The thread ends when nothing is missing. */
	if (!f->counts.missing)
		eventfd_write(f->wake_fd, 1);
	return asked;
}

/* Does [@offset, +@len) name whole pages of RAM? */
static bool names_pages(const struct page_faults *f, uint64_t offset, uint64_t len)
{
	return !((offset | len) & (PAGE_SIZE - 1)) &&
	       range_inside(offset, len, 0, f->num << PAGE_SHIFT);
}

/* ---- what the kernel is asked; lock held ---- */

static uint64_t address(const struct page_faults *f, uint64_t page)
{
	return (uintptr_t)f->mem->map + (page << PAGE_SHIFT);
}

/* Who sleeps for one of these pages touches it again, and is reported again if it is missing. */
static void wake(struct page_faults *f, uint64_t first, uint64_t num)
{
	struct uffdio_range range = { address(f, first), num << PAGE_SHIFT };

	ioctl(f->fd, UFFDIO_WAKE, &range);
}

/* For one that is to read as zero and was touched. If that cannot be done yet it will be later. */
static void fill_with_zero(struct page_faults *f, uint64_t page)
{
	struct uffdio_zeropage zero = { .range = { address(f, page), PAGE_SIZE } };

	if (ioctl(f->fd, UFFDIO_ZEROPAGE, &zero) < 0)
		wake(f, page, 1);
}

/* Pages that the guest gives back: whatever the source has of them, they are zero. */
static void pages_removed(struct page_faults *f, uint64_t start, uint64_t end)
{
	uint64_t base = (uintptr_t)f->mem->map;
	uint64_t first, behind;

	start = MAX(start, base);
	end = MIN(end, base + (f->num << PAGE_SHIFT));
	if (start >= end)
		return;
	first = (start - base) >> PAGE_SHIFT;
	behind = (end - base) >> PAGE_SHIFT;
	if (mark_there(f, first, behind - first))
		wake(f, first, behind - first);
}

/*
 * Take in what the kernel has to say: pages that are removed at once, since who removes them waits
 * for that alone; pages that are to be asked for into @wanted, of which there are MAX_MESSAGES,
 * or, when that is NULL, back: they will be reported again. Returns how many messages there were.
 *
 * The lock is held from before the message of a removal is read, for then the pages go: no old
 * page can be placed between the two.
 */
static unsigned take_messages(struct page_faults *f, uint64_t *wanted, unsigned *ret_num)
{
	struct uffd_msg msg[MAX_MESSAGES];
	ssize_t n = f->fd < 0 ? 0 : read(f->fd, msg, sizeof(msg));
	unsigned count = n > 0 ? n / sizeof(msg[0]) : 0;

	for (unsigned i = 0; i < count; i++) {
		uint64_t page;

		if (msg[i].event == UFFD_EVENT_REMOVE)
			pages_removed(f, msg[i].arg.remove.start, msg[i].arg.remove.end);
		if (msg[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		page = (msg[i].arg.pagefault.address - (uintptr_t)f->mem->map) >> PAGE_SHIFT;
		if (page >= f->num)
			continue;
		if (page_faults_bit(f->there, page)) {
			fill_with_zero(f, page);
		} else if (!wanted) {
			wake(f, page, 1);
		} else if (!page_faults_bit(f->asked, page)) {
			set_bit(f->asked, page);
			f->counts.wanted++;
			wanted[(*ret_num)++] = page;
		}
	}
	return count;
}

/* While the guest gives pages back nothing can be placed: see to it that it gets on with that. */
static void let_changes_pass(struct page_faults *f)
{
	struct pollfd next = { .fd = f->fd, .events = POLLIN };

	if (take_messages(f, NULL, NULL))
		return;
	/* Its thread has been told, and must run. */
	pthread_mutex_unlock(&f->lock);
	poll(&next, 1, CHANGE_MS);
	pthread_mutex_lock(&f->lock);
}

/* Some pages, all of them missing, from the first on: @ret_done of them are there now. */
static int copy_pages(struct page_faults *f, uint64_t first, uint64_t num, const uint8_t *data,
		      uint64_t *ret_done)
{
	struct uffdio_copy copy = {
		.dst = address(f, first),
		.src = (uintptr_t)data,
		.len = num << PAGE_SHIFT,
	};

	*ret_done = 0;
	if (ioctl(f->fd, UFFDIO_COPY, &copy) == 0)
		copy.copy = (int64_t)copy.len;
	if (copy.copy > 0) {
		*ret_done = (uint64_t)copy.copy >> PAGE_SHIFT;
		f->counts.placed += *ret_done;
		mark_there(f, first, *ret_done);
		return 0;
	}
	switch (errno) {
	case EAGAIN:
		let_changes_pass(f);
		return 0;
	case EEXIST:
		*ret_done = 1;
		mark_there(f, first, 1);
		wake(f, first, 1);
		return 0;
	case ENOENT:
		/* They lie in two mappings: advice about huge pages has parted RAM. */
		if (num > 1)
			return copy_pages(f, first, num / 2, data, ret_done);
		return -ENOENT;
	default:
		return -errno;
	}
}

int page_faults_place(struct page_faults *f, uint64_t offset, const void *data, uint64_t len)
{
	uint64_t first = offset >> PAGE_SHIFT, at = first, end = (offset + len) >> PAGE_SHIFT;
	int r = 0;

	if (!names_pages(f, offset, len))
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	while (!r) {
		uint64_t behind, done;

		/* Anew each time: what was missing may have been removed meanwhile. */
		at = next_missing(f, at, end, &behind);
		if (at == end || f->fd < 0)
			break;
		r = copy_pages(f, at, behind - at,
			       (const uint8_t *)data + ((at - first) << PAGE_SHIFT), &done);
		at += done;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

int page_faults_zero(struct page_faults *f, uint64_t offset, uint64_t len)
{
	uint64_t at = offset >> PAGE_SHIFT, end = (offset + len) >> PAGE_SHIFT, behind;

	if (!names_pages(f, offset, len))
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	while (f->fd >= 0 && (at = next_missing(f, at, end, &behind)) < end) {
		if (mark_there(f, at, behind - at))
			wake(f, at, behind - at);
		at = behind;
	}
	pthread_mutex_unlock(&f->lock);
	return 0;
}

bool page_faults_has(struct page_faults *f, uint64_t offset)
{
	bool has;

	if (!names_pages(f, offset, PAGE_SIZE))
		return false;
	pthread_mutex_lock(&f->lock);
	has = page_faults_bit(f->there, offset >> PAGE_SHIFT);
	pthread_mutex_unlock(&f->lock);
	return has;
}

void page_faults_count(struct page_faults *f, struct page_faults_counts *ret)
{
	pthread_mutex_lock(&f->lock);
	*ret = f->counts;
	pthread_mutex_unlock(&f->lock);
}

/* ---- the thread ---- */

/* 1: all pages are there, or we are to end. Else 0 or the source's -errno. */
static int serve_once(struct page_faults *f, bool *idle)
{
	struct pollfd fds[] = { { .fd = f->fd, .events = POLLIN },
				{ .fd = f->wake_fd, .events = POLLIN } };
	uint64_t wanted[MAX_MESSAGES];
	unsigned num = 0, messages;
	bool over;
	int r;

	if (poll(fds, ARRAY_SIZE(fds), *idle ? 0 : -1) < 0 && errno != EINTR)
		return -errno;
	pthread_mutex_lock(&f->lock);
	messages = take_messages(f, wanted, &num);
	over = !f->counts.missing || f->quit;
	pthread_mutex_unlock(&f->lock);
	if (over)
		return 1;
	for (unsigned i = 0; i < num; i++) {
		r = f->source->wanted(f->ctx, f, wanted[i] << PAGE_SHIFT);
		if (r < 0)
			return r;
	}
	if (!messages && *idle) {
		r = f->source->idle(f->ctx, f);
		if (r < 0)
			return r;
		*idle = r > 0;
	}
	return 0;
}

void page_faults_let_go(struct page_faults *f)
{
	pthread_mutex_lock(&f->lock);
	/* The last descriptor's end ends it all. */
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	pthread_mutex_unlock(&f->lock);
}

void *page_faults_serve(void *arg)
{
	struct page_faults *f = arg;
	bool idle = f->source->idle != NULL;
	int r;

	prctl(PR_SET_NAME, "faults");
	r = f->begins ? f->begins(f->begins_arg) : 0;
	f->result = r;
	sem_post(&f->begun);
	if (r < 0)
		return NULL;
	do {
		r = serve_once(f, &idle);
	} while (!r);
	if (f->quit)
		return NULL;
	if (r > 0)
		page_faults_let_go(f);
	f->source->ended(f->ctx, MIN(r, 0));
	return NULL;
}
