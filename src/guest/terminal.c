// pts(4): ptmx, TIOCSPTLCK, TIOCGPTPEER.
#include "terminal.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441  // asm-generic/ioctls.h
#endif

static int terminals = -1;  // the folder /dev/pts

int terminal_start(void) {
  terminals = open_cloexec("/dev/pts", O_PATH | O_DIRECTORY);
  return terminals < 0 ? -1 : 0;
}

int terminal_resize(int master, unsigned short rows, unsigned short cols) {
  struct winsize size = {.ws_row = rows ? rows : 24, .ws_col = cols ? cols : 80};
  return ioctl(master, TIOCSWINSZ, &size) < 0 ? fail("Cannot set the terminal's size") : 0;
}

int terminal_open(int *master, int *slave, unsigned short rows, unsigned short cols) {
  int unlock = 0;
  *slave = -1;
  *master = openat(terminals, "ptmx", O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (*master < 0) return fail("Cannot open a terminal");
  if (ioctl(*master, TIOCSPTLCK, &unlock) < 0 || (*slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
    fail("Cannot open a terminal");
    close_fd(master);
    return -1;
  }
  if (terminal_resize(*master, rows, cols) == 0) return 0;
  close_fd(master);
  close_fd(slave);
  return -1;
}

int terminal_named(int master, int slave) {
  unsigned number;
  char path[32];
  struct stat ours, theirs;
  if (ioctl(master, TIOCGPTN, &number) < 0) return slave;
  snprintf(path, sizeof path, "/dev/pts/%u", number);
  int named = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (named < 0) return slave;
  bool same = fstat(slave, &ours) == 0 && fstat(named, &theirs) == 0 && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
  if (!same || fcntl(named, F_SETFL, O_RDWR) < 0) {
    close(named);
    return slave;
  }
  return named;
}

int terminal_console(int master, int slave) {
  char path[32];
  int named = terminal_named(master, slave);
  if (named == slave) return failx("Cannot open the workload's terminal: /dev/pts is not init's");
  snprintf(path, sizeof path, "/proc/self/fd/%d", named);
  return mount(path, "/dev/console", NULL, MS_BIND, NULL) < 0 ? fail("Cannot make the terminal /dev/console") : named;
}
