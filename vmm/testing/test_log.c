/* What a kernel's log says of trouble. */
#include "vmm/testing/test_internal.h"

static const struct {
	const char *text;
	unsigned means;
} signs[] = {
	{ "Kernel panic - not syncing", TEST_LOG_PANIC },
	{ "soft lockup - CPU#", TEST_LOG_LOCKUP },
	{ "hard LOCKUP", TEST_LOG_LOCKUP },
	{ "detected stalls on CPUs", TEST_LOG_LOCKUP },
	{ "self-detected stall on CPU", TEST_LOG_LOCKUP },
	{ "blocked for more than", TEST_LOG_LOCKUP },
	{ "BUG: ", TEST_LOG_OOPS },
	{ "Oops: ", TEST_LOG_OOPS },
	{ "kernel BUG at", TEST_LOG_OOPS },
	{ "general protection fault", TEST_LOG_OOPS },
	{ "Unable to handle kernel", TEST_LOG_OOPS },
	{ "WARNING: CPU:", TEST_LOG_WARN },
	{ "WARNING: possible", TEST_LOG_WARN },
	{ "refcount_t: ", TEST_LOG_WARN },
};

/* A panic often only says that what came before it was too much. */
static unsigned weight(unsigned sign)
{
	switch (sign) {
	case TEST_LOG_OOPS:
	case TEST_LOG_LOCKUP:
		return 3;
	case TEST_LOG_PANIC:
		return 2;
	default:
		return sign ? 1 : 0;
	}
}

static void read_line(struct test_log *log)
{
	unsigned found = 0;

	log->line[log->line_len] = '\0';
	for (unsigned i = 0; i < ARRAY_SIZE(signs); i++) {
		if (!strstr(log->line, signs[i].text))
			continue;
		found = signs[i].means;
		break; /* the first that fits: a lockup also begins with BUG */
	}
	if (weight(found) > weight(log->worst)) {
		log->worst = found;
		memcpy(log->cause, log->line, sizeof(log->cause));
	}
	log->seen |= found;
	if (strstr(log->line, "RIP: 0010:"))
		memcpy(log->place, log->line, sizeof(log->place));
	/* "reboot: Power down" says that it ended; why stands before it. */
	if (log->line_len && !strstr(log->line, "reboot: "))
		memcpy(log->last, log->line, sizeof(log->last));
	log->line_len = 0;
}

static void keep(struct test_log *log, const char *p, size_t len)
{
	size_t drop;

	if (len > TEST_LOG_TAIL) {
		p += len - TEST_LOG_TAIL;
		len = TEST_LOG_TAIL;
	}
	if (log->len + len > TEST_LOG_TAIL) {
		drop = log->len + len - TEST_LOG_TAIL;
		memmove(log->tail, log->tail + drop, log->len - drop);
		log->len -= drop;
	}
	memcpy(log->tail + log->len, p, len);
	log->len += len;
	log->tail[log->len] = '\0';
}

void test_log_command_starts(struct test_log *log)
{
	log->seen = log->worst = 0;
	log->cause[0] = '\0';
}

void test_log_feed(struct test_log *log, const char *p, size_t len)
{
	keep(log, p, len);
	for (size_t i = 0; i < len; i++) {
		if (p[i] == '\n')
			read_line(log);
		else if (p[i] != '\r' && p[i] && log->line_len + 1 < sizeof(log->line))
			log->line[log->line_len++] = p[i];
	}
}
