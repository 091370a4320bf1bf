// Bytes that a host's socket would not take yet. However small the pieces are in which they come, they take little more memory than
// they are: a guest may send its whole credit byte by byte.

/** A chunk that small pieces share. */
const CHUNK_BYTES = 16 * 1024;

export class Backlog {
  private readonly chunks: Uint8Array[] = [];
  /** Bytes of the first chunk that are gone, and of the last one that are there. */
  private gone = 0;
  private filled = 0;

  get empty(): boolean { return this.chunks.length === 0; }

  /** Bytes of memory. */
  get held(): number { return this.chunks.reduce((sum, chunk) => sum + chunk.buffer.byteLength, 0); }

  /** `length` bytes more at its end, for the caller to fill. */
  grow(length: number): Uint8Array {
    const index = this.chunks.length - 1, last = this.chunks[index], at = this.filled;
    if (last !== undefined && at + length <= last.length) {
      this.filled = at + length;
      return last.subarray(at, this.filled);
    }
    if (last !== undefined) this.chunks[index] = last.subarray(0, at); // its end is unused
    const chunk = new Uint8Array(Math.max(length, CHUNK_BYTES));
    this.chunks.push(chunk);
    this.filled = length;
    return chunk.subarray(0, length);
  }

  /** What comes first; not where it is empty. */
  get first(): Uint8Array {
    const chunk = this.chunks[0]!;
    return chunk.subarray(this.gone, this.chunks.length === 1 ? this.filled : chunk.length);
  }

  /** The first `bytes` are gone, at most all of `first`. */
  take(bytes: number): void {
    const whole = bytes === this.first.length;
    this.gone = whole ? 0 : this.gone + bytes;
    if (whole) this.chunks.shift();
  }

  clear(): void {
    this.chunks.length = 0;
    this.gone = 0;
  }
}
