/* Pages of RAM that another process brings: what it is given, and what it keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fault_ram.h"

static int take_handed_over(int sock, json_t **ret_regions)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	char text[4096];
	struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n = recvmsg(sock, &msg, 0);
	int fd;

	assert_true(n > 0);
	assert_non_null(CMSG_FIRSTHDR(&msg));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	*ret_regions = json_loadb(text, n, 0, NULL);
	assert_non_null(*ret_regions);
	return fd;
}

static uint64_t number_in(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	assert_true(json_is_integer(value));
	return json_integer_value(value);
}

/* Its other end plays a handler of Firecracker's, which has the descriptor and the JSON alone. */
static void another_process_can_be_the_source(void **state)
{
	struct error err = { 0 };
	struct uffd_msg fault;
	struct toucher t;
	json_t *regions;
	struct fault_ram x;
	int socks[2], fd;

	fault_ram_create(&x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	if (page_faults_hand_over(&x.faults, x.mem, x.fd, socks[0], &err) < 0)
		fail_msg("%s", err.msg);
	assert_false(guest_mem_is_whole(x.mem));
	fd = take_handed_over(socks[1], &regions);
	assert_int_equal(json_array_size(regions), 2);
	assert_int_equal(number_in(json_array_get(regions, 0), "base_host_virt_addr"),
			 (uintptr_t)x.mem->map);
	assert_int_equal(number_in(json_array_get(regions, 1), "offset"), 4 * MiB);
	assert_int_equal(number_in(json_array_get(regions, 1), "size"), 2 * MiB);
	assert_int_equal(number_in(json_array_get(regions, 1), "page_size"), PAGE_SIZE);

	/* A page of the second range. */
	fault_ram_touch(&t, &x, 4 * MiB / PAGE_SIZE + 2);
	poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, -1);
	assert_int_equal(read(fd, &fault, sizeof(fault)), sizeof(fault));
	assert_int_equal(fault.event, UFFD_EVENT_PAGEFAULT);
	assert_int_equal(fault.arg.pagefault.address -
				 number_in(json_array_get(regions, 1), "base_host_virt_addr"),
			 2 * PAGE_SIZE);
	assert_int_equal(ioctl(fd, UFFDIO_COPY,
			       &(struct uffdio_copy){ .dst = fault.arg.pagefault.address,
						      .src = (uintptr_t)x.pages +
							     t.page * PAGE_SIZE,
						      .len = PAGE_SIZE }),
			 0);
	pthread_join(t.thread, NULL);
	assert_int_equal(t.found, fault_ram_mark(t.page));
	json_decref(regions);
	close(fd);
	close(socks[0]);
	close(socks[1]);
	fault_ram_destroy(&x);
}

/* What it brings: all pages, until it is told to stop. */
static void *bring_what_is_asked_for(void *arg)
{
	struct fault_ram *x = arg;
	struct uffd_msg fault;

	while (poll(&(struct pollfd){ .fd = x->fd, .events = POLLIN }, 1, -1) > 0 &&
	       read(x->fd, &fault, sizeof(fault)) == sizeof(fault)) {
		uint64_t at = fault.arg.pagefault.address - (uintptr_t)x->mem->map;

		ioctl(x->fd, UFFDIO_COPY,
		      &(struct uffdio_copy){ .dst = fault.arg.pagefault.address & ~(PAGE_SIZE - 1),
					     .src = (uintptr_t)x->pages + (at & ~(PAGE_SIZE - 1)),
					     .len = PAGE_SIZE });
		if (at >> PAGE_SHIFT == FAULT_RAM_PAGES - 1)
			break;
	}
	return NULL;
}

/* Of all pages, or with @pages of those. */
static void take_back(const uint64_t *pages)
{
	struct error err = { 0 };
	pthread_t handler;
	json_t *regions;
	struct fault_ram x;
	int socks[2];

	fault_ram_create(&x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	if (page_faults_hand_over(&x.faults, x.mem, x.fd, socks[0], &err) < 0)
		fail_msg("%s", err.msg);
	x.fd = take_handed_over(socks[1], &regions);
	assert_int_equal(pthread_create(&handler, NULL, bring_what_is_asked_for, &x), 0);
	assert_int_equal(page_faults_take_back(x.faults, pages), 0);
	x.faults = NULL;
	pthread_join(handler, NULL);
	assert_true(guest_mem_is_whole(x.mem));
	for (uint64_t page = 0; page < FAULT_RAM_PAGES; page++)
		assert_int_equal(*(uint64_t *)(x.mem->map + page * PAGE_SIZE),
				 !pages || pages[page / 64] >> page % 64 & 1 ? fault_ram_mark(page)
									     : 0);
	/* And the other process has no part in what happens from here on. */
	assert_int_equal(guest_mem_discard(x.mem, 0, PAGE_SIZE), 0);
	assert_int_equal(*(uint64_t *)x.mem->map, 0);
	json_decref(regions);
	close(x.fd);
	close(socks[0]);
	close(socks[1]);
	fault_ram_destroy(&x);
}

static void what_was_handed_over_can_be_taken_back(void **state)
{
	take_back(NULL);
}

/* Nobody is asked for what the guest does not have. */
static void what_is_not_plugged_is_not_asked_for(void **state)
{
	uint64_t pages[FAULT_RAM_PAGES / 64 + 1] = { 5 };

	pages[(FAULT_RAM_PAGES - 1) / 64] |= 1ull << (FAULT_RAM_PAGES - 1) % 64;
	take_back(pages);
}

static void another_process_hears_of_huge_pages(void **state)
{
	struct error err = { 0 };
	struct guest_mem *huge;
	json_t *regions;
	struct fault_ram x;
	int socks[2], fd;

	if (guest_mem_create(&huge, GUEST_MEM_HUGETLB, fault_ram_layout,
			     ARRAY_SIZE(fault_ram_layout), &err) < 0) {
		print_message("[          ] %s\n", err.msg);
		skip();
	}
	fault_ram_create(&x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	if (page_faults_hand_over(&x.faults, huge, x.fd, socks[0], &err) < 0)
		fail_msg("%s", err.msg);
	fd = take_handed_over(socks[1], &regions);
	assert_int_equal(number_in(json_array_get(regions, 0), "page_size"), 2 * MiB);
	page_faults_free(x.faults);
	x.faults = NULL;
	json_decref(regions);
	close(fd);
	close(socks[0]);
	close(socks[1]);
	guest_mem_free(huge);
	fault_ram_destroy(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_process_can_be_the_source),
		cmocka_unit_test(what_was_handed_over_can_be_taken_back),
		cmocka_unit_test(what_is_not_plugged_is_not_asked_for),
		cmocka_unit_test(another_process_hears_of_huge_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
