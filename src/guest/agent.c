// Accepts connections and gives each to exec, attach or a transfer by its first frame.
#include "agent.h"
#include "conn.h"
#include "exec.h"
#include "transfer.h"
#include "workload.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

#define CONNECTIONS_MAX 512
#define RETRY_MS 50

static struct source listener = {.fd = -1};
static struct timer retry;

static int first_frame(struct conn *conn, enum frame_type type, char *payload, size_t n) {
  if (type == EXEC) return exec_start(conn, payload, n);
  if (type == COPY_OUT || type == COPY_IN || type == STAT) return transfer_start(conn, type, payload, n);
  if (type != ATTACH) return failx("Cannot use frame %d as the first of a connection: it is EXEC, ATTACH, COPY_OUT, COPY_IN or STAT", type);
  workload_attach(conn);
  return 1;
}

static void serve_again(struct timer *timer) {
  (void)timer;
  loop_want(&listener, EPOLLIN);
}

static void ready(struct source *source, uint32_t events) {
  (void)events;
  if (conn_count < CONNECTIONS_MAX) {
    int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      conn_open(fd, first_frame);
      return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    say("Cannot accept a connection: %s", strerror(errno));
  }
  // Too many, or out of memory: those who come wait in the socket's backlog.
  loop_park(source);
  timer_arm(&retry, RETRY_MS, serve_again);
}

int agent_listen(void) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail("Cannot create a vsock socket");
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 128) == 0) return fd;
  fail("Cannot listen on vsock port %d", AGENT_PORT);
  close(fd);
  return -1;
}

int agent_serve(int fd) {
  listener = (struct source){.fd = fd, .ready = ready};
  loop_want(&listener, EPOLLIN);
  return 0;
}

static void nothing(struct timer *timer) { (void)timer; }

void agent_flush(uint64_t stall_ms, uint64_t limit_ms) {
  struct timer stall = {0}, limit = {0};
  uint64_t sent = conn_sent;
  loop_close(&listener);
  timer_stop(&retry);
  transfers_end();
  timer_arm(&stall, stall_ms, nothing);
  timer_arm(&limit, limit_ms, nothing);
  while (conn_count && stall.armed && limit.armed) {
    loop_once();
    if (sent != conn_sent) timer_arm(&stall, stall_ms, nothing);
    sent = conn_sent;
  }
  timer_stop(&stall);
  timer_stop(&limit);
}
