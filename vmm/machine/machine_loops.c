/*
 * Loops beside the main one, each run by a thread of its own: for devices whose queues are to be
 * served by processors of their own. Made with the devices, started with the machine (whatever
 * locks the process in comes between the two), and ended after the devices were freed.
 */
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "vmm/machine/machine_internal.h"
#include "vmm/sandbox/maker.h"
#include "vmm/sandbox/sandbox.h"

/* A loop's callbacks are shallow; untouched stack costs nothing but address space. */
#define STACK_BYTES (256 * KiB)

struct machine_loop {
	struct machine *machine;
	struct loop *loop;
	pthread_t thread;
	bool started;
	sem_t begun; /* with @result: the thread's filter is loaded, or why not */
	int result;
	char name[48];
	struct machine_loop *next;
};

int machine_add_loop(struct machine *m, const char *device, unsigned queue,
		     struct loop **ret_loop, struct error *err)
{
	struct machine_loop *l = calloc(1, sizeof(*l));
	struct loop_params params = {
		.backend = m->config->loop,
		/* As many as a queue has requests. */
		.entries = 128,
		.clock = m->clock,
		.may_wait = m->may_wait,
		.no_accept = true, /* nor do its thread's system calls have it */
	};
	int r;

	if (!l)
		return error_set(err, -ENOMEM, "queue threads: %m");
	snprintf(l->name, sizeof(l->name), "%s/%u", device, queue);
	params.name = l->name;
	r = loop_create(&l->loop, &params, err);
	if (r < 0) {
		free(l);
		return r;
	}
	sem_init(&l->begun, 0, 0);
	l->machine = m;
	l->next = m->loops;
	m->loops = l;
	*ret_loop = l->loop;
	return 0;
}

static void *run(void *arg)
{
	struct machine_loop *l = arg;
	struct machine *m = l->machine;
	struct sandbox *sandbox = m->vcpus.sandbox;

	/* For those who look with top; the kernel keeps 15 bytes. */
	prctl(PR_SET_NAME, l->name);
	l->result = sandbox ? sandbox_filter(sandbox, SANDBOX_THREAD_QUEUE) : 0;
	sem_post(&l->begun);
	loop_run(l->loop);
	return NULL;
}

/* Returns when the thread is confined: no guest runs before. */
static int start(struct machine_loop *l, const pthread_attr_t *attr, struct error *err)
{
	int r = pthread_create(&l->thread, attr, run, l);

	if (r)
		return error_kind_set(err, ERROR_START, -r, "queue thread '%s': %m", l->name);
	l->started = true;
	while (sem_wait(&l->begun) < 0 && errno == EINTR)
		;
	if (l->result < 0)
		return error_kind_set(err, ERROR_START, l->result,
				      "queue thread '%s': system call filter: %m", l->name);
	return 0;
}

int machine_start_loops(struct machine *m, struct error *err)
{
	sigset_t all, saved;
	pthread_attr_t attr;
	int r = 0;

	if (!m->loops)
		return 0;
	/* Signals are for the threads that ask for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (struct machine_loop *l = m->loops; l && !r; l = l->next) {
		if (!l->started)
			r = start(l, &attr, err);
	}
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return r;
}

int machine_start_maker(struct machine *m, struct error *err)
{
	return maker_create(&m->maker, m->vcpus.sandbox, err);
}

void machine_free_loops(struct machine *m)
{
	while (m->loops) {
		struct machine_loop *l = m->loops;

		m->loops = l->next;
		if (l->started) {
			loop_stop(l->loop);
			pthread_join(l->thread, NULL);
		}
		loop_free(l->loop);
		sem_destroy(&l->begun);
		free(l);
	}
}

void machine_abandon_loops(struct machine *m)
{
	for (struct machine_loop *l = m->loops; l; l = l->next)
		loop_abandon(l->loop);
	loop_abandon(m->loop);
}
