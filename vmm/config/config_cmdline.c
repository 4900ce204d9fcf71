/*
 * The default kernel command line. Each word is there because a stock kernel
 * boots wrongly, slowly or with needless exits without it; what ACPI already
 * tells the kernel (no keyboard controller, no VGA, the reset register, the
 * virtio-mmio devices) needs no word.
 */
#include "vmm/config/config.h"

#include <stdio.h>
#include <stdlib.h>

/*
 * Which console is /dev/console: the last one named. That is the one on the
 * terminal, where there are two.
 */
static void put_consoles(FILE *f, const struct machine_config *c)
{
	bool serial_last = c->serial.kind == CHARDEV_STDIO;

	if (c->serial_present && !serial_last)
		fputs(" console=ttyS0", f);
	if (c->console_present)
		fputs(" console=hvc0", f);
	if (c->serial_present && serial_last)
		fputs(" console=ttyS0", f);
}

static void put_defaults(FILE *f, const struct machine_config *c)
{
	/*
	 * After a panic, reboot at once: nobody can look at a halted guest. Reboots
	 * go through ACPI's reset register, which is what a kernel tries first.
	 * panic_warm has a panicking kernel leave 0x1234 at address 0x472 before it
	 * resets, as BIOSes want it for a warm boot; by that the monitor can tell
	 * a panic from a reboot when no pvpanic driver was there to say so.
	 */
	fputs("panic=-1 reboot=panic_warm", f);
	/* Every message is an exit or more; errors and panics still show. */
	if (c->log_level < LOG_DEBUG)
		fputs(" quiet", f);
	put_consoles(f, c);
	/* The driver probes for four ports, by about a hundred exits, if not told how many. */
	fprintf(f, " 8250.nr_uarts=%d", c->serial_present);
	/*
	 * Without a PCI host there is no configuration space to look for; with ours,
	 * no chipset whose quirks must be known before the real scan.
	 */
	fputs(c->transport == CONFIG_MMIO ? " pci=off" : " pci=noearly", f);
	/*
	 * A distribution's kernel checks its ciphers against test vectors at every
	 * boot, RSA and elliptic curves among them: more than half of all
	 * instructions until init. In FIPS mode it does so all the same.
	 */
	fputs(" cryptomgr.notests", f);
	/*
	 * Memory that is plugged is of no use until somebody says "online", which
	 * distributions leave to programs; and what the kernel keeps for itself
	 * in it could never be unplugged.
	 */
	if (c->hotplug.bytes)
		fputs(" memhp_default_state=online_movable", f);
	/*
	 * Of the initial RAM disks only a distribution's reads this, and it finds
	 * no root without it. The user's own root= comes later and wins.
	 */
	for (unsigned i = 0; i < c->num_shares; i++) {
		if (!c->share[i].is_root)
			continue;
		fprintf(f, " root=%s rootfstype=virtiofs %s", c->share[i].tag,
			c->share[i].read_only ? "ro" : "rw");
		return;
	}
	if (c->num_disks)
		fprintf(f, " root=/dev/vda %s", c->disk[0].read_only ? "ro" : "rw");
}

char *config_cmdline(const struct machine_config *c)
{
	char *text = NULL;
	size_t len;
	FILE *f;

	if (c->cmdline_only)
		return strdup(c->cmdline ? c->cmdline : "");
	f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	put_defaults(f, c);
	if (c->cmdline)
		fprintf(f, " %s", c->cmdline);
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}
