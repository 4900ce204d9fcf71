/*
 * What a network interface ends in on the host: opened from its configuration by
 * whoever may open files (the parent, before it forks; `wisp restore` and `clone`
 * for the new ends of a machine), taken over by the machine. No threads.
 */
#ifndef WISP_VMM_NET_ENDS_H
#define WISP_VMM_NET_ENDS_H

#include "devices/net_tap.h"
#include "vmm/config/config.h"
#include "vmm/helper.h"

struct net_ends {
	int socket;	    /* of a user network's helper or of a switch; -1: none */
	struct net_tap tap; /* num_queues is 0 when it is none */
	int vhost[NET_MAX_PAIRS]; /* of the first @num_vhost queues; -1: taken */
	unsigned num_vhost;
};

/* None of anything; allocates nothing. */
void net_ends_init(struct net_ends *e);

/*
 * Open what @net says, for the machine @where (its name and its run directory). @h: where to keep
 * the helper of a user network, which gets ready meanwhile (helper_await_ready()).
 */
int net_ends_open(struct net_ends *e, const struct config_net *net,
		  const struct machine_config *where, struct helper *h, struct error *err);

/* A stand-in that nothing comes from, for a machine that is only looked at. */
int net_ends_open_nothing(struct net_ends *e, struct error *err);

/*
 * For the machine whose memory @mem is: make them nets on @loop, one for each pair of queues; on
 * success @ret_pairs (room for NET_MAX_PAIRS) holds @ret_num. @e keeps nothing, also on failure.
 */
int net_ends_take(struct net_ends *e, const struct config_net *net, struct loop *loop,
		  const struct guest_mem *mem, struct net **ret_pairs, unsigned *ret_num,
		  struct error *err);

/* Close what nobody has taken; harmless when repeated. */
void net_ends_close(struct net_ends *e);

#endif
