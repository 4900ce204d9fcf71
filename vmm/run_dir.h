/*
 * Run directories: where a running microVM is found. RUNDIR/ID/ (0700) holds
 * control.sock (vmm/control/control.h), for those without a terminal console.sock and the log, and
 * late.sock while a guest that moved here may wait for its memory (vmm/migrate/migrate_door.h).
 *
 * RUNDIR is $XDG_RUNTIME_DIR/wisp, else /run/user/UID/wisp, else /tmp/wisp-UID;
 * it must belong to the user and to nobody else. The parent of a microVM makes
 * its directory, with the socket listening before the name appears, and removes
 * it at the end. So a directory whose socket refuses connections is one whose
 * microVM was killed, and whoever comes across it removes it, with RUNDIR locked (flock)
 * from the last look on, so that no live one that took the name goes in its place. ID.rewind beside
 * it is the socket of who keeps moments of it, and removed in the same way by who lists them.
 *
 * No threads, no state beyond the struct.
 */
#ifndef WISP_VMM_RUN_DIR_H
#define WISP_VMM_RUN_DIR_H

#include <limits.h>
#include <sys/types.h>

#include "vmm/core/error.h"

#define RUN_DIR_CONTROL "control.sock"
#define RUN_DIR_CONSOLE "console.sock"
#define RUN_DIR_LOG	"log"
#define RUN_DIR_LATE	"late.sock" /* of one that came with some of its memory still to come */
#define RUN_DIR_CGROUP	"cgroup" /* a link to the microVM's own, for whoever removes a dead one */

/* Beside the directory, with the name in front: who keeps moments of it (vmm/cli/cli_rewind.h). */
#define RUN_DIR_REWIND ".rewind"

#define RUN_DIR_MONITOR "monitor" /* a link to the process, where it is no child of who listens */

/* One microVM's, while it runs. Zero-initialised with listen_fd -1: none. */
struct run_dir {
	int listen_fd;	     /* control.sock */
	int moving_fd;	     /* of one that may get another name meanwhile; 0: it does not */
	char path[PATH_MAX]; /* of the directory */
};

/*
 * The path of RUNDIR into @buf: @given, or the default when that is NULL. With
 * @create it is made where it is missing. -ENOENT without a message when it is
 * missing and @create is not set; kind USAGE when it cannot be trusted.
 */
int run_dir_root(char *buf, size_t size, const char *given, bool create, struct error *err);

/*
 * Make RUNDIR/@id with its listening control socket. -EEXIST, kind USAGE, when a
 * microVM of that name runs. @root as for run_dir_root().
 */
int run_dir_create(struct run_dir *dir, const char *root, const char *id, struct error *err);

/*
 * Somebody else may give the directory another name (run_dir_rename()): run_dir_remove() is to
 * find it. -errno.
 */
int run_dir_may_move(struct run_dir *dir);

/* Give the directory of the microVM @from, which runs, the name @to. -EEXIST when one has it. */
int run_dir_rename(const char *root, const char *from, const char *to, struct error *err);

/*
 * The first number from @from on by which no microVM is called @stem-NUMBER. Somebody else may take
 * the name meanwhile: run_dir_create() decides.
 */
unsigned run_dir_free_number(const char *root, const char *stem, unsigned from);

/* After a fork: this process is now the one that clients see as the listener's. */
void run_dir_inherit(struct run_dir *dir);

/*
 * The cgroup @path is the microVM's, and goes with the directory should it die. Removed by its
 * parent otherwise.
 */
void run_dir_note_cgroup(const struct run_dir *dir, const char *path);

/*
 * The monitor of a clone is no child of the process that keeps its directory: note which process it
 * is, and read that for the microVM @id of @root (both as for run_dir_connect()), 0 without a note.
 */
void run_dir_note_monitor(const struct run_dir *dir, pid_t pid);
pid_t run_dir_monitor(const char *root, const char *id);

/* Remove the directory and all that is in it, and close the socket. Harmless without one. */
void run_dir_remove(struct run_dir *dir);

/*
 * A listening SEQPACKET socket @name in the directory, in place of one that a process which has
 * ended left there. The descriptor, or -errno.
 */
int run_dir_listen(const struct run_dir *dir, const char *name);

/*
 * The path of @name in the directory, for the caller to free; NULL without memory. Of a directory
 * that may move it leads there in this process and its children alone, whatever it is called.
 */
char *run_dir_file(const struct run_dir *dir, const char *name);

/*
 * Connect to the socket @name of the microVM @id, which is its name under @root (as
 * for run_dir_root()) or, with a slash in it, the path of its directory. @type is
 * SOCK_SEQPACKET or SOCK_STREAM. Returns the descriptor; -ENOENT when there is no such
 * microVM (what a dead one left is removed).
 */
int run_dir_connect(const char *root, const char *id, const char *name, int type,
		    struct error *err);

/* Was the microVM of the directory @path killed? What it left is removed then. */
bool run_dir_remove_dead(const char *path);

/*
 * Call fn(arg, id, path) for each microVM's directory under @root in order of names, dead ones
 * included, until it returns non-zero; returns that.
 */
int run_dir_for_each(const char *root, int (*fn)(void *arg, const char *id, const char *path),
		     void *arg, struct error *err);

#endif
