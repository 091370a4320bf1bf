// The one event loop: descriptors, timers, children. Single-threaded; nothing in it may block.
#pragma once
#include "util.h"
#include <sys/epoll.h>

struct source {
  int fd;
  uint32_t events;  // what is waited for; set through loop_want
  bool added;
  void (*ready)(struct source *source, uint32_t events);
};
int loop_start(void);
// Waits for `events` on source->fd (0: only errors and hang-ups); adds the source where it is new.
void loop_want(struct source *source, uint32_t events);
// Out of the loop until the next loop_want: for a descriptor whose hang-up is known and can't be handled yet.
void loop_park(struct source *source);
// Stops waiting and closes the descriptor. Safe on a source that was never added.
void loop_close(struct source *source);

struct timer {
  uint64_t at_ms;  // on now_ms()'s clock
  void (*fire)(struct timer *timer);
  struct timer *next;
  bool armed;
};
void timer_arm(struct timer *timer, uint64_t delay_ms, void (*fire)(struct timer *timer));
void timer_stop(struct timer *timer);

struct child {
  pid_t pid;
  void (*exited)(struct child *child, int status);
  struct child *next;
};
void child_watch(struct child *child, pid_t pid, void (*exited)(struct child *child, int status));

// Waits for one event and handles it.
void loop_once(void);
// What a child of init must have before it becomes another program: no blocked or ignored signals.
void signals_reset(void);

#define container_of(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))
