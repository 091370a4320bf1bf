// The workload's cgroup. Two levels: the outer one is out of the workload's reach (its namespace begins at the inner one),
// so what is set there holds: the freezer and the filter of device nodes.
#pragma once
#include "util.h"

// Makes both and lets the workload's have every controller; denies it the host's channels: hvc consoles, and the character
// devices with the major number of `port`, an open virtio port.
int cgroup_start(int port);
// In a child: joins the workload's cgroup, or the one of its first process where that takes no processes any more.
int cgroup_join(pid_t first);
// Asks for the state; cgroup_frozen() says when it is reached (the events file is polled for EPOLLPRI).
int cgroup_freeze(bool frozen);
int cgroup_events_open(void);
bool cgroup_frozen(int events);
// How many of its processes the kernel has killed for lack of memory.
long cgroup_oom_kills(void);
