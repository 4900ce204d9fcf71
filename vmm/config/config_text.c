/* Text that a person gave, where only UTF-8 can be passed on. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "vmm/config/config_parse.h"

/* Whoever reads the message has to tell one name from another that looks like it. */
static void show_bytes(const char *text, char *ret, size_t size)
{
	size_t len = 0;

	for (; *text && len + sizeof("\\xff...") <= size; text++) {
		unsigned char c = *text;

		len += snprintf(ret + len, size - len, c < 0x20 || c >= 0x7f ? "\\x%02x" : "%c", c);
	}
	snprintf(ret + len, size - len, "%s", *text ? "..." : "");
}

int config_check_text(const char *what, const char *text, struct error *err)
{
	json_t *o = json_string(text);
	char shown[100];

	if (o) {
		json_decref(o);
		return 0;
	}
	show_bytes(text, shown, sizeof(shown));
	return error_usage(err, -EILSEQ,
			   "%s '%s' is not UTF-8: what a microVM is asked and says is JSON, which "
			   "has no other text",
			   what, shown);
}
