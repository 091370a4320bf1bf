// Folders that lie on the writable disk itself: an image's VOLUMEs, and those of Docker and containerd.
// overlayfs refuses an upper layer on overlayfs, and data that is written in place is faster there.
#pragma once
#include "config.h"

struct volumes {
  struct list paths;
  int *trees;  // detached mounts, one a path
  int disk;    // the folder `volumes` of the writable disk
};
// A detached mount of the folder at `path`, attached elsewhere later, in a root that does not see `path`.
int tree_open(const char *path);
int tree_attach(int tree, const char *target);

// Before the root is switched: makes the folders on the disk.
int volumes_open(const struct config *config, struct volumes *volumes);
// After it: fills new ones from the image and mounts them. Paths are resolved inside the image.
int volumes_attach(struct volumes *volumes);
