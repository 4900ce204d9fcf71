# bash completion for wisp, printed by 'wisp help --bash' from the option tables.
# shellcheck shell=bash

_wisp_words()
{
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
	case ${COMPREPLY[0]-} in *=) compopt -o nospace ;; esac
}

_wisp_files()
{
	compopt -o filenames
	mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}

# A command of this host's, and the files that are its arguments.
_wisp_command()
{
	if [ "$prev" = -- ]; then
		mapfile -t COMPREPLY < <(compgen -c -- "$cur")
	else
		_wisp_files
	fi
}

# The names of running microVMs, and the words given.
_wisp_ids()
{
	_wisp_words "$1 $("${COMP_WORDS[0]}" ls 2>/dev/null | sed '1d;$d;s/ .*//' | tr '\n' ' ')"
}

_wisp_keys()
{
	compopt -o nospace
	mapfile -t COMPREPLY < <(compgen -P "${cur%,*}," -W "$1" -- "${cur##*,}")
}

_wisp()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local verbs="run ls stat top events pause resume stop kill change plug unplug console api exec cp batch balloon memory test bisect core gdb disk snapshot restore clone reset rewind migrate receive upgrade doctor switch help version"

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		_wisp_words "$verbs"
		return
	fi
	# bash splits --option=value at the sign.
	if [ "$cur" = = ]; then
		cur=
	elif [ "$prev" = = ]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	fi
	case ${COMP_WORDS[1]} in
	run)
		case $prev in
		--kernel)
			_wisp_files
			return ;;
		--initrd)
			_wisp_files
			return ;;
		--cmdline)
			return ;;
		--cmdline-only)
			return ;;
		--boot)
			_wisp_words "auto linux64 pvh"
			return ;;
		--cpus)
			return ;;
		--memory)
			return ;;
		--cpu)
			_wisp_words "host x86-64-v2 x86-64-v3 x86-64-v4"
			return ;;
		--cpu-template)
			_wisp_files
			return ;;
		--memory-backend)
			_wisp_words "anon shared"
			return ;;
		--disk)
			case $cur in *,*)
				_wisp_keys "ro format= backing= follow-backing direct cache= queues= iops= bps= iops-burst= bps-burst= reconnect= id= serial= slot="
				return ;;
			esac
			_wisp_files
			return ;;
		--pmem)
			case $cur in *,*)
				_wisp_keys "ro id= address= slot="
				return ;;
			esac
			_wisp_files
			return ;;
		--net)
			case $cur in *,*)
				_wisp_keys "hostfwd= restrict host-loopback subnet= dns= search= name= fd= queues= vhost vlan= pps= bps= pps-burst= bps-burst= mac= mtu= service= id= slot="
				return ;;
			esac
			_wisp_words "user tap switch= none"
			return ;;
		--unplugged)
			return ;;
		--vsock)
			case $cur in *,*)
				_wisp_keys "cid= path="
				return ;;
			esac
			return ;;
		--share)
			case $cur in *,*)
				_wisp_keys "ro cache= writeback xattr= acl"
				return ;;
			esac
			_wisp_files
			return ;;
		--rootfs)
			case $cur in *,*)
				_wisp_keys "ro cache= writeback xattr= acl"
				return ;;
			esac
			_wisp_files
			return ;;
		--balloon)
			case $cur in *,*)
				_wisp_keys "deflate-on-oom= reporting= hinting="
				return ;;
			esac
			return ;;
		--memory-hotplug)
			case $cur in *,*)
				_wisp_keys "block= requested= slot="
				return ;;
			esac
			return ;;
		--rewind)
			case $cur in *,*)
				_wisp_keys "keep= hold="
				return ;;
			esac
			return ;;
		--transport)
			_wisp_words "pci mmio"
			return ;;
		--console)
			_wisp_words "stdio none file= socket="
			return ;;
		--serial)
			_wisp_words "stdio none file= socket="
			return ;;
		--packed)
			_wisp_words "on off"
			return ;;
		--loop)
			_wisp_words "auto io_uring epoll"
			return ;;
		--reboot)
			_wisp_words "exit reset"
			return ;;
		--timeout)
			return ;;
		--name)
			return ;;
		--gdb)
			_wisp_words "tcp: unix:"
			return ;;
		--core)
			_wisp_files
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		--ready-fd)
			return ;;
		--sandbox)
			_wisp_words "off on strict"
			return ;;
		--uid)
			return ;;
		--gid)
			return ;;
		--cpu-weight)
			return ;;
		--cpu-max)
			return ;;
		--memory-max)
			return ;;
		--io-max)
			case $cur in *,*)
				_wisp_keys "rbps= wbps= riops= wiops="
				return ;;
			esac
			_wisp_files
			return ;;
		--pin)
			return ;;
		--config-file)
			_wisp_files
			return ;;
		--save-config)
			_wisp_files
			return ;;
		--metrics)
			_wisp_files
			return ;;
		--log-level)
			_wisp_words "error warn info debug trace"
			return ;;
		--log-file)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--kernel --initrd --cmdline --cmdline-only --boot --cpus --memory --cpu --cpu-template --hugepages --memory-backend --disk --pmem --net --unplugged --vsock --share --rootfs --balloon --memory-hotplug --rewind --transport --console --serial --rng --rtc --packed --loop --reboot --test-device --timeout --name --gdb --core --wait-gdb --detach --run-dir --ready-fd --sandbox --core-sched --uid --gid --cpu-weight --cpu-max --memory-max --io-max --pin --admit --config-file --save-config --dry-run --json --metrics --log-level --log-file --help" ;;
		*) _wisp_files ;;
		esac ;;
	ls)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --json --help" ;;
		esac ;;
	stat)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --json --prometheus --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	top)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--delay)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --delay --once --help" ;;
		esac ;;
	events)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	pause)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	resume)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	stop)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--timeout)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --json --timeout --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	kill)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	change)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--size)
			return ;;
		--link)
			_wisp_words "up down"
			return ;;
		--hostfwd)
			_wisp_words "tcp udp:"
			return ;;
		--no-hostfwd)
			_wisp_words "tcp udp:"
			return ;;
		--iops)
			return ;;
		--pps)
			return ;;
		--bps)
			return ;;
		--iops-burst)
			return ;;
		--pps-burst)
			return ;;
		--bps-burst)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --size --link --hostfwd --no-hostfwd --iops --pps --bps --iops-burst --pps-burst --bps-burst --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	plug)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--disk)
			_wisp_files
			return ;;
		--pmem)
			_wisp_files
			return ;;
		--net)
			_wisp_words "tap switch="
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --disk --pmem --net --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	unplug)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--timeout)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --timeout --force --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	console)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	api)
		case $prev in
		--api-sock)
			_wisp_files
			return ;;
		--config-file)
			_wisp_files
			return ;;
		--id)
			return ;;
		--log-path)
			_wisp_files
			return ;;
		--level)
			_wisp_words "off error warn info debug trace"
			return ;;
		--metrics-path)
			_wisp_files
			return ;;
		--metadata)
			_wisp_files
			return ;;
		--http-api-max-payload-size)
			return ;;
		--mmds-size-limit)
			return ;;
		--describe-snapshot)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--api-sock --config-file --no-api --id --log-path --level --show-level --show-log-origin --metrics-path --metadata --http-api-max-payload-size --mmds-size-limit --enable-pci --no-seccomp --version --snapshot-version --describe-snapshot --help" ;;
		esac ;;
	exec)
		case $prev in
		-e)
			return ;;
		-w)
			_wisp_files
			return ;;
		--wait)
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "-t -e -w --wait --run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	cp)
		case $prev in
		--wait)
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--wait --run-dir --help" ;;
		*) _wisp_files ;;
		esac ;;
	batch)
		case $prev in
		--cpus)
			return ;;
		--memory)
			return ;;
		--jobs)
			return ;;
		--policy)
			_wisp_words "fcfs sjf priority"
			return ;;
		--journal)
			_wisp_files
			return ;;
		--output)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--cpus --memory --jobs --policy --journal --output --json --help" ;;
		*) _wisp_files ;;
		esac ;;
	balloon)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--hint)
			_wisp_words "start stop"
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --hint --json --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	memory)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--wait)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --wait --json --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	test)
		case " ${COMP_WORDS[*]:2:COMP_CWORD-2} " in *" -- "*)
			_wisp_command
			return ;;
		esac
		case $prev in
		--kernel)
			_wisp_files
			return ;;
		--root)
			_wisp_files
			return ;;
		--cwd)
			_wisp_files
			return ;;
		--env)
			return ;;
		--user)
			return ;;
		--symbols)
			_wisp_files
			return ;;
		--dmesg)
			_wisp_files
			return ;;
		--fail-on)
			return ;;
		--boot-timeout)
			return ;;
		--hang)
			return ;;
		--jobs)
			return ;;
		--junit)
			_wisp_files
			return ;;
		--tap)
			_wisp_files
			return ;;
		--cmdline)
			return ;;
		--cmdline-only)
			return ;;
		--boot)
			_wisp_words "auto linux64 pvh"
			return ;;
		--cpus)
			return ;;
		--memory)
			return ;;
		--cpu)
			_wisp_words "host x86-64-v2 x86-64-v3 x86-64-v4"
			return ;;
		--cpu-template)
			_wisp_files
			return ;;
		--memory-backend)
			_wisp_words "anon shared"
			return ;;
		--disk)
			case $cur in *,*)
				_wisp_keys "ro format= backing= follow-backing direct cache= queues= iops= bps= iops-burst= bps-burst= reconnect= id= serial= slot="
				return ;;
			esac
			_wisp_files
			return ;;
		--pmem)
			case $cur in *,*)
				_wisp_keys "ro id= address= slot="
				return ;;
			esac
			_wisp_files
			return ;;
		--net)
			case $cur in *,*)
				_wisp_keys "hostfwd= restrict host-loopback subnet= dns= search= name= fd= queues= vhost vlan= pps= bps= pps-burst= bps-burst= mac= mtu= service= id= slot="
				return ;;
			esac
			_wisp_words "user tap switch= none"
			return ;;
		--unplugged)
			return ;;
		--vsock)
			case $cur in *,*)
				_wisp_keys "cid= path="
				return ;;
			esac
			return ;;
		--share)
			case $cur in *,*)
				_wisp_keys "ro cache= writeback xattr= acl"
				return ;;
			esac
			_wisp_files
			return ;;
		--balloon)
			case $cur in *,*)
				_wisp_keys "deflate-on-oom= reporting= hinting="
				return ;;
			esac
			return ;;
		--memory-hotplug)
			case $cur in *,*)
				_wisp_keys "block= requested= slot="
				return ;;
			esac
			return ;;
		--rewind)
			case $cur in *,*)
				_wisp_keys "keep= hold="
				return ;;
			esac
			return ;;
		--transport)
			_wisp_words "pci mmio"
			return ;;
		--packed)
			_wisp_words "on off"
			return ;;
		--loop)
			_wisp_words "auto io_uring epoll"
			return ;;
		--reboot)
			_wisp_words "exit reset"
			return ;;
		--timeout)
			return ;;
		--gdb)
			_wisp_words "tcp: unix:"
			return ;;
		--core)
			_wisp_files
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		--ready-fd)
			return ;;
		--sandbox)
			_wisp_words "off on strict"
			return ;;
		--uid)
			return ;;
		--gid)
			return ;;
		--cpu-weight)
			return ;;
		--cpu-max)
			return ;;
		--memory-max)
			return ;;
		--io-max)
			case $cur in *,*)
				_wisp_keys "rbps= wbps= riops= wiops="
				return ;;
			esac
			_wisp_files
			return ;;
		--pin)
			return ;;
		--config-file)
			_wisp_files
			return ;;
		--save-config)
			_wisp_files
			return ;;
		--metrics)
			_wisp_files
			return ;;
		--log-level)
			_wisp_words "error warn info debug trace"
			return ;;
		--log-file)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--kernel --root --rw --cwd --env --user --systemd --warm --symbols --dmesg --verbose -v --fail-on --boot-timeout --hang --jobs --json --junit --tap --cmdline --cmdline-only --boot --cpus --memory --cpu --cpu-template --hugepages --memory-backend --disk --pmem --net --unplugged --vsock --share --balloon --memory-hotplug --rewind --transport --rng --rtc --packed --loop --reboot --test-device --timeout --gdb --core --wait-gdb --run-dir --ready-fd --sandbox --core-sched --uid --gid --cpu-weight --cpu-max --memory-max --io-max --pin --admit --config-file --save-config --metrics --log-level --log-file --help" ;;
		esac ;;
	bisect)
		case " ${COMP_WORDS[*]:2:COMP_CWORD-2} " in *" -- "*)
			_wisp_command
			return ;;
		esac
		case $prev in
		--kernel)
			_wisp_files
			return ;;
		--root)
			_wisp_files
			return ;;
		--cwd)
			_wisp_files
			return ;;
		--env)
			return ;;
		--user)
			return ;;
		--symbols)
			_wisp_files
			return ;;
		--dmesg)
			_wisp_files
			return ;;
		--fail-on)
			return ;;
		--boot-timeout)
			return ;;
		--hang)
			return ;;
		--jobs)
			return ;;
		--junit)
			_wisp_files
			return ;;
		--tap)
			_wisp_files
			return ;;
		--cmdline)
			return ;;
		--cmdline-only)
			return ;;
		--boot)
			_wisp_words "auto linux64 pvh"
			return ;;
		--cpus)
			return ;;
		--memory)
			return ;;
		--cpu)
			_wisp_words "host x86-64-v2 x86-64-v3 x86-64-v4"
			return ;;
		--cpu-template)
			_wisp_files
			return ;;
		--memory-backend)
			_wisp_words "anon shared"
			return ;;
		--disk)
			case $cur in *,*)
				_wisp_keys "ro format= backing= follow-backing direct cache= queues= iops= bps= iops-burst= bps-burst= reconnect= id= serial= slot="
				return ;;
			esac
			_wisp_files
			return ;;
		--pmem)
			case $cur in *,*)
				_wisp_keys "ro id= address= slot="
				return ;;
			esac
			_wisp_files
			return ;;
		--net)
			case $cur in *,*)
				_wisp_keys "hostfwd= restrict host-loopback subnet= dns= search= name= fd= queues= vhost vlan= pps= bps= pps-burst= bps-burst= mac= mtu= service= id= slot="
				return ;;
			esac
			_wisp_words "user tap switch= none"
			return ;;
		--unplugged)
			return ;;
		--vsock)
			case $cur in *,*)
				_wisp_keys "cid= path="
				return ;;
			esac
			return ;;
		--share)
			case $cur in *,*)
				_wisp_keys "ro cache= writeback xattr= acl"
				return ;;
			esac
			_wisp_files
			return ;;
		--balloon)
			case $cur in *,*)
				_wisp_keys "deflate-on-oom= reporting= hinting="
				return ;;
			esac
			return ;;
		--memory-hotplug)
			case $cur in *,*)
				_wisp_keys "block= requested= slot="
				return ;;
			esac
			return ;;
		--rewind)
			case $cur in *,*)
				_wisp_keys "keep= hold="
				return ;;
			esac
			return ;;
		--transport)
			_wisp_words "pci mmio"
			return ;;
		--packed)
			_wisp_words "on off"
			return ;;
		--loop)
			_wisp_words "auto io_uring epoll"
			return ;;
		--reboot)
			_wisp_words "exit reset"
			return ;;
		--timeout)
			return ;;
		--gdb)
			_wisp_words "tcp: unix:"
			return ;;
		--core)
			_wisp_files
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		--ready-fd)
			return ;;
		--sandbox)
			_wisp_words "off on strict"
			return ;;
		--uid)
			return ;;
		--gid)
			return ;;
		--cpu-weight)
			return ;;
		--cpu-max)
			return ;;
		--memory-max)
			return ;;
		--io-max)
			case $cur in *,*)
				_wisp_keys "rbps= wbps= riops= wiops="
				return ;;
			esac
			_wisp_files
			return ;;
		--pin)
			return ;;
		--config-file)
			_wisp_files
			return ;;
		--save-config)
			_wisp_files
			return ;;
		--metrics)
			_wisp_files
			return ;;
		--log-level)
			_wisp_words "error warn info debug trace"
			return ;;
		--log-file)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--kernel --root --rw --cwd --env --user --systemd --warm --symbols --dmesg --verbose -v --fail-on --boot-timeout --hang --jobs --json --junit --tap --cmdline --cmdline-only --boot --cpus --memory --cpu --cpu-template --hugepages --memory-backend --disk --pmem --net --unplugged --vsock --share --balloon --memory-hotplug --rewind --transport --rng --rtc --packed --loop --reboot --test-device --timeout --gdb --core --wait-gdb --run-dir --ready-fd --sandbox --core-sched --uid --gid --cpu-weight --cpu-max --memory-max --io-max --pin --admit --config-file --save-config --metrics --log-level --log-file --help" ;;
		esac ;;
	core)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --help" ;;
		*) if [ "$COMP_CWORD" -gt 2 ]; then _wisp_files; else _wisp_ids ""; fi ;;
		esac ;;
	gdb)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		--listen)
			_wisp_words "tcp: unix:"
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--run-dir --listen --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	disk)
		case $prev in
		--format)
			_wisp_words "auto raw qcow2"
			return ;;
		--source-format)
			_wisp_words "auto raw qcow2"
			return ;;
		--backing)
			_wisp_files
			return ;;
		--backing-format)
			_wisp_words "auto raw qcow2"
			return ;;
		--cluster-size)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--format --source-format --backing --backing-format --follow-backing --cluster-size --force --repair --shrink --json --help" ;;
		*) if [ "$COMP_CWORD" -gt 2 ]; then _wisp_files; else _wisp_words "create info check convert resize"; fi ;;
		esac ;;
	snapshot)
		case $prev in
		--output)
			_wisp_files
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--stop --diff --compress --output --json --run-dir --help" ;;
		*) if [ "$COMP_CWORD" -gt 2 ]; then _wisp_files; else _wisp_ids "merge"; fi ;;
		esac ;;
	restore)
		case $prev in
		--disk)
			return ;;
		--console)
			_wisp_words "stdio none file= socket="
			return ;;
		--serial)
			_wisp_words "stdio none file= socket="
			return ;;
		--vsock)
			_wisp_files
			return ;;
		--name)
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		--loop)
			_wisp_words "auto io_uring epoll"
			return ;;
		--sandbox)
			_wisp_words "off on strict"
			return ;;
		--timeout)
			return ;;
		--metrics)
			_wisp_files
			return ;;
		--log-level)
			_wisp_words "error warn info debug trace"
			return ;;
		--log-file)
			_wisp_files
			return ;;
		--clone)
			return ;;
		--prefetch)
			_wisp_words "on off record"
			return ;;
		--memory-backend)
			_wisp_words "auto map uffd"
			return ;;
		--clock)
			_wisp_words "continue realtime"
			return ;;
		--net)
			return ;;
		--tap)
			return ;;
		--memory-file)
			_wisp_files
			return ;;
		--memory-handler)
			_wisp_files
			return ;;
		--ready-fd)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--disk --console --serial --vsock --name --detach --run-dir --loop --sandbox --core-sched --timeout --json --metrics --log-level --log-file --changed-disks --changed-tsc --clone --prefetch --memory-backend --clock --net --tap --memory-file --memory-handler --hugepages --paused --ready-fd --help" ;;
		*) _wisp_files ;;
		esac ;;
	clone)
		case $prev in
		-n)
			return ;;
		--name)
			return ;;
		--net)
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "-n --name --net --json --run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	reset)
		case $prev in
		--keep)
			return ;;
		--clock)
			_wisp_words "continue realtime"
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--set --keep --identical --clock --json --run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	rewind)
		case $prev in
		--record)
			case $cur in *,*)
				_wisp_keys "keep= hold="
				return ;;
			esac
			return ;;
		--gdb)
			_wisp_words "tcp: unix:"
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--record --list --drop --paused --gdb --json --run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	migrate)
		case $prev in
		--bandwidth)
			return ;;
		--downtime)
			return ;;
		--max-rounds)
			return ;;
		--converge)
			_wisp_words "on off"
			return ;;
		--postcopy)
			_wisp_words "off auto on"
			return ;;
		--streams)
			return ;;
		--tls)
			_wisp_files
			return ;;
		--zstd)
			return ;;
		--settle)
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--bandwidth --downtime --max-rounds --converge --postcopy --hand-off --copy-disks --streams --tls --zstd --progress --json --cancel --resume --recover --settle --run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	receive)
		case $prev in
		--disk)
			return ;;
		--console)
			_wisp_words "stdio none file= socket="
			return ;;
		--serial)
			_wisp_words "stdio none file= socket="
			return ;;
		--vsock)
			_wisp_files
			return ;;
		--name)
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		--loop)
			_wisp_words "auto io_uring epoll"
			return ;;
		--sandbox)
			_wisp_words "off on strict"
			return ;;
		--timeout)
			return ;;
		--metrics)
			_wisp_files
			return ;;
		--log-level)
			_wisp_words "error warn info debug trace"
			return ;;
		--log-file)
			_wisp_files
			return ;;
		--tls)
			_wisp_files
			return ;;
		--memory-backend)
			_wisp_words "same anon shared"
			return ;;
		--resume)
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--disk --console --serial --vsock --name --detach --run-dir --loop --sandbox --core-sched --timeout --json --metrics --log-level --log-file --tls --trust-source --memory-backend --resume --help" ;;
		esac ;;
	upgrade)
		case $prev in
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--json --run-dir --help" ;;
		*) _wisp_ids "" ;;
		esac ;;
	doctor)
		case $prev in
		esac
		case $cur in
		-*) _wisp_words "--json --help" ;;
		esac ;;
	switch)
		case $prev in
		--uplink)
			return ;;
		--uplink-vlan)
			return ;;
		--run-dir)
			_wisp_files
			return ;;
		esac
		case $cur in
		-*) _wisp_words "--uplink --uplink-vlan --stats --json --run-dir --help" ;;
		esac ;;
	help)
		case $prev in
		esac
		case $cur in
		-*) _wisp_words "--man --bash --help" ;;
		*) _wisp_words "$verbs" ;;
		esac ;;
	version)
		case $prev in
		esac
		case $cur in
		-*) _wisp_words "--json --help" ;;
		esac ;;
	esac
}

complete -F _wisp wisp
