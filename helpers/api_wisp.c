/*
 * /wisp/v1/: what Firecracker's dialect has no words for. Small on purpose: the microVM is one of
 * `wisp ls`, and every verb of wisp's takes its name; here is what clients of the API ask for most.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"

#define MAX_CLONES 1000
#define MAX_OUTPUT (256 * 1024)

/* GET /wisp/v1/stat: the counters of `wisp stat --json`, in one object. */
API_HANDLER(wisp_stat)
{
	struct error err = { 0 };
	json_t *reply = NULL;

	if (control_ask(api->control, json_pack("{s:s}", "do", "stat"), NULL, 0, &reply, &err) <
	    0) {
		api_fault(answer, "Internal VMM error: %s", err.msg);
		return;
	}
	json_object_del(reply, "ok");
	api_ok(answer, reply);
}

/* All that comes from @fd until its end, at most @size - 1 bytes of it; NUL-terminated. */
static void read_output(int fd, char *text, size_t size)
{
	size_t len = 0;
	ssize_t n;

	do {
		n = read(fd, text + len, size - 1 - len);
		if (n > 0)
			len += n;
	} while ((n > 0 && len < size - 1) || (n < 0 && errno == EINTR));
	text[len] = '\0';
}

/* Run wisp itself with @argv and say what it said; its exit status, or -errno. */
int api_run_wisp(char *const *argv, char *text, size_t size)
{
	struct error err = { 0 };
	char path[PATH_MAX + 64];
	int out[2], status;
	sigset_t none;
	pid_t pid;

	if (api_find_wisp(path, sizeof(path), &err) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return -ENOENT;
	pid = fork();
	if (pid == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		dup2(out[1], STDOUT_FILENO);
		dup2(out[1], STDERR_FILENO);
		execv(path, argv);
		_exit(127);
	}
	close(out[1]);
	if (pid > 0)
		read_output(out[0], text, size);
	close(out[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0)
		return -EAGAIN;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/*
 * PUT /wisp/v1/clone {"count":N,"name":"STEM"}: N copies of the running microVM that share its
 * memory, called STEM-1 and so on. 200 with {"ids":[...], ...}, as `wisp clone --json` prints it.
 */
API_HANDLER(wisp_clone)
{
	json_int_t count = json_integer_value(json_object_get(body, "count"));
	const char *stem = json_string_value(json_object_get(body, "name"));
	char own[40], number[12];
	char *argv[] = { "wisp", "clone", "--json", "-n", number, "--name", own, "--", own, NULL };
	char *text;
	json_t *clones;

	if (!json_object_get(body, "count"))
		count = 1;
	if (count < 1 || count > MAX_CLONES) {
		api_fault(answer, "Clone error: 'count' is from 1 to %d.", MAX_CLONES);
		return;
	}
	text = calloc(1, MAX_OUTPUT);
	if (!text) {
		api_fault(answer, "Clone error: no memory");
		return;
	}
	api_name(api, own, sizeof(own));
	snprintf(number, sizeof(number), "%lld", (long long)count);
	argv[6] = stem ? (char *)stem : own;
	if (api_run_wisp(argv, text, MAX_OUTPUT) == 0 && (clones = json_loads(text, 0, NULL))) {
		api_ok(answer, clones);
	} else {
		text[strcspn(text, "\n")] = '\0';
		api_fault(answer, "Clone error: %s", text);
	}
	free(text);
}
