/*
 * What `wisp exec` and `wisp cp` say to the agent in the guest, and it to them,
 * over a connection to port AGENT_PORT of the guest. Linked into both ends, so it
 * needs nothing but the C library.
 *
 * Both sides send frames: a length (of what follows the type, little-endian),
 * a type, bytes. One connection carries one command or one copy.
 *
 *	exec:	ARG... VARIABLE... [DIRECTORY] [TERMINAL] RUN, then INPUT, SIGNAL, WINDOW
 *		answered by OUTPUT, ERRORS, TAKEN, and at last ENDED or FAILED
 *	put:	PUT, then a tree, then DONE; answered by DONE or FAILED
 *	get:	GET; answered by a tree, then DONE, or FAILED
 *
 * A tree (vmm/control/agent_tree.h) is FILE with CONTENT..., or LINK, or ENTER, trees, LEAVE. In
 * place of a tree within one, or of what follows of a FILE, there may be LEFT_OUT.
 */
#ifndef WISP_VMM_AGENT_WIRE_H
#define WISP_VMM_AGENT_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define AGENT_PORT	1024

/*
 * A port of the host at which the agent reads who its guest is, by lines:
 *
 *	id=NAME			what the host calls it
 *	generation=HEX		16 bytes that are another microVM's after a restore, clone or reset,
 *				and the same after a migration
 *	random=HEX		AGENT_RANDOM_BYTES that nobody else was given; the last line
 *
 * The host says nothing more and does not hang up. When the guest goes on elsewhere its sockets are
 * reset (virtio 1.2, 5.10.6.7), and it is for the agent to ask again.
 */
#define AGENT_IDENTITY_PORT 0x77697370u
#define AGENT_RANDOM_BYTES  32
#define AGENT_MAX_IDENTITY  256 /* bytes of all that */

#define AGENT_MAX_FRAME 32768	  /* bytes behind the type */
#define AGENT_HEADER	5	  /* length and type */
#define AGENT_WINDOW	(1 << 17) /* bytes of INPUT that may be sent and not be TAKEN */
#define AGENT_MAX_WORD	(1 << 17) /* bytes of a word or variable with its zero, as Linux has it */
#define AGENT_MAX_WORDS (1 << 16)

enum agent_type {
	AGENT_PART = 'A',      /* of a word or variable, the rest of which follows */
	AGENT_ARG = 'a',       /* one word of the command */
	AGENT_VARIABLE = 'v',  /* NAME=VALUE for its environment */
	AGENT_DIRECTORY = 'd', /* where it starts */
	AGENT_TERMINAL = 't',  /* it gets a terminal: rows and columns, 16 bits each */
	AGENT_RUN = 'r',
	AGENT_INPUT = 'i',	 /* empty: the end of it */
	AGENT_SIGNAL = 's',	 /* one byte: its number */
	AGENT_WINDOW_SIZE = 'w', /* as TERMINAL */
	AGENT_OUTPUT = 'o',
	AGENT_ERRORS = 'e',
	AGENT_TAKEN = 'k',   /* 32 bits: so much more INPUT was taken */
	AGENT_ENDED = 'q',   /* two bytes: 0 and the status, or 1 and the signal */
	AGENT_FAILED = 'f',  /* errno in 32 bits, and what was tried */
	AGENT_PUT = 'p',     /* a path */
	AGENT_GET = 'g',     /* a path */
	AGENT_FILE = 'F',    /* mode in 32 bits, name */
	AGENT_CONTENT = 'c', /* empty: the end of the file */
	AGENT_LINK = 'L',    /* name, 0, what it points to */
	AGENT_ENTER = 'D',   /* mode in 32 bits, name */
	AGENT_LEAVE = 'E',
	AGENT_LEFT_OUT = 'S', /* as FAILED: what is not in the tree, which goes on */
	AGENT_DONE = 'z',
};

struct agent_frame {
	uint8_t type;
	uint32_t len;
	char data[AGENT_MAX_FRAME + 1]; /* a zero follows what came */
};

/* Put a frame of no more than AGENT_MAX_FRAME bytes to @to. Its length with the header. */
size_t agent_pack(char *to, enum agent_type type, const void *data, size_t len);

/* Send one frame, waiting as long as it takes. 0 or -errno. */
int agent_send(int fd, enum agent_type type, const void *data, size_t len);

/* Receive one, waiting as long as it takes. 1, 0 at the end, or -errno; -EBADMSG: no frame. */
int agent_receive(int fd, struct agent_frame *f);

/* A frame that has come in part; all zeroes: nothing of it. */
struct agent_partial {
	char header[AGENT_HEADER];
	size_t got; /* bytes, with the header */
};

/*
 * The same with what is there now: -EAGAIN when that is less than a frame. Then @p and @f are
 * for the next call.
 */
int agent_receive_some(int fd, struct agent_partial *p, struct agent_frame *f);

/* As @type, FAILED or LEFT_OUT, with "@what: @path". */
int agent_send_failure(int fd, enum agent_type type, int error, const char *what,
		       const char *path);

#endif
