// epoll, a list of timers, and SIGCHLD through a signalfd.
#include "loop.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static int epoll = -1;
static struct timer *timers;
static struct child *children;
static struct source signals;

static void reap(void) {
  int status;
  pid_t pid;
  // Orphans come to PID 1 too: whoever is not in the list is only buried.
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    for (struct child **at = &children; *at; at = &(*at)->next) {
      struct child *child = *at;
      if (child->pid != pid) continue;
      *at = child->next;
      child->exited(child, status);
      break;
    }
  }
}

static void signals_ready(struct source *source, uint32_t events) {
  struct signalfd_siginfo info;
  (void)events;
  while (read(source->fd, &info, sizeof info) == sizeof info) continue;
  reap();
}

int loop_start(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_SETMASK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) return fail("Cannot create an epoll instance");
  signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (signals.fd < 0) return fail("Cannot create a signalfd");
  signals.ready = signals_ready;
  loop_want(&signals, EPOLLIN);
  return 0;
}

void signals_reset(void) {
  sigset_t none;
  struct sigaction standard = {.sa_handler = SIG_DFL};
  for (int n = 1; n < _NSIG; n++) sigaction(n, &standard, NULL);  // fails for SIGKILL and SIGSTOP, as it should
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

void loop_want(struct source *source, uint32_t events) {
  if (source->fd < 0 || (source->added && source->events == events)) return;
  struct epoll_event event = {.events = events, .data.ptr = source};
  int result = epoll_ctl(epoll, source->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, source->fd, &event);
  if (result < 0) say("Cannot watch a descriptor: %s", strerror(errno));
  source->added = result == 0 || source->added;
  source->events = events;
}

void loop_park(struct source *source) {
  if (source->added) epoll_ctl(epoll, EPOLL_CTL_DEL, source->fd, NULL);
  source->added = false;
  source->events = 0;
}

void loop_close(struct source *source) {
  // Taken out by hand: a child that shares the open file would keep it in the epoll set.
  loop_park(source);
  close_fd(&source->fd);
}

void timer_arm(struct timer *timer, uint64_t delay_ms, void (*fire)(struct timer *timer)) {
  timer_stop(timer);
  timer->at_ms = now_ms() + delay_ms;
  timer->fire = fire;
  timer->armed = true;
  timer->next = timers;
  timers = timer;
}

void timer_stop(struct timer *timer) {
  if (!timer->armed) return;
  for (struct timer **at = &timers; *at; at = &(*at)->next) {
    if (*at != timer) continue;
    *at = timer->next;
    break;
  }
  timer->armed = false;
}

static int timers_run(void) {
  uint64_t now = now_ms(), first = UINT64_MAX;
  for (struct timer *timer = timers; timer; timer = timer->next) {
    if (timer->at_ms <= now) {
      timer_stop(timer);
      timer->fire(timer);  // may change the list: the next round looks at the rest
      return 0;
    }
    if (timer->at_ms < first) first = timer->at_ms;
  }
  if (first == UINT64_MAX) return -1;
  return first - now > 60000 ? 60000 : (int)(first - now);
}

void child_watch(struct child *child, pid_t pid, void (*exited)(struct child *child, int status)) {
  child->pid = pid;
  child->exited = exited;
  child->next = children;
  children = child;
}

void loop_once(void) {
  struct epoll_event event;
  // One event a call: a handler may free the source of another event of the same batch.
  int n = epoll_wait(epoll, &event, 1, timers_run());
  if (n == 1) ((struct source *)event.data.ptr)->ready(event.data.ptr, event.events);
}
