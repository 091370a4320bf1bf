// asm/unistd_64.h: system-call numbers of x86-64. Only those in use.
export const header = "asm/unistd_64.h";
export const SYS = {
  read: 0, write: 1, open: 2, close: 3, fstat: 5, poll: 7, lseek: 8, mmap: 9, mprotect: 10, munmap: 11, rt_sigprocmask: 14, ioctl: 16,
  pread64: 17, pwrite64: 18, readv: 19, writev: 20, madvise: 28, dup: 32, dup2: 33, getpid: 39, socket: 41,
  connect: 42, accept: 43, sendto: 44, recvfrom: 45, sendmsg: 46, recvmsg: 47, shutdown: 48, bind: 49, listen: 50,
  getsockname: 51, socketpair: 53, setsockopt: 54, getsockopt: 55, clone: 56, kill: 62, fcntl: 72, fsync: 74, fdatasync: 75,
  ftruncate: 77, umask: 95, sync: 162, mount: 165, umount2: 166, time: 201, futex: 202, tgkill: 234,
  sync_file_range: 277, fallocate: 285, timerfd_settime: 286, accept4: 288, eventfd2: 290, epoll_create1: 291,
  pipe2: 293, preadv: 295, pwritev: 296, syncfs: 306, setns: 308, memfd_create: 319, getrandom: 318,
  exit_group: 231, clock_gettime: 228, epoll_ctl: 233, epoll_wait: 232, timerfd_create: 283, unshare: 272, copy_file_range: 326, pidfd_send_signal: 424,
  io_uring_setup: 425, io_uring_enter: 426, io_uring_register: 427, pidfd_open: 434, flock: 73, setpriority: 141, prctl: 157,
  fchmod: 91, fchown: 93, fsetxattr: 190, mkdirat: 258, mknodat: 259, fchownat: 260, unlinkat: 263, linkat: 265, symlinkat: 266, fchmodat: 268, utimensat: 280, openat2: 437,
  inotify_add_watch: 254, inotify_rm_watch: 255, inotify_init1: 294,
} as const;
