// An arena of `struct iovec` (sys/uio.h) that the queue layer fills with host addresses and system calls read.
import { Mapping } from "../../ffi/memory.ts";

const IOVEC_SIZE = 16; // u64 iov_base, u64 iov_len
/** The kernel's limit on one readv or writev (UIO_MAXIOV). */
export const IOV_MAX = 1024;
const HIGH = 2 ** 32;

export class Iovecs {
  private readonly mapping: Mapping;
  /** Host address of entry 0. */
  readonly address: number;
  /** Four words an entry: address low and high, length, 0. The upper half of a length is never written: it stays 0. */
  private readonly words: Uint32Array;
  private undoEntry = -1;
  private undoHva = 0;
  private undoLength = 0;

  /** Owns memory for `capacity` entries until close(); pages that are never used cost nothing. */
  constructor(readonly capacity: number) {
    this.mapping = Mapping.anonymous(Math.ceil((capacity * IOVEC_SIZE) / 4096) * 4096);
    this.address = this.mapping.address;
    this.words = new Uint32Array(this.mapping.buffer(), 0, capacity * 4);
  }

  set(entry: number, hva: number, length: number): void {
    const at = entry * 4;
    const high = Math.floor(hva / HIGH);
    this.words[at] = hva - high * HIGH;
    this.words[at + 1] = high;
    this.words[at + 2] = length;
  }

  hva(entry: number): number {
    return this.words[entry * 4 + 1]! * HIGH + this.words[entry * 4]!;
  }

  length(entry: number): number {
    return this.words[entry * 4 + 2]!;
  }

  /** Host address of entry `entry`, as readv and writev take it. */
  at(entry: number): number {
    return this.address + entry * IOVEC_SIZE;
  }

  /** Copies `count` entries within the arena. */
  move(to: number, from: number, count: number): void {
    this.words.copyWithin(to * 4, from * 4, (from + count) * 4);
  }

  /**
   * Takes the first `bytes` (at most the total) off the list that starts at `first`. Returns how many entries are gone whole;
   * the one after them is shortened in place, which unskip() takes back.
   */
  skip(first: number, bytes: number): number {
    let entry = first, left = bytes;
    while (left > 0 && left >= this.length(entry)) left -= this.length(entry++);
    this.undoEntry = -1;
    if (left > 0) {
      this.undoEntry = entry;
      this.undoHva = this.hva(entry);
      this.undoLength = this.length(entry);
      this.set(entry, this.undoHva + left, this.undoLength - left);
    }
    return entry - first;
  }

  /** Takes back what the last skip() did to its entry (a limit() that came after it must not have touched that entry). */
  unskip(): void {
    if (this.undoEntry >= 0) this.set(this.undoEntry, this.undoHva, this.undoLength);
    this.undoEntry = -1;
  }

  /** Shortens the list to at most `bytes` in all; returns how many entries are left. */
  limit(first: number, count: number, bytes: number): number {
    let left = bytes;
    for (let i = 0; i < count; i++) {
      const length = this.length(first + i);
      if (length >= left) {
        this.set(first + i, this.hva(first + i), left);
        return left > 0 ? i + 1 : i;
      }
      left -= length;
    }
    return count;
  }

  close(): void {
    this.mapping.close();
  }
}
