#include "firmware/aml.h"

#define BYTE_PREFIX   0x0a
#define WORD_PREFIX   0x0b
#define DWORD_PREFIX  0x0c
#define STRING_PREFIX 0x0d
#define QWORD_PREFIX  0x0e
#define NAME_OP	      0x08
#define SCOPE_OP      0x10
#define BUFFER_OP     0x11
#define PACKAGE_OP    0x12
#define METHOD_OP     0x14
#define IF_OP	      0xa0
#define ELSE_OP	      0xa1
#define EXT_PREFIX    0x5b
#define EXT_REGION    0x80
#define EXT_FIELD     0x81
#define EXT_DEVICE    0x82

#define DUAL_NAME  0x2e
#define MULTI_NAME 0x2f

#define METHOD_SERIALIZED (1u << 3)
#define REGION_SYSTEM_IO  1
#define FIELD_DWORD_ACCESS 3 /* no lock; bits written beside a field keep their value */

static void put(struct aml *a, const void *p, size_t len)
{
	if (len > a->cap - a->len) {
		a->full = true;
		return;
	}
	memcpy(a->buf + a->len, p, len);
	a->len += len;
}

static void put8(struct aml *a, uint8_t v)
{
	put(a, &v, 1);
}

static void put16(struct aml *a, uint16_t v)
{
	v = htole16(v);
	put(a, &v, sizeof(v));
}

static void put32(struct aml *a, uint32_t v)
{
	v = htole32(v);
	put(a, &v, sizeof(v));
}

static void put64(struct aml *a, uint64_t v)
{
	v = htole64(v);
	put(a, &v, sizeof(v));
}

/* ---- data and names ---- */

void aml_op(struct aml *a, enum aml_op op)
{
	put8(a, op);
}

void aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1) {
		put8(a, v ? AML_ONE : AML_ZERO);
	} else if (v <= UINT8_MAX) {
		put8(a, BYTE_PREFIX);
		put8(a, v);
	} else if (v <= UINT16_MAX) {
		put8(a, WORD_PREFIX);
		put16(a, v);
	} else if (v <= UINT32_MAX) {
		put8(a, DWORD_PREFIX);
		put32(a, v);
	} else {
		put8(a, QWORD_PREFIX);
		put64(a, v);
	}
}

void aml_string(struct aml *a, const char *s)
{
	put8(a, STRING_PREFIX);
	put(a, s, strlen(s) + 1);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* Three letters of five bits, four hexadecimal digits, big-endian: ACPI 6.4, 19.3.4. */
void aml_eisa_id(struct aml *a, const char *id)
{
	uint32_t v = (id[0] - '@') << 26 | (id[1] - '@') << 21 | (id[2] - '@') << 16;

	for (unsigned i = 0; i < 4; i++)
		v |= hex_digit(id[3 + i]) << (12 - 4 * i);
	put8(a, DWORD_PREFIX);
	put32(a, __builtin_bswap32(v));
}

/* The first three groups are little-endian numbers, the rest bytes in order. */
void aml_uuid(struct aml *a, const char *uuid)
{
	static const uint8_t at[16] = { 6,  4,	2,  0,	11, 9,	16, 14,
					19, 21, 24, 26, 28, 30, 32, 34 };
	size_t mark;

	put8(a, BUFFER_OP);
	mark = a->len;
	put(a, "\0\0\0", 3);
	aml_int(a, 16);
	for (unsigned i = 0; i < 16; i++)
		put8(a, hex_digit(uuid[at[i]]) << 4 | hex_digit(uuid[at[i] + 1]));
	aml_end(a, mark);
}

static void name_segment(struct aml *a, const char *s, size_t len)
{
	char seg[4] = { '_', '_', '_', '_' };

	memcpy(seg, s, MIN(len, sizeof(seg)));
	put(a, seg, sizeof(seg));
}

void aml_path(struct aml *a, const char *path)
{
	unsigned segments = 1;

	if (*path == '\\') {
		put8(a, '\\');
		path++;
	}
	for (const char *p = path; *p; p++)
		segments += *p == '.';
	if (segments == 2) {
		put8(a, DUAL_NAME);
	} else if (segments > 2) {
		put8(a, MULTI_NAME);
		put8(a, segments);
	}
	while (segments--) {
		size_t len = strcspn(path, ".");

		name_segment(a, path, len);
		path += len + 1;
	}
}

void aml_name(struct aml *a, const char *name)
{
	put8(a, NAME_OP);
	aml_path(a, name);
}

/* ---- packages ---- */

/*
 * A package's length precedes it and is not known yet: leave the three bytes
 * of the form that reaches 1 MiB, which is legal for shorter ones too.
 */
static size_t open_package(struct aml *a)
{
	size_t mark = a->len;

	put(a, "\0\0\0", 3);
	return mark;
}

void aml_end(struct aml *a, size_t mark)
{
	size_t len = a->len - mark;

	if (a->full)
		return;
	a->buf[mark] = 2 << 6 | (len & 0xf);
	a->buf[mark + 1] = len >> 4;
	a->buf[mark + 2] = len >> 12;
}

size_t aml_scope(struct aml *a, const char *path)
{
	size_t mark;

	put8(a, SCOPE_OP);
	mark = open_package(a);
	aml_path(a, path);
	return mark;
}

size_t aml_device(struct aml *a, const char *name)
{
	size_t mark;

	put8(a, EXT_PREFIX);
	put8(a, EXT_DEVICE);
	mark = open_package(a);
	aml_path(a, name);
	return mark;
}

size_t aml_method(struct aml *a, const char *name, unsigned num_args)
{
	size_t mark;

	put8(a, METHOD_OP);
	mark = open_package(a);
	aml_path(a, name);
	put8(a, num_args | METHOD_SERIALIZED);
	return mark;
}

size_t aml_package(struct aml *a, unsigned num_elements)
{
	size_t mark;

	put8(a, PACKAGE_OP);
	mark = open_package(a);
	put8(a, num_elements);
	return mark;
}

size_t aml_if(struct aml *a)
{
	put8(a, IF_OP);
	return open_package(a);
}

size_t aml_else(struct aml *a)
{
	put8(a, ELSE_OP);
	return open_package(a);
}

void aml_io_fields(struct aml *a, const char *region, uint16_t port, const char *const *fields,
		   unsigned num_fields)
{
	size_t mark;

	put8(a, EXT_PREFIX);
	put8(a, EXT_REGION);
	aml_path(a, region);
	put8(a, REGION_SYSTEM_IO);
	aml_int(a, port);
	aml_int(a, num_fields * 4);

	put8(a, EXT_PREFIX);
	put8(a, EXT_FIELD);
	mark = open_package(a);
	aml_path(a, region);
	put8(a, FIELD_DWORD_ACCESS);
	for (unsigned i = 0; i < num_fields; i++) {
		name_segment(a, fields[i], strlen(fields[i]));
		put8(a, 32); /* bits, as a package length of one byte */
	}
	aml_end(a, mark);
}

/* ---- resource descriptors: ACPI 6.4, 6.4 ---- */

#define RES_IO		0x47
#define RES_END		0x79
#define RES_MEMORY32	0x86
#define RES_DWORD_SPACE 0x87
#define RES_WORD_SPACE	0x88
#define RES_IRQ		0x89
#define RES_QWORD_SPACE 0x8a

#define SPACE_MEMORY 0
#define SPACE_IO     1
#define SPACE_BUS    2

#define SPACE_FIXED	 0x0c /* both ends are fixed; what is inside is for children */
#define MEMORY_READ_WRITE 1
#define IO_ENTIRE_RANGE	 3
#define IRQ_CONSUMER	 (1u << 0)
#define IRQ_EDGE	 (1u << 1)
#define IO_DECODE_16	 1

/* The buffer's own length is a fixed word behind its package length. */
#define TEMPLATE_LENGTH_AT 4

size_t aml_resources(struct aml *a)
{
	size_t mark;

	aml_name(a, "_CRS");
	put8(a, BUFFER_OP);
	mark = open_package(a);
	put8(a, WORD_PREFIX);
	put16(a, 0);
	return mark;
}

void aml_resources_end(struct aml *a, size_t mark)
{
	put8(a, RES_END);
	put8(a, 0); /* no checksum */
	if (!a->full)
		put_le16(a->buf + mark + TEMPLATE_LENGTH_AT,
			 a->len - (mark + TEMPLATE_LENGTH_AT + 2));
	aml_end(a, mark);
}

void aml_res_io(struct aml *a, uint16_t port, uint8_t len)
{
	put8(a, RES_IO);
	put8(a, IO_DECODE_16);
	put16(a, port);
	put16(a, port);
	put8(a, 1);
	put8(a, len);
}

void aml_res_memory32(struct aml *a, uint32_t base, uint32_t size)
{
	put8(a, RES_MEMORY32);
	put16(a, 9);
	put8(a, MEMORY_READ_WRITE);
	put32(a, base);
	put32(a, size);
}

void aml_res_edge_irq(struct aml *a, uint32_t gsi)
{
	put8(a, RES_IRQ);
	put16(a, 6);
	put8(a, IRQ_CONSUMER | IRQ_EDGE);
	put8(a, 1);
	put32(a, gsi);
}

static void word_window(struct aml *a, uint8_t type, uint8_t flags, uint16_t first, uint16_t last)
{
	put8(a, RES_WORD_SPACE);
	put16(a, 13);
	put8(a, type);
	put8(a, SPACE_FIXED);
	put8(a, flags);
	put16(a, 0); /* granularity */
	put16(a, first);
	put16(a, last);
	put16(a, 0); /* translation */
	put16(a, last - first + 1);
}

void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t last)
{
	word_window(a, SPACE_BUS, 0, first, last);
}

void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last)
{
	word_window(a, SPACE_IO, IO_ENTIRE_RANGE, first, last);
}

void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t size)
{
	put8(a, RES_DWORD_SPACE);
	put16(a, 23);
	put8(a, SPACE_MEMORY);
	put8(a, SPACE_FIXED);
	put8(a, MEMORY_READ_WRITE);
	put32(a, 0);
	put32(a, base);
	put32(a, base + size - 1);
	put32(a, 0);
	put32(a, size);
}

void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t size)
{
	put8(a, RES_QWORD_SPACE);
	put16(a, 43);
	put8(a, SPACE_MEMORY);
	put8(a, SPACE_FIXED);
	put8(a, MEMORY_READ_WRITE);
	put64(a, 0);
	put64(a, base);
	put64(a, base + size - 1);
	put64(a, 0);
	put64(a, size);
}
