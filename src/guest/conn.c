// Framing, flushing, and an orderly end: data, then shutdown, then wait for the peer's close.
#include "conn.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_MS 5000

size_t conn_count;
uint64_t conn_sent;

static void conn_free(struct conn *conn) {
  timer_stop(&conn->linger);
  loop_close(&conn->source);
  buffer_free(&conn->in);
  buffer_free(&conn->out);
  free(conn);
  conn_count--;
}

static void linger_over(struct timer *timer) { conn_free(container_of(timer, struct conn, linger)); }

static void update(struct conn *conn) {
  uint32_t in = conn->blocked || conn->lent ? 0 : EPOLLIN, out = buffer_length(&conn->out) ? EPOLLOUT : 0;
  loop_want(&conn->source, in | out | EPOLLRDHUP);
}

// A peer that is gone is noticed by the event loop (EPOLLHUP), not here: handlers may be on the stack.
static void flush(struct conn *conn) {
  while (buffer_length(&conn->out)) {
    ssize_t n = send(conn->source.fd, buffer_bytes(&conn->out), buffer_length(&conn->out), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) {
      buffer_consume(&conn->out, buffer_length(&conn->out));
      break;
    }
    buffer_consume(&conn->out, (size_t)n);
    conn_sent += (uint64_t)n;
  }
  if (conn->finishing && !buffer_length(&conn->out)) shutdown(conn->source.fd, SHUT_WR);
  update(conn);
}

static bool process(struct conn *conn) {
  enum frame_type type;
  char *payload;
  size_t n;
  while (!conn->finishing && !conn->lent) {
    int result = frame_peek(&conn->in, &type, &payload, &n);
    if (result > 0) result = conn->frame(conn, type, payload, n);
    else if (result == 0) break;
    if (result < 0) return say("A connection is dropped: %s", failure), false;
    conn->blocked = result == 0;
    if (conn->blocked) break;
    buffer_consume(&conn->in, FRAME_HEADER + n);
  }
  update(conn);
  return true;
}

// False where the connection is over.
static bool receive(struct conn *conn) {
  uint8_t *room = buffer_reserve(&conn->in, CHUNK);
  ssize_t n = recv(conn->source.fd, room, CHUNK, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  if (conn->finishing) return true;  // read and forgotten: unread data at close would reset the peer
  buffer_grow(&conn->in, (size_t)n);
  return process(conn);
}

static void ready(struct source *source, uint32_t events) {
  struct conn *conn = container_of(source, struct conn, source);
  if (events & EPOLLOUT) {
    bool full = !conn_has_room(conn);
    flush(conn);
    if (full && conn_has_room(conn) && !conn->finishing && conn->room) conn->room(conn);
  }
  // With input blocked, a hang-up still ends it: what was not read has nobody waiting for its effect.
  bool over = (events & (EPOLLHUP | EPOLLERR)) || ((events & EPOLLRDHUP) && (conn->blocked || conn->lent));
  if (!over && events & (EPOLLIN | EPOLLRDHUP)) over = !receive(conn);
  if (!over) return;
  if (!conn->finishing && conn->gone) conn->gone(conn);
  conn_free(conn);
}

struct conn *conn_open(int fd, int (*frame)(struct conn *, enum frame_type, char *, size_t)) {
  struct conn *conn = must_alloc(calloc(1, sizeof *conn));
  conn->source = (struct source){.fd = fd, .ready = ready};
  conn->frame = frame;
  conn_count++;
  update(conn);
  return conn;
}

void conn_send_raw(struct conn *conn, const void *bytes, size_t n) {
  buffer_append(&conn->out, bytes, n);
  flush(conn);
}

void conn_send(struct conn *conn, enum frame_type type, const void *payload, size_t n) {
  frame_put(&conn->out, type, payload, n);
  flush(conn);
}

void conn_send_pairs(struct conn *conn, enum frame_type type, struct buffer *pairs) {
  pairs_send(&conn->out, type, pairs);
  flush(conn);
}

bool conn_has_room(const struct conn *conn) { return buffer_length(&conn->out) < CONN_OUT_MAX; }

void conn_resume(struct conn *conn) {
  if (!conn->blocked) return;
  conn->blocked = false;
  if (!process(conn)) shutdown(conn->source.fd, SHUT_RDWR);  // the loop sees the hang-up and ends it
}

void conn_lend(struct conn *conn) {
  conn->lent = true;
  update(conn);
}

void conn_finish(struct conn *conn) {
  conn->finishing = true;
  conn->blocked = conn->lent = false;
  timer_arm(&conn->linger, LINGER_MS, linger_over);
  flush(conn);
}
