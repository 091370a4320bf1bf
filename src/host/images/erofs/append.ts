// Appends bytes to a file through one large buffer: a write call for megabytes, not one for each tar entry.
import { readSync, writeSync } from "node:fs";

const BUFFER = 4 << 20;

/** Does not own the descriptor. Errors of the file system are thrown as they come (ENOSPC among them). */
export class Appender {
  private readonly buffer = Buffer.allocUnsafe(BUFFER);
  private filled = 0;
  private flushed = 0;

  constructor(readonly fd: number) {}

  /** Bytes appended so far. */
  get position(): number {
    return this.flushed + this.filled;
  }

  append(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      const taken = Math.min(BUFFER - this.filled, chunk.length - at);
      this.buffer.set(taken === chunk.length ? chunk : chunk.subarray(at, at + taken), this.filled);
      this.filled += taken;
      at += taken;
      if (this.filled === BUFFER) this.flush();
    }
  }

  zeros(count: number): void {
    for (let left = count; left > 0; ) {
      const taken = Math.min(BUFFER - this.filled, left);
      this.buffer.fill(0, this.filled, this.filled + taken);
      this.filled += taken;
      left -= taken;
      if (this.filled === BUFFER) this.flush();
    }
  }

  /** Zeros up to a multiple of `unit`. */
  align(unit: number): void {
    const over = this.position % unit;
    if (over !== 0) this.zeros(unit - over);
  }

  flush(): void {
    for (let done = 0; done < this.filled; ) done += writeSync(this.fd, this.buffer, done, this.filled - done, this.flushed + done);
    this.flushed += this.filled;
    this.filled = 0;
  }
}

/** Reads exactly `length` bytes at `offset`. */
export function readExactly(fd: number, into: Uint8Array, length: number, offset: number): void {
  for (let done = 0; done < length; ) {
    const n = readSync(fd, into, done, length - done, offset + done);
    if (n === 0) throw new Error(`Cannot read ${length} bytes at ${offset}: the file is shorter`);
    done += n;
  }
}
