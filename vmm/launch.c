#include "vmm/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/nbd.h"
#include "devices/terminal.h"
#include "devices/vsock_broker.h"
#include "vmm/control/report_file.h"
#include "vmm/core/text.h"
#include "vmm/debug/gdb.h"
#include "vmm/detach.h"
#include "vmm/fleet/resources.h"
#include "vmm/helper.h"
#include "vmm/hypervisor/hv_null.h"
#include "vmm/hypervisor/kvm.h"
#include "vmm/launch_files.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_copies.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/monitor.h"
#include "vmm/nbd_dial.h"
#include "vmm/outputs.h"
#include "vmm/recorder.h"
#include "vmm/run_dir.h"
#include "vmm/sandbox/orphan.h"
#include "vmm/saved/demand.h"
#include "vmm/share.h"

/* What there is beside the monitor during a life of its guest; helpers may outlive it. */
struct life {
	struct helper helpers[CONFIG_MAX_NETS];
	struct share shares[CONFIG_MAX_SHARES];
	struct nbd_dialer dialers[CONFIG_MAX_DISKS];
	struct report_file metrics;
	struct stat vsock; /* its listening socket; st_ino 0: there is none */
	bool listening;	   /* for a debugger */
};

/* Who connects to servers again. */
static int open_dialers(const struct machine_config *c, struct machine_files *files,
			struct nbd_dialer *dialers, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < c->num_disks && !r; i++)
		if (nbd_is_uri(c->disk[i].path) && c->disk[i].reconnect_seconds)
			r = nbd_dialer_open(&dialers[i], c->disk[i].path, &files->dialer[i], err);
	return r;
}

static void close_dialers(const struct machine_config *c, struct nbd_dialer *dialers)
{
	for (unsigned i = 0; i < c->num_disks; i++)
		nbd_dialer_close(&dialers[i]);
}

/* In its first life here, a machine that does so. */
static bool listens_later(const struct monitor_params *params, const struct launch_ends *ends)
{
	return ends && ends->listens_later && params->image;
}

/* Helpers start first, so that they get ready while the files are opened. */
static int start_helpers(const struct monitor_params *params, const struct launch_ends *ends,
			 const struct run_dir *dir, struct life *life, struct error *err)
{
	const struct machine_config *c = params->config;
	struct machine_files *files = params->files;
	struct helper *helpers = life->helpers;
	struct share *shares = life->shares;
	int r = 0;

	for (unsigned i = 0; i < c->num_nets && !r; i++) {
		struct config_net net = c->net[i];

		if (listens_later(params, ends))
			net.num_forwards = 0;
		if (params->image && ends->tap_fds && ends->tap_fds[i] >= 0) {
			net.tap_fd_given = true;
			net.tap_fd = ends->tap_fds[i];
			net.tap_offloads = ends->tap_offloads[i];
		}
		helpers[i].no_sandbox = c->sandbox == SANDBOX_OFF;
		helpers[i].stays = c->reboot_resets;
		helpers[i].dir = dir->listen_fd < 0 ? NULL : dir;
		if (ends && ends->unplugged && c->net[i].kind != CONFIG_NET_USER)
			r = net_ends_open_nothing(&files->net[i], err);
		else
			r = net_ends_open(&files->net[i], &net, c, &helpers[i], err);
	}
	for (unsigned i = 0; i < c->num_shares && !r; i++) {
		shares[i].no_filter = c->sandbox == SANDBOX_OFF;
		r = share_start(&shares[i], &c->share[i], &files->share[i], err);
	}
	return r;
}

static int await_helpers(const struct machine_config *c, struct helper *helpers, bool restored,
			 struct error *err)
{
	for (unsigned i = 0; i < c->num_nets; i++) {
		int r = helper_await_ready(&helpers[i], err);

		/* Who was saved may go on with them. */
		if (r < 0 && restored && c->net[i].num_forwards)
			error_hint(err,
				   "'wisp restore --clone 1' restores it without its forwards");
		if (r < 0)
			return r;
	}
	return 0;
}

/* When the guest @goes_on in another life, its networks do too. */
static void stop_helpers(const struct machine_config *c, struct helper *helpers,
			 struct share *shares, bool goes_on)
{
	for (unsigned i = 0; i < c->num_shares; i++)
		share_stop(&shares[i]);
	for (unsigned i = 0; i < c->num_nets && !goes_on; i++)
		helper_stop(&helpers[i]);
}

/*
 * Block the signals that the parent waits for (@set), from before the fork on.
 * Returns the monitor's signalfd, or -1.
 */
static int block_signals(sigset_t *set)
{
	static const int numbers[] = MONITOR_END_SIGNALS;

	struct sigaction action;
	int fd;

	sigemptyset(set);
	sigaddset(set, SIGWINCH);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		/* Whoever had us ignore it (nohup) knows why; blocked, it would not be ignored. */
		sigaction(numbers[i], NULL, &action);
		if (action.sa_handler != SIG_IGN)
			sigaddset(set, numbers[i]);
	}
	/* For the monitor: it reads the signals of the process that reads it. */
	fd = signalfd(-1, set, SFD_NONBLOCK | SFD_CLOEXEC);
	sigaddset(set, SIGCHLD);
	sigaddset(set, SIGIO);
	sigprocmask(SIG_BLOCK, set, NULL);
	return fd;
}

/* Those that come with a guest, in its first life here; or NULL. */
static struct migrate_copies *copies_of(const struct monitor_params *params)
{
	return params->image && params->image->arrival ? params->image->arrival->copies : NULL;
}

static void mourn(struct life *life, const struct machine_config *c)
{
	for (unsigned i = 0; i < c->num_nets; i++)
		helper_mourn(&life->helpers[i]);
	for (unsigned i = 0; i < c->num_shares; i++)
		share_mourn(&life->shares[i], &c->share[i]);
}

/*
 * Wait for the monitor, passing signals on and opening sockets for it. Returns its wait status;
 * @signal is the last one that asked for the end.
 */
static int await_monitor(const struct monitor_params *params, struct life *life, pid_t monitor,
			 const sigset_t *set, int *signal)
{
	struct migrate_copies *copies = copies_of(params);
	const struct timespec none = { 0 };
	bool more = false;
	siginfo_t info;
	int status, n;

	for (;;) {
		n = more ? sigtimedwait(set, &info, &none) : sigwaitinfo(set, &info);
		/* Nobody signals again what waits already; all that is more urgent came first. */
		if (n < 0 && more)
			info.si_signo = SIGIO;
		else if (n < 0)
			continue;
		if (copies)
			migrate_copies_serve(copies);
		for (unsigned i = 0; i < params->config->num_disks; i++)
			nbd_dialer_serve(&params->dialer[i]);
		if (info.si_signo == SIGCHLD) {
			if (waitpid(monitor, &status, WNOHANG) == monitor)
				return status;
			mourn(life, params->config);
			continue;
		}
		if (info.si_signo == SIGIO) {
			more = params->broker_fd >= 0 &&
			       vsock_broker_serve(params->broker_fd,
						  params->config->vsock.path) > 0;
			continue;
		}
		if (info.si_signo != SIGWINCH)
			*signal = info.si_signo;
		kill(monitor, info.si_signo);
	}
}

/* What the monitor bound, it cannot remove: no path leads out of its sandbox. */
static void remove_sockets(const struct machine_config *c)
{
	if (c->serial_present && c->serial.kind == CHARDEV_SOCKET)
		unlink(c->serial.path);
	if (c->console_present && c->console.kind == CHARDEV_SOCKET)
		unlink(c->console.path);
}

/* In the child of the fork. */
static _Noreturn void be_monitor(const struct monitor_params *params)
{
	/* Ends in good order when the parent is killed; it may be already. */
	orphan_begin();
	if (getppid() != params->parent)
		_exit(1);
	if (params->broker_fd >= 0)
		close(params->broker_fd);
	close_dialers(params->config, params->dialer);
	if (copies_of(params))
		migrate_copies_in_monitor(copies_of(params));
	exit(monitor_main(params));
}

/* What the monitor has is to be its own alone, and to go with it. */
static void let_go_in_parent(struct monitor_params *params)
{
	const struct machine_image *image = params->image;

	close(params->signal_fd);
	if (params->started_fd >= 0)
		close(params->started_fd);
	params->started_fd = -1;
	machine_files_close(params->files);
	/* A source is to see the monitor's end at once, and its memory to go with the monitor. */
	if (image && image->arrival) {
		migrate_arrival_close(image->arrival);
		migrate_fill_in_parent(image->arrival->fill);
	}
	if (image && image->demand)
		demand_in_parent(image->demand);
}

/* Of a monitor that was killed, by signal @number. */
static int report_killed(const struct monitor_params *params, int number)
{
	struct error err = { 0 };

	/* What it left in its report is not believed. */
	params->end->reason = MACHINE_END_NONE;
	params->end->metrics_written = false;
	error_set(&err, -ECHILD, "the monitor was killed by signal %d (%s)", number,
		  strsignal(number));
	if (number == SIGSYS)
		error_hint(&err,
			   "it made a system call that its sandbox does not allow, by a mistake of "
			   "wisp's or in somebody else's hands; the kernel's log names it");
	return machine_end_say(params->end, &err);
}

/* One life of the guest: fork, wait, put the terminal back. Returns the exit status. */
static int run_once(struct monitor_params *params, struct life *life)
{
	struct error err = { 0 };
	pid_t monitor;
	int status, signal = 0;
	sigset_t set;

	terminal_save(STDIN_FILENO);
	terminal_learn(STDOUT_FILENO);
	params->signal_fd = block_signals(&set);
	params->parent = getpid();
	monitor = params->signal_fd < 0 ? -1 : fork();
	if (monitor < 0) {
		error_kind_set(&err, ERROR_START, -errno, "cannot fork the monitor: %m");
		return machine_end_say(params->end, &err);
	}
	if (monitor == 0)
		be_monitor(params);
	let_go_in_parent(params);
	status = await_monitor(params, life, monitor, &set, &signal);
	terminal_restore();
	if (!WIFEXITED(status))
		return report_killed(params, WTERMSIG(status));
	/* One that never started may have found somebody else's. */
	if (params->end->reason != MACHINE_END_START_FAILED)
		remove_sockets(params->config);
	/* A signal that met a monitor about to restart its guest is not lost. */
	if (signal && params->end->reason == MACHINE_END_REBOOT) {
		params->end->reason = MACHINE_END_SIGNAL;
		return 128 + signal;
	}
	return WEXITSTATUS(status);
}

/* Descriptors that each life gets copies of: an initrd is read at the place where it stands. */
static int copy_fd(int from, int *ret_fd, const char *what, struct error *err)
{
	if (from < 0)
		return 0;
	*ret_fd = fcntl(from, F_DUPFD_CLOEXEC, 3);
	return *ret_fd < 0 ? error_set(err, -errno, "%s: %m", what) : 0;
}

static int use_ends(struct machine_files *files, const struct launch_ends *ends, struct error *err)
{
	int r = copy_fd(ends->initrd, &files->initrd, "initial RAM disk", err);

	for (unsigned i = 0; i < CONFIG_MAX_DISKS && ends->disk_fds && !r; i++)
		r = copy_fd(ends->disk_fds[i], &files->disk[i], "disk", err);
	files->serial_out = ends->serial_out;
	files->num_ports = ends->num_ports;
	memcpy(files->port, ends->port, sizeof(files->port));
	return r;
}

static int not_started(struct machine_end *end, const struct error *err,
		       const struct launch_ends *ends)
{
	if (ends && ends->why)
		*ends->why = *err;
	return machine_end_say(end, err);
}

/* Open everything. When that fails, what is open so far is end_life()'s all the same. */
static int begin_life(struct life *life, struct monitor_params *params,
		      const struct launch_ends *ends, const struct run_dir *dir, struct error *err)
{
	const struct machine_config *c = params->config;
	int r = 0;

	machine_files_init(params->files);
	params->end->reason = MACHINE_END_NONE;
	params->end->metrics_written = false;
	params->end->message[0] = '\0';
	params->broker_fd = -1;
	life->vsock = (struct stat){ 0 };
	params->dialer = life->dialers;
	for (unsigned i = 0; i < c->num_disks; i++)
		life->dialers[i] = (struct nbd_dialer){ .fd = -1 };
	life->listening = false;
	if (c->metrics_file)
		r = report_file_open(&life->metrics, "--metrics", c->metrics_file, err);
	params->metrics_fd = life->metrics.fd;
	if (!r)
		r = start_helpers(params, ends, dir, life, err);
	if (!r && ends)
		r = use_ends(params->files, ends, err);
	/* A saved machine has no use for a kernel. */
	if (!r && !params->image)
		r = launch_open_kernel(c, params->files, err);
	if (!r)
		r = launch_open_files(c, params->files, err);
	if (!r)
		r = open_dialers(c, params->files, life->dialers, err);
	if (!r)
		r = launch_open_vsock(c, listens_later(params, ends) ? LAUNCH_LATER_SUFFIX : "",
				      params->files, &life->vsock, &params->broker_fd, err);
	if (!r && copies_of(params))
		r = migrate_copies_listen(copies_of(params), err);
	if (!r && c->gdb) {
		r = params->files->gdb = gdb_listen(c->gdb, err);
		life->listening = r >= 0;
	}
	return r < 0 ? r
		     : await_helpers(c, life->helpers, params->image && !params->image->arrival,
				     err);
}

/* With @goes_on another one follows. */
static void end_life(struct life *life, struct monitor_params *params, bool goes_on)
{
	const struct machine_config *c = params->config;
	struct error err = { 0 };

	if (params->broker_fd >= 0)
		close(params->broker_fd);
	launch_close_vsock(c, &life->vsock);
	close_dialers(c, life->dialers);
	if (life->listening)
		gdb_unlisten(c->gdb);
	machine_files_close(params->files);
	if (params->end->metrics_written && report_file_keep(&life->metrics, &err) < 0)
		error_print(&err);
	report_file_close(&life->metrics);
	stop_helpers(c, life->helpers, life->shares, goes_on);
	params->dialer = NULL;
}

/* Open everything and run; once more for each reboot when the configuration says so. */
static int run_lives(struct monitor_params *params, const struct launch_ends *ends,
		     const struct run_dir *dir)
{
	const struct machine_config *c = params->config;
	struct life life = { .metrics = REPORT_FILE_NONE };
	struct error err = { 0 };
	bool goes_on, has_run = false;
	int status;

	/* One limit for all its lives. */
	if (c->timeout_seconds)
		params->deadline_ns =
			clock_monotonic_ns(NULL) + c->timeout_seconds * NSEC_PER_SEC;
	do {
		if (begin_life(&life, params, ends, dir, &err) < 0) {
			/* Of a later life nobody waits to hear: the guest has run. */
			status = not_started(params->end, &err, params->image ? ends : NULL);
			if (!has_run)
				params->end->reason = MACHINE_END_START_FAILED;
		} else {
			status = run_once(params, &life);
		}
		has_run = true;
		goes_on = params->end->reason == MACHINE_END_REBOOT && c->reboot_resets;
		end_life(&life, params, goes_on);
		/* Once it has gone on from where it stood; when it reboots, it boots. */
		params->image = NULL;
	} while (goes_on);
	return status;
}

struct machine_end *launch_share_end(struct error *err)
{
	void *p = mmap(NULL, sizeof(struct machine_end), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		error_kind_set(err, ERROR_START, -errno, "report page: %m");
		return NULL;
	}
	return p;
}

/*
 * Without a directory a microVM runs as well, it only cannot be controlled; so a host without a
 * place for it is no reason to fail, unless somebody means to find it there: also whoever settles
 * where a guest is that moves.
 */
static int create_run_dir(const struct machine_config *c, const struct launch_ends *ends,
			  struct run_dir *dir, struct error *err)
{
	bool arrives = ends && ends->image && ends->image->arrival;
	const char *run_id = ends ? ends->run_id : NULL;
	struct error why = { 0 };
	int r = run_dir_create(dir, c->run_dir, run_id ? run_id : c->name, &why);

	if (r == 0 && run_id)
		r = run_dir_may_move(dir);
	if (r < 0 && (r == -EEXIST || c->run_dir || c->detach || arrives)) {
		*err = why;
		return r;
	}
	if (r < 0)
		log_warn("%s; so 'wisp ls' and the like will not know this microVM", why.msg);
	if (r == 0 && arrives)
		migrate_fill_listen(ends->image->arrival->fill, dir);
	return 0;
}

/* Within the limits that its cgroup sets. */
static int run_limited(struct monitor_params *params, const struct launch_ends *ends,
		       const struct run_dir *dir)
{
	const struct machine_config *c = params->config;
	struct cgroup cgroup = { 0 };
	struct error err = { 0 };
	int status, r = resources_apply(&c->resources,
					ends && ends->run_id ? ends->run_id : c->name, &cgroup,
					&err);

	if (r < 0) {
		status = machine_end_say(params->end, &err);
		params->end->reason = MACHINE_END_START_FAILED;
	} else {
		if (cgroup.path[0])
			run_dir_note_cgroup(dir, cgroup.path);
		status = run_lives(params, ends, dir);
	}
	cgroup_leave(&cgroup);
	return status;
}

int launch_machine(struct machine_config *c, const struct launch_ends *ends,
		   struct machine_end *end)
{
	struct run_dir dir = { .listen_fd = -1 };
	struct machine_files files;
	struct kvm_host host;
	struct monitor_params params = {
		.config = c,
		.host = &host,
		.files = &files,
		.image = ends ? ends->image : NULL,
		.started_fd = -1,
		.keeper_fd = -1,
		.end = end,
	};
	struct late_file core = { .fd = -1 };
	struct error err = { 0 };
	int status, admission = -1, r = 0;

	/* Before a descriptor of ours has that number. */
	if (c->ready_fd && fcntl((int)c->ready_fd, F_GETFD) < 0)
		r = error_usage(&err, -errno, "--ready-fd %u: %m", c->ready_fd);
	if (!r)
		r = outputs_check(c, NULL, &err);
	if (!r)
		r = recorder_check(c, &err);
	params.kvm_fd = r < 0 ? r : kvm_open(&err);
	if (params.kvm_fd >= 0)
		r = kvm_host_query(params.kvm_fd, &host, &err);
	if (params.kvm_fd >= 0 && !r && c->core_file)
		r = late_file_open(&core, "--core", c->core_file, &err);
	if (params.kvm_fd >= 0 && !r)
		r = resources_admit(c, &admission, &err);
	if (params.kvm_fd >= 0 && !r)
		r = create_run_dir(c, ends, &dir, &err);
	/* From here on others see it, and count it. */
	if (admission >= 0)
		close(admission);
	if (params.kvm_fd < 0 || r < 0) {
		status = not_started(end, &err, ends);
		late_file_close(&core);
		end->reason = MACHINE_END_START_FAILED;
		return status;
	}
	if (c->detach) {
		status = detach(c, &dir, &params.started_fd);
		if (status >= 0)
			return status;
	} else if (c->ready_fd) {
		params.started_fd = (int)c->ready_fd;
		fcntl(params.started_fd, F_SETFD, FD_CLOEXEC);
	}
	params.control_fd = dir.listen_fd;
	params.core_fd = core.fd;
	if (dir.listen_fd >= 0 && recorder_start(c, &err) < 0)
		error_print(&err);
	status = run_limited(&params, ends, &dir);
	if (end->core_written && late_file_keep(&core, &err) < 0)
		error_print(&err);
	late_file_close(&core);
	run_dir_remove(&dir);
	return status;
}

int launch_run(struct machine_config *c)
{
	return launch_run_with(c, NULL);
}

int launch_run_with(struct machine_config *c, const struct launch_ends *ends)
{
	struct error err = { 0 };
	struct machine_end *end = launch_share_end(&err);
	char message[sizeof(end->message)];
	int status;

	if (!end) {
		error_print(&err);
		return error_status(&err);
	}
	status = launch_machine(c, ends, end);
	/* Whoever asked for a detached one has been told its ID, and the other end is a log. */
	if (c->json && !c->detach) {
		printf("{\"id\":\"%s\",\"reason\":\"%s\",\"status\":%d,\"message\":", c->name,
		       machine_end_name(end->reason), status);
		machine_end_message(end, message, sizeof(message));
		if (message[0])
			text_put_json(stdout, message, strlen(message));
		else
			fputs("null", stdout);
		fputs("}\n", stdout);
	}
	return status;
}

/* A share's server is not started: a socket without one stands for it. */
static int open_lone_socket(int *ret_fd, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "socket: %m");
	close(pair[1]);
	*ret_fd = pair[0];
	return 0;
}

int launch_open_log(const struct machine_config *c, struct error *err)
{
	int fd = STDERR_FILENO;

	if (c->log_file)
		fd = open(c->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_usage(err, -errno, "--log-file '%s': cannot open: %m", c->log_file);
	log_setup(fd, c->log_level);
	return 0;
}

int launch_dry_run(struct machine_config *c)
{
	struct machine_params params = { .config = c, .layout_only = true };
	struct machine_files files;
	struct machine *m = NULL;
	struct error err = { 0 };
	struct hv *hv = NULL;
	int r;

	machine_files_init(&files);
	params.files = &files;
	r = launch_open_kernel(c, &files, &err);
	if (!r)
		r = launch_open_files(c, &files, &err);
	/* A network's peer is not started: a socket without one stands for it. */
	for (unsigned i = 0; i < c->num_nets && !r; i++)
		r = net_ends_open_nothing(&files.net[i], &err);
	for (unsigned i = 0; i < c->num_shares && !r; i++)
		r = open_lone_socket(&files.share[i], &err);
	if (!r) {
		r = hv_null_create(&hv);
		if (r < 0)
			error_set(&err, r, "machine: %m");
	}
	if (!r) {
		params.hv = hv;
		r = machine_create(&m, &params, &err);
		if (r < 0)
			hv->ops->free(hv);
	}
	if (!r)
		machine_print(m, stdout);
	else
		error_print(&err);
	machine_free(m);
	machine_files_close(&files);
	return r < 0 ? error_status(&err) : 0;
}
