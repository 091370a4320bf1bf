// What to run, and on what: /dormouse/config, and the same keys in an EXEC frame.
#pragma once
#include "util.h"

// A program to start: the workload, or an exec in it.
struct command {
  struct list args, env;
  const char *cwd;   // NULL: / for the workload, the workload's for an exec
  const char *user;  // NULL or empty: root
  bool tty;
  unsigned short rows, cols;
  long long timeout_ms;  // 0: none (EXEC only)
};
// 1: the key was the command's, 0: it is someone else's, -1: its value is bad.
int command_set(struct command *command, const char *key, char *value);

struct config {
  struct command command;
  bool systemd, stdin_open;
  int stop_signal;
  const char *hostname, *ip, *gateway, *mac;
  const char *disk_root, *disk_upper;
  struct list dns, search, hosts, volumes, mounts;
};
// Reads the file, which stays in memory for good: the strings point into it.
int config_read(const char *path, struct config *config);

// "SIGTERM", "TERM", "15", "SIGRTMIN+3": the kernel's number (SIGRTMIN is 34 as in glibc), or -1.
int signal_parse(const char *name);
// "SIGKILL" for 9; "signal 50" for what has no name.
const char *signal_text(int number);
