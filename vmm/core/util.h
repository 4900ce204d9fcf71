/*
 * Small helpers that every room uses: sizes, alignment, little-endian access,
 * an intrusive list. Header only; no state, any thread.
 */
#ifndef WISP_CORE_UTIL_H
#define WISP_CORE_UTIL_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)
#define TiB (1ull << 40)

#define NSEC_PER_SEC  1000000000ull
#define NSEC_PER_MSEC 1000000ull
#define NSEC_PER_USEC 1000ull

#define PAGE_SIZE  4096ull
#define PAGE_SHIFT 12

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Which attributes a function has; the compiler checks callers. */
#define __printf(fmt, first) __attribute__((format(printf, fmt, first)))
#define __must_check	     __attribute__((warn_unused_result))
#define __unused	     __attribute__((unused))
#define __packed	     __attribute__((packed))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define MIN(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) _a = (a);                                                            \
		__typeof__(b) _b = (b);                                                            \
		_a < _b ? _a : _b;                                                                 \
	})
#define MAX(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) _a = (a);                                                            \
		__typeof__(b) _b = (b);                                                            \
		_a > _b ? _a : _b;                                                                 \
	})

/* @align is a power of two. align_up() wraps to 0 at the top of the range: check before. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

/* Up to the next multiple; see above. */
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return align_down(v + align - 1, align);
}

/* Zero is none. */
static inline bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* True when [start, start + len) is inside [base, base + size) with no wrap anywhere. */
static inline bool range_inside(uint64_t start, uint64_t len, uint64_t base, uint64_t size)
{
	return start >= base && len <= size && start - base <= size - len;
}

/* True when the two non-empty ranges share a byte; neither may wrap. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

/*
 * Add to a counter that one thread writes and any may read meanwhile: no locked instruction, and
 * no reader sees half of it.
 */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* Any thread, while another adds: a value that it had, orders nothing else. */
static inline uint64_t counter_get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Unaligned little-endian loads and stores, for guest structures and file formats. */
static inline uint16_t get_le16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

/* As get_le16(), four bytes. */
static inline uint32_t get_le32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

/* As get_le16(), eight bytes. */
static inline uint64_t get_le64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* The stores: 2, 4 and 8 bytes at @p, of any alignment. */
static inline void put_le16(void *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof(v));
}

/* As put_le16(), four bytes. */
static inline void put_le32(void *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

/* As put_le16(), eight bytes. */
static inline void put_le64(void *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}

/* Doubly linked intrusive list; a head and its members are the same type. */
struct list {
	struct list *next, *prev;
};

/* Make @l a head without members, or a member of no list. */
static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

/* Of a head: has it no members? Of a member: is it in no list? */
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* @n, which is in no list, becomes the last of @head; whoever embeds it owns it still. */
static inline void list_add_tail(struct list *head, struct list *n)
{
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}

/* Leaves @n empty, so removing twice is harmless. */
static inline void list_del(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

/* Move all members of @from behind those of @to, in order. */
static inline void list_move_all(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_entry(ptr, type, member) container_of(ptr, type, member)
#define list_for_each(pos, head)      for (pos = (head)->next; pos != (head); pos = pos->next)
#define list_for_each_safe(pos, n, head)                                                           \
	for (pos = (head)->next, n = pos->next; pos != (head); pos = n, n = pos->next)

#endif
