// The workload's output: from its pipes or terminal to the host's console (app.log), to those who are attached, and into a
// replay of the last 64 KiB for those who come later. Nothing is dropped: a slow taker slows the workload.
#pragma once
#include "conn.h"

#define REPLAY_MAX (64 * 1024)
// `console` is written raw and not blocking.
int output_open(int console);
void output_stream(int fd, enum frame_type type);
// Sends the replay and then what comes.
void output_attach(struct conn *conn);
void output_detach(struct conn *conn);
// The workload is dead: `done` is called once all that it wrote has left the machine.
void output_finish(void (*done)(void));
// For all who are attached: the last frame.
void output_exit(int code, const char *message);
