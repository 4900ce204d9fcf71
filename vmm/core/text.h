/*
 * Text on its way to a person or a program: made harmless, quoted. Any thread
 * may call these; nothing here allocates.
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

/*
 * Write the @len bytes at @s as a JSON string, with its quotes. What is UTF-8 stays as it is; each
 * byte that is none of it becomes the character of that number.
 */
void text_put_json(FILE *out, const char *s, size_t len);

#endif
