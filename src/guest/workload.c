// Start, end and standard input of the workload.
#include "workload.h"
#include "cgroup.h"
#include "input.h"
#include "output.h"
#include "spawn.h"
#include "terminal.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct workload workload = {.pid_ns = -1, .mnt_ns = -1, .cgroup_ns = -1};
struct outcome outcome;

static struct child child;
static struct source report = {.fd = -1};
static struct timer grace;
static struct input input;
static int console_slave = -1;  // keeps the terminal up while programs open and close it
static int exit_status;
static bool dead, start_failed, stopped_early, killed_by_us;
static uint64_t grace_given_ms;
static void (*on_running)(void);

int status_explain(int status, bool oom, char message[FAILURE_MAX]) {
  if (WIFEXITED(status)) {
    int code = WEXITSTATUS(status);
    bool likely = oom && code == 128 + SIGKILL;  // a shell reports its child's death so
    snprintf(message, FAILURE_MAX, "exited with code %d%s", code, likely ? " - OOM" : "");
    return code;
  }
  int signal = WTERMSIG(status);
  snprintf(message, FAILURE_MAX, "killed by signal %d (%s)%s", signal, signal_text(signal), oom && signal == SIGKILL ? " - OOM" : "");
  return 128 + signal;
}

static void output_gone(void) { outcome.over = true; }

static void settle(void) {
  // The first process of a PID namespace can't die of these: so the kernel tells that it called reboot(2).
  bool restart = WIFSIGNALED(exit_status) && WTERMSIG(exit_status) == SIGHUP;
  bool power_off = WIFSIGNALED(exit_status) && WTERMSIG(exit_status) == SIGINT;
  if (restart || power_off) {
    outcome.reboot = restart;
    snprintf(outcome.message, sizeof outcome.message, restart ? "restarted itself" : "powered itself off");
    return;
  }
  outcome.code = status_explain(exit_status, !killed_by_us && cgroup_oom_kills() > 0, outcome.message);
  size_t n = strlen(outcome.message);
  if (killed_by_us) snprintf(outcome.message + n, sizeof outcome.message - n, " after a grace period of %llu ms", (unsigned long long)grace_given_ms);
}

static void ended(struct child *gone, int status) {
  (void)gone;
  exit_status = status;
  dead = true;
  workload.running = false;
  timer_stop(&grace);
  if (report.fd >= 0) return;  // its report says why
  if (!start_failed) settle();
  input_close(&input);
  close_fd(&console_slave);
  output_finish(output_gone);
}

static int open_namespace(const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/%s", workload.pid, name);
  return open_cloexec(path, O_RDONLY);
}

static void report_ready(struct source *source, uint32_t events) {
  struct spawn_error error;
  (void)events;
  ssize_t n = read(source->fd, &error, sizeof error);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  loop_close(source);
  start_failed = n == sizeof error;
  if (start_failed) {
    outcome.code = error.code;
    snprintf(outcome.message, sizeof outcome.message, "%s", error.message);
  } else if (stopped_early) {
    start_failed = true;
    outcome.code = 128 + SIGKILL;
    snprintf(outcome.message, sizeof outcome.message, "stopped before its program was started");
  } else {
    workload.mnt_ns = open_namespace("mnt");
    workload.cgroup_ns = open_namespace("cgroup");
    workload.pid_ns = open_namespace("pid");
    // A program that is over so soon was running all the same.
    workload.running = !dead && workload.mnt_ns >= 0 && workload.cgroup_ns >= 0 && workload.pid_ns >= 0;
    on_running();
  }
  if (dead) ended(&child, exit_status);
}

struct stdio { int in, out, err, master; };

static _Noreturn void become(const struct stdio *stdio, int report_end) {
  const struct config *config = workload.config;
  int in = stdio->in, out = stdio->out, err = stdio->err;
  if (workload.place->enter(config) < 0) spawn_fail(report_end, 125);
  if (config->command.tty && (in = out = err = terminal_console(stdio->master, in)) < 0) spawn_fail(report_end, 125);
  if (in < 0 && (in = open_cloexec("/dev/null", O_RDONLY)) < 0) spawn_fail(report_end, 125);
  if (spawn_stdio(in, out, err) < 0 || spawn_terminal(config->command.tty ? 0 : -1) < 0) spawn_fail(report_end, 125);
  spawn_exec(&config->command, report_end);
}

static int prepare_stdio(const struct config *config, struct stdio *stdio) {
  int pipes[2];
  *stdio = (struct stdio){-1, -1, -1, -1};
  if (config->command.tty) {
    if (terminal_open(&stdio->master, &console_slave, config->command.rows, config->command.cols) < 0) return -1;
    stdio->in = stdio->out = stdio->err = console_slave;
    int reader = fcntl(stdio->master, F_DUPFD_CLOEXEC, 0);
    if (reader < 0) return fail("Cannot duplicate the terminal");
    output_stream(reader, STDOUT);
    input_open(&input, stdio->master, true);
    return 0;
  }
  if (pipe2(pipes, O_CLOEXEC) < 0) return fail("Cannot create a pipe");
  stdio->out = pipes[1];
  set_nonblocking(pipes[0]);
  output_stream(pipes[0], STDOUT);
  if (pipe2(pipes, O_CLOEXEC) < 0) return fail("Cannot create a pipe");
  stdio->err = pipes[1];
  set_nonblocking(pipes[0]);
  output_stream(pipes[0], STDERR);
  input_open(&input, -1, false);
  if (!config->stdin_open) return 0;
  if (pipe2(pipes, O_CLOEXEC) < 0) return fail("Cannot create a pipe");
  stdio->in = pipes[0];
  set_nonblocking(pipes[1]);
  input_open(&input, pipes[1], false);
  return 0;
}

int workload_start(const struct config *config, const struct place *place, void (*running)(void)) {
  struct stdio stdio;
  int reports[2];
  workload.config = config;
  workload.place = place;
  on_running = running;
  if (prepare_stdio(config, &stdio) < 0) return -1;
  if (pipe2(reports, O_CLOEXEC) < 0) return fail("Cannot create a pipe");
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, NULL, NULL, NULL, 0);
  if (pid < 0) return fail("Cannot create the workload's process");
  if (pid == 0) become(&stdio, reports[1]);
  workload.pid = pid;
  child_watch(&child, pid, ended);
  close(reports[1]);
  report = (struct source){.fd = reports[0], .ready = report_ready};
  loop_want(&report, EPOLLIN);
  if (config->command.tty) return 0;
  close(stdio.out);
  close(stdio.err);
  close_fd(&stdio.in);
  return 0;
}

static void grace_over(struct timer *timer) {
  (void)timer;
  killed_by_us = true;
  kill(workload.pid, SIGKILL);
}

void workload_stop(int signal, uint64_t grace_ms) {
  if (!workload.pid || dead) return;
  // A workload that is still being set up runs none of its own code: there is nothing to ask.
  outcome.asked = true;
  stopped_early = report.fd >= 0;
  int number = stopped_early ? SIGKILL : signal ? signal : workload.config->stop_signal;
  grace_given_ms = grace_ms;
  kill(workload.pid, number);
  timer_arm(&grace, grace_ms, grace_over);
}

static int attached_frame(struct conn *conn, enum frame_type type, char *payload, size_t n) {
  (void)conn;
  switch (type) {
    case STDIN: return input_write(&input, conn, payload, n);
    case RESIZE: return input_resize(&input, payload, n);
    case SIGNAL:
      if (n == 1 && workload.running) kill(workload.pid, (uint8_t)payload[0]);
      return 1;
    default: return failx("Cannot use frame %d on an attached connection", type);
  }
}

static void attached_gone(struct conn *conn) {
  input_forget(&input, conn);
  output_detach(conn);
}

void workload_attach(struct conn *conn) {
  struct buffer pairs = {0};
  conn->frame = attached_frame;
  conn->gone = attached_gone;
  pair_put_number(&pairs, "pid", 1);
  conn_send_pairs(conn, STARTED, &pairs);
  output_attach(conn);
}

pid_t workload_fork(void) {
  static int own = -1;
  if (own < 0 && (own = open_cloexec("/proc/self/ns/pid", O_RDONLY)) < 0) return -1;
  if (setns(workload.pid_ns, CLONE_NEWPID) < 0) return fail("Cannot enter the workload's process namespace");
  pid_t pid = fork();
  if (pid < 0) fail("Cannot create a process");
  // Back, for the children that are init's own.
  if (pid != 0 && setns(own, CLONE_NEWPID) < 0) say("Cannot leave the workload's process namespace: %s", strerror(errno));
  return pid;
}

int workload_enter(void) {
  char path[32];
  snprintf(path, sizeof path, "/proc/%d/root", workload.pid);
  if (workload.place->join && workload.place->join(workload.pid) < 0) return -1;
  int root = open_cloexec(path, O_PATH | O_DIRECTORY);
  if (root < 0) return -1;
  if (workload.place->join && setns(workload.cgroup_ns, CLONE_NEWCGROUP) < 0) return fail("Cannot enter the workload's cgroup namespace");
  if (setns(workload.mnt_ns, CLONE_NEWNS) < 0) return fail("Cannot enter the workload's mount namespace");
  if (fchdir(root) < 0 || chroot(".") < 0) return fail("Cannot enter the workload's root");
  close(root);
  return 0;
}
