/* The options of `wisp test`. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/debug/symbols.h"
#include "vmm/images/image.h"
#include "vmm/testing/test_internal.h"

#define MEMBER(m) offsetof(struct test_config, m)

/* Enough for an overlay in memory and what is done there. */
#define DEFAULT_MEMORY "1G"

#define DEFAULT_BOOT_TIMEOUT 120
#define DEFAULT_HANG	     60

static int add_kernel(struct config_parse *p, const char *value, void *target)
{
	struct test_config *t = target;

	if (t->num_kernel_args == TEST_MAX_KERNELS)
		return config_fail(p, "more than %d", TEST_MAX_KERNELS);
	t->kernel_arg[t->num_kernel_args++] = value;
	return 0;
}

static int add_env(struct config_parse *p, const char *value, void *target)
{
	struct test_config *t = target;

	if (t->num_env == TEST_MAX_STRINGS)
		return config_fail(p, "more than %d", TEST_MAX_STRINGS);
	if (!*value || *value == '=')
		return config_fail(p, "'%s' has no name", value);
	t->env[t->num_env++] = value;
	return 0;
}

static int parse_user(struct config_parse *p, const char *value, void *target)
{
	struct test_config *t = target;
	const char *colon = strchr(value, ':');
	char uid[16] = "";
	int r;

	if (strcspn(value, ":") >= sizeof(uid))
		return config_fail(p, "'%s' is not UID[:GID]", value);
	memcpy(uid, value, strcspn(value, ":"));
	r = config_set_number(p, uid, 0, UINT32_MAX - 1, &t->uid);
	t->gid = t->uid;
	if (!r && colon)
		r = config_set_number(p, colon + 1, 0, UINT32_MAX - 1, &t->gid);
	return r;
}

static int parse_fail_on(struct config_parse *p, const char *value, void *target)
{
	static const struct {
		const char *word;
		unsigned bit;
	} words[] = { { "oops", TEST_LOG_OOPS }, { "warn", TEST_LOG_WARN } };
	struct test_config *t = target;

	while (*value) {
		size_t len = strcspn(value, ","), i;

		for (i = 0; i < ARRAY_SIZE(words); i++)
			if (strlen(words[i].word) == len && !strncmp(words[i].word, value, len))
				break;
		if (i == ARRAY_SIZE(words))
			return config_fail(p, "unknown word '%.*s' (known: oops, warn)", (int)len,
					   value);
		t->fail_on |= words[i].bit;
		value += len + (value[len] == ',');
	}
	return 0;
}

const struct config_item test_options[] = {
	{ "--kernel", "PATH",
	  "Kernel to boot (the default guest's): a bzImage or vmlinux, the tree that one was built "
	  "in, or a directory of them. Of several: each, and a table of outcomes",
	  CONFIG_CUSTOM, .repeat = true, .parse = add_kernel },
	{ "--root", "PATH",
	  "The tree that becomes the guest's root (/), or a container image: an OCI layout's "
	  "directory or an archive of docker save, unpacked into the cache once",
	  CONFIG_STRING, MEMBER(root) },
	{ "--rw", NULL,
	  "Write through to the tree; without it, changes are made in memory and thrown away",
	  CONFIG_FLAG, MEMBER(write_through) },
	{ "--cwd", "DIR",
	  "Working directory of the command (the current one or, where the guest has no such, /)",
	  CONFIG_STRING, MEMBER(cwd) },
	{ "--env", "NAME[=VALUE]",
	  "Set a variable, or pass ours on, beside PATH, HOME, LANG and TERM. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = add_env },
	{ "--user", "UID[:GID]", "Who runs the command (0, root)", CONFIG_CUSTOM,
	  .parse = parse_user },
	{ "--systemd", NULL,
	  "Boot the tree's own systemd, and run the command as a service when the system is up",
	  CONFIG_FLAG, MEMBER(systemd) },
	{ "--warm", NULL,
	  "Start from a snapshot of this kernel with these options, taken before a command ran; it "
	  "is made where there is none, and kept in the cache",
	  CONFIG_FLAG, MEMBER(warm) },
	{ "--symbols", "FILE",
	  "vmlinux or System.map of the kernel, to name the addresses in what is left of it (found "
	  "by itself beside the kernel and in the tree it was built in)",
	  CONFIG_STRING, MEMBER(symbols) },
	{ "--dmesg", "FILE", "Write the kernel's log to FILE", CONFIG_STRING, MEMBER(dmesg) },
	{ "--verbose", NULL, "The kernel's log on standard error", CONFIG_FLAG, MEMBER(verbose) },
	{ "-v", NULL, "As --verbose", CONFIG_FLAG, MEMBER(verbose) },
	{ "--fail-on", "oops,warn",
	  "What in the kernel's log counts as a failure even when the command goes on",
	  CONFIG_CUSTOM, .parse = parse_fail_on },
	{ "--boot-timeout", "SECONDS", "How long until the guest must be up (120)", CONFIG_NUMBER,
	  MEMBER(boot_timeout), 1, 86400 },
	{ "--hang", "SECONDS", "How long without a sign of life counts as a hang (60)",
	  CONFIG_NUMBER, MEMBER(hang_seconds), 2, 86400 },
	{ "--jobs", "N", "How many kernels to run at a time (1)", CONFIG_NUMBER, MEMBER(jobs), 1,
	  TEST_MAX_KERNELS },
	{ "--json", NULL, "The outcomes as one JSON object, on standard output", CONFIG_FLAG,
	  MEMBER(json) },
	{ "--junit", "FILE", "The outcomes as JUnit XML", CONFIG_STRING, MEMBER(junit) },
	{ "--tap", "FILE", "The outcomes as TAP", CONFIG_STRING, MEMBER(tap) },
	{ 0 },
};

static bool is_given(const struct test_config *t, const char *option)
{
	size_t len = strlen(option);

	for (unsigned i = 0; i < t->num_run_args; i++)
		if (!strncmp(t->run_arg[i], option, len) &&
		    (!t->run_arg[i][len] || t->run_arg[i][len] == '='))
			return true;
	return false;
}

static int add_run_args(struct test_config *t, char *const *argv, int num, struct error *err)
{
	if (t->num_run_args + num > TEST_MAX_STRINGS)
		return error_usage(err, -E2BIG, "too many arguments");
	for (int i = 0; i < num; i++)
		t->run_arg[t->num_run_args++] = argv[i];
	return 0;
}

/* Options of `wisp run` go to it; to know how many arguments one is, it is parsed here as well. */
static int take_run_option(struct test_config *t, char *const *argv, int argc, struct error *err)
{
	struct machine_config scratch;
	struct config_parse p = { .config = &scratch, .err = err };
	uint64_t given = 0;
	int used, r;

	config_init(&scratch);
	used = config_take_option(&p, config_run_options, &given, &scratch, argv, argc);
	config_done(&scratch);
	if (used == 0) {
		config_unknown_option(argv[0], test_options, config_run_options, err);
		error_hint(err, "'wisp help test' lists the options; those of run will do too");
		return -EINVAL;
	}
	if (used < 0)
		return used;
	r = add_run_args(t, argv, used, err);
	return r < 0 ? r : used;
}

/* A root that is a container image is its tree from here on, with the image's owner for root. */
static int use_image(struct test_config *t, struct error *err)
{
	char *tree;
	int r = image_find(t->root, &tree, err);

	if (r <= 0)
		return r;
	free(t->root);
	t->root = tree;
	t->is_image = true;
	if (t->write_through)
		return error_usage(err, -EROFS,
				   "--rw: the tree of an image is not written; leave it out for "
				   "changes that are thrown away");
	return 0;
}

/* What a snapshot would hold of these may be another thing by the next time. */
static int check_warm(const struct test_config *t, struct error *err)
{
	static const char *const others[] = { "--disk", "--pmem", "--gdb", "--wait-gdb" };
	const char *with = t->write_through ? "--rw" : t->systemd ? "--systemd" : NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(others) && !with; i++)
		with = is_given(t, others[i]) ? others[i] : NULL;
	return t->warm && with ? error_usage(err, -EINVAL, "--warm: not with %s", with) : 0;
}

/* Of these the machine of a test has its own, which would be in their place without a word. */
static const struct {
	const char *option, *instead;
} own[] = {
	{ "--rootfs", "the tree is given by --root, and written to with --rw" },
	{ "--initrd", "a test makes one of its own" },
	{ "--serial", "the kernel's log goes there; see --verbose and --dmesg" },
	{ "--detach", "it is watched until it ends" },
	{ "--name", "it is called by the process and its number among the tests" },
	{ "--dry-run", "'wisp run --dry-run' prints a machine" },
	{ "--console", "the command gets it where standard input is a terminal" },
};

bool test_refuses(const char *option)
{
	for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
		if (!strcmp(option, own[i].option))
			return true;
	return false;
}

static int check_own(const struct test_config *t, struct error *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
		if (is_given(t, own[i].option))
			return error_usage(err, -EINVAL, "%s: not for a test: %s", own[i].option,
					   own[i].instead);
	/* It would be one of the guest's root, whatever directory we are in. */
	if (t->cwd && *t->cwd != '/')
		return error_usage(err, -EINVAL,
				   "--cwd '%s': a directory of the guest's begins with '/'",
				   t->cwd);
	return 0;
}

/* Said here in the words of the command line, and before there is anything. */
static int check_root(const struct test_config *t, struct error *err)
{
	int fd = open(t->root, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return error_usage(err, -errno, "--root '%s': cannot open: %m", t->root);
	close(fd);
	return 0;
}

/* That a report cannot be written is no news to have at the end of a long run. */
static int check_report(const char *option, const char *path, struct error *err)
{
	struct stat st;
	int fd;

	if (path && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return error_usage(err, -EISDIR, "%s '%s': cannot write: %m", option, path);
	/* A pipe would take us for the writer who comes later. */
	if (!path || (stat(path, &st) == 0 && !S_ISREG(st.st_mode)))
		return 0;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		return error_usage(err, -errno, "%s '%s': cannot write: %m", option, path);
	close(fd);
	return 0;
}

/* Whether writing to one changes the other. Pipes and terminals may have several writers. */
static bool is_same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	if (stat(a, &sa) < 0)
		return !strcmp(a, b);
	return stat(b, &sb) == 0 && S_ISREG(sa.st_mode) && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/* A kernel is not lost by a typing error, nor one report by another. */
static int check_reports(const struct test_config *t, struct error *err)
{
	const struct {
		const char *option, *path;
	} file[] = { { "--dmesg", t->dmesg },
		     { "--junit", t->junit },
		     { "--tap", t->tap },
		     { "--symbols", t->symbols } };
	unsigned num = ARRAY_SIZE(file) - 1; /* the last one is only read */
	int r = 0;

	for (unsigned i = 0; i < num; i++) {
		if (!file[i].path)
			continue;
		for (unsigned k = 0; k < t->num_kernels; k++)
			if (is_same_file(file[i].path, t->kernel[k]))
				return error_usage(err, -EINVAL, "%s '%s': that is the kernel",
						   file[i].option, file[i].path);
		for (unsigned k = i + 1; k < ARRAY_SIZE(file); k++)
			if (file[k].path && is_same_file(file[i].path, file[k].path))
				return error_usage(err, -EINVAL, "%s '%s': the same file as %s",
						   file[i].option, file[i].path, file[k].option);
	}
	for (unsigned i = 0; i < num && !r; i++)
		r = check_report(file[i].option, file[i].path, err);
	return r;
}

/* That a file has no names for the addresses of an oops is no news for the end either. */
static int check_symbols(const char *path, struct error *err)
{
	struct symbols *s;
	int r = symbols_load(&s, path, err);

	if (r < 0) {
		error_prefix(err, "--symbols");
		return r;
	}
	symbols_free(s);
	return 0;
}

static int complete(struct test_config *t, struct error *err)
{
	static char *const no_net[] = { "--net", "none" };
	static char *const memory[] = { "--memory", DEFAULT_MEMORY };
	int r = 0;

	if (!t->command || !t->command[0]) {
		error_usage(err, -EINVAL, "no command");
		error_hint(err, "it comes after '--', as in 'wisp test -- uname -a'");
		return -EINVAL;
	}
	r = check_own(t, err);
	if (!r)
		r = check_warm(t, err);
	if (r < 0)
		return r;
	if (!t->root)
		t->root = strdup("/");
	r = t->root ? use_image(t, err) : -ENOMEM;
	if (!r)
		r = check_root(t, err);
	if (r < 0)
		return r == -ENOMEM ? error_set(err, r, "test: %m") : r;
	t->cwd_is_asked_for = t->cwd;
	/* An image has directories of its own. */
	if (!t->cwd && !t->is_image)
		t->cwd = getcwd(NULL, 0);
	if (!t->cwd)
		t->cwd = strdup("/");
	if (!t->cwd)
		return error_set(err, -ENOMEM, "test: %m");
	if (!is_given(t, "--net"))
		r = add_run_args(t, no_net, ARRAY_SIZE(no_net), err);
	if (!r && !is_given(t, "--memory"))
		r = add_run_args(t, memory, ARRAY_SIZE(memory), err);
	for (unsigned i = 0; i < t->num_kernel_args && !r; i++)
		r = test_find_kernels(t, t->kernel_arg[i], err);
	if (!r && t->symbols)
		r = check_symbols(t->symbols, err);
	if (!r)
		r = check_reports(t, err);
	return r;
}

int test_config_parse(struct test_config *t, int argc, char **argv, struct error *err)
{
	struct config_parse p = { .err = err };
	uint64_t given = 0;
	int r;

	*t = (struct test_config){
		.boot_timeout = DEFAULT_BOOT_TIMEOUT,
		.hang_seconds = DEFAULT_HANG,
		.jobs = 1,
	};
	for (int i = 0; i < argc; i += r) {
		if (!strcmp(argv[i], "--")) {
			t->command = argv + i + 1;
			break;
		}
		if (argv[i][0] != '-') {
			/* The first word that is no option begins the command. */
			t->command = argv + i;
			break;
		}
		r = config_take_option(&p, test_options, &given, t, argv + i, argc - i);
		if (!r)
			r = take_run_option(t, argv + i, argc - i, err);
		if (r < 0)
			return r;
	}
	return complete(t, err);
}

void test_config_done(struct test_config *t)
{
	for (unsigned i = 0; i < t->num_kernels; i++)
		free(t->kernel[i]);
	free(t->root);
	free(t->cwd);
	free(t->symbols);
	free(t->dmesg);
	free(t->junit);
	free(t->tap);
}
