// Starts a program in the workload's namespaces and joins its streams to a connection; session.c kills it.
#include "exec.h"
#include "cgroup.h"
#include "input.h"
#include "session.h"
#include "spawn.h"
#include "terminal.h"
#include "workload.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TIMED_OUT 124
#define HANGUP_GRACE_MS 500
// How long a terminal's last output may take to come after its program has ended, where others keep the terminal open.
#define TERMINAL_REST_MS 200

struct exec;
struct stream {
  struct source source;
  struct exec *exec;
  enum frame_type type;
  bool last;    // the program has ended: only `left` bytes are its own, what comes after is of those whom it left behind
  size_t left;
};
struct exec {
  struct conn *conn;  // NULL once the peer has hung up
  struct command command;
  struct buffer request;  // what command's strings point into
  struct child child;
  struct source report;
  struct input input;
  struct stream out, err;
  struct timer deadline, rest;
  bool exited, timed_out, hung_up;
  int status;
  long oom_before;
};

static void exec_free(struct exec *exec) {
  timer_stop(&exec->deadline);
  timer_stop(&exec->rest);
  loop_close(&exec->report);
  loop_close(&exec->out.source);
  loop_close(&exec->err.source);
  input_close(&exec->input);
  buffer_free(&exec->request);
  free(exec->command.args.items);
  free(exec->command.env.items);
  free(exec);
}

static void finish(struct exec *exec, enum frame_type type, int code, const char *message) {
  struct buffer pairs = {0};
  pair_put_number(&pairs, "code", code);
  pair_put(&pairs, "message", message);
  if (exec->conn) {
    conn_send_pairs(exec->conn, type, &pairs);
    conn_finish(exec->conn);
    exec->conn = NULL;
  }
  buffer_free(&pairs);
}

static void finish_when_over(struct exec *exec) {
  char message[FAILURE_MAX];
  if (!exec->exited || exec->report.fd >= 0) return;
  bool output_left = exec->conn && (exec->out.source.fd >= 0 || exec->err.source.fd >= 0);
  if (output_left) return;
  int code = status_explain(exec->status, cgroup_oom_kills() > exec->oom_before, message);
  if (exec->timed_out) {
    code = TIMED_OUT;
    snprintf(message, sizeof message, "killed: its time limit of %lld ms was over", exec->command.timeout_ms);
  }
  finish(exec, EXIT, code, message);
  exec_free(exec);
}

// Reads once; the stream's end closes it.
static void pump(struct stream *stream) {
  char chunk[CHUNK];
  size_t want = stream->last && stream->left < sizeof chunk ? stream->left : sizeof chunk;
  ssize_t n = want ? read(stream->source.fd, chunk, want) : 0;
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) {
    conn_send(stream->exec->conn, stream->type, chunk, (size_t)n);
    if (stream->last) stream->left -= (size_t)n;
  }
  if (n <= 0 || (stream->last && !stream->left)) loop_close(&stream->source);
}

static void stream_ready(struct source *source, uint32_t events) {
  struct stream *stream = container_of(source, struct stream, source);
  struct exec *exec = stream->exec;
  (void)events;
  if (!exec->conn) loop_close(source);
  else if (!conn_has_room(exec->conn)) return loop_park(source);  // room() takes it up again
  else pump(stream);
  if (exec->exited && exec->command.tty && source->fd >= 0) timer_arm(&exec->rest, TERMINAL_REST_MS, exec->rest.fire);
  finish_when_over(exec);
}

static void streams_want(struct exec *exec) {
  loop_want(&exec->out.source, EPOLLIN);
  loop_want(&exec->err.source, EPOLLIN);
}

static void room(struct conn *conn) { streams_want(conn->owner); }

static void rest_over(struct timer *timer) {
  struct exec *exec = container_of(timer, struct exec, rest);
  int waiting = 0;
  bool more = exec->out.source.fd >= 0 && ioctl(exec->out.source.fd, FIONREAD, &waiting) == 0 && waiting;
  if (exec->conn && (more || !conn_has_room(exec->conn))) return timer_arm(timer, TERMINAL_REST_MS, rest_over);
  loop_close(&exec->out.source);
  finish_when_over(exec);
}

// Those whom the program has left behind may hold its pipes for ever: what lies in them now is the end of its output.
static void limit_to_rest(struct stream *stream) {
  int waiting = 0;
  if (stream->source.fd < 0) return;
  if (ioctl(stream->source.fd, FIONREAD, &waiting) < 0) waiting = 0;
  stream->last = true;
  stream->left = (size_t)waiting;
  if (!waiting) loop_close(&stream->source);
}

static void exited(struct child *child, int status) {
  struct exec *exec = container_of(child, struct exec, child);
  exec->exited = true;
  exec->status = status;
  timer_stop(&exec->deadline);
  if (exec->hung_up) session_kill(child->pid, SIGKILL);  // those who outlived the hang-up
  if (exec->command.tty) {
    // The end of the session hangs the terminal up; the last bytes come with EIO behind them.
    exec->rest.fire = rest_over;
    if (exec->conn) timer_arm(&exec->rest, TERMINAL_REST_MS, rest_over);
  } else {
    limit_to_rest(&exec->out);
    limit_to_rest(&exec->err);
  }
  finish_when_over(exec);
}

static void kill_all(struct exec *exec, int signal) {
  session_signal(exec->child.pid, signal);
  session_kill(exec->child.pid, signal);
}

static void deadline_over(struct timer *timer) {
  struct exec *exec = container_of(timer, struct exec, deadline);
  exec->timed_out = true;
  kill_all(exec, SIGKILL);
}

static void hangup_over(struct timer *timer) { kill_all(container_of(timer, struct exec, deadline), SIGKILL); }

static void gone(struct conn *conn) {
  struct exec *exec = conn->owner;
  exec->conn = NULL;
  input_forget(&exec->input, conn);
  input_close(&exec->input);
  loop_close(&exec->out.source);
  loop_close(&exec->err.source);
  exec->hung_up = true;
  if (exec->exited) return finish_when_over(exec);
  kill_all(exec, SIGHUP);
  timer_arm(&exec->deadline, HANGUP_GRACE_MS, hangup_over);
}

static void report_ready(struct source *source, uint32_t events) {
  struct exec *exec = container_of(source, struct exec, report);
  struct spawn_error error;
  (void)events;
  ssize_t n = read(source->fd, &error, sizeof error);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  loop_close(source);
  if (n == sizeof error) {
    loop_close(&exec->out.source);
    loop_close(&exec->err.source);
    finish(exec, ERROR, error.code, error.message);
  } else if (exec->conn) {
    struct buffer pairs = {0};
    pair_put_number(&pairs, "pid", exec->child.pid);
    conn_send_pairs(exec->conn, STARTED, &pairs);
    streams_want(exec);
  }
  finish_when_over(exec);
}

static int frame(struct conn *conn, enum frame_type type, char *payload, size_t n) {
  struct exec *exec = conn->owner;
  switch (type) {
    case STDIN: return input_write(&exec->input, conn, payload, n);
    case RESIZE: return input_resize(&exec->input, payload, n);
    case SIGNAL:
      if (n == 1 && !exec->exited) session_signal(exec->child.pid, (uint8_t)payload[0]);
      return 1;
    default: return failx("Cannot use frame %d on an exec connection", type);
  }
}

static int parse(struct exec *exec, const char *payload, size_t n) {
  char *key, *value;
  int more;
  buffer_append(&exec->request, payload, n);
  for (size_t i = 0; i < workload.config->command.env.n; i++) list_add(&exec->command.env, workload.config->command.env.items[i]);
  struct pair_reader reader = {(char *)buffer_bytes(&exec->request), (char *)buffer_bytes(&exec->request) + n};
  while ((more = pair_next(&reader, &key, &value)) > 0) {
    int known = command_set(&exec->command, key, value);
    if (!known && !strcmp(key, "timeout_ms")) known = parse_number(key, value, 0, INT32_MAX, &exec->command.timeout_ms) < 0 ? -1 : 1;
    if (!known) return failx("Cannot use an EXEC frame: init knows no key \"%s\"", key);
    if (known < 0) return -1;
  }
  if (more < 0) return -1;
  if (!exec->command.args.n || !*exec->command.args.items[0]) return failx("Cannot start: no command was given");
  if (!exec->command.cwd) exec->command.cwd = workload.config->command.cwd;
  if (!exec->command.user) exec->command.user = workload.config->command.user;
  return 0;
}

// The child's ends, and the parent's in `exec`.
struct ends { int in, out, err, master, report; };

static int pipe_ends(int *parent, int *child, int parent_is) {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) < 0) return fail("Cannot create a pipe");
  *parent = pipes[parent_is];
  *child = pipes[!parent_is];
  return set_nonblocking(*parent);
}

static int open_ends(struct exec *exec, struct ends *ends) {
  int input = -1;
  if (pipe_ends(&exec->report.fd, &ends->report, 0) < 0) return -1;
  if (exec->command.tty) {
    if (terminal_open(&input, &ends->in, exec->command.rows, exec->command.cols) < 0) return -1;
    ends->master = input;
    exec->out.source.fd = fcntl(input, F_DUPFD_CLOEXEC, 0);
    if (exec->out.source.fd < 0) fail("Cannot duplicate the terminal");
  } else if (pipe_ends(&input, &ends->in, 1) == 0 && pipe_ends(&exec->out.source.fd, &ends->out, 0) == 0) {
    pipe_ends(&exec->err.source.fd, &ends->err, 0);
  }
  input_open(&exec->input, input, exec->command.tty);
  return exec->out.source.fd < 0 || (!exec->command.tty && exec->err.source.fd < 0) ? -1 : 0;
}

static _Noreturn void become(struct exec *exec, struct ends *ends) {
  if (workload_enter() < 0) spawn_fail(ends->report, 126);
  if (exec->command.tty) ends->in = ends->out = ends->err = terminal_named(ends->master, ends->in);
  if (spawn_stdio(ends->in, ends->out, ends->err) < 0 || spawn_terminal(exec->command.tty ? 0 : -1) < 0) spawn_fail(ends->report, 126);
  spawn_exec(&exec->command, ends->report);
}

static int launch(struct exec *exec) {
  struct ends ends = {-1, -1, -1, -1, -1};
  pid_t pid = open_ends(exec, &ends) < 0 ? -1 : workload_fork();
  if (pid == 0) become(exec, &ends);
  close_fd(&ends.in);
  close_fd(&ends.out);
  close_fd(&ends.err);
  close_fd(&ends.report);
  if (pid < 0) return -1;
  child_watch(&exec->child, pid, exited);
  if (exec->command.timeout_ms) timer_arm(&exec->deadline, (uint64_t)exec->command.timeout_ms, deadline_over);
  loop_want(&exec->report, EPOLLIN);
  return 0;
}

int exec_start(struct conn *conn, const char *payload, size_t n) {
  struct exec *exec = must_alloc(calloc(1, sizeof *exec));
  exec->conn = conn;
  exec->report = (struct source){.fd = -1, .ready = report_ready};
  exec->out = (struct stream){.source = {.fd = -1, .ready = stream_ready}, .exec = exec, .type = STDOUT};
  exec->err = (struct stream){.source = {.fd = -1, .ready = stream_ready}, .exec = exec, .type = STDERR};
  exec->oom_before = cgroup_oom_kills();
  input_open(&exec->input, -1, false);
  if (!workload.running) failx("Cannot start a program: the workload is not running");
  if (!workload.running || parse(exec, payload, n) < 0 || launch(exec) < 0) {
    finish(exec, ERROR, 126, failure);
    exec_free(exec);
    return 1;
  }
  conn->owner = exec;
  conn->frame = frame;
  conn->gone = gone;
  conn->room = room;
  return 1;
}
