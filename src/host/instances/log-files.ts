// Reading the two files that a log is written to in turn: which is the younger, where the last N lines begin, and the
// lines from there on.
import { E } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { closeFd, O_RDONLY, openFd } from "../../ffi/fd.ts";
import { must, SysError } from "../../ffi/syscall.ts";
import { statSync } from "node:fs";

/** A place in a log: the file with that index, and a byte in it. */
export interface LogPosition { readonly file: 0 | 1; readonly offset: number }

/** What tells whether a file was written since: a rotation truncates and writes the file that was not current. */
export interface LogStamp { readonly size: number; readonly mtimeNs: bigint }

const BLOCK = 64 * 1024;
const NEWLINE = 10;

export const stampOf = (path: string): LogStamp => {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  return stat === undefined ? { size: 0, mtimeNs: 0n } : { size: Number(stat.size), mtimeNs: stat.mtimeNs };
};

export const sameStamp = (a: LogStamp, b: LogStamp): boolean => a.size === b.size && a.mtimeNs === b.mtimeNs;

/** Index of the file that is written now: the one changed last. Changed in the same instant, the shorter one: the other was full. */
export function youngerOf(stamps: readonly [LogStamp, LogStamp]): 0 | 1 {
  const [a, b] = stamps;
  if (a.size === 0 || b.size === 0) return a.size === 0 && b.size > 0 ? 1 : 0;
  if (a.mtimeNs !== b.mtimeNs) return a.mtimeNs > b.mtimeNs ? 0 : 1;
  return a.size <= b.size ? 0 : 1;
}

/** Where the last `lines` lines of the log begin. A last line without its newline counts. */
export function tailPosition(paths: readonly [string, string], stamps: readonly [LogStamp, LogStamp], lines: number): LogPosition {
  const younger = youngerOf(stamps), older = younger === 0 ? 1 : 0;
  const end = { file: younger, offset: stamps[younger].size } as const;
  if (lines <= 0) return end;
  // The newline before the first wanted line is the one to find; the one at the very end closes the last line.
  const search = { missing: lines, atEnd: true };
  const inYounger = searchBack(paths[younger], stamps[younger].size, search);
  if (inYounger !== null) return { file: younger, offset: inYounger };
  const inOlder = searchBack(paths[older], stamps[older].size, search);
  if (inOlder !== null) return { file: older, offset: inOlder };
  return stamps[older].size > 0 ? { file: older, offset: 0 } : { file: younger, offset: 0 };
}

/** Reads a file backwards; the offset behind the newline that completes the search, or null where it goes on before the file. */
function searchBack(path: string, size: number, search: { missing: number; atEnd: boolean }): number | null {
  if (size === 0) return null;
  return withFile(path, (fd) => {
    const block = new Uint8Array(BLOCK);
    for (let end = size; end > 0; ) {
      const start = Math.max(0, end - BLOCK);
      const read = readAt(fd, block, start, end - start);
      for (let i = read - 1; i >= 0; i--) {
        if (block[i] === NEWLINE && !search.atEnd && --search.missing === 0) return start + i + 1;
        search.atEnd = false;
      }
      end = start;
    }
    return null;
  });
}

/** Bytes of `path` from `offset`, at most a block; empty at its end. */
export function readBlock(path: string, offset: number): Uint8Array {
  return withFile(path, (fd) => {
    const block = new Uint8Array(BLOCK);
    return block.subarray(0, readAt(fd, block, offset, BLOCK));
  }) ?? new Uint8Array();
}

const readAt = (fd: number, buffer: Uint8Array, offset: number, length: number): number =>
  must("Cannot read a log", SYS.pread64, fd, buffer, length, offset);

/** Null where the file is not there (yet). */
function withFile<T>(path: string, use: (fd: number) => T): T | null {
  let fd: number;
  try {
    fd = openFd(path, O_RDONLY);
  } catch (error) {
    if (error instanceof SysError && error.errno === E.ENOENT) return null;
    throw error;
  }
  try {
    return use(fd);
  } finally {
    closeFd(fd);
  }
}

/** A longer line comes in pieces of this size: a program that never ends its line must not fill the daemon's memory. */
const MAX_LINE = 1 << 20;

/** Cuts bytes into lines without their newline (and without a carriage return before it). */
export class LineCutter {
  private readonly parts: Uint8Array[] = [];
  private held = 0;

  *push(bytes: Uint8Array): Generator<string> {
    for (let from = 0; from < bytes.length; ) {
      const at = bytes.indexOf(NEWLINE, from);
      const end = at < 0 ? bytes.length : at;
      this.hold(bytes.slice(from, end));
      if (at >= 0 || this.held >= MAX_LINE) yield this.take();
      from = at < 0 ? bytes.length : at + 1;
    }
  }

  /** A last line that was never ended, or null. */
  rest(): string | null {
    return this.held === 0 ? null : this.take();
  }

  private hold(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.parts.push(bytes);
    this.held += bytes.length;
  }

  private take(): string {
    const text = Buffer.concat(this.parts).toString("utf8");
    this.parts.length = 0;
    this.held = 0;
    return text.endsWith("\r") ? text.slice(0, -1) : text;
  }
}
