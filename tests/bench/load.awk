# Read the rows, then the raw lines "row peer value" of all runs. For each row and peer: value (what
# three runs agree on, else the median), lowest, highest, number of runs. Others build on it:
#
#   awk -f load.awk -f table.awk|json.awk|svg.awk rows meta *.raw
#
# "meta" holds lines "name value", words about the machine.
function sort_values(n,    i, j, t) {
	for (i = 2; i <= n; i++)
		for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
}
function settle(key,    n, i, run_length, k) {
	n = split(raw[key], v, " ")
	for (i = 1; i <= n; i++) v[i] += 0
	sort_values(n)
	value[key] = v[int((n + 1) / 2)]
	run_length = 1
	agreed[key] = n == 1
	for (i = 2; i <= n; i++) {
		run_length = v[i] == v[i - 1] ? run_length + 1 : 1
		if (run_length >= 3) { value[key] = v[i]; agreed[key] = 1 }
	}
	low[key] = v[1]; high[key] = v[n]; runs[key] = n
}
# What an operation takes may be a part of one.
function grouped(x,    s, out) {
	if (x < 100 && x != int(x)) return sprintf("%.3f", x)
	s = sprintf("%.0f", x)
	while (length(s) > 3) { out = "," substr(s, length(s) - 2) out; s = substr(s, 1, length(s) - 3) }
	return s out
}
FILENAME ~ /rows$/ {
	if (/^#/ || !NF) next
	split($0, f, "|")
	row[++num_rows] = f[1]; unit[f[1]] = f[2]; goal[f[1]] = f[3]; title[f[1]] = f[4]
	next
}
FILENAME ~ /meta$/ { name = $1; sub(/^[^ ]+ /, ""); meta_name[++num_meta] = name; meta[name] = $0; next }
{
	if (!($2 in known)) { known[$2] = 1; peer[++num_peers] = $2 }
	raw[$1, $2] = raw[$1, $2] " " $3
}
END { for (k in raw) settle(k) }
