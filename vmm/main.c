/* wisp: the command line's entry. Verbs and options are in vmm/cli.h's tables. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli.h"
#include "vmm/config.h"
#include "vmm/core/util.h"
#include "vmm/default_guest.h"
#include "vmm/doctor.h"
#include "vmm/launch.h"

/*
 * A descriptor that was not given to us (`wisp run <&-`) is taken by /dev/null: the next file to be
 * opened, a disk say, would be written to as standard error otherwise.
 */
static void guard_standard_files(void)
{
	struct pollfd standard[] = { { .fd = 0 }, { .fd = 1 }, { .fd = 2 } };

	if (poll(standard, ARRAY_SIZE(standard), 0) <= 0)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(standard); i++)
		/* The lowest free number is this one: those below are open. */
		if (standard[i].revents & POLLNVAL && open("/dev/null", O_RDWR) < 0)
			_exit(1);
}

/* The log's file stays open for the life of the process. */
static int open_log(const struct machine_config *c, struct error *err)
{
	int fd = STDERR_FILENO;

	if (c->log_file)
		fd = open(c->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_usage(err, -errno, "--log-file '%s': cannot open: %m", c->log_file);
	log_setup(fd, c->log_level);
	return 0;
}

static int run_main(int argc, char **argv)
{
	struct machine_config config;
	struct error err = { 0 };
	int status;

	config_init(&config);
	if (config_parse_run(&config, argc, argv, &err) < 0 ||
	    config_validate(&config, &err) < 0 || default_guest_find(&config, &err) < 0 ||
	    open_log(&config, &err) < 0) {
		error_print(&err);
		status = error_status(&err);
	} else {
		status = config.dry_run ? launch_dry_run(&config) : launch_run(&config);
	}
	config_done(&config);
	return status;
}

int main(int argc, char **argv)
{
	guard_standard_files();
	/* One arena: a second one per thread costs every microVM memory it never needs. */
	mallopt(M_ARENA_MAX, 1);
	/* A reader that goes away ends its stream, not the guest. */
	signal(SIGPIPE, SIG_IGN);
	/* Ignored by whoever started us, it would hide the end of our children. */
	signal(SIGCHLD, SIG_DFL);

	if (argc < 2)
		return cli_help(0, NULL);
	/* "wisp VERB --help" is "wisp VERB" explained. */
	if (cli_asks_help(argc - 2, argv + 2))
		return cli_help(1, argv + 1);
	if (strcmp(argv[1], "run") == 0)
		return run_main(argc - 2, argv + 2);
	if (strcmp(argv[1], "doctor") == 0)
		return doctor_main(argc - 2, argv + 2);
	return cli_help(argc - 1, argv + 1);
}
