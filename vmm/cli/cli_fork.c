/*
 * Forks of a running microVM from the outside: the ends that each has of its own (control socket,
 * consoles, disks, networks), and the process that stays with it in the background, as the parent
 * of a detached microVM does.
 */
#include "vmm/cli/cli_fork.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/config/config_state.h"
#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/core/io.h"
#include "vmm/launch_files.h"
#include "vmm/net_ends.h"
#include "vmm/run_dir.h"
#include "vmm/saved/snapshot.h"
#include "vmm/share.h"

void cli_fork_close(struct cli_fork *c)
{
	for (unsigned i = 0; i < 2; i++) {
		if (c->go[i] >= 0)
			close(c->go[i]);
		if (c->nursery[i] >= 0)
			close(c->nursery[i]);
		c->go[i] = c->nursery[i] = -1;
	}
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		if (c->base_fd[i] >= 0) {
			close(c->base_fd[i]);
			c->base_fd[i] = -1;
		}
	cli_disks_done(&c->disks);
}

/* ---- while the guest is paused ---- */

/* One copy of each disk that can change; the forks' own are made of that when it runs again. */
static void guest_is_paused(void *arg, const json_t *progress)
{
	struct cli_fork *c = arg;
	int r = 0;

	if (c->go[1] < 0)
		return;
	for (unsigned i = 0; i < c->disks.num && r >= 0; i++) {
		const struct cli_disk *d = &c->disks.disk[i];
		bool copied;

		if (!cli_disk_is_copied(d, CLI_DISKS_CLONE))
			continue;
		r = c->base_fd[i] = snapshot_private_disk(d->fd, d->path, d->direct, &copied);
		if (r < 0)
			error_set(&c->err, r, "disk '%s': cannot be copied: %m", d->path);
	}
	if (r >= 0 && write(c->go[1], "", 1) != 1)
		error_set(&c->err, -errno, "the monitor does not wait: %m");
	close(c->go[1]);
	c->go[1] = -1;
}

/* ---- the ends of one clone ---- */

/* A socket that listens under @name in the run directory. */
static int listen_at(const struct run_dir *dir, const char *name, struct error *err)
{
	char path[PATH_MAX];
	int fd = -ENAMETOOLONG;

	if (snprintf(path, sizeof(path), "%s/%s", dir->path, name) < (int)sizeof(path))
		fd = io_listen(path, SOCK_STREAM, 0, 1);
	return fd < 0 ? error_set(err, fd, "%s: cannot listen: %m", name) : fd;
}

static int open_disk(struct cli_fork *c, unsigned i, struct error *err)
{
	const struct cli_disk *d = &c->disks.disk[i];
	bool copied;
	int r;

	/* The only clone can have what was copied while the guest stood still. */
	if (d->read_only || c->only)
		return fcntl(d->read_only ? d->fd : c->base_fd[i], F_DUPFD_CLOEXEC, 3);
	r = snapshot_private_disk(c->base_fd[i], d->path, d->direct, &copied);
	return r < 0 ? error_set(err, r, "disk '%s': cannot be copied: %m", d->path) : r;
}

/* Its own helper for user networking; a tap or a switch's port is not there twice. */
static int open_net(const struct cli_fork *c, const struct config_net *net, struct helper *h,
		    struct error *err)
{
	struct config_net own = *net;
	struct net_ends ends;
	int r;

	/* The host's ports are the original's. */
	own.num_forwards = 0;
	if (net->kind == CONFIG_NET_USER)
		r = net_ends_open(&ends, &own, &c->config, h, err);
	else
		r = net_ends_open_nothing(&ends, err);
	return r < 0 ? r : ends.socket;
}

/* What is one clone's: processes that work for it, and files beneath its disks. */
struct own {
	struct helper helper[CONFIG_MAX_NETS];
	struct share share[CONFIG_MAX_SHARES];
	struct block_chain beneath[CONFIG_MAX_DISKS]; /* their descriptors have gone elsewhere */
};

/* Its disk @i with all that is beneath it, to @fds. Returns how many, or -errno. */
static int open_disk_whole(struct cli_fork *c, unsigned i, struct block_chain *beneath, int *fds,
			   unsigned room, struct error *err)
{
	int r = fds[0] = open_disk(c, i, err);
	unsigned num = 1;

	/* As it was opened for the original: what lies where may have changed since. */
	if (r >= 0)
		r = launch_open_beneath(&c->config.disk[i], fds[0], beneath, err);
	if (r < 0)
		return r;
	if (1 + beneath->num > room)
		return error_usage(err, -EMFILE, "disk '%s': too many files beneath for a clone",
				   c->config.disk[i].path);
	for (unsigned k = 0; k < beneath->num; k++) {
		fds[num++] = beneath->file[k].fd;
		beneath->file[k].fd = -1;
	}
	return num;
}

/* All descriptors of a clone in the order of vmm/saved/clone.h. Returns how many, or -errno. */
static int open_ends(struct cli_fork *c, const struct run_dir *dir, int alive, struct own *own,
		     int *fds, struct error *err)
{
	const struct machine_config *config = &c->config;
	char *log = run_dir_file(dir, RUN_DIR_LOG);
	int num = 0, r;

	fds[num++] = dir->listen_fd;
	fds[num++] = alive;
	r = log ? open(log, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
	free(log);
	if (r < 0)
		return error_set(err, -errno, "log: %m");
	fds[num++] = r;
	if (config->console_present && r >= 0)
		r = fds[num++] = listen_at(dir, RUN_DIR_CONSOLE, err);
	if (config->serial_present && r >= 0)
		r = fds[num++] =
			listen_at(dir, config->console_present ? "serial.sock" : RUN_DIR_CONSOLE,
				  err);
	for (unsigned i = 0; i < config->num_disks && r >= 0; i++) {
		/* One more of each network, share and vsock at least follows. */
		r = open_disk_whole(c, i, &own->beneath[i], &fds[num],
				    CONTROL_MAX_FDS - num - (config->num_disks - i - 1) -
					    config->num_nets - config->num_shares - 1,
				    err);
		num += MAX(r, 0);
	}
	for (unsigned i = 0; i < config->num_nets && r >= 0; i++)
		r = fds[num++] = open_net(c, &config->net[i], &own->helper[i], err);
	for (unsigned i = 0; i < config->num_shares && r >= 0; i++) {
		r = share_start(&own->share[i], &config->share[i], &fds[num], err);
		num += r >= 0;
	}
	/* The guest reaches nobody by it: who opens sockets for it is the original's. */
	if (config->vsock_present && r >= 0)
		r = fds[num++] = listen_at(dir, "vsock.sock", err);
	return r < 0 ? r : num;
}

/* For each disk the formats of what is beneath it. */
static json_t *formats_beneath(const struct cli_fork *c, const struct own *own)
{
	json_t *disks = json_array();

	for (unsigned i = 0; i < c->config.num_disks; i++) {
		json_t *formats = json_array();

		for (unsigned k = 0; k < own->beneath[i].num; k++)
			json_array_append_new(formats,
					      json_integer(own->beneath[i].file[k].format));
		json_array_append_new(disks, formats);
	}
	return disks;
}

/* The clone's process, or -errno. */
static int ask_nursery(struct cli_fork *c, const char *name, const struct own *own, const int *fds,
		       unsigned num, struct error *err)
{
	json_t *request = json_pack("{s:s, s:b, s:o}", "name", name, "paused", c->paused, "beneath",
				    formats_beneath(c, own)),
	       *answer;
	char *text = json_dumps(request, JSON_COMPACT), buf[512];
	unsigned none;
	ssize_t n = text ? control_send(c->nursery[1], text, strlen(text), fds, num, 0) : -ENOMEM;
	const char *why;
	int pid;

	json_decref(request);
	free(text);
	if (n >= 0)
		n = control_receive(c->nursery[1], buf, sizeof(buf), NULL, 0, &none, 0);
	if (n <= 0)
		return error_set(err, n ? (int)n : -ECONNRESET, "the nursery is gone: %m");
	answer = json_loadb(buf, n, 0, NULL);
	why = json_string_value(json_object_get(answer, "error"));
	pid = (int)json_integer_value(json_object_get(answer, "pid"));
	if (why || pid <= 0)
		pid = error_set(err, -ECHILD, "cannot be forked: %s", why ? why : "no answer");
	json_decref(answer);
	return pid;
}

/* ---- its keeper ---- */

/* Helpers live as long as the process that started them: wait for the clone's end. */
static void keep(int alive)
{
	struct pollfd p = { .fd = alive, .events = POLLIN };

	/* Whatever keeps us from looking: left alone, a clone would not be found by anybody. */
	while (poll(&p, 1, -1) <= 0)
		;
}

/* In the background: tells @started when it runs (one byte), or nothing. */
static int be_keeper(struct cli_fork *c, const char *name, int started)
{
	struct own own = { 0 };
	struct run_dir dir = { .listen_fd = -1 };
	int fds[CONTROL_MAX_FDS + 8] = { 0 }, alive[2] = { -1, -1 }, num;
	struct error err = { 0 };
	bool heard;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int complaints = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	int r = null < 0 ? error_set(&err, -errno, "/dev/null: %m")
			 : run_dir_create(&dir, c->run_dir, name, &err);

	/* Before the helpers: who reads what the verb prints waits until nobody can write there. */
	setsid();
	for (int fd = STDIN_FILENO; !r && fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	if (!r && pipe2(alive, O_CLOEXEC) < 0)
		r = error_set(&err, -errno, "pipe: %m");
	if (!r) {
		num = open_ends(c, &dir, alive[1], &own, fds, &err);
		r = num < 0 ? num : ask_nursery(c, name, &own, fds, num, &err);
		/* It is no child of ours, who listen. */
		if (r > 0)
			run_dir_note_monitor(&dir, r);
		/* What is the clone's is closed here: its helpers and we notice its end by that. */
		for (int i = 1; i < num; i++)
			close(fds[i]);
	}
	if (r < 0) {
		error_prefix(&err, "clone '%s'", name);
		dup2(complaints, STDERR_FILENO);
		error_print(&err);
		run_dir_remove(&dir);
		return error_status(&err);
	}
	close(null);
	close(complaints);
	run_dir_inherit(&dir);
	cli_fork_close(c);
	/* Else who waits would do so for ever, and nobody know of the clone: it ends with us. */
	heard = write(started, "", 1) == 1;
	close(started);
	if (heard)
		keep(alive[0]);
	for (unsigned i = 0; i < c->config.num_nets; i++)
		helper_stop(&own.helper[i]);
	for (unsigned i = 0; i < c->config.num_shares; i++)
		share_stop(&own.share[i]);
	for (unsigned i = 0; i < c->config.num_disks; i++)
		block_chain_close(&own.beneath[i]);
	run_dir_remove(&dir);
	return 0;
}

int cli_fork_start(struct cli_fork *c, const char *name)
{
	int started[2], status, r = config_check_name("clone", name, &c->err);
	pid_t pid;
	char byte;
	ssize_t n;

	if (r < 0)
		return r;
	if (pipe2(started, O_CLOEXEC) < 0)
		return error_set(&c->err, -errno, "pipe: %m");
	pid = fork();
	if (pid < 0)
		return error_set(&c->err, -errno, "cannot fork: %m");
	if (pid == 0) {
		close(started[0]);
		if (c->leave)
			c->leave(c->leave_arg);
		_exit(be_keeper(c, name, started[1]));
	}
	close(started[1]);
	do
		n = read(started[0], &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		error_set(&c->err, -errno, "clone '%s': its keeper: %m", name);
	close(started[0]);
	if (n == 1)
		return 0;
	/* It has said why, or cannot be heard and is to end as well. */
	if (n < 0)
		kill(pid, SIGTERM);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (n == 0 && WIFEXITED(status) && !WEXITSTATUS(status))
		error_set(&c->err, -ECHILD, "clone '%s': its keeper could not be heard", name);
	return -ECHILD;
}

/* ---- the whole ---- */

/* The options that the original was made of say which ends there are. */
static int read_config(struct cli_fork *c)
{
	json_t *args = json_object_get(c->disks.reply, "args"), *arg;
	const char *dir = json_string_value(json_object_get(c->disks.reply, "directory"));
	const char **argv = calloc(json_array_size(args) + 1, sizeof(*argv));
	size_t i;
	int r;

	if (!argv)
		return error_set(&c->err, -ENOMEM, "configuration: %m");
	json_array_foreach(args, i, arg) argv[i] = json_string_value(arg);
	r = config_load_args(&c->config, json_array_size(args), (char *const *)argv,
			     dir ? dir : "/", &c->err);
	free(argv);
	if (!r && c->config.num_disks != c->disks.num)
		r = error_set(&c->err, -EBADMSG, "the monitor's answer makes no sense");
	return r;
}

static int fork_nursery(struct cli_fork *c, int sock, json_t **ret_reply)
{
	struct control_extra extra = { .progress = guest_is_paused, .arg = c, .give_up_fd = -1 };
	struct error err = { 0 };
	int fds[2], r;

	if (pipe2(c->go, O_CLOEXEC) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, c->nursery) < 0)
		return error_set(&c->err, -errno, "socket: %m");
	fds[0] = c->go[0];
	fds[1] = c->nursery[0];
	r = control_ask_extra(sock,
			      json_pack("{s:s, s:I}", "do", "clone", "generation",
					cli_disks_generation(&c->disks)),
			      fds, 2, ret_reply, &extra, &err);
	close(c->nursery[0]);
	c->nursery[0] = -1;
	if (r < 0 && !c->err.code)
		c->err = err;
	return r;
}

void cli_fork_init(struct cli_fork *c, const char *run_dir)
{
	*c = (struct cli_fork){ .run_dir = run_dir, .go = { -1, -1 }, .nursery = { -1, -1 } };
	config_init(&c->config);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		c->base_fd[i] = -1;
}

int cli_fork_take(struct cli_fork *c, int sock, json_t **ret_reply)
{
	int r = cli_disks_get(&c->disks, sock, &c->err);

	if (!r)
		r = cli_disks_refuse(&c->disks, CLI_DISKS_CLONE, &c->err);
	if (!r)
		r = read_config(c);
	if (!r && c->check)
		r = c->check(c->check_arg, &c->config, &c->err);
	return r ? r : fork_nursery(c, sock, ret_reply);
}

void cli_fork_done(struct cli_fork *c)
{
	cli_fork_close(c);
	config_done(&c->config);
}
