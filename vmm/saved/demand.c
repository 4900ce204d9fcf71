#include "vmm/saved/demand.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/guest_mem.h"
#include "vmm/core/io.h"
#include "vmm/core/log.h"
#include "vmm/machine/machine_state.h"
#include "vmm/saved/working_set.h"

/* A step of the background: who touches a page meanwhile waits for no more than that. */
#define STEP_PAGES 64u

/* With the page that somebody waits for come those around it, as from the page cache. */
#define AROUND_PAGES 16u

static bool has_bit(const uint64_t *words, uint64_t page)
{
	return words[page / 64] >> (page % 64) & 1;
}

/* ---- from the files; on the fault thread ---- */

/* The newest file that has @page: a layer, or -1 for the first one. */
static int file_of(const struct demand *d, uint64_t page)
{
	for (unsigned i = d->image->num_layers; i-- > 0;)
		if (has_bit(d->image->layer[i].pages, page))
			return (int)i;
	return -1;
}

static const char *name_of(const struct machine_image *image, int file)
{
	return file < 0 ? image->memory_name : image->layer[file].name;
}

static int read_file(struct demand *d, int file, size_t len, uint64_t offset)
{
	const struct machine_image *image = d->image;
	const struct packed_memory *packed = file < 0 ? image->packed : image->layer[file].packed;
	int fd = file < 0 ? image->memory_fd : image->layer[file].fd;
	int r = packed ? packed_memory_read(packed, &d->reader, d->buf, len, offset)
		       : io_read_at(fd, d->buf, len, offset);

	if (r < 0)
		d->damaged = name_of(image, file);
	return r;
}

/* Runs of pages that are zero cost no memory: of a chunk that is unpacked many are. */
static int place(struct demand *d, struct page_faults *f, uint64_t offset, size_t len)
{
	size_t some;
	bool zero;
	int r = 0;

	for (size_t at = 0; at < len && !r; at += some) {
		some = PAGE_SIZE * guest_mem_alike(d->buf + at, (len - at) / PAGE_SIZE, &zero);
		r = zero ? page_faults_zero(f, offset + at, some)
			 : page_faults_place(f, offset + at, d->buf + at, some);
	}
	return r;
}

/* Pages @at to @end, at most STEP_PAGES of them, in one read for each file that has some. */
static int bring(struct demand *d, struct page_faults *f, uint64_t at, uint64_t end)
{
	int r = 0;

	while (at < end && !r) {
		uint64_t first = at;
		int file = file_of(d, first);

		while (at < end && has_bit(d->todo, at) && file_of(d, at) == file) {
			d->todo[at / 64] &= ~(1ull << (at % 64));
			at++;
		}
		if (at == first) {
			at++;
			continue;
		}
		r = read_file(d, file, (at - first) << PAGE_SHIFT, first << PAGE_SHIFT);
		if (!r)
			r = place(d, f, first << PAGE_SHIFT, (at - first) << PAGE_SHIFT);
	}
	return r;
}

static int wanted(void *ctx, struct page_faults *f, uint64_t offset)
{
	struct demand *d = ctx;
	uint64_t at = align_down(offset >> PAGE_SHIFT, AROUND_PAGES);

	return bring(d, f, at, MIN(at + AROUND_PAGES, d->num));
}

static int bring_some(void *ctx, struct page_faults *f)
{
	struct demand *d = ctx;
	const uint64_t *pages = d->front ? d->front : d->todo;
	uint64_t end, at = guest_mem_next_run(pages, d->num, d->at, &end);
	int r;

	if (at < d->num) {
		d->at = MIN(end, at + STEP_PAGES);
		r = bring(d, f, at, d->at);
		return r < 0 ? r : 1;
	}
	if (!d->front)
		return 0;
	/* What will be needed is there; now the rest. */
	free(d->front);
	d->front = NULL;
	d->at = 0;
	return 1;
}

static void ended(void *ctx, int r)
{
	struct demand *d = ctx;

	if (r < 0)
		d->broken(d->arg, d->damaged, r);
	else
		loop_post(d->loop, &d->over);
}

static const struct page_source files = { .wanted = wanted, .idle = bring_some, .ended = ended };

/* ---- beginning and end ---- */

static void over(struct loop_task *task)
{
	struct demand *d = container_of(task, struct demand, over);

	log_debug("all of the guest's memory is there");
	demand_stop(d);
}

static int filter(void *arg)
{
	struct demand *d = arg;

	return d->sandbox ? sandbox_filter(d->sandbox, SANDBOX_THREAD_FAULT) : 0;
}

static void set_pages(struct demand *d, uint64_t from, uint64_t to)
{
	for (uint64_t page = from; page < MIN(to, d->num); page++)
		d->todo[page / 64] |= 1ull << (page % 64);
}

static void find_chunks(struct demand *d, const struct packed_memory *packed)
{
	const uint64_t pages = PACKED_CHUNK / PAGE_SIZE;

	for (uint64_t i = 0; i < packed->num; i++)
		if (packed_memory_has(packed, i))
			set_pages(d, i * pages, (i + 1) * pages);
}

static int find_data(struct demand *d, int fd)
{
	off_t data = 0, hole;

	while ((data = lseek(fd, data, SEEK_DATA)) >= 0) {
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		set_pages(d, data >> PAGE_SHIFT, (hole + PAGE_SIZE - 1) >> PAGE_SHIFT);
		data = hole;
	}
	return errno == ENXIO ? 0 : -errno;
}

/* Where the first file has data, and all that the others have. */
static int find_pages(struct demand *d)
{
	uint64_t words = guest_mem_bitmap_words(d->num << PAGE_SHIFT);
	int r = 0;

	if (d->image->packed)
		find_chunks(d, d->image->packed);
	else
		r = find_data(d, d->image->memory_fd);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < d->image->num_layers; i++)
		for (uint64_t k = 0; k < words; k++)
			d->todo[k] |= d->image->layer[i].pages[k];
	return 0;
}

/* Like guest_mem_load(): a file of another size is another guest's. */
static int check_size(int fd, const struct packed_memory *packed, uint64_t bytes,
		      struct error *err)
{
	struct stat st;

	if (packed && packed->bytes != bytes)
		return error_set(err, -EBADMSG, "saved memory: %llu bytes for RAM of %llu",
				 (unsigned long long)packed->bytes, (unsigned long long)bytes);
	if (packed)
		return 0;
	if (fstat(fd, &st) < 0)
		return error_set(err, -errno, "saved memory: %m");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
		return error_set(err, -EBADMSG,
				 "saved memory: a file of %lld bytes for RAM of %llu bytes",
				 (long long)st.st_size, (unsigned long long)bytes);
	return 0;
}

static int check_files(const struct machine_image *image, uint64_t bytes, struct error *err)
{
	int r = check_size(image->memory_fd, image->packed, bytes, err);
	int file = -1;

	while (!r && ++file < (int)image->num_layers)
		r = check_size(image->layer[file].fd, image->layer[file].packed, bytes, err);
	if (r < 0 && name_of(image, file))
		error_prefix(err, "snapshot '%s'", name_of(image, file));
	return r;
}

/* Then what unpacks is made before the thread is, which cannot ask for memory. */
static bool is_packed(const struct machine_image *image)
{
	bool yes = image->packed != NULL;

	for (unsigned i = 0; i < image->num_layers; i++)
		yes |= image->layer[i].packed != NULL;
	return yes;
}

int demand_open(struct demand *d, struct error *err)
{
	d->fd = page_faults_open(err);
	return MIN(d->fd, 0);
}

/* The files, if there are any, are the handler's to open. */
static int start_elsewhere(struct demand *d, struct guest_mem *mem, struct error *err)
{
	int r = page_faults_hand_over(&d->faults, mem, d->fd, d->handler_fd, err);

	if (!r)
		d->fd = -1;
	return r;
}

int demand_start(struct demand *d, struct guest_mem *mem, const struct machine_image *image,
		 struct loop *loop, struct sandbox *sandbox, struct error *err)
{
	uint64_t words = guest_mem_bitmap_words(guest_mem_size(mem));
	const struct working_set *set = image->working_set;
	struct page_faults_params params = {
		.mem = mem,
		.fd = d->fd,
		.source = &files,
		.ctx = d,
		.begins = filter,
		.begins_arg = d,
	};
	uint64_t *there;
	int r;

	if (d->handed_over)
		return start_elsewhere(d, mem, err);
	there = calloc(words, sizeof(*there));
	d->image = image;
	d->loop = loop;
	d->sandbox = sandbox;
	d->over.run = over;
	d->num = guest_mem_size(mem) >> PAGE_SHIFT;
	d->todo = calloc(words, sizeof(*d->todo));
	d->buf = malloc(STEP_PAGES * PAGE_SIZE);
	d->front = set ? calloc(words, sizeof(*d->front)) : NULL;
	if (!there || !d->todo || !d->buf || (set && !d->front) ||
	    (is_packed(image) && packed_reader_init(&d->reader) < 0)) {
		r = error_set(err, -ENOMEM, "saved memory: %m");
		goto out;
	}
	r = check_files(image, guest_mem_size(mem), err);
	if (r < 0)
		goto out;
	r = find_pages(d);
	if (r < 0) {
		error_set(err, r, "saved memory: where it has data: %m");
		goto out;
	}
	for (uint64_t i = 0; i < words; i++)
		there[i] = ~d->todo[i];
	for (uint64_t i = 0; i < words && set; i++)
		d->front[i] = set->touched[i] & d->todo[i];
	params.there = there;
	r = page_faults_start(&d->faults, &params, err);
	if (!r)
		d->fd = -1;
out:
	free(there);
	return r;
}

int demand_take_back(struct demand *d, const uint64_t *pages)
{
	int r = d->faults ? page_faults_take_back(d->faults, pages) : 0;

	if (r < 0)
		return r;
	d->faults = NULL;
	demand_stop(d);
	return 0;
}

static void close_handler(struct demand *d)
{
	if (d->handed_over)
		close(d->handler_fd);
	d->handed_over = false;
}

void demand_in_parent(struct demand *d)
{
	close_handler(d);
}

void demand_stop(struct demand *d)
{
	page_faults_free(d->faults);
	d->faults = NULL;
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	close_handler(d);
	free(d->todo);
	free(d->front);
	free(d->buf);
	packed_reader_done(&d->reader);
	d->todo = d->front = NULL;
	d->buf = NULL;
}
