// What the monitor asks of init. Whatever could take long runs in a child, so that the loop goes on.
#include "requests.h"
#include "cgroup.h"
#include "etc.h"
#include "loop.h"
#include "net.h"
#include "port.h"
#include "workload.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define ID_MAX 64
#define FREEZE_MS 5000
#define SEED_MAX 512
#define NS_PER_S 1000000000LL

static int urandom = -1;

int requests_start(void) {
  urandom = open_cloexec("/dev/urandom", O_RDWR);
  return urandom < 0 ? -1 : 0;
}

// The pairs of any request.
struct request {
  const char *id, *signal, *grace_ms, *realtime_ns, *offset_ns, *seed, *hostname, *ip, *gateway, *mac;
};

static int parse(struct request *request, char *payload, size_t n) {
  const struct { const char *key; const char **at; } keys[] = {
    {"id", &request->id}, {"signal", &request->signal}, {"grace_ms", &request->grace_ms}, {"realtime_ns", &request->realtime_ns},
    {"offset_ns", &request->offset_ns}, {"seed", &request->seed}, {"hostname", &request->hostname}, {"ip", &request->ip}, {"gateway", &request->gateway}, {"mac", &request->mac},
  };
  struct pair_reader reader = {payload, payload + n};
  char *key, *value;
  int more;
  *request = (struct request){.id = ""};
  while ((more = pair_next(&reader, &key, &value)) > 0) {
    size_t i = 0;
    while (i < COUNT(keys) && strcmp(key, keys[i].key) != 0) i++;
    if (i == COUNT(keys)) return failx("Cannot use a request: init knows no key \"%s\"", key);
    *keys[i].at = value;
  }
  return more;
}

// A child of init that does one thing and then is the answer to a request.
struct job {
  struct child child;
  int report;  // where it says why it failed
  int (*then)(void);  // what init does once it is done, before the answer; may be NULL
  char id[ID_MAX];
};

static void job_done(struct child *child, int status) {
  struct job *job = container_of(child, struct job, child);
  ssize_t n = read(job->report, failure, sizeof failure - 1);
  if (n > 0) failure[n] = 0;
  else if (status != 0) failx("Cannot finish the request: its process was killed");
  close(job->report);
  port_ack(job->id, status == 0 && (!job->then || job->then() == 0));
  free(job);
}

static void job_start(const char *id, int (*run)(void), int (*then)(void)) {
  struct job *job = must_alloc(calloc(1, sizeof *job));
  int pipes[2];
  snprintf(job->id, sizeof job->id, "%s", id);
  job->then = then;
  pid_t pid = pipe2(pipes, O_CLOEXEC) < 0 ? -1 : fork();
  if (pid < 0) {
    fail("Cannot create a process");
    port_ack(id, false);
    free(job);
    return;
  }
  if (pid == 0) {
    if (run() == 0) _exit(0);
    ssize_t n = write(pipes[1], failure, strlen(failure));
    (void)n;  // shorter than PIPE_BUF, and the reader is init
    _exit(1);
  }
  close(pipes[1]);
  job->report = pipes[0];
  child_watch(&job->child, pid, job_done);
}

static int run_sync(void) {
  sync();
  return 0;
}

// --- freeze: the kernel says in cgroup.events when every task has stopped
static struct freeze {
  struct source events;
  struct timer limit;
  char id[ID_MAX];
} freeze = {.events = {.fd = -1}};

static void freeze_end(bool ok) {
  timer_stop(&freeze.limit);
  loop_close(&freeze.events);
  port_ack(freeze.id, ok);
}

static void freeze_check(struct source *source, uint32_t events) {
  (void)events;
  if (cgroup_frozen(source->fd)) freeze_end(true);
}

static void freeze_late(struct timer *timer) {
  (void)timer;
  if (cgroup_freeze(false) < 0) say("%s", failure);
  failx("Cannot freeze the workload: a process of it did not stop within %d ms", FREEZE_MS);
  freeze_end(false);
}

static void start_freeze(const char *id) {
  if (freeze.events.fd >= 0) {
    failx("Cannot freeze the workload: an earlier request was replaced");
    freeze_end(false);
  }
  snprintf(freeze.id, sizeof freeze.id, "%s", id);
  int fd = cgroup_events_open();
  if (fd < 0 || cgroup_freeze(true) < 0) {
    close_fd(&fd);
    return port_ack(id, false);
  }
  freeze.events = (struct source){.fd = fd, .ready = freeze_check};
  timer_arm(&freeze.limit, FREEZE_MS, freeze_late);
  loop_want(&freeze.events, EPOLLPRI);
  freeze_check(&freeze.events, 0);
}

// --- names: what the last WAKE said. The files that hold them are written by THAW: until then the host may hold back every write to a
// disk, and a WAKE that waited for one would never be acknowledged.
static struct {
  bool written;
  char hostname[HOST_NAME_MAX + 1], ip[INET_ADDRSTRLEN];
} names = {.written = true};

static const char *name_now(const char *own, const char *configured) { return *own ? own : configured; }

static void name_set(char *own, size_t room, const char *configured, const char *name) {
  const char *now = name_now(own, configured);
  if (!name || (now && strcmp(now, name) == 0)) return;
  snprintf(own, room, "%s", name);
  names.written = false;
}

static int run_etc(void) {
  struct config identity = *workload.config;
  identity.dns.n = 0;  // resolv.conf does not change
  identity.hostname = name_now(names.hostname, identity.hostname);
  identity.ip = name_now(names.ip, identity.ip);
  if (setns(workload.mnt_ns, CLONE_NEWNS) < 0) return fail("Cannot enter the workload's mount namespace");
  etc_write(&identity);
  return 0;
}

static int let_go(void) { return cgroup_freeze(false); }

static void thaw(const char *id) {
  if (freeze.events.fd >= 0) {
    failx("Cannot freeze the workload: it was thawed meanwhile");
    freeze_end(false);
  }
  if (names.written || !workload.running) return port_ack(id, let_go() == 0);
  names.written = true;
  job_start(id, run_etc, let_go);
}

// --- wake: who and when the machine is, before its workload runs on
static int set_clock(const char *text) {
  long long ns;
  if (parse_number("realtime_ns", text, 0, INT64_MAX, &ns) < 0) return -1;
  const struct timespec now = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
  return clock_settime(CLOCK_REALTIME, &now) < 0 ? fail("Cannot set the clock") : 0;
}

// By how much, and not to when: it is as right however late the request is heard.
static int shift_clock(const char *text) {
  long long ns;
  if (parse_number("offset_ns", text, -INT64_MAX, INT64_MAX, &ns) < 0) return -1;
  long long down = ns % NS_PER_S < 0;  // the kernel wants the fraction to be positive
  struct timex shift = {.modes = ADJ_SETOFFSET | ADJ_NANO, .time = {.tv_sec = ns / NS_PER_S - down, .tv_usec = ns % NS_PER_S + down * NS_PER_S}};
  return adjtimex(&shift) < 0 ? fail("Cannot shift the clock") : 0;
}

static int reseed(const char *hex) {
  struct { struct rand_pool_info info; uint8_t bytes[SEED_MAX]; } seed;
  size_t n = strlen(hex) / 2;
  if (!n || n > SEED_MAX || strlen(hex) % 2) return failx("Cannot use seed: it is not 1 to %d bytes in hex", SEED_MAX);
  for (size_t i = 0; i < n; i++)
    if (sscanf(hex + 2 * i, "%2hhx", &seed.bytes[i]) != 1) return failx("Cannot use seed: it is not hex");
  seed.info.entropy_count = (int)(n * 8);
  seed.info.buf_size = (int)n;
  if (ioctl(urandom, RNDADDENTROPY, &seed) < 0) return fail("Cannot add entropy");
  return ioctl(urandom, RNDRESEEDCRNG) < 0 ? fail("Cannot reseed the random generator") : 0;
}

static void wake(const struct request *request) {
  bool bad = (request->realtime_ns && set_clock(request->realtime_ns) < 0) || (request->offset_ns && shift_clock(request->offset_ns) < 0) ||
             (request->seed && reseed(request->seed) < 0);
  if (bad) return port_ack(request->id, false);
  if (request->hostname && sethostname(request->hostname, strlen(request->hostname)) < 0) {
    fail("Cannot set the host name");
    return port_ack(request->id, false);
  }
  if (request->ip && net_identity(request->ip, request->gateway ? request->gateway : "", request->mac) < 0) return port_ack(request->id, false);
  if (workload.config) {
    name_set(names.hostname, sizeof names.hostname, workload.config->hostname, request->hostname);
    name_set(names.ip, sizeof names.ip, workload.config->ip, request->ip);
  }
  port_ack(request->id, true);
}

static void stop(const struct request *request) {
  long long signal = 0, grace_ms = 10000;
  bool bad = (request->signal && parse_number("signal", request->signal, 0, 64, &signal) < 0) ||
             (request->grace_ms && parse_number("grace_ms", request->grace_ms, 0, INT32_MAX, &grace_ms) < 0);
  if (bad) return say("%s", failure);
  if (cgroup_freeze(false) < 0) say("%s", failure);  // a frozen program hears nothing
  workload_stop((int)signal, (uint64_t)grace_ms);
}

void request_handle(enum frame_type type, char *payload, size_t n) {
  struct request request;
  if (parse(&request, payload, n) < 0) {
    say("%s", failure);
    return port_ack(request.id, false);
  }
  switch (type) {
    case SHUTDOWN: return stop(&request);
    case FREEZE: return start_freeze(request.id);
    case THAW: return thaw(request.id);
    case SYNC: return job_start(request.id, run_sync, NULL);
    case WAKE: return wake(&request);
    default:
      failx("Cannot use frame %d on the control port", type);
      say("%s", failure);
      port_ack(request.id, false);
  }
}
