// The connection as a transfer's child has it: frames, and waiting. One a process.
#pragma once
#include "wire.h"

// `in`: what was already read from it.
void peer_open(int fd, struct buffer *in);
// All of it, however slow the peer is. -1: it has hung up.
int peer_send(enum frame_type type, const void *payload, size_t n);
int peer_send_pairs(enum frame_type type, struct buffer *pairs);
// The last word: `failure`.
void peer_error(void);
// The next frame; `payload` is good until the call after it. -1: hung up, or a frame that is none.
int peer_next(enum frame_type *type, char **payload, size_t *n);
