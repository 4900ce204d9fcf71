#include "vmm/testing/test.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/testing/test_internal.h"

/* What `git bisect run` understands: 0 good, 1 to 124 bad, 125 skip, above 127 stop. */
#define BISECT_GOOD 0
#define BISECT_BAD  1
#define BISECT_SKIP 125
#define BISECT_STOP 128

static void job_init(struct test_job *j, const struct test_config *t, const char *kernel,
		     unsigned index)
{
	*j = (struct test_job){
		.config = t,
		.kernel = kernel,
		.index = index,
		.pid_fd = -1,
		.log_fd = -1,
		.status_fd = -1,
		.out_fd = -1,
		.plan_fd = -1,
	};
}

static void job_done(struct test_job *j)
{
	config_done(&j->machine);
	free(j->symbols);
	free(j->warm);
	free(j->plan);
	if (j->boot.out)
		fclose(j->boot.out);
	free(j->boot.text);
	if (j->out_fd >= 0)
		close(j->out_fd);
	if (j->end)
		munmap(j->end, sizeof(*j->end));
}

static int write_reports(const struct test_config *t, const struct test_job *jobs, unsigned num,
			 struct error *err)
{
	int r;

	if (t->junit && (r = test_write_junit(jobs, num, t->junit)) < 0)
		return error_usage(err, r, "--junit '%s': cannot write: %m", t->junit);
	if (t->tap && (r = test_write_tap(jobs, num, t->tap)) < 0)
		return error_usage(err, r, "--tap '%s': cannot write: %m", t->tap);
	return 0;
}

static int report(const struct test_config *t, const struct test_job *jobs, unsigned num,
		  struct error *err)
{
	int status = 0;

	for (unsigned i = 0; i < num; i++)
		if (!status)
			status = jobs[i].status;
	if (t->json)
		test_print_json(jobs, num, stdout);
	if (num > 1 && !t->json)
		test_print_table(jobs, num, stdout);
	else if (num == 1)
		test_print_text(&jobs[0]);
	if (write_reports(t, jobs, num, err) < 0) {
		error_print(err);
		return error_status(err);
	}
	/* What cannot be written there, main() tells of; it is not to come out as a success. */
	if (fflush(stdout))
		return status ?: 1;
	return status;
}

/* Run what @argv says. Returns wisp's status; @ret_outcome is that of the first kernel. */
static int run(int argc, char **argv, enum test_outcome *ret_outcome)
{
	struct test_config *t = malloc(sizeof(*t));
	struct test_job *jobs = NULL;
	struct error err = { 0 };
	unsigned num = 0;
	int status, r = -ENOMEM;

	if (t)
		r = test_config_parse(t, argc, argv, &err);
	else
		error_set(&err, r, "test: %m");
	if (!r) {
		num = MAX(t->num_kernels, 1u);
		jobs = calloc(num, sizeof(*jobs));
		if (!jobs)
			r = error_set(&err, -ENOMEM, "test: %m");
	}
	if (!r && jobs) {
		for (unsigned i = 0; i < num; i++)
			job_init(&jobs[i], t, t->num_kernels ? t->kernel[i] : NULL, i);
		r = test_run_all(t, jobs, num, &err);
	}
	if (r < 0 || !jobs) {
		error_print(&err);
		status = error_status(&err);
		*ret_outcome = TEST_MONITOR_FAILURE;
	} else {
		status = report(t, jobs, num, &err);
		*ret_outcome = jobs[0].outcome;
	}
	for (unsigned i = 0; jobs && i < num; i++)
		job_done(&jobs[i]);
	free(jobs);
	if (t)
		test_config_done(t);
	free(t);
	return status;
}

int test_main(int argc, char **argv)
{
	enum test_outcome outcome;

	return run(argc, argv, &outcome);
}

int test_bisect_status(enum test_outcome outcome, int status)
{
	switch (outcome) {
	case TEST_EXIT:
		/* A command that is written for `git bisect run` says so itself. */
		if (status == BISECT_SKIP)
			return BISECT_SKIP;
		return status == 0 ? BISECT_GOOD : BISECT_BAD;
	case TEST_BOOT_FAILURE:
		return BISECT_SKIP; /* what is looked for cannot be seen here */
	case TEST_MONITOR_FAILURE:
		return BISECT_STOP; /* says nothing about the kernel */
	default:
		return BISECT_BAD;
	}
}

int bisect_main(int argc, char **argv)
{
	enum test_outcome outcome;
	int status = run(argc, argv, &outcome);

	return test_bisect_status(outcome, status);
}
