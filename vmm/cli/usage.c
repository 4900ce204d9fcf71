#include "vmm/cli/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* A microVM is a parent, a monitor and helpers: no deeper than that, and no loop if /proc lies. */
#define MAX_DEPTH 8

/* The file @path as text. -errno. */
static int read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -errno;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
		len += n;
	close(fd);
	buf[len] = '\0';
	return n < 0 ? -errno : 0;
}

int usage_add_stat(struct usage *sum, const char *text)
{
	/* The name, in parentheses, may contain anything: the last one closes it. */
	const char *p = strrchr(text, ')');
	uint64_t field[44] = { 0 }, tick_ns = NSEC_PER_SEC / sysconf(_SC_CLK_TCK);
	unsigned n = 3;

	if (!p || strlen(p) < 4)
		return -EBADMSG;
	/* Fields by proc(5)'s numbers; the third is a letter. */
	for (p += 3; n < 43; p += strcspn(p, " ")) {
		p += strspn(p, " ");
		if (!*p || *p == '\n')
			break;
		field[++n] = strtoull(p, NULL, 10);
	}
	if (n < 43)
		return -EBADMSG;
	sum->cpu_ns += (field[14] + field[15]) * tick_ns;
	sum->guest_ns += field[43] * tick_ns;
	sum->resident_bytes += field[24] * sysconf(_SC_PAGESIZE);
	sum->threads += field[20];
	sum->processes++;
	return 0;
}

static void add_children(struct usage *sum, pid_t pid, unsigned depth);

static int add_process(struct usage *sum, pid_t pid, unsigned depth)
{
	char path[64], text[1024];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	r = read_text(path, text, sizeof(text));
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	r = usage_add_stat(sum, text);
	if (!r && depth < MAX_DEPTH)
		add_children(sum, pid, depth + 1);
	return r;
}

/* Those of its main thread: no process of ours forks from another one. */
static void add_children(struct usage *sum, pid_t pid, unsigned depth)
{
	char path[64], text[4096], *p = text, *end;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	if (read_text(path, text, sizeof(text)) < 0)
		return;
	for (long child; (child = strtol(p, &end, 10)) > 0 && end != p; p = end)
		(void)add_process(sum, (pid_t)child, depth);
}

int usage_add_tree(struct usage *sum, pid_t pid)
{
	return add_process(sum, pid, 0);
}

/* The name of a process's program, with the parentheses around it. */
static int read_name(pid_t pid, char *name, size_t size)
{
	char path[64], text[1024], *from, *to;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	r = read_text(path, text, sizeof(text));
	from = r < 0 ? NULL : strchr(text, '(');
	to = r < 0 ? NULL : strrchr(text, ')');
	if (!from || !to || to < from)
		return r < 0 ? r : -EBADMSG;
	snprintf(name, size, "%.*s", (int)(to - from) + 1, from);
	return 0;
}

int usage_add_machine(struct usage *sum, pid_t monitor, pid_t parent)
{
	char one[64], other[64];
	bool ours = read_name(monitor, one, sizeof(one)) == 0 &&
		    read_name(parent, other, sizeof(other)) == 0 && !strcmp(one, other);

	return usage_add_tree(sum, ours ? parent : monitor);
}

/* The letter of process @pid's state, as proc(5) has it; 0 when there is no such process. */
static char read_state(pid_t pid)
{
	char path[64], text[1024], *name_end;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	name_end = read_text(path, text, sizeof(text)) < 0 ? NULL : strrchr(text, ')');
	return name_end && name_end[1] ? name_end[2] : 0;
}

pid_t usage_stopped_monitor(pid_t monitor, pid_t parent)
{
	char path[64], text[4096], ours[64], name[64], *p = text, *end;

	if (monitor > 0)
		return read_state(monitor) == 'T' ? monitor : 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", parent, parent);
	if (read_text(path, text, sizeof(text)) < 0 || read_name(parent, ours, sizeof(ours)) < 0)
		return 0;
	for (long child; (child = strtol(p, &end, 10)) > 0 && end != p; p = end)
		if (read_state((pid_t)child) == 'T' &&
		    read_name((pid_t)child, name, sizeof(name)) == 0 && !strcmp(name, ours))
			return (pid_t)child;
	return 0;
}

static int meminfo(const char *text, const char *name, uint64_t *ret_bytes)
{
	const char *p = strstr(text, name);
	uint64_t kib;

	if (!p || sscanf(p + strlen(name), ": %" SCNu64 " kB", &kib) != 1)
		return -EBADMSG;
	*ret_bytes = kib * KiB;
	return 0;
}

int host_room_parse(struct host_room *room, const char *text)
{
	int r = meminfo(text, "MemTotal", &room->memory_bytes);

	return r < 0 ? r : meminfo(text, "MemAvailable", &room->available_bytes);
}

int host_room_read(struct host_room *ret_room)
{
	struct host_room room = { 0 };
	char text[4096];
	cpu_set_t set;
	int r;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		room.cpus = CPU_COUNT(&set);
	else
		room.cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	r = read_text("/proc/meminfo", text, sizeof(text));
	if (!r)
		r = host_room_parse(&room, text);
	if (!r)
		*ret_room = room;
	return r;
}

const char *usage_size_text(char buf[static USAGE_SIZE_TEXT], uint64_t bytes)
{
	static const char letters[] = "BKMGTPE";
	double size = (double)bytes;
	unsigned power = 0;

	/* What would be rounded to 1024 is one of the next letter. */
	while (size >= 1023.5 && letters[power + 1]) {
		size /= 1024;
		power++;
	}
	snprintf(buf, USAGE_SIZE_TEXT, "%.*f%c", power && size < 99.95 ? 1 : 0, size,
		 letters[power]);
	return buf;
}
