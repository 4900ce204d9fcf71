#include "vmm/hypervisor/x86_template.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_CHANGES 4096 /* of a kind: more than any processor has */

/* ---- numbers and bitmaps, as Firecracker writes them ---- */

/* "0x1f" or "0b101"; 32 bits. */
static int parse_number(const char *text, uint32_t *ret, struct error *err)
{
	int base = !strncmp(text, "0x", 2) ? 16 : !strncmp(text, "0b", 2) ? 2 : 0;
	const char *digits = base == 16 ? "0123456789abcdefABCDEF" : "01";
	unsigned long long n;

	if (!base)
		return error_set(err, -EINVAL,
				 "No supported number system prefix found in value [%.40s]. Make "
				 "sure to prefix the number with '0x' for hexadecimal numbers or "
				 "'0b' for binary numbers.",
				 text);
	errno = 0;
	n = strtoull(text + 2, NULL, base);
	if (!text[2] || strspn(text + 2, digits) != strlen(text + 2) || errno || n > UINT32_MAX)
		return error_set(err, -EINVAL,
				 "Failed to parse string [%.80s] as a number for CPU template",
				 text);
	*ret = n;
	return 0;
}

/* From the last bit on; '_' only parts digits. */
static int parse_bitmap(const char *text, unsigned num_bits, struct x86_bitmap *ret,
			struct error *err)
{
	const char *first = !strncmp(text, "0b", 2) ? text + 2 : text;
	struct x86_bitmap b = { 0 };
	unsigned bit = 0;

	for (const char *c = text + strlen(text); c > first;) {
		if (*--c == '_')
			continue;
		if (bit == num_bits)
			return error_set(err, -EINVAL,
					 "Failed to parse string [%.80s] as a bitmap - string is "
					 "too long",
					 text);
		if (*c != 'x' && *c != '0' && *c != '1')
			return error_set(err, -EINVAL,
					 "Failed to parse string [%.80s] as a bitmap - unknown "
					 "character: %u",
					 text, (unsigned char)*c);
		b.filter |= (uint64_t)(*c != 'x') << bit;
		b.value |= (uint64_t)(*c == '1') << bit;
		bit++;
	}
	*ret = b;
	return 0;
}

/* ---- fields ---- */

/* Is @o an object of the fields in @names, up to NULL, all of them there unless @optional? */
static int check_fields(const json_t *o, const char *const *names, bool optional,
			struct error *err)
{
	const char *name;
	json_t *v;

	if (!json_is_object(o))
		return error_set(err, -EINVAL, "invalid type: expected a map");
	json_object_foreach((json_t *)o, name, v)
	{
		const char *const *known = names;

		while (*known && strcmp(*known, name) != 0)
			known++;
		if (!*known)
			return error_set(err, -EINVAL, "unknown field `%.40s`", name);
	}
	for (; *names && !optional; names++)
		if (!json_object_get(o, *names))
			return error_set(err, -EINVAL, "missing field `%s`", *names);
	return 0;
}

static int get_text(const json_t *o, const char *name, const char **ret, struct error *err)
{
	*ret = json_string_value(json_object_get(o, name));
	return *ret ? 0 : error_set(err, -EINVAL, "invalid type: `%s`, expected a string", name);
}

static int get_number(const json_t *o, const char *name, uint32_t *ret, struct error *err)
{
	const char *text;
	int r = get_text(o, name, &text, err);

	return r ? r : parse_number(text, ret, err);
}

static int get_bitmap(const json_t *o, unsigned num_bits, struct x86_bitmap *ret,
		      struct error *err)
{
	const char *text;
	int r = get_text(o, "bitmap", &text, err);

	return r ? r : parse_bitmap(text, num_bits, ret, err);
}

/* The list @name of @o, empty when it is not there. */
static int get_list(const json_t *o, const char *name, const json_t **ret, struct error *err)
{
	*ret = json_object_get(o, name);
	if (*ret && !json_is_array(*ret))
		return error_set(err, -EINVAL, "invalid type: `%s`, expected a sequence", name);
	return 0;
}

/* Room for one more at the end of @list, or NULL with @err. */
static void *grow(void *list, unsigned num, size_t size, struct error *err)
{
	void *grown = num < MAX_CHANGES ? reallocarray(list, num + 1, size) : NULL;

	if (!grown)
		error_set(err, num < MAX_CHANGES ? -ENOMEM : -E2BIG,
			  "CPU template: too much for one");
	return grown;
}

/* ---- its parts ---- */

static int parse_register(const char *name, enum x86_cpuid_reg *ret, struct error *err)
{
	static const char *const known[] = { "eax", "ebx", "ecx", "edx" };

	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		if (!strcmp(name, known[i])) {
			*ret = i;
			return 0;
		}
	}
	return error_set(err, -EINVAL,
			 "Invalid CPUID register. Must be one of [eax, ebx, ecx, edx]");
}

static int add_register(struct x86_template *t, struct x86_cpuid_change change,
			const json_t *modifier, struct error *err)
{
	static const char *const fields[] = { "register", "bitmap", NULL };
	const char *name = NULL;
	void *grown;
	int r = check_fields(modifier, fields, false, err);

	if (!r)
		r = get_text(modifier, "register", &name, err);
	if (!r)
		r = parse_register(name, &change.reg, err);
	if (!r)
		r = get_bitmap(modifier, 32, &change.bits, err);
	if (r < 0)
		return r;
	grown = grow(t->cpuid, t->num_cpuid, sizeof(change), err);
	if (!grown)
		return -ENOMEM;
	t->cpuid = grown;
	t->cpuid[t->num_cpuid++] = change;
	return 0;
}

/* Its "flags" say what KVM knows better: whether a leaf has subleaves. */
static int add_leaf(struct x86_template *t, const json_t *leaf, struct error *err)
{
	static const char *const fields[] = { "leaf", "subleaf", "flags", "modifiers", NULL };
	struct x86_cpuid_change change = { 0 };
	const json_t *modifiers = NULL, *one;
	size_t i;
	int r = check_fields(leaf, fields, false, err);

	if (!r)
		r = get_number(leaf, "leaf", &change.leaf, err);
	if (!r)
		r = get_number(leaf, "subleaf", &change.subleaf, err);
	if (!r && !json_is_integer(json_object_get(leaf, "flags")))
		r = error_set(err, -EINVAL, "invalid type: `flags`, expected u32");
	if (!r)
		r = get_list(leaf, "modifiers", &modifiers, err);
	json_array_foreach(modifiers, i, one)
	{
		if (!r)
			r = add_register(t, change, one, err);
	}
	return r;
}

static int add_msr(struct x86_template *t, const json_t *msr, struct error *err)
{
	static const char *const fields[] = { "addr", "bitmap", NULL };
	struct x86_msr_change change = { 0 };
	void *grown;
	int r = check_fields(msr, fields, false, err);

	if (!r)
		r = get_number(msr, "addr", &change.index, err);
	if (!r)
		r = get_bitmap(msr, 64, &change.bits, err);
	if (r < 0)
		return r;
	grown = grow(t->msr, t->num_msrs, sizeof(change), err);
	if (!grown)
		return -ENOMEM;
	t->msr = grown;
	t->msr[t->num_msrs++] = change;
	return 0;
}

/* "!N" takes back a demand of Firecracker's own, of which wisp makes none. */
static int add_capability(struct x86_template *t, const json_t *capability, struct error *err)
{
	const char *text = json_string_value(capability), *digits;
	unsigned long long n;
	void *grown;

	if (!text)
		return error_set(err, -EINVAL, "invalid type: expected a string");
	digits = *text == '!' ? text + 1 : text;
	errno = 0;
	n = strtoull(digits, NULL, 10);
	if (!*digits || strspn(digits, "0123456789") != strlen(digits) || errno || n > UINT32_MAX)
		return error_set(err, -EINVAL,
				 "Failed to parse string [%.40s] as a kvm capability - can not "
				 "convert to numeric",
				 text);
	if (*text == '!')
		return 0;
	grown = grow(t->capability, t->num_capabilities, sizeof(*t->capability), err);
	if (!grown)
		return -ENOMEM;
	t->capability = grown;
	t->capability[t->num_capabilities++] = n;
	return 0;
}

int x86_template_parse(struct x86_template **ret_t, const json_t *json, struct error *err)
{
	static const struct {
		const char *name;
		int (*add)(struct x86_template *t, const json_t *one, struct error *err);
	} part[] = {
		{ "kvm_capabilities", add_capability },
		{ "cpuid_modifiers", add_leaf },
		{ "msr_modifiers", add_msr },
	};
	static const char *const fields[] = { "kvm_capabilities", "cpuid_modifiers",
					      "msr_modifiers", NULL };
	struct x86_template *t = calloc(1, sizeof(*t));
	const json_t *list = NULL, *one;
	size_t k;
	int r;

	if (!t)
		return error_set(err, -ENOMEM, "CPU template: %m");
	r = check_fields(json, fields, true, err);
	for (unsigned i = 0; i < ARRAY_SIZE(part) && !r; i++) {
		r = get_list(json, part[i].name, &list, err);
		json_array_foreach(list, k, one)
		{
			if (!r)
				r = part[i].add(t, one, err);
		}
	}
	if (r < 0)
		x86_template_free(t);
	else
		*ret_t = t;
	return r;
}

int x86_template_read(struct x86_template **ret_t, const char *path, struct error *err)
{
	json_error_t why;
	json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
	struct error told = { 0 };
	int r;

	if (!json && why.line < 0)
		return error_usage(err, -EINVAL, "--cpu-template: %s", why.text);
	if (!json)
		return error_usage(err, -EINVAL, "--cpu-template '%s': line %d: %s", path, why.line,
				   why.text);
	r = x86_template_parse(ret_t, json, &told);
	json_decref(json);
	return r < 0 ? error_usage(err, r, "--cpu-template '%s': %s", path, told.msg) : 0;
}

void x86_template_free(struct x86_template *t)
{
	if (!t)
		return;
	free(t->cpuid);
	free(t->msr);
	free(t->capability);
	free(t);
}

/* ---- its use ---- */

static struct kvm_cpuid_entry2 *find(struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < MIN(cpuid->num, (uint32_t)X86_MAX_CPUID); i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		if (e->function == leaf && e->index == subleaf)
			return e;
	}
	return NULL;
}

int x86_template_apply(const struct x86_template *t, struct x86_cpuid *cpuid, struct error *err)
{
	for (unsigned i = 0; i < t->num_cpuid; i++) {
		const struct x86_cpuid_change *c = &t->cpuid[i];
		struct kvm_cpuid_entry2 *e = find(cpuid, c->leaf, c->subleaf);
		uint32_t *const regs[] = {
			[CPUID_EAX] = e ? &e->eax : NULL,
			[CPUID_EBX] = e ? &e->ebx : NULL,
			[CPUID_ECX] = e ? &e->ecx : NULL,
			[CPUID_EDX] = e ? &e->edx : NULL,
		};

		if (!e)
			return error_usage(err, -EINVAL,
					   "Template changes a CPUID entry not supported by KVM: "
					   "Leaf: %x, Subleaf: %x",
					   c->leaf, c->subleaf);
		*regs[c->reg] = (*regs[c->reg] & ~(uint32_t)c->bits.filter) | c->bits.value;
	}
	return 0;
}

int x86_template_set_msrs(const struct x86_template *t, const struct hv_ops *ops,
			  struct hv_vcpu *vcpu, struct error *err)
{
	for (unsigned i = 0; i < t->num_msrs; i++) {
		const struct x86_msr_change *c = &t->msr[i];
		int r = ops->vcpu_change_msr ? ops->vcpu_change_msr(vcpu, c->index, c->bits.filter,
								    c->bits.value)
					     : -ENOENT;

		if (r == -ENOENT)
			return error_usage(err, r,
					   "Template changes an MSR entry not supported by KVM: "
					   "Register Address: %x",
					   c->index);
		if (r < 0)
			return error_kind_set(err, ERROR_REFUSED, r,
					      "Template changes an MSR to what KVM refuses: "
					      "Register Address: %x",
					      c->index);
	}
	return 0;
}
