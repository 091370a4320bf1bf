// Blocking reads and writes of frames; the socket itself stays non-blocking, as init has it too.
#include "peer.h"
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define READ_SIZE (FRAME_PAYLOAD_MAX + FRAME_HEADER)

static int fd;
static struct buffer *in;
static size_t consumed;  // of the frame that was handed out last

void peer_open(int socket, struct buffer *read) {
  fd = socket;
  in = read;
}

static int wait_for(short events) {
  struct pollfd one = {.fd = fd, .events = events};
  while (poll(&one, 1, -1) < 0)
    if (errno != EINTR) return fail("Cannot wait for the host");
  return 0;
}

int peer_send(enum frame_type type, const void *payload, size_t n) {
  uint8_t header[FRAME_HEADER] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24), (uint8_t)type};
  struct iovec parts[2] = {{header, sizeof header}, {(void *)payload, n}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  while (parts[0].iov_len + parts[1].iov_len) {
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) {
      if (wait_for(POLLOUT) < 0) return -1;
      continue;
    }
    if (sent < 0) return fail("Cannot send to the host");
    for (int i = 0; i < 2; i++) {
      size_t part = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;
      parts[i].iov_base = (char *)parts[i].iov_base + part;
      parts[i].iov_len -= part;
      sent -= (ssize_t)part;
    }
  }
  return 0;
}

int peer_send_pairs(enum frame_type type, struct buffer *pairs) {
  int result = peer_send(type, buffer_bytes(pairs), buffer_length(pairs));
  buffer_free(pairs);
  return result;
}

void peer_error(void) {
  struct buffer pairs = {0};
  pair_put(&pairs, "message", failure);
  peer_send_pairs(ERROR, &pairs);
}

int peer_next(enum frame_type *type, char **payload, size_t *n) {
  buffer_consume(in, consumed);
  consumed = 0;
  int result;
  while ((result = frame_peek(in, type, payload, n)) == 0) {
    ssize_t got = recv(fd, buffer_reserve(in, READ_SIZE), READ_SIZE, MSG_DONTWAIT);
    if (got > 0) buffer_grow(in, (size_t)got);
    else if (got == 0) return failx("The host has hung up");
    else if (errno == EAGAIN && wait_for(POLLIN) < 0) return -1;
    else if (errno != EAGAIN && errno != EINTR) return fail("Cannot receive from the host");
  }
  if (result < 0) return -1;
  consumed = FRAME_HEADER + *n;
  return 0;
}
