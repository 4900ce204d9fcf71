#include "vmm/fleet/resources.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "vmm/run_dir.h"

/* In RUNDIR, where a name with a dot in front is nobody's. */
#define LOCK_NAME ".admit"

/* ---- admission ---- */

int resources_fit(const struct machine_config *c, const struct fleet_sum *sum,
		  const struct host_room *room, struct error *err)
{
	uint64_t reserved = MIN(sum->reserved_bytes, room->available_bytes);
	uint64_t unpromised = room->memory_bytes - MIN(sum->memory_bytes, room->memory_bytes);
	uint64_t free_bytes = MIN(room->available_bytes - reserved, unpromised);
	unsigned free_cpus = room->cpus - MIN(sum->cpus, room->cpus);
	uint64_t wanted = c->memory_bytes + c->hotplug.requested_bytes;
	char want[USAGE_SIZE_TEXT], total[USAGE_SIZE_TEXT], promised[USAGE_SIZE_TEXT],
		used[USAGE_SIZE_TEXT], left[USAGE_SIZE_TEXT];

	if (sum->unresponsive)
		return error_usage(err, -EBUSY,
				   "--admit: what %u microVMs are promised is not known: they do "
				   "not answer",
				   sum->unresponsive);
	if (c->cpus > free_cpus)
		return error_usage(err, -ENOSPC,
				   "--admit: no room for %u CPUs: total %u, promised to %u running "
				   "microVMs %u, free %u",
				   c->cpus, room->cpus, sum->machines, sum->cpus, free_cpus);
	if (wanted > free_bytes)
		return error_usage(err, -ENOSPC,
				   "--admit: no room for %s of memory: total %s, promised to %u "
				   "running microVMs %s, used %s, free %s",
				   usage_size_text(want, wanted),
				   usage_size_text(total, room->memory_bytes), sum->machines,
				   usage_size_text(promised, sum->memory_bytes),
				   usage_size_text(used,
						   room->memory_bytes - room->available_bytes),
				   usage_size_text(left, free_bytes));
	return 0;
}

/* One at a time asks, and is seen by the next. */
static int lock(const char *run_dir, struct error *err)
{
	char root[PATH_MAX - sizeof(LOCK_NAME)], path[PATH_MAX];
	int fd, r = run_dir_root(root, sizeof(root), run_dir, true, err);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/" LOCK_NAME, root);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || flock(fd, LOCK_EX) < 0) {
		r = error_usage(err, -errno, "--admit: lock '%s': %m", path);
		if (fd >= 0)
			close(fd);
		return r;
	}
	return fd;
}

int resources_admit(const struct machine_config *c, int *ret_lock, struct error *err)
{
	struct fleet_query query = { .run_dir = c->run_dir };
	struct host_room room;
	struct fleet_sum sum;
	json_t *machines = NULL;
	int fd, r;

	*ret_lock = -1;
	if (!c->resources.admit)
		return 0;
	fd = lock(c->run_dir, err);
	if (fd < 0)
		return fd;
	r = fleet_list(&query, &machines, err);
	if (!r && (r = host_room_read(&room)) < 0)
		error_set(err, r, "/proc/meminfo: %s", strerror(-r));
	if (!r) {
		fleet_sum(machines, &sum);
		r = resources_fit(c, &sum, &room, err);
	}
	json_decref(machines);
	if (r < 0)
		close(fd);
	else
		*ret_lock = fd;
	return r;
}

/* ---- where it runs ---- */

int resources_vcpu_processor(const struct config_resources *r, unsigned index)
{
	unsigned num = CPU_COUNT(&r->pin);

	if (!r->pinned || !num)
		return -1;
	/* More virtual processors than that share them, around again. */
	index %= num;
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &r->pin) && index-- == 0)
			return i;
	return -1;
}

void resources_pin_vcpu(const struct config_resources *r, unsigned index)
{
	int processor = resources_vcpu_processor(r, index);
	cpu_set_t set;

	if (processor < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		log_warn("--pin: vCPU %u does not stay on processor %d: %m", index, processor);
}

int resources_apply(const struct config_resources *r, const char *id, struct cgroup *cgroup,
		    struct error *err)
{
	cpu_set_t got;

	if (r->pinned) {
		/* The kernel leaves out what there is not, and says nothing as long as one is left.
		 */
		if (sched_setaffinity(0, sizeof(r->pin), &r->pin) < 0)
			return error_usage(err, -errno,
					   errno == EINVAL ?
						   "--pin: the host has none of these "
						   "processors, or none that we may use" :
						   "--pin: %m");
		if (sched_getaffinity(0, sizeof(got), &got) < 0)
			return error_usage(err, -errno, "--pin: %m");
		if (!CPU_EQUAL(&got, &r->pin))
			return error_usage(err, -EINVAL,
					   "--pin: of these processors we may only use %u",
					   CPU_COUNT(&got));
	}
	return cgroup_wanted(r) ? cgroup_enter(cgroup, id, r, err) : 0;
}
