/*
 * Text on its way to a person or a program: made harmless, quoted; and words
 * that a person mistyped. Any thread may call these; nothing here allocates.
 */
#ifndef WISP_CORE_TEXT_H
#define WISP_CORE_TEXT_H

#include <stddef.h>
#include <stdio.h>

/*
 * Copy @text, which ends with a NUL byte or after @max bytes, into the @size bytes of @ret: cut to
 * fit, always with a NUL at its end, and '?' for each control character but the tab. It neither
 * moves the cursor of a terminal nor begins a line.
 */
void text_printable(char *ret, size_t size, const char *text, size_t max);

/* Bytes of the UTF-8 character that begins at @s, which has @len (at least 1); 0: none does. */
size_t text_utf8_len(const char *s, size_t len);

/*
 * Write the @len bytes at @s as a JSON string, with its quotes. What is UTF-8 stays as it is; each
 * byte that is none of it becomes the character of that number.
 */
void text_put_json(FILE *out, const char *s, size_t len);

/*
 * How many letters must be added, left out, replaced, or swapped with the next one to make @b of
 * the @a_len bytes at @a (optimal string alignment). UINT_MAX where one has more than
 * TEXT_MAX_WORD bytes: nobody mistypes those.
 */
#define TEXT_MAX_WORD 32
unsigned text_distance(const char *a, size_t a_len, const char *b);

/* Which of several words did somebody mean who typed @typed? */
struct text_guess {
	const char *typed;
	size_t len;	   /* of that; it need not end there */
	const char *word;  /* the nearest so far; NULL: none is near */
	unsigned distance; /* of that */
};

/*
 * Consider one more @word. It is near when at most two letters, and at most half of them, are
 * wrong; of those that are equally near the first one stays.
 */
void text_guess_add(struct text_guess *g, const char *word);

#endif
