// Frames and pairs. Only the host speaks on these channels, but lengths are checked all the same.
#include "wire.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t *buffer_reserve(struct buffer *b, size_t n) {
  if (b->start && (b->start == b->end || b->capacity - b->end < n)) {
    if (b->start != b->end) memmove(b->data, b->data + b->start, b->end - b->start);
    b->end -= b->start;
    b->start = 0;
  }
  if (b->capacity - b->end < n) {
    size_t capacity = b->capacity ? b->capacity : 512;
    while (capacity - b->end < n) capacity *= 2;
    b->data = must_alloc(realloc(b->data, capacity));
    b->capacity = capacity;
  }
  return b->data + b->end;
}

void buffer_grow(struct buffer *b, size_t n) { b->end += n; }

void buffer_append(struct buffer *b, const void *bytes, size_t n) {
  if (!n) return;
  memcpy(buffer_reserve(b, n), bytes, n);
  b->end += n;
}

void buffer_consume(struct buffer *b, size_t n) { b->start += n; }

void buffer_free(struct buffer *b) {
  free(b->data);
  *b = (struct buffer){0};
}

void frame_put(struct buffer *out, enum frame_type type, const void *payload, size_t n) {
  uint8_t header[FRAME_HEADER] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24), (uint8_t)type};
  buffer_append(out, header, sizeof header);
  buffer_append(out, payload, n);
}

int frame_peek(const struct buffer *in, enum frame_type *type, char **payload, size_t *n) {
  if (buffer_length(in) < FRAME_HEADER) return 0;
  const uint8_t *h = buffer_bytes(in);
  *n = h[0] | (size_t)h[1] << 8 | (size_t)h[2] << 16 | (size_t)h[3] << 24;
  if (*n > FRAME_PAYLOAD_MAX) return failx("Cannot read a frame of %zu bytes: at most %d are allowed", *n, FRAME_PAYLOAD_MAX);
  *type = h[4];
  *payload = (char *)buffer_bytes(in) + FRAME_HEADER;
  return buffer_length(in) >= FRAME_HEADER + *n;
}

void pair_put(struct buffer *pairs, const char *key, const char *value) {
  buffer_append(pairs, key, strlen(key) + 1);
  buffer_append(pairs, value, strlen(value) + 1);
}

void pair_put_number(struct buffer *pairs, const char *key, long long value) {
  char text[24];
  snprintf(text, sizeof text, "%lld", value);
  pair_put(pairs, key, text);
}

void pairs_send(struct buffer *out, enum frame_type type, struct buffer *pairs) {
  frame_put(out, type, buffer_bytes(pairs), buffer_length(pairs));
  buffer_free(pairs);
}

int pair_next(struct pair_reader *reader, char **key, char **value) {
  size_t left = (size_t)(reader->end - reader->at);
  if (!left) return 0;
  char *end_of_key = memchr(reader->at, 0, left);
  char *end_of_value = end_of_key ? memchr(end_of_key + 1, 0, (size_t)(reader->end - end_of_key - 1)) : NULL;
  if (!end_of_value) return failx("Cannot read a list of pairs: it does not end with a NUL byte after a value");
  *key = reader->at;
  *value = end_of_key + 1;
  reader->at = end_of_value + 1;
  return 1;
}

int parse_number(const char *key, const char *value, long long min, long long max, long long *number) {
  char *end;
  errno = 0;
  long long n = strtoll(value, &end, 10);
  if (errno || end == value || *end || n < min || n > max) return failx("Cannot use %s: \"%s\" is not a number from %lld to %lld", key, value, min, max);
  *number = n;
  return 0;
}
