// The testbed's PID 1: runs one command and carries its input, output, signals and exit status over a virtio-serial port.
// Static; started by init.sh after the root file system is in place. The other end is session.ts.
// A frame is: u8 type, u32le length, payload. The types are listed below.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  CONFIG = 1, // host: strings that end in NUL: tty (0 or 1), rows, columns, directory, out share or "", number of arguments, arguments, environment
  STDIN = 2,  // host: bytes; none is the end of input
  SIGNAL = 3, // host: u8 number, for the command's process group
  RESIZE = 4, // host: u16le rows, u16le columns
  READY = 16, // agent: none; CONFIG may come
  STDOUT = 17,
  STDERR = 18,
  CREDIT = 19, // agent: u32le bytes of STDIN that the command has taken; the host keeps no more than INPUT_WINDOW on the way
  EXIT = 20,   // agent: u8 status, last
  ALIVE = 21,  // agent: none; where it had nothing else to say for ALIVE_S
};
enum { MAX_PAYLOAD = 512 * 1024, INPUT_WINDOW = 64 * 1024, CHUNK = 32 * 1024, ALIVE_S = 5 };

static int port = -1, tty;
static pid_t command;
static int in_fd = -1, out_fd = -1, err_fd = -1; // our ends; with a terminal in_fd == out_fd, the master
static char input[INPUT_WINDOW];
static size_t input_length;
static int input_ended;
static const char *out_share = "";

static void die(const char *what) {
  fprintf(stderr, "testbed: cannot %s: %s\n", what, strerror(errno)); // the kernel console
  exit(1);                                                          // PID 1 ends: the kernel panics, and QEMU with it
}

static void write_all(int fd, const void *data, size_t length) {
  for (const char *p = data; length > 0;) {
    ssize_t n = write(fd, p, length);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) die("write to the host");
    p += n, length -= n;
  }
}

static time_t seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

static time_t last_sent;

static void send_frame(uint8_t type, const void *payload, uint32_t length) {
  static char frame[5 + CHUNK];
  frame[0] = type;
  memcpy(frame + 1, &length, 4);
  memcpy(frame + 5, payload, length);
  write_all(port, frame, 5 + length);
  last_sent = seconds();
}

static void read_all(int fd, void *data, size_t length) {
  for (char *p = data; length > 0;) {
    ssize_t n = read(fd, p, length);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) die("read from the host");
    p += n, length -= n;
  }
}

/** Reads one frame; the payload is valid until the next call. */
static uint8_t receive_frame(char **payload, uint32_t *length) {
  static char body[MAX_PAYLOAD + 1];
  char head[5];
  read_all(port, head, 5);
  memcpy(length, head + 1, 4);
  if (*length > MAX_PAYLOAD) { errno = EMSGSIZE; die("read a frame"); }
  read_all(port, body, *length);
  body[*length] = 0;
  *payload = body;
  return head[0];
}

static int open_port(void) {
  DIR *dev = opendir("/dev");
  for (struct dirent *e; dev && (e = readdir(dev));)
    if (strncmp(e->d_name, "vport", 5) == 0) {
      int fd = openat(dirfd(dev), e->d_name, O_RDWR | O_CLOEXEC);
      closedir(dev);
      return fd;
    }
  errno = ENODEV;
  return -1;
}

static void exec_command(char **argv, char **env, const char *directory) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  struct rlimit files = {1024, 524288}; // as systemd has it
  setrlimit(RLIMIT_NOFILE, &files);
  if (chdir(directory) != 0) {
    fprintf(stderr, "testbed: cannot change to %s: %s\n", directory, strerror(errno));
    _exit(126);
  }
  environ = env;
  execvp(argv[0], argv);
  fprintf(stderr, "testbed: cannot run %s: %s\n", argv[0], strerror(errno));
  _exit(errno == ENOENT ? 127 : 126);
}

static void start_command(char *config, uint32_t length) {
  char **strings = calloc(length + 2, sizeof *strings);
  uint32_t n = 0;
  for (uint32_t at = 0; at < length; at += strlen(config + at) + 1) strings[n++] = strdup(config + at);
  if (n < 7) { errno = EINVAL; die("understand the configuration"); }
  tty = atoi(strings[0]);
  struct winsize size = {.ws_row = atoi(strings[1]), .ws_col = atoi(strings[2])};
  const char *directory = strings[3];
  out_share = strings[4];
  int argc = atoi(strings[5]);
  char **argv = calloc(argc + 1, sizeof *argv), **env = strings + 6 + argc; // `strings` ends in NULL
  memcpy(argv, strings + 6, argc * sizeof *argv);

  if (tty) {
    if ((command = forkpty(&in_fd, NULL, NULL, &size)) < 0) die("start the command");
    if (command == 0) exec_command(argv, env, directory);
    out_fd = in_fd;
    fcntl(in_fd, F_SETFL, O_NONBLOCK);
    return;
  }
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) die("make pipes");
  if ((command = fork()) < 0) die("start the command");
  if (command == 0) {
    dup2(in[0], 0), dup2(out[1], 1), dup2(err[1], 2);
    setsid(); // a process group of its own, so that signals reach all of it
    exec_command(argv, env, directory);
  }
  close(in[0]), close(out[1]), close(err[1]);
  in_fd = in[1], out_fd = out[0], err_fd = err[0];
  fcntl(in_fd, F_SETFL, O_NONBLOCK), fcntl(out_fd, F_SETFL, O_NONBLOCK), fcntl(err_fd, F_SETFL, O_NONBLOCK);
}

static void close_input(void) {
  if (in_fd >= 0 && !tty) close(in_fd);
  in_fd = -1;
}

/** Hands waiting input on, as much as the command takes. */
static void push_input(void) {
  if (input_length > 0) {
    ssize_t n = in_fd < 0 ? (ssize_t)input_length : write(in_fd, input, input_length);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) close_input(), n = input_length; // nobody reads any more: the rest is dropped
    memmove(input, input + n, input_length - n);
    input_length -= n;
    uint32_t credit = n;
    send_frame(CREDIT, &credit, 4);
  }
  if (input_ended && input_length == 0) close_input();
}

static void handle_frame(void) {
  char *payload;
  uint32_t length;
  uint16_t size[2];
  switch (receive_frame(&payload, &length)) {
  case STDIN:
    if (length == 0) input_ended = 1;
    if (input_length + length > INPUT_WINDOW) { errno = EMSGSIZE; die("take input"); }
    memcpy(input + input_length, payload, length);
    input_length += length;
    push_input();
    break;
  case SIGNAL:
    if (length == 1) kill(-command, payload[0]);
    break;
  case RESIZE:
    if (length == 4 && tty && out_fd >= 0) {
      memcpy(size, payload, 4);
      struct winsize w = {.ws_row = size[0], .ws_col = size[1]};
      ioctl(out_fd, TIOCSWINSZ, &w);
    }
    break;
  }
}

/** Carries one chunk of output; false when there is none now. Closes the descriptor at its end. */
static int pull_output(int *fd, uint8_t type) {
  static char chunk[CHUNK];
  if (*fd < 0) return 0;
  ssize_t n = read(*fd, chunk, sizeof chunk);
  if (n > 0) { send_frame(type, chunk, n); return 1; }
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (tty) close_input(); // EIO: the last process with the terminal is gone
  close(*fd), *fd = -1;
  return 0;
}

/** Reaps what has ended; the command's status, or -1 while it runs. */
static int reap(void) {
  int status, result = -1;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    if (pid == command) result = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

static int serve(int signals) {
  for (;;) {
    int writing = input_length > 0 && in_fd >= 0;
    struct pollfd fds[] = {
      {port, POLLIN, 0},
      {signals, POLLIN, 0},
      {out_fd, POLLIN | (tty && writing ? POLLOUT : 0), 0}, // a negative descriptor is left out
      {err_fd, POLLIN, 0},
      {!tty && writing ? in_fd : -1, POLLOUT, 0},
    };
    if (poll(fds, sizeof fds / sizeof *fds, ALIVE_S * 1000) < 0 && errno != EINTR) die("wait for events");
    if (seconds() - last_sent >= ALIVE_S) send_frame(ALIVE, "", 0);
    if (fds[0].revents & POLLIN) handle_frame();
    else if (fds[0].revents & POLLHUP) { errno = EPIPE; die("reach the host"); } // it was killed: so ends the machine
    if (writing) push_input();
    if (fds[2].revents & (POLLIN | POLLHUP | POLLERR)) pull_output(&out_fd, STDOUT);
    if (fds[3].revents) pull_output(&err_fd, STDERR);
    if (fds[1].revents) {
      struct signalfd_siginfo info;
      if (read(signals, &info, sizeof info) < 0 && errno != EAGAIN) die("read signals");
      int status = reap();
      if (status >= 0) return status;
    }
  }
}

/**
 * Keeps this process, and with it the command and all that it starts, off CPU 0. QEMU's emulation has a fault (seen in 7.2): whichever CPU
 * loads floating-point state, cpu_clear_ignne() writes CPU 0's hflags2 back, by a read and a write that nothing orders with CPU 0's own. Where
 * that meets a VMRUN or #VMEXIT on CPU 0, its guest goes on without nested paging or its host without interrupts: the guest triple-faults, or
 * the machine dies. So no vCPU may run on CPU 0; it is the one CPU more that the machine has for that (SPARE_CPUS in machine.ts).
 * Nothing may give it back: a cgroup with the cpuset controller sets the affinity of whatever enters it, so init.sh hands that controller on to none.
 */
static void leave_cpu0(void) {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) die("read the CPU affinity");
  CPU_CLR(0, &cpus);
  if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) die("leave CPU 0");
}

int main(void) {
  leave_cpu0();
  sigset_t set;
  sigfillset(&set);
  sigprocmask(SIG_SETMASK, &set, NULL);
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0) die("watch children");
  if ((port = open_port()) < 0) die("open the port to the host");

  send_frame(READY, "", 0);
  char *config;
  uint32_t length;
  if (receive_frame(&config, &length) != CONFIG) { errno = EPROTO; die("start"); }
  start_command(config, length);
  uint8_t status = serve(signals);
  // What a background process still holds open is not waited for.
  while (pull_output(&out_fd, STDOUT) || pull_output(&err_fd, STDERR));
  int out = *out_share ? open(out_share, O_RDONLY | O_DIRECTORY) : -1;
  if (out >= 0 && syncfs(out) != 0) die("write the out share");
  send_frame(EXIT, &status, 1);
  for (;;) pause(); // the host ends the machine
}
