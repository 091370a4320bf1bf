// Copies of sparse files: shared blocks where the file system can (FICLONE, ioctl_ficlone(2)), data extents alone elsewhere.
import { E } from "./abi/errno.ts";
import { _IOW } from "./abi/layout.ts";
import { SYS } from "./abi/syscalls.ts";
import { closeFd, fileSize, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, openFd } from "./fd.ts";
import { must, syscall, SysError } from "./syscall.ts";

const FICLONE = _IOW(0x94, 9, 4); // linux/fs.h
const SEEK_DATA = 3, SEEK_HOLE = 4; // linux/fs.h
/** Of file systems that share no blocks, or not between these two (ioctl_ficlone(2)). */
const NO_CLONE: readonly number[] = [E.ENOTSUP, E.ENOTTY, E.EXDEV, E.EINVAL];
const COPY_MAX = 1 << 30; // copy_file_range(2) takes at most 2 GiB less a page at once

/**
 * Copies `from` to the new file `to`. True where the two share their blocks, which costs nothing; false where the data
 * was copied, holes kept. Blocks for as long as that takes: use it on files whose data is small.
 */
export function cloneFile(from: string, to: string): boolean {
  const source = openFd(from, O_RDONLY);
  try {
    const target = openFd(to, O_RDWR | O_CREAT | O_EXCL, 0o600);
    try {
      const result = syscall(SYS.ioctl, target, FICLONE, source);
      if (result === 0) return true;
      if (!NO_CLONE.includes(-result)) throw new SysError(`Cannot clone ${from}`, -result);
      copyExtents(source, target, fileSize(source));
      return false;
    } finally {
      closeFd(target);
    }
  } finally {
    closeFd(source);
  }
}

/** The bytes [start, end) of an open file that hold data (lseek(2), SEEK_DATA), ascending; all of it where the file system knows no holes. */
export function* dataExtents(fd: number, size: number): Generator<{ readonly start: number; readonly end: number }> {
  for (let at = 0; at < size; ) {
    const start = syscall(SYS.lseek, fd, at, SEEK_DATA);
    if (start === -E.ENXIO) return; // a hole until the end
    if (start < 0) throw new SysError("Cannot find the data of a sparse file", -start);
    const end = Math.min(size, must("Cannot find a hole of a sparse file", SYS.lseek, fd, start, SEEK_HOLE));
    if (end > start) yield { start, end };
    at = end;
  }
}

function copyExtents(source: number, target: number, size: number): void {
  must("Cannot size a copy", SYS.ftruncate, target, size);
  for (const { start, end } of dataExtents(source, size)) copyRange(source, target, start, end);
}

/** The bytes [from, to) of `source` to where they are in `target`; blocks are shared where the file system can. Blocks the thread. */
export function copyRange(source: number, target: number, from: number, to: number): void {
  const sourceAt = new BigInt64Array([BigInt(from)]), targetAt = new BigInt64Array([BigInt(from)]);
  for (let left = to - from; left > 0; ) {
    const copied = must("Cannot copy a file", SYS.copy_file_range, source, sourceAt, target, targetAt, Math.min(left, COPY_MAX), 0);
    if (copied === 0) throw new Error("Cannot copy a file: it became shorter meanwhile");
    left -= copied;
  }
}
