/* /cpu-config: single bits of the processor that the guest sees. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/hypervisor/x86_template.h"

void api_forget_cpu_config(struct api *api)
{
	json_decref(api->cpu_config);
	api->cpu_config = NULL;
	if (api->cpu_config_fd)
		close(api->cpu_config_fd);
	api->cpu_config_fd = 0;
}

/* For `wisp run` to read: a file in memory with @template in it; -errno. */
static int keep_template(const json_t *template)
{
	int fd = memfd_create("cpu-config", MFD_CLOEXEC);

	if (fd >= 0 && json_dumpfd(template, fd, JSON_COMPACT) < 0) {
		close(fd);
		return -ENOMEM;
	}
	return fd < 0 ? -errno : fd;
}

bool api_check_cpu_config(const json_t *body, struct api_answer *answer)
{
	struct x86_template *template = NULL;
	struct error err = { 0 };

	if (x86_template_parse(&template, body, &err) < 0)
		api_fault(answer,
			  "An error occurred when deserializing the json body of a request: %s",
			  err.msg);
	x86_template_free(template);
	return !answer->status;
}

/* One that changes nothing takes back what was said before. */
API_HANDLER(put_cpu_config)
{
	int fd = 0;

	if (json_object_size(body) > 0)
		fd = keep_template(body);
	if (fd < 0) {
		api_fault(answer, "CPU config error: %s", strerror(-fd));
		return;
	}
	api_forget_cpu_config(api);
	if (fd) {
		api->cpu_config = json_incref(body);
		api->cpu_config_fd = fd;
	}
	/* A template by name and one of its own are one setting: the last one counts. */
	json_object_del(api->machine, "cpu_template");
	api_no_content(answer);
}

int api_name_cpu_config(struct api *api, const json_t *name, struct error *err)
{
	struct x86_template *template = NULL;
	int r;

	if (!json_is_string(name))
		return error_usage(err, -EINVAL, "cpu-config: not the name of a file");
	r = x86_template_read(&template, json_string_value(name), err);
	if (r < 0)
		return r;
	x86_template_free(template);
	api_forget_cpu_config(api);
	api->cpu_config = json_incref((json_t *)name);
	/* As above: one of them counts. */
	json_object_del(api->machine, "cpu_template");
	return 0;
}
