#include "vmm/sandbox/maker.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/core/util.h"
#include "vmm/sandbox/orphan.h"
#include "vmm/sandbox/sandbox.h"

/*
 * A clone's main thread goes on upon it for good. Too small for a huge page, of which the kernel
 * would else spend one on the few kilobytes that are touched.
 */
#define STACK_BYTES MiB

struct maker {
	struct sandbox *sandbox;
	pthread_t thread;
	sem_t asked, done;
	void (*fn)(void *arg); /* what is asked; NULL: to end */
	void *arg;
	int result; /* of loading the filter */
};

static void wait_on(sem_t *sem)
{
	while (sem_wait(sem) < 0 && errno == EINTR)
		;
}

static void *serve(void *arg)
{
	struct maker *m = arg;

	/* For those who look with top. */
	prctl(PR_SET_NAME, "maker");
	if (m->sandbox->parent)
		orphan_watch(m->sandbox->parent);
	m->result = sandbox_filter(m->sandbox, SANDBOX_THREAD_MAKER);
	sem_post(&m->done);
	for (;;) {
		wait_on(&m->asked);
		if (!m->fn)
			return NULL;
		m->fn(m->arg);
		sem_post(&m->done);
	}
}

static void call(struct maker *m, void (*fn)(void *arg), void *arg)
{
	if (!m) {
		fn(arg);
		return;
	}
	m->fn = fn;
	m->arg = arg;
	sem_post(&m->asked);
	wait_on(&m->done);
}

int maker_create(struct maker **ret_maker, struct sandbox *sandbox, struct error *err)
{
	struct maker *m;
	pthread_attr_t attr;
	int r;

	*ret_maker = NULL;
	if (!sandbox || !sandbox->filters) {
		if (sandbox && sandbox->parent)
			orphan_watch(sandbox->parent);
		return 0;
	}
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(err, -ENOMEM, "the thread that makes others: %m");
	m->sandbox = sandbox;
	sem_init(&m->asked, 0, 0);
	sem_init(&m->done, 0, 0);
	/* Signals as the main thread has them: in a child it is that. */
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&m->thread, &attr, serve, m);
	pthread_attr_destroy(&attr);
	if (r) {
		sem_destroy(&m->asked);
		sem_destroy(&m->done);
		free(m);
		return error_kind_set(err, ERROR_START, -r, "the thread that makes others: %m");
	}
	wait_on(&m->done);
	if (m->result < 0) {
		r = error_kind_set(err, ERROR_START, m->result, "system call filter: %m");
		maker_free(m);
		return r;
	}
	*ret_maker = m;
	return 0;
}

void maker_free(struct maker *m)
{
	if (!m)
		return;
	m->fn = NULL;
	sem_post(&m->asked);
	pthread_join(m->thread, NULL);
	sem_destroy(&m->asked);
	sem_destroy(&m->done);
	free(m);
}

/* ---- a thread ---- */

struct thread_order {
	pthread_t *ret_thread;
	const pthread_attr_t *attr;
	void *(*run)(void *arg);
	void *arg;
	int r;
};

static void make_thread(void *arg)
{
	struct thread_order *o = arg;
	sigset_t all, saved;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	o->r = pthread_create(o->ret_thread, o->attr, o->run, o->arg);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

int maker_thread(struct maker *m, pthread_t *ret_thread, const pthread_attr_t *attr,
		 void *(*run)(void *arg), void *arg)
{
	struct thread_order order = {
		.ret_thread = ret_thread, .attr = attr, .run = run, .arg = arg
	};

	call(m, make_thread, &order);
	return order.r;
}

/* ---- a child ---- */

struct child_order {
	void (*child)(void *arg, int fd);
	void *arg;
	int fd;
	pid_t pid;
};

static void make_child(void *arg)
{
	struct child_order *o = arg;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0) {
		o->pid = -errno;
		return;
	}
	o->pid = fork();
	if (o->pid == 0) {
		close(fds[0]);
		o->child(o->arg, fds[1]);
		_exit(1);
	}
	if (o->pid < 0) {
		o->pid = -errno;
		close(fds[0]);
	}
	close(fds[1]);
	o->fd = fds[0];
}

pid_t maker_fork(struct maker *m, void (*child)(void *arg, int fd), void *arg, int *ret_fd)
{
	struct child_order order = { .child = child, .arg = arg };

	call(m, make_child, &order);
	if (order.pid > 0)
		*ret_fd = order.fd;
	return order.pid;
}

static void reap(void *pid)
{
	while (waitpid(*(pid_t *)pid, NULL, 0) < 0 && errno == EINTR)
		;
}

void maker_reap(struct maker *m, pid_t pid)
{
	call(m, reap, &pid);
}
