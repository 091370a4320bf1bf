// Disks of the key `mount`: volumes, and what is written over one that is read-only.
// init mounts them itself and the workload gets those mounts, so that init can bring them into order at the end.
#pragma once
#include "config.h"

#define ATTACHED_DIR "/run/attached"

// In init, before there is a workload: all are mounted below ATTACHED_DIR, which exists only where there are any.
int attached_mount(const struct config *config);
// In the workload's child, before its root is switched; and after it: each at its path, which is resolved inside the image.
int attached_open(void);
int attached_attach(void);
bool attached_any(void);
// When no process of the workload is left: what was written is on disk, and no journal has to be replayed.
void attached_end(void);
