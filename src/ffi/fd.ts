// File descriptors: the calls that every owner of one needs. Errors are thrown as SysError unless a name says `try`.
import { must, syscall, cstring, type Arg } from "./syscall.ts";
import { SYS } from "./abi/syscalls.ts";
import { E } from "./abi/errno.ts";

export const O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0o100, O_EXCL = 0o200, O_TRUNC = 0o1000;
export const O_NONBLOCK = 0o4000, O_CLOEXEC = 0o2000000, O_DIRECT = 0o40000;
const F_GETFL = 3, F_SETFL = 4, F_DUPFD_CLOEXEC = 1030;

export const openFd = (path: string, flags: number, mode = 0o600): number =>
  must(`Cannot open ${path}`, SYS.open, cstring(path), flags | O_CLOEXEC, mode);

const MFD_CLOEXEC = 1;

/** A new file in memory, empty, without a path; `name` is for /proc. */
export const memoryFile = (name: string): number => must("Cannot make a file in memory", SYS.memfd_create, cstring(name), MFD_CLOEXEC);

export const closeFd = (fd: number): void => void syscall(SYS.close, fd);

/** A second descriptor of what `fd` is one of. */
export const duplicate = (fd: number): number => must("Cannot duplicate a descriptor", SYS.fcntl, fd, F_DUPFD_CLOEXEC, 0);

export function setNonblocking(fd: number): void {
  const flags = must("Cannot read descriptor flags", SYS.fcntl, fd, F_GETFL, 0);
  must("Cannot set O_NONBLOCK", SYS.fcntl, fd, F_SETFL, flags | O_NONBLOCK);
}

/** Bytes read, 0 at the end, or -errno (-EAGAIN where nothing waits). Retries EINTR. */
export function tryRead(fd: number, buffer: Arg, length: number): number {
  for (;;) {
    const n = syscall(SYS.read, fd, buffer, length);
    if (n !== -E.EINTR) return n;
  }
}

/** Bytes written, or -errno. Retries EINTR. */
export function tryWrite(fd: number, buffer: Arg, length: number): number {
  for (;;) {
    const n = syscall(SYS.write, fd, buffer, length);
    if (n !== -E.EINTR) return n;
  }
}

const POLLIN = 1; // bits/poll.h
const pollfd = new DataView(new ArrayBuffer(8)); // struct pollfd: i32 fd, i16 events, i16 revents

/** Whether a read would find something now. */
export function isReadable(fd: number): boolean {
  pollfd.setInt32(0, fd, true);
  pollfd.setInt16(4, POLLIN, true);
  while (syscall(SYS.poll, pollfd, 1, 0) === -E.EINTR);
  return (pollfd.getInt16(6, true) & POLLIN) !== 0; // POLLNVAL instead where it is no descriptor
}

/** Writes all of `bytes` at `offset`. */
export function pwriteAll(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length; ) {
    const part = done === 0 ? bytes : bytes.subarray(done);
    done += must("Cannot write", SYS.pwrite64, fd, part, part.length, offset + done);
  }
}

const STAT_SIZE = 144, ST_SIZE = 48; // struct stat, asm/stat.h

/** Bytes in the file behind a descriptor. */
export function fileSize(fd: number): number {
  const stat = new DataView(new ArrayBuffer(STAT_SIZE));
  must("Cannot stat a descriptor", SYS.fstat, fd, stat);
  return Number(stat.getBigInt64(ST_SIZE, true));
}
