#include "vmm/sandbox/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/core/log.h"
#include "vmm/sandbox/orphan.h"
#include "vmm/sandbox/sandbox_internal.h"

/* Threads of this microVM and of its clones; in a user namespace nobody else is counted. */
#define MAX_THREADS 4096

const char *sandbox_mode_name(enum sandbox_mode mode)
{
	static const char *const names[] = { "off", "on", "strict" };

	return names[mode];
}

int sandbox_missing(const struct sandbox *s, int r, const char *layer, struct error *err)
{
	if (s->params.mode == SANDBOX_STRICT) {
		error_kind_set(err, ERROR_REFUSED, r, "--sandbox strict: this host has no %s: %m",
			       layer);
		error_hint(err, "see 'wisp doctor'; --sandbox on does with what there is");
		return r;
	}
	log_info("sandbox: goes without %s: %s", layer, strerror(-r));
	return 0;
}

static bool changes_user(const struct sandbox *s)
{
	return s->params.uid || s->params.gid;
}

/*
 * Nor may a program that is executed have any (none can be: this is one layer more). In a user
 * namespace they count for nothing outside; its bounding set would cost a call for each.
 */
static void empty_bounding_set(void)
{
	for (int cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return; /* beyond this kernel's last one, or not ours to drop */
}

static int become_user(const struct sandbox *s, struct error *err)
{
	const struct sandbox_params *p = &s->params;

	if (!changes_user(s))
		return 0;
	/* While there is the privilege to. */
	empty_bounding_set();
	/* The group first: afterwards it could not be changed any more. */
	if (setgroups(0, NULL) < 0 || (p->gid && setresgid(p->gid, p->gid, p->gid)) ||
	    (p->uid && setresuid(p->uid, p->uid, p->uid)))
		return error_kind_set(err, ERROR_REFUSED, -errno,
				      "--uid %u, --gid %u: cannot become them: %m", p->uid, p->gid);
	orphan_again();
	return 0;
}

static int drop_capabilities(struct error *err)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	if (syscall(SYS_capset, &head, none) < 0)
		return error_kind_set(err, ERROR_START, -errno, "sandbox: capabilities: %m");
	return 0;
}

/*
 * Nothing gains a privilege by being executed, and nobody of our user may trace us or read our
 * memory: that is the guest's. A core would hold it too.
 */
static int close_up(const struct sandbox *s, struct error *err)
{
	static const struct rlimit no_core = { 0, 0 };
	static const struct rlimit threads = { MAX_THREADS, MAX_THREADS };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0 ||
	    setrlimit(RLIMIT_CORE, &no_core) < 0)
		return error_kind_set(err, ERROR_START, -errno, "sandbox: %m");
	if (s->namespaces && !changes_user(s))
		setrlimit(RLIMIT_NPROC, &threads); /* may be lower already: better still */
	return 0;
}

int sandbox_enter(struct sandbox *s, const struct sandbox_params *params, struct error *err)
{
	s->params = *params;
	if (params->mode == SANDBOX_OFF)
		return 0;
	return sandbox_enter_namespaces(s, err);
}

int sandbox_lock(struct sandbox *s, struct error *err)
{
	int r;

	if (s->params.mode == SANDBOX_OFF)
		return 0;
	r = sandbox_empty_root(s, err);
	if (!r)
		r = become_user(s, err);
	if (!r)
		r = drop_capabilities(err);
	if (!r)
		r = close_up(s, err);
	if (!r)
		r = sandbox_landlock(s, err);
	if (!r)
		r = sandbox_check_seccomp(s, err);
	return r;
}

void sandbox_lock_helper(enum sandbox_thread kind, const char *const *readable)
{
	struct sandbox s = { .params.mode = SANDBOX_ON };
	struct error err = { 0 };
	int r = drop_capabilities(&err);

	if (!r)
		r = close_up(&s, &err);
	if (!r) {
		sandbox_landlock_readable(readable);
		r = sandbox_filter_helper(kind);
	}
	if (r < 0)
		log_warn("sandbox: a helper goes without a part of it: %s", strerror(-r));
}
