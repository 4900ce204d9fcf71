/*
 * TLS for a migration over TCP. The monitor has no library for it: the helper wisp-tls is put
 * between the connection and the end that the monitor gets. In the verb's process.
 */
#ifndef WISP_VMM_MIGRATE_TLS_H
#define WISP_VMM_MIGRATE_TLS_H

#include "vmm/core/error.h"

/*
 * Start it on the connection @tcp, which becomes its own whatever comes of it, with the
 * certificates in the directory @dir. @host: whom the other side has to be, when we called; NULL:
 * we were called. Returns our end, once it is known who is at the other; -EPROTO when it is nobody
 * that we trust, -EINVAL when our own certificates are no good.
 */
int migrate_tls_start(int tcp, const char *dir, const char *host, struct error *err);

#endif
