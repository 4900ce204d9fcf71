/* The DSDT's body: the devices that a guest cannot find by itself, and their methods. */
#ifndef WISP_FIRMWARE_DSDT_H
#define WISP_FIRMWARE_DSDT_H

#include "firmware/aml.h"
#include "firmware/firmware.h"

void fw_dsdt_write(struct aml *a, const struct fw_platform *platform);

#endif
