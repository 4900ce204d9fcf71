/*
 * wisp-jailer - Firecracker's jailer on top of our own sandbox: what wisp does under the name
 * `jailer`. Makes BASE/NAME/ID/root with all that a microVM needs in it, makes that the root
 * directory of a mount namespace, becomes --uid and --gid, and there runs --exec-file, which is
 * wisp under the name `firecracker`. See docs/firecracker.md.
 *
 * Needs root, as Firecracker's does. The monitor then locks itself in once more
 * (vmm/sandbox/sandbox.h).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "helpers/jail.h"

#define VERSION "1.17.0"

enum {
	OPT_ID = 1,
	OPT_EXEC_FILE,
	OPT_UID,
	OPT_GID,
	OPT_BASE,
	OPT_NETNS,
	OPT_DAEMONIZE,
	OPT_NEW_PID_NS,
	OPT_CGROUP,
	OPT_LIMIT,
	OPT_CGROUP_VERSION,
	OPT_PARENT_CGROUP,
	OPT_VERSION,
	OPT_HELP,
};

static const struct option long_options[] = {
	{ "id", required_argument, NULL, OPT_ID },
	{ "exec-file", required_argument, NULL, OPT_EXEC_FILE },
	{ "uid", required_argument, NULL, OPT_UID },
	{ "gid", required_argument, NULL, OPT_GID },
	{ "chroot-base-dir", required_argument, NULL, OPT_BASE },
	{ "netns", required_argument, NULL, OPT_NETNS },
	{ "daemonize", no_argument, NULL, OPT_DAEMONIZE },
	{ "new-pid-ns", no_argument, NULL, OPT_NEW_PID_NS },
	{ "cgroup", required_argument, NULL, OPT_CGROUP },
	{ "resource-limit", required_argument, NULL, OPT_LIMIT },
	{ "cgroup-version", required_argument, NULL, OPT_CGROUP_VERSION },
	{ "parent-cgroup", required_argument, NULL, OPT_PARENT_CGROUP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, OPT_HELP },
	{ 0 },
};

static int parse_id(const char *what, const char *text, unsigned *ret, struct error *err)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || n > UINT32_MAX - 1)
		return error_usage(err, -EINVAL, "Invalid %s: %s", what, text);
	*ret = n;
	return 0;
}

static int parse_limit(struct jail *j, const char *text, struct error *err)
{
	const char *value = strchr(text, '=');
	unsigned long long n;
	char *end;

	if (!value)
		return error_usage(err, -EINVAL, "Invalid format for resources limits: %s", text);
	n = strtoull(value + 1, &end, 10);
	if (value[1] < '0' || value[1] > '9' || *end)
		return error_usage(err, -EINVAL,
				   "Invalid limit value for resource: %s: invalid digit found in "
				   "string",
				   value + 1);
	if (!strncmp(text, "fsize=", 6))
		j->max_file = n;
	else if (!strncmp(text, "no-file=", 8))
		j->max_files = n;
	else
		return error_usage(err, -EINVAL, "Invalid resource argument: %.*s",
				   (int)(value - text), text);
	return 0;
}

static int parse_option(struct jail *j, int option, char *value, struct error *err)
{
	switch (option) {
	case OPT_ID:
		j->id = value;
		return 0;
	case OPT_EXEC_FILE:
		j->exec_file = value;
		return 0;
	case OPT_UID:
		j->uid_given = true;
		return parse_id("uid", value, &j->uid, err);
	case OPT_GID:
		j->gid_given = true;
		return parse_id("gid", value, &j->gid, err);
	case OPT_BASE:
		j->base = value;
		return 0;
	case OPT_NETNS:
		j->netns = value;
		return 0;
	case OPT_DAEMONIZE:
		j->daemonize = true;
		return 0;
	case OPT_NEW_PID_NS:
		j->new_pid_ns = true;
		return 0;
	case OPT_CGROUP:
		if (j->num_cgroups == JAIL_MAX_CGROUPS)
			return error_usage(err, -E2BIG, "More than %d cgroups", JAIL_MAX_CGROUPS);
		j->cgroup[j->num_cgroups++] = value;
		return 0;
	case OPT_LIMIT:
		return parse_limit(j, value, err);
	case OPT_CGROUP_VERSION:
		if (strcmp(value, "1") != 0 && strcmp(value, "2") != 0)
			return error_usage(err, -EINVAL, "Invalid cgroup version: %s", value);
		j->cgroup_version = *value - '0';
		return 0;
	case OPT_PARENT_CGROUP:
		j->parent_cgroup = value;
		return 0;
	default:
		return error_usage(err, -EINVAL, "Failed to parse arguments");
	}
}

/* A relative path, of which no part leads elsewhere than down. */
static bool is_inside(const char *path)
{
	if (!*path || *path == '/')
		return false;
	for (;; path++) {
		size_t len = strcspn(path, "/");

		if ((len == 1 || len == 2) && strspn(path, ".") == len)
			return false;
		path += len;
		if (!*path)
			return true;
	}
}

static int check(const struct jail *j, struct error *err)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
	const char *missing = !j->id	      ? "id"
			      : !j->exec_file ? "exec-file"
			      : !j->uid_given ? "uid"
			      : !j->gid_given ? "gid"
					      : NULL;

	if (missing)
		return error_usage(err, -EINVAL,
				   "Failed to parse arguments: Argument '%s' required, but not "
				   "found.",
				   missing);
	if (!*j->id || strlen(j->id) > 64 || strspn(j->id, letters) != strlen(j->id))
		return error_usage(err, -EINVAL, "Invalid instance ID: Invalid char or length: %s",
				   j->id);
	if (j->parent_cgroup && !is_inside(j->parent_cgroup))
		return error_usage(err, -EINVAL,
				   "Parent cgroup path is invalid. Path should not be absolute or "
				   "contain '..' or '.'");
	return 0;
}

int main(int argc, char **argv)
{
	struct jail j = {
		.base = "/srv/jailer",
		.cgroup_version = 1,
		.max_files = 2048,
	};
	struct error err = { 0 };
	int option, r = 0;

	/* What we were given beyond these is none of the microVM's. */
	close_range(STDERR_FILENO + 1, ~0u, 0);
	clearenv();
	opterr = 0;
	while (!r && (option = getopt_long(argc, argv, "+", long_options, NULL)) != -1) {
		if (option == OPT_VERSION) {
			printf("Jailer v" VERSION "\n\n");
			return 0;
		}
		if (option == OPT_HELP) {
			for (const struct option *o = long_options; o->name; o++)
				printf("  --%s%s\n", o->name, o->has_arg ? " VALUE" : "");
			return 0;
		}
		r = parse_option(&j, option, optarg, &err);
	}
	j.arguments = argv + optind;
	if (!r)
		r = check(&j, &err);
	if (!r)
		jail_enter(&j, &err);
	fprintf(stderr, "%s\n", err.msg);
	return 1;
}
