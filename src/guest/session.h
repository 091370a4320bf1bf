#pragma once
#include <sys/types.h>

// A signal to the process group that `leader` leads, or to itself while it has none yet.
void session_signal(pid_t leader, int signal);
// A signal to every process of the session that `leader` leads or led: the session's number stays theirs while one lives.
void session_kill(pid_t leader, int signal);
