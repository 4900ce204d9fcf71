/*
 * How options are described and parsed: one table says what an option or a key
 * is called, what it takes, what it means and where its value goes. The parser,
 * `wisp help`, the man page and shell completion all read it, so that they
 * cannot tell different stories.
 */
#ifndef WISP_VMM_CONFIG_PARSE_H
#define WISP_VMM_CONFIG_PARSE_H

#include "vmm/config/config.h"

#define CONFIG_MAX_UNPLUGGED (2 * (CONFIG_MAX_DISKS + CONFIG_MAX_NETS))

/* A command line on its way into a configuration. */
struct config_parse {
	struct machine_config *config;
	void *target;	    /* the struct that the options fill */
	const struct config_item *options;
	const char *verb;   /* whose options these are, for hints */
	const char *option; /* where we are, for messages: "--disk" */
	const char *key;    /* "queues", or NULL */
	uint64_t given;	    /* a bit for each entry of @options */
	bool hugepages;
	bool console_given;
	struct config_unplugged { /* by --unplugged, once all that there was is known */
		const char *id; /* up to the colon; borrowed */
		size_t len;
		enum config_device kind; /* CONFIG_DEVICES: of any */
		uint64_t next_gpa;	 /* of persistent memory: where the next one is */
	} unplugged[CONFIG_MAX_UNPLUGGED];
	unsigned num_unplugged;
	struct error *err;
};

enum config_kind {
	CONFIG_STRING, /* char *: any text but the empty one */
	CONFIG_NUMBER, /* unsigned: from min to max */
	CONFIG_CHOICE, /* an enum: which of the words in @value, in the enum's order */
	CONFIG_SWITCH, /* bool: "on" or "off" */
	CONFIG_FLAG,   /* bool: on when it stands alone, else as a switch */
	CONFIG_CUSTOM, /* parse() decides */
};

/* An option of a verb, or a key of a device option. */
struct config_item {
	const char *name;  /* "--disk", or "ro" */
	const char *value; /* what follows: "N", "pci|mmio"; NULL when nothing does */
	const char *text;  /* what it means, and the default */
	enum config_kind kind;
	size_t offset; /* of the member in the struct that is filled */
	uint64_t min, max;
	bool repeat;   /* may be given more than once */
	bool optional; /* the value may be left out; a word that is one has a digit or key first */
	/* CUSTOM: @target is the struct; @value is NULL when nothing was given. */
	int (*parse)(struct config_parse *p, const char *value, void *target);
	/* The keys that the value may end in, up to one without a name. */
	const struct config_item *keys;
};

/* All tables end in an item without a name. */
extern const struct config_item config_run_options[];
extern const struct config_item config_disk_keys[];
extern const struct config_item config_net_keys[];
extern const struct config_item config_vsock_keys[];
extern const struct config_item config_balloon_keys[];
extern const struct config_item config_hotplug_keys[];
extern const struct config_item config_rewind_keys[];
extern const struct config_item config_pmem_keys[];
extern const struct config_item config_share_keys[];
extern const struct config_item config_io_max_keys[];

/*
 * The arguments of a verb other than run: options as in the table fill @target, the rest (all
 * of them after "--") goes to @args in order. Returns how many those are, at most @max_args, or
 * -errno. CUSTOM items' parse() gets @target.
 */
int config_parse_verb(const char *verb, const struct config_item *options, void *target, int argc,
		      char *const *argv, const char **args, unsigned max_args, struct error *err);

/*
 * Parse the option at argv[0] by @table, into @target; @given has a bit for each
 * of its entries. Returns how many arguments it took, 0 when it is none of these, or -errno.
 */
int config_take_option(struct config_parse *p, const struct config_item *table, uint64_t *given,
		       void *target, char *const *argv, int argc);

/*
 * Split the option at argv[0], without parsing it: which of @table it is, and its value, NULL when
 * it has none. Returns how many arguments it takes, 0 when it is none of these.
 */
int config_split_option(const struct config_item *table, char *const *argv, int argc,
			const struct config_item **ret_item, const char **ret_value);

/*
 * Fail with -EINVAL for the option @arg, which is none of @table nor of @also (NULL: there is no
 * second one), naming the one that is spelt nearly so.
 */
int config_unknown_option(const char *arg, const struct config_item *table,
			  const struct config_item *also, struct error *err);

/* ---- for parse functions; each returns 0 or -errno with the error filled in ---- */

/* Fail with "--option: key: text". */
int config_fail(struct config_parse *p, const char *fmt, ...) __printf(2, 3);

/* @ret is what was there before, freed, or NULL. */
int config_set_string(struct config_parse *p, const char *value, char **ret);
int config_set_number(struct config_parse *p, const char *value, uint64_t min, uint64_t max,
		      unsigned *ret);
/* The index of @value in "a|b|c". */
int config_set_choice(struct config_parse *p, const char *value, const char *words, unsigned *ret);

/* "[every=]TIME[,KEY=VALUE]...", of --rewind. */
int config_set_rewind(struct config_parse *p, const char *value, struct config_rewind *rewind);

/* "500ms", "2s", "1m", "1h"; a bare number is seconds. -EINVAL, or -ERANGE beyond 24 hours. */
int config_parse_duration(const char *text, uint64_t *ret_ms);

/*
 * Split "first,key=value,flag": calls @first with what is in front of the first
 * comma, then fills @target by @keys. A doubled comma is one, in a value.
 */
int config_set_keys(struct config_parse *p, const char *text, const struct config_item *keys,
		    int (*first)(struct config_parse *p, const char *value, void *target),
		    void *target);
/* Such a text with @first in place of what it begins with; the caller's. NULL: no memory. */
char *config_replace_first(const char *value, const char *first);

/*
 * config_text.c: @text is UTF-8, or -EILSEQ that says so of "@what '@text'". All that the control
 * socket tells of is JSON, and jansson makes nothing of an object with any other text in it.
 */
int config_check_text(const char *what, const char *text, struct error *err);

/* config_unplugged.c: devices that are not there any more, or not here. */
int config_parse_unplugged(struct config_parse *p, const char *value, void *target);
int config_take_unplugged(struct config_parse *p);

/* config_devices.c: the options that describe devices. */
int config_parse_disk(struct config_parse *p, const char *value, void *target);
int config_parse_pmem(struct config_parse *p, const char *value, void *target);
int config_parse_share(struct config_parse *p, const char *value, void *target);
int config_parse_rootfs(struct config_parse *p, const char *value, void *target);
int config_parse_serial(struct config_parse *p, const char *value, void *target);
int config_parse_console(struct config_parse *p, const char *value, void *target);
/* Make the disk that is last the first, keeping the order of the others. */
void config_disk_to_front(struct machine_config *c);

/* config_balloon.c */
int config_parse_balloon(struct config_parse *p, const char *value, void *target);
int config_parse_rewind(struct config_parse *p, const char *value, void *target);

/* config_hotplug.c */
int config_parse_hotplug(struct config_parse *p, const char *value, void *target);
int config_check_hotplug(const struct machine_config *c, struct error *err);

/* config_resources.c */
int config_parse_cpu_max(struct config_parse *p, const char *value, void *target);
int config_parse_memory_max(struct config_parse *p, const char *value, void *target);
int config_parse_io_max(struct config_parse *p, const char *value, void *target);
int config_parse_pin(struct config_parse *p, const char *value, void *target);

/* config_vsock.c */
int config_parse_vsock(struct config_parse *p, const char *value, void *target);

/* config_net.c */
int config_parse_net(struct config_parse *p, const char *value, void *target);
/* A forward alone, as the value of @option. The address is the caller's to free. */
int config_parse_forward(const char *option, const char *value, struct config_forward *ret,
			 struct error *err);
/* The address of the @index-th interface when none is given. */
void config_net_default_mac(struct config_net *n, unsigned index);

#endif
