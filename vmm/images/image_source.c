/* Where the parts of an image are: files in an OCI layout's directory, or members of an archive. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/images/image_internal.h"

#define MAX_ENTRIES 100000
#define MAX_LINKS   8

/* A member of the archive. */
struct image_entry {
	char *name;
	char *link;	/* it is only another name for this one; or NULL */
	bool from_root; /* as hard links say it; others do from where they are */
	uint64_t offset, size;
};

static int add_entry(struct image_source *s, const struct tar_member *m, uint64_t offset)
{
	bool is_link = m->kind == TAR_HARD_LINK || m->kind == TAR_SYMLINK;
	struct image_entry *e;

	if (s->num_entries == s->room_entries) {
		size_t room = s->room_entries ? 2 * s->room_entries : 64;
		void *p = room > MAX_ENTRIES ? NULL : reallocarray(s->entry, room, sizeof(*e));

		if (!p)
			return room > MAX_ENTRIES ? -E2BIG : -ENOMEM;
		s->entry = p;
		s->room_entries = room;
	}
	e = &s->entry[s->num_entries];
	*e = (struct image_entry){
		.name = strdup(m->name),
		.link = is_link ? strdup(m->link) : NULL,
		.from_root = m->kind == TAR_HARD_LINK,
		.offset = offset,
		.size = m->size,
	};
	if (!e->name || (is_link && !e->link)) {
		free(e->name);
		free(e->link);
		return -ENOMEM;
	}
	s->num_entries++;
	return 0;
}

static int read_index(struct image_source *s, struct image_stream *stream, struct error *err)
{
	struct tar_member *m = malloc(sizeof(*m));
	struct tar t;
	int r = 1;

	if (!m)
		return error_set(err, -ENOMEM, "%m");
	tar_init(&t, stream, IMAGE_MAX_HEADERS);
	while (r > 0) {
		r = tar_next(&t, m, err);
		if (r <= 0)
			break;
		/* What is called by no proper name is nothing that we look for. */
		if (tar_clean_name(m->name) < 0)
			continue;
		if (m->kind == TAR_FILE || m->kind == TAR_HARD_LINK || m->kind == TAR_SYMLINK) {
			r = add_entry(s, m, image_stream_position(stream));
			if (r < 0)
				error_set(err, r, "its list of members: %m");
			else
				r = 1;
		}
	}
	free(m);
	return r;
}

/* A packed archive, unpacked into a file without a name. */
static int spool(struct image_stream *stream, int spool_fd, struct error *err)
{
	int fd = openat(spool_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	uint8_t buf[64 * KiB];
	ssize_t n;

	if (fd < 0)
		return error_set(err, -errno, "a temporary file in the cache: %m");
	image_stream_limit(stream, IMAGE_MAX_BYTES);
	while ((n = image_stream_read(stream, buf, sizeof(buf), err)) > 0) {
		int r = io_write(fd, buf, n);

		if (r < 0) {
			n = error_set(err, r, "a temporary file in the cache: %m");
			break;
		}
	}
	if (n < 0) {
		close(fd);
		return (int)n;
	}
	return fd;
}

static int open_archive(struct image_source *s, int spool_fd, struct error *err)
{
	struct image_blob all = { .fd = s->fd };
	struct image_stream *stream = NULL;
	struct stat st;
	int fd, r;

	if (fstat(s->fd, &st) < 0)
		return error_set(err, -errno, "%m");
	all.size = st.st_size;
	r = image_stream_open(&stream, &all, "the archive", err);
	if (!r && image_stream_packed(stream)) {
		fd = spool(stream, spool_fd, err);
		image_stream_close(stream);
		stream = NULL;
		if (fd < 0)
			return fd;
		close(s->fd);
		s->fd = all.fd = fd;
		if (fstat(fd, &st) < 0)
			return error_set(err, -errno, "%m");
		all.size = st.st_size;
		r = image_stream_open(&stream, &all, "the archive", err);
	}
	if (!r && image_stream_packed(stream))
		r = error_set(err, -EBADMSG, "packed twice");
	if (!r)
		r = read_index(s, stream, err);
	image_stream_close(stream);
	return r;
}

int image_source_open(struct image_source *s, const char *path, int fd, int spool_fd,
		      struct error *err)
{
	struct stat st;
	int r;

	*s = (struct image_source){ .path = path, .fd = fd };
	r = fstat(fd, &st) < 0 ? error_set(err, -errno, "%m") : 0;
	s->is_archive = !r && !S_ISDIR(st.st_mode);
	if (s->is_archive)
		r = open_archive(s, spool_fd, err);
	if (r < 0) {
		error_prefix(err, "image '%s'", path);
		image_source_close(s);
	}
	return r;
}

void image_source_close(struct image_source *s)
{
	for (size_t i = 0; i < s->num_entries; i++) {
		free(s->entry[i].name);
		free(s->entry[i].link);
	}
	free(s->entry);
	if (s->fd >= 0)
		close(s->fd);
	*s = (struct image_source){ .fd = -1 };
}

/* ---- finding ---- */

static const struct image_entry *find_entry(const struct image_source *s, const char *name)
{
	/* The last of a name is the one that counts, as when an archive is unpacked. */
	for (size_t i = s->num_entries; i-- > 0;)
		if (!strcmp(s->entry[i].name, name))
			return &s->entry[i];
	return NULL;
}

/* What the link @e, which is called @name, leads to; in place of @name. */
static int follow(char *name, const struct image_entry *e)
{
	char whole[2 * PATH_MAX], *to = name;
	char *slash = strrchr(name, '/');
	bool is_relative = *e->link != '/' && !e->from_root;

	if (slash)
		*slash = '\0';
	snprintf(whole, sizeof(whole), "%s/%s", slash && is_relative ? name : "", e->link);
	for (char *save, *part = strtok_r(whole, "/", &save); part;
	     part = strtok_r(NULL, "/", &save)) {
		size_t n = strlen(part);

		*to = '\0';
		if (!strcmp(part, ".."))
			to = to == name ? name : strrchr(name, '/') ? strrchr(name, '/') : name;
		if (!strcmp(part, "..") || !strcmp(part, "."))
			continue;
		if (to + n + 2 > name + PATH_MAX)
			return -ENAMETOOLONG;
		if (to != name)
			*to++ = '/';
		memcpy(to, part, n);
		to += n;
	}
	*to = '\0';
	return 0;
}

static int find_member(const struct image_source *s, char *name, struct image_blob *ret)
{
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		const struct image_entry *e = find_entry(s, name);
		int r;

		if (!e)
			return -ENOENT;
		if (!e->link) {
			*ret = (struct image_blob){ s->fd, e->offset, e->size };
			return 0;
		}
		r = follow(name, e);
		if (r < 0)
			return r;
	}
	return -ELOOP;
}

int image_source_find(struct image_source *s, const char *name, struct image_blob *ret)
{
	struct open_how how = {
		.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	char clean[PATH_MAX];
	struct stat st;
	int fd;

	if (snprintf(clean, sizeof(clean), "%s", name) >= (int)sizeof(clean))
		return -ENAMETOOLONG;
	if (tar_clean_name(clean) < 0)
		return -EINVAL;
	if (s->is_archive)
		return find_member(s, clean, ret);
	fd = syscall(SYS_openat2, s->fd, clean, &how, sizeof(how));
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return -EINVAL;
	}
	*ret = (struct image_blob){ fd, 0, st.st_size };
	return 0;
}

void image_source_put(struct image_source *s, struct image_blob *blob)
{
	if (blob->fd != s->fd)
		close(blob->fd);
	blob->fd = -1;
}
