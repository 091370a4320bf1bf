// Sessions as proc(5) shows them: a shell's jobs have process groups of their own, but its session.
#include "session.h"
#include "util.h"
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void session_signal(pid_t leader, int signal) {
  if (kill(-leader, signal) < 0) kill(leader, signal);
}

static pid_t session_of(const char *pid) {
  char path[300], text[512];
  int session = 0;
  snprintf(path, sizeof path, "/proc/%s/stat", pid);
  if (read_file(path, text, sizeof text) <= 0) return 0;
  // The name may hold anything, parentheses too; state, parent, group and session follow the last one.
  const char *at = strrchr(text, ')');
  return at && sscanf(at + 1, " %*c %*d %*d %d", &session) == 1 ? session : 0;
}

void session_kill(pid_t leader, int signal) {
  DIR *proc = opendir("/proc");
  struct dirent *entry;
  while (proc && (entry = readdir(proc))) {
    if (*entry->d_name < '1' || *entry->d_name > '9') continue;
    if (session_of(entry->d_name) == leader) kill((pid_t)strtol(entry->d_name, NULL, 10), signal);
  }
  if (proc) closedir(proc);
}
