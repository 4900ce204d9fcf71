/* `wisp api`: the REST server is a helper, which carries the HTTP library. */
#include "vmm/cli.h"
#include "vmm/helper.h"

int api_main(int argc, char **argv)
{
	struct error err = { 0 };

	/* The word in front of the arguments, "api" or "firecracker", stands for the helper's name.
	 */
	helper_exec("wisp-api", argv - 1, &err);
	error_print(&err);
	return error_status(&err);
}
