/* Snapshots that the API takes, of a monitor that a thread plays: what is on the disk, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"
#include "vmm/core/io.h"
#include "vmm/saved/snapshot_pages.h"

#define RAM_BYTES (1 * MiB)
#define RAM_PAGES (RAM_BYTES / PAGE_SIZE)

struct taken {
	struct api api;
	int monitor; /* the other end of api.control */
	pthread_t thread;
	char dir[64], state[128], memory[128];
	int writable, read_only; /* disks of the guest, or -1 */
	struct api_answer answer;
};

/* ---- what is asked of the file system ---- */

static struct {
	char text[2000];   /* "sync memory.partial, rename memory, sync .; " */
	int room, writing; /* how the next fallocate(), and the second write, fail; or 0 */
	unsigned writes;
	const char *memory; /* must not be there while it is written over; or NULL */
} disk;

static void note(const char *what, const char *path)
{
	const char *name = strrchr(path, '/') + 1;
	size_t len = strlen(disk.text);

	/* The part that was made up is nobody's business. */
	snprintf(disk.text + len, sizeof(disk.text) - len, "%s %.*s; ", what,
		 (int)strcspn(name, "-"), name);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	char link[32], path[PATH_MAX] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	assert_true(readlink(link, path, sizeof(path) - 1) > 0);
	note("sync", path);
	return __real_fsync(fd);
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
	note("name", to);
	return __real_rename(from, to);
}

int __real_fallocate(int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len)
{
	if (!disk.room)
		return __real_fallocate(fd, mode, offset, len);
	errno = disk.room;
	return -1;
}

int __real_io_write_at(int fd, const void *buf, size_t len, uint64_t offset);
int __wrap_io_write_at(int fd, const void *buf, size_t len, uint64_t offset);
int __wrap_io_write_at(int fd, const void *buf, size_t len, uint64_t offset)
{
	if (disk.memory)
		assert_int_equal(access(disk.memory, F_OK), -1);
	if (++disk.writes == 2 && disk.writing)
		return -disk.writing;
	return __real_io_write_at(fd, buf, len, offset);
}

/* ---- the monitor ---- */

static void say(int sock, const char *text)
{
	control_send(sock, text, strlen(text), NULL, 0, 0);
}

static void fill_page(int fd, uint64_t page, char c)
{
	char bytes[PAGE_SIZE];

	memset(bytes, c, sizeof(bytes));
	if (pwrite(fd, bytes, sizeof(bytes), page * PAGE_SIZE) != sizeof(bytes))
		abort();
}

/* Pages 1 and 9 have changed to 'n'. */
static void write_snapshot(const int *fds, unsigned num)
{
	uint64_t pages[RAM_PAGES / 64] = { 1 << 1 | 1 << 9 };
	struct state_writer w;

	fill_page(fds[2], 1, 'n');
	fill_page(fds[2], 9, 'n');
	if (ftruncate(fds[2], RAM_BYTES) || write(fds[1], "sections", 8) != 8)
		abort();
	if (num < 4)
		return;
	state_writer_init(&w);
	snapshot_pages_write(&w, pages, RAM_PAGES);
	if (pwrite(fds[3], w.buf, w.len, 0) != (ssize_t)w.len)
		abort();
	state_writer_done(&w);
}

static void say_disks(const struct taken *t)
{
	static const char both[] = "{\"ok\":true,\"generation\":3,\"disks\":["
				   "{\"id\":\"data\",\"read_only\":false},"
				   "{\"id\":\"root\",\"read_only\":true}]}";
	const int fds[2] = { t->writable, t->read_only };

	if (t->writable < 0)
		say(t->monitor, "{\"ok\":true,\"generation\":3,\"disks\":[]}");
	else
		control_send(t->monitor, both, strlen(both), fds, 2, 0);
}

static void *play_monitor(void *arg)
{
	struct taken *t = arg;
	char buf[2000], byte;
	int fds[8];
	unsigned num = 0;
	ssize_t n;

	while ((n = control_receive(t->monitor, buf, sizeof(buf) - 1, fds, 8, &num, 0)) > 0) {
		buf[n] = '\0';
		if (strstr(buf, "snapshot-kept")) {
			say(t->monitor, "{\"ok\":true}");
			continue;
		}
		if (strstr(buf, "\"disks\"")) {
			say_disks(t);
			continue;
		}
		if (!strstr(buf, "\"generation\":3"))
			abort();
		say(t->monitor, "{\"progress\":{}}");
		if (read(fds[0], &byte, 1) == 1) {
			write_snapshot(fds, num);
			say(t->monitor,
			    num > 3 ? "{\"ok\":true,\"diff\":true}" : "{\"ok\":true}");
		} else {
			say(t->monitor, "{\"error\":\"given up\",\"errno\":125}");
		}
		while (num)
			close(fds[--num]);
	}
	return NULL;
}

/* ---- tests ---- */

static int setup(void **state)
{
	struct taken *t = calloc(1, sizeof(*t));
	int pair[2];

	assert_non_null(t);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	t->monitor = pair[1];
	t->writable = t->read_only = -1;
	t->api = (struct api){ .log_fd = -1,
			       .metrics_fd = -1,
			       .child_fd = -1,
			       .child_words = -1,
			       .control = pair[0] };
	assert_int_equal(api_resources_init(&t->api), 0);
	t->api.state = API_PAUSED;
	json_object_set_new(t->api.machine, "mem_size_mib", json_integer(RAM_BYTES / MiB));
	strcpy(t->dir, "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	snprintf(t->state, sizeof(t->state), "%s/state", t->dir);
	snprintf(t->memory, sizeof(t->memory), "%s/memory", t->dir);
	assert_int_equal(pthread_create(&t->thread, NULL, play_monitor, t), 0);
	memset(&disk, 0, sizeof(disk));
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct taken *t = *state;

	shutdown(t->api.control, SHUT_RDWR);
	pthread_join(t->thread, NULL);
	close(t->monitor);
	close(t->api.control);
	json_decref(t->answer.body);
	api_resources_done(&t->api);
	unlink(t->state);
	unlink(t->memory);
	/* Nothing else is left. */
	assert_int_equal(rmdir(t->dir), 0);
	free(t);
	return 0;
}

/* What it was answered, or "". */
static const char *take(struct taken *t, const char *type)
{
	json_t *body = json_pack("{s:s, s:s, s:s}", "snapshot_type", type, "snapshot_path",
				 t->state, "mem_file_path", t->memory);

	api_create_snapshot(&t->api, NULL, body, &t->answer);
	json_decref(body);
	return json_string_value(json_object_get(t->answer.body, "fault_message")) ?: "";
}

/* A file of all RAM whose every page is 'o'. */
static void make_earlier(struct taken *t)
{
	int fd = open(t->memory, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	for (uint64_t page = 0; page < RAM_PAGES; page++)
		fill_page(fd, page, 'o');
	close(fd);
}

static char byte_of(const char *path, uint64_t page)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char byte = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, page * PAGE_SIZE), 1);
	close(fd);
	return byte;
}

static void what_is_answered_to_is_on_the_disk(void **state)
{
	struct taken *t = *state;
	const char *dir = strrchr(t->dir, '/') + 1;
	char expected[400];

	assert_string_equal(take(t, "Full"), "");
	/* The directory's name is cut where it has a dash, as those of files are. */
	snprintf(expected, sizeof(expected),
		 "sync memory.partial; name memory; sync %1$.4s; "
		 "sync state.partial; name state; sync %1$.4s; ",
		 dir);
	assert_string_equal(disk.text, expected);
	assert_int_equal(byte_of(t->memory, 9), 'n');
}

static int open_disk(const struct taken *t, const char *name)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", t->dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(unlink(path), 0);
	return fd;
}

static void close_disks(struct taken *t)
{
	close(t->writable);
	close(t->read_only);
}

/* They are taken as they are by who loads it, and memory knows of all that was written. */
static void disks_are_on_the_medium_before_memory_is_written(void **state)
{
	struct taken *t = *state;

	t->writable = open_disk(t, "data");
	t->read_only = open_disk(t, "root");
	assert_string_equal(take(t, "Full"), "");
	assert_int_equal(strncmp(disk.text, "sync data (deleted); sync memory", 32), 0);
	assert_null(strstr(disk.text, "root"));
	close_disks(t);
}

/* This one is a file that cannot be synced. */
static void disk_that_cannot_be_made_safe_is_not_saved(void **state)
{
	struct taken *t = *state;

	t->writable = open("/proc/version", O_RDONLY | O_CLOEXEC);
	t->read_only = open_disk(t, "root");
	assert_non_null(strstr(take(t, "Full"), "backing file of drive data: Invalid argument"));
	assert_int_equal(access(t->memory, F_OK), -1);
	close_disks(t);
}

static void file_is_not_under_its_name_while_it_is_written_over(void **state)
{
	struct taken *t = *state;
	const char *dir = strrchr(t->dir, '/') + 1;
	struct stat before, after;
	char expected[400];

	make_earlier(t);
	assert_int_equal(stat(t->memory, &before), 0);
	disk.memory = t->memory;
	assert_string_equal(take(t, "Diff"), "");
	assert_int_equal(disk.writes, 2);
	snprintf(expected, sizeof(expected),
		 "name memory.partial; sync %1$.4s; sync memory.partial; name memory; sync %1$.4s; "
		 "sync state.partial; name state; sync %1$.4s; ",
		 dir);
	assert_string_equal(disk.text, expected);
	/* It is the same file. */
	assert_int_equal(stat(t->memory, &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_equal(byte_of(t->memory, 1), 'n');
	assert_int_equal(byte_of(t->memory, 2), 'o');
	assert_int_equal(byte_of(t->memory, 9), 'n');
}

static void file_without_room_for_all_changes_stays_as_it_was(void **state)
{
	struct taken *t = *state;
	const char *said;

	make_earlier(t);
	disk.room = ENOSPC;
	said = take(t, "Diff");
	if (!strstr(said, "Cannot perform write on the memory backing file: No space left"))
		fail_msg("said: %s", said);
	assert_int_equal(disk.writes, 0);
	for (uint64_t page = 0; page < RAM_PAGES; page++)
		assert_int_equal(byte_of(t->memory, page), 'o');
	assert_int_equal(access(t->state, F_OK), -1);
}

static void file_that_is_half_written_over_is_named_and_has_another_name(void **state)
{
	struct taken *t = *state;
	const char *said, *named;
	char path[200] = "";

	make_earlier(t);
	/* A file system that promises nothing, and has no room in the middle. */
	disk.room = EOPNOTSUPP;
	disk.writing = ENOSPC;
	said = take(t, "Diff");
	named = strchr(said, '\'');
	if (!strstr(said, "No space left") || !named || sscanf(named, "'%199[^']'", path) != 1)
		fail_msg("said: %s", said);
	assert_int_equal(access(t->memory, F_OK), -1);
	assert_int_equal(access(t->state, F_OK), -1);
	assert_int_equal(byte_of(path, 1), 'n');
	assert_int_equal(byte_of(path, 9), 'o');
	assert_int_equal(unlink(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_answered_to_is_on_the_disk, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			disks_are_on_the_medium_before_memory_is_written, setup, teardown),
		cmocka_unit_test_setup_teardown(disk_that_cannot_be_made_safe_is_not_saved, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			file_is_not_under_its_name_while_it_is_written_over, setup, teardown),
		cmocka_unit_test_setup_teardown(file_without_room_for_all_changes_stays_as_it_was,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			file_that_is_half_written_over_is_named_and_has_another_name, setup,
			teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
