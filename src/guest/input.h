// Standard input of a program: a pipe or a terminal that may be slow to take what connections send.
#pragma once
#include "conn.h"

struct input {
  struct source source;
  struct buffer pending;
  struct conn *waiting;  // those whose frames wait until there is room
  bool terminal, end;
};
// `fd` -1: there is no input, all of it is dropped. Owns the descriptor.
void input_open(struct input *input, int fd, bool terminal);
// Handlers of the frames STDIN and RESIZE, with conn->frame's results.
int input_write(struct input *input, struct conn *conn, const char *bytes, size_t n);
int input_resize(struct input *input, const char *payload, size_t n);
void input_forget(struct input *input, struct conn *conn);
void input_close(struct input *input);
