/* What has finished, a line of JSON each: it outlives the queue, however that ends. */
#include "vmm/fleet/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

/* The hash as text: JSON's numbers do not hold 64 bits everywhere. */
#define HASH_TEXT 17

static void hash_text(char buf[static HASH_TEXT], const struct batch_job *j)
{
	snprintf(buf, HASH_TEXT, "%016" PRIx64, j->hash);
}

static uint64_t number(const json_t *o, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(o, name));

	return n > 0 ? (uint64_t)n : 0;
}

/* A job of another list, or one whose words have changed since, is none of ours. */
static void take_record(struct batch_list *list, const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "job"));
	const char *words = json_string_value(json_object_get(o, "words"));
	char hash[HASH_TEXT];

	for (unsigned i = 0; name && words && i < list->num; i++) {
		struct batch_job *j = &list->job[i];

		hash_text(hash, j);
		if (strcmp(j->name, name) != 0 || strcmp(hash, words) != 0)
			continue;
		j->state = BATCH_FINISHED;
		j->earlier = true;
		j->status = (int)number(o, "status");
		j->attempts = (unsigned)number(o, "attempts");
		j->started_ms = number(o, "started_ms");
		j->ended_ms = number(o, "ended_ms");
		j->waited_ms = number(o, "waited_ms");
		j->ran_ms = number(o, "ran_ms");
	}
}

/* Returns how long the part is that consists of whole lines: a crash may have torn the last. */
static off_t take_records(FILE *in, struct batch_list *list)
{
	off_t whole = 0;
	char *text = NULL;
	size_t size = 0;
	ssize_t len;

	while ((len = getline(&text, &size, in)) > 0 && text[len - 1] == '\n') {
		json_t *o = json_loadb(text, len, 0, NULL);

		take_record(list, o);
		json_decref(o);
		whole += len;
	}
	free(text);
	return whole;
}

int batch_journal_open(const char *path, struct batch_list *list, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600), copy;
	FILE *in = NULL;
	off_t whole;
	int r = 0;

	if (fd < 0)
		return error_usage(err, -errno, "journal '%s': cannot open: %m", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		r = error_usage(err, -EBUSY, "journal '%s': another queue is at work on it", path);
		goto fail;
	}
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	in = copy < 0 ? NULL : fdopen(copy, "r");
	if (!in) {
		r = error_set(err, -errno, "journal '%s': %m", path);
		goto fail;
	}
	whole = take_records(in, list);
	fclose(in);
	if (ftruncate(fd, whole) < 0) {
		r = error_usage(err, -errno, "journal '%s': cannot write: %m", path);
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return r;
}

int batch_journal_add(int fd, const struct batch_job *j)
{
	char hash[HASH_TEXT], *text;
	json_t *o;
	ssize_t n;
	size_t len;

	hash_text(hash, j);
	o = json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I}", "job", j->name, "words", hash,
		      "status", j->status, "attempts", j->attempts, "started_ms",
		      (json_int_t)j->started_ms, "ended_ms", (json_int_t)j->ended_ms, "waited_ms",
		      (json_int_t)j->waited_ms, "ran_ms", (json_int_t)j->ran_ms);
	text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (!text)
		return -ENOMEM;
	len = strlen(text);
	/* One write: a line is there as a whole, or is the torn one that is left out. */
	text[len] = '\n';
	n = write(fd, text, len + 1);
	free(text);
	if (n != (ssize_t)len + 1)
		return n < 0 ? -errno : -ENOSPC;
	return fdatasync(fd) < 0 ? -errno : 0;
}
