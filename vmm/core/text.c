#include "vmm/core/text.h"

#include <limits.h>
#include <string.h>

#include "vmm/core/util.h"

void text_printable(char *ret, size_t size, const char *text, size_t max)
{
	size_t len = strnlen(text, MIN(max, size - 1));

	for (size_t i = 0; i < len; i++) {
		unsigned char c = text[i];

		ret[i] = (c < 0x20 && c != '\t') || c == 0x7f ? '?' : text[i];
	}
	ret[len] = '\0';
}

/* Unicode 15, table 3-7. */
size_t text_utf8_len(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t want;

	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		want = 2;
	else if (p[0] >= 0xe0 && p[0] <= 0xef)
		want = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		want = 4;
	else
		return p[0] < 0x80;
	if (len < want)
		return 0;
	for (size_t i = 1; i < want; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* Neither longer than it need be, nor a surrogate, nor beyond the last one. */
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return want;
}

void text_put_json(FILE *out, const char *s, size_t len)
{
	size_t n;

	fputc('"', out);
	for (size_t i = 0; i < len; i += MAX(n, (size_t)1)) {
		unsigned char c = s[i];

		n = text_utf8_len(s + i, len - i);
		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c == '\n')
			fputs("\\n", out);
		else if (!n || c < 0x20 || c == 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			fwrite(s + i, 1, n, out);
	}
	fputc('"', out);
}

unsigned text_distance(const char *a, size_t a_len, const char *b)
{
	/* Rows of the table of distances between their beginnings: this one and two before. */
	unsigned rows[3][TEXT_MAX_WORD + 1];
	size_t b_len = strlen(b);

	if (a_len > TEXT_MAX_WORD || b_len > TEXT_MAX_WORD)
		return UINT_MAX;
	for (size_t k = 0; k <= b_len; k++)
		rows[0][k] = k;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned *row = rows[i % 3], *before = rows[(i + 2) % 3], *two = rows[(i + 1) % 3];

		row[0] = i;
		for (size_t k = 1; k <= b_len; k++) {
			row[k] = MIN(before[k], row[k - 1]) + 1;
			row[k] = MIN(row[k], before[k - 1] + (a[i - 1] != b[k - 1]));
			if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
				row[k] = MIN(row[k], two[k - 2] + 1);
		}
	}
	return rows[a_len % 3][b_len];
}

void text_guess_add(struct text_guess *g, const char *word)
{
	unsigned distance = text_distance(g->typed, g->len, word);

	if (distance > 2 || 2 * distance > g->len || (g->word && distance >= g->distance))
		return;
	g->word = word;
	g->distance = distance;
}
