/*
 * wisp-tls, the helper that encrypts a migration or a disk: its two sockets, both open, and
 * nothing else.
 */
#include "vmm/seccomp/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>

const struct seccomp_rule seccomp_tls[] = {
	ALLOW(poll, "wait for either side"),
	ALLOW(clock_nanosleep, "waits of the libraries"),
	ALLOW(recvfrom, "what the other side sends"),
	ALLOW(sendto, "what goes to the other side"),
	ALLOW(sendmsg, "what goes to the other side, in parts"),
	ALLOW(shutdown, "we have said all"),
	ALLOW_ARG(fcntl, 1, F_GETFL, "sockets that do not block"),
	ALLOW_ARG(fcntl, 1, F_SETFL, "sockets that do not block"),
	ALLOW(getrandom, "keys"),
	ALLOW(gettimeofday, "certificates have their time, where the vDSO cannot tell it"),
	ALLOW(getpid, "has it forked? asks the library"),
	ALLOW(getrusage, "randomness of the library's"),
	ALLOW(uname, "randomness of the library's"),
	{ 0 },
};
