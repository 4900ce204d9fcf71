/* How tests ended: for people, for scripts, for continuous integration. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "vmm/core/text.h"
#include "vmm/testing/test_internal.h"

const char *test_outcome_name(enum test_outcome outcome)
{
	static const char *const name[] = {
		[TEST_EXIT] = "exit",
		[TEST_PANIC] = "panic",
		[TEST_OOPS] = "oops",
		[TEST_TRIPLE_FAULT] = "triple-fault",
		[TEST_HANG] = "hang",
		[TEST_LOCKUP] = "lockup",
		[TEST_TIMEOUT] = "timeout",
		[TEST_BOOT_FAILURE] = "boot-failure",
		[TEST_MONITOR_FAILURE] = "monitor-failure",
	};

	return name[outcome];
}

static double seconds(const struct test_job *j)
{
	return (double)(j->ended_ns - j->started_ns) / (double)NSEC_PER_SEC;
}

/* What says most of how it ended, or "": a line of the log, or why wisp itself could not go on. */
static const char *word(const struct test_job *j)
{
	bool is_cause = j->log.worst & ~TEST_LOG_WARN || j->outcome == TEST_OOPS;

	if (j->outcome == TEST_MONITOR_FAILURE && j->message[0])
		return j->message;
	if (j->outcome == TEST_HANG && j->log.place[0])
		return j->log.place;
	if (is_cause || j->outcome == TEST_EXIT)
		return j->log.cause;
	/* The log has nothing to do with it. */
	return j->told && j->cause ? j->cause : j->log.last;
}

static const char *tail(const struct test_job *j, size_t bytes)
{
	const char *p = j->log.tail + (j->log.len > bytes ? j->log.len - bytes : 0);
	const char *line = p > j->log.tail ? strchr(p, '\n') : NULL;

	return line ? line + 1 : p;
}

void test_print_text(const struct test_job *j)
{
	const char *said = word(j);

	/* That it says already, or it has been said. */
	if (said == j->cause || said == j->message)
		said = "";
	if (j->outcome == TEST_EXIT && j->status != 255)
		return;
	if (j->outcome != TEST_MONITOR_FAILURE && !j->config->verbose)
		fputs(tail(j, 4096), stderr);
	if (j->end && j->end->evidence[0])
		fputs(j->end->evidence, stderr);
	if (j->symbols)
		fprintf(stderr, "symbols:\n%s", j->symbols);
	fprintf(stderr, "wisp: test: %s%s%s%s after %.1f s%s%s\n", test_outcome_name(j->outcome),
		j->cause ? " (" : "", j->cause ? j->cause : "", j->cause ? ")" : "", seconds(j),
		*said ? ": " : "", said);
}

/* ---- JSON ---- */

static void put_member(FILE *out, const char *name, const char *value)
{
	fprintf(out, ",\"%s\":", name);
	if (value && *value)
		text_put_json(out, value, strlen(value));
	else
		fputs("null", out);
}

/* The end of what a command among several said, which nobody has seen yet. */
static void put_output(FILE *out, const struct test_job *j)
{
	off_t size = lseek(j->out_fd, 0, SEEK_END);
	char *text = malloc(TEST_LOG_TAIL);
	ssize_t n = -1;

	if (text)
		n = pread(j->out_fd, text, TEST_LOG_TAIL,
			  MAX(size - (off_t)TEST_LOG_TAIL, (off_t)0));
	fputs(",\"output\":", out);
	text_put_json(out, text ? text : "", n > 0 ? (size_t)n : 0);
	free(text);
}

/* What the log says of trouble, also when the command went on. */
static void put_signs(FILE *out, unsigned seen)
{
	static const char *const name[] = { "panic", "oops", "warn", "lockup" };
	const char *comma = "";

	fputs(",\"seen\":[", out);
	for (unsigned i = 0; i < ARRAY_SIZE(name); i++) {
		if (!(seen & 1u << i))
			continue;
		fprintf(out, "%s\"%s\"", comma, name[i]);
		comma = ",";
	}
	fputc(']', out);
}

static void put_job(FILE *out, const struct test_job *j)
{
	fprintf(out, "{\"outcome\":\"%s\",\"status\":%d,\"seconds\":%.3f",
		test_outcome_name(j->outcome), j->status, seconds(j));
	if (j->outcome == TEST_EXIT && j->reported)
		fprintf(out, ",\"%s\":%d", j->by_signal ? "signal" : "exit_status",
			j->command_status);
	put_member(out, "cause", j->cause);
	put_member(out, "kernel", j->machine.kernel);
	put_member(out, "release", j->release);
	put_member(out, "start", j->phase != TEST_PHASE_WARM ? "cold" : j->made ? "made" : "warm");
	put_member(out, "message", word(j));
	put_signs(out, j->log.seen);
	put_member(out, "log", tail(j, TEST_LOG_TAIL));
	put_member(out, "registers", j->end ? j->end->evidence : NULL);
	put_member(out, "symbols", j->symbols);
	if (j->out_fd >= 0)
		put_output(out, j);
	put_member(out, "core", j->end && j->end->core_written ? j->machine.core_file : NULL);
	fputc('}', out);
}

void test_print_json(const struct test_job *jobs, unsigned num, FILE *out)
{
	if (num == 1) {
		put_job(out, jobs);
	} else {
		fputs("{\"tests\":[", out);
		for (unsigned i = 0; i < num; i++) {
			if (i)
				fputc(',', out);
			put_job(out, &jobs[i]);
		}
		fputs("]}", out);
	}
	fputc('\n', out);
}

/* ---- several ---- */

static void copy_output(const struct test_job *j, FILE *out)
{
	char buf[4096];
	off_t at = 0;
	ssize_t n;

	while ((n = pread(j->out_fd, buf, sizeof(buf), at)) > 0) {
		fwrite(buf, 1, n, out);
		at += n;
	}
}

void test_print_table(const struct test_job *jobs, unsigned num, FILE *out)
{
	for (unsigned i = 0; i < num; i++) {
		if (jobs[i].out_fd < 0)
			continue;
		fprintf(out, "--- %s\n", jobs[i].release);
		copy_output(&jobs[i], out);
	}
	fprintf(out, "%-32s %-16s %6s %9s  %s\n", "release", "outcome", "status", "seconds",
		"message");
	for (unsigned i = 0; i < num; i++) {
		const struct test_job *j = &jobs[i];

		fprintf(out, "%-32s %-16s %6d %9.1f  %s\n", j->release,
			test_outcome_name(j->outcome), j->status, seconds(j), word(j));
	}
}

static bool passed(const struct test_job *j)
{
	return j->outcome == TEST_EXIT && j->status == 0;
}

/* May the character of @n bytes be in XML 1.0 (2.2 there)? What is not UTF-8, @n = 0, may not. */
static bool is_xml(const char *s, size_t n)
{
	if (n <= 1)
		return n && (*s == '\n' || *s == '\t' || (*s >= 0x20 && *s < 0x7f));
	/* All but U+FFFE and U+FFFF. */
	return memcmp(s, "\xef\xbf\xbe", n) != 0 && memcmp(s, "\xef\xbf\xbf", n) != 0;
}

static void put_xml(FILE *out, const char *s)
{
	size_t n;

	for (const char *end = s + strlen(s); s < end; s += MAX(n, (size_t)1)) {
		n = text_utf8_len(s, end - s);
		switch (*s) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		case '"':
			fputs("&quot;", out);
			break;
		default:
			if (is_xml(s, n))
				fwrite(s, 1, n, out);
		}
	}
}

/* wisp itself could not go on: that says nothing of what is tested. */
static bool is_error(const struct test_job *j)
{
	return j->outcome == TEST_MONITOR_FAILURE;
}

/* What Ant's schema, which is all that JUnit files have of one, wants a suite to say. */
static void put_suite(FILE *out, const struct test_job *jobs, unsigned num)
{
	unsigned failures = 0, errors = 0;
	struct utsname host = { 0 };
	double sum = 0;
	char when[32];
	time_t began;
	struct tm utc;

	for (unsigned i = 0; i < num; i++) {
		errors += is_error(&jobs[i]);
		failures += !passed(&jobs[i]) && !is_error(&jobs[i]);
		sum += seconds(&jobs[i]);
	}
	began = time(NULL) - (time_t)(num ? seconds(&jobs[0]) : 0);
	gmtime_r(&began, &utc);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &utc);
	uname(&host);
	fprintf(out,
		"<testsuite name=\"wisp\" tests=\"%u\" failures=\"%u\" errors=\"%u\" "
		"time=\"%.3f\" timestamp=\"%s\" hostname=\"",
		num, failures, errors, sum, when);
	put_xml(out, *host.nodename ? host.nodename : "localhost");
	fputs("\">\n  <properties/>\n", out);
}

int test_write_junit(const struct test_job *jobs, unsigned num, const char *path)
{
	FILE *out = fopen(path, "we");

	if (!out)
		return -errno;
	fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", out);
	put_suite(out, jobs, num);
	for (unsigned i = 0; i < num; i++) {
		const struct test_job *j = &jobs[i];
		const char *element = is_error(j) ? "error" : "failure";

		fputs("  <testcase classname=\"", out);
		put_xml(out, j->release);
		fputs("\" name=\"", out);
		put_xml(out, j->config->command[0]);
		fprintf(out, "\" time=\"%.3f\"", seconds(j));
		if (passed(j)) {
			fputs("/>\n", out);
			continue;
		}
		fprintf(out, ">\n    <%s type=\"%s\" message=\"", element,
			test_outcome_name(j->outcome));
		put_xml(out, word(j));
		fputs("\">", out);
		put_xml(out, tail(j, 8192));
		fprintf(out, "</%s>\n  </testcase>\n", element);
	}
	fputs("  <system-out/>\n  <system-err/>\n</testsuite>\n", out);
	return fclose(out) ? -errno : 0;
}

/* In one line; what begins with '#' would be a directive, to skip the test for one. */
static void put_tap(FILE *out, const char *s)
{
	char line[1024];

	text_printable(line, sizeof(line), s, sizeof(line));
	for (const char *p = line; *p; p++)
		fprintf(out, *p == '#' || *p == '\\' ? "\\%c" : "%c", *p);
}

int test_write_tap(const struct test_job *jobs, unsigned num, const char *path)
{
	FILE *out = fopen(path, "we");
	char said[sizeof(jobs->message)];

	if (!out)
		return -errno;
	fprintf(out, "TAP version 13\n1..%u\n", num);
	for (unsigned i = 0; i < num; i++) {
		const struct test_job *j = &jobs[i];

		fprintf(out, "%sok %u - ", passed(j) ? "" : "not ", i + 1);
		put_tap(out, j->release);
		fputc(' ', out);
		put_tap(out, j->config->command[0]);
		fputc('\n', out);
		if (passed(j))
			continue;
		text_printable(said, sizeof(said), word(j), sizeof(said));
		fprintf(out, "# %s, status %d: %s\n", test_outcome_name(j->outcome), j->status,
			said);
	}
	return fclose(out) ? -errno : 0;
}
