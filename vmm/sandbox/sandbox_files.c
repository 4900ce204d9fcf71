/* What is left to a process that handles files for others: a directory, rights about files. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox/sandbox.h"

/* Moving files between directories is possible under Landlock from this version on. */
#define LANDLOCK_WITH_REFER 2

#define READING (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define ALL	((LANDLOCK_ACCESS_FS_REFER << 1) - 1)

/* Those by which files get the owners and permissions that are asked for. */
static void limit_privileges(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
	const uint32_t keep = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE |
			      1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | 1u << CAP_FSETID |
			      1u << CAP_SETGID | 1u << CAP_SETUID | 1u << CAP_SETFCAP;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_capget, &head, caps) < 0)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(caps); i++) {
		caps[i].effective &= i ? 0 : keep;
		caps[i].permitted &= i ? 0 : keep;
		caps[i].inheritable = 0;
	}
	syscall(SYS_capset, &head, caps);
}

static int allow(int rules, int dir, uint64_t access)
{
	struct landlock_path_beneath_attr beneath = { access, dir };

	if (dir < 0)
		return 0;
	if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0)
		return -errno;
	return 0;
}

int sandbox_beneath(int rw, int ro)
{
	const struct landlock_ruleset_attr attr = { .handled_access_fs = ALL };
	int version = sandbox_landlock_version(), rules, r;

	limit_privileges();
	if (version < LANDLOCK_WITH_REFER)
		return version < 0 ? version : -EOPNOTSUPP;
	rules = syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
	if (rules < 0)
		return -errno;
	r = allow(rules, rw, ALL);
	if (!r)
		r = allow(rules, ro, READING);
	if (!r && syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		r = -errno;
	close(rules);
	return r;
}
