#include "vmm/debug/elf_core.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/procfs.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/debug/vmcoreinfo.h"
#include "vmm/hypervisor/x86_walk.h"
#include "vmm/machine/machine_internal.h"

/* Linux's kernel half; what is below belongs to some process or other. */
#define KERNEL_HALF 0xffff800000000000ull
/* e_phnum has 16 bits; a kernel's vmalloc area may be in as many pieces as it likes. */
#define MAX_MAPPINGS 32768u

#define NOTE_NAME "CORE"

struct elf_core {
	struct guest_mem *mem;
	struct x86_vcpu_state *vcpu;
	unsigned num_vcpus;
	struct x86_mapping *map;
	size_t num_maps;
	uint8_t *head; /* all before the memory */
	size_t head_size, at;
	uint64_t vmcoreinfo; /* guest physical address of the kernel's note; UINT64_MAX: none */
	size_t vmcoreinfo_size;
};

/* ---- notes ---- */

static void put(struct elf_core *c, const void *bytes, size_t len)
{
	memcpy(c->head + c->at, bytes, len);
	c->at += align_up(len, 4);
}

static void put_note(struct elf_core *c, const char *name, uint32_t type, const void *content,
		     size_t len)
{
	Elf64_Nhdr note = { .n_namesz = strlen(name) + 1, .n_descsz = len, .n_type = type };

	put(c, &note, sizeof(note));
	put(c, name, note.n_namesz);
	put(c, content, len);
}

/* General registers as the kernel has them for a process. */
static void fill_registers(struct user_regs_struct *u, const struct x86_vcpu_state *s)
{
	const struct kvm_regs *r = &s->regs;

	*u = (struct user_regs_struct){
		.r15 = r->r15, .r14 = r->r14, .r13 = r->r13, .r12 = r->r12, .rbp = r->rbp,
		.rbx = r->rbx, .r11 = r->r11, .r10 = r->r10, .r9 = r->r9, .r8 = r->r8,
		.rax = r->rax, .rcx = r->rcx, .rdx = r->rdx, .rsi = r->rsi, .rdi = r->rdi,
		.orig_rax = UINT64_MAX, .rip = r->rip, .cs = s->sregs.cs.selector,
		.eflags = r->rflags, .rsp = r->rsp, .ss = s->sregs.ss.selector,
		.fs_base = s->sregs.fs.base, .gs_base = s->sregs.gs.base,
		.ds = s->sregs.ds.selector, .es = s->sregs.es.selector,
		.fs = s->sregs.fs.selector, .gs = s->sregs.gs.selector,
	};
}

static void put_vcpus(struct elf_core *c)
{
	struct user_regs_struct regs;
	struct elf_prstatus status;

	for (unsigned i = 0; i < c->num_vcpus; i++) {
		memset(&status, 0, sizeof(status));
		status.pr_pid = (pid_t)i + 1;
		fill_registers(&regs, &c->vcpu[i]);
		memcpy(&status.pr_reg, &regs, sizeof(regs));
		put_note(c, NOTE_NAME, NT_PRSTATUS, &status, sizeof(status));
	}
}

/* As it stands in the guest's memory, which was checked when it was found. */
static void put_vmcoreinfo(struct elf_core *c)
{
	uint8_t note[PAGE_SIZE];
	size_t size;

	if (c->vmcoreinfo != UINT64_MAX &&
	    guest_mem_read(c->mem, c->vmcoreinfo, note, sizeof(note)) == 0 &&
	    vmcoreinfo_is_note(note, &size) && size == c->vmcoreinfo_size)
		put(c, note, size);
}

/* ---- headers ---- */

/* Where the file has guest physical address @gpa: RAM follows the head, without its holes. */
static uint64_t file_offset(const struct elf_core *c, uint64_t gpa)
{
	const struct guest_mem_range *r = guest_mem_find(c->mem, gpa, 1);

	return c->head_size + (r->host - c->mem->map) + (gpa - r->gpa);
}

static void put_load(struct elf_core *c, uint64_t linear, uint64_t gpa, uint64_t size)
{
	Elf64_Phdr p = {
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W | PF_X,
		.p_offset = file_offset(c, gpa),
		.p_vaddr = linear,
		.p_paddr = gpa,
		.p_filesz = size,
		.p_memsz = size,
	};

	put(c, &p, sizeof(p));
}

static void put_headers(struct elf_core *c, size_t num_loads, size_t notes_offset,
			size_t notes_size)
{
	const struct guest_mem *mem = c->mem;
	Elf64_Ehdr e = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
			     EV_CURRENT },
		.e_type = ET_CORE,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = num_loads + 1,
	};
	Elf64_Phdr note = {
		.p_type = PT_NOTE,
		.p_offset = notes_offset,
		.p_filesz = notes_size,
		.p_memsz = notes_size,
	};

	put(c, &e, sizeof(e));
	put(c, &note, sizeof(note));
	for (unsigned i = 0; i < mem->num_ranges; i++)
		put_load(c, 0, mem->range[i].gpa, mem->range[i].size);
	for (size_t i = 0; i < c->num_maps; i++)
		put_load(c, c->map[i].linear, c->map[i].gpa, c->map[i].size);
}

static int make_head(struct elf_core *c)
{
	size_t loads, notes_offset, notes_size;

	c->map = calloc(MAX_MAPPINGS, sizeof(*c->map));
	if (!c->map)
		return -ENOMEM;
	c->num_maps = MIN(x86_walk_all(c->mem, &c->vcpu[0].sregs, KERNEL_HALF, c->map,
				       MAX_MAPPINGS),
			  (size_t)MAX_MAPPINGS);
	if (!vmcoreinfo_find(c->mem, &c->vmcoreinfo, &c->vmcoreinfo_size))
		c->vmcoreinfo = UINT64_MAX;
	loads = c->mem->num_ranges + c->num_maps;
	notes_offset = sizeof(Elf64_Ehdr) + (loads + 1) * sizeof(Elf64_Phdr);
	notes_size = c->num_vcpus * NOTE_BYTES(sizeof(NOTE_NAME), sizeof(struct elf_prstatus));
	if (c->vmcoreinfo != UINT64_MAX)
		notes_size += c->vmcoreinfo_size;
	c->head_size = align_up(notes_offset + notes_size, PAGE_SIZE);
	c->head = calloc(1, c->head_size);
	if (!c->head)
		return -ENOMEM;
	put_headers(c, loads, notes_offset, notes_size);
	put_vcpus(c);
	put_vmcoreinfo(c);
	return 0;
}

int elf_core_create(struct elf_core **ret_core, struct machine *m, struct error *err)
{
	struct elf_core *c = calloc(1, sizeof(*c));
	int r = -ENOMEM;

	if (c) {
		c->mem = m->mem;
		c->num_vcpus = m->vcpus.num;
		c->vcpu = calloc(c->num_vcpus, sizeof(*c->vcpu));
		r = c->vcpu ? 0 : -ENOMEM;
	}
	for (unsigned i = 0; !r && i < c->num_vcpus; i++)
		r = m->hv->ops->vcpu_get(m->vcpus.vcpu[i].hv, &c->vcpu[i]);
	if (r < 0) {
		elf_core_free(c);
		return error_set(err, r, "core file: registers: %m");
	}
	*ret_core = c;
	return 0;
}

int elf_core_write(struct elf_core *c, int fd)
{
	struct guest_mem_saved saved;
	int r = make_head(c);

	if (!r)
		r = guest_mem_save_at(c->mem, fd, c->head_size, &saved);
	/* Last, so that what is incomplete is no ELF file. */
	return r ? r : io_write_at(fd, c->head, c->head_size, 0);
}

void elf_core_free(struct elf_core *c)
{
	if (!c)
		return;
	free(c->head);
	free(c->map);
	free(c->vcpu);
	free(c);
}
