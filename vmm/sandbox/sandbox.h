/*
 * Locking the monitor in: from before the guest's first instruction on it can do little more than
 * serve this one guest, whatever the guest makes of it.
 *
 * Layers, each of use without the others (docs/security.md has what each one stops):
 *   namespaces   user, mount, network, IPC, UTS: sandbox_enter(), while there is one thread
 *   empty root   a read-only directory with nothing in it, by pivot_root
 *   Landlock     no file, and where it knows them no TCP, abstract sockets, signals
 *   no capabilities, no_new_privs, no core dumps, not to be traced, bounded processes
 *   seccomp      a list of system calls for each kind of thread (vmm/seccomp/)
 *
 * sandbox_enter() comes first of all in the monitor; files may be opened after it. sandbox_lock()
 * comes when everything is open and no thread was made yet: later ones inherit what it did.
 * sandbox_filter() is each thread's own, the main thread's last. A layer that the host lacks is
 * logged, or with SANDBOX_STRICT an error. The struct belongs to the monitor's main thread, but
 * for sandbox_filter().
 */
#ifndef WISP_VMM_SANDBOX_H
#define WISP_VMM_SANDBOX_H

#include <sys/types.h>

#include "vmm/core/error.h"

enum sandbox_mode {
	SANDBOX_OFF,
	SANDBOX_ON,	/* what the host has of it */
	SANDBOX_STRICT, /* all of it, or no microVM */
};

/* As `wisp run --sandbox` calls it. Any thread. */
const char *sandbox_mode_name(enum sandbox_mode mode);

struct sandbox_params {
	enum sandbox_mode mode;
	/* For root: whom the monitor becomes. 0: nobody, in a user namespace. */
	unsigned uid, gid;
};

/* Kinds of threads, each with a filter of system calls. */
enum sandbox_thread {
	SANDBOX_THREAD_MAIN,
	SANDBOX_THREAD_MAKER, /* makes others, see maker.h; main ones that are being built */
	SANDBOX_THREAD_VCPU,
	SANDBOX_THREAD_QUEUE, /* serves queues of one device */
	SANDBOX_THREAD_FAULT, /* brings guest pages when they are touched */
	SANDBOX_THREAD_MIGRATE, /* sends or receives a guest that moves */
	SANDBOX_THREAD_WORKER, /* of an epoll loop */
	SANDBOX_THREAD_FS,     /* the server of a shared directory */
	SANDBOX_THREAD_NET,    /* the helper wisp-net */
	SANDBOX_THREAD_TLS,    /* the helper wisp-tls */
	SANDBOX_NUM_THREADS
};

struct sandbox {
	struct sandbox_params params;
	bool namespaces; /* a mount namespace of our own: there can be an empty root */
	bool filters;	 /* threads are to load theirs: locked, and the kernel has seccomp */
	pid_t parent;	 /* whose death the maker is to see (orphan.h); 0: somebody else does */
	bool filtered;	 /* who begins now is under the maker's; so is a live fork's child */
};

/* Into namespaces of our own; paths still lead to the same files. One thread only. */
int sandbox_enter(struct sandbox *s, const struct sandbox_params *params, struct error *err);

/* Away from all files that are not open, and from every privilege. */
int sandbox_lock(struct sandbox *s, struct error *err);

/*
 * Filter the system calls of the calling thread, which is one of @kind, and of those that it makes
 * from now on; for good. Nothing to do without sandbox_lock(), or when a maker inherited its
 * filter. Any thread. 0 or -errno.
 */
int sandbox_filter(struct sandbox *s, enum sandbox_thread kind);

/*
 * For a helper of one thread, when all it needs is open but for files beneath the directories
 * @readable (up to a NULL), which it may read: what sandbox_lock() does and what @kind's filter
 * allows, as far as the host can, but for namespaces: the network stays.
 */
void sandbox_lock_helper(enum sandbox_thread kind, const char *const *readable);

/* Its last part alone, for a helper that sees to the others itself. 0 or -errno. */
int sandbox_filter_helper(enum sandbox_thread kind);

/*
 * For a process that handles files for others, in no namespace since owners are to show true: from
 * now on no file but those beneath the directory @rw, and to read those beneath @ro (-1: none); of
 * root's privileges those about owners and permissions of files, and never more of them. 0, or
 * -errno when the host's Landlock cannot hold it there; the rest is done then, too.
 */
int sandbox_beneath(int rw, int ro);

/* The version of the host's Landlock interface, or -errno. */
int sandbox_landlock_version(void);

#endif
