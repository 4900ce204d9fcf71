/* Between migrate_mirror.c, which fills records of disks, and migrate_mirror_sink.c. */
#ifndef WISP_VMM_MIGRATE_MIRROR_RECORD_H
#define WISP_VMM_MIGRATE_MIRROR_RECORD_H

#include "vmm/migrate/migrate_mirror.h"

/* Where in a record of DISK its units begin. */
#define MIGRATE_DISK_AT	     8
#define MIGRATE_ZEROES_BYTES 12

/* Units of MIGRATE_UNIT that @bytes take, the last of which may be a part of one. */
static inline uint64_t migrate_units(uint64_t bytes)
{
	return bytes / MIGRATE_UNIT + (bytes % MIGRATE_UNIT != 0);
}

#endif
