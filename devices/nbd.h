/*
 * Disks of other machines, by the NBD protocol: finding the server, agreeing with it
 * on an export, and the block that speaks to it from then on (block_nbd.c).
 *
 * The client is our own and not libnbd: it is a few hundred lines, goes from the socket
 * straight into guest pages, and the monitor that holds it cannot open anything. TLS is
 * begun here and spoken by a helper, which the socket then leads to (vmm/nbd_dial.h).
 *
 * Waits for the server, at most NBD_TIMEOUT_S; meant for the time before the guest runs.
 */
#ifndef WISP_DEVICES_NBD_H
#define WISP_DEVICES_NBD_H

#include "devices/block.h"

#define NBD_TIMEOUT_S 10
#define NBD_MAX_NAME  4096u /* bytes of an export's name, by the protocol */

/* Is @path the URI of an export rather than the name of a file? */
bool nbd_is_uri(const char *path);

/* Is it one that we can follow? 0, or kind USAGE with the reason. */
int nbd_check_uri(const char *uri, struct error *err);

/* Is it one of nbds:// or nbds+unix://? */
bool nbd_wants_tls(const char *uri);

/*
 * Of such a URI that is right, for the caller to free; NULL without memory: the directory of
 * certificates, by the query's tls-certificates=DIR, and whom the server's has to be for, by its
 * tls-hostname=NAME, else the URI's host, else localhost.
 */
char *nbd_certificates(const char *uri);
char *nbd_tls_host(const char *uri);

/*
 * Connect to the server of @uri: nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH,
 * or the same with nbds, which then wants nbd_start_tls(). @address is what HOST stands for,
 * when that is a name; else NULL. Returns the socket.
 */
int nbd_connect(const char *uri, const char *address, struct error *err);

/* The name of a host in @uri that has to be looked up, for the caller to free; or NULL. */
char *nbd_host_name(const char *uri);

/* Bits of nbd_export.flags. */
#define NBD_READ_ONLY	 (1u << 1)
#define NBD_FLUSH	 (1u << 2)
#define NBD_FUA		 (1u << 3)
#define NBD_TRIM	 (1u << 5)
#define NBD_WRITE_ZEROES (1u << 6)

/* What the server has said about an export. */
struct nbd_export {
	uint64_t size_bytes;
	uint16_t flags;
	uint32_t min_block, preferred_block, max_block;
};

/*
 * Greet the server and agree with it that TLS begins: what comes next on the socket @fd is its
 * handshake, and nbd_negotiate() is for what goes through it.
 */
int nbd_start_tls(int fd, const char *uri, struct error *err);

/* Agree on the export that @uri names, over the socket @fd. Errors are for a person. */
int nbd_negotiate(int fd, const char *uri, struct nbd_export *ret_export, struct error *err);

/*
 * Who connects to a server again for a monitor that cannot: another process, at the other end of a
 * SEQPACKET socket. It is sent a number, connects, agrees with the server, and answers.
 */
struct nbd_dialed {
	uint32_t id;   /* the number */
	int32_t error; /* errno; when 0, the socket comes along */
	struct nbd_export export;
};

/* The export's name, for the caller to free; NULL without memory, or when it is malformed. */
char *nbd_export_name(const char *uri);

#endif
