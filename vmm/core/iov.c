#include "vmm/core/iov.h"

#include "vmm/core/util.h"

unsigned iov_slice(const struct iovec *iov, unsigned num, uint64_t skip, uint64_t len,
		   struct iovec *to)
{
	unsigned n = 0;

	for (unsigned i = 0; i < num && len; i++) {
		uint64_t have = iov[i].iov_len;

		if (skip >= have) {
			skip -= have;
			continue;
		}
		have = MIN(have - skip, len);
		if (to)
			to[n] = (struct iovec){ (uint8_t *)iov[i].iov_base + skip, have };
		skip = 0;
		len -= have;
		n++;
	}
	return n;
}

unsigned iov_advance(struct iovec **iov, unsigned num, uint64_t bytes)
{
	while (num && bytes >= (*iov)->iov_len) {
		bytes -= (*iov)->iov_len;
		(*iov)++;
		num--;
	}
	if (num) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + bytes;
		(*iov)->iov_len -= bytes;
	}
	return num;
}
