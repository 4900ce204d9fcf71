#include "vmm/control/control_reset.h"

#include <errno.h>
#include <unistd.h>

#include "vmm/machine/machine_internal.h"
#include "vmm/saved/reset_devices.h"
#include "vmm/saved/reset_point.h"

#define MAX_KEPT 64

static int set_point(struct control_call *call, struct reset_result *ret, struct error *err)
{
	struct machine *m = control_machine(call);
	unsigned num = reset_devices_files(m->config);
	int fd = control_take_fd(call, 0), disk_fds[CONFIG_MAX_DISKS], r = 0;

	if (fd < 0)
		return error_set(err, -EBADF, "the request came without its file");
	for (unsigned i = 0; i < num; i++)
		disk_fds[i] = control_take_fd(call, 1 + i);
	if (num && disk_fds[num - 1] < 0)
		r = error_set(err, -EBADF, "the request came without files for %u disks", num);
	if (!r)
		r = reset_point_set(m, fd, disk_fds, &ret->pages, err);
	for (unsigned i = 0; i < num; i++)
		if (disk_fds[i] >= 0)
			close(disk_fds[i]);
	close(fd);
	return r;
}

/* [[ADDRESS,BYTES],...] into @kept, which has room for MAX_KEPT. Their number, or -EINVAL. */
static int read_kept(struct control_call *call, struct reset_kept *kept, struct error *err)
{
	const json_t *list = json_object_get(control_args(call), "keep");
	size_t num = json_array_size(list);

	if ((list && !json_is_array(list)) || num > MAX_KEPT)
		return error_set(err, -EINVAL, "'keep' is not a list of at most %d ranges",
				 MAX_KEPT);
	for (size_t i = 0; i < num; i++) {
		const json_t *range = json_array_get(list, i);
		json_int_t gpa = json_integer_value(json_array_get(range, 0));
		json_int_t size = json_integer_value(json_array_get(range, 1));

		if (json_array_size(range) != 2 || gpa < 0 || size <= 0)
			return error_set(err, -EINVAL, "'keep' %zu is not an address and a size",
					 i);
		kept[i] = (struct reset_kept){ .gpa = gpa, .size = size };
	}
	return num;
}

static int go_back(struct control_call *call, struct reset_result *ret, struct error *err)
{
	struct reset_kept kept[MAX_KEPT];
	struct reset_params params = { .kept = kept };
	struct reset_point *point;
	bool realtime;
	int r;

	/* Their types were looked at before the pause. */
	control_arg_bool(call, "identical", false, &params.identical);
	control_arg_bool(call, "realtime", false, &realtime);
	params.clock = realtime ? MACHINE_CLOCK_REALTIME : MACHINE_CLOCK_CONTINUE;
	r = read_kept(call, kept, err);
	if (r < 0)
		return r;
	params.num_kept = r;
	point = reset_point_of(control_machine(call), err);
	return point ? reset_point_go_back(point, &params, ret, err) : err->code;
}

/* @resume: it ran before. */
static void carry_out(struct control_call *call, bool resume)
{
	uint64_t start_ns = clock_monotonic_ns(NULL), stood_us;
	struct machine *m = control_machine(call);
	struct reset_result result = { 0 };
	struct error err = { 0 };
	bool set;
	int r;

	if (machine_check_paused(m, &err) < 0) {
		control_fail_error(call, &err);
		return;
	}
	control_arg_bool(call, "set", false, &set);
	r = set ? set_point(call, &result, &err) : go_back(call, &result, &err);
	/* What is half of one state and half of another has been told to end. */
	if (resume && !atomic_load(&m->ending))
		machine_resume(m);
	stood_us = (clock_monotonic_ns(NULL) - start_ns) / 1000;
	if (r < 0)
		control_fail_error(call, &err);
	else
		control_reply(call, json_pack("{s:I, s:I, s:I}", "pages", (json_int_t)result.pages,
					      "runs", (json_int_t)result.runs, "us",
					      (json_int_t)stood_us));
}

static void now_paused(void *call)
{
	carry_out(call, true);
}

void control_verb_reset(struct control_call *call)
{
	struct machine *m = control_machine(call);
	bool flag;

	if (control_arg_bool(call, "set", false, &flag) < 0 ||
	    control_arg_bool(call, "identical", false, &flag) < 0 ||
	    control_arg_bool(call, "realtime", false, &flag) < 0)
		return;
	if (machine_is_paused(m))
		carry_out(call, false);
	else
		machine_pause(m, now_paused, call);
}
