// What every part of init uses: failures with a message for people, small file helpers, lists of strings.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PRINTF(f, a) __attribute__((format(printf, f, a)))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

// The message of the last failure: "Cannot <verb> <object>: <reason>". Functions that can fail return -1 and set it.
#define FAILURE_MAX 512
extern char failure[FAILURE_MAX];

// Sets `failure` from the format and errno; returns -1.
int fail(const char *format, ...) PRINTF(1, 2);
// The same where errno says nothing.
int failx(const char *format, ...) PRINTF(1, 2);

// One line on the kernel's console: the monitor's log. Never blocks the start when there is no console.
void say(const char *format, ...) PRINTF(1, 2);
// For a child that closes what it has from init: its lines must not land in a file that takes the console's number.
void say_nothing(void);

// Ends PID 1 where memory for bookkeeping is gone: the kernel panics, the host records it.
void *must_alloc(void *memory);

// Strings with an owner elsewhere, NULL-terminated as execve wants them.
struct list {
  char **items;
  size_t n;
};
void list_add(struct list *list, char *item);
// "K=V": replaces the entry with the same K, or appends.
void env_set(struct list *env, char *entry);
const char *env_get(const struct list *env, const char *key);

int open_cloexec(const char *path, int flags);
// Writes the whole string to a file that exists (sysfs, procfs, cgroupfs).
int write_file(const char *path, const char *text);
// Reads a small file into `text` (NUL-terminated, at most size - 1 bytes); returns the length or -1.
ssize_t read_file(const char *path, char *text, size_t size);
// Creates the directories of a path that are missing, each 0755.
int make_dirs(const char *path);
int set_nonblocking(int fd);
void close_fd(int *fd);

uint64_t now_ms(void);
long long realtime_ns(void);
