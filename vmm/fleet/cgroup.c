#include "vmm/fleet/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Of cpu.max: what the kernel has by itself, in microseconds. */
#define PERIOD_US 100000

bool cgroup_wanted(const struct config_resources *r)
{
	return r->cpu_weight || r->cpu_percent || r->memory_bytes || r->io_path;
}

/* ---- files ---- */

/* The whole of @path, for the caller to free; NULL with errno. */
static char *read_all(const char *path)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = fopen(path, "re");

	if (f && getdelim(&text, &size, '\0', f) < 0 && ferror(f)) {
		free(text);
		text = NULL;
	}
	if (f)
		fclose(f);
	return text;
}

static int write_file(const char *dir, const char *name, const char *text)
{
	char path[PATH_MAX + 64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	n = n < 0 ? -errno : 0;
	close(fd);
	return (int)n;
}

/* ---- where we are ---- */

/* "... MOUNT_ROOT MOUNT_POINT options - cgroup2 ...": the point, cut out of the line in place. */
static char *mount_point(char *line)
{
	char *field = line;

	if (!strstr(line, " - cgroup2 "))
		return NULL;
	for (unsigned i = 0; i < 4 && field; i++) {
		field = strchr(field, ' ');
		field = field ? field + 1 : NULL;
	}
	if (field)
		field[strcspn(field, " ")] = '\0';
	return field;
}

int cgroup_find(char *buf, size_t size, const char *cgroup, const char *mountinfo)
{
	const char *own = strncmp(cgroup, "0::", 3) == 0 ? cgroup : strstr(cgroup, "\n0::");
	char *copy = strdup(mountinfo), *save = NULL, *point = NULL;
	int r = -ENOENT;

	if (!copy)
		return -ENOMEM;
	for (char *line = strtok_r(copy, "\n", &save); line && !point;
	     line = strtok_r(NULL, "\n", &save))
		point = mount_point(line);
	if (own && point) {
		own = strchr(own, '/');
		/* The root's own path is one slash. */
		if (own)
			r = snprintf(buf, size, "%s%.*s", point,
				     own[1] == '\n' || !own[1] ? 0 : (int)strcspn(own, "\n"),
				     own) < (int)size
				    ? 0
				    : -ENAMETOOLONG;
	}
	free(copy);
	return r;
}

static int find_home(char *buf, size_t size)
{
	char *cgroup = read_all("/proc/self/cgroup"), *mounts = read_all("/proc/self/mountinfo");
	int r = cgroup && mounts ? cgroup_find(buf, size, cgroup, mounts) : -ENOENT;

	free(cgroup);
	free(mounts);
	return r;
}

/* ---- limits ---- */

/* "MAJOR:MINOR" of the whole disk that @path is, or is on. */
static int find_disk(const char *path, char *buf, size_t size)
{
	char sys[320], *text;
	struct stat st;
	dev_t dev;

	if (stat(path, &st) < 0)
		return -errno;
	dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	snprintf(buf, size, "%u:%u", major(dev), minor(dev));
	snprintf(sys, sizeof(sys), "/sys/dev/block/%s/partition", buf);
	if (access(sys, F_OK) == 0) {
		snprintf(sys, sizeof(sys), "/sys/dev/block/%s/../dev", buf);
		text = read_all(sys);
		if (text)
			snprintf(buf, size, "%.*s", (int)strcspn(text, "\n"), text);
		free(text);
	}
	snprintf(sys, sizeof(sys), "/sys/dev/block/%s", buf);
	return access(sys, F_OK) == 0 ? 0 : -ENOTBLK;
}

static int add_rate(char *text, size_t size, const char *key, uint64_t rate)
{
	size_t len = strlen(text);

	return rate ? snprintf(text + len, size - len, " %s=%" PRIu64, key, rate) : 0;
}

static int limit_io(const char *path, const struct config_resources *r, struct error *err)
{
	char text[256];
	int ret = find_disk(r->io_path, text, sizeof(text));

	if (ret < 0)
		return error_usage(err, ret, "--io-max: '%s' is not on a disk of the host's: %s",
				   r->io_path, strerror(-ret));
	add_rate(text, sizeof(text), "rbps", r->io_read_bytes);
	add_rate(text, sizeof(text), "wbps", r->io_write_bytes);
	add_rate(text, sizeof(text), "riops", r->io_reads);
	add_rate(text, sizeof(text), "wiops", r->io_writes);
	ret = write_file(path, "io.max", text);
	return ret < 0 ? error_usage(err, ret, "--io-max: %s", strerror(-ret)) : 0;
}

static int set_limits(const char *path, const struct config_resources *r, struct error *err)
{
	const char *option = "--cpu-weight";
	char text[64];
	int ret = 0;

	if (r->cpu_weight) {
		snprintf(text, sizeof(text), "%u", r->cpu_weight);
		ret = write_file(path, "cpu.weight", text);
	}
	if (!ret && r->cpu_percent) {
		option = "--cpu-max";
		snprintf(text, sizeof(text), "%llu %u",
			 (unsigned long long)r->cpu_percent * PERIOD_US / 100, PERIOD_US);
		ret = write_file(path, "cpu.max", text);
	}
	if (!ret && r->memory_bytes) {
		option = "--memory-max";
		snprintf(text, sizeof(text), "%" PRIu64, r->memory_bytes);
		ret = write_file(path, "memory.max", text);
		/* All of it or nothing: a monitor without its helpers is of no use. */
		if (!ret)
			(void)write_file(path, "memory.oom.group", "1");
	}
	if (ret < 0)
		return error_usage(err, ret, "%s: cgroup '%s': %s", option, path, strerror(-ret));
	return r->io_path ? limit_io(path, r, err) : 0;
}

/* ---- entering and leaving ---- */

/* "+cpu +memory": what the limits of @r are the matter of. */
static void name_controllers(char *text, size_t size, char sign, const struct config_resources *r)
{
	const struct {
		const char *name;
		bool wanted;
	} all[] = {
		{ "cpu", r->cpu_weight || r->cpu_percent },
		{ "memory", r->memory_bytes },
		{ "io", r->io_path },
	};
	size_t len = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].wanted)
			len += snprintf(text + len, size - len, "%s%c%s", len ? " " : "", sign,
					all[i].name);
}

/* Have @dir hand on what is needed to its children. */
static int hand_on(const char *dir, const struct config_resources *r)
{
	char text[24];

	name_controllers(text, sizeof(text), '+', r);
	return *text ? write_file(dir, "cgroup.subtree_control", text) : 0;
}

/*
 * Make ours in @dir, and move there: before controllers are asked for, since a cgroup with
 * processes of its own, as we are one, has none to hand on.
 */
static int make_in(struct cgroup *g, const char *dir, const char *id,
		   const struct config_resources *r)
{
	int ret;

	if ((size_t)snprintf(g->path, sizeof(g->path), "%s/wisp-%s", dir, id) >= sizeof(g->path))
		return -ENAMETOOLONG;
	/* One that a killed microVM of this name left has no processes. */
	if (mkdir(g->path, 0755) < 0 &&
	    (errno != EEXIST || rmdir(g->path) < 0 || mkdir(g->path, 0755) < 0)) {
		ret = -errno;
		g->path[0] = '\0';
		return ret;
	}
	ret = write_file(g->path, "cgroup.procs", "0");
	g->given[0] = '\0';
	if (!ret)
		ret = hand_on(dir, r);
	if (!ret && !strcmp(dir, g->home))
		name_controllers(g->given, sizeof(g->given), '-', r);
	if (ret < 0)
		cgroup_leave(g);
	return ret;
}

int cgroup_enter(struct cgroup *g, const char *id, const struct config_resources *r,
		 struct error *err)
{
	char dir[PATH_MAX], *slash;
	int ret = find_home(g->home, sizeof(g->home)), why = 0;

	if (ret < 0) {
		error_usage(err, ret,
			    "--cpu-max and the like: this host has no cgroups of version 2");
		error_hint(err, "'wisp doctor' says what would mend that");
		return ret;
	}
	snprintf(dir, sizeof(dir), "%s", g->home);
	/* Ours first, then those above it, as far as they are cgroups. */
	do {
		ret = make_in(g, dir, id, r);
		/* The nearest one's reason is the one to tell. */
		why = why ? why : ret;
		slash = strrchr(dir, '/');
		if (slash)
			*slash = '\0';
	} while (ret < 0 && slash && strncmp(dir, "/sys/fs/cgroup", 14) == 0);
	if (ret < 0) {
		error_usage(err, why,
			    "--cpu-max and the like: no cgroup is ours to divide ('%s': %s)",
			    g->home, strerror(-why));
		error_hint(err,
			   "start wisp by 'systemd-run --user --scope -p Delegate=yes wisp ...'");
		return why;
	}
	ret = set_limits(g->path, r, err);
	if (ret < 0)
		cgroup_leave(g);
	return ret;
}

/*
 * A cgroup that hands on controllers takes no processes: where ours is in our home, as in a scope
 * of systemd's that has nobody but us, it has to stop that first.
 */
static int go_home(const struct cgroup *g)
{
	int r = write_file(g->home, "cgroup.procs", "0");

	if (r != -EBUSY || !g->given[0])
		return r;
	r = write_file(g->home, "cgroup.subtree_control", g->given);
	return r < 0 ? r : write_file(g->home, "cgroup.procs", "0");
}

void cgroup_leave(struct cgroup *g)
{
	int r;

	if (!g->path[0])
		return;
	r = go_home(g);
	if (!r && rmdir(g->path) < 0)
		r = -errno;
	if (r < 0)
		log_warn("cgroup '%s' is left: %s", g->path, strerror(-r));
	g->path[0] = '\0';
}
