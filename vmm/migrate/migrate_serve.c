#include "vmm/migrate/migrate_serve.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/core/clock.h"

/* With the page that somebody waits for go those around it. */
#define AROUND_PAGES 16u

/* A step of the background is a word of the bitmap: who waits meanwhile waits for 256 KiB. */
#define WORD_PAGES 64u

/* While others do the background: how often to take over how far they are. */
#define LOOK_MS 250

#define MISSING_WORDS (MIGRATE_MAX_MISSING / 8)

/* ---- what is missing, in records ---- */

int migrate_missing_send(struct migrate_wire *w, const uint64_t *missing, uint64_t num,
			 struct error *err)
{
	uint64_t words = (num + 63) / 64;
	uint8_t *payload = malloc(MIGRATE_MAX_MISSING);
	int r = payload ? 0 : error_set(err, -ENOMEM, "migration: %m");

	for (uint64_t first = 0; first < words && !r; first += MISSING_WORDS) {
		uint64_t count = MIN(words - first, MISSING_WORDS), any = 0;

		for (uint64_t i = 0; i < count; i++) {
			put_le64(payload + i * 8, missing[first + i]);
			any |= missing[first + i];
		}
		if (any)
			r = migrate_wire_send(w, MIGRATE_MISSING, first * 64, payload, count * 8,
					      err);
	}
	free(payload);
	return r;
}

int migrate_missing_take(const struct migrate_record *rec, uint64_t *missing, uint64_t num,
			 struct error *err)
{
	uint64_t words = (num + 63) / 64, first = rec->page / 64, count = rec->len / 8;
	uint64_t beyond = num % 64 ? ~0ull << (num % 64) : 0;

	if (rec->page % 64 || rec->len % 8 || !count || !range_inside(first, count, 0, words) ||
	    (first + count == words && (get_le64(rec->payload + rec->len - 8) & beyond)))
		return error_set(err, -EBADMSG, "migration: missing pages that make no sense");
	for (uint64_t i = 0; i < count; i++)
		missing[first + i] |= get_le64(rec->payload + i * 8);
	return 0;
}

/* ---- what is to be sent ---- */

static void count_left(struct migrate_serve *s)
{
	s->left = 0;
	for (uint64_t i = 0; i < guest_mem_bitmap_words(s->num << PAGE_SHIFT); i++)
		s->left += __builtin_popcountll(s->todo[i]);
}

int migrate_serve_init(struct migrate_serve *s, struct error *err)
{
	uint64_t bytes = guest_mem_size(s->memory->mem), words = guest_mem_bitmap_words(bytes);

	pthread_mutex_init(&s->lock, NULL);
	s->num = bytes >> PAGE_SHIFT;
	s->todo = calloc(words, sizeof(*s->todo));
	s->front = calloc(words, sizeof(*s->front));
	return s->todo && s->front ? 0 : error_set(err, -ENOMEM, "migration: %m");
}

void migrate_serve_done(struct migrate_serve *s)
{
	if (s->num)
		pthread_mutex_destroy(&s->lock);
	s->num = 0;
	free(s->todo);
	free(s->front);
	s->todo = s->front = NULL;
}

int migrate_serve_take(struct migrate_serve *s, bool hot, struct error *err)
{
	int r = migrate_memory_take(s->memory, hot ? s->front : s->todo, err);

	for (uint64_t i = 0; i < guest_mem_bitmap_words(s->num << PAGE_SHIFT); i++)
		s->todo[i] |= s->front[i];
	count_left(s);
	return r;
}

int migrate_serve_announce(struct migrate_serve *s, struct error *err)
{
	return migrate_missing_send(s->wire, s->todo, s->num, err);
}

int migrate_serve_resume(struct migrate_serve *s, int wait_ms, struct error *err)
{
	struct migrate_record rec;
	int r;

	do {
		r = migrate_wire_receive(s->wire, &rec, wait_ms, err);
		if (!r && rec.type == MIGRATE_MISSING)
			r = migrate_missing_take(&rec, s->todo, s->num, err);
		else if (!r && rec.type != MIGRATE_RESUMED)
			r = error_set(err, -EBADMSG, "migration: a record out of place");
		s->runs_there |= !r;
	} while (!r && rec.type != MIGRATE_RESUMED);
	count_left(s);
	return r;
}

/* ---- serving ---- */

/*
 * Of word @k of the bitmap those pages that are in @mask and still to be sent: they are the
 * caller's to send now. The lock is held.
 */
static uint64_t claim(struct migrate_serve *s, uint64_t k, uint64_t mask)
{
	uint64_t pages = s->todo[k] & mask;

	s->todo[k] &= ~pages;
	s->front[k] &= ~pages;
	s->left -= __builtin_popcountll(pages);
	return pages;
}

static int send_pages(struct migrate_serve *s, unsigned lane, struct migrate_wire *w, uint64_t k,
		      uint64_t pages, struct error *err)
{
	const uint64_t wanted[MIGRATE_WINDOW_WORDS] = { pages };
	uint64_t first = k * WORD_PAGES;

	if (!pages)
		return 0;
	return migrate_memory_send_pages(s->memory, lane, w, first,
					 MIN(s->num - first, (uint64_t)WORD_PAGES), wanted, err);
}

/* Somebody waits for @page; it may be on its way already. */
static int serve(struct migrate_serve *s, uint64_t page, struct error *err)
{
	uint64_t around = ((1ull << AROUND_PAGES) - 1) << align_down(page % 64, AROUND_PAGES);
	uint64_t pages;

	/* Each is asked for once, as long as a connection lasts. */
	if (page >= s->num || ++s->wants > s->num)
		return error_set(err, -EBADMSG, "migration: a wanted page that makes no sense");
	pthread_mutex_lock(&s->lock);
	pages = claim(s, page / 64, around);
	pthread_mutex_unlock(&s->lock);
	return send_pages(s, 0, s->wire, page / 64, pages, err);
}

/* The next of what nobody waits for; false: nothing is left. The lock is held. */
static bool claim_next(struct migrate_serve *s, uint64_t *ret_k, uint64_t *ret_pages)
{
	while (s->left) {
		const uint64_t *pages = s->front_done ? s->todo : s->front;
		uint64_t end, at = guest_mem_next_run(pages, s->num, s->at, &end);

		if (at < s->num) {
			s->at = align_down(at, WORD_PAGES) + WORD_PAGES;
			*ret_k = at / 64;
			*ret_pages = claim(s, at / 64, pages[at / 64]);
			return true;
		}
		s->front_done = true;
		s->at = 0;
	}
	return false;
}

/* 1, or 0: nothing is left. Any thread with a lane. */
static int send_some(struct migrate_serve *s, unsigned lane, struct migrate_wire *w,
		     struct error *err)
{
	uint64_t k, pages;
	bool any;
	int r;

	pthread_mutex_lock(&s->lock);
	any = claim_next(s, &k, &pages);
	pthread_mutex_unlock(&s->lock);
	if (!any)
		return 0;
	r = send_pages(s, lane, w, k, pages, err);
	return r < 0 ? r : 1;
}

/* A step of a stream in the background. */
static int push_some(void *arg, unsigned lane, struct migrate_wire *w, struct error *err)
{
	struct migrate_serve *s = arg;
	int r = migrate_streams_rest(s->streams, s->hold_back(s->arg), err);

	return r ? r : send_some(s, lane, w, err);
}

/* The streams' part is over: all is there, or it is lost by @r, or by what they failed with. */
static int end_push(struct migrate_serve *s, int r, struct error *err)
{
	struct error why = { 0 };
	int pushed = s->pushing ? migrate_streams_pushed(s->streams, r < 0, &why) : 0;

	s->pushing = false;
	if (pushed < 0) {
		*err = why;
		r = pushed;
	}
	return r;
}

/* What the destination says next; 1: it is of @type. */
static int hear(struct migrate_serve *s, enum migrate_record_type type, struct error *err)
{
	struct migrate_record rec;
	int r = migrate_wire_receive(s->wire, &rec, (int)s->wire->patience_ms, err);

	if (r < 0)
		return r;
	if (rec.type == type)
		return 1;
	if (rec.type != MIGRATE_WANT)
		return error_set(err, -EBADMSG, "migration: a record out of place");
	return serve(s, rec.page, err);
}

static int too_late(int wait_ms, struct error *err)
{
	return error_set(err, -ETIMEDOUT, "migration: the other side does not answer (%d ms)",
			 wait_ms);
}

/* How much there is to do in the background that is not done by others. */
static uint64_t left_for_us(struct migrate_serve *s)
{
	uint64_t left;

	if (s->pushing)
		return 0;
	pthread_mutex_lock(&s->lock);
	left = s->left;
	pthread_mutex_unlock(&s->lock);
	return left;
}

static int hold_back(struct migrate_serve *s)
{
	if (s->progress)
		s->progress(s->arg);
	return s->hold_back(s->arg);
}

/* Readable when those others have come to their end; -1: there are none. */
static int over_fd(const struct migrate_serve *s)
{
	return s->streams && s->pushing ? s->streams->over_fd : -1;
}

static int serve_until(struct migrate_serve *s, enum migrate_record_type type, int wait_ms,
		       struct error *err)
{
	uint64_t now_ns = clock_monotonic_ns(NULL), since_ns = now_ns;
	uint64_t wait_ns = (uint64_t)wait_ms * NSEC_PER_MSEC;
	bool said = type != MIGRATE_WHOLE;
	/*
	 * A destination that cannot run after all may hang up: what it says is to be read then.
	 * With other connections for it ours is left to who waits.
	 */
	bool push = type == MIGRATE_WHOLE || (type != MIGRATE_RUNNING && !s->streams);
	int r = 0, hold_ms;

	while (!r) {
		uint64_t left = left_for_us(s);

		if (!left && !said && !s->pushing) {
			r = migrate_wire_send(s->wire, MIGRATE_SENT, 0, NULL, 0, err);
			since_ns = now_ns;
			said = true;
			continue;
		}
		if (said && now_ns - since_ns >= wait_ns)
			return too_late(wait_ms, err);
		hold_ms = hold_back(s);
		if (s->pushing)
			hold_ms = LOOK_MS;
		else if (!left || !push)
			hold_ms = (int)((wait_ns - (now_ns - since_ns)) / NSEC_PER_MSEC) + 1;
		r = migrate_wire_await_or(s->wire, over_fd(s), hold_ms, err);
		if (r > 1)
			r = end_push(s, 0, err);
		else if (r > 0)
			r = hear(s, type, err);
		else if (!r && left && push && !hold_ms)
			r = MIN(send_some(s, 0, s->wire, err), 0);
		now_ns = clock_monotonic_ns(NULL);
	}
	return MIN(r, 0);
}

int migrate_serve_until(struct migrate_serve *s, enum migrate_record_type type, int wait_ms,
			struct error *err)
{
	int r;

	/* Not before the guest runs there: until then a lost stream would be taken for a word. */
	if (type == MIGRATE_WHOLE && s->streams && left_for_us(s))
		s->pushing = migrate_streams_push(s->streams, push_some, s) > 0;
	r = serve_until(s, type, wait_ms, err);
	return end_push(s, r, err);
}
