# Own memory of the processes of one microVM, from their smaps files, in KiB.
#
#   awk -f memory.awk SLOTS /proc/PID/smaps...
#
# SLOTS holds a line "ADDRESS SIZE" (hexadecimal) for each memory slot that KVM was given: what lies
# there is the guest's memory, and left out. Prints: private (clean and dirty); anonymous (in
# proportion, so that pages which parent and child share after a fork count once); anonymous
# memory of the guest; and how much of mappings that hold guest memory lies beside it, and was
# left out with it since smaps does not part it.
function hex(s,    i, x) {
	sub(/^0x/, "", s)
	for (i = 1; i <= length(s); i++) x = x * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1
	return x + 0
}
FILENAME == ARGV[1] { slot[++slots] = hex($1); slot_end[slots] = slot[slots] + hex($2); next }
/^[0-9a-f]+-[0-9a-f]+ / {
	end_mapping()
	split($1, range, "-")
	first = hex(range[1]); last = hex(range[2])
	file = $5 != 0 && $6 !~ /memfd/
	next
}
$1 == "Rss:" { rss = $2 }
$1 == "Pss:" { pss = $2 }
$1 == "Private_Clean:" || $1 == "Private_Dirty:" { private_here += $2 }
$1 == "Anonymous:" { anon = $2 }
function end_mapping(    i, covered, a, b) {
	for (i = 1; i <= slots; i++) {
		a = slot[i] > first ? slot[i] : first
		b = slot_end[i] < last ? slot_end[i] : last
		if (b > a) { covered = (last - first) - (b - a); if (least == "" || covered < least) least = covered }
	}
	if (least != "") {
		guest += file ? anon : rss
		if (rss > 0) beside += least / 1024
	} else {
		private += private_here
		# A mapping of a file holds clean pages of the file too: only what was written is ours.
		if (rss > 0) anonymous += pss * anon / rss
	}
	rss = pss = anon = private_here = 0
	first = last = 0
	least = ""
}
END {
	end_mapping()
	printf "%d %d %d %d\n", private, anonymous, guest, beside
}
