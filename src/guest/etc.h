#pragma once
#include "config.h"

// Writes /etc/hostname, /etc/hosts and /etc/resolv.conf of the current root as Docker does. A file that can't be written
// (a full disk) is said on the console, and does not keep the workload from starting.
void etc_write(const struct config *config);
