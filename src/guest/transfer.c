// A transfer is a child with init's rights inside the workload's root, that speaks frames on the connection itself. It is in
// the workload's cgroup (so it freezes and pays with it), but not in its PID namespace: the workload can't see or trace it.
#include "transfer.h"
#include "peer.h"
#include "transfer-files.h"
#include "workload.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// A child whose peer has hung up notices it by itself, unless it is stuck in a file system of the workload's.
#define HANGUP_GRACE_MS 2000

struct transfer {
  struct conn *conn;  // NULL once the peer has hung up
  struct child child;
  struct timer deadline;
  struct transfer *next;
};
static struct transfer *transfers;

static void refuse(struct conn *conn) {
  struct buffer pairs = {0};
  pair_put(&pairs, "message", failure);
  conn_send_pairs(conn, ERROR, &pairs);
  conn_finish(conn);
}

static void exited(struct child *child, int status) {
  struct transfer *transfer = container_of(child, struct transfer, child);
  (void)status;  // who was killed in the middle of a frame is a hang-up to the host
  timer_stop(&transfer->deadline);
  if (transfer->conn) conn_finish(transfer->conn);
  for (struct transfer **at = &transfers; *at; at = &(*at)->next) {
    if (*at != transfer) continue;
    *at = transfer->next;
    break;
  }
  free(transfer);
}

static void grace_over(struct timer *timer) { kill(container_of(timer, struct transfer, deadline)->child.pid, SIGKILL); }

static void gone(struct conn *conn) {
  struct transfer *transfer = conn->owner;
  transfer->conn = NULL;
  timer_arm(&transfer->deadline, HANGUP_GRACE_MS, grace_over);
}

// Nothing of init's stays open but the connection and the standard descriptors (/dev/null).
static int enter(int fd) {
  if (workload_enter() < 0) return -1;
  say_nothing();
  if (fd > 3) syscall(SYS_close_range, 3, fd - 1, 0);
  syscall(SYS_close_range, fd + 1, ~0U, 0);
  umask(0);
  signals_reset();
  return 0;
}

static _Noreturn void become(struct conn *conn, enum frame_type type, const char *payload, size_t n) {
  struct buffer request = {0};
  buffer_append(&request, payload, n);
  buffer_consume(&conn->in, FRAME_HEADER + n);
  peer_open(conn->source.fd, &conn->in);
  struct pair_reader reader = {(char *)buffer_bytes(&request), (char *)buffer_bytes(&request) + n};
  int result = enter(conn->source.fd);
  if (result == 0) result = type == COPY_IN ? files_in(&reader) : type == COPY_OUT ? files_out(&reader) : files_stat(&reader);
  if (result < 0) peer_error();
  _exit(0);
}

int transfer_start(struct conn *conn, enum frame_type type, const char *payload, size_t n) {
  pid_t pid = workload.running ? fork() : failx("Cannot copy files: the workload is not running");
  if (pid == 0) become(conn, type, payload, n);
  if (pid < 0) {
    if (workload.running) fail("Cannot create a process");
    refuse(conn);
    return 1;
  }
  struct transfer *transfer = must_alloc(calloc(1, sizeof *transfer));
  transfer->conn = conn;
  transfer->next = transfers;
  transfers = transfer;
  child_watch(&transfer->child, pid, exited);
  conn->owner = transfer;
  conn->gone = gone;
  conn_lend(conn);
  return 1;
}

void transfers_end(void) {
  for (struct transfer *transfer = transfers; transfer; transfer = transfer->next)
    if (transfer->conn) shutdown(transfer->conn->source.fd, SHUT_RDWR);
}
