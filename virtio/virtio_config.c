/*
 * What transports read and write of a device before it runs: features, fields of queues,
 * configuration space. The control side.
 */
#include "virtio/virtio.h"

uint32_t virtio_get_features(struct virtio_device *dev, unsigned word)
{
	return word < 2 ? dev->offered >> (32 * word) : 0;
}

void virtio_set_features(struct virtio_device *dev, unsigned word, uint32_t bits)
{
	if (word > 1)
		return;
	pthread_mutex_lock(&dev->lock);
	if (!(dev->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		dev->features &= ~(0xffffffffull << (32 * word));
		dev->features |= (uint64_t)bits << (32 * word);
	}
	pthread_mutex_unlock(&dev->lock);
}

struct virtq *virtio_queue(struct virtio_device *dev, unsigned index)
{
	return index < dev->num_queues ? &dev->queue[index] : NULL;
}

struct virtq *virtio_queue_config(struct virtio_device *dev, unsigned index)
{
	struct virtq *q = virtio_queue(dev, index);

	if (!q || dev->busy || (dev->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return NULL;
	return q;
}

void virtio_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	/* What lies past the end reads as 0: drivers look at fields of later versions. */
	memset(data, 0, len);
	if (offset >= dev->ops->config_size || !dev->ops->config_read)
		return;
	pthread_mutex_lock(&dev->lock);
	atomic_fetch_add(&dev->stats.config_accesses, 1);
	dev->ops->config_read(dev, offset, data, MIN((size_t)len, dev->ops->config_size - offset));
	pthread_mutex_unlock(&dev->lock);
}

void virtio_config_write(struct virtio_device *dev, unsigned offset, const void *data, unsigned len)
{
	if (!range_inside(offset, len, 0, dev->ops->config_size) || !dev->ops->config_write)
		return;
	pthread_mutex_lock(&dev->lock);
	atomic_fetch_add(&dev->stats.config_accesses, 1);
	dev->ops->config_write(dev, offset, data, len);
	pthread_mutex_unlock(&dev->lock);
}
