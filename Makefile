# wisp: a lightweight virtual machine monitor. `make help` lists what there is to make.
#
# One flat file: a wildcard per folder, dependencies by -MMD, V=1 shows commands.

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr/local
V       ?= 0
Q       := $(if $(filter 1,$(V)),,@)
say      = $(if $(filter 1,$(V)),,@printf '  %-7s %s\n' '$(1)' '$(2)';)

CC      ?= gcc
OPT     ?= -O2
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
           -Wvla -Wformat=2 -Wno-unused-parameter -Wno-missing-field-initializers
# clang's -Wformat-nonliteral also means functions that pass a checked format on.
CLANG_WONT := -Wno-gnu-variable-sized-type-not-at-end -Wno-format-nonliteral
HARDEN  := -fstack-protector-strong -fcf-protection -fvisibility=hidden \
           $(if $(filter -O0,$(OPT)),,$(if $(SANITIZE),,-D_FORTIFY_SOURCE=3)) \
           -ftrivial-auto-var-init=zero
ifneq ($(findstring clang,$(CC)),)
WARN    += $(CLANG_WONT)
# Before 16 clang takes that only with a word of consent.
HARDEN  += $(shell $(CC) -ftrivial-auto-var-init=zero -xc -fsyntax-only /dev/null 2>/dev/null || \
             echo -enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang)
endif
SANFLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
CFLAGS  += -std=gnu17 -g $(OPT) $(WARN) $(HARDEN) $(SANFLAGS) -fPIE -pthread
CPPFLAGS += -I. -D_GNU_SOURCE -DWISP_VERSION='"$(VERSION)"'
# The monitor is a static position-independent executable: half the system calls before main(),
# no relocated pages of shared libraries in every microVM. Sanitizers need it dynamic.
LINK    := $(if $(SANITIZE),-pie,-static-pie) -Wl,-z,relro,-z,now
LDLIBS  := -l:liburing.a -l:libjansson.a -l:libz.a -l:libzstd.a -l:libnettle.a -pthread

.DEFAULT_GOAL := all

CORE     := $(wildcard vmm/core/*.c)
DEVICES  := $(wildcard devices/*.c)
VIRTIO   := $(wildcard virtio/*.c)
FIRMWARE := $(wildcard firmware/*.c)
TOP      := $(filter-out vmm/main.c vmm/core/% vmm/seccomp/%,$(wildcard vmm/*.c vmm/*/*.c))
LIB_SRC  := $(CORE) $(DEVICES) $(VIRTIO) $(FIRMWARE) $(TOP)
# Filters of system calls: libseccomp makes them of tables when wisp is built.
SECCOMP  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard vmm/seccomp/*.c))
FILTERS  := $(BUILD)/vmm/seccomp/filters
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o) $(FILTERS).o
# Each helper is an executable of its own beside the monitor: helpers/wisp-NAME.c
HELPERS  := $(patsubst helpers/%.c,$(BUILD)/%,$(wildcard helpers/wisp-*.c))
UNIT     := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/test_*.c))
GUEST_TOOLS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/guest/*.c))
# What unit tests share: fakes and a driver.
UNIT_LIB := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(wildcard tests/unit/test_*.c),$(wildcard tests/unit/*.c)))

.PHONY: all
all: $(BUILD)/wisp $(HELPERS) $(BUILD)/wisp-init ## wisp and its helpers

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/vmm/seccomp/generate: $(SECCOMP)
	$(call say,LD,$@)$(CC) $(CFLAGS) -pie -o $@ $^ -lseccomp

# SECCOMP_LOG=1: what is not allowed is logged by the kernel, and done all the same.
$(FILTERS).c: $(BUILD)/vmm/seccomp/generate
	$(call say,FILTER,$@)$< $(if $(filter 1,$(SECCOMP_LOG)),--log) >$@.new && mv $@.new $@

$(FILTERS).o: $(FILTERS).c
	$(call say,CC,$<)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/libwisp.a: $(LIB_OBJ)
	$(call say,AR,$@)rm -f $@; $(AR) rcs $@ $^

$(BUILD)/wisp: $(BUILD)/vmm/main.o $(BUILD)/libwisp.a
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LINK) -o $@ $^ $(LDLIBS)

# Helpers carry the heavy libraries, so that the monitor does not.
HELPER_LIBS_wisp-net := $(shell pkg-config --libs slirp 2>/dev/null || echo -lslirp)
HELPER_CFLAGS_wisp-net := $(shell pkg-config --cflags slirp 2>/dev/null)

HELPER_LIBS_wisp-api := -lmicrohttpd
HELPER_LIBS_wisp-tls := -lgnutls
# Not the wide one: names of microVMs are ASCII.
HELPER_LIBS_wisp-top := -lncurses -ltinfo

$(BUILD)/wisp-api: $(patsubst %.c,$(BUILD)/%.o,$(wildcard helpers/api_*.c helpers/mmds*.c))
$(BUILD)/wisp-top: $(patsubst %.c,$(BUILD)/%.o,$(wildcard helpers/top_*.c))
$(BUILD)/wisp-jailer: $(addprefix $(BUILD)/helpers/,jail.o jail_cgroup.o)
$(BUILD)/wisp-net: $(addprefix $(BUILD)/helpers/,user_net.o guest_filter.o guest_link.o)
$(BUILD)/helpers/user_net.o: CFLAGS += $(HELPER_CFLAGS_wisp-net)
$(BUILD)/wisp-%: $(BUILD)/helpers/wisp-%.o $(BUILD)/libwisp.a
	$(call say,LD,$@)$(CC) $(CFLAGS) -pie -Wl,-z,relro,-z,now -o $@ $(filter %.o,$^) $(filter %.a,$^) \
		$(HELPER_LIBS_wisp-$*) $(LDLIBS)

# Process 1 of the guests of `wisp test`; it brings all it needs.
$(BUILD)/wisp-init: $(wildcard guests/test/*.c guests/test/*.h)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) -std=gnu17 -Os $(WARN) -D_GNU_SOURCE -static -s -ffunction-sections -Wl,--gc-sections \
		-o $@ $(filter %.c,$^)

# ---- the guest shell, and tests with real guests ----

# Packages first, since the compiler may be one of them; then everything in a make of its own.
.PHONY: run
run: ## boot the default guest to a shell (ARGS: more options of wisp run)
	@scripts/deps build run
	@$(MAKE) --no-print-directory all guest
	@scripts/run-guest $(BUILD) $(ARGS)

.PHONY: test
test: ## every test that this machine can run
	@scripts/deps build run test
	@$(MAKE) --no-print-directory all test-programs
	@scripts/test $(BUILD)

.PHONY: test-epoll
test-epoll: ## the same but for Linux guests, where io_uring is forbidden
	@scripts/deps build run test
	@$(MAKE) --no-print-directory all test-programs
	@TEST_ONLY=unit,bare $(BUILD)/tests/guest/no_uring scripts/test $(BUILD)

.PHONY: test-user
test-user: ## unit tests and bare-metal guests as an ordinary user, whom root makes for it
	@scripts/deps build run test
	@$(MAKE) --no-print-directory all test-programs
	@scripts/test-user $(BUILD)

.PHONY: test-programs
test-programs: $(UNIT) $(HELPERS) $(GUEST_TOOLS) hostile $(BUILD)/tests/sim/sim $(BUILD)/wisp-faults

$(BUILD)/tests/soak/wire: $(BUILD)/tests/soak/wire.o $(BUILD)/libwisp.a
	$(call say,LD,$@)$(CC) $(CFLAGS) -pie -o $@ $^ $(LDLIBS)

# Programs that guest tests take into their guests.
$(BUILD)/tests/guest/%: tests/guest/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) -std=gnu17 -D_GNU_SOURCE -O1 -Wall -Wextra -static -o $@ $<

.PHONY: guest-debian
guest-debian: ## a Debian guest: systemd, ext4 image, the distribution's own initramfs
	@scripts/deps guest
	@guests/debian -o $(BUILD)/guests/debian
	@echo "try: $(BUILD)/wisp run --memory 1G --serial stdio --kernel $(BUILD)/guests/debian/vmlinuz" \
		"--initrd $(BUILD)/guests/debian/initrd.img --disk $(BUILD)/guests/debian/disk.img"

# The default guest: a stock Debian cloud kernel and an initramfs made here.
.PHONY: guest
guest: ## the default guest: a Debian kernel and a small initramfs
	@guests/default -o $(BUILD)/guests/default

# ---- unit tests: cmocka, no KVM ----

$(BUILD)/tests/unit/test_%: $(BUILD)/tests/unit/test_%.o $(UNIT_LIB) $(BUILD)/libwisp.a
	$(call say,LD,$@)$(CC) $(CFLAGS) -pie -o $@ $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(LDLIBS)

$(BUILD)/tests/unit/test_guest_filter: $(BUILD)/helpers/guest_filter.o
$(BUILD)/tests/unit/test_user_net_crowded: $(addprefix $(BUILD)/helpers/,guest_filter.o guest_link.o)
$(BUILD)/tests/unit/test_user_net_crowded: LDLIBS += $(HELPER_LIBS_wisp-net)
$(BUILD)/tests/unit/test_user_net_crowded.o: CFLAGS += $(HELPER_CFLAGS_wisp-net)
# It counts them.
$(BUILD)/tests/unit/test_guest_link: LDLIBS += -Wl,--wrap=recvmmsg,--wrap=sendmmsg
$(BUILD)/tests/unit/test_guest_link: $(BUILD)/helpers/guest_link.o
$(BUILD)/tests/unit/test_api: $(patsubst %.c,$(BUILD)/%.o,$(wildcard helpers/api_*.c helpers/mmds*.c))
$(BUILD)/tests/unit/test_api: LDLIBS += $(HELPER_LIBS_wisp-api) -Wl,--wrap=api_run_wisp,--wrap=api_tap_works
$(BUILD)/tests/unit/test_api_running: $(patsubst %.c,$(BUILD)/%.o,$(wildcard helpers/api_*.c helpers/mmds*.c))
$(BUILD)/tests/unit/test_api_running: LDLIBS += $(HELPER_LIBS_wisp-api)
$(BUILD)/tests/unit/test_api_snapshot: $(patsubst %.c,$(BUILD)/%.o,$(wildcard helpers/api_*.c helpers/mmds*.c))
$(BUILD)/tests/unit/test_api_snapshot: LDLIBS += $(HELPER_LIBS_wisp-api) \
	-Wl,--wrap=fsync,--wrap=rename,--wrap=fallocate,--wrap=io_write_at
$(BUILD)/tests/unit/test_jail_cgroup: $(BUILD)/helpers/jail_cgroup.o
$(BUILD)/tests/unit/test_mmds: $(BUILD)/helpers/mmds_tcp.o $(BUILD)/helpers/mmds_answer.o
$(BUILD)/tests/unit/test_top: $(patsubst %.c,$(BUILD)/%.o,$(wildcard helpers/top_*.c))

.PHONY: unit
unit: $(UNIT) $(HELPERS) ## unit tests: no KVM needed
	$(Q)scripts/run-unit $(UNIT)

# ---- simulation: the order in which things happen is drawn from a seed (tests/sim/world.h) ----

SEEDS    ?= 10000
SIM_OBJ  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/sim/*.c))

# loop_sim.o has the epoll back end's name: the library's stays where it is.
$(BUILD)/tests/sim/sim: $(SIM_OBJ) $(UNIT_LIB) $(BUILD)/libwisp.a
	$(call say,LD,$@)$(CC) $(CFLAGS) -pie -o $@ $^ -lcmocka $(LDLIBS)

.PHONY: sim
sim: $(BUILD)/tests/sim/sim ## simulated machines, one for each seed (SEEDS=10000)
	$(Q)$< --seeds $(SEEDS)

# ---- a monitor in a guest's hands: what each thread can still do (tests/guest/hostile) ----

HOSTILE := -Wl,--wrap=sandbox_filter,--wrap=io_uring_queue_init_params

HOSTILE_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/hostile/*.c))

$(BUILD)/wisp-hostile: $(BUILD)/vmm/main.o $(HOSTILE_OBJ) $(BUILD)/libwisp.a
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LINK) $(HOSTILE) -o $@ $^ $(LDLIBS)

.PHONY: hostile
hostile: $(BUILD)/wisp-hostile

# ---- a shared directory mounted on this host, for suites of others (tests/share/share_mount.c) ----

$(BUILD)/tests/share/share_mount: $(BUILD)/tests/share/share_mount.o $(BUILD)/libwisp.a
	$(call say,LD,$@)$(CC) $(CFLAGS) -pie -o $@ $^ $(LDLIBS)

.PHONY: share-mount
share-mount: $(BUILD)/tests/share/share_mount ## a share as a guest sees it, for file system suites

.PHONY: share-escape
share-escape: $(BUILD)/tests/share/share_mount ## attempts to get out of a shared directory, as root
	$(Q)python3 tests/share/escape.py $<

# ---- faults: one call of a run fails (tests/fault/faults.c) ----

# Every __wrap_NAME there is takes the place of NAME.
$(BUILD)/tests/fault/wrapped: $(BUILD)/tests/fault/faults.o
	$(Q)nm $< | sed -n 's/.* T __wrap_/--wrap=/p' >$@

$(BUILD)/wisp-faults: $(BUILD)/vmm/main.o $(BUILD)/tests/fault/faults.o $(BUILD)/libwisp.a \
		| $(BUILD)/tests/fault/wrapped
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LINK) -Wl,@$(BUILD)/tests/fault/wrapped -o $@ $^ $(LDLIBS)

.PHONY: faults
faults: all $(BUILD)/wisp-faults ## every allocation, system call and completion of a run fails once
	$(Q)BUILD=$(BUILD) tests/fault/run
	$(Q)BUILD=$(BUILD) tests/fault/saved
	$(Q)BUILD=$(BUILD) tests/fault/steps

# ---- measurements, against every peer installed ----

BENCH := $(addprefix $(BUILD)/bench/,spend join bare.bin bare.elf)

$(BUILD)/bench/spend $(BUILD)/bench/join: $(BUILD)/bench/%: $(BUILD)/tests/bench/%.o
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LINK) -o $@ $^

$(BUILD)/tests/bench/%.o: tests/bench/%.S
	@mkdir -p $(@D)
	$(call say,AS,$<)$(CC) -c -o $@ $<

$(BUILD)/bench/bare.bin: $(BUILD)/tests/bench/bare_reset.o
	@mkdir -p $(@D)
	$(call say,LD,$@)$(LD) -Ttext=0 --oformat=binary -o $@ $<

$(BUILD)/bench/bare.elf: $(BUILD)/tests/bench/bare_pvh.o
	@mkdir -p $(@D)
	$(call say,LD,$@)$(LD) -z noseparate-code -Ttext=0x101000 --section-start=.note.pvh=0x102000 -o $@ $<

.PHONY: bench-tools
bench-tools: $(BENCH)

.PHONY: bench
bench: ## the scorecard, beside every peer installed
	$(Q)scripts/deps build run bench
	$(Q)$(MAKE) --no-print-directory all bench-tools
	$(Q)guests/default -o $(BUILD)/guests/default
	$(Q)scripts/bench $(BUILD)

# ---- fuzzing: libFuzzer targets (clang), each with a program that writes its seeds ----

FUZZ_CC      ?= clang-14
FUZZ_SECONDS ?= 60
FUZZ_FLAGS   ?= -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZ_CFLAGS  := -std=gnu17 -g -O1 -pthread $(FUZZ_FLAGS)
FUZZ         := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

$(BUILD)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,FUZZ,$<)$(FUZZ_CC) $(CPPFLAGS) $(FUZZ_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/fuzz/libwisp.a: $(LIB_SRC:%.c=$(BUILD)/fuzz/obj/%.o) $(FILTERS).o
	$(call say,AR,$@)rm -f $@; $(AR) rcs $@ $^

$(BUILD)/fuzz/fuzz_%: $(BUILD)/fuzz/obj/tests/fuzz/fuzz_%.o $(BUILD)/fuzz/libwisp.a
	$(call say,LD,$@)$(FUZZ_CC) $(FUZZ_CFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

# The guest of user networking needs what wisp-net has beside libwisp.
$(BUILD)/fuzz/fuzz_user_net: $(addprefix $(BUILD)/fuzz/obj/helpers/,user_net.o guest_filter.o guest_link.o)
$(BUILD)/fuzz/fuzz_user_net: LDLIBS += $(HELPER_LIBS_wisp-net)
$(BUILD)/fuzz/obj/helpers/user_net.o: FUZZ_CFLAGS += $(HELPER_CFLAGS_wisp-net)

# So do those of helpers' other halves.
$(BUILD)/fuzz/fuzz_mmds: $(addprefix $(BUILD)/fuzz/obj/helpers/,mmds_tcp.o mmds_answer.o)
$(BUILD)/fuzz/fuzz_api: $(patsubst %.c,$(BUILD)/fuzz/obj/%.o,$(wildcard helpers/api_*.c helpers/mmds*.c))
$(BUILD)/fuzz/seeds_api: $(patsubst %.c,$(BUILD)/%.o,$(wildcard helpers/api_*.c helpers/mmds*.c))
$(BUILD)/fuzz/fuzz_api $(BUILD)/fuzz/seeds_api: LDLIBS += $(HELPER_LIBS_wisp-api)
$(BUILD)/fuzz/fuzz_api: LDLIBS += -Wl,--wrap=api_tap_works

$(BUILD)/fuzz/seeds_%: $(BUILD)/tests/fuzz/seeds_%.o $(UNIT_LIB) $(BUILD)/libwisp.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CFLAGS) -pie -o $@ $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(LDLIBS)

# What a run learned stays in its corpus for the next one.
RUN_FUZZ = BUILD=$(BUILD) FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

.PHONY: fuzz
fuzz: $(FUZZ:%=$(BUILD)/fuzz/fuzz_%) $(FUZZ:%=$(BUILD)/fuzz/seeds_%) ## fuzz targets, FUZZ_SECONDS each, and what they reached
	$(Q)$(RUN_FUZZ) $(FUZZ)
run-fuzz-%: $(BUILD)/fuzz/fuzz_% $(BUILD)/fuzz/seeds_%
	$(Q)FUZZ_COVERAGE=0 $(RUN_FUZZ) $*

.PHONY: fuzz-coverage
fuzz-coverage: $(FUZZ:%=$(BUILD)/fuzz/seeds_%) ## what of its files each fuzz target reaches, after `make fuzz`
	$(Q)for t in $(FUZZ); do mkdir -p $(BUILD)/fuzz/$$t/seeds && \
		$(BUILD)/fuzz/seeds_$$t $(BUILD)/fuzz/$$t/seeds || exit 1; done
	$(Q)BUILD=$(BUILD) scripts/fuzz-coverage

# ---- checks: layout, include directions, a second compiler, static analysis ----

CLANG      ?= clang-14
CLANG_TIDY ?= clang-tidy-14
CLANG_WARN := $(WARN) $(CLANG_WONT) -Werror
CHECK_SRC  := $(LIB_SRC) $(wildcard vmm/main.c vmm/seccomp/*.c helpers/*.c)
CHECK_TEST := $(wildcard tests/unit/*.c tests/fuzz/*.c tests/hostile/*.c tests/sim/*.c tests/share/*.c)
CHECK_FLAGS = -std=gnu17 $(CPPFLAGS) $(HELPER_CFLAGS_wisp-net)

# One stamp a source: only what has changed is looked at again.
$(BUILD)/check/%.clang: %.c
	@mkdir -p $(@D)
	$(call say,CLANG,$<)$(CLANG) -fsyntax-only $(CHECK_FLAGS) $(CLANG_WARN) -MMD -MP -MF $@.d -MT $@ $< && touch $@

$(BUILD)/check/%.tidy: $(BUILD)/check/%.clang .clang-tidy
	$(call say,TIDY,$*.c)$(CLANG_TIDY) --quiet $*.c -- $(CHECK_FLAGS) 2>/dev/null && touch $@

.PHONY: check
check: ## layout, include directions, clang's warnings, clang-tidy, cppcheck, shellcheck
	$(Q)scripts/deps build check
	$(Q)$(MAKE) --no-print-directory check-sources

.PHONY: check-sources
check-sources: $(CHECK_SRC:%.c=$(BUILD)/check/%.tidy) $(CHECK_TEST:%.c=$(BUILD)/check/%.clang) \
		$(BUILD)/libwisp.a
	$(Q)scripts/check $(BUILD)

# The unit tests with sanitizers, each in a build folder of its own.
.PHONY: asan
asan: ## unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)-asan SANITIZE=address,undefined OPT=-O1 unit

# setarch: with more random address bits than gcc 12 expects, its ThreadSanitizer cannot start.
.PHONY: tsan
# A copy of a machine that saves it has threads of its own, which it would end at otherwise.
tsan: ## unit tests under ThreadSanitizer
	$(Q)TSAN_OPTIONS="die_after_fork=0 $$TSAN_OPTIONS" setarch -R $(MAKE) --no-print-directory BUILD=$(BUILD)-tsan SANITIZE=thread OPT=-O1 unit

SOAK_ROUNDS ?= 20

.PHONY: soak
soak: ## unit tests under sanitizers again and again (SOAK_ROUNDS), then a long fuzz
	$(Q)for i in $$(seq $(SOAK_ROUNDS)); do \
		echo "soak: round $$i of $(SOAK_ROUNDS)"; \
		$(MAKE) --no-print-directory asan tsan || exit 1; done
	$(Q)$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=600
	$(Q)$(MAKE) --no-print-directory soak-boot
	$(Q)$(MAKE) --no-print-directory soak-net
	$(Q)$(MAKE) --no-print-directory soak-block
	$(Q)$(MAKE) --no-print-directory soak-qcow2
	$(Q)$(MAKE) --no-print-directory soak-migrate
	$(Q)$(MAKE) --no-print-directory soak-hostile
	$(Q)$(MAKE) --no-print-directory soak-snapshot
	$(Q)$(MAKE) --no-print-directory soak-clones
	$(Q)$(MAKE) --no-print-directory soak-reset
	$(Q)$(MAKE) --no-print-directory soak-linux

.PHONY: soak-clones
soak-clones: all ## a hundred clones of Linux at once, of a guest, a clone and a restored guest
	$(Q)BUILD=$(BUILD) scripts/soak-clones

.PHONY: soak-reset
soak-reset: all ## a guest taken back 10000 times, that writes 50 pages each time
	$(Q)BUILD=$(BUILD) RESETS=10000 TEST_LIMIT=3600 tests/guest/reset | \
		awk '{ print } /^ok/ { good = 1 } /^not ok/ { bad = 1 } END { exit bad || !good }'

.PHONY: soak-snapshot
soak-snapshot: all ## snapshots: killed, and without room, at 50 random moments each
	$(Q)BUILD=$(BUILD) scripts/soak-snapshot -n 50
	$(Q)BUILD=$(BUILD) scripts/soak-snapshot -n 20 -m --compress

.PHONY: soak-migrate
soak-migrate: all $(GUEST_TOOLS) ## migrations: a fault at a random moment each, then 100 in a row
	$(Q)BUILD=$(BUILD) scripts/soak-migrate -n 300
	$(Q)BUILD=$(BUILD) scripts/soak-migrate -n 50 -m --hand-off
	$(Q)BUILD=$(BUILD) scripts/soak-migrate -n 50 -m --copy-disks
	$(Q)BUILD=$(BUILD) scripts/soak-moves -n 100

.PHONY: soak-linux
soak-linux: all ## a busy Linux guest: saved, killed and restored 200 times, moved 100 times
	$(Q)BUILD=$(BUILD) scripts/soak-linux

.PHONY: soak-outcomes
soak-outcomes: all ## wisp test: every outcome provoked 20 times
	$(Q)BUILD=$(BUILD) scripts/soak-outcomes

.PHONY: soak-hostile
soak-hostile: all ## an honest guest among 24 hostile ones, ten minutes
	$(Q)BUILD=$(BUILD) scripts/soak-hostile

.PHONY: soak-boot
soak-boot: all ## every kernel in every size over every transport
	$(Q)mkdir -p $(BUILD)/test
	$(Q)case $$(scripts/probe) in nested:*) how=-nested ;; *) how= ;; esac; \
	BUILD=$(BUILD) tests/guest/linux$$how bootall </dev/null | tee $(BUILD)/test/bootall.txt
	$(Q)grep -q '^ok ' $(BUILD)/test/bootall.txt && ! grep '^not ok ' $(BUILD)/test/bootall.txt

.PHONY: soak-net
soak-net: all $(BUILD)/tests/soak/wire ## user networking and the switch under mixed traffic, ten minutes, as root
	$(Q)scripts/deps build run soak
	$(Q)BUILD=$(BUILD) scripts/soak-net

.PHONY: soak-block
soak-block: all ## disks: mad drivers under sanitizers, then long reads and writes by checksum
	$(Q)scripts/deps build run test
	$(Q)scripts/soak-block $(BUILD)

.PHONY: soak-qcow2
soak-qcow2: all ## qcow2 images: killed 100 times in mid-write, then contents by checksum
	$(Q)scripts/deps build run test
	$(Q)scripts/soak-qcow2 $(BUILD)

# ---- documentation and installation ----

.PHONY: docs
docs: $(BUILD)/wisp ## the manual page and bash completion, from the option tables
	$(BUILD)/wisp help --man > docs/wisp.1
	$(BUILD)/wisp help --bash > docs/wisp.bash
	$(BUILD)/vmm/seccomp/generate --list > docs/syscalls.md

BINDIR  := $(DESTDIR)$(PREFIX)/bin
LIBEXEC := $(DESTDIR)$(PREFIX)/libexec/wisp
UNITS := $(DESTDIR)$(PREFIX)/lib/systemd/system
SHARE   := $(DESTDIR)$(PREFIX)/share
COMPLETION := $(SHARE)/bash-completion/completions
GUEST   := $(addprefix $(BUILD)/guests/default/,vmlinuz vmlinux initrd release)

# The default guest goes along when it has been made.
.PHONY: install
install: all ## to $(DESTDIR)$(PREFIX)
	install -d $(BINDIR) $(LIBEXEC) $(SHARE)/man/man1 $(COMPLETION) $(SHARE)/doc/wisp/docs
	install -m 755 $(BUILD)/wisp $(BINDIR)/wisp
	install -m 755 $(HELPERS) $(BUILD)/wisp-init $(LIBEXEC)
	install -m 644 docs/wisp.1 $(SHARE)/man/man1/wisp.1
	install -m 644 docs/wisp.bash $(COMPLETION)/wisp
	install -d $(UNITS)
	sed 's,/usr/local,$(PREFIX),' scripts/wisp@.service | install -m 644 /dev/stdin $(UNITS)/wisp@.service
	install -m 644 README.md ARCHITECTURE.md SECURITY.md CHANGELOG.md LICENSE $(SHARE)/doc/wisp
	install -m 644 $(wildcard docs/*.md) $(SHARE)/doc/wisp/docs
	$(if $(wildcard $(GUEST)),install -d $(SHARE)/wisp/default && \
		install -m 644 $(wildcard $(GUEST)) $(SHARE)/wisp/default && \
		cp -r $(wildcard $(BUILD)/guests/default/lib) $(SHARE)/wisp/default && \
		chmod -R go=rX $(SHARE)/wisp/default)

.PHONY: uninstall
uninstall: ## what install put there
	rm -f $(BINDIR)/wisp $(SHARE)/man/man1/wisp.1 $(COMPLETION)/wisp $(UNITS)/wisp@.service
	rm -rf $(LIBEXEC) $(SHARE)/doc/wisp $(SHARE)/wisp

.PHONY: help
help: ## this list
	@echo 'make TARGET... [BUILD=build] [V=1]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.PHONY: clean
clean: ## removes the build folders
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan

.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
