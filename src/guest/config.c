// The keys of README.md.
#include "config.h"
#include "wire.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int command_set(struct command *command, const char *key, char *value) {
  long long number;
  if (!strcmp(key, "arg")) list_add(&command->args, value);
  else if (!strcmp(key, "env")) env_set(&command->env, value);
  else if (!strcmp(key, "cwd")) command->cwd = *value ? value : NULL;
  else if (!strcmp(key, "user")) command->user = value;
  else if (!strcmp(key, "tty")) command->tty = !strcmp(value, "1");
  else if (!strcmp(key, "rows")) {
    if (parse_number(key, value, 0, 65535, &number) < 0) return -1;
    command->rows = (unsigned short)number;
  } else if (!strcmp(key, "cols")) {
    if (parse_number(key, value, 0, 65535, &number) < 0) return -1;
    command->cols = (unsigned short)number;
  } else return 0;
  return 1;
}

static int mode_set(struct config *config, const char *value) {
  config->systemd = !strcmp(value, "systemd");
  return config->systemd || !strcmp(value, "workload") ? 0 : failx("Cannot use mode \"%s\": it is neither workload nor systemd", value);
}

static int stop_signal_set(struct config *config, const char *value) {
  config->stop_signal = signal_parse(value);
  return config->stop_signal < 0 ? failx("Cannot use stop_signal \"%s\": no such signal", value) : 0;
}

static int config_set(struct config *config, const char *key, char *value) {
  const struct { const char *key; const char **at; } strings[] = {
    {"hostname", &config->hostname}, {"ip", &config->ip}, {"gateway", &config->gateway},
    {"mac", &config->mac}, {"disk.root", &config->disk_root}, {"disk.upper", &config->disk_upper},
  };
  const struct { const char *key; struct list *list; } lists[] = {
    {"dns", &config->dns}, {"search", &config->search}, {"host", &config->hosts},
    {"volume", &config->volumes}, {"mount", &config->mounts},
  };
  int known = command_set(&config->command, key, value);
  if (known) return known < 0 ? -1 : 0;
  for (size_t i = 0; i < COUNT(strings); i++)
    if (!strcmp(key, strings[i].key)) return *strings[i].at = *value ? value : NULL, 0;
  for (size_t i = 0; i < COUNT(lists); i++)
    if (!strcmp(key, lists[i].key)) return list_add(lists[i].list, value), 0;
  if (!strcmp(key, "mode")) return mode_set(config, value);
  if (!strcmp(key, "stop_signal")) return *value ? stop_signal_set(config, value) : 0;
  if (!strcmp(key, "stdin")) return config->stdin_open = !strcmp(value, "1"), 0;
  return failx("Cannot use the configuration: init knows no key \"%s\"", key);
}

static int config_check(struct config *config) {
  if (!config->command.args.n || !*config->command.args.items[0]) return failx("Cannot start: no command, neither in the image nor in the request");
  if (!config->ip != !config->gateway) return failx("Cannot use the configuration: ip and gateway need each other");
  if (!config->hostname) config->hostname = "dormouse";
  if (!config->disk_root) config->disk_root = "vda";
  if (!config->stop_signal) config->stop_signal = config->systemd ? signal_parse("SIGRTMIN+3") : SIGTERM;
  // systemd writes to /dev/console whatever its standard output is: that has to be the workload's terminal.
  static char container[] = "container=dormouse";
  if (config->systemd) config->command.tty = true;
  if (config->systemd && !env_get(&config->command.env, "container")) list_add(&config->command.env, container);
  return 0;
}

int config_read(const char *path, struct config *config) {
  *config = (struct config){0};
  int fd = open_cloexec(path, O_RDONLY);
  if (fd < 0) return -1;
  struct stat st;
  if (fstat(fd, &st) < 0) return close(fd), fail("Cannot stat %s", path);
  char *text = must_alloc(malloc((size_t)st.st_size + 1));
  close(fd);
  ssize_t length = read_file(path, text, (size_t)st.st_size + 1);
  if (length < 0) return -1;
  struct pair_reader reader = {text, text + length};
  char *key, *value;
  int more;
  while ((more = pair_next(&reader, &key, &value)) > 0)
    if (config_set(config, key, value) < 0) return -1;
  return more < 0 ? -1 : config_check(config);
}

// asm/signal.h of x86-64; 32 and 33 belong to libc.
static const char *const names[] = {
  [1] = "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV",
  "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU",
  "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
};
#define GLIBC_SIGRTMIN 34
#define LAST_SIGNAL 64

int signal_parse(const char *name) {
  char *end;
  long number = strtol(name, &end, 10);
  if (end != name && !*end) return number >= 1 && number <= LAST_SIGNAL ? (int)number : -1;
  if (!strncmp(name, "SIG", 3)) name += 3;
  for (size_t n = 1; n < COUNT(names); n++)
    if (!strcmp(name, names[n] + 3)) return (int)n;
  int base = !strncmp(name, "RTMIN", 5) ? GLIBC_SIGRTMIN : !strncmp(name, "RTMAX", 5) ? LAST_SIGNAL : 0;
  if (!base) return -1;
  name += 5;
  number = *name ? strtol(name, &end, 10) : 0;
  if (*name && *end) return -1;
  return base + number >= GLIBC_SIGRTMIN && base + number <= LAST_SIGNAL ? base + (int)number : -1;
}

const char *signal_text(int number) {
  static char text[24];
  if (number >= 1 && (size_t)number < COUNT(names)) return names[number];
  if (number >= GLIBC_SIGRTMIN) snprintf(text, sizeof text, "SIGRTMIN+%d", number - GLIBC_SIGRTMIN);
  else snprintf(text, sizeof text, "signal %d", number);
  return text;
}
