#pragma once
#include "util.h"

// Before the workload is there: it can take /dev/pts away from its name, not from whoever has it open.
int terminal_start(void);
// A new terminal of init's devpts, which the workload sees as its own. The master does not block.
int terminal_open(int *master, int *slave, unsigned short rows, unsigned short cols);
int terminal_resize(int master, unsigned short rows, unsigned short cols);
// In a child, inside the workload's root: the slave opened by its name there, so that ttyname() finds it;
// `slave` itself where the workload's /dev/pts is not init's.
int terminal_named(int master, int slave);
// The same for the workload, whose /dev/console it becomes.
int terminal_console(int master, int slave);
