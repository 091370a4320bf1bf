// The last steps of a child on its way to become the workload or an exec'd program.
#pragma once
#include "config.h"

// What a child reports through a CLOEXEC pipe when it can't become the program; nothing at all means that it did.
struct spawn_error {
  int code;  // 127: not found, 126: can't be run, 125: the machine could not be set up
  char message[FAILURE_MAX];
};
// Writes `failure` with the code, and ends the process.
_Noreturn void spawn_fail(int report, int code);

// Three descriptors become standard input, output and error (they may be the same).
int spawn_stdio(int in, int out, int err);
// New session, with `tty` (a slave) as its controlling terminal.
int spawn_terminal(int tty);
// Inside the image's root: user, environment, directory, signals, exec. Returns never.
_Noreturn void spawn_exec(const struct command *command, int report);
