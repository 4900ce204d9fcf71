/* What a part of fuzz_api's input is beside a request: its first byte counts on behind them. */
#ifndef WISP_TESTS_FUZZ_FUZZ_API_H
#define WISP_TESTS_FUZZ_FUZZ_API_H

enum {
	FUZZ_API_ANSWER,   /* what the monitor says next */
	FUZZ_API_SECTIONS, /* what it saves as a machine's state */
	FUZZ_API_PAGES,	   /* which pages it says that it wrote, "0110" */
	FUZZ_API_STATE,	   /* a snapshot's file: its resources */
	FUZZ_API_CONFIG,   /* a configuration file, and it is loaded */
	FUZZ_API_DESCRIBE, /* whose snapshot the file is */
	FUZZ_API_PCI,	   /* devices may be plugged in */
	FUZZ_API_NUM_OPS
};

#endif
