# The scorecard as JSON.
function text(s) { gsub(/[\\"]/, "\\\\&", s); return "\"" s "\"" }
END {
	printf "{\"machine\":{"
	for (i = 1; i <= num_meta; i++)
		printf "%s%s:%s", (i > 1 ? "," : ""), text(meta_name[i]), text(meta[meta_name[i]])
	printf "},\n\"rows\":[\n"
	for (i = 1; i <= num_rows; i++) {
		r = row[i]
		printf "%s{\"row\":%s,\"unit\":%s,\"goal\":%s,\"what\":%s,\"peers\":{", (i > 1 ? ",\n" : ""),
			text(r), text(unit[r]), text(goal[r]), text(title[r])
		sep = ""
		for (j = 1; j <= num_peers; j++) {
			k = r SUBSEP peer[j]
			if (!(k in value)) continue
			printf "%s%s:{\"value\":%.0f,\"low\":%.0f,\"high\":%.0f,\"runs\":%d,\"agreed\":%s}", sep,
				text(peer[j]), value[k], low[k], high[k], runs[k], agreed[k] ? "true" : "false"
			sep = ","
		}
		printf "}}"
	}
	print "\n]}"
}
