/*
 * RAM that can become again what it was: a private mapping of a file. What is written since are
 * private copies of its pages; to drop those brings the file's pages back.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/core/guest_mem.h"

int guest_mem_keep(struct guest_mem *mem, int fd, struct guest_mem_saved *ret_saved,
		   struct error *err)
{
	struct guest_mem_overlay before[GUEST_MEM_MAX_OVERLAYS];
	unsigned num = mem->num_overlays;
	int r;

	if (mem->backing != GUEST_MEM_ANON)
		return error_set(err, -ENOTSUP,
				 "memory of --hugepages or --memory-backend shared cannot become "
				 "again what it was");
	r = guest_mem_save(mem, fd, ret_saved);
	if (r < 0)
		return error_set(err, r, "memory cannot be kept: %m");
	/* Whoever made it has it, too: that we fault must not be up to him. */
	r = guest_mem_check_fd(fd, mem->map_size, err);
	if (r < 0)
		return r;
	memcpy(before, mem->overlay, sizeof(before));
	r = guest_mem_load(mem, fd, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < num; i++)
		if (before[i].fd >= 0)
			close(before[i].fd);
	mem->holed = false;
	guest_mem_hide(mem);
	return 0;
}

bool guest_mem_is_kept(const struct guest_mem *mem)
{
	const struct guest_mem_overlay *o = &mem->overlay[0];

	return mem->backing == GUEST_MEM_ANON && mem->num_overlays == 1 && o->fd >= 0 &&
	       o->host == mem->map && o->size == mem->map_size;
}

/* Where nothing was discarded the mapping is there, and only its copies have to go. */
static int bring_back_run(struct guest_mem *mem, uint64_t at, uint64_t len)
{
	const struct guest_mem_overlay *o = &mem->overlay[0];
	uint8_t *host = mem->map + at;

	if (!mem->holed)
		return madvise(host, len, MADV_DONTNEED) < 0 ? -errno : 0;
	if (mmap(host, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, o->fd,
		 o->fd_offset + at) == MAP_FAILED)
		return -errno;
	madvise(host, len, MADV_DONTDUMP);
	return 0;
}

int guest_mem_bring_back(struct guest_mem *mem, const uint64_t *pages, uint64_t *ret_runs)
{
	uint64_t num = mem->map_size >> PAGE_SHIFT, at = 0, end, runs = 0;
	int r = guest_mem_is_kept(mem) ? 0 : -ENOTSUP;

	while (!r && (at = guest_mem_next_run(pages, num, at, &end)) < num) {
		r = bring_back_run(mem, at * PAGE_SIZE, (end - at) * PAGE_SIZE);
		runs++;
		at = end;
	}
	if (!r)
		*ret_runs = runs;
	return r;
}
