// Frames and pairs as docs/architecture.md defines them, and the byte queue that they travel in.
#pragma once
#include "util.h"

enum frame_type {
  STATE = 1, SHUTDOWN, FREEZE, THAW, WAKE, ACK, SYNC,
  EXEC = 16, ATTACH, STDIN, RESIZE, SIGNAL, STDOUT, STDERR, EXIT, STARTED, ERROR,
  COPY_OUT, COPY_IN, STAT, ENTRY, DATA, DONE, SKIPPED,
};
#define FRAME_HEADER 5
#define FRAME_PAYLOAD_MAX 65536

// A growing queue of bytes: appended at the end, consumed at the start.
struct buffer {
  uint8_t *data;
  size_t start, end, capacity;
};
static inline size_t buffer_length(const struct buffer *b) { return b->end - b->start; }
static inline uint8_t *buffer_bytes(const struct buffer *b) { return b->data + b->start; }
// Room for n more bytes at the end; the caller fills them and calls buffer_grow.
uint8_t *buffer_reserve(struct buffer *b, size_t n);
void buffer_grow(struct buffer *b, size_t n);
void buffer_append(struct buffer *b, const void *bytes, size_t n);
void buffer_consume(struct buffer *b, size_t n);
void buffer_free(struct buffer *b);

void frame_put(struct buffer *out, enum frame_type type, const void *payload, size_t n);
// Looks at the first frame of a queue. 1: complete (the caller consumes FRAME_HEADER + *n), 0: more bytes needed, -1: longer than allowed.
int frame_peek(const struct buffer *in, enum frame_type *type, char **payload, size_t *n);

void pair_put(struct buffer *pairs, const char *key, const char *value);
void pair_put_number(struct buffer *pairs, const char *key, long long value);
// Appends the pairs as one frame, cut to what a frame holds, and empties them.
void pairs_send(struct buffer *out, enum frame_type type, struct buffer *pairs);

struct pair_reader {
  char *at, *end;
};
// 1: a pair (strings inside the payload), 0: the end, -1: malformed.
int pair_next(struct pair_reader *reader, char **key, char **value);
// A decimal number in [min, max], or -1 with `failure` naming the key.
int parse_number(const char *key, const char *value, long long min, long long max, long long *number);
