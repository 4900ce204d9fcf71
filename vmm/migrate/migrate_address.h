/*
 * Where the other side of a migration is, as users write it: tcp:HOST:PORT, unix:PATH,
 * exec:COMMAND (its standard input and output), fd:N. For verbs' processes, which have
 * their user's rights; monitors get what is opened here.
 */
#ifndef WISP_VMM_MIGRATE_ADDRESS_H
#define WISP_VMM_MIGRATE_ADDRESS_H

#include "vmm/core/error.h"

extern const char migrate_addresses[]; /* how to write one, for messages and help */

/*
 * Connect to @address, or @listen there for one connection (exec and fd are the same both ways).
 * fd:0 that is no socket stands for standard input and output. With @tls, a directory of
 * certificates (migrate_tls.h), tcp is encrypted, whoever connects has to be trusted, and
 * other kinds are refused; NULL: as it is. @ret_in and @ret_out, which may be the same, become
 * the caller's.
 */
int migrate_address_open(const char *address, bool listen, const char *tls, int *ret_in,
			 int *ret_out, struct error *err);

#endif
