/* Handles: files and directories that the guest has open. */
#include "devices/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define NO_PLACE      UINT32_MAX
#define FIRST_HANDLES 16u

static int take_place(struct fs_server *s, uint32_t *ret_place)
{
	uint32_t room = s->room_handles ? s->room_handles * 2 : FIRST_HANDLES;
	void *p;

	if (s->used_handles >= s->max_open)
		return -ENFILE;
	if (s->used_handles < s->num_handles) {
		*ret_place = s->free_handle;
		s->free_handle = s->handle[*ret_place].next_free;
		return 0;
	}
	if (s->num_handles == s->room_handles) {
		p = reallocarray(s->handle, room, sizeof(s->handle[0]));
		if (!p)
			return -ENOMEM;
		s->handle = p;
		s->room_handles = room;
	}
	*ret_place = s->num_handles++;
	return 0;
}

int fs_handle_add(struct fs_server *s, struct fs_node *n, int fd, uint32_t flags,
		  struct fs_handle **ret_h)
{
	uint32_t place;
	int r = take_place(s, &place);

	if (r < 0) {
		if (fd >= 0)
			close(fd);
		return r;
	}
	s->used_handles++;
	s->handle[place] = (struct fs_handle){
		.id = (uint64_t)++s->handle_generation << 32 | (place + 1),
		.node_id = n->id,
		.fd = fd,
		.flags = flags,
		.is_dir = S_ISDIR(n->is.type),
	};
	*ret_h = &s->handle[place];
	return 0;
}

int fs_handle_restore(struct fs_server *s, const struct fs_handle *from)
{
	uint32_t place = (uint32_t)from->id - 1, room = place + 1;
	struct fs_handle *p;

	if (place >= s->max_open || place < s->num_handles) {
		if (from->fd >= 0)
			close(from->fd);
		return -EINVAL;
	}
	if (room > s->room_handles) {
		p = reallocarray(s->handle, room, sizeof(s->handle[0]));
		if (!p) {
			if (from->fd >= 0)
				close(from->fd);
			return -ENOMEM;
		}
		s->handle = p;
		s->room_handles = room;
	}
	/* They come in order: what is in between is free. */
	for (; s->num_handles <= place; s->num_handles++) {
		s->handle[s->num_handles] = (struct fs_handle){ .next_free = s->free_handle };
		s->free_handle = s->num_handles;
	}
	s->free_handle = s->handle[place].next_free;
	s->handle[place] = *from;
	s->used_handles++;
	return 0;
}

struct fs_handle *fs_handle_find(struct fs_server *s, uint64_t id, bool is_dir)
{
	uint32_t place = (uint32_t)id - 1;
	struct fs_handle *h;

	if (place >= s->num_handles)
		return NULL;
	h = &s->handle[place];
	return h->id == id && h->is_dir == is_dir ? h : NULL;
}

void fs_handle_remove(struct fs_server *s, struct fs_handle *h)
{
	if (h->fd >= 0)
		close(h->fd);
	h->id = 0;
	h->next_free = s->free_handle;
	s->free_handle = h - s->handle;
	s->used_handles--;
}

void fs_handles_clear(struct fs_server *s)
{
	for (uint32_t i = 0; i < s->num_handles; i++)
		if (s->handle[i].id)
			fs_handle_remove(s, &s->handle[i]);
	free(s->handle);
	s->handle = NULL;
	s->num_handles = s->room_handles = 0;
	s->free_handle = NO_PLACE;
}
