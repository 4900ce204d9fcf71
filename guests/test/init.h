/*
 * Process 1 of the guest in which `wisp test` runs a command: init.c makes the
 * root file system, run.c runs the command in it and reports.
 *
 * What to do is in /wisp.conf of the initramfs: strings that end in a zero byte, KEY=VALUE
 * each, some of them repeated. With "warm" in it the rest comes over the port "plan" (warm.c), for
 * which we wait with the root in place; in between we may have been saved, and be another guest by
 * now. What happened goes to the port "status", a line each:
 *
 *	warm		we wait for the rest of the plan
 *	awake		it came; what time is it?
 *	ready		the command is about to start
 *	beat		we are alive: once a second
 *	exit N		the command ended with status N
 *	signal N	or by a signal
 */
#ifndef WISP_GUESTS_TEST_INIT_H
#define WISP_GUESTS_TEST_INIT_H

#include <stddef.h>

#define MAX_STRINGS 4096
#define MAX_SHARES  64
#define MAX_NETS    64

struct plan {
	const char *root; /* "overlay", "rw" or "ro": how the shared tree becomes the root */
	const char *cwd;
	int cwd_is_asked_for; /* without it the command is not run */
	unsigned uid, gid;
	int loglevel; /* of the console, from when the command starts; 0: as it is */
	int systemd;  /* the tree's own is process 1, the command its service (service.c) */
	int tty;      /* the command gets the console */
	int warm;     /* what to do with the root comes later */
	const char *seed; /* of random numbers, in hexadecimal digits; NULL: the kernel's will do */
	char *arg[MAX_STRINGS];
	char *env[MAX_STRINGS];
	const char *module[64];
	char *share[MAX_SHARES]; /* TAG:ro|rw:PATH */
	char *net[MAX_NETS];	 /* INDEX, and for one of wisp's own: ADDRESS MASK ROUTER DNS */
	unsigned num_args, num_env, num_modules, num_shares, num_nets;
};

enum { PORT_STDIN, PORT_STDOUT, PORT_STDERR, PORT_PLAN, PORT_STATUS, NUM_PORTS };

/* Say why we cannot go on, to the kernel's log, and power off. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* What is in @text, @len bytes with a zero byte behind them, which stays in use, goes into @p. */
void parse_plan(struct plan *p, char *text, size_t len);

/* The port that the host calls @name: a descriptor, or -1. */
int open_port(const char *name, int flags);

/* Wait for the rest of @p, and be the guest that it is for (warm.c). The port "stdin" is closed. */
void wake_up(struct plan *p, int *port);

#define SERVICE_DIR	 "/run/wisp"
#define SERVICE_ARGUMENT "--service"

/* Have the tree's systemd run us once more, by the plan. */
void become_systemd(int plan_fd) __attribute__((noreturn));

/* Bring up the loopback device and the networks, with name servers (net.c); the root is in place.
 */
void networks_up(const struct plan *plan);

/*
 * Run the command and report how it ended. @port: descriptors, -1 where there is none; "stdin" is
 * opened here if it is not.
 */
void run(const struct plan *plan, int *port);

#endif
