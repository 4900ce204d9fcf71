/*
 * The registers of the machine itself that two rooms must agree on: devices
 * answer there, and the ACPI tables tell the guest so. Numbers only.
 */
#ifndef WISP_CORE_PLATFORM_H
#define WISP_CORE_PLATFORM_H

#define POWER_SLEEP_CONTROL_PORT 0x600 /* hardware-reduced sleep control and status, 2 bytes */
#define POWER_RESET_PORT	 0x602 /* write POWER_RESET_VALUE */
#define POWER_RESET_VALUE	 0x01
#define POWER_GED_PORT		 0x604 /* 4 bytes: pending events, read clears */
#define POWER_PVPANIC_PORT	 0x505
#define POWER_EXIT_PORT		 0x501
#define POWER_TEST_DEVICE_PORT	 0xf4  /* (v << 1) | 1, only with --test-device */
#define POWER_SLEEP_TYPE_S5	 5
#define POWER_GED_GSI		 9

/* Bits of the GED's event register; the DSDT's _EVT method dispatches on them. */
#define GED_POWER_BUTTON (1u << 0)
#define GED_VMGENID	 (1u << 1)
#define GED_PCI_HOTPLUG	 (1u << 2)
#define GED_VMCLOCK	 (1u << 3)

/*
 * PCI hot-plug, 4 bytes each, a bit a slot: slots that appeared and slots that
 * are to go (read clears), and a register that ejects the slots written to it.
 */
#define POWER_PCI_HOTPLUG_PORT	0x610
#define POWER_PCI_HOTPLUG_BYTES 12

#endif
