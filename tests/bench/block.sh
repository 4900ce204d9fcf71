# shellcheck shell=bash disable=SC2034,SC2154
# Part "block": what one 4 KiB random read of a disk in the page cache costs. Sourced by
# tests/bench/run.
#
# The guest runs fio three times at each queue depth: once for nothing, since a disk with a thread of
# its own takes a while to see how it is read (virtio/virtio_blk_pace.h), then with few and with
# more reads. It says on its console where it is; the histograms of the host's tracepoints are copied
# at each such mark, and the difference of differences is what the additional reads took. QEMU
# has an iothread and aio=io_uring, wisp a thread for the disk (BENCH_BLOCK_KEYS are its keys). IOPS
# are fio's own, of the longer run: in a host that counts instructions they stand for the work of
# guest and monitor together.

block_keys=${BENCH_BLOCK_KEYS-queues=1}
block_few=${BENCH_BLOCK_FEW:-1536}
block_more=${BENCH_BLOCK_MORE:-3584}

block_triggers=(
	"raw_syscalls/sys_enter hist:keys=common_pid.execname,id.syscall"
	"kvm/kvm_exit hist:keys=exit_reason"
	"kvm/kvm_userspace_exit hist:keys=reason"
)

block_trace() { # "" or "!"
	local t
	for t in "${block_triggers[@]}"; do echo "$1${t#* }" >"$tracing/events/${t% *}/trigger"; done
}

# The histograms now, as lines "event key... count".
block_snapshot() {
	local t
	for t in "${block_triggers[@]}"; do
		sed -n "s|^{ \(.*\) } hitcount: *\([0-9]*\).*|${t% *} \1 \2|p" "$tracing/events/${t% *}/hist"
	done >"$1"
}

# The default initramfs with the guest's part of the measurement.
block_initrd() {
	mkdir -p "$work/job.dir"
	cat >"$work/job.dir/job" <<-'END'
		for d in /dev/vd?; do :; done
		mkdir /t && mount -o ro $d /t && mount -t devtmpfs dev /t/dev &&
			mount -t proc proc /t/proc && mount -t sysfs sys /t/sys && mount -t tmpfs tmp /t/tmp || exit 99
		read -r few more </counts
		# The host copies its histograms at each mark, which takes it a moment.
		mark() { echo "MARK $*"; sleep 2; }
		reads() {
			chroot /t /bin/fio --eta=never --name=b --filename=/dev/vda --rw=randread --bs=4k --direct=1 \
				--ioengine=io_uring --iodepth=$1 --number_ios=$2 --randseed=7 --thread \
				--output-format=terse --terse-version=3 --output=/tmp/out
		}
		run() {
			mark $1 $2 begins
			reads $1 $2
			mark $1 $2 ends
			echo "IOPS $1 $2 $(cut -d';' -f8 /t/tmp/out)"
		}
		for depth in 32 1; do
			reads $depth $few
			run $depth $few
			run $depth $more
		done
	END
	echo "$block_few $block_more" >"$work/job.dir/counts"
	(cd "$work/job.dir" && printf 'job\ncounts\n' | cpio -o -H newc --quiet) >"$work/job.cpio"
	cat "$initrd" "$work/job.cpio" >"$work/job.initrd"
}

block_command() {
	local tools=$BUILD/guests/tools.img initrd=$work/job.initrd memory_mib=384 guest=job
	local devices=" console " extra=
	command_for "$1"
	case $1 in
	wisp-*) cmd+=(--disk "$disk${block_keys:+,$block_keys}" --disk "$tools,ro") ;;
	qemu-*)
		local bus=pci
		[ "$1" = qemu-q35 ] || bus=device
		cmd+=(-object iothread,id=t0
			-drive "if=none,id=d0,format=raw,file=$disk,aio=io_uring" -device "virtio-blk-$bus,drive=d0,iothread=t0"
			-drive "if=none,id=d1,format=raw,file=$tools,readonly=on" -device "virtio-blk-$bus,drive=d1")
		;;
	esac
}

# block_row DEPTH NAME PATTERN [NOT]: hits of lines that match PATTERN and not NOT, per
# additional read.
block_row() {
	awk -v pattern="$3" -v no="${4-^$}" -v reads=$((block_more - block_few)) -v row="block_qd$1_$2" '
		$0 ~ pattern && $0 !~ no {
			n += (FILENAME ~ /ends$/ ? 1 : -1) * (FILENAME ~ /more/ ? 1 : -1) * $NF
		}
		END { printf "%s %.3f\n", row, n / reads }' "$work"/mark-"$1"-{few,more}-{begins,ends}
}

block_once() {
	local word depth count at name
	block_command "$1"
	block_trace ""
	# Nothing in between that keeps lines back: a mark is a moment.
	"${cmd[@]}" </dev/null 2>"$work/err" | tee "$work/out" | while read -r word depth count at; do
		at=${at%$'\r'}
		case $word in
		MARK)
			name=few
			[ "$count" != "$block_more" ] || name=more
			block_snapshot "$work/mark-$depth-$name-$at"
			;;
		esac
	done
	block_trace "!"
	grep -q "^MARK 1 $block_more ends" "$work/out" || { tail -n 20 "$work/out" >>"$work/err"; return 1; }
	for depth in 1 32; do
		# But for ioctls, by which vCPU threads enter the guest.
		block_row $depth syscalls "^raw_syscalls.*common_pid: *(wisp|qemu|disk)" sys_ioctl
		block_row $depth exits_user "^kvm/kvm_userspace_exit"
		block_row $depth exits "^kvm/kvm_exit"
		echo "block_qd${depth}_iops $(tr -d '\r' <"$work/out" | sed -n "s/^IOPS $depth $block_more //p")"
	done
	mkdir -p "$out/block-$1"
	cp "$work"/mark-* "$out/block-$1"
}

block() {
	local peer
	[ -e "$BUILD/guests/tools.img" ] || { say "block: no disk of programs (guests/tools)"; return 0; }
	[ -w $tracing/events/raw_syscalls/sys_enter/trigger ] || { say "block: needs tracepoints"; return 0; }
	truncate -s "${BENCH_BLOCK_SIZE:-64M}" "$disk"
	warm "$disk" "$BUILD/guests/tools.img"
	kernel=$guests/vmlinuz
	block_initrd
	for peer in $peers; do
		case $peer in wisp-* | qemu-*) ;; *) continue ;; esac
		peer_exists "$peer" || continue
		say "$peer: block"
		repeat block_once "$peer" ""
	done
}
