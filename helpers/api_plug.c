/*
 * Drives, networks and persistent memory that come and go while the microVM runs: by `wisp plug`
 * and `wisp unplug`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "helpers/api.h"

#define MAX_OUTPUT 600

/* "disk:ID", "net:ID" or "pmem:ID": a drive and a network may have the same ID. */
#define MAX_DEVICE 80

/* How long a guest may take to let go of a device; then it is gone for it, as with Firecracker. */
#define PATIENCE "5"

bool api_may_plug(const struct api *api, const json_t *devices, const char *id,
		  struct api_answer *answer)
{
	if (api->state == API_NOT_STARTED)
		return true;
	if (!api->options.enable_pci)
		api_fault(answer, "PCI is not enabled");
	else if (json_object_get(devices, id))
		api_fault(answer, "Device ID in use");
	else
		return true;
	return false;
}

/* By `wisp` with @argv; false with the answer given, what it said behind @failed. */
static bool run(char *const *argv, const char *failed, struct api_answer *answer)
{
	char text[MAX_OUTPUT];
	const char *said = text;

	if (api_run_wisp(argv, text, sizeof(text)) == 0)
		return true;
	text[strcspn(text, "\n")] = '\0';
	if (!strncmp(said, "wisp: ", 6))
		said += 6;
	api_fault(answer, "%s%s", failed, said);
	return false;
}

/* @option is --disk=..., --net=... or --pmem=..., and freed. */
static bool plug(const struct api *api, char *option, const char *failed,
		 struct api_answer *answer)
{
	char name[40];
	char *argv[] = { "wisp", "plug", option, "--", name, NULL };
	bool done = false;

	api_name(api, name, sizeof(name));
	if (option)
		done = run(argv, failed, answer);
	else
		api_fault(answer, "%sno memory", failed);
	free(option);
	return done;
}

/*
 * What was plugged and is not as it should be goes again at once, whatever the guest does with it:
 * else it would be there without the API knowing of it.
 */
static void take_back(const struct api *api, const char *kind, const char *id, const char *failed,
		      const struct error *why, struct api_answer *answer)
{
	char name[40], device[MAX_DEVICE], text[MAX_OUTPUT];
	char *argv[] = { "wisp", "unplug", "--force", "--timeout=0", "--", name, device, NULL };

	api_name(api, name, sizeof(name));
	snprintf(device, sizeof(device), "%s:%s", kind, id);
	if (api_run_wisp(argv, text, sizeof(text)) == 0) {
		api_fault(answer, "%s%s", failed, why->msg);
	} else {
		text[strcspn(text, "\n")] = '\0';
		api_fault(answer, "%s%s; it cannot be taken back: %s", failed, why->msg, text);
	}
}

bool api_plug_drive(struct api *api, const char *id, json_t *drive, struct api_answer *answer)
{
	static const char failed[] =
		"Drive config error: Unable to create the virtio block device: ";
	struct error err = { 0 };

	if (api->state == API_NOT_STARTED)
		return true;
	if (!plug(api, api_disk_option(id, drive), failed, answer))
		return false;
	if (api_limit_drive(api, id, drive, &err) < 0)
		take_back(api, "disk", id, failed, &err, answer);
	return !answer->status;
}

bool api_plug_net(struct api *api, const char *id, json_t *net, struct api_answer *answer)
{
	static const char failed[] =
		"Network config error: Could not create the network device: Open tap "
		"device failed: ";
	struct error err = { 0 };

	if (api->state == API_NOT_STARTED)
		return true;
	if (!plug(api, api_net_option(api, id, net), failed, answer))
		return false;
	if (api_limit_net(api, id, net, &err) < 0)
		take_back(api, "net", id, failed, &err, answer);
	return !answer->status;
}

bool api_plug_pmem(struct api *api, const char *id, json_t *pmem, struct api_answer *answer)
{
	static const char failed[] =
		"Pmem config error: Unable to create the virtio-pmem device: ";
	struct error err = { 0 };

	if (api->state == API_NOT_STARTED)
		return true;
	if (!plug(api, api_pmem_option(id, pmem), failed, answer))
		return false;
	if (api_limit_pmem(api, id, pmem, &err) < 0)
		take_back(api, "pmem", id, failed, &err, answer);
	return !answer->status;
}

/*
 * A device of @devices, which are of @kind for wisp, goes; @root: its field that says whether the
 * guest's root is on it.
 */
static void unplug(struct api *api, json_t *devices, const char *kind, const char *id,
		   const char *root, struct api_answer *answer)
{
	const json_t *d = json_object_get(devices, id);
	char name[40], device[MAX_DEVICE];
	/* A guest that stands still lets go of nothing. */
	char *argv[] = { "wisp",
			 "unplug",
			 "--force",
			 api->state == API_PAUSED ? "--timeout=0" : "--timeout=" PATIENCE,
			 "--",
			 name,
			 device,
			 NULL };

	api_name(api, name, sizeof(name));
	snprintf(device, sizeof(device), "%s:%s", kind, id);
	if (!api->options.enable_pci) {
		api_fault(answer, "PCI is not enabled");
	} else if (!d) {
		api_fault(answer, "Device not found");
	} else if (root && json_is_true(json_object_get(d, root))) {
		api_fault(answer, "Cannot unplug root device");
	} else if (run(argv, "PCI manager error: ", answer)) {
		json_object_del(devices, id);
		api_no_content(answer);
	}
}

API_HANDLER(delete_drive)
{
	unplug(api, api->drives, "disk", id, "is_root_device", answer);
}

API_HANDLER(delete_net)
{
	unplug(api, api->nets, "net", id, NULL, answer);
}

API_HANDLER(delete_pmem)
{
	unplug(api, api->pmems, "pmem", id, "root_device", answer);
}
