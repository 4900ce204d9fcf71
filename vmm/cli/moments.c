#include "vmm/cli/moments.h"

#include <errno.h>
#include <stdlib.h>

static struct moment *at(const struct moments *m, unsigned i)
{
	return &m->slot[(m->first + i) % (m->keep + 1)];
}

int moments_init(struct moments *m, unsigned keep)
{
	*m = (struct moments){ .keep = keep, .slot = calloc(keep + 1, sizeof(*m->slot)) };
	return m->slot ? 0 : -ENOMEM;
}

static void drop_oldest(struct moments *m)
{
	cli_fork_done(&at(m, 0)->fork);
	m->first = (m->first + 1) % (m->keep + 1);
	m->num--;
}

void moments_done(struct moments *m)
{
	while (m->num)
		drop_oldest(m);
	free(m->slot);
	*m = (struct moments){ 0 };
}

struct moment *moments_free_slot(const struct moments *m)
{
	return at(m, m->num);
}

void moments_keep(struct moments *m)
{
	m->num++;
	if (m->num > m->keep)
		drop_oldest(m);
}

struct moment *moments_latest(const struct moments *m, unsigned i)
{
	return at(m, m->num - 1 - i);
}
