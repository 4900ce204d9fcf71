/*
 * Named, versioned sections of fields: how a device writes what it is, and
 * reads it back as if an enemy had written it. The same for a snapshot file
 * and a migration stream.
 *
 * A writer appends fields to a growing buffer. A reader fails once and stays
 * failed: every later get returns zero, and state_reader_end() reports the
 * first failure, or bytes left unread. Little-endian. One thread.
 */
#ifndef WISP_CORE_STATE_H
#define WISP_CORE_STATE_H

#include "vmm/core/error.h"
#include "vmm/core/util.h"

struct state_writer {
	uint8_t *buf;
	size_t len, cap;
	size_t section; /* offset of the open section's header, or SIZE_MAX */
	int failed;	/* -ENOMEM once an append failed, -EINVAL for misuse */
};

/* An empty one, which holds no memory yet; done frees @buf. */
void state_writer_init(struct state_writer *w);
void state_writer_done(struct state_writer *w);

/* Open a section; @name up to 47 bytes, unique with @instance. Sections do not nest. */
void state_begin(struct state_writer *w, const char *name, uint32_t instance, uint32_t version);
void state_end(struct state_writer *w);

/* Append a field to the open section. What fails is noted in @failed, and nothing more is added. */
void state_put_u8(struct state_writer *w, uint8_t v);
void state_put_u16(struct state_writer *w, uint16_t v);
void state_put_u32(struct state_writer *w, uint32_t v);
void state_put_u64(struct state_writer *w, uint64_t v);
void state_put_bytes(struct state_writer *w, const void *p, size_t len);  /* no length */
void state_put_string(struct state_writer *w, const char *s);		   /* u32 length, bytes */

/*
 * After the last section: one that says how many there are and seals them all.
 * What state_set_open() reads ends with it.
 */
void state_seal(struct state_writer *w);

struct state_reader {
	const uint8_t *p;
	size_t len, pos;
	const char *name; /* of the section, for messages */
	uint32_t instance;
	uint32_t version;
	int failed;
	char why[120];
};

/*
 * Open the section at @pos of what a writer left, and move @pos behind it.
 * Returns 1 with @ret_r filled (it borrows @buf), 0 at the end, or -EBADMSG
 * with @err: not a section, cut off, or its checksum is wrong.
 */
int state_next(const uint8_t *buf, size_t len, size_t *pos, struct state_reader *ret_r,
	       struct error *err);

/* The section's next field, in the order and of the size in which it was put. */
uint8_t state_get_u8(struct state_reader *r);
uint16_t state_get_u16(struct state_reader *r);
uint32_t state_get_u32(struct state_reader *r);
uint64_t state_get_u64(struct state_reader *r);
bool state_get_bool(struct state_reader *r); /* a u8 that must be 0 or 1 */
void state_get_bytes(struct state_reader *r, void *p, size_t len);
/* At most @size - 1 bytes without a zero among them; always terminated. */
void state_get_string(struct state_reader *r, char *buf, size_t size);

/* Mark the section as wrong for a reason of the device's own ("queue size 3"). Returns -EBADMSG. */
int state_reader_fail(struct state_reader *r, const char *fmt, ...) __printf(2, 3);

/* 0 when all was read and nothing failed; else -EBADMSG with @err naming section and reason. */
int state_reader_end(struct state_reader *r, struct error *err);

/* All sections of a sealed buffer, to be taken by name. */
struct state_set {
	unsigned num;
	struct state_entry *entry;
};

/*
 * Find the sections of @buf, which is borrowed: whole, sealed, none there twice.
 * -EBADMSG with @err, -ENOMEM.
 */
int state_set_open(struct state_set *set, const uint8_t *buf, size_t len, struct error *err);
void state_set_close(struct state_set *set);

/*
 * Take a section of version 1 to @max_version. -EBADMSG with @err when it is
 * missing, was taken before, or is newer than we are.
 */
int state_set_take(struct state_set *set, const char *name, uint32_t instance,
		   uint32_t max_version, struct state_reader *ret_r, struct error *err);

/* Is there such a section that nobody has taken yet? */
bool state_set_has(const struct state_set *set, const char *name, uint32_t instance);

/* All of them can be taken once more. */
void state_set_again(struct state_set *set);

/* -EBADMSG with @err naming a section that nobody has taken. */
int state_set_finish(const struct state_set *set, struct error *err);

#endif
