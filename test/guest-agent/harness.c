// The agent without a machine: the guest's own sources but init.c, as an ordinary process with Unix sockets in place of the
// virtio port and vsock, standard output in place of the console, and a folder in place of the image.
//   harness FOLDER    reads config, rootfs/; makes port.sock and agent.sock; begins once it has read a byte from the first
#include "agent.h"
#include "loop.h"
#include "output.h"
#include "port.h"
#include "requests.h"
#include "terminal.h"
#include "workload.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct config config;
static int agent = -1;

static _Noreturn void give_up(void) {
  fprintf(stderr, "harness: %s\n", failure);
  exit(1);
}

static int enter(const struct config *with) {
  (void)with;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (mount("/dev", "rootfs/dev", NULL, MS_BIND | MS_REC, NULL) < 0) return fail("Cannot bind /dev");
  if (chroot("rootfs") < 0 || chdir("/") < 0) return fail("Cannot enter rootfs");
  return mount("proc", "/proc", "proc", 0, NULL) < 0 ? fail("Cannot mount /proc") : 0;
}
static const struct place place = {.enter = enter};

static void running(void) {
  port_state("running");
  agent_serve(agent);
}

// Whoever sees the path can connect to it: the socket listens before it gets its name.
static int listen_at(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "unnamed.sock"};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0 || rename(address.sun_path, path) < 0) {
    fail("Cannot listen at %s", path);
    give_up();
  }
  return fd;
}

int main(int argc, char **argv) {
  if (argc != 2 || chdir(argv[1]) < 0 || config_read("config", &config) < 0) give_up();
  // Private: mounts, terminals and the host name of this process are nobody else's.
  if (unshare(CLONE_NEWNS | CLONE_NEWUTS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
      mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=666,gid=5,mode=620") < 0 || sethostname(config.hostname, strlen(config.hostname)) < 0) {
    fail("Cannot prepare the namespaces");
    give_up();
  }
  agent = listen_at("agent.sock");
  set_nonblocking(agent);
  int port = accept4(listen_at("port.sock"), NULL, NULL, SOCK_CLOEXEC);
  // A workload may end at once, and a client that finds its peer gone before it has noticed that it is connected calls that a failure.
  char begin;
  if (read(port, &begin, 1) != 1) {
    fail("Nobody says when to begin");
    give_up();
  }
  int console = fcntl(1, F_DUPFD_CLOEXEC, 10);
  if (loop_start() < 0 || port_start(port) < 0 || requests_start() < 0 || terminal_start() < 0 || output_open(console) < 0) give_up();
  port_state("initializing");
  if (workload_start(&config, &place, running) < 0) give_up();
  while (!outcome.over) loop_once();
  output_exit(outcome.code, outcome.message);
  agent_flush(5000, outcome.asked ? 2000 : UINT32_MAX);
  port_exited(outcome.code, outcome.message, outcome.reboot);
  port_flush(1000);
  return 0;
}
