// virtio-console ports appear while the machine runs: the host announces each with a control message. uevents say when.
#include "port.h"
#include "loop.h"
#include "requests.h"
#include "wire.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME "dormouse\n"
#define APPEAR_MS 10000
#define RECONNECT_MS 20

static struct source port = {.fd = -1};
static struct buffer in, out;
static struct timer reconnect;

// Runs `open_it` after each uevent until it gives a descriptor.
static int wait_for(const char *what, int (*open_it)(void)) {
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
  char event[4096];
  int events = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
  if (events < 0 || bind(events, (struct sockaddr *)&address, sizeof address) < 0) return fail("Cannot listen for devices");
  uint64_t end = now_ms() + APPEAR_MS;
  int fd;
  while ((fd = open_it()) < 0 && now_ms() < end) {
    // An event may come before its device can be opened: so never long at a time.
    struct pollfd wait = {.fd = events, .events = POLLIN};
    poll(&wait, 1, 10);
    while (recv(events, event, sizeof event, 0) > 0) continue;
  }
  close(events);
  return fd < 0 ? failx("Cannot find %s: the machine has none after %d s", what, APPEAR_MS / 1000) : fd;
}

static int open_port(void) {
  DIR *dir = opendir("/sys/class/virtio-ports");
  struct dirent *entry;
  int fd = -1;
  while (dir && fd < 0 && (entry = readdir(dir))) {
    char path[320], name[64];
    if (*entry->d_name == '.') continue;
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    if (read_file(path, name, sizeof name) <= 0 || strcmp(name, NAME) != 0) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    fd = open_cloexec(path, O_RDWR | O_NONBLOCK);
  }
  if (dir) closedir(dir);
  return fd;
}

static int open_console(void) { return open_cloexec("/dev/hvc0", O_RDWR | O_NONBLOCK); }

int port_find(void) { return wait_for("the control port (a virtio port named dormouse)", open_port); }
int port_console(void) { return wait_for("the console /dev/hvc0", open_console); }

static void connected(struct timer *timer) {
  (void)timer;
  loop_want(&port, EPOLLIN | (buffer_length(&out) ? EPOLLOUT : 0));
}

// Nobody listens at the host's end: it reads as a hang-up that lasts, so the port is left alone for a moment.
static void disconnected(void) {
  loop_park(&port);
  timer_arm(&reconnect, RECONNECT_MS, connected);
}

static void flush(void) {
  while (buffer_length(&out)) {
    ssize_t n = write(port.fd, buffer_bytes(&out), buffer_length(&out));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;  // full, or nobody there yet: the loop tries again
    buffer_consume(&out, (size_t)n);
  }
  if (!reconnect.armed) loop_want(&port, EPOLLIN | (buffer_length(&out) ? EPOLLOUT : 0));
}

static void receive(void) {
  enum frame_type type;
  char *payload;
  size_t n;
  ssize_t got = read(port.fd, buffer_reserve(&in, 4096), 4096);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return disconnected();
  buffer_grow(&in, (size_t)got);
  int result;
  while ((result = frame_peek(&in, &type, &payload, &n)) > 0) {
    request_handle(type, payload, n);
    buffer_consume(&in, FRAME_HEADER + n);
  }
  if (result == 0) return;
  // The stream is out of step, and has no marks to find it again.
  say("The control port is reset: %s", failure);
  buffer_consume(&in, buffer_length(&in));
}

static void ready(struct source *source, uint32_t events) {
  (void)source;
  if (events & EPOLLOUT) flush();
  if (events & EPOLLIN) receive();
  else if (events & (EPOLLHUP | EPOLLERR)) disconnected();
}

int port_start(int fd) {
  port = (struct source){.fd = fd, .ready = ready};
  loop_want(&port, EPOLLIN);
  return set_nonblocking(fd);
}

static void put(enum frame_type type, struct buffer *pairs) {
  pairs_send(&out, type, pairs);
  if (port.fd >= 0) flush();
}

void port_state(const char *state) {
  struct buffer pairs = {0};
  pair_put(&pairs, "state", state);
  put(STATE, &pairs);
}

void port_exited(int code, const char *message, bool reboot) {
  struct buffer pairs = {0};
  pair_put(&pairs, "state", "exited");
  pair_put_number(&pairs, "code", code);
  pair_put(&pairs, "message", message);
  pair_put(&pairs, "reboot", reboot ? "1" : "0");
  put(STATE, &pairs);
}

void port_ack(const char *id, bool ok) {
  struct buffer pairs = {0};
  pair_put(&pairs, "id", id);
  pair_put(&pairs, "ok", ok ? "1" : "0");
  if (ok) pair_put_number(&pairs, "realtime_ns", realtime_ns());
  else pair_put(&pairs, "error", failure);
  put(ACK, &pairs);
}

void port_flush(uint64_t limit_ms) {
  uint64_t end = now_ms() + limit_ms;
  while (port.fd >= 0 && buffer_length(&out) && now_ms() < end) {
    struct pollfd wait = {.fd = port.fd, .events = POLLOUT};
    poll(&wait, 1, 10);
    flush();
  }
}
