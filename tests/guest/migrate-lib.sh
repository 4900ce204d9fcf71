# migrate-lib.sh - what the tests of migrations share: guests that say each round, two monitors, a
# relay between them that does harm. Sourced behind lib.sh by migrate and migrate-disks.

relay=$BUILD/tests/guest/relay
# To end what hangs; a guest of many rounds takes minutes on a machine that does other things too.
limit=$((4 * TEST_LIMIT))
# Several of us may be at work on this machine.
port=$((10000 + $$ % 20000))
there=() with=()
tests=0
suite=$OUT/${0##*/}
rm -rf "$suite"

# As t(), in a directory, among microVMs and with processes of its own: what one test leaves when it
# fails is no other's trouble.
m() {
	local name=$1
	shift
	tests=$((tests + 1))
	t "$name" alone "$suite/$tests" "$@"
}

alone() {
	here=$1
	shift
	mkdir -p "$here/run"
	chmod 700 "$here/run"
	XDG_RUNTIME_DIR=$(realpath "$here/run")
	export XDG_RUNTIME_DIR
	journals=$XDG_RUNTIME_DIR/wisp/.migrations
	trap end_all EXIT
	"$@"
}

end_all() {
	local rc=$? pid id
	[ -z "${tap-}" ] || ip link del "$tap"
	for id in "$XDG_RUNTIME_DIR"/wisp/*; do
		[ ! -d "$id" ] || "$WISP" kill "${id##*/}"
	done
	for pid in $(jobs -p); do
		kill "$pid" 2>/dev/null
	done
	[ $rc != 0 ] || rm -rf "$here"
	exit $rc
}

# Before the reason, for that is to be found at the end.
fail() {
	local f
	for f in "$here"/*.err "$here"/*.out "$journals"/*; do
		[ ! -s "$f" ] || sed "s|^|${f##*/}: |" "$f" | tail -4
	done
	echo "FAILED: $*"
	exit 1
}

# Each is a way to move: how it is called, where to, options for who receives, for who sends. PATH, HOST:PORT
# and TLS are to be replaced.
ways=(
	# After a hand-off it is shared, which cannot come late.
	"unix, private|unix:PATH|--memory-backend anon|"
	"tcp|tcp:HOST:PORT|--trust-source|"
	"tls|tcp:HOST:PORT|--tls TLS|--tls TLS"
	"unix, 8 streams|unix:PATH||--streams 8"
	"tcp, 4 streams, compressed|tcp:HOST:PORT|--trust-source|--streams 4 --zstd 1"
	"tls, 3 streams|tcp:HOST:PORT|--tls TLS|--tls TLS --streams 3"
	"unix, post-copy|unix:PATH||--postcopy on"
	"tcp, 8 streams, post-copy|tcp:HOST:PORT|--trust-source|--streams 8 --postcopy on"
	"tls, 8 streams|tcp:HOST:PORT|--tls TLS|--tls TLS --streams 8"
	"tls, post-copy|tcp:HOST:PORT|--tls TLS|--tls TLS --postcopy on"
	"hand-off|unix:PATH||--hand-off"
	"hand-off of what is shared|unix:PATH||--hand-off"
)

# Types of records, as relay wants them.
pages=2 round=4 state=5 commit=6 ready=7 prepared=9 running=10 disk=12 missing=16 sent=18

# Start the guest as $1 with options $2..., and wait until it is some rounds on. Unless it has $rounds to
# do it goes on until it is told by its disk that it was enough(): nothing here depends on how long anything takes.
begin() {
	local name=$1
	shift
	[ -e "$here/$name.img" ] || head -c 1M /dev/zero >"$here/$name.img"
	fresh "$here/$name.txt"
	timeout "$limit" "$WISP" run --name "$name" --net "${network:-none}" --serial "${serial:-stdio}" \
		--kernel "$GUESTS/bare/saved.elf" --disk "$here/$name.img${disk_options-}" \
		--cmdline "rounds=${rounds:-0} ticks=${ticks:-40000000} ring=${ring:-split} pages=${guest_pages:-64} ${guest_disk-}" "$@" \
		>"$here/$name.txt" 2>"$here/$name.err" &
	source=$!
	await_round "$name" 3
}

has_come_to() {
	local last
	last=$(sed -n 's/^# round //p' "$here/$1.txt" | tail -1)
	[ "${last:-0}" -ge "$2" ]
}

await_round() { await "'$1' comes to round $2" has_come_to "$1" "$2"; }
await_file() { await "there is '$1'" test -e "$1"; }
await_listener() { await "somebody listens at $1" listens "$1"; }

# The guest, which says so in $1.txt, goes on.
goes_on() {
	local last
	last=$(sed -n 's/^# round //p' "$here/$1.txt" | tail -1)
	await_round "$1" $((${last:-0} + 3))
}

# It was enough for the guest whose disk is $1.img.
enough() { printf x | dd of="$here/$1.img" bs=512 seek=8 conv=notrunc status=none; }

# Between $here/sock, the source's, and $here/sock2, the destination's, to do harm $1 at a record of
# type $2, of connection $3 (the first); with A/B at one of type A when one of type B has passed.
harm() {
	# One that was there before would look like somebody who listens.
	rm -f "$here/sock" "$here/mark"
	"$relay" "$here/sock" "$here/sock2" "$1" "$2" "$here/mark" "${3:-0}" 2>>"$here/relay.err" &
	relay_pid=$!
	await_listener "unix:$here/sock"
}

# Wait at $2 for the guest, to be called $1.
receive() {
	local name=$1 from=$2
	shift 2
	rm -f "$here/sock" "$here/sock2"
	fresh "$here/$name.txt"
	timeout "$limit" "$WISP" receive "$from" --name "$name" "$@" \
		>"$here/$name.txt" 2>"$here/$name.err" </dev/null &
	destination=$!
	case $from in
	unix:* | tcp:*) await_listener "$from" ;;
	esac
}

# Certificates in $here/tls: of an authority, in good for $certificate_names (127.0.0.1), in bad by
# another authority.
make_certificates() {
	local who
	mkdir -p "$here/tls/good" "$here/tls/bad"
	for who in good bad; do
		(
			cd "$here/tls/$who" || exit
			openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
				-subj "/CN=$who authority" -keyout ca.key -out ca.pem
			openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
				-subj "/CN=$who host" -keyout key.pem -out host.csr
			openssl x509 -req -in host.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
				-extfile <(echo "subjectAltName=${certificate_names:-IP:127.0.0.1}") -out cert.pem
		) >"$here/tls/log" 2>&1 || fail "$(cat "$here/tls/log")"
	done
}

# The texts $@ in a row are one run that ended well, with no round left out or there twice.
check_rounds() {
	local rounds
	(cd "$here" && tail -n 3 "$@")
	rounds=$(sed -n 's/^ok 2 - \([0-9]*\) rounds.*/\1/p' "$here/${*: -1}")
	[ -n "$rounds" ] || fail "it did not come to its end"
	# What the one began to say may be said to its end by the other.
	(cd "$here" && cat "$@") | sed -n 's/^# round //p' | cmp - <(seq 0 $((rounds - 1))) ||
		fail "a round is missing or there twice"
	(cd "$here" && ! grep '^not ok' "$@") || fail "a check of the guest's failed"
}

is_empty() { [ -z "$(ls "$1")" ]; }

# Run $@, which is to succeed; what it prints is left in $here/report.
reports() {
	"$@" >"$here/report" || fail "status $?: $*"
	cat "$here/report"
}

# All that were there have ended; a detached one may be about to.
nothing_left() {
	await "no microVM is left" is_empty "$XDG_RUNTIME_DIR/wisp"
	await "no journal is left" is_empty "$journals"
}

ends() {
	local want=$1 got=0
	wait "$2" || got=$?
	[ $got = "$want" ] || fail "$3 ended with $got, not $want: $(cat "$here/$3.err")"
}

# The destination $1, which was to run nothing, has ended by itself, and has not.
ran_nothing() {
	local got=0
	wait "$destination" || got=$?
	case $got in 0 | 124) fail "the destination '$1' ended with $got" ;; esac
	[ ! -s "$here/$1.txt" ] || fail "it ran there"
}

# The monitor of the microVM $1, whose parent is $2.
monitor() {
	pgrep -P "$(pgrep -P "$2" -x wisp)" -x wisp
}
