/* What fuzz_receive's input is made of; seeds_receive.c writes the same. */
#ifndef WISP_TESTS_FUZZ_FUZZ_RECEIVE_H
#define WISP_TESTS_FUZZ_FUZZ_RECEIVE_H

/*
 * The first byte: how the destination was asked, and what becomes of it.
 * From bit 4 on: how many connections there are besides the first, up to 3.
 */
#define FUZZ_RECEIVE_SHARED   1 /* its memory has a descriptor that the source may have */
#define FUZZ_RECEIVE_COPIES   2 /* its disk comes along */
#define FUZZ_RECEIVE_BY_HAND  4 /* who waits for a COMMIT is told so, else it is ended */
#define FUZZ_RECEIVE_CUT      8 /* the further connections end before the first */
#define FUZZ_RECEIVE_LANES(n) ((n) << 4)
#define FUZZ_RECEIVE_OTHER    64 /* disks there are not as here */
#define FUZZ_RECEIVE_RAW      128 /* what follows is no records, but bytes */

/*
 * Then records: 1 byte for connection (bits 6 and 7) and type (less 1), 1 for its page (signed,
 * times 64, but for STATE), 2 for its length, its payload. A STATE's is what is changed in that of
 * a whole machine: 4 bytes each, which section, where in it (2), the byte. One of an odd length is
 * sent as it is.
 */
#define FUZZ_RECEIVE_RECORD_BYTES 4
#define FUZZ_RECEIVE_CHANGE_BYTES 4

#endif
