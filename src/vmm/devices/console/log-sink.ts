// A log in two files of bounded size: when one is full the other is emptied and goes on. Descriptors come from outside;
// whoever reads orders the files by their time of last change.
import { E } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { must, syscall, type Arg } from "../../../ffi/syscall.ts";

const LOG_FILE_BYTES = 50 * 2 ** 20;
const SEEK_SET = 0, SEEK_END = 2;
/** struct stat (asm/stat.h, x86-64). */
const STAT_SIZE = 144, ST_SIZE = 48, ST_MTIME = 88, ST_MTIME_NSEC = 96;

export class LogSink {
  private current: number;
  private size: number;
  /** Bytes that could not be written (no space, say) and are lost. */
  dropped = 0;

  /** Goes on in the file that was written last. The descriptors stay the caller's. */
  constructor(private readonly fds: readonly [number, number], private readonly limit = LOG_FILE_BYTES) {
    const [a, b] = [stat(fds[0]), stat(fds[1])];
    this.current = b.size > 0 && b.modified > a.modified ? 1 : 0;
    this.size = (this.current === 0 ? a : b).size;
    must("Cannot seek in a log", SYS.lseek, this.fd, 0, SEEK_END);
  }

  /** `count` iovecs at `iov`, `bytes` in all. */
  writev(iov: number, count: number, bytes: number): void {
    if (this.makeRoom(bytes)) this.account(bytes, SYS.writev, iov, count);
    else this.dropped += bytes;
  }

  write(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    if (this.makeRoom(bytes.length)) this.account(bytes.length, SYS.write, bytes, bytes.length);
    else this.dropped += bytes.length;
  }

  private get fd(): number {
    return this.fds[this.current]!;
  }

  /** False if the other file can't be emptied: the log stays as it is, a guest that writes must not end its machine. */
  private makeRoom(bytes: number): boolean {
    if (this.size === 0 || this.size + bytes <= this.limit) return true;
    const other = this.current ^ 1, fd = this.fds[other]!;
    if (syscall(SYS.ftruncate, fd, 0) < 0 || syscall(SYS.lseek, fd, 0, SEEK_SET) < 0) return false;
    this.current = other;
    this.size = 0;
    return true;
  }

  private account(bytes: number, nr: number, what: Arg, length: number): void {
    for (;;) {
      const n = syscall(nr, this.fd, what, length);
      if (n === -E.EINTR) continue;
      const written = Math.max(n, 0);
      this.size += written;
      this.dropped += bytes - written;
      return;
    }
  }
}

function stat(fd: number): { size: number; modified: number } {
  const view = new DataView(new ArrayBuffer(STAT_SIZE));
  must("Cannot look at a log", SYS.fstat, fd, view);
  return {
    size: Number(view.getBigInt64(ST_SIZE, true)),
    modified: Number(view.getBigInt64(ST_MTIME, true)) + Number(view.getBigInt64(ST_MTIME_NSEC, true)) / 1e9,
  };
}
