/* Writes the seeds of fuzz_gdb into the directory given: what gdb says. */
#include <string.h>

#include "tests/fuzz/seed.h"

static const char *const sessions[] = {
	"qSupported:multiprocess+;swbreak+\nvMustReplyEmpty\nQStartNoAckMode\nHg0\n?\nqC\n",
	"qTStatus\n?\nqfThreadInfo\nqsThreadInfo\nqAttached\nqC\nHc-1\n",
	"qXfer:features:read:target.xml:0,ffb\nqXfer:features:read:target.xml:ffb,ffb\n",
	"g\np0\npff\nP10=0010000000000000\nG0000000000000000\n",
	"m1000,40\nM1000,4:01020304\nX1000,2:}\x03z\nmffffffffffffffff,ffff\n",
	"Z0,1000,1\nZ1,1000,1\nZ2,1000,8\nc\n!\x03\nz0,1000,1\nz2,1000,8\n",
	"vCont?\nvCont;s:1;c\n!\x03\ns\n!\x03\nvCont;c:p1.-1\n!\x03\n",
	"qRcmd,68656c70\nqRcmd,7068797320\nT1\nT99\nHgp1.2\nqThreadExtraInfo,1\n",
	"!$c#63\n!+++\n!$m0,1#00\n!$$##\n!\x03\x03\nD\nk\n",
};

int main(int argc, char **argv)
{
	char name[16];

	if (argc != 2)
		return 2;
	for (unsigned i = 0; i < sizeof(sessions) / sizeof(*sessions); i++) {
		snprintf(name, sizeof(name), "%u", i);
		if (!seed_write(argv[1], name, sessions[i], strlen(sessions[i])))
			return 1;
	}
	return 0;
}
