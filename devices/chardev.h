/*
 * A character stream on the host: terminal, pipe, file, socket or pty, behind
 * a serial port or a console.
 *
 * A chardev belongs to one loop. Output is queued up to a bound; a full queue
 * is back-pressure on the port that writes and nobody else. Input is read only
 * while its user has room. Neither direction loses a byte while the peer is
 * there; without a peer (a socket nobody connected to) output is dropped. What a
 * socket's peer said before it left is still heard, and before what the next one
 * says: all that was read, and up to 64 KiB more.
 *
 * Standard input that is no terminal but had something to say is followed by
 * one Ctrl-D when it ends, as if all of it had been typed.
 */
#ifndef WISP_DEVICES_CHARDEV_H
#define WISP_DEVICES_CHARDEV_H

#include "vmm/core/loop.h"

struct chardev;

enum chardev_kind { CHARDEV_NULL, CHARDEV_STDIO, CHARDEV_FILE, CHARDEV_SOCKET, CHARDEV_FDS };

struct chardev_config {
	enum chardev_kind kind;
	const char *path; /* FILE: truncated, unless @append; SOCKET: a UNIX socket we listen on */
	bool append;
	int in_fd, out_fd; /* FDS; borrowed. STDIO: 0 and 1 */
	int listen_fd; /* SOCKET without a path: one that listens already, owned on success */
};

/* What the port above provides; all on the loop. */
struct chardev_user {
	/* How many bytes of input it can take now. */
	size_t (*room)(void *arg);
	/* @len is at most what room() said. */
	void (*input)(void *arg, const uint8_t *p, size_t len);
	/* Room for output again after chardev_write() took less than it was given. */
	void (*writable)(void *arg);
	/* Peer came or went (sockets), end of input (stdio). */
	void (*opened)(void *arg, bool open);
	/* The terminal's size changed. */
	void (*resized)(void *arg, uint16_t columns, uint16_t rows);
	/* Ctrl-A b was typed: a break on the line. */
	void (*send_break)(void *arg);
	void *arg;
	/*
	 * Read nothing before there is room for it, so that another one may come in our place and
	 * find all that was not taken. The end of input is seen then only, and what a peer that
	 * leaves has said and nobody took is nobody's.
	 */
	bool no_read_ahead;
};

/*
 * Open what @config names; nobody is attached yet, so output of a socket without a client is
 * dropped and input waits. @config is not kept, @loop is. 0, or -errno with @err.
 */
int chardev_create(struct chardev **ret_c, const struct chardev_config *config, struct loop *loop,
		   struct error *err);
/* On the loop, which is turned until what it reads and writes has ended. NULL is fine. */
void chardev_free(struct chardev *c);

/*
 * Any member of @user may be NULL; all of them: nobody is there any more, input
 * waits. Whoever is attached detaches before it is freed.
 */
void chardev_attach(struct chardev *c, const struct chardev_user *user);

/* Is there a peer? What opened() said last, or would have. */
bool chardev_is_open(const struct chardev *c);

/* Queue output; returns how much was taken (0..len). */
size_t chardev_write(struct chardev *c, const void *p, size_t len);

/* The user has room again: go on reading. */
void chardev_resume_input(struct chardev *c);

/*
 * Write out what is queued here and by the user, waiting at most @timeout_ns; a
 * chardev that did not manage drops all output from then on. At the end of the
 * machine, on the loop's thread outside of loop_run().
 */
void chardev_flush(struct chardev *c, uint64_t timeout_ns);

/* Terminal columns and rows, 0 when it is none. */
void chardev_size(struct chardev *c, uint16_t *ret_columns, uint16_t *ret_rows);

/*
 * What the Ctrl-A escapes of a terminal ask for: 'x' end, 'd' detach, others as
 * they come (but for b, see send_break). Twice Ctrl-A sends one. On the loop.
 */
void chardev_on_escape(struct chardev *c, void (*fn)(void *arg, char key), void *arg);

/* SIGWINCH arrived. */
void chardev_window_changed(struct chardev *c);

#endif
