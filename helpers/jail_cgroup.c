#include "helpers/jail_cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Room for a hierarchy, PARENT and ID, and for a file in there. */
#define DIR_SIZE  (2 * PATH_MAX)
#define FILE_SIZE (DIR_SIZE + 400)

/* A group: @dir, of which the first @root characters are where its hierarchy is mounted. */
struct group {
	char dir[DIR_SIZE];
	size_t root;
};

static int fail(struct error *err, const char *what, const char *path)
{
	return error_set(err, -errno, "Failed to %s %s: %m", what, path);
}

/* "cpu" of "cpu.max=1000 2000". */
static int controller_length(const char *setting)
{
	return (int)strcspn(setting, ".=");
}

/* ---- files ---- */

static int write_value(const char *dir, const char *name, const char *value, struct error *err)
{
	char path[FILE_SIZE];
	int fd, r = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) != (ssize_t)strlen(value))
		r = fail(err, "write to", path);
	if (fd >= 0)
		close(fd);
	return r;
}

/* The first line of a file, without its end: "" where it has none, or cannot be read. */
static void read_value(const char *dir, const char *name, char *value, size_t size)
{
	char path[FILE_SIZE];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "re");
	if (!f || !fgets(value, (int)size, f))
		value[0] = '\0';
	value[strcspn(value, "\n")] = '\0';
	if (f)
		fclose(f);
}

/* ---- where they are ---- */

/* The mount of cgroups of @version, in version 1 of those that @controller of @len is in. */
static int find_hierarchy(const char *mounts, int version, const char *controller, int len,
			  char *dir, size_t size, struct error *err)
{
	FILE *f = setmntent(mounts, "re");
	const struct mntent *m;
	char name[64];
	int r = -ENOENT;

	snprintf(name, sizeof(name), "%.*s", len, controller);
	while (r && f && (m = getmntent(f))) {
		if (strcmp(m->mnt_type, version == 2 ? "cgroup2" : "cgroup") != 0)
			continue;
		if (version == 1 && !hasmntopt(m, name))
			continue;
		r = (size_t)snprintf(dir, size, "%s", m->mnt_dir) < size ? 0 : -ENAMETOOLONG;
	}
	if (f)
		endmntent(f);
	if (r < 0 && version == 2)
		return error_set(
			err, r, "Hierarchy not found: No hierarchy found for this cgroup version.");
	return r < 0 ? error_set(err, r, "Controller %s is unavailable", name) : 0;
}

/* Is @name of @len one of the words of what the file says that has those that there are? */
static bool has_controller(const char *root, const char *name, int len)
{
	char all[1024], *save = NULL;

	read_value(root, "cgroup.controllers", all, sizeof(all));
	for (char *word = strtok_r(all, " ", &save); word; word = strtok_r(NULL, " ", &save))
		if (strlen(word) == (size_t)len && !strncmp(word, name, len))
			return true;
	return false;
}

/* The group that @setting is for; @id NULL: PARENT itself. */
static int find_group(const struct jail *j, const char *mounts, const char *name, const char *id,
		      const char *setting, struct group *g, struct error *err)
{
	const char *parent = j->parent_cgroup ? j->parent_cgroup : name;
	int len = controller_length(setting), r, n;

	r = find_hierarchy(mounts, j->cgroup_version, setting, len, g->dir, PATH_MAX, err);
	if (r < 0)
		return r;
	g->root = strlen(g->dir);
	if (id && j->cgroup_version == 2 && !has_controller(g->dir, setting, len))
		return error_set(err, -ENOENT, "Controller %.*s is unavailable", len, setting);
	n = snprintf(g->dir + g->root, sizeof(g->dir) - g->root, "/%s%s%s", parent, id ? "/" : "",
		     id ?: "");
	if ((size_t)n >= sizeof(g->dir) - g->root)
		return error_set(err, -ENAMETOOLONG, "The parent cgroup is too long");
	return 0;
}

/* ---- values ---- */

/* Each of the groups from the root of the hierarchy down, up to and with @g itself. */
typedef int step_fn(const char *above, const char *dir, const char *setting, struct error *err);

static int walk_down(const struct group *g, const char *setting, step_fn *step, struct error *err)
{
	char above[DIR_SIZE], dir[DIR_SIZE];
	int r = 0;

	snprintf(above, sizeof(above), "%.*s", (int)g->root, g->dir);
	for (size_t i = g->root + 1; !r; i++) {
		if (g->dir[i] && g->dir[i] != '/')
			continue;
		snprintf(dir, sizeof(dir), "%.*s", (int)i, g->dir);
		r = step(above, dir, setting, err);
		snprintf(above, sizeof(above), "%s", dir);
		if (!g->dir[i])
			break;
	}
	return r;
}

static int make(const char *above, const char *dir, const char *setting, struct error *err)
{
	return mkdir(dir, 0755) < 0 && errno != EEXIST ? fail(err, "create directory", dir) : 0;
}

/* A group has those controllers that the one above hands on. */
static int hand_on(const char *above, const char *dir, const char *setting, struct error *err)
{
	char word[80];

	snprintf(word, sizeof(word), "+%.*s", controller_length(setting), setting);
	return write_value(above, "cgroup.subtree_control", word, err);
}

/* In a new group of cpuset's there is nothing, and nothing of it for those below it. */
static int inherit(const char *above, const char *dir, const char *setting, struct error *err)
{
	char name[300], own[1024], value[1024];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(setting, "="), setting);
	read_value(dir, name, own, sizeof(own));
	read_value(above, name, value, sizeof(value));
	return *own || !*value ? 0 : write_value(dir, name, value, err);
}

static int check_setting(const char *setting, struct error *err)
{
	const char *value = strchr(setting, '=');
	const char *dot = strchr(setting, '.');

	if (!value || !value[1] || strchr(value + 1, '='))
		return error_usage(err, -EINVAL, "Invalid format for cgroups: %s", setting);
	if (!dot || dot > value || dot == setting || memchr(setting, '/', value - setting))
		return error_usage(err, -EINVAL, "Cgroup invalid file: %s", setting);
	return 0;
}

static int write_setting(const struct jail *j, const struct group *g, const char *setting,
			 struct error *err)
{
	size_t len = strcspn(setting, "=");
	char name[300];
	int r = walk_down(g, setting, make, err);

	if (!r)
		r = walk_down(g, setting, j->cgroup_version == 2 ? hand_on : inherit, err);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%.*s", (int)len, setting);
	return write_value(g->dir, name, setting + len + 1, err);
}

static int join(const struct group *g, struct error *err)
{
	char pid[24];

	snprintf(pid, sizeof(pid), "%d", getpid());
	return write_value(g->dir, "cgroup.procs", pid, err);
}

/* Who gives no values has given them to PARENT before. */
static int join_parent(const struct jail *j, const char *mounts, const char *name,
		       struct error *err)
{
	struct group g;
	int r = find_group(j, mounts, name, NULL, "", &g, err);

	if (r < 0 || access(g.dir, F_OK) < 0)
		return r;
	r = join(&g, err);
	/* One that hands on controllers takes no processes. */
	if (r < 0)
		error_set(err, r,
			  "Failed to move process to cgroup (%s): %s.\nHint: If you intended "
			  "to create a child cgroup under %s, pass any --cgroup parameters.",
			  g.dir, strerror(-r), g.dir);
	return r;
}

int jail_join_cgroups(const struct jail *j, const char *mounts, const char *name, struct error *err)
{
	struct group g;
	int r = 0;

	if (!j->num_cgroups)
		return j->cgroup_version == 2 ? join_parent(j, mounts, name, err) : 0;
	for (unsigned i = 0; i < j->num_cgroups && !r; i++)
		r = check_setting(j->cgroup[i], err);
	for (unsigned i = 0; i < j->num_cgroups && !r; i++) {
		r = find_group(j, mounts, name, j->id, j->cgroup[i], &g, err);
		if (!r)
			r = write_setting(j, &g, j->cgroup[i], err);
	}
	for (unsigned i = 0; i < j->num_cgroups && !r; i++) {
		r = find_group(j, mounts, name, j->id, j->cgroup[i], &g, err);
		if (!r)
			r = join(&g, err);
	}
	return r;
}
