/*
 * What the files of `wisp test` share: test_config.c (options), test_guest.c and test_plan.c
 * (the guest that is made for it, and what that is to do), test_warm.c (guests that were started
 * before), test_start.c and test_run.c (the supervisor), test_log.c (reading the kernel's log),
 * test_report.c (telling).
 */
#ifndef WISP_VMM_TEST_INTERNAL_H
#define WISP_VMM_TEST_INTERNAL_H

#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "vmm/launch.h"
#include "vmm/machine/machine_state.h"
#include "vmm/saved/snapshot.h"
#include "vmm/testing/modules.h"
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
	bool cwd_is_asked_for; /* by --cwd: without it the command is not run */
	const char *env[TEST_MAX_STRINGS];
	unsigned num_env;
	unsigned uid, gid;
	bool systemd;
	bool warm;
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

/* What the guest of a job that runs is there for. */
enum test_phase {
	TEST_PHASE_COLD, /* it boots and runs the command */
	TEST_PHASE_MAKE, /* it boots, and is saved before there is a command */
	TEST_PHASE_WARM, /* it was saved, goes on, and runs the command */
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
	bool tty, alone;
	uint64_t started_ns, ended_ns, beat_ns, doomed_ns;
	uint64_t phase_ns; /* when this phase began */

	enum test_phase phase;
	bool made; /* what it starts from, it made itself */
	char *warm; /* the snapshot to start from, --warm's; or NULL */
	struct stat warm_is; /* which one of those that may have that name */
	pid_t saver; /* makes that; 0: there is none, or it has ended: */
	bool saved, unsavable;
	struct { /* the log of the boot that it goes on from */
		FILE *out;
		char *text;
		size_t len;
	} boot;
	int plan_fd; /* to the guest that goes on, or -1 */
	char *plan;
	size_t plan_len, plan_done;

	bool ready, reported, by_signal;
	int command_status; /* its exit status or the signal's number */
	char status_line[64];
	size_t status_len;
	struct test_log log;

	int told;	  /* the signal by which we were told to end, or 0 */
	uint64_t told_ns; /* and when */
	enum test_outcome asked; /* why we ended it, when doomed_ns is set */
	enum test_outcome outcome;
	int status; /* of wisp */
	const char *cause; /* a word, or NULL */
	char message[sizeof(((struct machine_end *)0)->message)]; /* wisp's own, printed; or "" */
	char *symbols;	   /* names of addresses that are in the evidence and the log, or NULL */
};

/* test_guest.c: the machine and the initial file system for @kernel. */
int test_guest_config(const struct test_config *t, const char *kernel, unsigned index, bool tty,
		      struct machine_config *c, struct error *err);
/*
 * Returns the archive's descriptor, or -errno; the kernel's release goes to @release. With @warm
 * the guest waits there for the command.
 */
int test_guest_initrd(const struct test_config *t, const struct machine_config *c, bool tty,
		      bool warm, char *release, size_t release_size, struct error *err);
/* Call fn(arg, path) for each of @modules that such a guest needs, as modules_for() does. */
int test_guest_drivers(const struct modules *modules, const struct machine_config *c,
		       int (*fn)(void *arg, const char *path), void *arg);
bool test_log_is_read(const struct test_config *t);

/* ---- test_plan.c: what init is to do ---- */

#define TEST_ROOT_TAG "rootfs"
#define TEST_MAX_PLAN (8 * MiB)

/* All of it; or what it needs to get to the point where it waits for the rest. */
void test_plan_put(FILE *conf, const struct test_config *t, const struct machine_config *c,
		   bool tty);
void test_plan_put_start(FILE *conf, const struct test_config *t, bool tty);
/* The rest, as it goes over the port: its length in 4 bytes, then the strings. -errno. */
int test_plan_rest(const struct test_config *t, const struct machine_config *c, char **ret_text,
		   size_t *ret_len);

/* ---- test_warm.c: guests that were started before ---- */

struct test_warm_start {
	struct snapshot snapshot;
	struct machine_image image;
};

/*
 * Where the snapshot for @j is or would be, into @j->warm: under a name made of all that the guest
 * up to that point depends on. -errno with @err when it cannot be kept anywhere.
 */
int test_warm_find(struct test_job *j, struct error *err);
/* Is it? Which one it is then, goes to @j->warm_is. What is only half of one is removed. */
bool test_warm_is_there(struct test_job *j);
/* That one is of no use. Another one that has its name by now stays. */
void test_warm_remove(const struct test_job *j);
/* In the process that becomes the guest's parent: what it starts from. */
int test_warm_open(struct test_job *j, struct test_warm_start *w, struct error *err);
/* The log up to there, if it was kept: into @j->log and where the log goes. */
void test_warm_read_log(struct test_job *j);
/* Start a process (@j->saver) that saves the guest, which waits, and ends it. */
int test_warm_save(struct test_job *j, struct error *err);
/* Remove from @dir what was not used for longest until they take @max_bytes. */
void test_warm_prune(const char *dir, uint64_t max_bytes);
/* Note when it has ended, in @j->saved too; wait for that so long. */
void test_warm_reap(struct test_job *j, int wait_ms);
/* End it, whatever it is at. */
void test_warm_give_up(struct test_job *j);

/* ---- test_start.c ---- */

/* The first phase of @j, whose own streams are ours when it is alone. */
int test_start(struct test_job *j, bool alone, struct error *err);
/*
 * Its guest has ended, its parent with @launcher_status: begin the phase that comes next. False:
 * there is none, or it cannot begin, as @launcher_status says then.
 */
bool test_go_on(struct test_job *j, int *launcher_status);
/* Bytes of the guest's log. */
void test_take_log(struct test_job *j, const char *p, size_t len);
/* Give the guest of its plan what it takes now. */
void test_send_plan(struct test_job *j);
/* It has read all of it, and wants to know what time it is. */
void test_send_time(const struct test_job *j);

/*
 * test_run.c: all jobs, to their ends. SIGINT, SIGTERM and SIGHUP end those that run, and no other
 * begins: all of @jobs have an outcome. They stay blocked.
 */
int test_run_all(const struct test_config *t, struct test_job *jobs, unsigned num,
		 struct error *err);
/* In a child of its: these signals end that one at once. */
void test_unblock_signals(void);
/* What the ways in which a machine, its command and its log ended come to. */
void test_decide(struct test_job *j, int launcher_status);

/*
 * test_symbols.c: lines of addresses in the log and the evidence of @j, and of what they are in;
 * NULL where nothing can be said. To be freed.
 */
char *test_symbolise(const struct test_job *j);

/* test.c: what `git bisect run` is told where wisp test ends with @outcome and @status. */
int test_bisect_status(enum test_outcome outcome, int status);

/*
 * test_report.c: one word, stable: "panic"; static. What became of jobs that have an outcome: of
 * one, to stderr, and nothing when its command had its say; as JSON, one object; or what each
 * printed and a line each.
 */
const char *test_outcome_name(enum test_outcome outcome);
void test_print_text(const struct test_job *j);
void test_print_json(const struct test_job *jobs, unsigned num, FILE *out);
void test_print_table(const struct test_job *jobs, unsigned num, FILE *out);
/* As a file at @path, which is replaced: JUnit's XML, or TAP. -errno. */
int test_write_junit(const struct test_job *jobs, unsigned num, const char *path);
int test_write_tap(const struct test_job *jobs, unsigned num, const char *path);

#endif
