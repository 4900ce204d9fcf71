#include "vmm/doctor/doctor.h"

#include <errno.h>
#include <stdarg.h>

#include "vmm/core/error.h"

static const char *const state_names[] = {
	[DOCTOR_OK] = "ok",
	[DOCTOR_WARN] = "warn",
	[DOCTOR_MISSING] = "missing",
};

void doctor_say(struct doctor *d, enum doctor_state state, const char *what, const char *mend,
		const char *fmt, ...)
{
	struct doctor_line *l = &d->line[d->num_lines];
	va_list ap;

	if (d->num_lines == DOCTOR_MAX_LINES)
		return;
	d->num_lines++;
	l->state = state;
	l->what = what;
	l->mend = mend;
	va_start(ap, fmt);
	vsnprintf(l->detail, sizeof(l->detail), fmt, ap);
	va_end(ap);
}

static const char verdict_good[] = "microVMs can run here";
static const char verdict_bad[] = "microVMs cannot run here";

void doctor_print(const struct doctor *d, FILE *out)
{
	for (unsigned i = 0; i < d->num_lines; i++) {
		const struct doctor_line *l = &d->line[i];

		fprintf(out, "%-7s  %s: %s\n", state_names[l->state], l->what, l->detail);
		if (l->mend)
			fprintf(out, "         mend: %s\n", l->mend);
	}
	fprintf(out, "%s\n", d->can_run ? verdict_good : verdict_bad);
}

static void put_json(FILE *out, const char *key, const char *text)
{
	fprintf(out, "\"%s\":\"", key);
	for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
		if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if (*s < 0x20)
			fprintf(out, "\\u%04x", *s);
		else
			fputc(*s, out);
	}
	fputc('"', out);
}

void doctor_print_json(const struct doctor *d, FILE *out)
{
	fprintf(out, "{\"can_run\":%s,\"checks\":[", d->can_run ? "true" : "false");
	for (unsigned i = 0; i < d->num_lines; i++) {
		const struct doctor_line *l = &d->line[i];

		fprintf(out, "%s{", i ? "," : "");
		put_json(out, "what", l->what);
		fputc(',', out);
		put_json(out, "state", state_names[l->state]);
		fputc(',', out);
		put_json(out, "detail", l->detail);
		if (l->mend) {
			fputc(',', out);
			put_json(out, "mend", l->mend);
		}
		fputc('}', out);
	}
	fprintf(out, "]}\n");
}

int doctor_main(int argc, char **argv)
{
	struct doctor d = { .can_run = true };
	struct error err = { 0 };
	bool json = false;

	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--json")) {
			error_usage(&err, -EINVAL, "doctor: unknown argument '%s' (known: --json)",
				    argv[i]);
			error_print(&err);
			return error_status(&err);
		}
		json = true;
	}
	doctor_check_kvm(&d);
	doctor_check_host(&d);
	if (json)
		doctor_print_json(&d, stdout);
	else
		doctor_print(&d, stdout);
	if (fflush(stdout))
		return 1;
	err.kind = ERROR_REFUSED;
	return d.can_run ? 0 : error_status(&err);
}
