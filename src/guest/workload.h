// The image's program: PID 1 of its own PID namespace, in its own mount and cgroup namespaces and cgroup.
#pragma once
#include "config.h"
#include "conn.h"

// How the namespaces of a new workload are furnished, and how a child joins its cgroup (NULL: not at all).
struct place {
  int (*enter)(const struct config *config);
  int (*join)(pid_t first);
};
struct workload {
  const struct config *config;
  const struct place *place;
  pid_t pid;
  bool running;  // its exec has succeeded, and it lives
  int pid_ns, mnt_ns, cgroup_ns;
};
extern struct workload workload;

// How it went, for the host. `over` is set once all output has left the machine.
struct outcome {
  bool over, reboot, asked;  // asked: by SHUTDOWN, which waits
  int code;
  char message[FAILURE_MAX];
};
extern struct outcome outcome;

// Starts it; `running` is called once its exec has succeeded.
int workload_start(const struct config *config, const struct place *place, void (*running)(void));
// Signal (0: the configuration's), and SIGKILL once the grace is over. Again: the new grace counts.
void workload_stop(int signal, uint64_t grace_ms);
// A connection becomes a terminal or standard input of the workload.
void workload_attach(struct conn *conn);

// A child of init in the workload's PID namespace (as fork: 0 in the child), and that child's way into the rest of its
// namespaces and its cgroup.
pid_t workload_fork(void);
int workload_enter(void);
// "exited with code 1", "killed by signal 9 (SIGKILL) - OOM"; sets the code by the shell's rule 128 + n.
int status_explain(int status, bool oom, char message[FAILURE_MAX]);
