/* The verbs, and what is said about them beside their options. */
#include "vmm/cli/cli.h"
#include "vmm/cli/cli_guest.h"

#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_migrate.h"
#include "vmm/cli/cli_rewind.h"
#include "vmm/cli/cli_snapshot.h"
#include "vmm/disk/disk.h"
#include "vmm/doctor/doctor.h"
#include "vmm/fleet/batch.h"
#include "vmm/switch.h"
#include "vmm/testing/test.h"

static const struct config_item doctor_options[] = {
	{ "--json", NULL, "Print one JSON object", CONFIG_FLAG },
	{ 0 },
};

static const struct config_item api_options[] = {
	{ "--api-sock", "PATH", "Where to listen (/run/firecracker.socket)", CONFIG_STRING },
	{ "--config-file", "FILE", "A machine in Firecracker's JSON; it starts at once",
	  CONFIG_STRING },
	{ "--no-api", NULL, "Only run what --config-file says", CONFIG_FLAG },
	{ "--id", "ID", "The microVM's name (anonymous-instance)", CONFIG_STRING },
	{ "--log-path", "FILE", "Append the log to FILE (standard output)", CONFIG_STRING },
	{ "--level", "off|error|warn|info|debug|trace", "How much to log (info)", CONFIG_CHOICE },
	{ "--show-level", NULL, "Name the level in each line of the log", CONFIG_FLAG },
	{ "--show-log-origin", NULL, "Name the place in the program in each line of it",
	  CONFIG_FLAG },
	{ "--metrics-path", "FILE", "Append metrics to FILE, a JSON object a line", CONFIG_STRING },
	{ "--metadata", "FILE", "First contents of the metadata store", CONFIG_STRING },
	{ "--http-api-max-payload-size", "BYTES", "Longest body of a request (51200)",
	  CONFIG_NUMBER },
	{ "--mmds-size-limit", "BYTES", "Most that the metadata store holds (the same)",
	  CONFIG_NUMBER },
	{ "--enable-pci", NULL, "Devices over virtio-pci (virtio-mmio)", CONFIG_FLAG },
	{ "--no-seccomp", NULL, "As --sandbox off of wisp run", CONFIG_FLAG },
	{ "--version", NULL, "Print the version of the API", CONFIG_FLAG },
	{ "--snapshot-version", NULL, "Print that of the snapshots", CONFIG_FLAG },
	{ "--describe-snapshot", "FILE", "Print that of this snapshot's state", CONFIG_STRING },
	{ 0 },
};

static const struct config_item help_options[] = {
	{ "--man", NULL, "Print the manual page, in roff", CONFIG_FLAG },
	{ "--bash", NULL, "Print completion for bash", CONFIG_FLAG },
	{ 0 },
};

const struct cli_verb cli_verbs[] = {
	{ "run", "[OPTION]... [IMAGE]", "Boot a microVM in the foreground",
	  "Boots a Linux kernel with its console on the terminal, and ends when the guest does. "
	  "IMAGE is the first disk, written as for --disk. Without --kernel it boots the default "
	  "guest that 'make' built: a Debian kernel and a shell. Everything that was asked for is "
	  "checked before anything is created.",
	  config_run_options, .first = CLI_FILE, .main = run_main },
	{ "ls", "[OPTION]...", "List the running microVMs of this user",
	  "One line each: name, state, processors, memory, how much of the host's memory its "
	  "processes hold, how long it has been running, and the process id of its monitor. Below "
	  "them what they are promised and use together, and what the host has. Memory that clones "
	  "share counts for each of them. What microVMs left that were killed is removed.",
	  control_report_options, .main = ls_main },
	{ "stat", "[OPTION]... ID", "Show the counters of a running microVM",
	  "Exits by reason, accesses by device, queue activity, as --metrics writes them at the "
	  "end; and the processor time and memory that its processes use.",
	  control_stat_options, .first = CLI_ID, .main = stat_main },
	{ "top", "[OPTION]...", "Show what all running microVMs do, live",
	  "A screen with bars: processor time, memory, disks, networks and exits of each microVM "
	  "and of all. The arrows select one; p pauses it or lets it go on, s stops it as wisp "
	  "stop does, k kills it; o changes the order, q ends the screen and nothing else.",
	  control_top_options, .main = top_main },
	{ "events", "[OPTION]... ID", "Print what happens to a microVM, a JSON object a line",
	  "Its state now and whenever that changes, running or paused, and its end with the reason "
	  "and the status. Ends with the microVM.",
	  control_plain_options, .first = CLI_ID, .main = events_main },
	{ "pause", "[OPTION]... ID", "Pause a microVM: its processors stop, its I/O is drained",
	  NULL,
	  control_plain_options, .first = CLI_ID, .main = pause_main },
	{ "resume", "[OPTION]... ID", "Let a paused microVM go on", NULL, control_plain_options,
	  .first = CLI_ID, .main = resume_main },
	{ "stop", "[OPTION]... ID",
	  "Press the power button, and end the microVM if that is ignored",
	  "Returns when the microVM has ended. A guest that did not power off by itself ends with "
	  "status 143, as by SIGTERM, and a line, or \"forced\" in --json, says so.",
	  control_stop_options, .first = CLI_ID, .main = stop_main },
	{ "kill", "[OPTION]... ID", "End a microVM without asking its guest",
	  "Disks are left as a power failure would leave them. Its run ends with status 137, as by "
	  "SIGKILL.",
	  control_plain_options, .first = CLI_ID, .main = kill_main },
	{ "change", "[OPTION]... ID DEVICE",
	  "Change a disk's size, a network's link, or the limits of both, while they are in use",
	  "DEVICE is the id of a disk or network: disk0 or net0 is the first, when it was not "
	  "given another. Where one of each has the same, disk:ID or net:ID says which.",
	  change_options, .first = CLI_ID, .main = change_main },
	{ "plug", "[OPTION]... ID",
	  "Plug a disk, a network or persistent memory into a running microVM",
	  "The guest is told of it and finds it on its PCI bus. What is saved, cloned or moved "
	  "from then on has it; a reboot (--reboot reset) has the devices of the start.",
	  plug_options, .first = CLI_ID, .main = plug_main },
	{ "unplug", "[OPTION]... ID DEVICE",
	  "Unplug a disk, a network or persistent memory of a running microVM",
	  "The guest is asked to let go of it; Linux does so also when it is mounted. One that no "
	  "driver uses is gone at once. DEVICE is an id, or, where devices of two kinds have "
	  "the same, disk:ID, net:ID or pmem:ID.",
	  unplug_options, .first = CLI_ID, .main = unplug_main },
	{ "console", "[OPTION]... ID", "Attach the terminal to the console of a detached microVM",
	  "Ctrl-A d detaches again, Ctrl-A x ends the microVM, Ctrl-A twice sends one Ctrl-A. "
	  "One terminal at a time is attached.",
	  control_plain_options, .first = CLI_ID, .main = console_main },
	{ "api", "[--api-sock PATH] [OPTION]...", "Serve Firecracker's REST API for one microVM",
	  "Takes Firecracker's options, and is what wisp does under the name firecracker. "
	  "docs/firecracker.md says what is answered as Firecracker answers it.",
	  api_options, .main = api_main },
	{ "exec", "[OPTION]... ID -- COMMAND [ARGUMENT]...", "Run a command in a running guest",
	  "For microVMs with --vsock whose guest runs wisp-agent, as the default one does. "
	  "Standard input, output and error are the command's, byte for byte, and so is the "
	  "status: 128+N when signal N ended it, 127 when there is no such command. It may have "
	  "65,535 arguments, of 131,071 bytes each. Signals are "
	  "passed on; after the third that should end it, with nothing from the guest since the "
	  "first, exec ends by itself.",
	  exec_options, .first = CLI_ID, .main = exec_main },
	{ "cp", "[OPTION]... SOURCE DESTINATION", "Copy into a running guest, or out of one",
	  "One of both is in a guest, as ID:PATH. Files, directories with all that is in them, and "
	  "symbolic links, with their modes; into DESTINATION when that is a directory. What in "
	  "a directory is none of these, or cannot be read, is left out and named, and the "
	  "status is 1. For microVMs as for exec.",
	  cp_options, .first = CLI_FILE, .takes_files = true, .main = cp_main },
	{ "batch", "[OPTION]... FILE", "Run a list of jobs within a budget of CPUs and memory",
	  "FILE has a job a line: [name=ID] [priority=N] [expect=SECONDS] [retries=N] and then run "
	  "or test with its arguments, quoted as for a shell; # begins a comment. What a job takes "
	  "is what its --cpus and --memory say. A job that ends with another status than 0 is "
	  "tried again as often as it may be. What has finished is kept in a journal: started "
	  "again after whatever end, the queue goes on with the rest. The status is 0 when all "
	  "jobs ended with 0, and 1 when some did not.",
	  batch_options, .first = CLI_FILE, .main = batch_main },
	{ "balloon", "[OPTION]... ID [SIZE]", "Show or set how much memory a guest gives up",
	  "For microVMs with --balloon. With SIZE the guest is asked to give up so much, or to "
	  "take back what is more; it does so as it can. Statistics are as the guest tells them.",
	  balloon_options, .first = CLI_ID, .main = balloon_main },
	{ "memory", "[OPTION]... ID [SIZE]", "Show or set how much memory a guest has plugged",
	  "For microVMs with --memory-hotplug. With SIZE the guest is asked to have so much of "
	  "that memory, beside what it has from the start; it plugs and unplugs as it can.",
	  memory_options, .first = CLI_ID, .main = memory_main },
	{ "test", "[OPTION]... [--] COMMAND [ARGUMENT]...",
	  "Boot a kernel over this system's files, run a command, say how it ended",
	  "Runs COMMAND in a microVM whose root is a directory tree of the host (/), with changes "
	  "thrown away at the end. Standard input, output and error, the working directory and the "
	  "status are the command's. No image is built, no root is needed, no daemon is started. "
	  "Takes the options of 'wisp run' as well; there is no network unless --net asks for one, "
	  "and 1G of memory. Status: the command's own (128+N by signal); 249 hang or lockup, 250 "
	  "panic, 251 oops or warning that --fail-on names, 252 triple fault, 253 --timeout, 254 "
	  "the kernel did not come up, 125 the monitor failed. --json tells one of these from a "
	  "command that ends with the same number.",
	  test_options, .is_test = true, .main = test_main },
	{ "bisect", "[OPTION]... [--] COMMAND [ARGUMENT]...",
	  "As test, with the statuses that 'git bisect run' wants",
	  "0 when the command ended with 0, 125 (skip) when it ended with that or the kernel "
	  "did not come up, 128 (stop) when the monitor failed, 1 for everything else. Build the "
	  "kernel first: git bisect run sh -c 'make -j4 bzImage || exit 125; wisp bisect --kernel "
	  ". -- COMMAND'.",
	  test_options, .is_test = true, .main = bisect_main },
	{ "core", "[OPTION]... ID FILE", "Write an ELF core of a running guest to FILE",
	  "The guest stands still for a moment and goes on while its memory is written. gdb opens "
	  "the file with the kernel's vmlinux, crash with that too; a Linux guest's VMCOREINFO is "
	  "in it.",
	  control_plain_options, .first = CLI_ID, .takes_files = true,
	  .main = core_main },
	{ "gdb", "[OPTION]... ID", "Let gdb debug a running guest",
	  "Prints what to tell gdb. The guest stops when a debugger connects and goes on when it "
	  "has gone.",
	  cli_gdb_options, .first = CLI_ID, .main = gdb_main },
	{ "disk", "ACTION [OPTION]... ARGUMENT...",
	  "Make, show, check, convert or resize disk images, raw and qcow2",
	  "create PATH SIZE (with --backing, SIZE may be left out); info PATH; check PATH: status "
	  "0 when it is sound, 3 when space is lost, 1 when there is worse; convert SOURCE DEST; "
	  "resize PATH SIZE. What is made has its name only once it is complete. Images in use are "
	  "refused, by QEMU's tools and by these alike.",
	  disk_options, .words = "create info check convert resize", .takes_files = true,
	  .main = disk_main },
	{ "snapshot", "[OPTION]... {ID DIR | merge DIR...}",
	  "Save a running microVM into a directory",
	  "The guest stands still for a moment and goes on; what it had in memory then is written "
	  "out behind its back. Disks that it may write are kept as they were at that moment, by "
	  "reflink where the file system can. DIR appears when all of it is safe on disk; an "
	  "earlier snapshot of that name is replaced. With --diff it builds on those before it, "
	  "which are then needed too; 'wisp snapshot merge DIR...' makes one complete snapshot of "
	  "the last DIR and what it builds on, in its place or as --output. A microVM "
	  "called merge is named by its run directory.",
	  snapshot_options, .first = CLI_ID, .words = "merge",
	  .takes_files = true, .main = snapshot_main },
	{ "restore", "[OPTION]... DIR", "Let a saved microVM go on",
	  "In the foreground, as 'wisp run'. Memory is read from the snapshot as the guest touches "
	  "it. Guests that have a driver for the VM generation ID make themselves new random "
	  "numbers; connections through user networking are reset.",
	  restore_options, .first = CLI_FILE, .main = restore_main },
	{ "clone", "[OPTION]... ID", "Fork a running microVM into copies that share its memory",
	  "The original stands still for some milliseconds and goes on; the copies run from that "
	  "instant, in the background, as microVMs of their own: a name, a control socket, a "
	  "console ('wisp console'), private copies of the disks, user networking without the "
	  "original's forwards. Memory is shared until one of them writes it. A network interface "
	  "on a tap or a switch is there without a cable.",
	  clone_options, .first = CLI_ID, .main = clone_main },
	{ "reset", "[OPTION]... ID",
	  "Take a microVM back to an earlier moment, in the same process",
	  "To the moment that was made its point by --set, or to its start when it was restored "
	  "from a snapshot; again and again, in a time that grows with the pages that it wrote "
	  "since and not with its memory. Processors, devices and memory are as they were then. "
	  "The guest is told that it is another one, as a clone is, unless --identical; "
	  "connections of vsock and of user networking are reset. From --set on what it writes to "
	  "disks is kept apart and gone at its end. Shared directories stay as they are. Guests "
	  "with persistent memory that they may write, --hugepages or --memory-backend shared "
	  "cannot be reset.",
	  reset_options, .first = CLI_ID, .main = reset_main },
	{ "rewind", "[OPTION]... ID TIME", "Take a microVM back in time, to a moment that was kept",
	  "'wisp run --rewind 1s,keep=10' has a microVM forked every second and keeps the last ten "
	  "forks, in which nothing runs. This makes one of them a microVM of its own, as 'wisp "
	  "clone' does (ID-1, ID-2, ..., whose name is printed), from the latest moment that is "
	  "TIME (500ms, 2s, 1m) back or more, says how far back that was, and ends the one that "
	  "runs. After a panic or another "
	  "bad end TIME is counted from there, and the moments are held for ten minutes.",
	  rewind_options, .first = CLI_ID, .main = rewind_main },
	{ "migrate", "[OPTION]... ID DESTINATION", "Move a running microVM to another host",
	  "Or to another monitor on this one: to a 'wisp receive' at DESTINATION, which is "
	  "tcp:HOST:PORT, unix:PATH, exec:COMMAND or fd:N. Memory is copied while the guest runs; "
	  "it stands still for the last part. Until it is handed over any failure, Ctrl-C or "
	  "--cancel lets it go on here; afterwards it never runs here again. Its disks must be "
	  "reachable there by the same content, unless --copy-disks sends them too.",
	  migrate_options, .first = CLI_ID, .main = migrate_main },
	{ "receive", "[OPTION]... SOURCE", "Run the microVM that a 'wisp migrate' hands over",
	  "Waits at SOURCE, which is tcp:HOST:PORT, unix:PATH, exec:COMMAND or fd:N (fd:0 that is "
	  "a pipe: standard input and output), and runs in the foreground, as 'wisp run'. What "
	  "cannot run here is refused before its memory is sent. tcp: without --tls is neither "
	  "encrypted nor authenticated: for networks that are trusted.",
	  receive_options, .main = receive_main },
	{ "upgrade", "[OPTION]... ID", "Let a running microVM go on in this version of wisp",
	  "Hands the guest from its monitor, of another version perhaps, to one of this "
	  "program: shared memory as it is, private memory by one copy. It keeps its name and "
	  "goes on in the background ('wisp console' attaches), and the 'wisp run' it came from "
	  "ends. Forwards and the socket of --vsock are the new one's a moment after the guest. "
	  "Guests with the serial port or console at a socket of the user's, with a tap that came "
	  "as a descriptor or with --rewind are refused, and go on as they were.",
	  upgrade_options, .first = CLI_ID, .main = upgrade_main },
	{ "doctor", "[--json]", "Say what this host can do, and how to mend what it cannot",
	  "Prints a line for each thing that microVMs need or can make use of: ok, warn (works, "
	  "but not as well as it could) or missing, with a line on how to mend it. The status is 0 "
	  "when microVMs can run here and 126 when they cannot.",
	  doctor_options, .main = doctor_main },
	{ "switch", "[OPTION]... NAME", "Join microVMs to one network, without privilege",
	  "Runs in the foreground until a signal ends it. MicroVMs of this user join it by wisp "
	  "run --net switch=NAME[,vlan=N]; those of different VLANs do not see each other. When it "
	  "ends their links go down, and their logs say so; one of the same name is joined by who "
	  "comes after that, and by wisp unplug and wisp plug ID --net switch=NAME. With "
	  "--stats or --json it asks the switch of that name that runs.",
	  switch_options, .main = switch_main },
	{ "help", "[VERB | --man | --bash]", "Explain wisp or one of its verbs", NULL,
	  help_options, .first = CLI_VERB },
	{ "version", "[--json]", "Print the version", NULL, doctor_options },
	{ 0 },
};

const struct cli_entry cli_statuses[] = {
	{ "0", "The guest powered off or, with --reboot exit, rebooted; or Ctrl-A x" },
	{ "1", "Any failure that is none of the following" },
	{ "2", "Usage or configuration: an option, or a file or host resource that it names" },
	{ "3", "The guest panicked" },
	{ "4", "The guest ended in a triple fault" },
	{ "5", "KVM could not go on; the registers are on standard error" },
	{ "124", "--timeout ran out" },
	{ "125", "The microVM could not be started" },
	{ "126", "The host refuses: no /dev/kvm, or no permission" },
	{ "137, 143",
	  "Ended by wisp kill; by wisp stop, the guest having ignored its power button" },
	{ "128+N", "Signal N ended it, guest stopped and terminal restored" },
	{ "V", "The guest wrote V to port 0x501, or (with --test-device) to port 0xf4, which "
	       "gives (V<<1)|1" },
	{ 0 },
};

const struct cli_entry cli_examples[] = {
	{ "wisp run", "A shell in the default guest" },
	{ "wisp run --cpus 4 --memory 2G --kernel vmlinuz --initrd initrd.img root.img",
	  "A distribution from its disk" },
	{ "wisp run --net user,hostfwd=tcp::2222-:22 root.img",
	  "Port 2222 of this host leads to the guest's SSH server" },
	{ "wisp switch lan --uplink user & wisp run --net switch=lan",
	  "A guest among others, with a way out" },
	{ "wisp run --transport mmio --net none --dry-run root.img", "What machine that would be" },
	{ 0 },
};

const struct cli_entry cli_files[] = {
	{ "RUNDIR", "--run-dir, else $XDG_RUNTIME_DIR/wisp, else /run/user/UID/wisp, else "
		    "/tmp/wisp-UID; the user's alone. What follows is there while the microVM ID "
		    "runs" },
	{ "RUNDIR/ID/control.sock", "What the other verbs ask" },
	{ "RUNDIR/ID/console.sock", "The terminal of one that is detached, or a clone: "
				    "'wisp console ID' is for that" },
	{ "RUNDIR/ID/log", "What wisp itself says of one that is detached, or a clone; it goes "
			   "when that ends, and what is in --log-file stays" },
	{ "RUNDIR/ID/gdb.sock", "The debugging stub that 'wisp gdb ID' makes" },
	{ 0 },
};

const struct cli_entry cli_keys[] = {
	{ "Ctrl-A x", "End the microVM" },
	{ "Ctrl-A d", "Detach from it (wisp console)" },
	{ "Ctrl-A Ctrl-A", "Send one Ctrl-A to the guest" },
	{ 0 },
};

const char cli_values_text[] =
	"Sizes are numbers with K, M, G or T behind them, powers of 1024; fractions such as 1.5G "
	"are fine. Device options are a first value and key=value pairs joined by commas; a comma "
	"in a value is doubled. A value may follow its option as the next word or after '='. "
	"Defaults are in parentheses.";
