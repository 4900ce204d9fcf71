/*
 * The state file of the API's snapshots: a header, what the API's resources were (JSON), and the
 * sections of docs/snapshot.md. api_snapshot_create.c writes it, api_snapshot.c reads it.
 */
#ifndef WISP_HELPERS_API_SNAPSHOT_FILE_H
#define WISP_HELPERS_API_SNAPSHOT_FILE_H

#include <stdint.h>

#define API_SNAPSHOT_MAGIC "WISPFC\r\n"
#define API_MAX_RESOURCES  (1u << 20)
#define API_MAX_STATE	   (64u << 20)

/* Integers are little-endian. */
struct api_snapshot_header {
	char magic[8];
	char version[24];
	uint32_t resources; /* bytes of JSON */
	uint32_t state;	    /* bytes of sections */
};

#endif
