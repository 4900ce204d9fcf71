/* PUT /vsock: where it is to be on the host is tried at once, as Firecracker does it. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/core/io.h"

/*
 * Can a socket be made at @path? 0 or -errno; it is gone again. One that a microVM left which is
 * no more would be in nobody's way at the start either.
 */
static int try_listen(const char *path)
{
	int fd;

	io_remove_dead_socket(path, SOCK_STREAM);
	fd = io_listen(path, SOCK_STREAM, 0, 1);
	if (fd < 0)
		return fd;
	unlink(path);
	close(fd);
	return 0;
}

API_HANDLER(put_vsock)
{
	static const char cannot[] = "Vsock config error: Cannot create backend for vsock device: "
				     "Error binding to the host-side Unix socket:";
	const char *path = json_string_value(json_object_get(body, "uds_path"));
	int r = path && *path ? try_listen(path) : -EINVAL;

	/* The one that this is to replace goes first, whatever comes of it. */
	json_decref(api->vsock);
	api->vsock = NULL;
	if (r == -ENAMETOOLONG) {
		api_fault(answer, "%s path must be shorter than SUN_LEN", cannot);
		return;
	}
	if (r < 0) {
		api_fault(answer, "%s %s (os error %d)", cannot, strerror(-r), -r);
		return;
	}
	if (json_integer_value(json_object_get(body, "guest_cid")) < 3) {
		api_fault(answer, "Vsock config error: Cannot create vsock device: CIDs below 3 "
				  "are reserved");
		return;
	}
	if (json_is_string(json_object_get(body, "vsock_id")))
		answer->deprecated = "PUT /vsock: vsock_id field is deprecated.";
	json_object_del(body, "vsock_id");
	api->vsock = json_incref(body);
	api_no_content(answer);
}
