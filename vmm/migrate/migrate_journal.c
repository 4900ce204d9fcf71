#include "vmm/migrate/migrate_journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/run_dir.h"

/* Hidden from those who look for microVMs. */
#define DIRECTORY ".migrations"

static const char *const role_name[] = { "source", "destination" };

void migrate_uuid_print(const uint8_t *uuid, char *text)
{
	for (unsigned i = 0; i < MIGRATE_UUID_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", uuid[i]);
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int migrate_uuid_parse(const char *text, uint8_t *uuid)
{
	if (strlen(text) != MIGRATE_UUID_TEXT - 1)
		return -EINVAL;
	for (unsigned i = 0; i < MIGRATE_UUID_BYTES; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		uuid[i] = high << 4 | low;
	}
	return 0;
}

int migrate_uuid_new(uint8_t *uuid)
{
	return getrandom(uuid, MIGRATE_UUID_BYTES, 0) == MIGRATE_UUID_BYTES ? 0 : -EIO;
}

static int directory(char *buf, size_t size, const char *root, bool create, struct error *err)
{
	char base[PATH_MAX - 300];
	int r = run_dir_root(base, sizeof(base), root, create, err);

	if (r < 0)
		return r;
	snprintf(buf, size, "%s/" DIRECTORY, base);
	if (create && mkdir(buf, 0700) < 0 && errno != EEXIST)
		return error_usage(err, -errno, "run directory '%s': %m", buf);
	return 0;
}

static void set_path(struct migrate_journal *j, const char *dir)
{
	snprintf(j->path, sizeof(j->path), "%.*s/%s.%s", PATH_MAX - 100, dir, j->uuid,
		 role_name[j->role]);
}

int migrate_journal_create(struct migrate_journal *j, const char *root, struct error *err)
{
	char dir[PATH_MAX];
	int r = directory(dir, sizeof(dir), root, true, err);

	j->fd = -1;
	if (r < 0)
		return r;
	set_path(j, dir);
	j->fd = open(j->path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (j->fd < 0)
		return error_set(err, -errno, "migration: journal '%s': %m", j->path);
	/* Only those who read it just now could have it. */
	if (flock(j->fd, LOCK_EX) < 0 ||
	    dprintf(j->fd, "%s\n%s\n" MIGRATE_PHASE_STARTED "\n", j->id, j->peer) < 0 ||
	    fsync(j->fd) < 0) {
		r = error_set(err, -errno, "migration: journal '%s': %m", j->path);
		migrate_journal_remove(j);
	}
	return r;
}

void migrate_journal_leave(struct migrate_journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	j->fd = -1;
}

void migrate_journal_remove(struct migrate_journal *j)
{
	if (j->fd < 0)
		return;
	migrate_journal_leave(j);
	unlink(j->path);
}

void migrate_journal_forget(const char *root, const char *uuid)
{
	struct migrate_journal j = { 0 };

	/* A destination looks for it when it has let go of its own, or written its last word. */
	if (migrate_journal_read(root, uuid, MIGRATE_SOURCE, &j) == 0)
		unlink(j.path);
	if (migrate_journal_read(root, uuid, MIGRATE_DESTINATION, &j) == 0 &&
	    (!j.held || !strcmp(j.phase, MIGRATE_PHASE_GIVEN_UP)))
		unlink(j.path);
}

/* The last whole line of @f is the phase: one that was cut off was never acted on. */
static void read_phases(FILE *f, struct migrate_journal *j)
{
	char line[64];

	while (fgets(line, sizeof(line), f)) {
		size_t len = strlen(line);

		if (!len || line[len - 1] != '\n' || len > sizeof(j->phase))
			continue;
		line[len - 1] = '\0';
		memcpy(j->phase, line, len);
	}
}

static bool read_line(FILE *f, char *buf, size_t size)
{
	size_t len;

	if (!fgets(buf, (int)size, f))
		return false;
	len = strlen(buf);
	if (!len || buf[len - 1] != '\n')
		return false;
	buf[len - 1] = '\0';
	return true;
}

static int read_file(struct migrate_journal *j)
{
	FILE *f = fopen(j->path, "re");
	int r = 0;

	j->fd = -1;
	if (!f)
		return -errno;
	snprintf(j->phase, sizeof(j->phase), MIGRATE_PHASE_STARTED);
	j->held = flock(fileno(f), LOCK_SH | LOCK_NB) < 0;
	if (!read_line(f, j->id, sizeof(j->id)) || !read_line(f, j->peer, sizeof(j->peer)))
		r = -EBADMSG;
	else
		read_phases(f, j);
	fclose(f);
	return r;
}

int migrate_journal_read(const char *root, const char *uuid, enum migrate_role role,
			 struct migrate_journal *ret)
{
	struct error ignored = { 0 };
	char dir[PATH_MAX];
	int r = directory(dir, sizeof(dir), root, false, &ignored);

	if (r < 0)
		return r;
	*ret = (struct migrate_journal){ .role = role, .fd = -1 };
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", uuid);
	set_path(ret, dir);
	return read_file(ret);
}

static bool take_name(const char *name, struct migrate_journal *j)
{
	uint8_t uuid[MIGRATE_UUID_BYTES];
	const char *dot = strchr(name, '.');

	if (!dot || dot - name != MIGRATE_UUID_TEXT - 1)
		return false;
	*j = (struct migrate_journal){ .fd = -1 };
	memcpy(j->uuid, name, MIGRATE_UUID_TEXT - 1);
	if (migrate_uuid_parse(j->uuid, uuid) < 0)
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(role_name); i++) {
		j->role = i;
		if (!strcmp(dot + 1, role_name[i]))
			return true;
	}
	return false;
}

int migrate_journal_for_each(const char *root,
			     int (*fn)(void *arg, const struct migrate_journal *j), void *arg,
			     struct error *err)
{
	struct migrate_journal j;
	char dir[PATH_MAX];
	struct dirent *e;
	int r = directory(dir, sizeof(dir), root, false, err);
	DIR *d;

	if (r < 0)
		return r == -ENOENT && !root ? 0 : r;
	d = opendir(dir);
	while (d && !r && (e = readdir(d))) {
		if (!take_name(e->d_name, &j))
			continue;
		set_path(&j, dir);
		/* One that is gone meanwhile was settled. */
		if (read_file(&j) == 0)
			r = fn(arg, &j);
	}
	if (d)
		closedir(d);
	return r;
}
