/*
 * A hypervisor that accepts everything and runs nothing: behind --dry-run, so
 * that the machine printed is the machine that would be built.
 */
#ifndef WISP_VMM_HV_NULL_H
#define WISP_VMM_HV_NULL_H

#include "vmm/core/hv.h"

/* Never fails but for memory (-ENOMEM). */
int hv_null_create(struct hv **ret_hv);

#endif
