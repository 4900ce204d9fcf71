/* What programs that write seeds share. */
#ifndef WISP_TESTS_FUZZ_SEED_H
#define WISP_TESTS_FUZZ_SEED_H

#include <stdbool.h>
#include <stdio.h>

/* A file @name in @dir. True when it is written. */
static inline bool seed_write(const char *dir, const char *name, const void *data, size_t len)
{
	char path[4096];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	if (!f)
		return false;
	ok = fwrite(data, len, 1, f) == 1;
	return fclose(f) == 0 && ok;
}

#endif
