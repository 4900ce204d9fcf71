# shellcheck shell=bash disable=SC2034,SC2154,SC2206,SC2054
# How each monitor is told to run one and the same guest. Sourced by tests/bench/run.
#
# "command_for PEER" leaves the argument vector in the array cmd. It reads:
#
#   guest    init   stock kernel and default initramfs, ends as soon as init runs
#            shell  the same, goes on to a shell on the console
#            job    the same, runs the script /job of its initramfs
#            bare   ends itself with its first instructions, in the form the monitor starts best
#   kernel   path of the kernel (bzImage or vmlinux)
#   devices  words: disk, console, rng, user (a network by NAT in user space), net (one that the
#            caller adds)
#   job_words  more of the kernel's command line for a job
#   extra    arguments for wisp alone
#
# Every peer gets the settings that serve it best, found by trying, and the same kernel
# parameters. What was tried is told in docs/performance.md. All have 128 MiB and one CPU.

memory_mib=128

has() { case " $devices " in *" $1 "*) return 0 ;; esac; return 1; }

# What wisp's own default command line has too: without it a kernel looks for serial ports that are
# not there, by 100 exits, and tests its ciphers, by 900 million instructions. So have they pci=off
# without PCI, and pci=noearly with it.
words="quiet panic=-1 console=hvc0 8250.nr_uarts=0 cryptomgr.notests"

guest_words() {
	case $guest in
	init) echo "wisp.init-only" ;;
	shell) echo "" ;;
	job) echo "wisp.test=/job${job_words:+ $job_words}" ;;
	esac
}

peer_exists() {
	case $1 in
	wisp-*) [ -x "$BUILD/wisp" ] ;;
	qemu-*) command -v qemu-system-x86_64 >/dev/null ;;
	lkvm) command -v lkvm >/dev/null ;;
	esac
}

wisp_command() {
	cmd=("$BUILD/wisp" run --transport "$1" --memory "${memory_mib}M")
	if [ "$guest" = bare ]; then
		cmd+=(--kernel "$BUILD/bench/bare.elf")
	else
		cmd+=(--kernel "$kernel" --initrd "$initrd" --cmdline "$(guest_words)")
	fi
	if has disk; then cmd+=(--disk "$disk"); fi
	if ! has user && ! has net; then cmd+=(--net none); fi
	if ! has console; then cmd+=(--console none); fi
	if ! has rng; then cmd+=(--rng off); fi
	cmd+=($extra)
}

# qemu_command MACHINE BUS KERNEL_WORDS
qemu_command() {
	local bus=$2
	cmd=(qemu-system-x86_64 -M "$1" -accel kvm,kernel-irqchip=on -cpu host -m "$memory_mib"
		-nodefaults -no-user-config -display none -no-reboot)
	if [ "$guest" = bare ]; then
		# Entered in place of the firmware: no loader, no option ROM is in the way.
		cmd+=(-bios "$BUILD/bench/bare.bin" -device isa-debug-exit,iobase=0x501,iosize=1)
	else
		cmd+=(-kernel "$kernel" -initrd "$initrd" -append "$words $3 $(guest_words)")
	fi
	if has disk; then cmd+=(-drive "if=none,id=d0,format=raw,file=$disk" -device "virtio-blk-$bus,drive=d0"); fi
	if has user; then cmd+=(-netdev user,id=n0 -device "virtio-net-$bus,netdev=n0$([ "$bus" = device ] || echo ,romfile=)"); fi
	if has console; then
		cmd+=(-chardev stdio,id=c0,signal=off -device "virtio-serial-$bus" -device virtconsole,chardev=c0)
	fi
	if has rng; then cmd+=(-device "virtio-rng-$bus"); fi
}

command_for() {
	local peer=$1
	case $peer in
	wisp-mmio) wisp_command mmio ;;
	wisp-pci) wisp_command pci ;;
	qemu-microvm)
		# rtc=off makes the guest poll a clock that is not there 20,000 times; a second IOAPIC
		# and the one in QEMU (kernel-irqchip=split, its default) cost 1,000 exits.
		qemu_command microvm,acpi=on,rtc=on,pit=off,pic=off,ioapic2=off,isa-serial=off,x-option-roms=off device pci=off ;;
	qemu-q35)
		qemu_command q35,hpet=off,i8042=off,sata=off,smbus=off pci pci=noearly ;;
	lkvm)
		cmd=(lkvm run --nodefaults -c 1 -m "$memory_mib")
		if [ "$guest" = bare ]; then
			cmd+=(-k "$BUILD/bench/bare.bin")
		else
			# It has no ACPI, so nothing to power off with: its guest reboots, which ends it.
			cmd+=(-k "$kernel" -i "$initrd" -p "$words reboot=k noacpi pci=conf1,noearly i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 i8042.noaux i8042.nokbd $(guest_words | sed 's/only/only=reboot/')")
		fi
		if has disk; then cmd+=(-d "$disk"); fi
		if has user; then cmd+=(-n mode=user); else cmd+=(-n mode=none); fi
		if has console; then cmd+=(--console virtio); fi
		if has rng; then cmd+=(--rng); fi
		;;
	*) return 1 ;;
	esac
}
