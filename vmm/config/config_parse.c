#include "vmm/config/config_parse.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/core/text.h"

int config_fail(struct config_parse *p, const char *fmt, ...)
{
	char text[sizeof(p->err->msg)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return error_usage(p->err, -EINVAL, "%s: %s%s%s", p->option, p->key ? p->key : "",
			   p->key ? ": " : "", text);
}

static int no_memory(struct config_parse *p)
{
	return error_set(p->err, -ENOMEM, "%s: %m", p->option);
}

/* ---- values ---- */

int config_set_string(struct config_parse *p, const char *value, char **ret)
{
	char *copy;

	if (!*value)
		return config_fail(p, "is empty");
	copy = strdup(value);
	if (!copy)
		return no_memory(p);
	free(*ret);
	*ret = copy;
	return 0;
}

int config_set_number(struct config_parse *p, const char *value, uint64_t min, uint64_t max,
		      unsigned *ret)
{
	unsigned long long n;
	char *end;

	/* strtoull() would take a sign and spaces. */
	if (!isdigit((unsigned char)*value))
		return config_fail(p, "'%s' is not a number", value);
	errno = 0;
	n = strtoull(value, &end, 10);
	if (*end)
		return config_fail(p, "'%s' is not a number", value);
	if (errno || n < min || n > max)
		return config_fail(p, "%s is out of range (%llu to %llu)", value,
				   (unsigned long long)min, (unsigned long long)max);
	*ret = n;
	return 0;
}

/* "a|b|c" as "a, b, c" */
static void list_words(const char *words, char *buf, size_t size)
{
	size_t len = 0;

	for (; *words && len + 3 < size; words++) {
		if (*words == '|') {
			buf[len++] = ',';
			buf[len++] = ' ';
		} else {
			buf[len++] = *words;
		}
	}
	buf[len] = '\0';
}

int config_set_choice(struct config_parse *p, const char *value, const char *words, unsigned *ret)
{
	size_t len = strlen(value);
	const char *w = words;
	char known[160];

	for (unsigned i = 0; w; i++) {
		if (len && !strncmp(w, value, len) && (w[len] == '|' || !w[len])) {
			*ret = i;
			return 0;
		}
		w = strchr(w, '|');
		if (w)
			w++;
	}
	list_words(words, known, sizeof(known));
	return config_fail(p, "unknown value '%s' (known: %s)", value, known);
}

static int set_switch(struct config_parse *p, const char *value, bool *ret)
{
	unsigned off;
	int r = config_set_choice(p, value, "on|off", &off);

	if (!r)
		*ret = !off;
	return r;
}

static int set_item(struct config_parse *p, const struct config_item *item, const char *value,
		    void *target)
{
	void *member = (char *)target + item->offset;

	switch (item->kind) {
	case CONFIG_STRING:
		return config_set_string(p, value, member);
	case CONFIG_NUMBER:
		return config_set_number(p, value, item->min, item->max, member);
	case CONFIG_CHOICE:
		return config_set_choice(p, value, item->value, member);
	case CONFIG_SWITCH:
	case CONFIG_FLAG:
		return set_switch(p, value ? value : "on", member);
	case CONFIG_CUSTOM:
		break;
	}
	return item->parse(p, value, target);
}

/* ---- key=value ---- */

/*
 * Cut the next piece off @text, in place: what is in front of the first single
 * comma, with doubled commas made single. Returns the rest, or NULL.
 */
static char *cut_piece(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (*text == ',') {
			if (text[1] != ',') {
				*to = '\0';
				return text + 1;
			}
			text++;
		}
		*to++ = *text;
	}
	*to = '\0';
	return NULL;
}

char *config_replace_first(const char *value, const char *first)
{
	/* At most every byte of @first is a comma. */
	char *text = malloc(2 * strlen(first) + strlen(value) + 1), *to = text;

	if (!text)
		return NULL;
	for (; *first; first++) {
		if (*first == ',')
			*to++ = ',';
		*to++ = *first;
	}
	for (; *value && (*value != ',' || value[1] == ','); value++)
		value += *value == ',';
	memcpy(to, value, strlen(value) + 1);
	return text;
}

static int unknown_key(struct config_parse *p, const char *name, const struct config_item *keys)
{
	char known[200] = "";
	size_t len = 0;

	for (const struct config_item *k = keys; k->name && len < sizeof(known); k++)
		len += snprintf(known + len, sizeof(known) - len, "%s%s", len ? ", " : "", k->name);
	return config_fail(p, "unknown key '%s' (known: %s)", name, known);
}

static int set_piece(struct config_parse *p, char *piece, const struct config_item *keys,
		     void *target, uint64_t *given)
{
	char *value = strchr(piece, '=');
	const struct config_item *k;
	int r;

	if (value)
		*value++ = '\0';
	for (k = keys; k->name && strcmp(k->name, piece); k++)
		;
	if (!k->name)
		return unknown_key(p, piece, keys);
	if (*given & 1ull << (k - keys) && !k->repeat)
		return config_fail(p, "key '%s' is given twice", k->name);
	*given |= 1ull << (k - keys);
	if (!value && k->kind != CONFIG_FLAG)
		return config_fail(p, "key '%s' needs a value: %s=%s", k->name, k->name, k->value);
	p->key = k->name;
	r = set_item(p, k, value, target);
	p->key = NULL;
	return r;
}

int config_set_keys(struct config_parse *p, const char *text, const struct config_item *keys,
		    int (*first)(struct config_parse *p, const char *value, void *target),
		    void *target)
{
	char *copy = strdup(text), *piece, *rest;
	uint64_t given = 0;
	int r;

	if (!copy)
		return no_memory(p);
	rest = cut_piece(copy);
	r = first(p, copy, target);
	while (!r && (piece = rest)) {
		rest = cut_piece(piece);
		r = set_piece(p, piece, keys, target, &given);
	}
	free(copy);
	return r;
}

/* ---- arguments ---- */

/* Where the value of @arg begins ("--cpus=4"), or NULL; @ret_len is the name's length. */
static const char *inline_value(const char *arg, size_t *ret_len)
{
	const char *equals = strchr(arg, '=');

	*ret_len = equals ? (size_t)(equals - arg) : strlen(arg);
	return equals ? equals + 1 : NULL;
}

static const struct config_item *find_option(const struct config_item *options, const char *arg,
					     size_t len)
{
	for (const struct config_item *o = options; o && o->name; o++)
		if (strlen(o->name) == len && !strncmp(o->name, arg, len))
			return o;
	return NULL;
}

/* Does the argument after a flag belong to it? An image of such a name is "./on". */
static bool is_switch_word(const char *arg)
{
	return arg && (!strcmp(arg, "on") || !strcmp(arg, "off"));
}

/* Is @text, as far as can be seen, KEY=VALUE with a key of @o's? */
static bool begins_with_key(const struct config_item *o, const char *text)
{
	size_t len = strcspn(text, "=");

	for (const struct config_item *k = o->keys; k && k->name; k++)
		if (text[len] && strlen(k->name) == len && !strncmp(k->name, text, len))
			return true;
	return false;
}

/* Is the word @next, where there is one, the value of @o? */
static bool takes_word(const struct config_item *o, const char *next)
{
	if (o->optional)
		return next && (isdigit((unsigned char)*next) || begins_with_key(o, next));
	return o->kind != CONFIG_FLAG || is_switch_word(next);
}

int config_split_option(const struct config_item *table, char *const *argv, int argc,
			const struct config_item **ret_item, const char **ret_value)
{
	const char *next = argc > 1 ? argv[1] : NULL;
	size_t len;
	const char *value = inline_value(argv[0], &len);
	const struct config_item *o = find_option(table, argv[0], len);
	bool takes_next = o && !value && o->value && takes_word(o, next);

	*ret_item = o;
	*ret_value = takes_next ? next : value;
	if (!o)
		return 0;
	return takes_next && next ? 2 : 1;
}

int config_take_option(struct config_parse *p, const struct config_item *table, uint64_t *given,
		       void *target, char *const *argv, int argc)
{
	const struct config_item *o;
	const char *value;
	int used = config_split_option(table, argv, argc, &o, &value), r;

	if (!used)
		return 0;
	p->option = o->name;
	if (*given & 1ull << (o - table) && !o->repeat)
		return config_fail(p, "given twice");
	*given |= 1ull << (o - table);

	if (value && !o->value)
		return config_fail(p, "takes no value");
	if (!value && o->value && takes_word(o, NULL))
		return config_fail(p, "needs a value: %s", o->value);
	r = set_item(p, o, value, target);
	return r < 0 ? r : used;
}

/* Of its name "--" is no part that anybody mistypes. */
static void guess_option(struct text_guess *guess, const struct config_item *table)
{
	for (const struct config_item *o = table; o && o->name; o++)
		if (!strncmp(o->name, "--", 2))
			text_guess_add(guess, o->name + 2);
}

int config_unknown_option(const char *arg, const struct config_item *table,
			  const struct config_item *also, struct error *err)
{
	int len = (int)strcspn(arg, "=");
	const char *name = arg + MIN(strspn(arg, "-"), (size_t)len);
	struct text_guess guess = { .typed = name, .len = arg + len - name };

	guess_option(&guess, table);
	guess_option(&guess, also);
	if (guess.word)
		return error_usage(err, -EINVAL, "unknown option '%.*s': did you mean --%s?", len,
				   arg, guess.word);
	return error_usage(err, -EINVAL, "unknown option '%.*s'", len, arg);
}

/* Parse the option argv[0]; returns how many arguments it took, or -errno. */
static int parse_option(struct config_parse *p, char *const *argv, int argc)
{
	int r = config_take_option(p, p->options, &p->given, p->target, argv, argc);

	if (r)
		return r;
	config_unknown_option(argv[0], p->options, NULL, p->err);
	error_hint(p->err, "'wisp help %s' lists the options", p->verb);
	return -EINVAL;
}

static int parse_image(struct config_parse *p, const char *arg, bool *seen)
{
	int r;

	p->option = "IMAGE";
	if (*seen)
		return config_fail(p, "'%s' is one more: others are given by --disk", arg);
	*seen = true;
	r = config_parse_disk(p, arg, p->config);
	if (!r)
		config_disk_to_front(p->config);
	return r;
}

static int default_string(struct config_parse *p, char **s, const char *stem, unsigned n)
{
	if (!*s && asprintf(s, "%s%u", stem, n) < 0) {
		*s = NULL;
		return no_memory(p);
	}
	return 0;
}

/* What the user left open. */
static int complete(struct config_parse *p)
{
	struct machine_config *c = p->config;
	int r;

	if (p->hugepages) {
		p->option = "--hugepages";
		if (c->memory_backing == GUEST_MEM_SHARED)
			return config_fail(p, "cannot be combined with --memory-backend shared");
		c->memory_backing = GUEST_MEM_HUGETLB;
	}
	if (!p->console_given)
		c->console_present = !(c->serial_present && c->serial.kind == CHARDEV_STDIO);
	if (!c->net_given) {
		if (c->num_nets == CONFIG_MAX_NETS)
			return config_fail(p, "more than %d networks", CONFIG_MAX_NETS);
		/* In front of those that were plugged in later. */
		memmove(&c->net[1], &c->net[0], c->num_nets++ * sizeof(c->net[0]));
		c->net[0] = (struct config_net){ .kind = CONFIG_NET_USER, .queues = 1 };
	}

	p->option = "run";
	r = default_string(p, &c->name, "vm", getpid());
	for (unsigned i = 0; i < c->num_disks && !r; i++) {
		r = default_string(p, &c->disk[i].id, "disk", i);
		if (!r && !c->disk[i].serial) {
			c->disk[i].serial = strndup(c->disk[i].id, CONFIG_DISK_SERIAL);
			if (!c->disk[i].serial)
				r = no_memory(p);
		}
	}
	for (unsigned i = 0; i < c->num_pmems && !r; i++)
		r = default_string(p, &c->pmem[i].id, "pmem", i);
	for (unsigned i = 0; i < c->num_shares && !r; i++)
		r = default_string(p, &c->share[i].id, "share", i);
	for (unsigned i = 0; i < c->num_nets && !r; i++) {
		struct config_net *n = &c->net[i];

		r = default_string(p, &n->id, "net", i);
		if (!n->mac_given)
			config_net_default_mac(n, i);
	}
	return r ? r : config_take_unplugged(p);
}

/* A saved machine is described by what it was made of. */
static int keep_args(struct config_parse *p, int argc, char *const *argv)
{
	struct machine_config *c = p->config;
	int r = 0;

	p->option = "run";
	c->args_dir = getcwd(NULL, 0);
	for (int i = 0; i < argc && !r; i++)
		r = config_check_text("the argument", argv[i], p->err);
	if (r < 0)
		return r;
	c->args = calloc(argc + 1, sizeof(*c->args));
	if (!c->args)
		return no_memory(p);
	for (; c->num_args < (unsigned)argc; c->num_args++) {
		c->args[c->num_args] = strdup(argv[c->num_args]);
		if (!c->args[c->num_args])
			return no_memory(p);
	}
	return 0;
}

int config_parse_run(struct machine_config *c, int argc, char *const *argv, struct error *err)
{
	struct config_parse p = {
		.config = c,
		.target = c,
		.options = config_run_options,
		.verb = "run",
		.err = err,
	};
	bool only_images = false, image_seen = false;
	int r = keep_args(&p, argc, argv);

	if (r < 0)
		return r;
	for (int i = 0; i < argc; i += r) {
		if (only_images || argv[i][0] != '-' || !argv[i][1]) {
			r = parse_image(&p, argv[i], &image_seen);
			if (!r)
				r = 1;
		} else if (!strcmp(argv[i], "--")) {
			only_images = true;
			r = 1;
		} else {
			r = parse_option(&p, argv + i, argc - i);
		}
		if (r < 0)
			return r;
	}
	return complete(&p);
}

int config_parse_verb(const char *verb, const struct config_item *options, void *target, int argc,
		      char *const *argv, const char **args, unsigned max_args, struct error *err)
{
	struct config_parse p = { .target = target, .options = options, .verb = verb, .err = err };
	bool only_args = false;
	unsigned num = 0;
	int r;

	for (int i = 0; i < argc; i += r) {
		r = 1;
		if (only_args || argv[i][0] != '-' || !argv[i][1]) {
			if (num == max_args)
				return error_usage(err, -EINVAL, "%s: '%s' is one too many", verb,
						   argv[i]);
			args[num++] = argv[i];
		} else if (!strcmp(argv[i], "--")) {
			only_args = true;
		} else {
			r = parse_option(&p, argv + i, argc - i);
		}
		if (r < 0)
			return r;
	}
	return (int)num;
}
