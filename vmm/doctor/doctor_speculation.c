/*
 * What guests that do not trust each other could learn through a processor that they share:
 * mitigations, simultaneous multithreading, memory that is merged or swapped out.
 */
#include "vmm/doctor/doctor.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "vmm/sandbox/core_sched.h"

#define MAX_PATH 512

/* The first line of a file beneath @root. */
static bool look(const char *root, const char *path, char *buf, size_t size)
{
	char full[MAX_PATH];

	return snprintf(full, sizeof(full), "%s%s", root, path) < (int)sizeof(full) &&
	       doctor_read_line(full, buf, size);
}

static int no_dots(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

struct weaknesses {
	unsigned known, open, with_smt;
	char names[120]; /* of open ones */
};

static void add_weakness(struct weaknesses *w, const char *name, const char *says)
{
	size_t len = strlen(w->names);

	w->known++;
	/* "Mitigation: Clear CPU buffers; SMT vulnerable" */
	if (strstr(says, "SMT vulnerable"))
		w->with_smt++;
	if (strncmp(says, "Vulnerable", strlen("Vulnerable")))
		return;
	w->open++;
	snprintf(w->names + len, sizeof(w->names) - len, "%s%s", len ? ", " : "", name);
}

static void check_weaknesses(struct doctor *d, const char *root, struct weaknesses *w)
{
	static const char where[] = "/sys/devices/system/cpu/vulnerabilities";
	char full[MAX_PATH], path[MAX_PATH], says[160];
	struct dirent **entries;
	int n;

	snprintf(full, sizeof(full), "%s%s", root, where);
	n = scandir(full, &entries, no_dots, alphasort);
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", where, entries[i]->d_name);
		if (look(root, path, says, sizeof(says)))
			add_weakness(w, entries[i]->d_name, says);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	if (!w->known)
		doctor_say(d, DOCTOR_WARN, "speculation", "Linux 4.15 or newer, with /sys mounted",
			   "the kernel does not say which of the processor's weaknesses are open");
	else if (w->open)
		doctor_say(d, DOCTOR_WARN, "speculation",
			   "current microcode and kernel, and no mitigations=off on its command "
			   "line; or no guests here that must not know of each other",
			   "open: %s", w->names);
	else
		doctor_say(d, DOCTOR_OK, "speculation", NULL, "none of %u known weaknesses is open",
			   w->known);
}

static void check_smt(struct doctor *d, const char *root, const struct weaknesses *w)
{
	char active[8];

	if (!look(root, "/sys/devices/system/cpu/smt/active", active, sizeof(active)))
		return;
	if (active[0] != '1')
		doctor_say(d, DOCTOR_OK, "smt", NULL, "each core runs one thread");
	else
		doctor_say(d, DOCTOR_WARN, "smt",
			   "--core-sched, so that only threads of one microVM share a core; or "
			   "boot with nosmt",
			   "cores run several threads at once%s",
			   w->with_smt ? ", which leaves a weakness of this processor open" : "");
}

static void check_core_scheduling(struct doctor *d)
{
	int r = core_sched_check();

	if (!r)
		doctor_say(d, DOCTOR_OK, "core-scheduling", NULL, "works, for --core-sched");
	else if (r == -ENODEV)
		doctor_say(d, DOCTOR_OK, "core-scheduling", NULL,
			   "not needed: each core runs one thread");
	else
		doctor_say(d, DOCTOR_WARN, "core-scheduling",
			   "a kernel with CONFIG_SCHED_CORE (Linux 5.14 or newer)",
			   "not there, so --core-sched is refused");
}

static void check_merging(struct doctor *d, const char *root)
{
	char run[8];

	if (!look(root, "/sys/kernel/mm/ksm/run", run, sizeof(run)))
		return;
	if (run[0] == '1')
		doctor_say(d, DOCTOR_WARN, "same-page-merging",
			   "echo 2 > /sys/kernel/mm/ksm/run: guests could tell by time what others "
			   "have in memory (wisp asks for no merging)",
			   "is on");
	else
		doctor_say(d, DOCTOR_OK, "same-page-merging", NULL, "is off");
}

/* Of Intel's processors alone: instruction fetches through huge pages can stop the machine. */
static void check_huge_code(struct doctor *d, const char *root)
{
	char says[160], choice[16];

	if (!look(root, "/sys/devices/system/cpu/vulnerabilities/itlb_multihit", says,
		  sizeof(says)) ||
	    !strncmp(says, "Not affected", strlen("Not affected")) ||
	    !look(root, "/sys/module/kvm/parameters/nx_huge_pages", choice, sizeof(choice)))
		return;
	if (choice[0] == 'N' || !strcmp(choice, "never"))
		doctor_say(d, DOCTOR_WARN, "nx-huge-pages",
			   "kvm.nx_huge_pages=auto: a guest can stop this processor",
			   "switched off");
	else
		doctor_say(d, DOCTOR_OK, "nx-huge-pages", NULL, "guests do not run code from them");
}

/* /proc/swaps has a line for each area, beneath a headline. */
static void check_swap(struct doctor *d, const char *root)
{
	char path[MAX_PATH], area[128] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/swaps", root);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fscanf(f, "%*[^\n] %127s", area) == 1)
		doctor_say(d, DOCTOR_WARN, "swap",
			   "swapoff, zram, or an encrypted area: guest memory may stay there",
			   "on %s", area);
	else
		doctor_say(d, DOCTOR_OK, "swap", NULL, "none: guest memory stays in memory");
	fclose(f);
}

void doctor_check_speculation(struct doctor *d, const char *root)
{
	struct weaknesses w = { 0 };

	check_weaknesses(d, root, &w);
	check_smt(d, root, &w);
	check_core_scheduling(d);
	check_merging(d, root);
	check_huge_code(d, root);
	check_swap(d, root);
}
