/*
 * Namespaces, and the empty root in one of them.
 *
 * An ordinary user may make the others within a user namespace; so does root when it is not told
 * whom to become, since capabilities that count outside are then gone at once. No id is mapped:
 * inside, everything belongs to nobody. There is no PID namespace: clones of a microVM would end
 * with it. That no other process can be signalled is the system call filter's part.
 */
#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox/sandbox_internal.h"

#define NAMESPACES (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

/* A directory that every host with KVM has, to mount the new root over. */
#define MOUNT_POINT "/dev"

int sandbox_enter_namespaces(struct sandbox *s, struct error *err)
{
	bool user = !s->params.uid && !s->params.gid;

	if (unshare(NAMESPACES | (user ? CLONE_NEWUSER : 0)) < 0)
		return sandbox_missing(s, -errno, user ? "user namespaces" : "namespaces", err);
	s->namespaces = true;
	return 0;
}

/*
 * A tmpfs, read-only from its first moment and of one inode, becomes the root, and all else goes
 * out of sight. See pivot_root(2), pivot_root(".", ".").
 */
int sandbox_empty_root(struct sandbox *s, struct error *err)
{
	if (!s->namespaces)
		return 0;
	/* In a user namespace, mounts do not propagate back anyway. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount("none", MOUNT_POINT, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "mode=555,nr_inodes=1,size=4k") < 0 ||
	    chdir(MOUNT_POINT) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
	    umount2(".", MNT_DETACH) < 0)
		return sandbox_missing(s, -errno, "empty root", err);
	return 0;
}
