/*
 * What the files of `wisp test` share: test_config.c (options), test_guest.c
 * (the guest that is made for it), test_log.c (reading the kernel's log), test_run.c (the
 * supervisor), test_report.c (telling).
 */
#ifndef WISP_VMM_TEST_INTERNAL_H
#define WISP_VMM_TEST_INTERNAL_H

#include <stdio.h>
#include <sys/types.h>

#include "vmm/launch.h"
#include "vmm/testing/test.h"

#define TEST_MAX_KERNELS 64
#define TEST_MAX_STRINGS 1024

/* How long a kernel that hangs may take for its traces: emulated ones take their time. */
#define TEST_LAST_WORDS 12

/* What the user asked for. Strings that are not in @machine are borrowed from argv. */
struct test_config {
	const char *kernel_arg[TEST_MAX_KERNELS];
	unsigned num_kernel_args;
	char *kernel[TEST_MAX_KERNELS]; /* what they stand for */
	unsigned num_kernels;
	char *root;
	bool is_image; /* it came of one */
	bool write_through;
	char *cwd;
	const char *env[TEST_MAX_STRINGS];
	unsigned num_env;
	unsigned uid, gid;
	bool systemd;
	char *symbols; /* file; NULL: those that are found */
	char *dmesg;
	bool verbose;
	unsigned fail_on; /* TEST_LOG_* */
	unsigned boot_timeout, hang_seconds, jobs;
	bool json;
	char *junit, *tap;
	char *const *command; /* ends in NULL */
	/* What is left: options of `wisp run`. */
	char *run_arg[TEST_MAX_STRINGS];
	unsigned num_run_args;
};

/* 0, or -errno. Free with test_config_done() either way. */
int test_config_parse(struct test_config *t, int argc, char **argv, struct error *err);
void test_config_done(struct test_config *t);

/* test_kernels.c: add what @path stands for to the kernels. */
int test_find_kernels(struct test_config *t, const char *path, struct error *err);

/* ---- the kernel's log ---- */

#define TEST_LOG_PANIC	1u
#define TEST_LOG_OOPS	2u
#define TEST_LOG_WARN	4u
#define TEST_LOG_LOCKUP 8u
#define TEST_LOG_TAIL	(32 * KiB)

struct test_log {
	char tail[TEST_LOG_TAIL + 1]; /* the last of it */
	size_t len;
	char line[256]; /* the one that is growing */
	size_t line_len;
	char last[256]; /* the last that is complete */
	char cause[256]; /* the one that says most of what went wrong */
	char place[256]; /* the last place in itself that it named */
	unsigned worst; /* TEST_LOG_*: what it means */
	unsigned seen; /* TEST_LOG_*, of the boot or then of the command's time */
};

/* What the kernel complained of until now is not the command's doing. */
void test_log_command_starts(struct test_log *log);
/* Bytes as they come. */
void test_log_feed(struct test_log *log, const char *p, size_t len);

/* ---- outcomes ---- */

enum test_outcome {
	TEST_EXIT,
	TEST_PANIC,
	TEST_OOPS,
	TEST_TRIPLE_FAULT,
	TEST_HANG,
	TEST_LOCKUP,
	TEST_TIMEOUT,
	TEST_BOOT_FAILURE,
	TEST_MONITOR_FAILURE,
};

/* One kernel's run, from test_job_start() on. */
struct test_job {
	const struct test_config *config;
	const char *kernel; /* NULL: the default guest's */
	unsigned index;
	char release[128];
	struct machine_config machine;

	pid_t pid;
	int pid_fd, log_fd, status_fd; /* -1 when closed */
	int out_fd;   /* what the command says, kept for the report of several; -1: it went out */
	FILE *dmesg;
	struct machine_end *end;
	uint64_t started_ns, ended_ns, beat_ns, doomed_ns;
	bool ready, reported, by_signal;
	int command_status; /* its exit status or the signal's number */
	char status_line[64];
	size_t status_len;
	struct test_log log;

	enum test_outcome asked; /* why we ended it, when doomed_ns is set */
	enum test_outcome outcome;
	int status; /* of wisp */
	const char *cause; /* a word, or NULL */
	char *symbols;	   /* names of addresses that are in the evidence and the log, or NULL */
};

/* test_guest.c: the machine and the initial file system for @kernel. */
int test_guest_config(const struct test_config *t, const char *kernel, unsigned index, bool tty,
		      struct machine_config *c, struct error *err);
/* Returns the archive's descriptor, or -errno; the kernel's release goes to @release. */
int test_guest_initrd(const struct test_config *t, const struct machine_config *c, bool tty,
		      char *release, size_t release_size, struct error *err);

/* test_run.c: all jobs, to their ends. */
int test_run_all(const struct test_config *t, struct test_job *jobs, unsigned num,
		 struct error *err);
/* What the ways in which a machine, its command and its log ended come to. */
void test_decide(struct test_job *j, int launcher_status);

/*
 * test_symbols.c: lines of addresses in the log and the evidence of @j, and of what they are in;
 * NULL where nothing can be said. To be freed.
 */
char *test_symbolise(const struct test_job *j);

/* test_report.c */
const char *test_outcome_name(enum test_outcome outcome);
void test_print_text(const struct test_job *j);
void test_print_json(const struct test_job *jobs, unsigned num, FILE *out);
void test_print_table(const struct test_job *jobs, unsigned num, FILE *out);
int test_write_junit(const struct test_job *jobs, unsigned num, const char *path);
int test_write_tap(const struct test_job *jobs, unsigned num, const char *path);

#endif
