#include "tests/sim/disk_model.h"

void disk_model_init(struct disk_model *m)
{
	memset(m, 0, sizeof(*m));
	for (unsigned i = 0; i < DISK_SECTORS; i++)
		m->sector[i].num = 1;
}

bool disk_model_begin(struct disk_model *m, unsigned first, unsigned num, bool write)
{
	for (unsigned i = first; i < first + num; i++) {
		if (m->sector[i].writer || (write && m->sector[i].readers))
			return false;
	}
	for (unsigned i = first; i < first + num; i++) {
		m->sector[i].writer = write;
		m->sector[i].readers += !write;
	}
	return true;
}

void disk_model_cancel(struct disk_model *m, unsigned first, unsigned num, bool write)
{
	for (unsigned i = first; i < first + num; i++) {
		m->sector[i].writer = false;
		m->sector[i].readers -= !write;
	}
}

void disk_model_end_write(struct disk_model *m, unsigned first, unsigned num, uint64_t value,
			  bool certain)
{
	for (unsigned i = first; i < first + num; i++) {
		struct disk_sector *s = &m->sector[i];

		s->writer = false;
		if (certain) {
			s->maybe[0] = value;
			s->num = 1;
		} else if (s->num == DISK_MAYBE) {
			s->num = 0;
		} else if (s->num) {
			s->maybe[s->num++] = value;
		}
	}
}

static bool full_of(const uint8_t *data, uint64_t *ret_value)
{
	memcpy(ret_value, data, sizeof(*ret_value));
	return !memcmp(data, data + sizeof(*ret_value), DISK_SECTOR - sizeof(*ret_value));
}

static bool possible(struct disk_sector *s, uint64_t value)
{
	bool found = !s->num;

	for (unsigned i = 0; i < s->num; i++)
		found |= s->maybe[i] == value;
	return found;
}

bool disk_model_end_read(struct disk_model *m, unsigned first, unsigned num, const void *data)
{
	bool good = true;

	for (unsigned i = 0; i < num; i++) {
		struct disk_sector *s = &m->sector[first + i];
		uint64_t value;

		s->readers--;
		if (!data)
			continue;
		if (!full_of((const uint8_t *)data + i * DISK_SECTOR, &value) ||
		    !possible(s, value)) {
			good = false;
			continue;
		}
		s->maybe[0] = value;
		s->num = 1;
	}
	return good;
}
