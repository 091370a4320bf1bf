// Failures, console lines, small files, lists.
#include "util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define UNOPENED -2

char failure[FAILURE_MAX];

int fail(const char *format, ...) {
  int error = errno;
  char what[FAILURE_MAX - 80];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  snprintf(failure, sizeof failure, "%s: %s", what, strerror(error));
  errno = error;
  return -1;
}

int failx(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(failure, sizeof failure, format, args);
  va_end(args);
  return -1;
}

// Opened once, before there is a workload that could put something else in its place. -1: no console= on the command
// line, so nobody reads.
static int console = UNOPENED;

void say_nothing(void) { console = -1; }

void say(const char *format, ...) {
  char line[FAILURE_MAX + 16] = "init: ";
  va_list args;
  va_start(args, format);
  int n = vsnprintf(line + 6, sizeof line - 8, format, args);
  va_end(args);
  size_t length = 6 + ((size_t)n < sizeof line - 8 ? (size_t)n : sizeof line - 9);
  line[length++] = '\n';
  if (console == UNOPENED) console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (console < 0) return;
  ssize_t written = write(console, line, length);
  (void)written;  // a log line has no one to report its own loss to
}

void *must_alloc(void *memory) {
  if (!memory) {
    say("Cannot go on: out of memory");
    _exit(1);
  }
  return memory;
}

void list_add(struct list *list, char *item) {
  list->items = must_alloc(realloc(list->items, (list->n + 2) * sizeof *list->items));
  list->items[list->n++] = item;
  list->items[list->n] = NULL;
}

static size_t key_length(const char *entry) {
  const char *equals = strchr(entry, '=');
  return equals ? (size_t)(equals - entry) : strlen(entry);
}

void env_set(struct list *env, char *entry) {
  size_t n = key_length(entry);
  for (size_t i = 0; i < env->n; i++) {
    if (key_length(env->items[i]) != n || memcmp(env->items[i], entry, n) != 0) continue;
    env->items[i] = entry;
    return;
  }
  list_add(env, entry);
}

const char *env_get(const struct list *env, const char *key) {
  size_t n = strlen(key);
  for (size_t i = 0; i < env->n; i++)
    if (key_length(env->items[i]) == n && memcmp(env->items[i], key, n) == 0 && env->items[i][n] == '=') return env->items[i] + n + 1;
  return NULL;
}

int open_cloexec(const char *path, int flags) {
  int fd = open(path, flags | O_CLOEXEC | O_NOCTTY);
  return fd < 0 ? fail("Cannot open %s", path) : fd;
}

int write_file(const char *path, const char *text) {
  int fd = open_cloexec(path, O_WRONLY);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  int result = n < 0 ? fail("Cannot write %s", path) : 0;
  close(fd);
  return result;
}

ssize_t read_file(const char *path, char *text, size_t size) {
  int fd = open_cloexec(path, O_RDONLY);
  if (fd < 0) return -1;
  size_t length = 0;
  ssize_t n;
  while (length < size - 1 && (n = read(fd, text + length, size - 1 - length)) != 0) {
    if (n > 0) length += (size_t)n;
    else if (errno != EINTR) {
      fail("Cannot read %s", path);
      close(fd);
      return -1;
    }
  }
  text[length] = 0;
  close(fd);
  return (ssize_t)length;
}

int make_dirs(const char *path) {
  char part[4096];
  if (strlen(path) >= sizeof part) return failx("Cannot create a directory: its path has more than %zu bytes", sizeof part - 1);
  strcpy(part, path);
  for (char *at = part + 1;; at++) {
    if (*at && *at != '/') continue;
    char end = *at;
    *at = 0;
    // EEXIST is also said of a dangling symlink or a file: what comes next then fails with its own reason.
    if (mkdir(part, 0755) < 0 && errno != EEXIST && errno != EISDIR) return fail("Cannot create directory %s", part);
    if (!end) return 0;
    *at = end;
  }
}

int set_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? fail("Cannot set O_NONBLOCK") : 0;
}

void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

long long realtime_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
