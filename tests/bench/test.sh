# shellcheck shell=bash disable=SC2034,SC2154
# Part "test": what a command in a machine of its own costs, and what a shared directory does.
# Sourced by tests/bench/run.
#
# wisp-pci is wisp test, wisp-warm the same with --warm after a first run. qemu-microvm is the same
# done by hand: QEMU with the same kernel and modules, and the very same init, told by the same
# plan to make the same overlay over virtio-fs, to mount the same share and to run the command
# between the same ports; with two of virtiofsd that are started for it. Each believes what it knows
# of the root for good, and what it knows of the share for a second; extended attributes are off.
#
# The command writes a line at once, to which the time is taken, and then says how long some work in
# the share took, by the guest's clock (BENCH_TEST_WORK: which of find, git and build).
#
# Its ports are files to QEMU: one to "null" is never open for the guest, which waits for it, and
# "stdio" is closed when stdin ends. virtiofsd's library refuses devices older than virtio 1.
# virtiofsd answers on the thread of the queue (BENCH_TEST_POOL: threads of a pool beside that).
#
# In the nested host all that runs comes from a disk (tests/bench/test_disk), on both sides, and the
# guest's root is that disk's.

test_peers=${BENCH_TEST_PEERS:-wisp-pci wisp-warm qemu-microvm}
test_work=${BENCH_TEST_WORK-find git build}
test_memory=1024
virtiofsd=/usr/lib/qemu/virtiofsd
test_root=/

# What is measured, and this script's own programs, from the disk.
test_system() {
	test_spend=$out/spend
	[ -b /dev/vdb ] || return 0
	test_root=/mnt
	mount -o ro /dev/vdb $test_root
	mkdir -p "$work/build/guests"
	cp -a "$BUILD/wisp" "$BUILD/wisp-init" "$out/spend" "$work/build/"
	cp -a "$guests" "$work/build/guests/default"
	mount --bind $test_root/usr /usr
	mount --bind $test_root/etc /etc
	BUILD=$work/build guests=$work/build/guests/default test_spend=$work/build/spend
}

# What is worked on: a repository of 400 files in 20 directories, and a program of two.
test_tree() {
	local d f
	mkdir -p "$work/tree/repo" "$work/tree/c"
	(
		cd "$work/tree/repo" || exit
		for d in $(seq 20); do
			mkdir "d$d"
			for f in $(seq 20); do echo "file $f of $d" >"d$d/f$f"; done
		done
		git init -q --template= .
		git add .
		git -c user.name=x -c user.email=x@example.org commit -q -m all
	)
	printf '#include <stdio.h>\nint f1(int n) { return printf("%%d", n); }\n' >"$work/tree/c/f1.c"
	echo 'int f1(int); int main(void) { return f1(1) != 1; }' >"$work/tree/c/main.c"
	cat >"$work/tree/c/Makefile" <<-'END'
		prog: main.o f1.o; gcc -o $@ $^
		%.o: %.c; gcc -O1 -c -o $@ $<
	END
	cat >"$work/tree/job" <<-'END'
		echo begins
		cd "${0%/*}" || exit
		read -r work <work
		timed() {
			local from=${EPOCHREALTIME/./}
			case " $work " in *" $1 "*) ;; *) return 0 ;; esac
			"${@:2}" >/tmp/said 2>&1 || { cat /tmp/said; exit 1; }
			echo "test_$1 $((${EPOCHREALTIME/./} - from))000"
		}
		rm -f c/*.o c/prog
		timed find find . -xdev -type f -size +100k
		timed git git -C repo status --porcelain
		timed build make -s -C c
		[ ! -e c/prog ] || c/prog >/dev/null || exit
		echo done
	END
	# The same here, so that all it reads is in the page cache.
	echo "$test_work" >"$work/tree/work"
	bash "$work/tree/job" >/dev/null
}

# The archive that wisp test makes in memory, as a file.
test_archive() {
	local root=$work/archive m modules=()
	rm -rf "$root"
	mkdir -p "$root/m" "$root/dev"
	for m in $(modprobe -S "$(cat "$guests/release")" -d "$guests" -a --show-depends \
		virtio_mmio virtio_console virtiofs overlay | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
		cp "$m" "$root/m/"
		modules+=("module=/m/${m##*/}")
	done
	cp "$BUILD/wisp-init" "$root/init"
	printf '%s\0' root=overlay tty=0 systemd=0 "${modules[@]}" cwd=/ uid=0 gid=0 loglevel=5 \
		"share=work:rw:$work/tree" arg=bash "arg=$work/tree/job" "env=PATH=$PATH" >"$root/wisp.conf"
	(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$work/archive.cpio"
}

# What QEMU and its file servers are started by, together.
test_qemu_script() {
	cat <<-END
		serve() {
			rm -f $work/\$1.sock
			$virtiofsd --socket-path=$work/\$1.sock --thread-pool-size=${BENCH_TEST_POOL:-0} \\
				-o source=\$2 -o sandbox=chroot -o cache=\$3 >/dev/null 2>&1 &
			while [ ! -S $work/\$1.sock ]; do sleep 0.01; done
		}
		serve root $test_root always
		serve work $work/tree auto
		exec qemu-system-x86_64 -M microvm,acpi=on,rtc=on,pit=off,pic=off,ioapic2=off,isa-serial=off,x-option-roms=off \\
			-accel kvm,kernel-irqchip=on -cpu host -m $test_memory -nodefaults -no-user-config -display none -no-reboot \\
			-global virtio-mmio.force-legacy=false \\
			-object memory-backend-memfd,id=ram,size=${test_memory}M,share=on -machine memory-backend=ram \\
			-kernel $guests/vmlinux -initrd $work/archive.cpio \\
			-append "quiet panic=-1 8250.nr_uarts=0 cryptomgr.notests pci=off rdinit=/init" \\
			-chardev socket,id=root,path=$work/root.sock -device vhost-user-fs-device,chardev=root,tag=rootfs \\
			-chardev socket,id=work,path=$work/work.sock -device vhost-user-fs-device,chardev=work,tag=work \\
			-chardev file,id=in,path=/dev/null -chardev file,id=out,path=/dev/stdout \\
			-chardev file,id=err,path=$work/said -chardev file,id=status,path=$work/status \\
			-device virtio-serial-device -device virtserialport,chardev=in,name=wisp.stdin \\
			-device virtserialport,chardev=out,name=wisp.stdout -device virtserialport,chardev=err,name=wisp.stderr \\
			-device virtserialport,chardev=status,name=wisp.status
	END
}

one_test() {
	local cpu first status wisp=("$BUILD/wisp" test --root "$test_root" --cwd / --share "$work/tree:work,xattr=off")
	case $1 in
	wisp-pci) cmd=("${wisp[@]}" -- bash "$work/tree/job") ;;
	wisp-warm) cmd=("${wisp[@]}" --warm -- bash "$work/tree/job") ;;
	qemu-microvm) cmd=(sh "$work/qemu.sh") ;;
	esac
	"$test_spend" -b -t 240 -- "${cmd[@]}" 3>"$work/spent" </dev/null >"$work/out" 2>"$work/err"
	read -r cpu first status <"$work/spent"
	if [ "$(tail -n 1 "$work/out")" != "done" ]; then
		echo "status $status" | cat "$work/out" "$work/said" "$work/status" - >>"$work/err" 2>/dev/null
		return 1
	fi
	echo "test_first $first"
	grep ^test_ "$work/out"
	echo "test_cpu $cpu"
}

tests() {
	local peer round found=()
	export XDG_CACHE_HOME=$work XDG_RUNTIME_DIR=$work
	cd "$work" || return
	test_system
	test_tree
	for peer in $test_peers; do
		case $peer in
		qemu-*)
			if ! peer_exists "$peer" || [ ! -x $virtiofsd ]; then continue; fi
			test_archive
			test_qemu_script >"$work/qemu.sh"
			;;
		esac
		found+=("$peer")
	done
	# In turns, so that what else this machine does meets all of them. First one for nothing, without
	# the work: what starts them gets into the page cache, and the warm start is made.
	echo >"$work/tree/work"
	for ((round = 0; round <= max_runs; round++)); do
		[ $round = 0 ] || echo "$test_work" >"$work/tree/work"
		for peer in "${found[@]}"; do
			say "$peer: a command in a machine of its own, round $round"
			if ! one_test "$peer" >"$work/lines"; then
				say "$peer: it failed"
				tail -n 5 "$work/err" >&2 || true
				failed=1
				continue
			fi
			say "$peer: $(tr '\n' ' ' <"$work/lines")"
			if [ $round -gt 0 ]; then
				sed "s/ /\t$peer\t/" "$work/lines" >>"$out/$part.raw"
			fi
		done
	done
}
