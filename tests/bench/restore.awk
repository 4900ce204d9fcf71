# What the host's tracer saw of a command and its children, from its exec to the first entry of a guest,
# or, where those were not traced, to the end of the trace.
#
#   awk -v what=instr|calls|faults -f restore.awk TRACE
#
# instr: processor time of all of them in nanoseconds, which are instructions where the host counts
# those; one CPU. calls: system calls, the exec among them, KVM_RUN not. faults: page faults.
function at() { match($0, /[0-9]+\.[0-9]+: /); return substr($0, RSTART) + 0 }
function number(name) { match($0, name "=[0-9]+"); return substr($0, RSTART + length(name) + 1) + 0 }
/sys_enter: NR 59 / && !began {
	# "COMMAND-PID [CPU] ...", and a command may have blanks.
	match($0, /-[0-9]+ +\[/)
	ours[substr($0, RSTART + 1) + 0] = 1
	began = running = 1
	since = at()
}
!began { next }
{ last = at() }
/kvm_entry: / {
	spent += at() - since
	ended = 1
	exit
}
/sched_process_fork: / { ours[number("child_pid")] = 1 }
/sched_switch: / {
	if (running) spent += at() - since
	running = number("next_pid") in ours
	since = at()
}
/sys_enter: / && !/ NR 16 \([0-9a-f]+, ae80,/ { calls++ }
/page_fault_/ { faults++ }
END {
	if (!began) exit 1
	if (!ended && running) spent += last - since
	printf "%.0f\n", what == "instr" ? spent * 1e9 : what == "calls" ? calls : faults
}
