/*
 * The user's cache: directories of ours in $XDG_CACHE_HOME/wisp, else ~/.cache/wisp. What is in
 * them can be made again; removing it is always fine. Any thread.
 */
#ifndef WISP_VMM_CACHE_DIR_H
#define WISP_VMM_CACHE_DIR_H

#include <stddef.h>

#include "vmm/core/error.h"

/*
 * Open the directory @name of the cache, which is made (0700) where it is not there; its path goes
 * to @path. Refused when others may write it. Returns the descriptor, or -errno; @what is kept
 * there, for messages: "images are unpacked".
 */
int cache_dir_open(const char *name, const char *what, char *path, size_t size, struct error *err);

#endif
