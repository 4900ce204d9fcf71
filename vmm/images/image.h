/*
 * Container images as directory trees: an OCI layout, or an archive as `docker
 * save` writes it, unpacked once into the user's cache.
 *
 * Whatever the image says is checked and contained: a process of its own unpacks it, which can
 * write nothing but the cache (Landlock), and every name in it is resolved within the tree. A
 * tree is called by the digests of its layers' contents, which are compared.
 */
#ifndef WISP_VMM_IMAGE_H
#define WISP_VMM_IMAGE_H

#include "vmm/core/error.h"

/*
 * The tree of the image at @path: 1 with its directory in @ret_dir (free it), which nobody is to
 * change; 0 when @path is a directory of another kind, or nothing; or -errno. May take as long as
 * the image is large, the first time.
 */
int image_find(const char *path, char **ret_dir, struct error *err);
/*
 * Has the tree @dir of image_find() extended attributes? Who serves it then has to know that
 * it was an image (fs_server_config.kept_xattr); for others it would only be slower.
 */
bool image_has_xattrs(const char *dir);

#endif
