#include "vmm/debug/symbols.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* More than any kernel has. */
#define MAX_SYMBOLS (4u << 20)
#define MAX_STRINGS (256 * MiB)

/* Nothing is known of where the last function ends. */
#define LAST_SIZE PAGE_SIZE

struct symbol {
	uint64_t address;
	const char *name;
	size_t place; /* in the file */
};

struct symbols {
	struct symbol *symbol; /* by address, each once */
	size_t num, room;
	char *text; /* that names are in */
};

static int add(struct symbols *s, uint64_t address, const char *name)
{
	if (s->num == s->room) {
		size_t room = s->room ? 2 * s->room : 4096;
		void *p;

		if (room > MAX_SYMBOLS)
			return -E2BIG;
		p = reallocarray(s->symbol, room, sizeof(s->symbol[0]));
		if (!p)
			return -ENOMEM;
		s->symbol = p;
		s->room = room;
	}
	s->symbol[s->num] = (struct symbol){ address, name, s->num };
	s->num++;
	return 0;
}

/* ---- System.map: "ffffffff81000000 T _text" a line ---- */

static int parse_map(struct symbols *s)
{
	char *save;
	int r = 0;

	for (char *line = strtok_r(s->text, "\n", &save); line && !r;
	     line = strtok_r(NULL, "\n", &save)) {
		char *end, *name;
		uint64_t address = strtoull(line, &end, 16);

		if (end == line || end[0] != ' ' || !end[1] || end[2] != ' ')
			continue;
		name = end + 3;
		name[strcspn(name, " \t\r")] = '\0';
		if (strchr("tTwW", end[1]) && *name)
			r = add(s, address, name);
	}
	return r;
}

/* ---- vmlinux ---- */

static int read_at(FILE *f, void *buf, uint64_t offset, size_t len)
{
	if (offset > INT64_MAX || fseeko(f, (off_t)offset, SEEK_SET) < 0)
		return -EBADMSG;
	return fread(buf, 1, len, f) == len ? 0 : -EBADMSG;
}

static int read_sections(FILE *f, Elf64_Shdr **ret, unsigned *ret_num)
{
	Elf64_Ehdr head;
	int r = read_at(f, &head, 0, sizeof(head));

	if (r < 0)
		return r;
	if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_ident[EI_DATA] != ELFDATA2LSB ||
	    head.e_shentsize != sizeof(Elf64_Shdr))
		return -EBADMSG;
	*ret = calloc(head.e_shnum + 1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	*ret_num = head.e_shnum;
	return read_at(f, *ret, head.e_shoff, head.e_shnum * sizeof(**ret));
}

static int take_symbols(struct symbols *s, FILE *f, const Elf64_Shdr *table,
			const Elf64_Shdr *sections, unsigned num_sections, uint64_t strings_size)
{
	Elf64_Sym sym;
	uint64_t count = table->sh_size / sizeof(sym);
	int r = fseeko(f, (off_t)table->sh_offset, SEEK_SET) < 0 ? -EBADMSG : 0;

	if (count > MAX_SYMBOLS)
		return -E2BIG;
	for (uint64_t i = 0; i < count && !r; i++) {
		unsigned type;

		if (fread(&sym, sizeof(sym), 1, f) != 1)
			return -EBADMSG;
		type = ELF64_ST_TYPE(sym.st_info);
		/* Entry code has labels and no functions; those of data are of no use here. */
		if ((type != STT_FUNC && type != STT_NOTYPE) || sym.st_shndx >= num_sections ||
		    !(sections[sym.st_shndx].sh_flags & SHF_EXECINSTR) ||
		    sym.st_name >= strings_size || !s->text[sym.st_name])
			continue;
		r = add(s, sym.st_value, s->text + sym.st_name);
	}
	return r;
}

static int parse_elf(struct symbols *s, FILE *f)
{
	Elf64_Shdr *sections = NULL;
	unsigned num = 0;
	int r = read_sections(f, &sections, &num);

	for (unsigned i = 0; i < num && !r; i++) {
		const Elf64_Shdr *table = &sections[i], *strings;

		if (table->sh_type != SHT_SYMTAB || table->sh_link >= num)
			continue;
		strings = &sections[table->sh_link];
		if (strings->sh_size > MAX_STRINGS) {
			r = -E2BIG;
			break;
		}
		s->text = malloc(strings->sh_size + 1);
		r = s->text ? read_at(f, s->text, strings->sh_offset, strings->sh_size) : -ENOMEM;
		if (!r) {
			s->text[strings->sh_size] = '\0';
			r = take_symbols(s, f, table, sections, num, strings->sh_size);
		}
		break; /* there is one at most */
	}
	free(sections);
	return r;
}

/* ---- either ---- */

/* The file's order decides among those at one address. */
static int compare(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

/* Of several names at one address, the first in the file. */
static void sort(struct symbols *s)
{
	size_t kept = 0;

	if (s->num)
		qsort(s->symbol, s->num, sizeof(s->symbol[0]), compare);
	for (size_t i = 0; i < s->num; i++)
		if (!kept || s->symbol[i].address != s->symbol[kept - 1].address)
			s->symbol[kept++] = s->symbol[i];
	s->num = kept;
}

static int read_map(struct symbols *s, FILE *f, uint64_t size)
{
	size_t room = 0;
	ssize_t n;

	if (size > MAX_STRINGS)
		return -E2BIG;
	n = getdelim(&s->text, &room, '\0', f);
	if (n < 0)
		return feof(f) ? 0 : -EIO;
	return (size_t)n > MAX_STRINGS ? -E2BIG : parse_map(s);
}

/* A regular file, which has an end and keeps nobody waiting; NULL with errno. */
static FILE *open_regular(const char *path, uint64_t *ret_size)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	FILE *f = NULL;
	struct stat st;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0) {
		*ret_size = st.st_size;
		if (S_ISREG(st.st_mode))
			f = fdopen(fd, "r");
		else
			errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
	}
	if (!f)
		close(fd);
	return f;
}

int symbols_load(struct symbols **ret_s, const char *path, struct error *err)
{
	struct symbols *s = calloc(1, sizeof(*s));
	uint64_t size = 0;
	FILE *f = s ? open_regular(path, &size) : NULL;
	char magic[SELFMAG] = "";
	int r;

	if (!f) {
		r = error_usage(err, s ? -errno : -ENOMEM, "symbols '%s': cannot open: %m", path);
		goto out;
	}
	r = fread(magic, 1, sizeof(magic), f) == sizeof(magic) && !memcmp(magic, ELFMAG, SELFMAG);
	if (r) {
		r = parse_elf(s, f);
	} else {
		rewind(f);
		r = read_map(s, f, size);
	}
	sort(s);
	if (!r && !s->num)
		r = -ENODATA;
	if (r < 0)
		error_usage(err, r, "symbols '%s': %s", path,
			    r == -ENODATA ? "there are none of code in it" : strerror(-r));
out:
	if (f)
		fclose(f);
	if (r < 0)
		symbols_free(s);
	else
		*ret_s = s;
	return r;
}

void symbols_free(struct symbols *s)
{
	if (!s)
		return;
	free(s->symbol);
	free(s->text);
	free(s);
}

bool symbols_name(const struct symbols *s, uint64_t address, char *buf, size_t size)
{
	size_t low = 0, high = s->num;
	uint64_t start, end;

	/* The last one that begins at or before it is in [low, high). */
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (s->symbol[middle].address <= address)
			low = middle;
		else
			high = middle;
	}
	start = s->symbol[low].address;
	end = low + 1 < s->num ? s->symbol[low + 1].address : start + LAST_SIZE;
	/* Between kernel and modules there is nothing, for pages. */
	end = MIN(end, start + MiB);
	if (address < start || address >= end)
		return false;
	snprintf(buf, size, "%s+0x%llx/0x%llx", s->symbol[low].name,
		 (unsigned long long)(address - start), (unsigned long long)(end - start));
	return true;
}
