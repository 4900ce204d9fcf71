/* Registers as gdb numbers them: the order of the target description below. */
#include <errno.h>
#include <stdio.h>

#include "vmm/debug/gdb_internal.h"

enum feature { CORE, SSE, SEGMENTS, SYSTEM };

struct reg {
	const char *name;
	const char *type;
	uint8_t feature;
	uint8_t bytes;	/* as gdb sees it */
	uint8_t size;	/* in struct gdb_registers; 0: reads as zero */
	bool fixed;	/* may not be set */
	uint16_t offset;
};

#define AT(member) \
	.size = sizeof(((struct gdb_registers *)0)->member), \
	.offset = offsetof(struct gdb_registers, member)
#define GENERAL(n, t) { .name = #n, .type = t, .feature = CORE, .bytes = 8, AT(state.regs.n) }
#define SELECTOR(n) \
	{ .name = #n, .type = "int32", .feature = CORE, .bytes = 4, .fixed = true, \
	  AT(state.sregs.n.selector) }
#define ST(n) \
	{ .name = "st" #n, .type = "i387_ext", .feature = CORE, .bytes = 10, .size = 10, \
	  .offset = offsetof(struct gdb_registers, fpu.fpr[n]) }
#define X87(n, ...) { .name = n, .type = "int", .feature = CORE, .bytes = 4, __VA_ARGS__ }
#define XMM(n) \
	{ .name = "xmm" #n, .type = "vec128", .feature = SSE, .bytes = 16, AT(fpu.xmm[n]) }
#define SYS(n, member) { .name = n, .type = "int64", .feature = SYSTEM, .bytes = 8, AT(member) }

static const struct reg regs[] = {
	GENERAL(rax, "int64"), GENERAL(rbx, "int64"), GENERAL(rcx, "int64"),
	GENERAL(rdx, "int64"), GENERAL(rsi, "int64"), GENERAL(rdi, "int64"),
	GENERAL(rbp, "data_ptr"), GENERAL(rsp, "data_ptr"), GENERAL(r8, "int64"),
	GENERAL(r9, "int64"), GENERAL(r10, "int64"), GENERAL(r11, "int64"),
	GENERAL(r12, "int64"), GENERAL(r13, "int64"), GENERAL(r14, "int64"),
	GENERAL(r15, "int64"), GENERAL(rip, "code_ptr"),
	{ .name = "eflags", .type = "i386_eflags", .feature = CORE, .bytes = 4, .size = 4,
	  .offset = offsetof(struct gdb_registers, state.regs.rflags) },
	SELECTOR(cs), SELECTOR(ss), SELECTOR(ds), SELECTOR(es), SELECTOR(fs), SELECTOR(gs),
	ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7),
	X87("fctrl", AT(fpu.fcw)), X87("fstat", AT(fpu.fsw)),
	X87("ftag", .fixed = true), /* see tags() */
	X87("fiseg", .fixed = true),
	X87("fioff", .size = 4, .offset = offsetof(struct gdb_registers, fpu.last_ip)),
	X87("foseg", .fixed = true),
	X87("fooff", .size = 4, .offset = offsetof(struct gdb_registers, fpu.last_dp)),
	X87("fop", AT(fpu.last_opcode)),
	XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7), XMM(8), XMM(9), XMM(10),
	XMM(11), XMM(12), XMM(13), XMM(14), XMM(15),
	{ .name = "mxcsr", .type = "i386_mxcsr", .feature = SSE, .bytes = 4, AT(fpu.mxcsr) },
	{ .name = "fs_base", .type = "int", .feature = SEGMENTS, .bytes = 8,
	  AT(state.sregs.fs.base) },
	{ .name = "gs_base", .type = "int", .feature = SEGMENTS, .bytes = 8,
	  AT(state.sregs.gs.base) },
	SYS("cr0", state.sregs.cr0), SYS("cr2", state.sregs.cr2), SYS("cr3", state.sregs.cr3),
	SYS("cr4", state.sregs.cr4), SYS("cr8", state.sregs.cr8), SYS("efer", state.sregs.efer),
};

#define FTAG 34u

static const char *const feature_name[] = {
	[CORE] = "org.gnu.gdb.i386.core",
	[SSE] = "org.gnu.gdb.i386.sse",
	[SEGMENTS] = "org.gnu.gdb.i386.segments",
	/* gdb shows what it does not know by itself too. */
	[SYSTEM] = "org.wisp.x86.system",
};

static const char eflags_type[] =
	"<flags id=\"i386_eflags\" size=\"4\">"
	"<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>"
	"<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>"
	"<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>"
	"<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>"
	"<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/>"
	"<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" end=\"16\"/>"
	"<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>"
	"<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/>"
	"<field name=\"ID\" start=\"21\" end=\"21\"/></flags>";

static const char vector_types[] =
	"<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
	"<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
	"<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
	"<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	"<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
	"<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	"<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
	"<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
	"<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
	"<field name=\"v2_int64\" type=\"v2i64\"/>"
	"<field name=\"uint128\" type=\"uint128\"/></union>"
	"<flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" end=\"0\"/>"
	"<field name=\"DE\" start=\"1\" end=\"1\"/><field name=\"ZE\" start=\"2\" end=\"2\"/>"
	"<field name=\"OE\" start=\"3\" end=\"3\"/><field name=\"UE\" start=\"4\" end=\"4\"/>"
	"<field name=\"PE\" start=\"5\" end=\"5\"/><field name=\"DAZ\" start=\"6\" end=\"6\"/>"
	"<field name=\"FZ\" start=\"15\" end=\"15\"/></flags>";

unsigned gdb_num_registers(void)
{
	return ARRAY_SIZE(regs);
}

size_t gdb_register_bytes(unsigned i)
{
	return i < ARRAY_SIZE(regs) ? regs[i].bytes : 0;
}

int gdb_registers_get(struct gdb *g, unsigned vcpu, struct gdb_registers *r)
{
	const struct hv_ops *ops = g->m->hv->ops;
	struct hv_vcpu *v = gdb_vcpu(g, vcpu)->hv;
	int error = ops->vcpu_get(v, &r->state);

	memset(&r->fpu, 0, sizeof(r->fpu));
	if (!error && ops->vcpu_get_fpu)
		error = ops->vcpu_get_fpu(v, &r->fpu);
	return error;
}

int gdb_registers_set(struct gdb *g, unsigned vcpu, const struct gdb_registers *r)
{
	const struct hv_ops *ops = g->m->hv->ops;
	struct hv_vcpu *v = gdb_vcpu(g, vcpu)->hv;
	int error = ops->vcpu_set(v, &r->state);

	if (!error && ops->vcpu_set_fpu)
		error = ops->vcpu_set_fpu(v, &r->fpu);
	return error;
}

/* The full tag word has two bits a register: valid (0) or empty (3) is all that KVM keeps. */
static uint16_t tags(uint8_t abridged)
{
	uint16_t full = 0;

	for (unsigned i = 0; i < 8; i++)
		if (!(abridged & 1 << i))
			full |= 3 << (2 * i);
	return full;
}

size_t gdb_register_read(const struct gdb_registers *r, unsigned i, uint8_t *out)
{
	const struct reg *reg = &regs[i];

	if (i >= ARRAY_SIZE(regs))
		return 0;
	memset(out, 0, reg->bytes);
	memcpy(out, (const uint8_t *)r + reg->offset, reg->size);
	if (i == FTAG)
		put_le16(out, tags(r->fpu.ftwx));
	return reg->bytes;
}

int gdb_register_write(struct gdb_registers *r, unsigned i, const uint8_t *in)
{
	const struct reg *reg = &regs[i];

	if (i >= ARRAY_SIZE(regs))
		return -EINVAL;
	if (reg->fixed)
		return -EPERM;
	memcpy((uint8_t *)r + reg->offset, in, reg->size);
	return 0;
}

/* ---- the target description ---- */

/* A window [offset, offset+len) onto text that is produced from its start each time. */
struct window {
	char *out;
	size_t offset, len, at, taken;
};

static void put_text(struct window *w, const char *text)
{
	size_t n = strlen(text), skip = 0;

	if (w->at < w->offset)
		skip = MIN(n, w->offset - w->at);
	w->at += n;
	n = MIN(n - skip, w->len - w->taken);
	memcpy(w->out + w->taken, text + skip, n);
	w->taken += n;
}

static void put_feature(struct window *w, enum feature f)
{
	char line[128];

	snprintf(line, sizeof(line), "<feature name=\"%s\">", feature_name[f]);
	put_text(w, line);
	if (f == CORE)
		put_text(w, eflags_type);
	if (f == SSE)
		put_text(w, vector_types);
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
		if (regs[i].feature != f)
			continue;
		snprintf(line, sizeof(line), "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>",
			 regs[i].name, regs[i].bytes * 8, regs[i].type);
		put_text(w, line);
	}
	put_text(w, "</feature>");
}

size_t gdb_describe(char *out, size_t offset, size_t len, bool *ret_more)
{
	struct window w = { .out = out, .offset = offset, .len = len };

	put_text(&w, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
		     "<target><architecture>i386:x86-64</architecture>");
	for (enum feature f = CORE; f <= SYSTEM; f++)
		put_feature(&w, f);
	put_text(&w, "</target>");
	*ret_more = offset + w.taken < w.at;
	return w.taken;
}
