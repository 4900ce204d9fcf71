/* Seeds for fuzz_nbd: servers that say hello in several ways, and guests that read and write. */
#include <stdint.h>

#include "tests/fuzz/seed.h"

#define HELLO  "NBDMAGICIHAVEOPT\0\1"
#define REPLY  "\0\3\350\211\4\125\145\251\0\0\0\7"
#define EXPORT REPLY "\0\0\0\3\0\0\0\14\0\0\0\0\0\0\0\20\0\0\0\155"
#define SIZES  REPLY "\0\0\0\3\0\0\0\16\0\3\0\0\2\0\0\0\20\0\2\0\0\0"
#define ACK    REPLY "\0\0\0\1\0\0\0\0"
#define NO     REPLY "\200\0\0\6\0\0\0\4gone"

/* Steps, by their numbers in fuzz_nbd.c. */
#define SUBMIT(how, sectors, op, at) "\0" how sectors op at "\11"
#define ANSWER			     "\1\0\0"
#define LIE			     "\2\20gibberish, 16 by"
#define HANG_UP			     "\3"
#define DIAL			     "\4\0"
#define WAIT			     "\5\10"
#define HURRY			     "\6"
#define READ			     "\7"

#define SEED(dir, name, text) seed_write(dir, name, text, sizeof(text) - 1)

int main(int argc, char **argv)
{
	const char *dir = argv[1];

	if (argc != 2)
		return 2;
	return !(SEED(dir, "hello", "\200" HELLO EXPORT SIZES ACK) &&
		 SEED(dir, "refused", "\200" HELLO NO) &&
		 SEED(dir, "served",
		      "\0" SUBMIT("\0", "\1", "\0", "\0") SUBMIT("\1", "\7", "\1", "\2")
			      SUBMIT("\2", "\1", "\2", "\0") READ ANSWER ANSWER ANSWER) &&
		 SEED(dir, "durable",
		      "\2" SUBMIT("\100", "\1", "\1", "\0") SUBMIT("\1", "\1", "\4", "\0") READ
			      ANSWER ANSWER READ ANSWER) &&
		 SEED(dir, "comes-back",
		      "\0" SUBMIT("\0", "\1", "\0", "\0") READ HANG_UP READ DIAL READ ANSWER) &&
		 SEED(dir, "lies", "\0" SUBMIT("\0", "\1", "\0", "\0") READ LIE READ DIAL READ) &&
		 SEED(dir, "hurried",
		      "\0" SUBMIT("\0", "\1", "\0", "\0") READ HANG_UP HURRY
			      SUBMIT("\1", "\1", "\0", "\0") WAIT DIAL READ ANSWER));
}
