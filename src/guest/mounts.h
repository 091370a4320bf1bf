// File systems: init's own, the image's root, and what the workload's namespace gets.
#pragma once
#include "config.h"

// /proc, /sys, /dev, /dev/pts, cgroup2 of init's own namespace. First of all.
int mounts_early(void);
// EROFS image and ext4 disk become the overlay at ROOT_DIR.
int mounts_root(const struct config *config);
// In the workload's child, in its own mount, PID and cgroup namespaces: its root becomes /, with all that belongs into it.
int mounts_enter(const struct config *config);
// A disk by its name in /dev at `target`, which is made. `options` are the file system's own, not NULL.
int mount_disk(const char *disk, const char *target, const char *type, unsigned long flags, const char *options);
// At the end, when no process of the workload is left: everything on disk, nothing mounted writable.
void mounts_end(void);

#define ROOT_DIR "/run/root"
#define DISK_DIR "/run/disk"
#define IMAGE_DIR "/run/image"
