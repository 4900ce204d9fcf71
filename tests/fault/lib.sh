# lib.sh - what the fault tests share: orders to build/wisp-faults (faults.c), and what may come of
# them. Sourced after tests/guest/lib.sh.

out=$(mktemp -d "$OUT/fault.XXXXXX")
orders=$out/orders
head -c 128 /dev/zero >"$orders"
edition=0
failed=0 refused=0 unharmed=0 bad=0

# From now on call number $3 of kind $1 fails with errno $2; steps are counted from one called $4 on.
order() {
	edition=$((edition % 255 + 1))
	# Of the last one.
	head -c 128 /dev/zero 1<>"$orders"
	{
		printf '%-64s\0' "$1 $2 $3 ${4-}"
		# shellcheck disable=SC2059
		printf "\\x$(printf %x $edition)\0\0\0\0\0\0"
	} 1<>"$orders"
}

# Nothing fails any more. Status 1 when nothing did.
no_more_orders() {
	local was
	was=$(head -c 65 "$orders" | tail -c 1 | tr '\0' -)
	head -c 72 /dev/zero 1<>"$orders"
	[ "$was" = I ]
}

# The lines $1 of a person's, said at the end with status $2, are an error in words.
in_words() {
	case $1 in
	*"killed by signal"* | *"sanitizer"*) return 1 ;;
	esac
	case $2:$1 in
	# What a payload finds and says is one too; 126 is the host's refusal.
	[1-5]:*wisp:* | 1:*"not ok"* | 12[456]:*wisp:*) return 0 ;;
	esac
	return 1
}

# Let the n-th call of each kind of $1 (KIND:ERRNO...) fail, one in each call of the function
# $3 KIND ERRNO N, until there is no n-th one. The first $2 of each are tried, then fewer and
# fewer: the first are set-up of each its own, later ones are alike.
each_fault() {
	local fault kind step n
	for fault in $1; do
		kind=${fault%:*}
		step=1 n=1
		while "$3" "$kind" "${fault#*:}" "$n"; do
			[ $((n / step)) -lt "$2" ] || step=$((step * 3))
			n=$((n + step))
		done
	done
}

# It went badly: $1 is what was done, the rest what was said of it.
badly() {
	bad=$((bad + 1))
	echo "$1"
	shift
	printf '%s\n' "$@" | tail -n 6 | sed 's/^/    /'
}

totals() {
	echo "$1: $failed injected: $unharmed made no difference, $refused ended in an error," \
		"$bad badly"
	[ $bad = 0 ] && [ $failed -gt 10 ]
}
