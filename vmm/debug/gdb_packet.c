/* What a debugger asks, packet by packet. gdb's manual, appendix E.2 and E.4. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/debug/gdb_internal.h"
#include "vmm/hypervisor/x86_walk.h"



static bool starts(const char *packet, const char *with, const char **ret_rest)
{
	size_t n = strlen(with);

	if (strncmp(packet, with, n) != 0)
		return false;
	*ret_rest = packet + n;
	return true;
}

static void ok(struct gdb *g)
{
	gdb_say(g, "OK");
}

static void answer(struct gdb *g, int r)
{
	if (r < 0)
		gdb_say(g, "E%02x", MIN(-r, 255));
	else
		ok(g);
}

/* A hexadecimal number at *@p, which moves past it. False when there is none. */
static bool number(const char **p, uint64_t *ret_n)
{
	char *end;

	if (!isxdigit((unsigned char)**p))
		return false;
	*ret_n = strtoull(*p, &end, 16);
	*p = end;
	return true;
}

/* "ADDR,LEN" and what must follow. */
static bool span(const char *p, char then, uint64_t *ret_addr, uint64_t *ret_len,
		 const char **ret_rest)
{
	if (!number(&p, ret_addr) || *p++ != ',' || !number(&p, ret_len) || *p != then)
		return false;
	*ret_rest = then ? p + 1 : p;
	return true;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Hexadecimal digits at @text into @out, at most @max bytes. Returns how many those are. */
static size_t from_hex(const char *text, uint8_t *out, size_t max)
{
	size_t n = 0;

	for (; n < max && digit(text[0]) >= 0 && digit(text[1]) >= 0; text += 2)
		out[n++] = digit(text[0]) << 4 | digit(text[1]);
	return n;
}

/* ---- threads: vCPU i is thread i + 1, since 0 and -1 have meanings ---- */

/* 0 when it is none; GDB_ALL_THREADS for -1. "Any" is the one reported last. */
static int thread_id(struct gdb *g, const char *text, unsigned *ret_vcpu)
{
	uint64_t id;

	if (strcmp(text, "-1") == 0) {
		*ret_vcpu = GDB_ALL_THREADS;
		return 0;
	}
	if (!number(&text, &id) || *text || id > gdb_num_vcpus(g))
		return -EINVAL;
	*ret_vcpu = id ? id - 1 : g->reported;
	return 0;
}

static void set_thread(struct gdb *g, const char *p)
{
	unsigned vcpu;

	if (thread_id(g, p + 1, &vcpu) < 0) {
		answer(g, -EINVAL);
		return;
	}
	if (*p == 'c')
		g->step_thread = vcpu;
	else
		g->thread = vcpu == GDB_ALL_THREADS ? g->reported : vcpu;
	ok(g);
}

static void list_threads(struct gdb *g)
{
	gdb_say(g, "m1");
	for (unsigned i = 1; i < gdb_num_vcpus(g); i++)
		gdb_say(g, ",%x", i + 1);
}

static void thread_info(struct gdb *g, const char *id)
{
	char text[32];
	unsigned vcpu;

	if (thread_id(g, id, &vcpu) < 0 || vcpu == GDB_ALL_THREADS) {
		answer(g, -EINVAL);
		return;
	}
	snprintf(text, sizeof(text), "vCPU %u", vcpu);
	gdb_add_hex(g, text, strlen(text));
}

/* ---- registers ---- */

static void read_registers(struct gdb *g)
{
	struct gdb_registers r;
	uint8_t value[GDB_MAX_REGISTER];
	int error = gdb_registers_get(g, g->thread, &r);

	if (error < 0) {
		answer(g, error);
		return;
	}
	for (unsigned i = 0; i < gdb_num_registers(); i++)
		gdb_add_hex(g, value, gdb_register_read(&r, i, value));
}

/* All of them; those that may not be set stay. */
static int write_registers(struct gdb *g, const char *hex)
{
	struct gdb_registers r;
	int error = gdb_registers_get(g, g->thread, &r);

	for (unsigned i = 0; i < gdb_num_registers() && !error; i++) {
		uint8_t value[GDB_MAX_REGISTER];
		size_t n = gdb_register_bytes(i);

		if (from_hex(hex, value, n) != n)
			break;
		hex += 2 * n;
		gdb_register_write(&r, i, value);
	}
	return error ? error : gdb_registers_set(g, g->thread, &r);
}

static void read_register(struct gdb *g, const char *p)
{
	struct gdb_registers r;
	uint8_t value[GDB_MAX_REGISTER];
	uint64_t i;
	int error;

	if (!number(&p, &i) || *p || i >= gdb_num_registers()) {
		answer(g, -EINVAL);
		return;
	}
	error = gdb_registers_get(g, g->thread, &r);
	if (error < 0)
		answer(g, error);
	else
		gdb_add_hex(g, value, gdb_register_read(&r, i, value));
}

static int write_register(struct gdb *g, const char *p)
{
	struct gdb_registers r;
	uint8_t value[GDB_MAX_REGISTER];
	uint64_t i;
	int error;

	if (!number(&p, &i) || *p != '=' || i >= gdb_num_registers() ||
	    from_hex(p + 1, value, sizeof(value)) < gdb_register_bytes(i))
		return -EINVAL;
	error = gdb_registers_get(g, g->thread, &r);
	if (!error)
		error = gdb_register_write(&r, i, value);
	return error ? error : gdb_registers_set(g, g->thread, &r);
}

/* ---- memory, through the page tables of the thread chosen, or physical ---- */

static const struct kvm_sregs *tables(struct gdb *g, struct x86_vcpu_state *state)
{
	/* Without paging linear is physical. */
	memset(state, 0, sizeof(*state));
	if (!g->physical && g->m->hv->ops->vcpu_get(gdb_vcpu(g, g->thread)->hv, state) < 0)
		memset(state, 0, sizeof(*state));
	return &state->sregs;
}

static void read_memory(struct gdb *g, const char *p)
{
	uint8_t buf[GDB_PACKET_MAX / 2 - 8];
	struct x86_vcpu_state state;
	uint64_t addr, len;
	size_t n;

	if (!span(p, '\0', &addr, &len, &p)) {
		answer(g, -EINVAL);
		return;
	}
	n = x86_linear_read(g->m->mem, tables(g, &state), addr, buf, MIN(len, sizeof(buf)));
	if (n == 0 && len)
		answer(g, -EFAULT);
	gdb_break_hide(g, addr, buf, n);
	gdb_add_hex(g, buf, n);
}

static int write_memory(struct gdb *g, uint64_t addr, const void *bytes, size_t len)
{
	struct x86_vcpu_state state;
	size_t n = x86_linear_write(g->m->mem, tables(g, &state), addr, bytes, len);

	gdb_break_refresh(g, addr, n);
	return n == len ? 0 : -EFAULT;
}

static int write_memory_hex(struct gdb *g, const char *p)
{
	uint8_t buf[GDB_PACKET_MAX];
	uint64_t addr, len;

	if (!span(p, ':', &addr, &len, &p) || len > sizeof(buf) ||
	    from_hex(p, buf, len) != len)
		return -EINVAL;
	return write_memory(g, addr, buf, len);
}

static int write_memory_binary(struct gdb *g, const char *p, const char *end)
{
	uint64_t addr, len;

	if (!span(p, ':', &addr, &len, &p) || (uint64_t)(end - p) != len)
		return -EINVAL;
	return write_memory(g, addr, p, len);
}

static int breakpoint(struct gdb *g, const char *packet)
{
	const char *p = packet + 1;
	uint64_t type, addr, len;

	if (!number(&p, &type) || *p++ != ',' || !number(&p, &addr) || *p++ != ',' ||
	    !number(&p, &len) || type > 4)
		return -EINVAL;
	return packet[0] == 'Z' ? gdb_break_insert(g, type, addr, len)
				: gdb_break_remove(g, type, addr, len);
}

/* ---- going on ---- */

/* One action of a vCont packet: "c", "s", "C05", "S05" with ":THREAD" or for all the rest. */
static int take_action(struct gdb *g, char *action, enum gdb_how *how, bool *decided)
{
	char *colon = strchr(action, ':');
	unsigned vcpu = GDB_ALL_THREADS;
	enum gdb_how h;

	switch (action[0]) {
	case 'c':
	case 'C':
		h = GDB_GO;
		break;
	case 's':
	case 'S':
		h = GDB_STEP;
		break;
	default:
		return -EINVAL;
	}
	if (colon && thread_id(g, colon + 1, &vcpu) < 0)
		return -EINVAL;
	for (unsigned i = 0; i < gdb_num_vcpus(g); i++) {
		if (decided[i] || (vcpu != GDB_ALL_THREADS && vcpu != i))
			continue;
		how[i] = h;
		decided[i] = true;
	}
	return 0;
}

/* Returns whether it goes on: then there is nothing to send yet. */
static bool go_on(struct gdb *g, const char *actions)
{
	enum gdb_how how[CONFIG_MAX_CPUS] = { 0 };
	bool decided[CONFIG_MAX_CPUS] = { 0 };
	char copy[256], *save, *action;
	int r = -EINVAL;

	snprintf(copy, sizeof(copy), "%s", actions);
	for (action = strtok_r(copy, ";", &save); action; action = strtok_r(NULL, ";", &save)) {
		r = take_action(g, action, how, decided);
		if (r < 0)
			break;
	}
	if (r < 0) {
		answer(g, r);
		return false;
	}
	gdb_resume(g, how);
	return true;
}

/* The old way: c and s, for the thread that Hc chose. */
static bool go_on_simply(struct gdb *g, const char *packet)
{
	char actions[32];

	if (packet[1]) {
		/* At another address: gdb sets the register itself. */
		answer(g, -EINVAL);
		return false;
	}
	if (packet[0] == 'c')
		return go_on(g, "c");
	snprintf(actions, sizeof(actions), "s:%x;c",
		 (g->step_thread == GDB_ALL_THREADS ? g->reported : g->step_thread) + 1);
	return go_on(g, actions);
}

/* ---- "monitor": commands of our own ---- */

static const char monitor_help[] =
	"monitor help | registers | translate ADDRESS | physical on|off\n";

static void monitor_translate(struct gdb *g, const char *text, char *out, size_t size)
{
	struct x86_vcpu_state state;
	uint64_t linear = strtoull(text, NULL, 0), gpa;

	gpa = x86_walk(g->m->mem, tables(g, &state), linear, NULL, NULL);
	if (gpa == UINT64_MAX)
		snprintf(out, size, "0x%llx is not mapped\n", (unsigned long long)linear);
	else
		snprintf(out, size, "0x%llx is at guest physical 0x%llx\n",
			 (unsigned long long)linear, (unsigned long long)gpa);
}

static void monitor_command(struct gdb *g, const char *hex)
{
	char command[128], out[GDB_PACKET_MAX / 2 - 16];
	size_t n = from_hex(hex, (uint8_t *)command, sizeof(command) - 1);
	const char *rest;

	command[n] = '\0';
	if (starts(command, "translate ", &rest)) {
		monitor_translate(g, rest, out, sizeof(out));
	} else if (strcmp(command, "registers") == 0) {
		machine_dump_vcpu(g->m, gdb_vcpu(g, g->thread), out, sizeof(out));
	} else if (starts(command, "physical ", &rest)) {
		g->physical = strcmp(rest, "on") == 0;
		snprintf(out, sizeof(out), "addresses are %s\n",
			 g->physical ? "guest physical" : "the thread's own");
	} else {
		snprintf(out, sizeof(out), "%s", monitor_help);
	}
	gdb_add_hex(g, out, strlen(out));
}

/* ---- queries ---- */

static void describe(struct gdb *g, const char *p)
{
	uint64_t offset, len;
	size_t n;
	bool more;

	if (!span(p, '\0', &offset, &len, &p)) {
		answer(g, -EINVAL);
		return;
	}
	n = gdb_describe(g->reply + 1, offset, MIN(len, GDB_PACKET_MAX - 1), &more);
	g->reply[0] = more ? 'm' : 'l';
	g->reply_len = n + 1;
}

static void query(struct gdb *g, const char *p)
{
	const char *rest;

	if (starts(p, "qSupported", &rest))
		gdb_say(g, "PacketSize=%x;qXfer:features:read+;swbreak+;hwbreak+;vContSupported+;"
			   "QStartNoAckMode+", GDB_PACKET_MAX - 8);
	else if (starts(p, "qXfer:features:read:target.xml:", &rest))
		describe(g, rest);
	else if (strcmp(p, "qfThreadInfo") == 0)
		list_threads(g);
	else if (strcmp(p, "qsThreadInfo") == 0)
		gdb_say(g, "l");
	else if (starts(p, "qThreadExtraInfo,", &rest))
		thread_info(g, rest);
	else if (strcmp(p, "qC") == 0)
		gdb_say(g, "QC%x", g->thread + 1);
	else if (starts(p, "qAttached", &rest))
		gdb_say(g, "1");
	else if (starts(p, "qRcmd,", &rest))
		monitor_command(g, rest);
	else if (strcmp(p, "QStartNoAckMode") == 0) {
		ok(g);
		g->no_ack = true;
	}
	/* Else nothing: not supported. */
}

/* Registers and memory, read and written. */
static void transfer(struct gdb *g, char *packet, size_t len)
{
	const char *p = packet + 1;

	switch (packet[0]) {
	case 'g':
		read_registers(g);
		break;
	case 'G':
		answer(g, write_registers(g, p));
		break;
	case 'p':
		read_register(g, p);
		break;
	case 'P':
		answer(g, write_register(g, p));
		break;
	case 'm':
		read_memory(g, p);
		break;
	case 'M':
		answer(g, write_memory_hex(g, p));
		break;
	case 'X':
		answer(g, write_memory_binary(g, p, packet + len));
		break;
	default:
		break;
	}
}

void gdb_packet(struct gdb *g, char *packet, size_t len)
{
	unsigned vcpu;
	const char *rest;

	g->reply_len = 0;
	switch (packet[0]) {
	case '?':
		gdb_say_stop(g);
		return;
	case 'g':
	case 'G':
	case 'p':
	case 'P':
	case 'm':
	case 'M':
	case 'X':
		transfer(g, packet, len);
		break;
	case 'Z':
	case 'z':
		answer(g, breakpoint(g, packet));
		break;
	case 'H':
		set_thread(g, packet + 1);
		break;
	case 'T':
		answer(g, thread_id(g, packet + 1, &vcpu));
		break;
	case 'c':
	case 's':
		if (go_on_simply(g, packet))
			return;
		break;
	case 'v':
		if (strcmp(packet, "vCont?") == 0)
			gdb_say(g, "vCont;c;C;s;S");
		else if (starts(packet, "vCont;", &rest) && go_on(g, rest))
			return;
		break;
	case 'D':
		ok(g);
		gdb_send(g);
		gdb_release(g);
		return;
	case 'k':
		machine_end(g->m, MACHINE_END_ASKED, 0, NULL);
		return;
	case 'q':
	case 'Q':
		query(g, packet);
		break;
	default:
		break;
	}
	gdb_send(g);
}
