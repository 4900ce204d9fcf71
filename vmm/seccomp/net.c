/*
 * wisp-net, the helper that speaks to the outside for a guest: libslirp's sockets, of the
 * Internet only, and the host's resolv.conf. What it listens on was bound before,
 * but for what its user adds later.
 */
#include "vmm/seccomp/rules.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>

const struct seccomp_rule seccomp_net[] = {
	ALLOW(poll, "wait for the guest and for the network"),
	ALLOW(clock_nanosleep, "waits of the libraries"),
	ALLOW(recvmmsg, "frames of the guest"),
	ALLOW(sendmmsg, "frames to the guest"),
	ALLOW(sendmsg, "the metadata service's frames, and its questions"),
	ALLOW(recvmsg, "datagrams with their addresses"),
	ALLOW(recvfrom, "what comes from the network"),
	ALLOW(sendto, "what goes to the network"),
	ALLOW(readv, "buffers of a connection"),
	ALLOW(writev, "buffers of a connection, messages of the C library"),
	ALLOW_ARG(socket, 0, AF_INET, "a connection of the guest's"),
	ALLOW_ARG(socket, 0, AF_INET6, "a connection of the guest's"),
	REFUSE_ARG(socket, 0, AF_UNIX, EAFNOSUPPORT, "asked for to look up an interface by name"),
	ALLOW(connect, "a connection of the guest's"),
	ALLOW(accept, "a connection to a forwarded port"),
	ALLOW(accept4, "a connection to a forwarded port"),
	ALLOW(listen, "a forwarded port gets a longer queue"),
	ALLOW(bind, "a forward that is added while the guest runs"),
	ALLOW(shutdown, "one side has said all"),
	ALLOW(getsockopt, "did it connect?"),
	ALLOW(setsockopt, "out-of-band data in line, no delay, keep address"),
	ALLOW(getsockname, "the host's own address"),
	ALLOW(getpeername, "who connected to a forwarded port"),
	ALLOW_ARG(fcntl, 1, F_GETFL, "a socket that does not block"),
	ALLOW_ARG(fcntl, 1, F_SETFL, "a socket that does not block"),
	ALLOW_ARG(fcntl, 1, F_GETFD, "sockets are closed on exec"),
	ALLOW_ARG(fcntl, 1, F_SETFD, "sockets are closed on exec"),
	ALLOW_ARG(fcntl, 1, F_DUPFD_CLOEXEC, "is there a descriptor for whoever connects?"),
	IOCTL(FIONBIO, "a socket that does not block"),
	IOCTL(TCGETS, "may a warning of the library's be in colour"),
	IOCTL(FIONREAD, "how much there is to read"),

	/* /etc/resolv.conf, looked at again when it changes; Landlock says what else may be read */
	ALLOW(openat, "the host's name servers"),
	ALLOW(newfstatat, "have the host's name servers changed?"),
	ALLOW(fstat, "have the host's name servers changed?"),
	ALLOW(lseek, "stdio, at the end of a file"),
	ALLOW(getrandom, "ports and sequence numbers"),
	ALLOW(getpid, "messages of the C library, a seed"),
	ALLOW(getppid, "a seed for libslirp, when the guest goes back to an earlier moment"),
	{ 0 },
};
