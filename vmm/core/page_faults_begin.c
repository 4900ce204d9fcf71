/* Page faults: how they begin, here or in another process, and end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/core/fds.h"
#include "vmm/core/page_faults.h"
#include "vmm/core/page_faults_internal.h"

/* Sources may decompress on it; untouched stack costs nothing but address space. */
#define STACK_BYTES (256 * KiB)

static int start_thread(struct page_faults *f, struct error *err)
{
	sigset_t all, saved;
	pthread_attr_t attr;
	int r;

	/* Signals are for the threads that ask for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = -pthread_create(&f->thread, &attr, page_faults_serve, f);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (r < 0)
		return error_set(err, r, "pages on demand: cannot start a thread: %m");
	f->started = true;
	while (sem_wait(&f->begun) < 0 && errno == EINTR)
		;
	if (f->result < 0)
		return error_set(err, f->result, "pages on demand: system call filter: %m");
	return 0;
}

int page_faults_open(struct error *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	const int flags = O_CLOEXEC | O_NONBLOCK;
	/* Whoever may open the device may do so, without any other privilege. Since Linux 6.1. */
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), r;
	int fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, flags);

	if (device >= 0)
		close(device);
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, flags);
	if (fd < 0) {
		r = error_kind_set(err, ERROR_REFUSED, -errno,
				   "pages on demand: the host refuses userfaultfd: %m");
		error_hint(err, "let your user open /dev/userfaultfd, or set "
				"vm.unprivileged_userfaultfd to 1");
		return r;
	}
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		r = error_kind_set(err, ERROR_REFUSED, -errno,
				   "pages on demand: the host's userfaultfd does not tell of pages "
				   "that are given back: %m");
		close(fd);
		return r;
	}
	return fd;
}

/* Huge pages come whole: @huge_too if the source can be told so. */
static int check_memory(const struct guest_mem *mem, bool huge_too, struct error *err)
{
	if (mem->backing == GUEST_MEM_SHARED ||
	    (mem->backing == GUEST_MEM_HUGETLB && !huge_too))
		return error_set(err, -ENOTSUP, "pages on demand: not with %smemory that is shared",
				 huge_too ? "" : "--hugepages or ");
	if (mem->num_overlays)
		return error_set(err, -ENOTSUP,
				 "pages on demand: a file is mapped over guest memory");
	if (!guest_mem_is_whole(mem))
		return error_set(err, -EBUSY,
				 "pages on demand: some are still to come from elsewhere");
	return 0;
}

static int create(struct page_faults **ret, struct guest_mem *mem, const uint64_t *there,
		  bool huge_too, struct error *err)
{
	uint64_t num = guest_mem_size(mem) >> PAGE_SHIFT;
	uint64_t words = guest_mem_bitmap_words(guest_mem_size(mem));
	struct page_faults *f;
	int r = check_memory(mem, huge_too, err);

	if (r < 0)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return error_set(err, -ENOMEM, "pages on demand: %m");
	f->mem = mem;
	f->num = num;
	f->fd = -1;
	pthread_mutex_init(&f->lock, NULL);
	sem_init(&f->begun, 0, 0);
	f->there = calloc(words, sizeof(*f->there));
	f->asked = calloc(words, sizeof(*f->asked));
	f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!f->there || !f->asked || f->wake_fd < 0) {
		page_faults_free(f);
		return error_set(err, -ENOMEM, "pages on demand: no memory, or no descriptor");
	}
	if (there)
		memcpy(f->there, there, words * sizeof(*there));
	for (uint64_t page = 0; page < num; page++)
		f->counts.missing += !page_faults_bit(f->there, page);
	*ret = f;
	return 0;
}

static int register_memory(struct guest_mem *mem, int fd, struct error *err)
{
	struct uffdio_register all = {
		.range = { (uintptr_t)mem->map, guest_mem_size(mem) },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(fd, UFFDIO_REGISTER, &all) < 0)
		return error_set(err, -errno, "pages on demand: the host refuses this memory: %m");
	return 0;
}

static void unregister_memory(struct guest_mem *mem, int fd)
{
	struct uffdio_range all = { (uintptr_t)mem->map, guest_mem_size(mem) };

	ioctl(fd, UFFDIO_UNREGISTER, &all);
}

/* Of a failed start: @fd is the caller's again, and RAM is as it was. */
static void undo(struct page_faults *f, int fd)
{
	f->fd = -1;
	unregister_memory(f->mem, fd);
	page_faults_free(f);
}

int page_faults_start(struct page_faults **ret, const struct page_faults_params *params,
		      struct error *err)
{
	struct page_faults *f = NULL;
	int r = create(&f, params->mem, params->there, false, err);

	if (!f)
		return r;
	f->source = params->source;
	f->ctx = params->ctx;
	f->begins = params->begins;
	f->begins_arg = params->begins_arg;
	r = register_memory(params->mem, params->fd, err);
	if (!r) {
		f->fd = params->fd;
		/* Before the thread, which may have brought all there is by its return. */
		__atomic_store_n(&f->mem->partial, true, __ATOMIC_RELEASE);
		r = start_thread(f, err);
	}
	if (r < 0) {
		undo(f, params->fd);
		return r;
	}
	*ret = f;
	return 0;
}

/* Room for each range's line; Firecracker's handlers read 4096 bytes. */
#define REGION_BYTES 160

static void describe(const struct guest_mem *mem, char *text, size_t size)
{
	unsigned long long page = mem->backing == GUEST_MEM_HUGETLB ? HUGE_PAGE : PAGE_SIZE;
	size_t at = 0;

	for (unsigned i = 0; i < mem->num_ranges; i++) {
		const struct guest_mem_range *r = &mem->range[i];

		/* The last key is the old name of the one before it, bytes in spite of it. */
		at += snprintf(text + at, size - at,
			       "%s{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,"
			       "\"page_size\":%llu,\"page_size_kib\":%llu}",
			       i ? "," : "[", (unsigned long long)(uintptr_t)r->host,
			       (unsigned long long)r->size, (unsigned long long)r->fd_offset,
			       page, page);
	}
	snprintf(text + at, size - at, "]");
}

static int send_with(int sock, const char *text, int fd)
{
	struct iovec iov = { .iov_base = (char *)text, .iov_len = strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	FDS_SPACE(1) space;
	ssize_t n;

	fds_attach(&msg, &space, &fd, 1);
	do {
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n < (ssize_t)iov.iov_len ? -EMSGSIZE : 0;
}

int page_faults_hand_over(struct page_faults **ret, struct guest_mem *mem, int fd, int sock,
			  struct error *err)
{
	char text[GUEST_MEM_MAX_RANGES * REGION_BYTES + 16];
	struct page_faults *f = NULL;
	int r = create(&f, mem, NULL, true, err);

	if (!f)
		return r;
	r = register_memory(mem, fd, err);
	if (!r) {
		describe(mem, text, sizeof(text));
		r = send_with(sock, text, fd);
		if (r < 0)
			error_set(err, r, "pages on demand: cannot be handed over: %m");
	}
	if (r < 0) {
		undo(f, fd);
		return r;
	}
	/* Open for as long as RAM is there: if the other process ends, nobody reads zeroes. */
	f->fd = fd;
	__atomic_store_n(&mem->partial, true, __ATOMIC_RELEASE);
	*ret = f;
	return 0;
}

int page_faults_take_back(struct page_faults *f, const uint64_t *pages)
{
	const struct guest_mem *mem = f->mem;
	struct uffdio_range all = { (uintptr_t)mem->map, guest_mem_size(mem) };

	for (uint64_t page = 0; page < f->num; page++)
		if (!pages || page_faults_bit(pages, page))
			(void)*(volatile uint8_t *)(mem->map + (page << PAGE_SHIFT));
	/* What the guest gave back meanwhile is missing again, and now nobody's but zero. */
	if (ioctl(f->fd, UFFDIO_UNREGISTER, &all) < 0)
		return -errno;
	page_faults_free(f);
	return 0;
}

void page_faults_release(struct page_faults *f)
{
	f->quit = true;
	eventfd_write(f->wake_fd, 1);
	pthread_mutex_lock(&f->lock);
	/* The kernel wakes them. */
	if (f->fd >= 0)
		unregister_memory(f->mem, f->fd);
	pthread_mutex_unlock(&f->lock);
}

void page_faults_free(struct page_faults *f)
{
	if (!f)
		return;
	if (f->started) {
		f->quit = true;
		eventfd_write(f->wake_fd, 1);
		pthread_join(f->thread, NULL);
	}
	page_faults_let_go(f);
	__atomic_store_n(&f->mem->partial, false, __ATOMIC_RELEASE);
	if (f->wake_fd >= 0)
		close(f->wake_fd);
	sem_destroy(&f->begun);
	pthread_mutex_destroy(&f->lock);
	free(f->there);
	free(f->asked);
	free(f);
}
