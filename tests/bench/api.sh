# shellcheck shell=bash disable=SC2154
# What `wisp api` costs beside `wisp run`, in system calls. Sourced by tests/bench/run.
#
# A bare-metal guest that halts, with a disk, 128 MiB and a serial port: nothing of it depends on
# what runs in it, so any /dev/kvm will do. strace follows the server and all that it starts.

api_put() { # PATH BODY
	curl -sS -f -m 60 --unix-socket "$work/api.sock" -X PUT -d "$2" "http://localhost$1" >>"$work/out" 2>>"$work/err"
}

# Until the command holds, for a minute.
api_await() {
	local i
	for ((i = 0; i < 600; i++)); do
		! "$@" >>"$work/out" 2>>"$work/err" || return 0
		sleep 0.1
	done
	return 1
}

# Listening, answering, and from the request that starts it to the guest's first instruction.
api_server() {
	local pid trace=$work/strace rc=0
	rm -f "$trace" "$work/api.sock"
	setsid strace -f -qq -s 300 -o "$trace" "$BUILD/wisp" api --api-sock "$work/api.sock" \
		</dev/null >"$work/out" 2>"$work/err" &
	pid=$!
	{
		api_await curl -sS -m 60 --unix-socket "$work/api.sock" http://localhost/version &&
			api_put /boot-source "{\"kernel_image_path\":\"$kernel\",\"boot_args\":\"end=halt\"}" &&
			api_put /machine-config '{"vcpu_count":1,"mem_size_mib":128}' &&
			api_put /drives/root "{\"drive_id\":\"root\",\"path_on_host\":\"$disk\",\"is_root_device\":true}" &&
			api_put /actions '{"action_type":"InstanceStart"}' &&
			api_await grep -q KVM_RUN "$trace"
	} || rc=1
	kill -KILL -- -$pid 2>/dev/null || true
	wait $pid 2>/dev/null || true
	cp "$trace" "$out/strace-api.txt"
	[ $rc = 0 ] || return 1
	# A client's own calls are not among them; what was begun and is not done counts once.
	awk '$2 == "+++" || $2 == "---" || $2 == "<..." { next }
		{ n++ }
		/listen\(/ && !listening { listening = n }
		/HTTP\/1.1 200/ && !answered { answered = n }
		/InstanceStart/ && !begun { begun = n }
		/KVM_RUN/ {
			print "api_listen " listening "\napi_answer " answered "\napi_start " n - 1 - begun
			exit
		}' "$trace"
}

api_run() {
	local trace=$work/strace
	timeout 60 strace -f -qq -o "$trace" "$BUILD/wisp" run --net none --transport mmio --serial stdio \
		--console none --kernel "$kernel" --cmdline-only end=halt --memory 128M --rng off \
		--disk "$disk,format=raw" --timeout 3 </dev/null >"$work/out" 2>"$work/err" || [ $? = 124 ]
	cp "$trace" "$out/strace-api-run.txt"
	awk -f "$here/syscalls.awk" "$trace" | sed 's/^\([0-9]*\).*/api_run \1/'
}

api() {
	export XDG_RUNTIME_DIR=$work/run
	mkdir -m 700 "$XDG_RUNTIME_DIR"
	guests/bare/build -o "$BUILD/guests/bare" ending
	kernel=$BUILD/guests/bare/ending.elf
	case $kernel in /*) ;; *) kernel=$PWD/$kernel ;; esac
	say "the API's server: to its socket, to its first answer, to the guest's first instruction"
	repeat api_server wisp-mmio "api_listen api_answer api_start"
	say "wisp run, with the same devices"
	repeat api_run wisp-mmio "api_run"
}
