# lib.sh - what the guest tests share. Sourced by bash scripts in this folder.
#
# A test is a function that fails with a reason on its stderr. Each prints one line:
#   ok NAME | not ok NAME | skip NAME # reason
# and leaves what it saw in $OUT/NAME.log. Names that the file $TEST_DONE holds are passed over;
# $TEST_FAILED is said for "not ok" where the runner is going to try it again.

: "${BUILD:=build}"
WISP=$BUILD/wisp
OUT=${TEST_OUT:-$BUILD/test}
GUESTS=$BUILD/guests
mkdir -p "$OUT"
# For what is not to be kept, or needs a short name, as the address of a socket does. It goes when
# the script ends, whatever its tests came to; a script with a trap of its own for that removes it there.
TMPDIR=$(mktemp -d --tmpdir wisp-guest.XXXXXX) || exit
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# Under emulation everything takes longer; a limit is there to end what hangs.
: "${TEST_LIMIT:=150}"
# "for _ in $POLLS" with a tenth of a second's sleep in it waits as long.
POLLS=$(seq $((TEST_LIMIT * 10)))

# Run the function $2 with the arguments after it as the test called $1.
t() {
	local name=$1 log=$OUT/${1//[^A-Za-z0-9._-]/_}.log rc=0
	shift
	if [ -n "${TEST_DONE-}" ] && grep -qxF -- "$name" "$TEST_DONE"; then return; fi
	# In a subshell: a test may "exit", and changes nothing for the next one.
	("$@") >"$log" 2>&1 </dev/null || rc=$?
	case $rc in
	0) echo "ok $name" ;;
	77) echo "skip $name # $(tail -1 "$log")" ;;
	*)
		echo "${TEST_FAILED:-not ok} $name"
		sed 's/^/    /' "$log" | tail -${TEST_TAIL:-25}
		;;
	esac
}

# Inside a test: give up as failed, or as not possible here.
fail() {
	echo "FAILED: $*"
	exit 1
}
skip() {
	echo "$*"
	exit 77
}

# For what is counted or refused on a ring: without io_uring there are threads in its place.
has_uring() { "$WISP" doctor | grep -q 'ok  *io_uring:'; }
needs_uring() { has_uring || skip "no io_uring here"; }

# So many milliseconds.
sleep_ms() { sleep "$(($1 / 1000)).$(printf %03d $(($1 % 1000)))"; }

# wisp, with a limit.
run() {
	timeout -k 5 "$TEST_LIMIT" "$WISP" "$@"
}

# No microVM but those of the script that asks for it is seen from here on: its runtime directory is
# $OUT/$1. Absolute, or it would not count.
own_runtime() {
	XDG_RUNTIME_DIR=$(realpath -m "$OUT/$1")
	export XDG_RUNTIME_DIR
	mkdir -p "$XDG_RUNTIME_DIR"
	chmod 700 "$XDG_RUNTIME_DIR"
}

# Wait until the command $2... succeeds, which is to happen; $1 says what it is.
await() {
	local what=$1 end=$((SECONDS + TEST_LIMIT))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || fail "not within $TEST_LIMIT s: $what"
		sleep 0.05
	done
}

# Before something is started that writes to the file $1, and somebody looks for what it says there:
# until it has opened it, there would be what another one said, or no file at all.
fresh() {
	: >"$1"
}

# Somebody listens at $1, unix:PATH or tcp:HOST:PORT, in the network of the process $2 (ours). A socket
# has its name before that.
listens() {
	case $1 in
	unix:*) grep -q " 00010000 .* ${1#unix:}\$" "/proc/${2:-self}/net/unix" ;;
	tcp:*) grep -q "$(printf ':%04X 00000000:0000 0A' "${1##*:}")" "/proc/${2:-self}/net/tcp" ;;
	esac
}

# $1 is the status wanted, the rest the command. Its output goes to the log and to $REPLY.
expect_status() {
	local want=$1 got=0
	shift
	REPLY=$("$@" 2>&1) || got=$?
	printf '%s\n' "$REPLY"
	[ "$got" = "$want" ] || fail "status $got, not $want: $*"
	# timeout(1) has that status too: ours says so.
	[ "$want" != 124 ] || expect_text "--timeout: "
}

# The command on a terminal of 33 rows of 99; what it says there, then "status N".
with_terminal() {
	timeout -k 5 "$TEST_LIMIT" python3 - "$@" <<-'END'
		import fcntl, os, pty, struct, sys, termios
		pid, fd = pty.fork()
		if pid == 0:
		    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
		    os.execv(sys.argv[1], sys.argv[1:])
		try:
		    while data := os.read(fd, 4096):
		        os.write(1, data)
		except OSError:
		    pass  # the terminal's last user has left
		print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
	END
}

# $REPLY contains $1.
expect_text() {
	case $REPLY in
	*"$1"*) ;;
	*) fail "'$1' was not said" ;;
	esac
}

# Boot with a limit; every argument is wisp's. An emulated host stalls now and then: what has
# not ended there by the limit is given one more try, and the log says so.
guest() {
	local rc=0
	timeout -k 5 "$TEST_LIMIT" "$WISP" run "$@" || rc=$?
	if [ $rc = 124 ] && [ -n "${WISP_NESTED-}" ]; then
		case " $* " in
		*" --timeout "*) return $rc ;;
		esac
		echo "no end within $TEST_LIMIT s; once more"
		rc=0
		timeout -k 5 "$TEST_LIMIT" "$WISP" run "$@" || rc=$?
	fi
	return $rc
}
