/* wisp cp: files and directories into a running guest, and out of one. */
#include "vmm/cli/cli_guest.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/control/agent_client.h"
#include "vmm/control/agent_tree.h"

#define MEMBER(m) offsetof(struct cp_options, m)

#define WAIT_SECONDS 10

/* A guest says what it likes: no set-user-ID programs and the like come out of it. */
#define MODE_FROM_GUEST 0777

struct cp_options {
	char *run_dir;
	unsigned wait_seconds;
};

const struct config_item cp_options[] = {
	{ "--wait", "SECONDS", "How long the guest may take to be ready (10)", CONFIG_NUMBER,
	  MEMBER(wait_seconds), 0, 86400 },
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(run_dir) },
	{ 0 },
};

/* The path behind "ID:", with the id copied to @ret_id; NULL: a path of the host. */
static const char *guest_path(const char *arg, char **ret_id)
{
	const char *colon = strchr(arg, ':');

	/* ./a:b is a file here. */
	if (!colon || colon == arg || *arg == '.' || *arg == '/')
		return NULL;
	free(*ret_id);
	*ret_id = strndup(arg, colon - arg);
	return colon + 1;
}

static int local_error(int r, const struct agent_tree_error *e, struct error *err)
{
	if (e->what)
		return error_set(err, r, "cp: cannot %s '%s': %m", e->what, e->path);
	if (r == -EBADMSG)
		return error_set(err, r, "cp: the guest's agent makes no sense");
	return error_set(err, r, "cp: the connection to the guest is lost: %m");
}

/* One more that is not copied. */
static void left_out(struct agent_tree_error *e, const struct agent_frame *f)
{
	struct error err = { 0 };

	if (f)
		agent_failure(f, "cp: left out", &err);
	else
		error_set(&err, -errno, "cp: left out: cannot %s '%s': %m", e->what, e->path);
	error_print(&err);
}

/* Who asked for all of it has to learn that it is not all. */
static int is_whole(const struct agent_tree_error *e, struct error *err)
{
	if (!e->num_left_out)
		return 0;
	return error_set(err, -EIO, "cp: %u left out; all else is copied", e->num_left_out);
}

static int put(int sock, const char *from, const char *to, struct error *err)
{
	struct agent_tree_error why = { .left_out = left_out };
	struct agent_frame f;
	int sent, r;

	r = agent_send(sock, AGENT_PUT, to, strlen(to));
	sent = r ? r : agent_tree_send(sock, from, &why);
	if (sent < 0 && why.what) {
		agent_send_failure(sock, AGENT_FAILED, -sent, why.what, why.path);
		return local_error(sent, &why, err);
	}
	if (!sent)
		agent_send(sock, AGENT_DONE, NULL, 0);
	/* When it could not all be sent, the guest says why. */
	r = agent_receive(sock, &f);
	if (r == 1 && f.type == AGENT_FAILED)
		return agent_failure(&f, "cp", err);
	if (r == 1 && f.type == AGENT_DONE && !sent)
		return is_whole(&why, err);
	return local_error(r < 0 ? r : -ECONNRESET, &why, err);
}

static int get(int sock, const char *from, const char *to, struct error *err)
{
	struct agent_tree_error why = { .left_out = left_out };
	char name[NAME_MAX + 1];
	struct agent_frame f;
	int r;

	/* Not by the guest's word: it would write any file of our directory. */
	agent_tree_name(from, name);
	r = agent_send(sock, AGENT_GET, from, strlen(from));
	if (!r)
		r = agent_tree_receive(sock, to, name, MODE_FROM_GUEST, &f, &why);
	if (r == -ECANCELED)
		return agent_failure(&f, "cp", err);
	return r < 0 ? local_error(r, &why, err) : is_whole(&why, err);
}

/* What needs no guest to be found wrong. */
static int check(const char *from, const char *to, bool from_guest, struct error *err)
{
	const char *arg = from_guest ? from : to;
	struct stat st;

	if (strlen(arg) >= AGENT_MAX_FRAME)
		return error_usage(err, -ENAMETOOLONG, "cp: %m");
	if (!strcmp(from_guest ? to : from, "-")) {
		error_usage(err, -EINVAL,
			    "cp: '-' is no file: it copies neither from standard "
			    "input nor to standard output");
		error_hint(err,
			   "'wisp exec ID -- cat PATH' does, and 'wisp exec ID -- tee PATH'; a "
			   "file of that name is './-'");
		return -EINVAL;
	}
	if (arg[strlen(arg) - 1] == ':' && strchr(arg, ':') == arg + strlen(arg) - 1)
		return error_usage(err, -EINVAL, "cp: '%s': which path in the guest?", arg);
	if (from_guest)
		return 0;
	if (stat(from, &st) < 0)
		return error_usage(err, -errno, "cp: '%s': %m", from);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return error_usage(err, -EINVAL, "cp: '%s' is neither a file nor a directory",
				   from);
	return 0;
}

static int copy(const struct cp_options *o, const char *from, const char *to, struct error *err)
{
	char *id = NULL;
	const char *out = guest_path(from, &id), *in = guest_path(to, &id);
	int sock = -1, r;

	if (!out == !in) {
		free(id);
		return error_usage(err, -EINVAL,
				   "cp: one of '%s' and '%s' is to be in a guest, as ID:PATH", from,
				   to);
	}
	if (!id)
		r = error_set(err, -ENOMEM, "cp: %m");
	else
		r = check(from, to, out, err);
	if (!r)
		r = sock = agent_connect(o->run_dir, id, o->wait_seconds, err);
	free(id);
	if (r < 0)
		return r;
	signal(SIGPIPE, SIG_IGN);
	r = out ? get(sock, out, to, err) : put(sock, from, in, err);
	close(sock);
	return r;
}

int cp_main(int argc, char **argv)
{
	struct cp_options o = { .wait_seconds = WAIT_SECONDS };
	struct error err = { 0 };
	const char *args[2];
	int r;

	r = config_parse_verb("cp", cp_options, &o, argc, argv, args, 2, &err);
	if (r >= 0 && r != 2)
		r = error_usage(&err, -EINVAL, "cp: from where to where?");
	if (r >= 0)
		r = copy(&o, args[0], args[1], &err);
	if (r < 0)
		error_print(&err);
	free(o.run_dir);
	return r < 0 ? error_status(&err) : 0;
}
