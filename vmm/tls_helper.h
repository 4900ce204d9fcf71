/*
 * TLS for connections of ours: a migration's over TCP, a disk's to its NBD server. No process
 * that has a guest has a library for it: the helper wisp-tls is put between the connection and the
 * end that the monitor gets. In the verb's or the parent's process.
 */
#ifndef WISP_VMM_TLS_HELPER_H
#define WISP_VMM_TLS_HELPER_H

#include "vmm/core/error.h"

struct tls_peer {
	const char *role; /* "client", "server" or "nbd": wisp-tls has what they mean */
	const char *host; /* whom the other side has to be; NULL: a server's side */
	const char *dir;  /* of certificates */
	const char *what; /* is encrypted, for errors */
};

/*
 * Start it on the connected socket @fd, which becomes its own whatever comes of it. Returns our
 * end, once it is known who is at the other; -EPROTO when it is nobody that we trust, -EINVAL when
 * our own certificates are no good. The helper ends with the connection, and outlives who started
 * it.
 */
int tls_helper_start(int fd, const struct tls_peer *peer, struct error *err);

/*
 * Are the certificates in @dir, of either side of a migration, such as could be used? Before
 * somebody waits for a connection, or makes one. -EINVAL, kind USAGE: @what, and why not.
 */
int tls_helper_check(const char *dir, const char *what, struct error *err);

#endif
