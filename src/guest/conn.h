// One connection of frames with bounded buffers both ways.
#pragma once
#include "loop.h"
#include "wire.h"

// Output waits in the sender's pipe once this much waits here.
#define CONN_OUT_MAX (128 * 1024)
#define CHUNK 16384

struct conn {
  struct source source;
  struct buffer in, out;
  // 1: consumed, 0: not now (conn_resume() offers it again), -1: breaks the protocol, `failure` says how.
  int (*frame)(struct conn *conn, enum frame_type type, char *payload, size_t n);
  void (*room)(struct conn *conn);  // there is room for output again
  void (*gone)(struct conn *conn);  // the peer hung up: the last call, the connection is freed after it
  void *owner;
  struct conn *next_waiting;  // of those whose input has no room (input.h)
  bool blocked, finishing, lent;
  struct timer linger;
};
extern size_t conn_count;
extern uint64_t conn_sent;  // bytes, of all connections: grows while somebody reads
struct conn *conn_open(int fd, int (*frame)(struct conn *, enum frame_type, char *, size_t));
void conn_send(struct conn *conn, enum frame_type type, const void *payload, size_t n);
void conn_send_pairs(struct conn *conn, enum frame_type type, struct buffer *pairs);
// Already encoded frames.
void conn_send_raw(struct conn *conn, const void *bytes, size_t n);
bool conn_has_room(const struct conn *conn);
void conn_resume(struct conn *conn);
// A child reads and writes on it from now on, beginning with what is in `in`: here only a hang-up is noticed, until conn_finish.
void conn_lend(struct conn *conn);
// Sends what waits, then closes. No handler is called any more.
void conn_finish(struct conn *conn);
