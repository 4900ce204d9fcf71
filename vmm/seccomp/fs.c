/*
 * The server of a shared directory, a process of its own: everything that files can be asked,
 * beneath one directory (Landlock, and openat2 with RESOLVE_BENEATH). It hands open files to the
 * monitor, which reads and writes them itself.
 */
#include "vmm/seccomp/rules.h"

#include <fcntl.h>
#include <stddef.h>

const struct seccomp_rule seccomp_fs[] = {
	ALLOW(recvmsg, "a request"),
	ALLOW(sendmsg, "its answer, with the file that was opened"),
	ALLOW(poll, "is there a request?"),

	ALLOW(openat2, "a name, never outside of the directory"),
	ALLOW(openat, "a file that is known, opened again to be used"),
	ALLOW(open, "a file that is known, opened again to be used"),
	ALLOW(statx, "attributes"),
	ALLOW(newfstatat, "attributes"),
	ALLOW(fstat, "attributes"),
	ALLOW(fstatfs, "how full the file system is"),
	ALLOW(getdents64, "what a directory holds"),
	ALLOW(readlinkat, "where a symbolic link points to"),
	ALLOW(mkdirat, "the guest makes a directory"),
	ALLOW(mknodat, "the guest makes a file"),
	ALLOW(symlinkat, "the guest makes a symbolic link"),
	ALLOW(linkat, "the guest gives a file one more name"),
	ALLOW(unlinkat, "the guest removes a file"),
	ALLOW(renameat, "the guest moves a file"),
	ALLOW(renameat2, "the guest moves a file"),
	ALLOW(chmod, "the guest changes a mode"),
	ALLOW(fchmod, "the guest changes a mode"),
	ALLOW(fchmodat, "the guest changes a mode"),
	ALLOW(fchown, "the guest changes an owner"),
	ALLOW(fchownat, "the guest changes an owner"),
	ALLOW(utimensat, "the guest changes a time"),
	ALLOW(ftruncate, "the guest changes a size"),
	ALLOW(truncate, "the guest changes a size"),
	ALLOW(fallocate, "the guest reserves space"),
	ALLOW(copy_file_range, "the guest copies within the directory"),
	ALLOW(lseek, "the guest looks for holes; a directory is read again"),
	ALLOW(umask, "the guest makes a file where there are default ACLs"),
	ALLOW(getxattr, "extended attributes"),
	ALLOW(fgetxattr, "extended attributes"),
	ALLOW(setxattr, "extended attributes"),
	ALLOW(fsetxattr, "extended attributes"),
	ALLOW(listxattr, "extended attributes"),
	ALLOW(flistxattr, "extended attributes"),
	ALLOW(removexattr, "extended attributes"),
	ALLOW(fremovexattr, "extended attributes"),
	ALLOW(fsync, "the guest wants it on the disk"),
	ALLOW(fdatasync, "the guest wants it on the disk"),
	ALLOW(syncfs, "the guest wants all of it on the disk"),
	ALLOW_ARG(fcntl, 1, F_GETFL, "how it was opened"),
	ALLOW_ARG(fcntl, 1, F_SETFL, "it blocks after all"),
	ALLOW_ARG(fcntl, 1, F_DUPFD_CLOEXEC, "a descriptor for a second user of it"),

	ALLOW(setfsuid, "as the guest's user, when root shares a directory"),
	ALLOW(setfsgid, "as the guest's group"),
	ALLOW(capget, "without root's privileges meanwhile"),
	ALLOW(capset, "without root's privileges meanwhile; they only get fewer"),
	ALLOW(geteuid, "is it root that shares?"),
	ALLOW(getegid, "is it root that shares?"),
	ALLOW_ARG(prlimit64, 0, 0, "how many files may be open; not for other processes"),
	ALLOW(getrandom, "malloc"),
	{ 0 },
};
