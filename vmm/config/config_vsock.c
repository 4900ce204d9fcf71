/* --vsock: sockets between host and guest. */
#include "vmm/config/config_parse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define VSOCK(m) offsetof(struct config_vsock, m)

const struct config_item config_vsock_keys[] = {
	{ "cid", "N", "The guest's context ID, 3 or more (3)", CONFIG_NUMBER, VSOCK(cid), 3,
	  UINT32_MAX - 1 },
	{ "path", "SOCKET",
	  "By Firecracker's convention: UNIX socket for programs on the host, which say "
	  "CONNECT PORT there; the guest's connections to a port of the host end at SOCKET_PORT",
	  CONFIG_STRING, VSOCK(path) },
	{ 0 },
};

static int no_first(struct config_parse *p, const char *value, void *target)
{
	return 0;
}

int config_parse_vsock(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	char *keys;
	int r;

	c->vsock_present = true;
	c->vsock.cid = 3;
	/* All pieces have names: an empty one in front of them stands for the one without. */
	if (asprintf(&keys, "%s%s", value ? "," : "", value ? value : "") < 0)
		return error_set(p->err, -ENOMEM, "--vsock: %m");
	r = config_set_keys(p, keys, config_vsock_keys, no_first, &c->vsock);
	free(keys);
	return r;
}
