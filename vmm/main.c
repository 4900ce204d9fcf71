/* wisp: the command line's entry. Verbs and options are in vmm/cli/cli.h's tables. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/core/error.h"
#include "vmm/core/util.h"

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

/*
 * What was printed and could not be written is a failure, whatever the verb thinks of itself. Not
 * said when the reader went away: it has what it wanted. Why an earlier write failed is not known
 * any more.
 */
static int flush_output(int status)
{
	struct pollfd reader = { .fd = STDOUT_FILENO };
	struct error err = { 0 };

	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (!errno && poll(&reader, 1, 0) > 0 && reader.revents & POLLERR)
		errno = EPIPE;
	if (errno && errno != EPIPE)
		error_set(&err, -errno, "standard output: cannot write: %m");
	else if (!errno)
		error_set(&err, -EIO, "standard output: not all of it could be written");
	if (err.code)
		error_print(&err);
	return status ? status : 1;
}

static int run(int argc, char **argv)
{
	const struct cli_verb *verb;

	if (argc < 2)
		return cli_help(0, NULL);
	/* "wisp VERB --help" is "wisp VERB" explained. */
	if (cli_asks_help(argc - 2, argv + 2))
		return cli_help(1, argv + 1);
	verb = cli_find_verb(argv[1]);
	if (verb && verb->main)
		return verb->main(argc - 2, argv + 2);
	return cli_help(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	guard_standard_files();
	/* One arena: a second one per thread costs every microVM memory it never needs. */
	mallopt(M_ARENA_MAX, 1);
	/* A reader that goes away ends its stream, not the guest. */
	signal(SIGPIPE, SIG_IGN);
	/* A guest whose file meets the user's limit gets an error, not the end of us. */
	signal(SIGXFSZ, SIG_IGN);
	/* Ignored by whoever started us, it would hide the end of our children. */
	signal(SIGCHLD, SIG_DFL);

	/* A link of that name, or a copy: started as Firecracker, we are one. */
	if (argc && !strcmp(basename(argv[0]), "jailer"))
		return jailer_main(argc - 1, argv + 1);
	if (argc && !strcmp(basename(argv[0]), "firecracker"))
		return api_main(argc - 1, argv + 1);
	return flush_output(run(argc, argv));
}
