# The scorecard as bars: one group a row, one bar a peer, each group to its own linear scale.
function text(s) { gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); return s }
function colour(p) {
	if (p ~ /^wisp/) return p ~ /mmio/ ? "#d9480f" : "#f08c00"
	return p ~ /microvm/ ? "#1864ab" : p ~ /q35/ ? "#74c0fc" : "#868e96"
}
END {
	left = 130; width = 560; bar = 13; y = 30
	for (i = 1; i <= num_rows; i++) {
		r = row[i]; top = 0; n = 0
		for (j = 1; j <= num_peers; j++) {
			k = r SUBSEP peer[j]
			if (!(k in value)) continue
			n++
			if (value[k] > top) top = value[k]
		}
		if (n < 2 || top == 0) continue
		body = body sprintf("<text x=\"10\" y=\"%d\" class=\"t\">%s (%s)</text>\n", y, text(title[r]), unit[r])
		y += 8
		for (j = 1; j <= num_peers; j++) {
			k = r SUBSEP peer[j]
			if (!(k in value)) continue
			w = value[k] / top * width
			if (w < 1) w = 1
			body = body sprintf("<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", left - 6, y + bar - 3, peer[j])
			body = body sprintf("<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", left, y, w, bar - 2, colour(peer[j]))
			body = body sprintf("<text x=\"%.1f\" y=\"%d\">%s</text>\n", left + w + 5, y + bar - 3, grouped(value[k]))
			y += bar
		}
		y += 24
	}
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"11\">\n", left + width + 130, y
	print "<style>.t{font-weight:bold}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
	printf "%s</svg>\n", body
}
