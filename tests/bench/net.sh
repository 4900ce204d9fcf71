# shellcheck shell=bash disable=SC2034,SC2154
# Part "net": what iperf3 moves between a guest and this host, both ways, with one stream and four,
# through a tap and through user networking, at the same MTU. Sourced by tests/bench/run.
#
# In a host that counts instructions a rate stands for the work of guest, monitor, helper and host
# together. It is that of the receiver. QEMU's user networking is libslirp, as is wisp's; vhost=on,
# where the host has that, is a further row of both.

net_bytes=${BENCH_NET_BYTES:-16M}
net_mtu=${BENCH_NET_MTU:-1500}
net_kinds=${BENCH_NET_KINDS:-tap vhost user}
net_tap=wbench0

# The default guest with iperf3, and a script that runs it against the host.
net_initrd() {
	local lib root=$work/net.dir
	mkdir -p "$root"
	cp --parents /usr/bin/iperf3 "$root"
	for lib in $(ldd /usr/bin/iperf3 | grep -o '/[^ ]*'); do cp --parents -L "$lib" "$root"; done
	# The host's address is the one that routes: 10.0.2.2, or the tap's.
	cat >"$root/job" <<-END
		read -r line </proc/cmdline
		case \$line in *wisp.nonet*) ifconfig eth0 10.90.0.2; host=10.90.0.1 ;; *) host=10.0.2.2 ;; esac
		ifconfig eth0 mtu $net_mtu
		for streams in 1 4; do for way in up down; do
			reverse=
			[ \$way = up ] || reverse=-R
			/usr/bin/iperf3 -c \$host -n $net_bytes -f m -P \$streams \$reverse >/tmp/o 2>&1
			echo "RATE \${way}_\$streams \$(grep receiver /tmp/o | tail -n 1)"
		done; done
	END
	(cd "$root" && find . | cpio --quiet -o -H newc) >"$work/net.cpio"
	cat "$initrd" "$work/net.cpio" >"$work/net.initrd"
}

net_command() { # PEER KIND
	local initrd=$work/net.initrd memory_mib=512 guest=job job_words='' devices=" console net " extra=
	local vhost=
	[ "$2" = user ] || job_words=wisp.nonet
	[ "$2" != vhost ] || vhost=,vhost=on
	command_for "$1"
	case $1-$2 in
	wisp-*-user) cmd+=(--net "user,host-loopback=on,mtu=$net_mtu") ;;
	wisp-*) cmd+=(--net "tap,name=$net_tap$vhost") ;;
	*-user) cmd+=(-netdev user,id=n0 -device virtio-net-pci,netdev=n0,romfile=) ;;
	*)
		cmd+=(-netdev "tap,id=n0,ifname=$net_tap,script=no,downscript=no$vhost"
			-device virtio-net-pci,netdev=n0,romfile=)
		;;
	esac
}

net_once() { # PEER, with the network of $kind
	net_command "$1" "$kind"
	"${cmd[@]}" </dev/null 2>"$work/err" >"$work/out" || return 1
	tr -d '\r' <"$work/out" |
		sed -n "s/^RATE \([a-z]*_[14]\) .*[^0-9.]\([0-9.]*\) Mbits.*/net_${kind}_\1 \2/p" >"$work/rates"
	[ "$(wc -l <"$work/rates")" = 4 ] || { cat "$work/out" >>"$work/err"; return 1; }
	cat "$work/rates"
}

net_round() { # PEER: each kind of network
	local kind
	for kind in $net_kinds; do
		[ "$kind" != vhost ] || (: <>/dev/vhost-net) 2>/dev/null || continue
		say "$1: net, $kind"
		repeat net_once "$1" ""
	done
}

net() {
	local peer server
	command -v iperf3 >/dev/null || { say "net: no iperf3 here"; return 0; }
	if ! ip tuntap add dev $net_tap mode tap 2>/dev/null; then
		say "net: no tap without privilege: user networking alone"
		net_kinds=user
	else
		ip addr add 10.90.0.1/24 dev $net_tap
		ip link set $net_tap mtu "$net_mtu" up
	fi
	kernel=$guests/vmlinuz
	net_initrd
	iperf3 -s >/dev/null 2>&1 &
	server=$!
	sleep 0.5
	for peer in $peers; do
		case $peer in wisp-pci | qemu-q35) ;; *) continue ;; esac
		if peer_exists "$peer"; then net_round "$peer"; fi
	done
	kill $server
	wait $server 2>/dev/null || true
	ip tuntap del dev $net_tap mode tap 2>/dev/null || true
}
