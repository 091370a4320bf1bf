// At most one frame waits here; the next stays in the connection's buffer, and so with the sender.
#include "input.h"
#include "terminal.h"
#include <errno.h>
#include <unistd.h>

#define END_OF_TRANSMISSION "\x04"  // what a terminal's end of input is (VEOF)

static void flush(struct input *input) {
  while (buffer_length(&input->pending)) {
    ssize_t n = write(input->source.fd, buffer_bytes(&input->pending), buffer_length(&input->pending));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return loop_want(&input->source, EPOLLOUT);
    if (n < 0) return input_close(input);  // EPIPE, EIO: the program does not read any more
    buffer_consume(&input->pending, (size_t)n);
  }
  if (input->end) return input_close(input);
  loop_park(&input->source);  // a reader's hang-up is of no interest while nothing is to be written
}

static void ready(struct source *source, uint32_t events) {
  struct input *input = container_of(source, struct input, source);
  (void)events;
  flush(input);
  if (buffer_length(&input->pending)) return;
  struct conn *waiting = input->waiting;
  input->waiting = NULL;
  while (waiting) {
    struct conn *next = waiting->next_waiting;
    conn_resume(waiting);  // may wait again
    waiting = next;
  }
}

void input_open(struct input *input, int fd, bool terminal) {
  *input = (struct input){.source = {.fd = fd, .ready = ready}, .terminal = terminal};
}

int input_write(struct input *input, struct conn *conn, const char *bytes, size_t n) {
  if (input->source.fd < 0 || input->end) return 1;
  if (buffer_length(&input->pending)) {
    conn->next_waiting = input->waiting;
    input->waiting = conn;
    return 0;
  }
  if (n) buffer_append(&input->pending, bytes, n);
  else if (input->terminal) buffer_append(&input->pending, END_OF_TRANSMISSION, 1);
  else input->end = true;
  flush(input);
  return 1;
}

int input_resize(struct input *input, const char *payload, size_t n) {
  const uint8_t *p = (const uint8_t *)payload;
  if (n != 4) return failx("Cannot use a RESIZE frame of %zu bytes: it has 4", n);
  if (!input->terminal || input->source.fd < 0) return 1;
  if (terminal_resize(input->source.fd, (unsigned short)(p[0] | p[1] << 8), (unsigned short)(p[2] | p[3] << 8)) < 0) say("%s", failure);
  return 1;
}

void input_forget(struct input *input, struct conn *conn) {
  for (struct conn **at = &input->waiting; *at; at = &(*at)->next_waiting) {
    if (*at != conn) continue;
    *at = conn->next_waiting;
    return;
  }
}

void input_close(struct input *input) {
  loop_close(&input->source);
  buffer_free(&input->pending);
}
