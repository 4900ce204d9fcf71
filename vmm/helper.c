#include "vmm/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/default_guest.h"

/* How long a helper may take to answer; it has to load its libraries first, maybe. */
#define ANSWER_MS 10000

/* Options per network beyond the forwards, each with its value, and NULL. */
#define MAX_ARGS (26 + 2 * CONFIG_MAX_FORWARDS + 2 * CONFIG_MAX_SEARCH)

/* Beside this executable, or where `make install` puts helpers. */
static const char *const places[] = { "%s/%s", "%s/../libexec/wisp/%s" };

int helper_find(const char *name, char *path, size_t size, struct error *err)
{
	char dir[PATH_MAX];
	int r = executable_dir(dir, sizeof(dir));

	if (r < 0)
		return error_set(err, r, "/proc/self/exe: %m");
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(path, size, places[i], dir, name);
#pragma GCC diagnostic pop
		if (access(path, X_OK) == 0)
			return 0;
	}
	error_kind_set(err, ERROR_START, -ENOENT, "helper '%s' is not beside the executable in %s",
		       name, dir);
	error_hint(err, "'make' builds it, 'make install' puts it where it is looked for");
	return -ENOENT;
}

int helper_exec(const char *name, char *const *argv, struct error *err)
{
	char path[PATH_MAX + 64];
	int r = helper_find(name, path, sizeof(path), err);

	if (r < 0)
		return r;
	execv(path, argv);
	return error_kind_set(err, ERROR_START, -errno, "helper '%s': %m", name);
}

/*
 * In the child of a helper that starts late: wait for the guest's first frame, or for a word from
 * outside. No descriptor but the helper's own stays open, or the monitor's end of the socket could
 * never close.
 */
static void await_first_frame(int socket, int listening)
{
	struct pollfd p[] = { { .fd = socket, .events = POLLIN },
			      { .fd = listening, .events = POLLIN } };

	prctl(PR_SET_NAME, "wisp-net (idle)");
	/* In the place of the status descriptor may be anything, the monitor's end too. */
	close(socket + 1);
	close_range(listening < 0 ? socket + 1 : listening + 1, ~0u, 0);
	while (poll(p, ARRAY_SIZE(p), -1) < 0 && errno == EINTR)
		;
	if (p[0].revents & POLLHUP)
		_exit(0);
}

/* A descriptor that is none of those that the helper's own become. */
static int out_of_the_way(int fd)
{
	return fd > 5 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 6);
}

/*
 * In the child: only the descriptors of its own survive, as 3, 4 and, where it can be found for
 * changes, 5. Without @status it starts late.
 */
static void exec_helper(const struct helper *h, const char *path, char *const *argv, int socket,
			int status)
{
	char name[sizeof(h->name) + sizeof(HELPER_SOCKET)];
	int listening = -1;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Terminal signals are the parent's to act on. */
	setpgid(0, 0);
	/* First of all, so that none overwrites another. */
	socket = out_of_the_way(socket);
	if (status >= 0)
		status = out_of_the_way(status);
	/* Made here, where nobody waits for it. Without it the network works as well. */
	if (h->dir) {
		snprintf(name, sizeof(name), HELPER_SOCKET, h->name);
		listening = run_dir_listen(h->dir, name);
	}
	if (listening >= 0)
		listening = out_of_the_way(listening);
	if (dup2(socket, 3) < 0 || (status >= 0 && dup2(status, 4) < 0) ||
	    (listening >= 0 && dup2(listening, 5) < 0))
		_exit(127);
	if (listening < 0)
		close(5);
	if (status < 0)
		await_first_frame(3, listening < 0 ? -1 : 5);
	/* All symbols at once: looked up later, they would keep every library's tables mapped. */
	setenv("LD_BIND_NOW", "1", 1);
	execv(path, argv);
	_exit(127);
}

static int spawn(struct helper *h, const char *name, char *const *argv, bool late, int *ret_fd,
		 struct error *err)
{
	char path[PATH_MAX + 64];
	int pair[2] = { -1, -1 }, status[2] = { -1, -1 };
	int r = helper_find(name, path, sizeof(path), err);

	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ||
	    (!late && pipe2(status, O_CLOEXEC) < 0)) {
		r = error_kind_set(err, ERROR_START, -errno, "helper '%s': %m", name);
		goto fail;
	}
	h->pid = fork();
	if (h->pid < 0) {
		h->pid = 0;
		r = error_kind_set(err, ERROR_START, -errno, "helper '%s': cannot fork: %m", name);
		goto fail;
	}
	if (h->pid == 0)
		exec_helper(h, path, argv, pair[1], status[1]);
	close(pair[1]);
	if (!late)
		close(status[1]);
	h->status_fd = status[0];
	h->monitor_fd = h->stays ? fcntl(pair[0], F_DUPFD_CLOEXEC, 3) : -1;
	*ret_fd = pair[0];
	return 0;
fail:
	for (unsigned i = 0; i < 2; i++) {
		if (pair[i] >= 0)
			close(pair[i]);
		if (status[i] >= 0)
			close(status[i]);
	}
	return r;
}

void helper_print_forward(char *buf, size_t size, const struct config_forward *f)
{
	bool v6 = strchr(f->host_addr, ':') != NULL;

	snprintf(buf, size, "%s:%s%s%s:%u-:%u", f->udp ? "udp" : "tcp", v6 ? "[" : "",
		 f->host_addr, v6 ? "]" : "", f->host_port, f->guest_port);
}

/* The monitor's end once more, of a helper from the guest's last life; -1 when none runs. */
static int take_up(struct helper *h)
{
	int fd = -1;

	if (h->pid <= 0)
		return -1;
	if (h->monitor_fd >= 0 && waitpid(h->pid, NULL, WNOHANG) == 0)
		fd = fcntl(h->monitor_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		helper_stop(h);
	return fd;
}

int helper_start_net(struct helper *h, const struct config_net *net, int *ret_fd,
		     struct error *err)
{
	char forward[CONFIG_MAX_FORWARDS][HELPER_FORWARD_TEXT];
	char mtu[8];
	const char *argv[MAX_ARGS];
	/* Forwards are bound at once: what keeps them from it is the user's to know. */
	bool late = net->num_forwards == 0;
	unsigned n = 0;
	int fd = take_up(h);

	if (fd >= 0) {
		*ret_fd = fd;
		return 0;
	}
	snprintf(h->name, sizeof(h->name), "%s", net->id);
	argv[n++] = "wisp-net";
	argv[n++] = "--fd";
	argv[n++] = "3";
	if (!late) {
		argv[n++] = "--status-fd";
		argv[n++] = "4";
	}
	if (h->dir) {
		argv[n++] = "--control-fd";
		argv[n++] = "5";
	}
	for (unsigned i = 0; i < net->num_forwards; i++) {
		helper_print_forward(forward[i], sizeof(forward[i]), &net->forward[i]);
		argv[n++] = "--hostfwd";
		argv[n++] = forward[i];
	}
	if (net->subnet) {
		argv[n++] = "--net";
		argv[n++] = net->subnet;
	}
	if (net->dns) {
		argv[n++] = "--dns";
		argv[n++] = net->dns;
	}
	for (unsigned i = 0; i < net->num_search; i++) {
		argv[n++] = "--search";
		argv[n++] = net->search[i];
	}
	if (net->restrict_out)
		argv[n++] = "--restrict";
	if (net->host_loopback)
		argv[n++] = "--host-loopback";
	if (net->mtu) {
		snprintf(mtu, sizeof(mtu), "%u", net->mtu);
		argv[n++] = "--mtu";
		argv[n++] = mtu;
	}
	if (h->no_sandbox)
		argv[n++] = "--no-sandbox";
	argv[n] = NULL;
	return spawn(h, argv[0], (char *const *)argv, late, ret_fd, err);
}

int helper_await_ready(struct helper *h, struct error *err)
{
	char text[256];
	size_t len = 0;
	ssize_t n;

	/* One that was never started, zeroed as it is, has none either. */
	if (h->pid <= 0 || h->status_fd < 0)
		return 0;
	do {
		n = read(h->status_fd, text + len, sizeof(text) - 1 - len);
		if (n > 0)
			len += n;
	} while ((n > 0 && !memchr(text, '\n', len)) || (n < 0 && errno == EINTR));
	close(h->status_fd);
	while (len > 0 && text[len - 1] == '\n')
		len--;
	text[len] = '\0';
	if (strcmp(text, "ready") == 0)
		return 0;
	if (len == 0)
		return error_kind_set(err, ERROR_START, -ECHILD,
				      "network '%s': its helper ended before it was ready",
				      h->name);
	return error_usage(err, -EADDRINUSE, "--net: %s", text);
}

/* What the helper of @machine's network @id answers to @text, behind "ok"; its refusal is @err. */
static int ask(const char *run_dir, const char *machine, const char *id, const char *text,
	       char *answer, size_t size, struct error *err)
{
	struct pollfd p = { .events = POLLIN };
	char name[32];
	ssize_t n = -1;
	int r;

	snprintf(name, sizeof(name), HELPER_SOCKET, id);
	r = p.fd = run_dir_connect(run_dir, machine, name, SOCK_SEQPACKET, err);
	if (r < 0) {
		if (r == -ENOENT)
			error_hint(err, "only networks of kind user have forwards");
		return r;
	}
	if (send(p.fd, text, strlen(text), MSG_NOSIGNAL) > 0 && poll(&p, 1, ANSWER_MS) > 0)
		n = recv(p.fd, answer, size, MSG_DONTWAIT | MSG_TRUNC);
	close(p.fd);
	if (n <= 0)
		return error_set(err, -ETIMEDOUT, "network '%s': its helper does not answer", id);
	if ((size_t)n >= size)
		return error_set(err, -EMSGSIZE, "network '%s': its helper says too much", id);
	answer[n] = '\0';
	if (strncmp(answer, "ok", 2) != 0)
		return error_set(err, -EADDRINUSE, "network '%s': %s", id, answer);
	memmove(answer, answer + 2, n - 1);
	return 0;
}

int helper_forward(const char *run_dir, const char *machine, const char *id, const char *action,
		   const struct config_forward *f, struct error *err)
{
	char rule[HELPER_FORWARD_TEXT], text[128], answer[256];

	helper_print_forward(rule, sizeof(rule), f);
	snprintf(text, sizeof(text), "%s %s", action, rule);
	return ask(run_dir, machine, id, text, answer, sizeof(answer), err);
}

int helper_list_forwards(const char *run_dir, const char *machine, const char *id, char *buf,
			 size_t size, struct error *err)
{
	return ask(run_dir, machine, id, "list", buf, size, err);
}

void helper_mourn(struct helper *h)
{
	int status;

	if (h->pid <= 0 || waitpid(h->pid, &status, WNOHANG) != h->pid)
		return;
	if (h->monitor_fd >= 0)
		close(h->monitor_fd);
	h->monitor_fd = -1;
	h->pid = 0;
	/* The end of the monitor's socket is its own in good order. */
	if (WIFSIGNALED(status))
		log_warn("network '%s': its helper was killed by signal %d: nothing comes or goes "
			 "there any more",
			 h->name, WTERMSIG(status));
	else if (WEXITSTATUS(status))
		log_warn("network '%s': its helper has ended: nothing comes or goes there any more",
			 h->name);
}

void helper_stop(struct helper *h)
{
	if (h->pid <= 0)
		return;
	if (h->monitor_fd >= 0)
		close(h->monitor_fd);
	/* Nothing in it needs an orderly end; it may have ended, and the id be another's. */
	if (waitpid(h->pid, NULL, WNOHANG) == 0) {
		kill(h->pid, SIGKILL);
		while (waitpid(h->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	h->pid = 0;
}
