# shellcheck shell=bash disable=SC2034,SC2154
# What it takes from exec until a saved guest executes its next instruction. Sourced by
# tests/bench/run.
#
# Each peer boots a guest to its shell, with a disk, a console and an entropy device, saves it once,
# and brings it back from there several times: wisp by "wisp restore" of a snapshot, with all
# defaults; QEMU by -incoming from the file into which "migrate" wrote, opened for it.
#
# The host's tracer follows the command and its children. Nothing needs to end at the right moment:
# what counts is what the trace holds between the exec and the first entry of a guest, and that
# between the exec and what the guest answers when it is spoken to at its console.

restore_sizes=${BENCH_RESTORE_SIZES:-128 1024 4096}
# Of this one all that is wanted is whether a guest has been entered: an instance of the tracer's.
entered=/sys/kernel/tracing/instances/wisp-entered

restore_events_off() {
	local e
	echo 0 >"$tracing/tracing_on"
	for e in sched/sched_switch sched/sched_process_fork raw_syscalls/sys_enter exceptions kvm/kvm_entry; do
		echo 0 >"$tracing/events/$e/enable"
	done
	echo 0 >"$tracing/events/raw_syscalls/sys_enter/filter"
	echo "!traceoff" >"$tracing/events/kvm/kvm_entry/trigger" 2>/dev/null || true
	echo >"$tracing/set_event_pid"
	echo 0 >"$tracing/options/event-fork"
	echo local >"$tracing/trace_clock"
}

# Ask the guest that has just been entered, and wait for its answer at descriptor 7.
restore_ask() {
	local line
	# Blocks until there is an event: to look again and again is work too, in a host that counts
	# instructions.
	read -r -t 200 line <"$entered/trace_pipe" || return 1
	echo 0 >"$entered/events/kvm/kvm_entry/enable"
	echo 'echo answer $((6 * 7))' >&8
	while read -r -t 200 line <&7; do
		case $line in "answer 42"*) return 0 ;; esac
	done
	return 1
}

# restore_trace UNTIL FILE EVENT...: run cmd until it has entered its guest ("entry"), or that has
# answered ("answer"), and end it; the trace is in FILE.
restore_trace() {
	local until=$1 file=$2 e p pid i rc=0
	shift 2
	restore_events_off
	echo >"$tracing/trace"
	echo 16384 >"$tracing/buffer_size_kb"
	echo 1 >"$tracing/options/event-fork"
	echo mono >"$tracing/trace_clock"
	for e in "$@"; do echo 1 >"$tracing/events/$e/enable"; done
	: >"$work/out"
	if [ "$until" = entry ]; then
		# Its last event, and how we learn of it. Conditional triggers come after the event is written.
		echo "traceoff if vcpu_id >= 0" >"$tracing/events/kvm/kvm_entry/trigger"
		echo 1 >"$tracing/events/kvm/kvm_entry/enable"
		exec 7>>"$work/out"
	else
		mkdir -p "$entered"
		echo >"$entered/trace"
		echo 1 >"$entered/events/kvm/kvm_entry/enable"
		rm -f "$work/answers"
		mkfifo "$work/answers"
		exec 7<>"$work/answers"
	fi
	# With system calls not asked for, the exec alone.
	case " $* " in
	*" raw_syscalls/sys_enter "*) ;;
	*)
		echo "id == 59" >"$tracing/events/raw_syscalls/sys_enter/filter"
		echo 1 >"$tracing/events/raw_syscalls/sys_enter/enable"
		;;
	esac
	(
		exec 8>&-
		echo "$BASHPID" >"$tracing/set_event_pid"
		echo 1 >"$tracing/tracing_on"
		exec "${cmd[@]}" <"$work/in" >&7 2>"$work/err" 7>&-
	) &
	pid=$!
	if [ "$until" = answer ]; then
		restore_ask || rc=1
	else
		for ((i = 0; i < 200; i++)); do
			sleep 1
			if [ "$(cat "$tracing/tracing_on")" = 0 ] || ! kill -0 $pid 2>/dev/null; then break; fi
		done
	fi
	echo 0 >"$tracing/tracing_on"
	exec 7>&-
	for p in $(descendants $pid); do kill -KILL "$p" 2>/dev/null || true; done
	wait $pid 2>/dev/null || true
	grep -v '^#' "$tracing/trace" >"$file" || true
	restore_events_off
	[ "$until" = answer ] || grep -q kvm_entry: "$file" || rc=1
	return $rc
}

# restore_save PEER: boot the peer's guest and save it: a snapshot in $work/saved, or QEMU's stream.
restore_save() {
	local pid i rc=0
	extra="--run-dir $work/runs --name bench"
	rm -rf "$work/saved" "$work"/monitor.*
	guest=shell devices=" disk console rng " command_for "$1"
	case $1 in
	qemu-*)
		mkfifo "$work/monitor.in" "$work/monitor.out"
		cmd+=(-monitor "pipe:$work/monitor")
		;;
	esac
	: >"$work/out"
	setsid "${cmd[@]}" <"$work/in" >"$work/out" 2>"$work/err" 8>&- &
	pid=$!
	for ((i = 0; i < 200; i++)); do
		if grep -q "wisp guest:" "$work/out" || ! kill -0 $pid 2>/dev/null; then break; fi
		sleep 1
	done
	if ! grep -q "wisp guest:" "$work/out"; then
		say "$1: no guest at its shell"
		rc=1
	fi
	sleep 3
	if [ $rc = 0 ]; then
		case $1 in
		wisp-*) "$BUILD/wisp" snapshot --run-dir "$work/runs" bench "$work/saved" --stop >&2 || rc=1 ;;
		qemu-*)
			cat "$work/monitor.out" >"$work/said" &
			printf 'migrate "exec:cat >%s"\nquit\n' "$work/saved" >"$work/monitor.in"
			;;
		esac
	fi
	for ((i = 0; i < 200 && !rc; i++)); do
		kill -0 $pid 2>/dev/null || break
		sleep 1
	done
	kill -KILL -- -$pid 2>/dev/null || true
	wait $pid 2>/dev/null || true
	[ -s "$work/saved" ] || rc=1
	return $rc
}

# The command that brings it back; QEMU finds its stream at descriptor 9.
restore_again() {
	case $1 in
	wisp-*) cmd=("$BUILD/wisp" restore "$work/saved" --run-dir "$work/runs" --name again) ;;
	qemu-*)
		command_for "$1"
		cmd+=(-incoming fd:9)
		exec 9<"$work/saved"
		;;
	esac
}

restore_once() {
	guest=shell devices=" disk console rng "
	restore_again "$1"
	restore_trace entry "$work/trace" sched/sched_switch sched/sched_process_fork || return 1
	echo "instr_restore_$memory_mib $(restore_sum instr)"
	restore_again "$1"
	restore_trace entry "$work/trace" raw_syscalls/sys_enter exceptions || return 1
	echo "restore_calls_$memory_mib $(restore_sum calls)"
	echo "restore_faults_$memory_mib $(restore_sum faults)"
	grep -v page_fault "$work/trace" >"$out/restore-$1-$memory_mib.txt"
	restore_again "$1"
	restore_trace answer "$work/trace" sched/sched_switch sched/sched_process_fork || return 1
	echo "instr_answer_$memory_mib $(restore_sum instr)"
	restore_again "$1"
	restore_trace answer "$work/trace" raw_syscalls/sys_enter exceptions || return 1
	echo "answer_calls_$memory_mib $(restore_sum calls)"
	echo "answer_faults_$memory_mib $(restore_sum faults)"
}

restore_sum() { awk -v what="$1" -f "$here/restore.awk" "$work/trace"; }

restore() {
	local peer memory_mib
	[ -w "$tracing/set_event_pid" ] || { say "restore: needs root, for tracepoints"; return 0; }
	kernel=$guests/vmlinuz
	extra=
	mkfifo "$work/in"
	exec 8<>"$work/in"
	for memory_mib in $restore_sizes; do
		for peer in $peers; do
			case $peer in wisp-* | qemu-*) ;; *) continue ;; esac
			peer_exists "$peer" || continue
			say "$peer: restore of $memory_mib MiB"
			if ! restore_save "$peer"; then
				say "$peer: not saved"
				tail -n 5 "$work/err" "$work/out" >&2 || true
				continue
			fi
			restore_once "$peer" >/dev/null || true # warm
			repeat restore_once "$peer" "restore_calls_$memory_mib"
		done
	done
	exec 8>&-
	echo 1 >"$tracing/tracing_on"
}
