/*
 * What the guest's init is to do: strings KEY=VALUE that end in a zero byte (guests/test/init.h).
 * They come with the initial file system or, where the guest has been started before, over a port.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "vmm/testing/test_internal.h"

#define SEED_BYTES 64

static void put_env(FILE *conf, const char *name, const char *fallback)
{
	const char *value = getenv(name);

	if (value || fallback)
		fprintf(conf, "env=%s=%s%c", name, value ? value : fallback, 0);
}

/* The command, and where and as whom it runs. */
static void put_command(FILE *conf, const struct test_config *t)
{
	/* Warnings, from the command's time on. */
	fprintf(conf, "cwd=%s%ccwd-is-asked-for=%d%cuid=%u%cgid=%u%cloglevel=%d%c", t->cwd, 0,
		t->cwd_is_asked_for, 0, t->uid, 0, t->gid, 0, test_log_is_read(t) ? 8 : 5, 0);
	for (unsigned i = 0; t->command[i]; i++)
		fprintf(conf, "arg=%s%c", t->command[i], 0);
	put_env(conf, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	put_env(conf, "HOME", "/root");
	put_env(conf, "LANG", NULL);
	put_env(conf, "TERM", "linux");
	for (unsigned i = 0; i < t->num_env; i++) {
		if (strchr(t->env[i], '='))
			fprintf(conf, "env=%s%c", t->env[i], 0);
		else
			put_env(conf, t->env[i], NULL);
	}
}

/* A shared directory is in the guest where it is on the host. */
static void put_shares(FILE *conf, const struct machine_config *c)
{
	for (unsigned i = 0; i < c->num_shares; i++) {
		const struct config_share *s = &c->share[i];
		char *path = strcmp(s->tag, TEST_ROOT_TAG) ? realpath(s->path, NULL) : NULL;

		if (path)
			fprintf(conf, "share=%s:%s:%s%c", s->tag, s->read_only ? "ro" : "rw", path,
				0);
		free(path);
	}
}

/* Of its own network, the guest knows what DHCP would say (helpers/wisp-net.c), and asks nobody. */
static void put_nets(FILE *conf, const struct machine_config *c)
{
	for (unsigned i = 0; i < c->num_nets; i++) {
		const struct config_net *n = &c->net[i];
		char network[INET_ADDRSTRLEN] = "10.0.2.0";
		unsigned prefix = 24;
		struct in_addr addr;
		uint32_t base;

		if (n->subnet && sscanf(n->subnet, "%15[0-9.]/%u", network, &prefix) != 2)
			continue;
		if (n->kind != CONFIG_NET_USER || inet_pton(AF_INET, network, &addr) != 1) {
			fprintf(conf, "net=%u%c", i, 0);
			continue;
		}
		base = ntohl(addr.s_addr) & ~0u << (32 - prefix);
		fprintf(conf, "net=%u %u %u %u %u%c", i, base + 15, ~0u << (32 - prefix), base + 2,
			base + 3, 0);
	}
}

/* ---- the parts ---- */

static void put_root(FILE *conf, const struct test_config *t, bool tty)
{
	fprintf(conf, "root=%s%ctty=%d%csystemd=%d%c", t->write_through ? "rw" : "overlay", 0, tty,
		0, t->systemd, 0);
}

static void put_rest(FILE *conf, const struct test_config *t, const struct machine_config *c)
{
	put_command(conf, t);
	put_shares(conf, c);
	put_nets(conf, c);
}

void test_plan_put(FILE *conf, const struct test_config *t, const struct machine_config *c,
		   bool tty)
{
	put_root(conf, t, tty);
	put_rest(conf, t, c);
}

void test_plan_put_start(FILE *conf, const struct test_config *t, bool tty)
{
	put_root(conf, t, tty);
	fprintf(conf, "warm=1%c", 0);
}

/* Guests that were one until now must not draw the same random numbers. */
static int put_seed(FILE *conf)
{
	uint8_t seed[SEED_BYTES];

	if (getrandom(seed, sizeof(seed), 0) != sizeof(seed))
		return -errno;
	fputs("seed=", conf);
	for (unsigned i = 0; i < sizeof(seed); i++)
		fprintf(conf, "%02x", seed[i]);
	fputc(0, conf);
	return 0;
}

int test_plan_rest(const struct test_config *t, const struct machine_config *c, char **ret_text,
		   size_t *ret_len)
{
	char *text = NULL;
	size_t len = 0;
	FILE *conf = open_memstream(&text, &len);
	uint32_t size = 0;
	int r;

	if (!conf)
		return -ENOMEM;
	/* How long it is comes first, when that is known. */
	fwrite(&size, sizeof(size), 1, conf);
	r = put_seed(conf);
	put_rest(conf, t, c);
	if (fclose(conf) && !r)
		r = -ENOMEM;
	if (!r && len > TEST_MAX_PLAN)
		r = -E2BIG;
	if (r < 0) {
		free(text);
		return r;
	}
	size = htole32(len - sizeof(size));
	memcpy(text, &size, sizeof(size));
	*ret_text = text;
	*ret_len = len;
	return 0;
}
