#include "vmm/config/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/control/report_file.h"
#include "vmm/helper.h"

#define SECTION "wisp-run"
#define IMAGE	"image" /* what needs no option's name */

/* All that a file comes to; far more than a machine can have. */
#define MAX_WORDS 1024
#define MAX_TEXT  (256 * 1024)

/* ---- words ---- */

/* @word is taken over; NULL: there was no memory for it. */
static int add(struct config_words *words, char *word, struct error *err)
{
	char **grown = word ? realloc(words->argv, (words->argc + 2) * sizeof(*grown)) : NULL;

	if (!grown || words->argc >= MAX_WORDS) {
		words->argv = grown ? grown : words->argv;
		free(word);
		return error_usage(err, -E2BIG, "--config-file: more options than a machine has");
	}
	words->argv = grown;
	words->argv[words->argc++] = word;
	words->argv[words->argc] = NULL;
	return 0;
}

static int add_option(struct config_words *words, const char *name, const char *value,
		      struct error *err)
{
	char *word;

	if (asprintf(&word, "--%s%s%s", name, value ? "=" : "", value ? value : "") < 0)
		word = NULL;
	return add(words, word, err);
}

void config_words_free(struct config_words *words)
{
	for (int i = 0; i < words->argc; i++)
		free(words->argv[i]);
	free(words->argv);
	free(words->save);
	*words = (struct config_words){ 0 };
}

/* Does an option of @argv say what @word, of a file, says too, and may only be said once? */
static bool is_overruled(const char *word, int argc, char *const *argv)
{
	size_t len = strcspn(word, "=");

	for (const struct config_item *o = config_run_options; o->name; o++)
		if (strlen(o->name) == len && !strncmp(o->name, word, len) && o->repeat)
			return false;
	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcspn(argv[i], "=") == len && !strncmp(argv[i], word, len))
			return true;
	return false;
}

/* ---- wisp's own kind ---- */

static const struct config_item *find_item(const char *name)
{
	for (const struct config_item *o = config_run_options; o->name; o++)
		if (!strcmp(o->name + 2, name))
			return o;
	return NULL;
}

static int take_value(struct config_words *from_file, const char *path, const char *name,
		      const json_t *v, struct error *err)
{
	const struct config_item *item = find_item(name);
	char number[24];

	if (!strcmp(name, IMAGE) && json_is_string(v))
		return add(from_file, strdup(json_string_value(v)), err);
	if (!item)
		return error_usage(err, -EINVAL, "--config-file '%s': there is no option '--%s'",
				   path, name);
	if (json_is_string(v))
		return add_option(from_file, name, json_string_value(v), err);
	if (json_is_integer(v)) {
		snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(v));
		return add_option(from_file, name, number, err);
	}
	if (json_is_true(v))
		return add_option(from_file, name, item->value && !item->optional ? "on" : NULL,
				  err);
	/* An option without values is off when it is not there. */
	if (json_is_false(v))
		return item->value ? add_option(from_file, name, "off", err) : 0;
	return error_usage(err, -EINVAL,
			   "--config-file '%s': '%s' is no text, number, true, false, or list "
			   "of these",
			   path, name);
}

static int read_own(struct config_words *from_file, const char *path, const json_t *section,
		    struct error *err)
{
	const char *name;
	json_t *v, *one;
	size_t i;
	int r = 0;

	if (!json_is_object(section))
		return error_usage(err, -EINVAL, "--config-file '%s': '" SECTION "' is no object",
				   path);
	json_object_foreach((json_t *)section, name, v)
	{
		if (!json_is_array(v) && !r)
			r = take_value(from_file, path, name, v, err);
		json_array_foreach(v, i, one)
		{
			if (!r)
				r = take_value(from_file, path, name, one, err);
		}
	}
	return r;
}

/* ---- Firecracker's kind ---- */

/* All that @fd says until its end, NUL-terminated; NULL when it is too much. */
static char *read_to_end(int fd, size_t *ret_len)
{
	char *text = malloc(MAX_TEXT);
	size_t len = 0;
	ssize_t n = 1;

	while (text && n > 0 && len < MAX_TEXT - 1) {
		n = read(fd, text + len, MAX_TEXT - 1 - len);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0)
			len += n;
	}
	if (!text || n != 0) {
		free(text);
		return NULL;
	}
	text[len] = '\0';
	*ret_len = len;
	return text;
}

/* The helper says the options with a NUL behind each, or on its standard error why not. */
static int read_firecrackers(struct config_words *from_file, const char *path, struct error *err)
{
	char *const argv[] = { "api", "--print-arguments", "--config-file", (char *)path, NULL };
	int out[2], status, r = 0;
	size_t len = 0;
	char *text;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) < 0)
		return error_set(err, -errno, "--config-file: %m");
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		helper_exec("wisp-api", argv, err);
		error_print(err);
		_exit(error_status(err));
	}
	close(out[1]);
	if (pid < 0) {
		close(out[0]);
		return error_set(err, -errno, "--config-file: cannot fork: %m");
	}
	text = read_to_end(out[0], &len);
	close(out[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!text || !WIFEXITED(status) || WEXITSTATUS(status))
		r = error_usage(err, -EINVAL, "--config-file '%s': cannot be used", path);
	for (const char *word = text; !r && word < text + len; word += strlen(word) + 1)
		r = add(from_file, strdup(word), err);
	free(text);
	return r;
}

static int read_file(struct config_words *from_file, const char *path, struct error *err)
{
	FILE *file = fopen(path, "re");
	json_error_t why;
	json_t *all, *own;
	int r = 0;

	if (!file)
		return error_usage(err, -errno, "--config-file '%s': cannot open: %m", path);
	errno = 0;
	all = json_loadf(file, JSON_REJECT_DUPLICATES, &why);
	if (ferror(file))
		r = error_usage(err, errno ? -errno : -EIO, "--config-file '%s': cannot read: %m",
				path);
	fclose(file);
	if (r < 0) {
		json_decref(all);
		return r;
	}
	if (!all)
		return error_usage(err, -EINVAL, "--config-file '%s': line %d: %s", path, why.line,
				   why.text);
	own = json_object_get(all, SECTION);
	if (!own)
		r = read_firecrackers(from_file, path, err);
	else if (json_object_size(all) > 1)
		r = error_usage(err, -EINVAL,
				"--config-file '%s': nothing goes beside '" SECTION "'", path);
	else
		r = read_own(from_file, path, own, err);
	json_decref(all);
	return r;
}

/* ---- the whole ---- */

/* Is argv[0] the option @name? Then its value, and how many words both are. */
static int take_file(const char *name, int argc, char *const *argv, const char **ret,
		     struct error *err)
{
	size_t len = strlen(name);

	if (strncmp(argv[0], name, len) != 0 || (argv[0][len] && argv[0][len] != '='))
		return 0;
	if (*ret)
		return error_usage(err, -EINVAL, "%s: given twice", name);
	*ret = argv[0][len] ? argv[0] + len + 1 : argc > 1 ? argv[1] : NULL;
	if (!*ret || !**ret)
		return error_usage(err, -EINVAL, "%s: needs a value: FILE", name);
	return argv[0][len] ? 1 : 2;
}

int config_words_expand(struct config_words *words, int argc, char *const *argv, struct error *err)
{
	struct config_words from_file = { 0 }, given = { 0 };
	const char *config = NULL, *save = NULL;
	bool only_images = false;
	int r = 0, used;

	for (int i = 0; i < argc && r >= 0; i += MAX(used, 1)) {
		only_images |= !strcmp(argv[i], "--");
		used = only_images ? 0
				   : take_file("--config-file", argc - i, argv + i, &config, err);
		if (!used && !only_images)
			used = take_file("--save-config", argc - i, argv + i, &save, err);
		r = used ? MIN(used, 0) : add(&given, strdup(argv[i]), err);
	}
	if (r >= 0 && config)
		r = read_file(&from_file, config, err);
	for (int i = 0; i < from_file.argc && r >= 0; i++)
		if (!is_overruled(from_file.argv[i], given.argc, given.argv))
			r = add(words, strdup(from_file.argv[i]), err);
	for (int i = 0; i < given.argc && r >= 0; i++)
		r = add(words, strdup(given.argv[i]), err);
	if (r >= 0 && save) {
		words->save = strdup(save);
		r = words->save ? 0 : error_set(err, -ENOMEM, "--save-config: %m");
	}
	config_words_free(&from_file);
	config_words_free(&given);
	if (r < 0)
		config_words_free(words);
	return MIN(r, 0);
}

/* Add what one option says; more of a kind become a list. */
static int note(json_t *section, const char *name, const char *value)
{
	json_t *v = value ? json_string(value) : json_true();
	json_t *there = json_object_get(section, name);

	if (!there)
		return json_object_set_new(section, name, v);
	if (!json_is_array(there)) {
		there = json_pack("[O]", there);
		json_object_set_new(section, name, there);
	}
	return json_array_append_new(there, v);
}

/* A saved --dry-run would keep the file from ever starting anything. */
static bool is_saved(const struct config_item *item)
{
	return strcmp(item->name, "--dry-run") != 0;
}

static int write_file(const char *path, const json_t *all, struct error *err)
{
	struct report_file file;
	int r = report_file_open(&file, "--save-config", path, err);
	int fd = r < 0 ? r : fcntl(file.fd, F_DUPFD_CLOEXEC, 3);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
	bool bad = !out || json_dumpf(all, out, JSON_INDENT(2)) < 0 || fputc('\n', out) == EOF;

	if (r < 0)
		return r;
	/* Closing is what writes: its errno is the reason when it fails too. */
	if (out && fclose(out) != 0)
		bad = true;
	else if (!out && fd >= 0)
		close(fd);
	r = bad ? error_usage(err, -errno, "--save-config '%s': cannot write: %m", path) :
		  report_file_keep(&file, err);
	report_file_close(&file);
	return r;
}

int config_words_save(const struct config_words *words, struct error *err)
{
	json_t *section, *all;
	bool only_images = false;
	int r;

	if (!words->save)
		return 0;
	section = json_object();
	all = json_pack("{s:O}", SECTION, section);
	r = section && all ? 0 : -ENOMEM;
	for (int i = 0, used; i < words->argc && !r; i += used) {
		const struct config_item *item;
		const char *value, *word = words->argv[i];

		used = 1;
		if (!only_images && !strcmp(word, "--")) {
			only_images = true;
		} else if (only_images || *word != '-' || !word[1]) {
			r = note(section, IMAGE, word);
		} else {
			used = config_split_option(config_run_options, words->argv + i,
						   words->argc - i, &item, &value);
			/* They have been parsed before. */
			r = used <= 0		? -EINVAL
			    : is_saved(item) ? note(section, item->name + 2, value)
					     : 0;
		}
	}
	if (r < 0)
		error_set(err, r, "--save-config: %s", strerror(-r));
	else
		r = write_file(words->save, all, err);
	json_decref(section);
	json_decref(all);
	return r;
}
