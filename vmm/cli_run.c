/* `wisp run`. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "vmm/cli.h"
#include "vmm/default_guest.h"
#include "vmm/launch.h"

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

int run_main(int argc, char **argv)
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
