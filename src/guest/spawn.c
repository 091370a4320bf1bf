// Credentials, environment, working directory and PATH search with Docker's rules.
#include "spawn.h"
#include "loop.h"
#include "user.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_Noreturn void spawn_fail(int report, int code) {
  struct spawn_error error = {.code = code};
  strcpy(error.message, failure);
  ssize_t n = write(report, &error, sizeof error);  // less than PIPE_BUF: whole or not at all
  (void)n;                                          // a reader that is gone has no use for it
  _exit(code);
}

int spawn_stdio(int in, int out, int err) {
  // dup2 clears FD_CLOEXEC, except where both numbers are the same.
  int from[3] = {in, out, err};
  for (int i = 0; i < 3; i++) {
    int copy = fcntl(from[i], F_DUPFD_CLOEXEC, 10);
    if (copy < 0) return fail("Cannot duplicate a descriptor");
    from[i] = copy;
  }
  for (int i = 0; i < 3; i++)
    if (dup2(from[i], i) < 0) return fail("Cannot set standard descriptor %d", i);
  return 0;
}

int spawn_terminal(int tty) {
  if (setsid() < 0) return fail("Cannot start a session");
  return tty >= 0 && ioctl(tty, TIOCSCTTY, 0) < 0 ? fail("Cannot take the terminal") : 0;
}

// Pipes and terminals belong to the user, so that it can open /dev/stdout anew (as Docker does).
static int give_stdio(uid_t uid) {
  struct stat st;
  for (int fd = 0; fd < 3; fd++) {
    if (fstat(fd, &st) < 0) return fail("Cannot stat standard descriptor %d", fd);
    bool ours = S_ISFIFO(st.st_mode) || isatty(fd);
    if (ours && st.st_uid != uid && fchown(fd, uid, (gid_t)-1) < 0) return fail("Cannot give standard descriptor %d to the user", fd);
  }
  return 0;
}

static char *joined(const char *key, const char *value) {
  char *entry = must_alloc(malloc(strlen(key) + strlen(value) + 2));
  sprintf(entry, "%s=%s", key, value);
  return entry;
}

static void complete_environment(struct list *env, const struct identity *identity, bool tty) {
  char hostname[256] = "";
  gethostname(hostname, sizeof hostname - 1);
  const struct { const char *key, *value; } defaults[] = {
    {"PATH", DEFAULT_PATH}, {"HOSTNAME", hostname}, {"HOME", identity->home}, {"TERM", tty ? "xterm" : NULL},
  };
  for (size_t i = 0; i < COUNT(defaults); i++)
    if (defaults[i].value && !env_get(env, defaults[i].key)) list_add(env, joined(defaults[i].key, defaults[i].value));
}

static int become(const struct identity *identity) {
  if (setgroups(identity->groups_n, identity->groups) < 0) return fail("Cannot set the supplementary groups");
  if (setresgid(identity->gid, identity->gid, identity->gid) < 0) return fail("Cannot become group %u", identity->gid);
  if (setresuid(identity->uid, identity->uid, identity->uid) < 0) return fail("Cannot become user %u", identity->uid);
  return 0;
}

// Reads the error of the last execve of `path`; returns the exit code and sets `failure`.
static int explain(const char *name, const char *path) {
  int error = errno;
  if (error == ENOENT && access(path, F_OK) == 0) {
    failx("Cannot run \"%s\": the interpreter that its first line or ELF header names does not exist in the image", name);
    return 127;
  }
  if (error == ENOENT || error == ENOTDIR) return failx("Cannot run \"%s\": command not found: no such file", name), 127;
  struct stat st;
  if (error == EACCES && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) failx("Cannot run \"%s\": it is a directory", name);
  else if (error == EACCES) failx("Cannot run \"%s\": permission denied: it is not executable for this user", name);
  else if (error == ENOEXEC) failx("Cannot run \"%s\": exec format error: no program for x86-64, and no script with a #! line", name);
  else errno = error, fail("Cannot run \"%s\"", name);
  return 126;
}

static int exec_in_path(struct list *args, struct list *env) {
  const char *name = args->items[0], *path = env_get(env, "PATH");
  char file[4096];
  bool denied = false;
  for (const char *at = path; *at;) {
    size_t n = strcspn(at, ":");
    // Relative and empty entries would run what lies in the working directory: left out.
    if (*at == '/' && (size_t)snprintf(file, sizeof file, "%.*s/%s", (int)n, at, name) < sizeof file) {
      execve(file, args->items, env->items);
      int error = errno;
      struct stat st;
      bool exists = stat(file, &st) == 0;
      bool passed_over = error == ENOTDIR || (error == ENOENT && !exists) || error == EACCES;
      denied |= error == EACCES && exists && !S_ISDIR(st.st_mode);
      if (!passed_over) return errno = error, explain(name, file);
    }
    at += n + (at[n] == ':');
  }
  if (denied) return errno = EACCES, explain(name, "");
  failx("Cannot run \"%s\": command not found in PATH (%.300s)", name, path);
  return 127;
}

static int enter_directory(const char *cwd) {
  if (!cwd) return 0;
  if (chdir(cwd) == 0) return 0;
  if (errno != ENOENT) return fail("Cannot enter the working directory %s", cwd);
  return make_dirs(cwd) < 0 || chdir(cwd) < 0 ? fail("Cannot create the working directory %s", cwd) : 0;
}

_Noreturn void spawn_exec(const struct command *command, int report) {
  static struct identity identity;
  struct list env = {0}, args = command->args;
  for (size_t i = 0; i < command->env.n; i++) env_set(&env, command->env.items[i]);
  if (identity_find(command->user, &identity) < 0) spawn_fail(report, 126);
  complete_environment(&env, &identity, command->tty);
  umask(022);
  if (give_stdio(identity.uid) < 0 || enter_directory(command->cwd) < 0 || become(&identity) < 0) spawn_fail(report, 126);
  signals_reset();
  if (!strchr(args.items[0], '/')) spawn_fail(report, exec_in_path(&args, &env));
  execve(args.items[0], args.items, env.items);
  spawn_fail(report, explain(args.items[0], args.items[0]));
}
