#include "vmm/control/agent_tree.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_DEPTH 64

static int failed(struct agent_tree_error *err, const char *what, const char *path)
{
	int r = -errno;

	err->what = what;
	snprintf(err->path, sizeof(err->path), "%s", path);
	return r;
}

/* ---- sending ---- */

/* A frame of a mode and a name. */
static int send_entry(int fd, enum agent_type type, mode_t mode, const char *name)
{
	char data[4 + NAME_MAX + 1];
	uint32_t bits = htole32(mode & 07777);
	size_t len = strnlen(name, NAME_MAX);

	memcpy(data, &bits, sizeof(bits));
	memcpy(data + 4, name, len);
	return agent_send(fd, type, data, 4 + len);
}

static int send_content(int fd, int file, const char *name, struct agent_tree_error *err)
{
	char buf[AGENT_MAX_FRAME];
	ssize_t n;
	int r;

	do {
		n = read(file, buf, sizeof(buf));
		if (n < 0)
			return failed(err, "read", name);
		r = agent_send(fd, AGENT_CONTENT, buf, n);
	} while (n && !r);
	return r;
}

static int send_link(int fd, int dir, const char *path, const char *name,
		     struct agent_tree_error *err)
{
	char data[NAME_MAX + 1 + PATH_MAX];
	size_t len = strnlen(name, NAME_MAX) + 1;
	ssize_t n;

	snprintf(data, len, "%s", name);
	n = readlinkat(dir, path, data + len, PATH_MAX);
	if (n < 0)
		return failed(err, "readlink", path);
	return agent_send(fd, AGENT_LINK, data, len + n);
}

static int send_at(int fd, int dir, const char *path, const char *name, unsigned depth,
		   struct agent_tree_error *err);

/* @dir becomes this function's. */
static int send_directory(int fd, int dir, const char *path, unsigned depth,
			  struct agent_tree_error *err)
{
	struct dirent *e;
	DIR *d = fdopendir(dir);
	int r = 0;

	if (!d) {
		r = failed(err, "open", path);
		close(dir);
		return r;
	}
	while (!r && (errno = 0, e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = send_at(fd, dirfd(d), e->d_name, e->d_name, depth + 1, err);
	if (!r && errno)
		r = failed(err, "read", path);
	closedir(d);
	return r ? r : agent_send(fd, AGENT_LEAVE, NULL, 0);
}

/* Send @path, relative to @dir, under the name @name. */
static int send_at(int fd, int dir, const char *path, const char *name, unsigned depth,
		   struct agent_tree_error *err)
{
	struct stat st;
	int r, file;

	if (fstatat(dir, path, &st, depth ? AT_SYMLINK_NOFOLLOW : 0) < 0)
		return failed(err, "open", path);
	if (S_ISLNK(st.st_mode))
		return send_link(fd, dir, path, name, err);
	/* Devices, pipes and sockets are of no use elsewhere, and opening them might wait. */
	errno = depth >= MAX_DEPTH ? ELOOP : EINVAL;
	if ((!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) || depth >= MAX_DEPTH)
		return failed(err, "copy", path);
	file = openat(dir, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | (depth ? O_NOFOLLOW : 0));
	if (file < 0)
		return failed(err, "open", path);
	if (S_ISDIR(st.st_mode)) {
		r = send_entry(fd, AGENT_ENTER, st.st_mode, name);
		if (!r)
			return send_directory(fd, file, path, depth, err);
	} else {
		r = send_entry(fd, AGENT_FILE, st.st_mode, name);
		if (!r)
			r = send_content(fd, file, path, err);
	}
	close(file);
	return r;
}

void agent_tree_name(const char *path, char name[NAME_MAX + 1])
{
	size_t end = strlen(path), start;

	while (end && path[end - 1] == '/')
		end--;
	start = end;
	while (start && path[start - 1] != '/')
		start--;
	if (end - start > NAME_MAX)
		end = start + NAME_MAX;
	snprintf(name, NAME_MAX + 1, "%.*s", (int)(end - start), path + start);
	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		snprintf(name, NAME_MAX + 1, "root");
}

int agent_tree_send(int fd, const char *path, struct agent_tree_error *err)
{
	char name[NAME_MAX + 1];

	err->what = NULL;
	agent_tree_name(path, name);
	return send_at(fd, AT_FDCWD, path, name, 0, err);
}

/* ---- receiving ---- */

/* One component of a path, which leads nowhere else. */
static int is_name(const char *name, size_t len)
{
	return len && len <= NAME_MAX && !memchr(name, '/', len) && !memchr(name, '\0', len) &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int write_all(int file, const char *p, size_t left)
{
	while (left) {
		ssize_t n = write(file, p, left);

		if (n < 0)
			return -errno;
		p += n;
		left -= n;
	}
	return 0;
}

static bool is_zero(const char *p, size_t len)
{
	return len && !*p && !memcmp(p, p + 1, len - 1);
}

/* As agent_receive(), of the frame behind the content. */
static int receive_content(int fd, int file, const char *name, struct agent_frame *f,
			   struct agent_tree_error *err)
{
	bool hollow = false;
	struct stat st;
	int r;

	if (fstat(file, &st) < 0)
		return failed(err, "create", name);
	while ((r = agent_receive(fd, f)) == 1 && f->type == AGENT_CONTENT && f->len) {
		/*
		 * Holes stay holes: images of disks are mostly that. A device has none, nor has
		 * what the kernel only calls a file, which takes less than whole frames.
		 */
		hollow = S_ISREG(st.st_mode) && f->len == AGENT_MAX_FRAME &&
			 is_zero(f->data, f->len);
		if (hollow ? lseek(file, f->len, SEEK_CUR) < 0 :
			     write_all(file, f->data, f->len) < 0)
			return failed(err, "write", name);
	}
	/* One at the end has not made the file longer yet. */
	if (r == 1 && hollow && ftruncate(file, lseek(file, 0, SEEK_CUR)) < 0)
		return failed(err, "write", name);
	return r;
}

static int receive_file(int fd, int dir, const char *name, mode_t mode, struct agent_frame *f,
			struct agent_tree_error *err)
{
	int r, file;

	file = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
		      0600);
	if (file < 0)
		return failed(err, "create", name);
	r = receive_content(fd, file, name, f, err);
	if (r == 1 && f->type == AGENT_CONTENT)
		r = fchmod(file, mode) < 0 ? failed(err, "chmod", name) : 0;
	else if (r >= 0)
		r = r && f->type == AGENT_FAILED ? -ECANCELED : -EBADMSG;
	if (close(file) < 0 && !r)
		r = failed(err, "write", name);
	return r;
}

/* The directory @name of @dir, made when it is not there. A descriptor or -errno. */
static int enter(int dir, const char *name, struct agent_tree_error *err)
{
	int fd;

	if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
		return failed(err, "create", name);
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? failed(err, "open", name) : fd;
}

static int receive_link(int dir, const struct agent_frame *f, struct agent_tree_error *err)
{
	const char *name = f->data;
	size_t len = strlen(name);

	if (len >= f->len || !is_name(name, len))
		return -EBADMSG;
	if (symlinkat(name + len + 1, dir, name) < 0 &&
	    (errno != EEXIST || unlinkat(dir, name, 0) < 0 ||
	     symlinkat(name + len + 1, dir, name) < 0))
		return failed(err, "link", name);
	return 0;
}

/* The tree that begins with @f, into @dir, as @as (NULL: under its own name). */
static int receive_at(int fd, int dir, const char *as, mode_t mask, unsigned depth,
		      struct agent_frame *f, struct agent_tree_error *err)
{
	char name[NAME_MAX + 1];
	uint32_t bits;
	mode_t mode;
	int r, sub;

	if (f->type == AGENT_FAILED)
		return -ECANCELED;
	/* What was asked for is never one: a sender follows it. */
	if (f->type == AGENT_LINK)
		return depth ? receive_link(dir, f, err) : -EBADMSG;
	if ((f->type != AGENT_FILE && f->type != AGENT_ENTER) || f->len < 4 ||
	    !is_name(f->data + 4, f->len - 4) || depth >= MAX_DEPTH)
		return -EBADMSG;
	memcpy(&bits, f->data, sizeof(bits));
	mode = le32toh(bits) & mask;
	snprintf(name, sizeof(name), "%s", as ? as : f->data + 4);
	if (f->type == AGENT_FILE)
		return receive_file(fd, dir, name, mode, f, err);
	sub = enter(dir, name, err);
	if (sub < 0)
		return sub;
	while ((r = agent_receive(fd, f)) == 1 && f->type != AGENT_LEAVE) {
		r = receive_at(fd, sub, NULL, mask, depth + 1, f, err);
		if (r < 0)
			break;
	}
	if (r == 0)
		r = -EBADMSG;
	/* Last: it may not allow us to write into it. */
	if (r == 1)
		r = fchmod(sub, mode) < 0 ? failed(err, "chmod", name) : 0;
	close(sub);
	return r;
}

/* Split @path into a directory, opened, and the name in it; NULL: it is a directory itself. */
static int open_target(const char *path, char *copy, const char **ret_name,
		       struct agent_tree_error *err)
{
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *slash;

	*ret_name = NULL;
	if (dir >= 0)
		return dir;
	snprintf(copy, PATH_MAX, "%s", path);
	slash = strrchr(copy, '/');
	*ret_name = slash ? slash + 1 : copy;
	if (!is_name(*ret_name, strlen(*ret_name))) {
		errno = ENOENT;
		return failed(err, "open", path);
	}
	if (slash)
		*slash = '\0';
	dir = open(!slash ? "." : *copy ? copy : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 ? failed(err, "open", *copy && slash ? copy : "/") : dir;
}

int agent_tree_receive(int fd, const char *path, const char *name, mode_t mode_mask,
		       struct agent_frame *frame, struct agent_tree_error *err)
{
	char copy[PATH_MAX];
	const char *as;
	int dir, r;

	err->what = NULL;
	/* Before anything is created: is there anything to come? */
	r = agent_receive(fd, frame);
	if (r <= 0)
		return r ? r : -EBADMSG;
	if (frame->type == AGENT_FAILED)
		return -ECANCELED;
	dir = open_target(path, copy, &as, err);
	if (dir < 0)
		return dir;
	r = receive_at(fd, dir, as ? as : name, mode_mask, 0, frame, err);
	close(dir);
	if (r < 0)
		return r;
	r = agent_receive(fd, frame);
	if (r == 1 && frame->type == AGENT_DONE)
		return 0;
	return r == 1 && frame->type == AGENT_FAILED ? -ECANCELED : r < 0 ? r : -EBADMSG;
}
