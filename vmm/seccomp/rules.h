/*
 * The system calls that each kind of thread may make: one table a kind, one line a system call
 * (or one value of an argument of it), with why. Anything else kills the process.
 *
 * The tables are read by generate.c alone, when wisp is built: libseccomp makes the shortest filter
 * of each, and only these arrays are part of wisp. To allow one more call, add a line to the
 * table of the thread that makes it; docs/security.md says how to find which that is.
 */
#ifndef WISP_VMM_SECCOMP_RULES_H
#define WISP_VMM_SECCOMP_RULES_H

#include <stdint.h>
#include <sys/syscall.h>

struct seccomp_rule {
	const char *name; /* of the system call; NULL ends a table */
	int number;
	int refuse;	  /* 0: allowed; else it fails with this errno */
	/* Only when argument @arg, masked, is @value; @mask 0: whatever the arguments are. */
	unsigned arg;
	uint64_t mask, value;
	const char *what; /* the value's name, for people */
	const char *why;
};

#define SECCOMP_WHOLE_ARG UINT64_MAX

#define ALLOW(call, reason) { .name = #call, .number = SYS_##call, .why = (reason) }

#define ALLOW_ARG(call, n, v, reason)                                                              \
	{                                                                                          \
		.name = #call, .number = SYS_##call, .arg = (n), .mask = SECCOMP_WHOLE_ARG,        \
		.value = (uint32_t)(v), .what = #v, .why = (reason)                                \
	}

/* When none of @bits is set in argument @n. */
#define ALLOW_WITHOUT(call, n, bits, reason)                                                       \
	{                                                                                          \
		.name = #call, .number = SYS_##call, .arg = (n), .mask = (bits), .value = 0,       \
		.what = "without " #bits, .why = (reason)                                          \
	}

/* Not allowed, but something of ours asks and can go on without. */
#define REFUSE(call, error, reason)                                                                \
	{                                                                                          \
		.name = #call, .number = SYS_##call, .refuse = (error), .what = "fails: " #error,  \
		.why = (reason)                                                                    \
	}

#define REFUSE_ARG(call, n, v, error, reason)                                                      \
	{                                                                                          \
		.name = #call, .number = SYS_##call, .refuse = (error), .arg = (n),                \
		.mask = SECCOMP_WHOLE_ARG, .value = (uint32_t)(v), .what = #v " fails: " #error,   \
		.why = (reason)                                                                    \
	}

/* Not by ALLOW_ARG(), which would see the number in place of its name. */
#define IOCTL(request, reason)                                                                     \
	{                                                                                          \
		.name = "ioctl", .number = SYS_ioctl, .arg = 1, .mask = SECCOMP_WHOLE_ARG,         \
		.value = (uint32_t)(request), .what = #request, .why = (reason)                    \
	}

/* As glibc calls clone() in pthread_create(): <sched.h>. Beside it clone3() is to be refused. */
#define FLAGS_OF_A_THREAD                                                                          \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD |        \
	 CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

extern const struct seccomp_rule seccomp_common[]; /* part of every kind */
extern const struct seccomp_rule seccomp_vcpu[];
extern const struct seccomp_rule seccomp_main[];
extern const struct seccomp_rule seccomp_main_kvm[]; /* part of main */
extern const struct seccomp_rule seccomp_maker[];    /* with all of main */
extern const struct seccomp_rule seccomp_queue[];  /* with a worker's */
extern const struct seccomp_rule seccomp_fault[];
extern const struct seccomp_rule seccomp_migrate[];
extern const struct seccomp_rule seccomp_worker[];
extern const struct seccomp_rule seccomp_net[]; /* the helper wisp-net */
extern const struct seccomp_rule seccomp_tls[]; /* the helper wisp-tls */
extern const struct seccomp_rule seccomp_fs[];  /* the server of a shared directory */

#endif
