/*
 * generate [--log] [--list]: the filters of all kinds of threads as C, on standard output. Runs
 * when wisp is built. With --log a call that is not allowed is logged by the kernel and carried
 * out, to find what a table lacks; with --list the tables are printed for people.
 */
#include <errno.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/seccomp/rules.h"

#define MAX_TABLES 4

struct kind {
	const char *name; /* of the enum, SANDBOX_THREAD_NAME */
	const char *text;
	const struct seccomp_rule *table[MAX_TABLES];
};

static const struct kind kinds[] = {
	{ "MAIN", "main thread", { seccomp_common, seccomp_main, seccomp_main_kvm } },
	{ "MAKER",
	  "the thread that makes others",
	  { seccomp_common, seccomp_main, seccomp_main_kvm, seccomp_maker } },
	{ "VCPU", "vCPU threads", { seccomp_common, seccomp_vcpu } },
	{ "QUEUE", "queue threads", { seccomp_common, seccomp_queue, seccomp_worker } },
	{ "FAULT", "the thread that brings guest pages", { seccomp_common, seccomp_fault } },
	{ "MIGRATE", "threads of a migration", { seccomp_common, seccomp_migrate } },
	{ "WORKER", "workers of the epoll loop", { seccomp_common, seccomp_worker } },
	{ "NET", "wisp-net", { seccomp_common, seccomp_net } },
	{ "TLS", "wisp-tls", { seccomp_common, seccomp_tls } },
	{ "FS", "the server of a shared directory", { seccomp_common, seccomp_fs } },
};

#define NUM_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void give_up(const char *what, const char *name, int r)
{
	fprintf(stderr, "seccomp: %s %s: %s\n", what, name, strerror(-r));
	exit(1);
}

static void add_rule(scmp_filter_ctx ctx, const struct seccomp_rule *rule)
{
	uint32_t action = rule->refuse ? SCMP_ACT_ERRNO(rule->refuse) : SCMP_ACT_ALLOW;
	/* The kernel looks at 32 bits of an ioctl's request or of flags; so does a filter. */
	uint64_t mask = rule->mask & UINT32_MAX;
	struct scmp_arg_cmp when = SCMP_CMP(rule->arg, SCMP_CMP_MASKED_EQ, mask, rule->value);
	int r = rule->mask ? seccomp_rule_add_array(ctx, action, rule->number, 1, &when)
			   : seccomp_rule_add(ctx, action, rule->number, 0);

	if (r < 0)
		give_up("rule for", rule->name, r);
}

/* @kind's filter; the caller frees it. */
static struct sock_filter *compile(const struct kind *kind, bool log, unsigned *ret_len)
{
	scmp_filter_ctx ctx = seccomp_init(log ? SCMP_ACT_LOG : SCMP_ACT_KILL_PROCESS);
	int fd = memfd_create("filter", MFD_CLOEXEC), r;
	struct sock_filter *filter;
	off_t size;

	if (!ctx || fd < 0)
		give_up("filter of", kind->name, -ENOMEM);
	/* Another architecture's system calls have other numbers. */
	seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (unsigned i = 0; i < MAX_TABLES && kind->table[i]; i++)
		for (const struct seccomp_rule *rule = kind->table[i]; rule->name; rule++)
			add_rule(ctx, rule);
	r = seccomp_export_bpf(ctx, fd);
	size = lseek(fd, 0, SEEK_END);
	filter = malloc(size);
	if (r < 0 || !filter || pread(fd, filter, size, 0) != size)
		give_up("filter of", kind->name, r ? r : -EIO);
	close(fd);
	seccomp_release(ctx);
	*ret_len = size / sizeof(*filter);
	return filter;
}

static void print_filter(const struct kind *kind, bool log, unsigned *ret_len)
{
	struct sock_filter *filter = compile(kind, log, ret_len);

	printf("\n/* %s */\nstatic const struct sock_filter filter_%s[] = {\n", kind->text,
	       kind->name);
	for (unsigned i = 0; i < *ret_len; i++)
		printf("\t{ 0x%04x, %u, %u, 0x%08x },\n", filter[i].code, filter[i].jt,
		       filter[i].jf, filter[i].k);
	printf("};\n");
	free(filter);
}

static void print_filters(bool log)
{
	unsigned len[NUM_KINDS];

	printf("/* Made by vmm/seccomp/generate.c from the tables there. */\n"
	       "#include \"vmm/sandbox/sandbox_internal.h\"\n");
	for (unsigned i = 0; i < NUM_KINDS; i++)
		print_filter(&kinds[i], log, &len[i]);
	printf("\nconst struct sandbox_filter sandbox_filters[SANDBOX_NUM_THREADS] = {\n");
	for (unsigned i = 0; i < NUM_KINDS; i++)
		printf("\t[SANDBOX_THREAD_%s] = { filter_%s, %u },\n", kinds[i].name, kinds[i].name,
		       len[i]);
	printf("};\n");
}

static void print_list(void)
{
	printf("# System calls that are allowed, by kind of thread\n\n"
	       "Printed by `make docs` from the tables in `vmm/seccomp/`; anything else kills the "
	       "process.\nSee [security.md](security.md).\n\n");
	for (unsigned i = 0; i < NUM_KINDS; i++) {
		unsigned n = 0;

		printf("%s## %s\n\n| system call | when | why |\n|---|---|---|\n", i ? "\n" : "",
		       kinds[i].text);
		for (unsigned k = 0; k < MAX_TABLES && kinds[i].table[k]; k++)
			for (const struct seccomp_rule *r = kinds[i].table[k]; r->name; r++) {
				printf("| %s | %s | %s |\n", r->name, r->what ? r->what : "",
				       r->why);
				n++;
			}
		printf("\n%u lines.\n", n);
	}
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--list"))
		print_list();
	else
		print_filters(argc > 1 && !strcmp(argv[1], "--log"));
	return fflush(stdout) ? 1 : 0;
}
