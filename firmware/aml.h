/*
 * Writing ACPI Machine Language (ACPI 6.4, chapter 20) straight into a table:
 * a cursor over the table's memory, one call for each term, in the order in
 * which AML has them. Packages are opened and closed; their lengths are filled
 * in at the end. Running out of space is remembered, not reported term by term.
 */
#ifndef WISP_FIRMWARE_AML_H
#define WISP_FIRMWARE_AML_H

#include "vmm/core/util.h"

struct aml {
	uint8_t *buf;
	size_t len, cap;
	bool full; /* a term did not fit: the table is useless */
};

/* Terms without operands, and operators that take terms written after them. */
enum aml_op {
	AML_ZERO = 0x00, /* also: no target */
	AML_ONE = 0x01,
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68,
	AML_ARG1 = 0x69,
	AML_ARG3 = 0x6b,
	AML_STORE = 0x70,      /* source, target */
	AML_SHIFT_LEFT = 0x79, /* operand, count, target */
	AML_AND = 0x7b,	       /* operand, operand, target */
	AML_OR = 0x7d,	       /* operand, operand, target */
	AML_NOTIFY = 0x86,     /* object, value */
	AML_DWORD_FIELD = 0x8a, /* CreateDWordField: buffer, byte index, name */
	AML_LNOT = 0x92,       /* operand */
	AML_LEQUAL = 0x93,     /* operand, operand */
	AML_RETURN = 0xa4,     /* operand */
};

void aml_op(struct aml *a, enum aml_op op);
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0A08", as an integer */
/* A buffer with the 16 bytes of "33DB4D5B-1FF7-401C-9657-7441C03DD766" in ACPI's order. */
void aml_uuid(struct aml *a, const char *uuid);

/* A reference or the name within a definition: "\\_SB.PCI0", "COM1"; short parts are padded. */
void aml_path(struct aml *a, const char *path);

/* Name (name, ...): the value is written next. */
void aml_name(struct aml *a, const char *name);

/* Each opens a package that aml_end() closes with what this returned. */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *name);
size_t aml_method(struct aml *a, const char *name, unsigned num_args);
size_t aml_package(struct aml *a, unsigned num_elements);
size_t aml_if(struct aml *a); /* the predicate is written next */
size_t aml_else(struct aml *a);
void aml_end(struct aml *a, size_t mark);

/* An I/O port region called @region with consecutive 32-bit fields of these names. */
void aml_io_fields(struct aml *a, const char *region, uint16_t port, const char *const *fields,
		   unsigned num_fields);

/* Name (_CRS, ResourceTemplate): descriptors up to aml_resources_end(). */
size_t aml_resources(struct aml *a);
void aml_resources_end(struct aml *a, size_t mark);
void aml_res_io(struct aml *a, uint16_t port, uint8_t len);
void aml_res_memory32(struct aml *a, uint32_t base, uint32_t size);
void aml_res_edge_irq(struct aml *a, uint32_t gsi);
/* Windows of a bridge. */
void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t size);
void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t size);

#endif
