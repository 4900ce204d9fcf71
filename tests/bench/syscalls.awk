# Count the system calls in the output of "strace -f" up to the first KVM_RUN.
#
#   awk -f syscalls.awk FILE                  prints: all processes, those of the process that runs the guest
#   awk -v list=1 -f syscalls.awk FILE        lists them by process and name
#
# The exec counts, KVM_RUN does not. Threads belong to the process that made them; a process
# begins with its first call after the fork. What was begun and not yet done counts.
{ pid = $1 }
$2 == "+++" || $2 == "---" || $2 == "strace:" { next }
$2 == "<..." {
	# The number of the new thread, where clone() was interrupted in the listing.
	if ($3 ~ /^clone/ && thread_maker[pid]) note_thread(pid)
	next
}
/KVM_RUN/ { runner = pid; exit }
{
	name = $2
	sub(/\(.*/, "", name)
	calls[pid]++
	by_name[pid, name]++
	if (!(pid in seen)) { seen[pid] = 1; order[++n] = pid }
	if (name ~ /^clone/) {
		thread_maker[pid] = /CLONE_THREAD/
		if (thread_maker[pid] && $0 !~ /<unfinished/) note_thread(pid)
	}
}
function note_thread(maker) {
	if (match($0, /= [0-9]+$/)) of[substr($0, RSTART + 2)] = maker
}
function process(p) { while (p in of) p = of[p]; return p }
END {
	if (runner == "") { print "0 0"; exit }
	for (p in calls) {
		all += calls[p]
		if (process(p) == process(runner)) own += calls[p]
	}
	if (!list) { print all, own; exit }
	for (i = 1; i <= n; i++) {
		p = order[i]
		printf "%s%s: %d\n", process(p) == process(runner) ? "monitor " : "", p, calls[p]
		for (k in by_name) {
			split(k, a, SUBSEP)
			if (a[1] == p) printf "  %5d %s\n", by_name[k], a[2]
		}
	}
}
