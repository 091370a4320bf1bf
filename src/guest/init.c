// PID 1 of the machine: sets it up, runs the workload, serves the host, and ends with the machine's reset.
#include "agent.h"
#include "cgroup.h"
#include "etc.h"
#include "loop.h"
#include "mounts.h"
#include "net.h"
#include "output.h"
#include "port.h"
#include "requests.h"
#include "terminal.h"
#include "workload.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONFIG_PATH "/dormouse/config"
#define SETUP_FAILED 125
#define LAST_WORDS_MS 1000
#define STALL_MS 5000
#define SHUTDOWN_FLUSH_MS 2000  // less than the monitor's patience with a shutdown

static struct config config;
static int agent = -1;

// The workload is the kernel's first choice when memory runs out; init's immunity is not inherited.
static int join(pid_t first) {
  if (write_file("/proc/self/oom_score_adj", "0") < 0) return -1;
  return cgroup_join(first);
}

static int enter(const struct config *with) {
  if (join(0) < 0) return -1;
  if (unshare(CLONE_NEWCGROUP) < 0) return fail("Cannot create a cgroup namespace");
  if (mounts_enter(with) < 0) return -1;
  etc_write(with);
  return 0;
}

static const struct place machine = {.enter = enter, .join = join};

static void running(void) {
  port_state("running");
  agent_serve(agent);
}

static void set_parameters(void) {
  // As Docker sets them in its containers: any user may listen on port 80 and send pings.
  const char *const parameters[][2] = {
    {"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
    {"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
    {"/proc/sys/kernel/pid_max", "4194304"},
    {"/proc/self/oom_score_adj", "-1000"},
  };
  for (size_t i = 0; i < COUNT(parameters); i++)
    if (write_file(parameters[i][0], parameters[i][1]) < 0) say("%s", failure);
}

// Inherited by the workload and every exec.
static void set_limits(void) {
  // Enough for servers; not so many that programs which close every possible descriptor crawl.
  const struct { int what; rlim_t soft, hard; } limits[] = {
    {RLIMIT_NOFILE, 65536, 1048576}, {RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY}, {RLIMIT_CORE, 0, RLIM_INFINITY},
  };
  for (size_t i = 0; i < COUNT(limits); i++) {
    struct rlimit limit = {limits[i].soft, limits[i].hard};
    if (setrlimit(limits[i].what, &limit) < 0) say("Cannot set resource limit %d: %s", limits[i].what, strerror(errno));
  }
}

static int set_network(void) {
  if (sethostname(config.hostname, strlen(config.hostname)) < 0) return fail("Cannot set the host name");
  if (net_loopback() < 0) return -1;
  return config.ip ? net_identity(config.ip, config.gateway, config.mac) : 0;
}

static int start(void) {
  int port = port_find();
  if (port < 0 || port_start(port) < 0) return -1;
  port_state("initializing");
  if (config_read(CONFIG_PATH, &config) < 0) return -1;
  unlink(CONFIG_PATH);  // its memory is better used; the strings were read
  int console = port_console();
  if (console < 0 || output_open(console) < 0) return -1;
  set_parameters();
  set_limits();
  if (requests_start() < 0 || terminal_start() < 0 || cgroup_start(port) < 0 || mounts_root(&config) < 0 || set_network() < 0) return -1;
  if ((agent = agent_listen()) < 0) return -1;
  return workload_start(&config, &machine, running);
}

// Descriptors 0 to 2 are something harmless, so that no file of ours takes their place.
static void open_standard(void) {
  int fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd < 3) fd = dup(fd);
  for (int i = 0; i < 3; i++) dup2(fd, i);
  if (fd > 2) close(fd);
}

static void end(void) {
  output_exit(outcome.code, outcome.message);
  // A slow reader of an attached terminal gets the rest of the output, unless somebody waits for the end.
  agent_flush(STALL_MS, outcome.asked ? SHUTDOWN_FLUSH_MS : UINT32_MAX);
  close_fd(&workload.mnt_ns);
  close_fd(&workload.cgroup_ns);
  close_fd(&workload.pid_ns);
  kill(-1, SIGKILL);
  while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) continue;
  mounts_end();
  say("ended: %s", outcome.message);
  port_exited(outcome.code, outcome.message, outcome.reboot);
  port_flush(LAST_WORDS_MS);
  reboot(RB_AUTOBOOT);
}

int main(void) {
  int early = mounts_early();
  open_standard();
  say("started");
  if (early < 0 || loop_start() < 0 || start() < 0) {
    outcome = (struct outcome){.over = true, .code = SETUP_FAILED};
    snprintf(outcome.message, sizeof outcome.message, "%s", failure);
  }
  while (!outcome.over) loop_once();
  end();
  for (;;) pause();  // the reset takes a moment
}
