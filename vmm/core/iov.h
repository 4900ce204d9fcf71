/*
 * Memory in segments (struct iovec), as requests have it: parts of it, without copying.
 *
 * Nothing here looks at the memory itself or keeps what it is given. Any thread.
 */
#ifndef WISP_CORE_IOV_H
#define WISP_CORE_IOV_H

#include <stdint.h>
#include <sys/uio.h>

/*
 * The bytes [@skip, @skip + @len) of the @num segments at @iov, as far as there are any, to @to,
 * which has room for @num segments; NULL: only count. Returns how many they are, none empty.
 */
unsigned iov_slice(const struct iovec *iov, unsigned num, uint64_t skip, uint64_t len,
		   struct iovec *to);

/*
 * Drop the first @bytes of the @num segments at *@iov: *@iov then is the first that is left, cut
 * where those end, and not empty. Returns how many are left: 0 when that was all, or more.
 */
unsigned iov_advance(struct iovec **iov, unsigned num, uint64_t bytes);

#endif
