/*
 * Names for the addresses in what is left of a kernel: the registers of one that hung, the trace of
 * one that has no names of its own (CONFIG_KALLSYMS).
 */
#include <elf.h>
#include <limits.h>
#include <stdlib.h>

#include "vmm/debug/symbols.h"
#include "vmm/testing/test_internal.h"
#include "vmm/debug/vmcoreinfo.h"

#define KERNEL_TEXT   0xffffffff80000000ull
#define MAX_ADDRESSES 64
#define DIGITS	      16

/* ---- where the kernel is, and its symbols ---- */

static bool find_number(const char *text, const char *before, uint64_t *ret)
{
	const char *p = text ? strstr(text, before) : NULL;
	char *end;

	if (!p)
		return false;
	p += strlen(before);
	*ret = strtoull(p, &end, 16);
	return end != p;
}

static bool is_elf(const char *path)
{
	FILE *f = path ? fopen(path, "re") : NULL;
	char magic[SELFMAG] = "";
	bool is = f && fread(magic, 1, sizeof(magic), f) == sizeof(magic) &&
		  !memcmp(magic, ELFMAG, sizeof(magic));

	if (f)
		fclose(f);
	return is;
}

/* By how much it moved itself when it booted; false when nobody knows. */
static bool find_offset(const struct test_job *j, uint64_t *ret)
{
	const char *cmdline = j->machine.cmdline;
	const char *evidence = j->end ? j->end->evidence : NULL;

	*ret = 0;
	if (find_number(evidence, VMCOREINFO_OFFSET_WORDS, ret) ||
	    find_number(j->log.tail, "Kernel Offset: 0x", ret))
		return true;
	/* What moves is the unpacker, which an ELF kernel goes without. */
	return strstr(j->log.tail, "Kernel Offset: disabled") ||
	       (cmdline && strstr(cmdline, "nokaslr")) ||
	       is_elf(j->machine.kernel);
}

static struct symbols *try(char *path, size_t size, const char *dir, const char *name,
			   const char *release)
{
	struct symbols *s;

	if (snprintf(path, size, "%s%s%s", dir, name, release) >= (int)size ||
	    symbols_load(&s, path, NULL) < 0)
		return NULL;
	return s;
}

/* The kernel's own, those beside it or of the tree it was built in, or the debug package's. */
static struct symbols *find_symbols(const struct test_job *j, char *path, size_t size)
{
	static const char *const beside[] = { "vmlinux", "System.map", "../../../vmlinux",
					      "../../../System.map" };
	const char *kernel = j->machine.kernel;
	const char *slash = kernel ? strrchr(kernel, '/') : NULL;
	char dir[PATH_MAX] = "";
	struct symbols *s;

	if (j->config->symbols) {
		struct error err = { 0 };

		snprintf(path, size, "%s", j->config->symbols);
		if (!symbols_load(&s, path, &err))
			return s;
		error_print(&err);
		return NULL;
	}
	if (!kernel || (s = try(path, size, "", kernel, "")))
		return kernel ? s : NULL;
	if (slash)
		snprintf(dir, sizeof(dir), "%.*s/", (int)(slash - kernel), kernel);
	s = try(path, size, dir, "System.map-", j->release);
	for (unsigned i = 0; i < ARRAY_SIZE(beside) && !s; i++)
		/* A tree is one only if the kernel is where trees have it. */
		if (i < 2 || strstr(kernel, "arch/x86/boot/"))
			s = try(path, size, dir, beside[i], "");
	return s ? s : try(path, size, "/usr/lib/debug/boot/", "vmlinux-", j->release);
}

/* ---- addresses ---- */

struct found {
	uint64_t address[MAX_ADDRESSES];
	unsigned num;
};

static void note(struct found *f, uint64_t address)
{
	if (address < KERNEL_TEXT || f->num == MAX_ADDRESSES)
		return;
	for (unsigned i = 0; i < f->num; i++)
		if (f->address[i] == address)
			return;
	f->address[f->num++] = address;
}

/* Words of 16 hexadecimal digits. */
static void find_addresses(struct found *f, const char *text)
{
	static const char digits[] = "0123456789abcdef";

	while (*text) {
		size_t n = strspn(text, digits);

		if (n == DIGITS)
			note(f, strtoull(text, NULL, 16));
		text += n ? n : strcspn(text, digits);
	}
}

char *test_symbolise(const struct test_job *j)
{
	struct symbols *s = NULL;
	struct found found = { 0 };
	char path[PATH_MAX], name[300], *text = NULL;
	uint64_t offset;
	size_t len = 0;
	FILE *out;

	if (j->end)
		find_addresses(&found, j->end->evidence);
	find_addresses(&found, j->log.tail);
	if (!found.num || !find_offset(j, &offset))
		return NULL;
	s = find_symbols(j, path, sizeof(path));
	out = s ? open_memstream(&text, &len) : NULL;
	if (out) {
		for (unsigned i = 0; i < found.num; i++)
			if (symbols_name(s, found.address[i] - offset, name, sizeof(name)))
				fprintf(out, "  %016llx %s\n",
					(unsigned long long)found.address[i], name);
		if (fclose(out) || !len) {
			free(text);
			text = NULL;
		}
	}
	symbols_free(s);
	return text;
}
