/* The list of jobs: lines of words, quoted as a shell has them. */
#include "vmm/fleet/batch.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_WORDS 256

/* A week; what is expected to take longer has no place in a queue. */
#define MAX_EXPECTED 604800

struct line {
	const char *path;
	unsigned number;
	char *word[MAX_WORDS + 1];
	unsigned num_words;
};

static int line_fail(const struct line *l, struct error *err, const char *why)
{
	return error_usage(err, -EINVAL, "%s:%u: %s", l->path, l->number, why);
}

/*
 * Cut @text into words, in its place. 'a b', "a b" and a\ b are one word each; a word that begins
 * with # ends the line.
 */
static int split(struct line *l, char *text, struct error *err)
{
	char *in = text, *out, quote;

	l->num_words = 0;
	for (;;) {
		in += strspn(in, " \t\r\n");
		if (!*in || *in == '#')
			return 0;
		if (l->num_words == MAX_WORDS)
			return line_fail(l, err, "more than 256 words");
		l->word[l->num_words++] = out = in;
		for (quote = 0; *in && (quote || !strchr(" \t\r\n", *in)); in++) {
			if (quote ? *in == quote : *in == '\'' || *in == '"') {
				quote = quote ? 0 : *in;
				continue;
			}
			if (*in == '\\' && quote != '\'' && in[1])
				in++;
			*out++ = *in;
		}
		if (quote)
			return line_fail(l, err, "a quote is not closed");
		/* The blank behind the word may be where its end is written. */
		if (*in)
			in++;
		*out = '\0';
	}
}

static int parse_number(const struct line *l, const char *key, const char *text, uint64_t max,
			uint64_t *ret, struct error *err)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || *ret > max)
		return error_usage(err, -EINVAL, "%s:%u: %s: '%s' is not a number from 0 to %llu",
				   l->path, l->number, key, text, (unsigned long long)max);
	return 0;
}

/* Names are those of log files too. */
static bool is_name(const char *s)
{
	return *s && *s != '.' && *s != '-' && strlen(s) <= 64 &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
		       strlen(s);
}

/* One word in front of the verb. */
static int parse_key(const struct line *l, struct batch_job *j, const char *word, struct error *err)
{
	const char *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
	size_t len = equals ? (size_t)(equals - word) : 0;
	uint64_t n;
	int r = 0;

#define IS(key) (len == strlen(key) && !strncmp(word, key, len))
	if (IS("name")) {
		if (!is_name(value))
			return line_fail(l, err, "name: 1 to 64 letters, digits, '.', '_' or '-'");
		free(j->name);
		j->name = strdup(value);
		r = j->name ? 0 : -ENOMEM;
	} else if (IS("priority")) {
		r = parse_number(l, "priority", value, 1000, &n, err);
		j->priority = r ? 0 : n;
	} else if (IS("expect")) {
		r = parse_number(l, "expect", value, MAX_EXPECTED, &n, err);
		j->expected_ms = r ? 0 : n * 1000;
	} else if (IS("retries")) {
		r = parse_number(l, "retries", value, 100, &n, err);
		j->retries = r ? 0 : n;
	} else {
		return error_usage(err, -EINVAL,
				   "%s:%u: '%s' is neither run nor test, nor one of name=, "
				   "priority=, expect=, retries=",
				   l->path, l->number, word);
	}
#undef IS
	return r;
}

/* The value of the last option @name among @word, up to "--"; NULL: it is not there. */
static const char *option(char *const *word, unsigned num, const char *name)
{
	const char *value = NULL;
	size_t len = strlen(name);

	for (unsigned i = 1; i < num && strcmp(word[i], "--") != 0; i++) {
		if (strncmp(word[i], name, len) != 0)
			continue;
		if (word[i][len] == '=')
			value = word[i] + len + 1;
		else if (!word[i][len] && i + 1 < num)
			value = word[i + 1];
	}
	return value;
}

/* What the job takes: as its options say, with the defaults of its verb. */
static int find_size(const struct line *l, struct batch_job *j, struct error *err)
{
	struct machine_config c;
	const char *cpus, *memory;
	uint64_t n;
	int r = 0;

	config_init(&c);
	if (!strcmp(j->word[0], "run")) {
		r = config_parse_run(&c, (int)j->num_words - 1, j->word + 1, err);
		if (!r)
			r = config_validate(&c, err);
		if (!r && c.detach)
			r = error_usage(err, -EINVAL, "--detach: a job's end is waited for");
		if (r < 0) {
			struct error why = *err;

			error_usage(err, r, "%s:%u: %s", l->path, l->number, why.msg);
		}
	}
	j->cpus = c.cpus;
	j->memory_bytes = c.memory_bytes + c.hotplug.requested_bytes;
	config_done(&c);
	if (r < 0 || !strcmp(j->word[0], "run"))
		return r;
	/* The supervisor has options of its own. */
	cpus = option(j->word, j->num_words, "--cpus");
	memory = option(j->word, j->num_words, "--memory");
	if (cpus) {
		r = parse_number(l, "--cpus", cpus, CONFIG_MAX_CPUS, &n, err);
		j->cpus = r ? 0 : n;
	}
	if (!memory)
		j->memory_bytes = BATCH_TEST_MEMORY;
	else if (!r && config_parse_size(memory, MiB, &j->memory_bytes) < 0)
		r = line_fail(l, err, "--memory is not a size");
	return r;
}

/* FNV-1a, with the ends of words. */
static uint64_t hash_words(char *const *word, unsigned num)
{
	uint64_t h = 0xcbf29ce484222325;

	for (unsigned i = 0; i < num; i++) {
		const char *p = word[i];

		do
			h = (h ^ (unsigned char)*p) * 0x100000001b3;
		while (*p++);
	}
	return h;
}

static int keep_words(struct batch_job *j, char *const *word, unsigned num)
{
	j->word = calloc(num + 1, sizeof(*j->word));
	if (!j->word)
		return -ENOMEM;
	for (; j->num_words < num; j->num_words++) {
		j->word[j->num_words] = strdup(word[j->num_words]);
		if (!j->word[j->num_words])
			return -ENOMEM;
	}
	j->hash = hash_words(word, num);
	return 0;
}

static int check_room(const struct line *l, const struct batch_job *j,
		      const struct batch_room *budget, struct error *err)
{
	char want[24], have[24];

	if (j->cpus > budget->cpus)
		return error_usage(err, -ERANGE, "%s:%u: %u CPUs are more than the budget's %u",
				   l->path, l->number, j->cpus, budget->cpus);
	if (j->memory_bytes > budget->memory_bytes)
		return error_usage(err, -ERANGE, "%s:%u: %s of memory is more than the budget's %s",
				   l->path, l->number,
				   config_size_text(want, sizeof(want), j->memory_bytes),
				   config_size_text(have, sizeof(have), budget->memory_bytes));
	return 0;
}

static int parse_job(struct batch_job *j, struct line *l, const struct batch_room *budget,
		     struct error *err)
{
	unsigned i = 0;
	int r = 0;

	j->line = l->number;
	while (i < l->num_words && strcmp(l->word[i], "run") != 0 &&
	       strcmp(l->word[i], "test") != 0 && !r)
		r = parse_key(l, j, l->word[i++], err);
	if (!r && i == l->num_words)
		return line_fail(l, err, "there is no run or test in it");
	if (!r && !j->name && asprintf(&j->name, "job%u", l->number) < 0) {
		j->name = NULL;
		r = -ENOMEM;
	}
	if (!r)
		r = keep_words(j, l->word + i, l->num_words - i);
	if (r == -ENOMEM)
		return error_set(err, r, "%s: no memory", l->path);
	if (!r)
		r = find_size(l, j, err);
	return r ? r : check_room(l, j, budget, err);
}

static void job_done(struct batch_job *j)
{
	for (unsigned i = 0; i < j->num_words; i++)
		free(j->word[i]);
	free(j->word);
	free(j->name);
}

void batch_free(struct batch_list *list)
{
	for (unsigned i = 0; i < list->num; i++)
		job_done(&list->job[i]);
	free(list->job);
	*list = (struct batch_list){ 0 };
}

static int add_job(struct batch_list *list, struct line *l, const struct batch_room *budget,
		   struct error *err)
{
	struct batch_job *grown = reallocarray(list->job, list->num + 1, sizeof(*grown));
	struct batch_job *j;
	int r;

	if (!grown)
		return error_set(err, -ENOMEM, "%s: no memory", l->path);
	list->job = grown;
	j = &list->job[list->num++];
	*j = (struct batch_job){ 0 };
	r = parse_job(j, l, budget, err);
	for (unsigned i = 0; !r && i + 1 < list->num; i++)
		if (!strcmp(list->job[i].name, j->name))
			r = error_usage(err, -EEXIST, "%s:%u: the name '%s' is that of line %u",
					l->path, l->number, j->name, list->job[i].line);
	return r;
}

int batch_parse(struct batch_list *list, FILE *in, const char *path,
		const struct batch_room *budget, struct error *err)
{
	struct line l = { .path = path };
	char *text = NULL;
	size_t size = 0;
	int r = 0;

	while (!r && getline(&text, &size, in) > 0) {
		l.number++;
		r = split(&l, text, err);
		if (!r && l.num_words)
			r = add_job(list, &l, budget, err);
	}
	free(text);
	if (!r && ferror(in))
		r = error_usage(err, -EIO, "%s: cannot be read", path);
	if (r < 0)
		batch_free(list);
	return r;
}

int batch_read(struct batch_list *list, const char *path, const struct batch_room *budget,
	       struct error *err)
{
	FILE *in = fopen(path, "re");
	int r;

	if (!in)
		return error_usage(err, -errno, "%s: cannot open: %m", path);
	r = batch_parse(list, in, path, budget, err);
	fclose(in);
	return r;
}
