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
	snprintf(err->path, sizeof(err->path), "%.*s", (int)sizeof(err->path) - 1, path);
	return r;
}

/* ---- sending ---- */

struct sending {
	int fd;
	struct agent_tree_error *err;
	char at[PATH_MAX]; /* what is sent just now, as people are told of it */
};

static int failed_at(struct sending *s, const char *what)
{
	return failed(s->err, what, s->at);
}

/* What failed is not in the tree. The rest is worth having. */
static int leave_out(struct sending *s, int error)
{
	struct agent_tree_error *err = s->err;
	int r = agent_send_failure(s->fd, AGENT_LEFT_OUT, error, err->what, err->path);

	err->num_left_out++;
	errno = error;
	if (err->left_out)
		err->left_out(err, NULL);
	err->what = NULL;
	return r;
}

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

static int send_content(struct sending *s, int file)
{
	char buf[AGENT_MAX_FRAME];
	ssize_t n;
	int r;

	do {
		n = read(file, buf, sizeof(buf));
		if (n < 0)
			return failed_at(s, "read");
		r = agent_send(s->fd, AGENT_CONTENT, buf, n);
	} while (n && !r);
	return r;
}

static int send_link(struct sending *s, int dir, const char *path, const char *name)
{
	char data[NAME_MAX + 1 + PATH_MAX];
	size_t len = strnlen(name, NAME_MAX) + 1;
	ssize_t n;

	snprintf(data, len, "%s", name);
	n = readlinkat(dir, path, data + len, PATH_MAX);
	if (n < 0)
		return failed_at(s, "readlink");
	return agent_send(s->fd, AGENT_LINK, data, len + n);
}

static int send_at(struct sending *s, int dir, const char *path, const char *name, unsigned depth);

/* @name in the directory @dir, which is at @s->at and so long. */
static int send_member(struct sending *s, int dir, const char *name, size_t len, unsigned depth)
{
	int r;

	snprintf(s->at + len, sizeof(s->at) - len, "%s%s", len && s->at[len - 1] == '/' ? "" : "/",
		 name);
	r = send_at(s, dir, name, name, depth);
	s->at[len] = '\0';
	return r < 0 && s->err->what ? leave_out(s, -r) : r;
}

/* @dir becomes this function's. */
static int send_directory(struct sending *s, int dir, unsigned depth)
{
	size_t len = strlen(s->at);
	struct dirent *e = NULL;
	DIR *d = fdopendir(dir);
	int r = 0;

	while (d && !r && (errno = 0, e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = send_member(s, dirfd(d), e->d_name, len, depth + 1);
	if (!r && errno)
		r = leave_out(s, -failed_at(s, "read"));
	if (!d)
		close(dir);
	else
		closedir(d);
	return r ? r : agent_send(s->fd, AGENT_LEAVE, NULL, 0);
}

/* Send @path, relative to @dir, under the name @name. */
static int send_at(struct sending *s, int dir, const char *path, const char *name, unsigned depth)
{
	struct stat st;
	int r, file;

	if (fstatat(dir, path, &st, depth ? AT_SYMLINK_NOFOLLOW : 0) < 0)
		return failed_at(s, "open");
	if (S_ISLNK(st.st_mode))
		return send_link(s, dir, path, name);
	/* Devices, pipes and sockets are of no use elsewhere, and opening them might wait. */
	errno = EOPNOTSUPP;
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return failed_at(s, "copy what is no file");
	errno = ELOOP;
	if (depth >= MAX_DEPTH)
		return failed_at(s, "copy");
	file = openat(dir, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | (depth ? O_NOFOLLOW : 0));
	if (file < 0)
		return failed_at(s, "open");
	if (S_ISDIR(st.st_mode)) {
		r = send_entry(s->fd, AGENT_ENTER, st.st_mode, name);
		if (!r)
			return send_directory(s, file, depth);
	} else {
		r = send_entry(s->fd, AGENT_FILE, st.st_mode, name);
		if (!r)
			r = send_content(s, file);
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
	struct sending s = { .fd = fd, .err = err };
	char name[NAME_MAX + 1];

	err->what = NULL;
	agent_tree_name(path, name);
	snprintf(s.at, sizeof(s.at), "%s", path);
	return send_at(&s, AT_FDCWD, path, name, 0);
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

/* Its sender has a word on what is not in the tree. */
static void note_left_out(struct agent_tree_error *err, const struct agent_frame *f)
{
	err->num_left_out++;
	if (err->left_out)
		err->left_out(err, f);
}

/* What is there stays what it is, be it a device; *@ret_is_new: it was not there. */
static int open_file(int dir, const char *name, bool *ret_is_new)
{
	const int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
	int fd = openat(dir, name, flags | O_EXCL, 0600);

	*ret_is_new = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = openat(dir, name, flags | O_TRUNC, 0600);
	return fd;
}

static int receive_file(int fd, int dir, const char *name, mode_t mode, struct agent_frame *f,
			struct agent_tree_error *err)
{
	bool is_new, whole;
	int r, file;

	file = open_file(dir, name, &is_new);
	if (file < 0)
		return failed(err, "create", name);
	r = receive_content(fd, file, name, f, err);
	whole = r == 1 && f->type == AGENT_CONTENT;
	if (whole) {
		r = fchmod(file, mode) < 0 ? failed(err, "chmod", name) : 0;
	} else if (r == 1 && f->type == AGENT_LEFT_OUT) {
		note_left_out(err, f);
		r = 0;
	} else if (r >= 0) {
		r = r && f->type == AGENT_FAILED ? -ECANCELED : -EBADMSG;
	}
	if (close(file) < 0 && !r)
		r = failed(err, "write", name);
	if (is_new && (r < 0 || !whole))
		unlinkat(dir, name, 0);
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

/*
 * What went wrong, went wrong in the directory @at: put that in front of what is named so far. Of
 * what does not fit the end stays, which tells more.
 */
static void set_in(struct agent_tree_error *err, const char *at)
{
	size_t len = strlen(at), had = strlen(err->path) + 1;
	size_t slash = !len || at[len - 1] != '/', room = sizeof(err->path);
	bool is_cut = len + slash + had > room;

	if (!err->what || had + slash + sizeof("...") > room)
		return;
	if (is_cut) {
		at += len - (room - slash - had);
		len = room - slash - had;
	}
	memmove(err->path + len + slash, err->path, had);
	memcpy(err->path, at, len);
	if (slash)
		err->path[len] = '/';
	if (is_cut)
		memcpy(err->path, "...", 3);
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
	if (f->type == AGENT_LEFT_OUT && depth) {
		note_left_out(err, f);
		return 0;
	}
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
		if (r < 0) {
			set_in(err, name);
			break;
		}
	}
	if (r == 0)
		r = -EBADMSG;
	/* Last: it may not allow us to write into it. Also of what did not come whole. */
	if (fchmod(sub, mode) < 0 && r == 1)
		r = failed(err, "chmod", name);
	close(sub);
	return r < 0 ? r : 0;
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
	/* A name alone is one in the working directory. */
	if (r < 0 && as != copy)
		set_in(err, as ? copy : path);
	if (r < 0)
		return r;
	r = agent_receive(fd, frame);
	if (r == 1 && frame->type == AGENT_DONE)
		return 0;
	return r == 1 && frame->type == AGENT_FAILED ? -ECANCELED : r < 0 ? r : -EBADMSG;
}
