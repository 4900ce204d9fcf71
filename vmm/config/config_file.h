/*
 * `wisp run --config-file FILE` and `--save-config FILE`: options in a file.
 *
 * Two kinds of JSON are read. wisp's own names options as the command line does, and holds all of
 * them:
 *
 *	{ "wisp-run": { "kernel": "vmlinux", "cpus": 2, "disk": ["a.img,ro", "b.img"] } }
 *
 * Firecracker's ("boot-source", "drives", ...) is read by the helper that speaks its API, and comes
 * back as options. So one parser and one validation see everything. Options on the command line
 * go before those of the file; those that may be repeated are added to them.
 */
#ifndef WISP_VMM_CONFIG_FILE_H
#define WISP_VMM_CONFIG_FILE_H

#include "vmm/config/config_parse.h"

/* A command line whose options from files are in their places. Zero-initialised: empty. */
struct config_words {
	char **argv; /* ends with NULL */
	int argc;
	char *save; /* --save-config; NULL: not given */
};

/* Make @words of the arguments of `wisp run`. Kind USAGE when a file cannot be used. */
int config_words_expand(struct config_words *words, int argc, char *const *argv, struct error *err);
void config_words_free(struct config_words *words);

/* Write what --save-config asks for, if anything: to be read by --config-file. */
int config_words_save(const struct config_words *words, struct error *err);

#endif
