/*
 * Where the other side of a migration is, as users write it: tcp:HOST:PORT, unix:PATH,
 * exec:COMMAND (its standard input and output), fd:N. For verbs' processes, which have
 * their user's rights; monitors get what is opened here.
 */
#ifndef WISP_VMM_MIGRATE_ADDRESS_H
#define WISP_VMM_MIGRATE_ADDRESS_H

#include "vmm/core/error.h"

extern const char migrate_addresses[]; /* how to write one, for messages and help */

/* Where others may connect. */
struct migrate_listener {
	int fd;		 /* -1: nowhere, there is one connection alone */
	const char *tls; /* certificates; borrowed; NULL: anybody will do */
	char path[108];	 /* of a UNIX socket, to be removed; "": none */
};

/*
 * Connect to @address. fd:0 that is no socket stands for standard input and output. With @tls,
 * a directory of certificates (vmm/tls_helper.h), tcp is encrypted, whoever is there has to be
 * trusted, and other kinds are refused; NULL: as it is. @ret_in and @ret_out, which may be the
 * same, become the caller's.
 */
int migrate_address_open(const char *address, const char *tls, int *ret_in, int *ret_out,
			 struct error *err);

/*
 * The same, waiting there for who connects (exec and fd are the same both ways). Others can connect
 * until migrate_listener_close() of @l, which is harmless after a failure.
 */
int migrate_address_await(const char *address, const char *tls, struct migrate_listener *l,
			  int *ret_in, int *ret_out, struct error *err);

/* Whether more than one connection can be had of @address. */
bool migrate_address_is_socket(const char *address);

/* The next one who connects; -EPROTO: somebody who is not trusted, and was turned away. */
int migrate_listener_accept(const struct migrate_listener *l, struct error *err);
void migrate_listener_close(struct migrate_listener *l);

#endif
