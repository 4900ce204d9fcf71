/*
 * Counters of microVMs in Prometheus' text format, version 0.0.4: for `wisp stat --prometheus`,
 * which a scraper or a text-file collector reads.
 */
#ifndef WISP_VMM_PROMETHEUS_H
#define WISP_VMM_PROMETHEUS_H

#include <jansson.h>
#include <stdio.h>

/*
 * Print the metrics of @machines (as of fleet_list(), with counters), each name's samples
 * together under its HELP and TYPE, as the format wants them.
 */
void prometheus_print(FILE *out, const json_t *machines);

#endif
