#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "vmm/doctor/doctor.h"
#include "vmm/hypervisor/kvm.h"

static char *text_of(const struct doctor *d, void (*print)(const struct doctor *d, FILE *out))
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	print(d, f);
	assert_int_equal(fclose(f), 0);
	return text;
}

static void a_line_says_state_what_detail_and_how_to_mend(void **state)
{
	struct doctor d = { .can_run = true };
	char *text;

	doctor_say(&d, DOCTOR_OK, "kvm", NULL, "version %d", 12);
	doctor_say(&d, DOCTOR_WARN, "tap", "modprobe tun", "not there");
	text = text_of(&d, doctor_print);
	assert_string_equal(text, "ok       kvm: version 12\n"
				  "warn     tap: not there\n"
				  "         mend: modprobe tun\n"
				  "microVMs can run here\n");
	free(text);
}

static void json_is_escaped(void **state)
{
	struct doctor d = { 0 };
	char *text;

	doctor_say(&d, DOCTOR_MISSING, "x", "say \"hi\"", "a\\b\n");
	text = text_of(&d, doctor_print_json);
	assert_string_equal(text, "{\"can_run\":false,\"checks\":[{\"what\":\"x\",\"state\":"
				  "\"missing\",\"detail\":\"a\\\\b\\u000a\",\"mend\":"
				  "\"say \\\"hi\\\"\"}]}\n");
	free(text);
}

static void more_lines_than_fit_are_dropped(void **state)
{
	struct doctor d = { 0 };

	for (int i = 0; i < 2 * DOCTOR_MAX_LINES; i++)
		doctor_say(&d, DOCTOR_OK, "x", NULL, "%d", i);
	assert_int_equal(d.num_lines, DOCTOR_MAX_LINES);
	assert_string_equal(d.line[DOCTOR_MAX_LINES - 1].detail, "63");
}

static void every_check_fits_and_says_something(void **state)
{
	struct doctor d = { .can_run = true };

	doctor_check_kvm(&d);
	doctor_check_host(&d);
	assert_in_range(d.num_lines, 2, DOCTOR_MAX_LINES - 1);
	for (unsigned i = 0; i < d.num_lines; i++) {
		assert_true(d.line[i].what && *d.line[i].detail);
		/* What cannot be had comes with advice, or there is none to give: never for ok. */
		assert_false(d.line[i].state == DOCTOR_OK && d.line[i].mend);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(d.line[i].what, d.line[k].what);
	}
}

/* A host in a directory: @files are pairs of a path and its only line, up to a NULL. */
static void make_host(char *root, const char *const *files)
{
	char command[512];

	assert_non_null(mkdtemp(root));
	for (; *files; files += 2) {
		snprintf(command, sizeof(command),
			 "f='%s%s'; mkdir -p \"${f%%/*}\" && echo '%s' > \"$f\"", root, files[0],
			 files[1]);
		assert_int_equal(system(command), 0);
	}
}

static const struct doctor_line *line_of(const struct doctor *d, const char *what)
{
	for (unsigned i = 0; i < d->num_lines; i++)
		if (!strcmp(d->line[i].what, what))
			return &d->line[i];
	fail_msg("no line about %s", what);
	return NULL;
}

static void remove_host(const char *root)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	assert_int_equal(system(command), 0);
}

static void a_kvm_that_interprets_is_known(void **state)
{
	static const char *const pvm[] = { "/sys/module/kvm_pvm/refcnt", "1", NULL };
	static const char *const both[] = { "/sys/module/kvm_pvm/refcnt", "0",
					    "/sys/module/kvm_amd/refcnt", "1", NULL };
	char root[] = "/tmp/wisp-doctor.XXXXXX", other[] = "/tmp/wisp-doctor.XXXXXX";

	make_host(root, pvm);
	assert_true(kvm_is_paravirtual(root));
	remove_host(root);
	make_host(other, both);
	assert_false(kvm_is_paravirtual(other));
	remove_host(other);
	assert_false(kvm_is_paravirtual("/nowhere"));
}

#define WEAKNESS(name) "/sys/devices/system/cpu/vulnerabilities/" name

static void what_guests_could_learn_of_each_other_is_said(void **state)
{
	static const char *const files[] = {
		WEAKNESS("mds"), "Mitigation: Clear CPU buffers; SMT vulnerable",
		WEAKNESS("meltdown"), "Not affected",
		WEAKNESS("srbds"), "Vulnerable: No microcode",
		WEAKNESS("retbleed"), "Vulnerable",
		WEAKNESS("itlb_multihit"), "KVM: Mitigation: VMX disabled",
		"/sys/devices/system/cpu/smt/active", "1",
		"/sys/kernel/mm/ksm/run", "1",
		"/sys/module/kvm/parameters/nx_huge_pages", "never",
		"/proc/swaps", "Filename Type Size\n/dev/sda2 partition 1",
		NULL,
	};
	char root[] = "/tmp/wisp-doctor.XXXXXX";
	struct doctor d = { 0 };

	make_host(root, files);
	doctor_check_speculation(&d, root);
	remove_host(root);
	assert_string_equal(line_of(&d, "speculation")->detail, "open: retbleed, srbds");
	assert_non_null(strstr(line_of(&d, "smt")->detail, "leaves a weakness"));
	assert_non_null(strstr(line_of(&d, "smt")->mend, "--core-sched"));
	assert_int_equal(line_of(&d, "same-page-merging")->state, DOCTOR_WARN);
	assert_int_equal(line_of(&d, "nx-huge-pages")->state, DOCTOR_WARN);
	assert_string_equal(line_of(&d, "swap")->detail, "on /dev/sda2");
}

static void a_host_without_weaknesses_is_fine(void **state)
{
	static const char *const files[] = {
		WEAKNESS("mds"), "Not affected",
		WEAKNESS("itlb_multihit"), "Not affected",
		"/sys/devices/system/cpu/smt/active", "0",
		"/sys/kernel/mm/ksm/run", "0",
		"/sys/module/kvm/parameters/nx_huge_pages", "never",
		"/proc/swaps", "Filename Type Size",
		NULL,
	};
	char root[] = "/tmp/wisp-doctor.XXXXXX";
	struct doctor d = { 0 };

	make_host(root, files);
	doctor_check_speculation(&d, root);
	remove_host(root);
	for (unsigned i = 0; i < d.num_lines; i++)
		if (strcmp(d.line[i].what, "core-scheduling"))
			assert_int_equal(d.line[i].state, DOCTOR_OK);
}

static void a_host_that_says_nothing_is_no_reason_for_trust(void **state)
{
	struct doctor d = { 0 };

	doctor_check_speculation(&d, "/nowhere");
	assert_int_equal(line_of(&d, "speculation")->state, DOCTOR_WARN);
}

static void an_unknown_argument_is_a_usage_error(void **state)
{
	char *argv[] = { "--xml" };

	assert_int_equal(doctor_main(1, argv), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_says_state_what_detail_and_how_to_mend),
		cmocka_unit_test(json_is_escaped),
		cmocka_unit_test(more_lines_than_fit_are_dropped),
		cmocka_unit_test(every_check_fits_and_says_something),
		cmocka_unit_test(a_kvm_that_interprets_is_known),
		cmocka_unit_test(what_guests_could_learn_of_each_other_is_said),
		cmocka_unit_test(a_host_without_weaknesses_is_fine),
		cmocka_unit_test(a_host_that_says_nothing_is_no_reason_for_trust),
		cmocka_unit_test(an_unknown_argument_is_a_usage_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
