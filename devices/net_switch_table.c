#include "devices/net_switch_table.h"

static uint64_t make_key(unsigned vlan, const uint8_t addr[6])
{
	uint64_t key = 0;

	memcpy(&key, addr, 6);
	/* VLANs begin with 1, so a key is never 0. */
	return key | (uint64_t)vlan << 48;
}

static struct net_switch_entry *bucket(struct net_switch_table *t, uint64_t key)
{
	uint64_t h = (key ^ t->secret) * 0x9e3779b97f4a7c15ull;

	h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ull;
	return t->entry[(h >> 32) % NET_SWITCH_BUCKETS];
}

static bool is_old(const struct net_switch_table *t, const struct net_switch_entry *e,
		   uint64_t now_ns)
{
	return now_ns - e->seen_ns > t->max_age_ns;
}

static void set_free(struct net_switch_table *t, struct net_switch_entry *e)
{
	if (e->key)
		t->num[e->port]--;
	e->key = 0;
}

void net_switch_learn(struct net_switch_table *t, unsigned vlan, const uint8_t addr[6],
		      unsigned port, uint64_t now_ns)
{
	uint64_t key = make_key(vlan, addr);
	struct net_switch_entry *b = bucket(t, key), *room = NULL;

	for (unsigned i = 0; i < NET_SWITCH_WAYS; i++) {
		if (b[i].key == key) {
			room = &b[i];
			break;
		}
		if (!b[i].key || is_old(t, &b[i], now_ns))
			room = room ? room : &b[i];
	}
	if (room && room->key == key && room->port == port) {
		room->seen_ns = now_ns;
		return;
	}
	/* Others' addresses stay, whatever one port makes up. */
	if (!room || t->num[port] >= t->max_per_port)
		return;
	set_free(t, room);
	*room = (struct net_switch_entry){ key, now_ns, port };
	t->num[port]++;
}

int net_switch_find(const struct net_switch_table *t, unsigned vlan, const uint8_t addr[6],
		    uint64_t now_ns)
{
	uint64_t key = make_key(vlan, addr);
	const struct net_switch_entry *b = bucket((struct net_switch_table *)t, key);

	for (unsigned i = 0; i < NET_SWITCH_WAYS; i++) {
		if (b[i].key == key)
			return is_old(t, &b[i], now_ns) ? -1 : (int)b[i].port;
	}
	return -1;
}

void net_switch_forget(struct net_switch_table *t, unsigned port)
{
	for (unsigned i = 0; i < NET_SWITCH_BUCKETS; i++) {
		for (unsigned k = 0; k < NET_SWITCH_WAYS; k++) {
			if (t->entry[i][k].key && t->entry[i][k].port == port)
				set_free(t, &t->entry[i][k]);
		}
	}
}
