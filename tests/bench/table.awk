# The scorecard as text. "~" marks a median of runs that do not agree, by more than 0.1%.
function cell(r, p,    k, s, base) {
	k = r SUBSEP p
	if (!(k in value)) return "-"
	s = grouped(value[k])
	if (!agreed[k] && high[k] - low[k] > value[k] / 1000) s = "~" s
	base = r SUBSEP (r ~ /^(instr|test)_/ ? "qemu-microvm" : "qemu-q35")
	if (r ~ /^(instr|test|net)_|_iops$/ && value[base] > 0) s = s sprintf(" (%.2f)", value[k] / value[base])
	return s
}
END {
	for (i = 1; i <= num_meta; i++) printf "%s: %s\n", meta_name[i], meta[meta_name[i]]
	printf "\n%-24s %-6s %-6s", "", "unit", "goal"
	for (j = 1; j <= num_peers; j++) printf " %21s", peer[j]
	print ""
	for (i = 1; i <= num_rows; i++) {
		r = row[i]
		any = 0
		for (j = 1; j <= num_peers; j++) any += (r SUBSEP peer[j]) in value
		if (!any) continue
		printf "%-24s %-6s %-6s", r, unit[r], goal[r]
		for (j = 1; j <= num_peers; j++) printf " %21s", cell(r, peer[j])
		print ""
	}
	print ""
	for (i = 1; i <= num_rows; i++) printf "%-24s %s\n", row[i], title[row[i]]
	print "\n(0.00) after instructions and times: the ratio to qemu-microvm, after rates to qemu-q35; ~ median of runs that differ."
}
