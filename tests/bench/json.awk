# The scorecard as JSON.
function number(x) { return sprintf(x == int(x) ? "%.0f" : "%.3f", x) }
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
			printf "%s%s:{\"value\":%s,\"low\":%s,\"high\":%s,\"runs\":%d,\"agreed\":%s}", sep,
				text(peer[j]), number(value[k]), number(low[k]), number(high[k]), runs[k], agreed[k] ? "true" : "false"
			sep = ","
		}
		printf "}}"
	}
	print "\n]}"
}
