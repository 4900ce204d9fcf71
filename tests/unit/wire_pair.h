/*
 * Both ends of a migration's stream in one thread, for unit tests: what is sent at one stays in
 * the socket until it is received at the other, so a round or a record has to fit (8 MiB do).
 * Setting up asserts (cmocka). migrate_wire_done() of each is the caller's.
 */
#ifndef WISP_TESTS_WIRE_PAIR_H
#define WISP_TESTS_WIRE_PAIR_H

#include "vmm/migrate/migrate_wire.h"

void wire_pair(struct migrate_wire *a, struct migrate_wire *b);

#endif
