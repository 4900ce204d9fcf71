/* Queues that the host's kernel serves in our place: what the core knows of them. */
#include "virtio/virtio.h"

void virtio_queue_elsewhere(struct virtio_device *dev, unsigned queue, bool elsewhere)
{
	dev->doorbell[queue].elsewhere = elsewhere;
}

bool virtio_queue_is_watched(const struct virtio_device *dev, unsigned queue)
{
	const struct loop_event *event = &dev->doorbell[queue].event;

	return event->watched || !loop_event_idle(event);
}

void virtio_queue_unwatch(struct virtio_device *dev, unsigned queue)
{
	loop_event_unwatch(&dev->doorbell[queue].event);
}

int virtio_interrupt_fd(const struct virtio_device *dev, unsigned queue)
{
	if (!dev->transport_ops || !dev->transport_ops->interrupt_fd)
		return -1;
	return dev->transport_ops->interrupt_fd(dev->transport, queue);
}

void virtio_serve_here(struct virtio_device *dev)
{
	if (dev->ops->serve_here)
		dev->ops->serve_here(dev);
}

void virtio_tell_moved(struct loop_task *task)
{
	struct virtio_device *dev = container_of(task, struct virtio_device, moved_task);

	dev->ops->interrupts_moved(dev);
}

void virtio_interrupts_moved(struct virtio_device *dev)
{
	if (dev->ops->interrupts_moved)
		loop_post(dev->loop, &dev->moved_task);
}
