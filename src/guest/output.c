// One pump for all streams of the workload.
#include "output.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define STREAMS 2
#define ATTACHED_MAX 64
#define CONSOLE_MAX (32 * 1024)

static struct stream {
  struct source source;
  enum frame_type type;
} streams[STREAMS];
static struct source console = {.fd = -1};
static struct buffer pending;  // on its way to the console
static struct buffer replay;   // whole frames
static struct conn *attached[ATTACHED_MAX];
static void (*finished)(void);

static bool all_have_room(void) {
  if (buffer_length(&pending) >= CONSOLE_MAX) return false;
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (attached[i] && !conn_has_room(attached[i])) return false;
  return true;
}

static void update(void) {
  bool open = false;
  uint32_t want = all_have_room() ? EPOLLIN : 0;
  for (size_t i = 0; i < STREAMS; i++) {
    if (streams[i].source.fd < 0 || !streams[i].source.ready) continue;
    open = true;
    loop_want(&streams[i].source, want);
  }
  loop_want(&console, buffer_length(&pending) ? EPOLLOUT : 0);
  if (open || buffer_length(&pending) || !finished) return;
  void (*done)(void) = finished;
  finished = NULL;
  // What the terminal's driver still holds goes out before anyone resets the machine.
  if (isatty(console.fd)) tcdrain(console.fd);
  done();
}

static void console_flush(void) {
  while (buffer_length(&pending)) {
    ssize_t n = write(console.fd, buffer_bytes(&pending), buffer_length(&pending));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      if (n == 0 || errno == EAGAIN) return;
      say("Cannot write the workload's output: %s", strerror(errno));
      buffer_consume(&pending, buffer_length(&pending));
      return;
    }
    buffer_consume(&pending, (size_t)n);
  }
}

static void console_ready(struct source *source, uint32_t events) {
  (void)source, (void)events;
  console_flush();
  update();
}

// Old frames leave the replay whole.
static void remember(enum frame_type type, const void *bytes, size_t n) {
  enum frame_type old;
  char *payload;
  size_t length;
  frame_put(&replay, type, bytes, n);
  while (buffer_length(&replay) > REPLAY_MAX && frame_peek(&replay, &old, &payload, &length) == 1) buffer_consume(&replay, FRAME_HEADER + length);
}

static void stream_ready(struct source *source, uint32_t events) {
  struct stream *stream = container_of(source, struct stream, source);
  char chunk[CHUNK];
  (void)events;
  if (!all_have_room()) {
    // A hang-up is reported even where nothing is waited for: the descriptor leaves the loop until there is room.
    return loop_park(source);
  }
  ssize_t n = read(source->fd, chunk, sizeof chunk);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) loop_close(source);  // a terminal says EIO when its last slave is closed
  else {
    buffer_append(&pending, chunk, (size_t)n);
    console_flush();
    remember(stream->type, chunk, (size_t)n);
    for (size_t i = 0; i < ATTACHED_MAX; i++)
      if (attached[i]) conn_send(attached[i], stream->type, chunk, (size_t)n);
  }
  update();
}

int output_open(int fd) {
  struct termios raw;
  console = (struct source){.fd = fd, .ready = console_ready};
  if (isatty(fd)) {
    if (tcgetattr(fd, &raw) < 0) return fail("Cannot read the console's settings");
    cfmakeraw(&raw);
    if (tcsetattr(fd, TCSANOW, &raw) < 0) return fail("Cannot make the console raw");
  }
  return set_nonblocking(fd);
}

void output_stream(int fd, enum frame_type type) {
  for (size_t i = 0; i < STREAMS; i++) {
    if (streams[i].source.ready) continue;
    streams[i] = (struct stream){{.fd = fd, .ready = stream_ready}, type};
    return update();
  }
}

static void attached_room(struct conn *conn) {
  (void)conn;
  update();
}

void output_attach(struct conn *conn) {
  for (size_t i = 0; i < ATTACHED_MAX; i++) {
    if (attached[i]) continue;
    attached[i] = conn;
    conn->room = attached_room;
    conn_send_raw(conn, buffer_bytes(&replay), buffer_length(&replay));
    return;
  }
  say("Cannot attach: %d connections are attached already", ATTACHED_MAX);
  conn_finish(conn);
}

void output_detach(struct conn *conn) {
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (attached[i] == conn) attached[i] = NULL;
  update();
}

void output_finish(void (*done)(void)) {
  finished = done;
  update();
}

void output_exit(int code, const char *message) {
  for (size_t i = 0; i < ATTACHED_MAX; i++) {
    if (!attached[i]) continue;
    struct buffer pairs = {0};
    pair_put_number(&pairs, "code", code);
    pair_put(&pairs, "message", message);
    conn_send_pairs(attached[i], EXIT, &pairs);
    conn_finish(attached[i]);
    attached[i] = NULL;
  }
}
