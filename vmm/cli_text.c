/* The verbs, and what is said about them beside their options. */
#include "vmm/cli.h"

static const struct config_item doctor_options[] = {
	{ "--json", NULL, "Print one JSON object", CONFIG_FLAG },
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
	  config_run_options, .takes_image = true },
	{ "doctor", "[--json]", "Say what this host can do, and how to mend what it cannot",
	  "Prints a line for each thing that microVMs need or can make use of: ok, warn (works, "
	  "but not as well as it could) or missing, with a line on how to mend it. The status is 0 "
	  "when microVMs can run here and 126 when they cannot.",
	  doctor_options },
	{ "help", "[VERB | --man | --bash]", "Explain wisp or one of its verbs", NULL,
	  help_options },
	{ "version", "", "Print the version", NULL, NULL },
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
	{ "wisp run --transport mmio --net none --dry-run root.img", "What machine that would be" },
	{ 0 },
};

const struct cli_entry cli_keys[] = {
	{ "Ctrl-A x", "End the microVM" },
	{ "Ctrl-A Ctrl-A", "Send one Ctrl-A to the guest" },
	{ 0 },
};

const char cli_values_text[] =
	"Sizes are numbers with K, M, G or T behind them, powers of 1024; fractions such as 1.5G "
	"are fine. Device options are a first value and key=value pairs joined by commas; a comma "
	"in a value is doubled. A value may follow its option as the next word or after '='. "
	"Defaults are in parentheses.";
