/* Firecracker's two programs: `wisp api` with the HTTP library, and its jailer, are helpers. */
#include "vmm/cli/cli.h"
#include "vmm/helper.h"

/* The word in front of the arguments, "api" or "firecracker", stands for the helper's name. */
static int become(const char *helper, char **argv)
{
	struct error err = { 0 };

	helper_exec(helper, argv - 1, &err);
	error_print(&err);
	return error_status(&err);
}

int api_main(int argc, char **argv)
{
	return become("wisp-api", argv);
}

int jailer_main(int argc, char **argv)
{
	return become("wisp-jailer", argv);
}
